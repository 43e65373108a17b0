"""What the platform team sets for every injected sidecar: a YAML file, mounted from a ConfigMap."""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

Quantity = Annotated[
    str,
    StringConstraints(max_length=20, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"),
]
ResourceName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9./-]{0,252}$")]
SecretName = Annotated[
    str, StringConstraints(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
]


class SettingsUnusable(Exception):
    """The file of settings cannot be used; the message is for people."""


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, validate_by_name=True
    )


class PullSecret(_Part):
    """A Secret with a login to a registry, in the namespace of each pod."""

    name: SecretName


class Resources(_Part):
    """What the sidecar asks for and may use, as in any container. A quota needs both of both."""

    requests: dict[ResourceName, Quantity] = Field(
        default={"cpu": "50m", "memory": "96Mi"}, description="What is kept for it."
    )
    limits: dict[ResourceName, Quantity] = Field(
        default={"cpu": "1", "memory": "256Mi"}, description="The most it may use."
    )


class Settings(_Part):
    """What the platform team sets for every injected sidecar."""

    image: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,1024}$")] = Field(
        description="Image with `holdfast-sidecar` in it."
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[PullSecret, ...] = Field(
        default=(), description="Added to those of the pod."
    )
    resources: Resources = Resources()
    drain: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,3}s$")] = Field(
        default="20s",
        description="For how long the sidecar finishes requests at its end; less where the pod has less.",
    )
    status_host: Literal["0.0.0.0", "[::]"] = Field(  # noqa: S104 - kubelet comes to the pod's own address
        default="0.0.0.0",  # noqa: S104 - as above
        description="Where the sidecar's status listens; `[::]` where pods have IPv6 alone.",
    )

    @property
    def drain_seconds(self) -> int:
        """The same in seconds."""
        return int(self.drain.removesuffix("s"))


def read_settings(text: str) -> Settings:
    """Read settings from YAML.

    Raises:
        SettingsUnusable: says which field is wrong, and how.
    """
    try:
        return Settings.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise SettingsUnusable(f"this is no YAML: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise SettingsUnusable(f"{where}: {first['msg']}") from error


def load_settings(path: Path) -> Settings:
    """Read settings from a file.

    Raises:
        SettingsUnusable: there is no such file, or it cannot be used.
    """
    try:
        return read_settings(path.read_text(encoding="utf-8"))
    except SettingsUnusable as error:
        raise SettingsUnusable(f"The settings in {path} cannot be used: {error}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsUnusable(f"The settings in {path} cannot be read: {error}.") from error
