"""MemoryResource manifests: the policy together with what only a cluster needs."""

from enum import StrEnum
from typing import Any, ClassVar, Final, Literal, Protocol

from pydantic import ConfigDict, Field

from holdfast.policy.faults import Cause
from holdfast.policy.fields import Label, ObjectName
from holdfast.policy.model import Policy
from holdfast.policy.rules import Part, Rule, TransitionRule


class DeletionPolicy(StrEnum):
    """What becomes of the sessions when their resource is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class BackendRef(Part):
    """Names the MemoryBackend that holds a memory."""

    atomic: ClassVar[bool] = True

    name: ObjectName = Field(description="Name of the MemoryBackend.")
    namespace: Label | None = Field(
        default=None, description="Its namespace; absent means the namespace of this object."
    )


class ResourceSpec(Policy):
    """The spec of a MemoryResource: a policy, the backend, and what a deletion does."""

    transitions: ClassVar[tuple[TransitionRule[Any], ...]] = (
        *Policy.transitions,
        TransitionRule["ResourceSpec"](
            path=".backendRef",
            reason=Cause.FORBIDDEN,
            message="backendRef is immutable: the sessions would stay behind",
            check=lambda new, old: new.backend_ref == old.backend_ref,
            expression="self.backendRef == oldSelf.backendRef",
        ),
    )

    backend_ref: BackendRef = Field(
        description="The MemoryBackend that holds this memory. Immutable."
    )
    deletion_policy: DeletionPolicy = Field(
        default=DeletionPolicy.RETAIN,
        description="What becomes of the sessions when this object is deleted.",
    )

    @property
    def policy(self) -> Policy:
        """The policy alone."""
        return Policy.model_construct(**{name: getattr(self, name) for name in Policy.model_fields})


class Metadata(Part):
    """What a manifest says about itself; only the name matters here."""

    model_config = ConfigDict(extra="ignore")

    name: ObjectName = Field(description="Name of the object.")


class _Named(Protocol):
    @property
    def metadata(self) -> Metadata: ...


NAME_RULE: Final = Rule[_Named](
    path=".metadata.name",
    reason=Cause.INVALID,
    message="the name must be at most 63 characters: it is part of every key",
    check=lambda it: len(it.metadata.name) <= 63,
    expression="self.metadata.name.size() <= 63",
)
"""Bounds the name of a MemoryResource."""


class Manifest(Part):
    """A MemoryResource as people write it. What somebody put into its status is not looked at."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (NAME_RULE,)

    api_version: Literal["holdfast.dev/v1alpha1"]
    kind: Literal["MemoryResource"]
    metadata: Metadata
    spec: ResourceSpec
    status: Any = None
