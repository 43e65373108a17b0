"""The spec of a MemoryBinding: which workload may use which memories, and how its password changes."""

from enum import StrEnum
from typing import Annotated, Any, ClassVar

from annotated_types import MaxLen, MinLen
from pydantic import Field

from holdfast.policy import Cause, Duration, Part, Rule, TransitionRule
from holdfast.policy.fields import Label, ObjectName, Text
from holdfast.policy.rules import Pattern, Unique, Unit, between
from holdfast_operator.backend import SecretRef


class MemoryAccess(StrEnum):
    """What a workload may do with a memory."""

    READ_WRITE = "ReadWrite"
    READ_ONLY = "ReadOnly"


FieldName = Annotated[
    Text, MinLen(1), MaxLen(31), Pattern("^[a-z][a-z0-9_]*$"), Unit("name of a template's field")
]
ResourceName = Annotated[
    Text,
    MinLen(1),
    MaxLen(63),
    Pattern("^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"),
    Unit("name of an object"),
]
RotationInterval = Annotated[Duration, between("1h", "3650d"), Unit("duration such as 720h")]
RotationGrace = Annotated[Duration, between("2m", "24h"), Unit("duration such as 10m")]


class MemoryRef(Part):
    """Names a MemoryResource of the namespace of the object."""

    atomic: ClassVar[bool] = True

    name: ResourceName = Field(description="Name of the MemoryResource.")


class FixedField(Part):
    """A field of the key template that the workload cannot choose."""

    name: FieldName = Field(description="Name of the field.")
    value: Annotated[Text, MinLen(1), MaxLen(128)] = Field(
        description="The value it has in every call of the workload."
    )


class BoundMemory(Part):
    """A memory that the workload may use."""

    name: Label = Field(description="What the workload calls the memory.")
    memory_ref: MemoryRef = Field(description="The MemoryResource, in the same namespace.")
    access: MemoryAccess = Field(description="What the workload may do with it.")
    fields: Annotated[tuple[FixedField, ...], MaxLen(8), Unique("name")] = Field(
        default=(),
        description="Fields of the key template with a fixed value: its first ones, without a gap.",
    )


class Rotation(Part):
    """How often the password changes, and how long the one before is still taken."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        Rule["Rotation"](
            path=".grace",
            reason=Cause.INVALID,
            message="grace must be shorter than interval",
            check=lambda it: it.grace.milliseconds < it.interval.milliseconds,
            expression="self.grace < self.interval",
        ),
    )

    interval: RotationInterval = Field(
        default=Duration("720h"), description="Age at which a password is replaced."
    )
    grace: RotationGrace = Field(
        default=Duration("10m"),
        description=(
            "How long the replaced password is still taken; files in a pod follow after about two"
            " minutes."
        ),
    )


class BindingSpec(Part):
    """Which workload may use which memories."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        Rule["BindingSpec"](
            path=".memories",
            reason=Cause.INVALID,
            message="no two of memories may have the same memoryRef",
            check=lambda it: (
                len({memory.memory_ref.name for memory in it.memories}) == len(it.memories)
            ),
            expression=(
                "self.memories.all(m,"
                " self.memories.exists_one(n, n.memoryRef.name == m.memoryRef.name))"
            ),
        ),
    )
    transitions: ClassVar[tuple[TransitionRule[Any], ...]] = (
        TransitionRule["BindingSpec"](
            path=".serviceAccountName",
            reason=Cause.FORBIDDEN,
            message="serviceAccountName is immutable: another account needs a binding of its own",
            check=lambda new, old: new.service_account_name == old.service_account_name,
            expression="self.serviceAccountName == oldSelf.serviceAccountName",
        ),
    )

    service_account_name: ObjectName = Field(
        description="ServiceAccount of this namespace whose pods may use the memories. Immutable."
    )
    memories: Annotated[tuple[BoundMemory, ...], MinLen(1), MaxLen(16), Unique("name")] = Field(
        description="The memories; all of them on one MemoryBackend."
    )
    credentials_ref: SecretRef | None = Field(
        default=None,
        description=(
            "Secret with username and password of a user that somebody else made, in this namespace"
            ' and labelled holdfast.dev/credentials: "binding"; exactly on a backend with access.mode'
            " ProvidedCredentials."
        ),
    )
    rotation: Rotation = Field(
        default=Rotation(),
        description="How passwords change on a backend with access.mode ManagedACL.",
    )
