"""The kinds of `holdfast.dev`: the CRDs are made from these models, and bodies are read by them.

A spec is read strictly, with the rules the API server has too. Metadata and status are read
leniently: others write there as well, and a status may come from another version.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal, Self

from pydantic import Field

from holdfast.policy import Cause, Part, ResourceSpec, Rule
from holdfast.policy.manifest import NAME_RULE, Metadata
from holdfast_operator.backend import BackendSpec
from holdfast_operator.binding import BindingSpec
from holdfast_operator.erasure import ErasureSpec, ErasureStatus
from holdfast_operator.reasons import (
    REASONS,
    ConditionType,
    CredentialsReason,
    NotInForceReason,
    PausedReason,
    PolicyReason,
    ReadyReason,
    Reason,
    RiskReason,
)
from holdfast_operator.status import (
    BackendStatus,
    BindingStatus,
    BoundSecret,
    Condition,
    ConditionStatus,
    EffectiveLimits,
    LastRotation,
    NamespaceUsage,
    ResourceStatus,
    Rollout,
    ServerStatus,
    Sweep,
    Usage,
)

__all__ = [
    "REASONS",
    "BackendSpec",
    "BackendStatus",
    "BindingSpec",
    "BindingStatus",
    "BoundSecret",
    "Condition",
    "ConditionStatus",
    "ConditionType",
    "CredentialsReason",
    "EffectiveLimits",
    "ErasureSpec",
    "ErasureStatus",
    "LastRotation",
    "MemoryBackend",
    "MemoryBinding",
    "MemoryErasure",
    "MemoryResource",
    "NamespaceUsage",
    "NotInForceReason",
    "ObjectMeta",
    "PausedReason",
    "PolicyReason",
    "ReadyReason",
    "Reason",
    "ResourceSpec",
    "ResourceStatus",
    "RiskReason",
    "Rollout",
    "ServerStatus",
    "Sweep",
    "Usage",
]


class ObjectMeta(Metadata):
    """The metadata of an object, as far as the operator looks at it."""

    namespace: str | None = None
    uid: str | None = None
    generation: int | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: Mapping[str, str] = Field(default_factory=dict[str, str])
    annotations: Mapping[str, str] = Field(default_factory=dict[str, str])
    finalizers: tuple[str, ...] = ()


class Resource(Part):
    """Base of the kinds."""

    metadata: ObjectMeta

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Read an object as the API server gives it, or as people write it.

        Raises:
            PolicyInvalid: the spec breaks a rule; path, reason and sentence are the API server's.
        """
        return cls.read(body)


_BINDING_NAME: Final = Rule[Resource](
    path=".metadata.name",
    reason=Cause.INVALID,
    message="the name must be at most 63 characters: it is part of the names of user and Secret",
    check=lambda it: len(it.metadata.name) <= 63,
    expression="self.metadata.name.size() <= 63",
)


class MemoryBackend(Resource):
    """A Redis or Valkey that may hold memory, for whom, and with what guard rails."""

    api_version: Literal["holdfast.dev/v1alpha1"]
    kind: Literal["MemoryBackend"]
    spec: BackendSpec = Field(description="Where the servers are and who may use them.")
    status: BackendStatus = Field(
        default=BackendStatus(), description="What the operator reports about the backend."
    )


class MemoryResource(Resource):
    """One kind of conversation memory and its policy."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (NAME_RULE,)

    api_version: Literal["holdfast.dev/v1alpha1"]
    kind: Literal["MemoryResource"]
    spec: ResourceSpec = Field(description="The policy of the memory, and where it is kept.")
    status: ResourceStatus = Field(
        default=ResourceStatus(), description="What the operator reports about the memory."
    )


class MemoryErasure(Resource):
    """An order to erase one session, or all sessions with given fields of the key template."""

    api_version: Literal["holdfast.dev/v1alpha1"]
    kind: Literal["MemoryErasure"]
    spec: ErasureSpec = Field(description="What is to be erased. Immutable.")
    status: ErasureStatus = Field(
        default=ErasureStatus(), description="What the operator reports about the order."
    )


class MemoryBinding(Resource):
    """Which workload may use which memories. Only a binding grants access."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (_BINDING_NAME,)

    api_version: Literal["holdfast.dev/v1alpha1"]
    kind: Literal["MemoryBinding"]
    spec: BindingSpec = Field(description="Who may use which memories.")
    status: BindingStatus = Field(
        default=BindingStatus(), description="What the operator reports about the binding."
    )
