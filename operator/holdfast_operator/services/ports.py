"""What the services ask of the world: a cluster, connections to servers, a clock.

The storage layer answers for a real cluster; local mode and tests answer from what they have.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from holdfast.errors import AccessDenied, HoldfastError
from holdfast.store.addresses import Address
from holdfast.store.maintenance import Maintenance

Body = Mapping[str, Any]
"""An object as the API server gives it."""


class ClusterError(Exception):
    """Base of what goes wrong between the operator and the API server."""


class ClusterUnavailable(ClusterError):
    """The API server did not answer, or answered that it cannot serve now."""


class ClusterForbidden(ClusterError):
    """The operator's ServiceAccount may not do this."""


class UnusableCertificates(Exception):
    """A client's certificate and key that TLS does not take."""


class ClusterConflict(ClusterError):
    """The object changed meanwhile, so nothing was written."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace, as far as it matters.

    Attributes:
        name: its name.
        uid: tells it from an earlier one of that name.
        labels: what selectors look at.
        terminating: it is being deleted.
    """

    name: str
    uid: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    terminating: bool = False


@dataclass(frozen=True, slots=True)
class Secret:
    """A Secret. Its data show in no representation.

    Attributes:
        name: its name.
        version: changes with every edit.
        labels: how its owner offers it.
        data: the entries, decoded.
        annotations: what is noted on it.
        type: what kind of entries it has.
        controller: uid of the object that it is part of; empty without one.
        immutable: its entries can never be changed.
    """

    name: str
    version: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    data: Mapping[str, bytes] = field(default_factory=dict[str, bytes], repr=False)
    annotations: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    type: str = ""
    controller: str = ""
    immutable: bool = False


@dataclass(frozen=True, slots=True)
class SecretDraft:
    """A Secret of a MemoryBinding as it should be. Its data show in no representation.

    Attributes:
        namespace: of both.
        binding: name of the MemoryBinding that controls it.
        uid: of that MemoryBinding.
        name: of the Secret.
        annotations: ours; those of others stay.
        data: all entries there should be.
    """

    namespace: str
    binding: str
    uid: str
    name: str
    annotations: Mapping[str, str] = field(repr=False)
    data: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ConfigMap:
    """A ConfigMap.

    Attributes:
        name: its name.
        version: changes with every edit.
        data: the entries that are text.
    """

    name: str
    version: str
    data: Mapping[str, str] = field(default_factory=dict[str, str])


class Credentials(NamedTuple):
    """How to identify; both empty without. Never to be logged."""

    username: str
    password: str

    def __repr__(self) -> str:
        """Return a text without the password."""
        return "Credentials(...)"


class Clock(Protocol):
    """Two clocks: one for people, one that never jumps."""

    def now(self) -> datetime:
        """Return the time of day, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some moment; only differences mean something."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        ...


class Cluster(Protocol):
    """What is in the cluster.

    `backend`, `resource`, `binding` and `resources_on` answer from what was seen last; the others may
    ask, and raise `ClusterUnavailable` or `ClusterForbidden`.
    """

    def watches(self, namespace: str) -> bool:
        """Whether objects of this namespace are seen at all."""
        ...

    def backend(self, namespace: str, name: str) -> Body | None:
        """Return a MemoryBackend."""
        ...

    def resource(self, namespace: str, name: str) -> Body | None:
        """Return a MemoryResource."""
        ...

    def binding(self, namespace: str, name: str) -> Body | None:
        """Return a MemoryBinding."""
        ...

    def resources_on(self, namespace: str, name: str) -> Sequence[Body]:
        """Return the MemoryResources that name this MemoryBackend."""
        ...

    def memories(self) -> Sequence[Body]:
        """Return every MemoryResource of the namespaces that are watched."""
        ...

    async def namespace(self, name: str, *, newest: bool = False) -> Namespace | None:
        """Return a namespace; None when there is none.

        Args:
            name: its name.
            newest: as it is now, and not as it was seen last: by then another one may have had the name.
        """
        ...

    async def secret(self, namespace: str, name: str) -> Secret | None:
        """Return a Secret by its name; None when there is none."""
        ...

    async def config_map(self, namespace: str, name: str) -> ConfigMap | None:
        """Return a ConfigMap by its name; None when there is none."""
        ...

    async def cluster_id(self) -> str:
        """Return what tells this cluster from any other."""
        ...


class Secrets(Protocol):
    """Writes the Secrets of bindings. No other Secret is ever written.

    Raises, from every call: `ClusterConflict` (it is not as it was read, so nothing was written),
    `ClusterForbidden`, `ClusterUnavailable`.
    """

    @property
    def account(self) -> str:
        """Who writes: the namespace and the name of a ServiceAccount, with a colon between them."""
        ...

    async def create(self, draft: SecretDraft) -> None:
        """Make the Secret. One of that name that is there already is a conflict."""
        ...

    async def replace(self, draft: SecretDraft, version: str) -> None:
        """Give the Secret these entries. Labels and annotations of others stay.

        Two requests.

        Args:
            draft: as it should be.
            version: the one that was read.
        """
        ...

    async def delete(self, namespace: str, name: str, version: str) -> None:
        """Remove the Secret; nothing when there is none."""
        ...


class Connections(Protocol):
    """The connections to the servers, one set for each backend."""

    def current(self, backend: str, generation: int) -> Maintenance | None:
        """Return the open connection to a backend.

        Args:
            backend: its uid.
            generation: of the spec that the connection was made for.
        """
        ...

    async def open(
        self, backend: str, generation: int, version: str, address: Address, prefix: str
    ) -> Maintenance:
        """Return a connection made from exactly this; one made from something else is closed.

        No I/O with the server yet.

        Args:
            backend: uid of the backend.
            generation: of its spec.
            version: of what the address was gathered from; empty where that is the spec alone.
            address: where, as whom, and how it is checked.
            prefix: first part of every key.

        Raises:
            UnusableCertificates: TLS cannot be spoken with what the address holds.
        """
        ...

    async def close(self, backend: str) -> None:
        """Close the connection to a backend, if there is one."""
        ...

    def refused_login(self, error: AccessDenied) -> bool:
        """Whether the server refused the credentials themselves, and not just a command."""
        ...

    def failed_tls(self, error: HoldfastError) -> bool:
        """Whether a server was there, and TLS with it could not be agreed on."""
        ...


class Leadership(Protocol):
    """Whether this process may act: asked before what no server can refuse to a leader of before.

    Resource scripts refuse a lower epoch, and the API server an older resourceVersion. A command such as
    ACL SETUSER is refused by nobody: it is sent only while `sure` says so, with a shorter time limit.
    """

    @property
    def epoch(self) -> int:
        """The epoch of this leader's writes: higher than that of every leader before it."""
        ...

    def sure(self, seconds: float) -> bool:
        """Whether this process leads for so many seconds from now, whatever happens."""
        ...


class SystemClock:
    """The computer's own clocks."""

    def now(self) -> datetime:
        """Return the time of day, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds since some moment."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        await asyncio.sleep(seconds)
