"""Pods, as far as injection looks at them. What else they hold is neither read nor changed."""

from typing import Any

import msgspec


class Named(msgspec.Struct):
    """Something with a name: a variable, a volume, a Secret."""

    name: str = ""


class Mount(msgspec.Struct, rename="camel"):
    """A volume in a container."""

    mount_path: str = ""


class Port(msgspec.Struct, rename="camel"):
    """A port that a container says it listens on."""

    container_port: int = 0
    protocol: str = "TCP"


class Container(msgspec.Struct, rename="camel"):
    """A container, ordinary or an init container."""

    name: str = ""
    env: list[Named] | None = None
    volume_mounts: list[Mount] | None = None
    ports: list[Port] | None = None
    restart_policy: str | None = None

    @property
    def goes_on(self) -> bool:
        """Whether it is an init container that runs beside the others: a native sidecar."""
        return self.restart_policy == "Always"


class System(msgspec.Struct):
    """The operating system a pod says it is for."""

    name: str = ""


class Metadata(msgspec.Struct, rename="camel"):
    """Names, labels and annotations of a pod."""

    name: str = ""
    generate_name: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Spec(msgspec.Struct, rename="camel"):
    """What a pod is made of."""

    containers: list[Container] = []
    init_containers: list[Container] | None = None
    volumes: list[Named] | None = None
    image_pull_secrets: list[Named] | None = None
    service_account_name: str | None = None
    host_network: bool | None = None
    termination_grace_period_seconds: int | None = None
    os: System | None = None
    node_selector: dict[str, str] | None = None

    @property
    def system(self) -> str:
        """The operating system of the nodes that it is for, as far as it says so."""
        if self.os is not None and self.os.name:
            return self.os.name
        return (self.node_selector or {}).get("kubernetes.io/os", "linux")


class Pod(msgspec.Struct):
    """A pod that is about to be created."""

    spec: Spec
    metadata: Metadata = msgspec.field(default_factory=Metadata)

    @property
    def annotations(self) -> dict[str, str]:
        """Its annotations."""
        return self.metadata.annotations or {}

    @property
    def before(self) -> list[Container]:
        """Its init containers."""
        return self.spec.init_containers or []

    @property
    def title(self) -> str:
        """Its name, or what the name will begin with, for people."""
        return self.metadata.name or f"{self.metadata.generate_name}…"

    @classmethod
    def read(cls, body: object) -> "Pod":
        """Read a pod from JSON values.

        Raises:
            ValueError: it is none.
        """
        return msgspec.convert(body, cls)


Operation = dict[str, Any]
"""One operation of a JSON Patch (RFC 6902)."""


def add(path: str, value: object) -> Operation:
    """Return the operation that adds something."""
    return {"op": "add", "path": path, "value": value}


def escaped(key: str) -> str:
    """Return a key as a part of a path (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
