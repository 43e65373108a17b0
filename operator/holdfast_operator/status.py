"""What the operator reports: conditions, and the status of each kind.

Figures are coarse and say nothing about a single session or person. All status parts ignore fields
they do not know.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from annotated_types import Ge, MaxLen, MinLen
from pydantic import ConfigDict, Field

from holdfast.policy import Duration, MemoryType, Part, Quantity
from holdfast.policy.fields import Integer, Label, Text
from holdfast.policy.rules import Pattern, Unique, Unit
from holdfast_operator.reasons import ConditionType, ReadyReason

EPOCH: Final = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Format:
    """The `format` of a text in a schema."""

    name: str


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


Number = Annotated[Integer, Ge(0), Unit("number")]
Bytes = Annotated[Integer, Ge(0), Unit("bytes")]
Timestamp = Annotated[Text, MaxLen(40), Format("date-time"), Unit("time in RFC 3339 form")]
Word = Annotated[Text, MaxLen(64)]
ObjectWord = Annotated[Text, MaxLen(253)]


class StatusPart(Part):
    """Base of everything in a status: fields of another version are ignored."""

    model_config = ConfigDict(extra="ignore")


class Condition(StatusPart):
    """One aspect of an object's state, in the form common to all of Kubernetes."""

    type: Annotated[
        Text, MinLen(1), MaxLen(64), Pattern("^[A-Za-z]([A-Za-z0-9]*[A-Za-z0-9])?$")
    ] = Field(description="Which aspect it is.")
    status: ConditionStatus = Field(description="Whether it holds.")
    reason: Annotated[
        Text, MinLen(1), MaxLen(64), Pattern("^[A-Za-z]([A-Za-z0-9]*[A-Za-z0-9])?$")
    ] = Field(description="Why, as one of the words in docs/reasons.md.")
    message: Annotated[Text, MaxLen(4096)] = Field(description="Why, as a sentence for people.")
    last_transition_time: Timestamp = Field(description="When status changed last.")
    observed_generation: Number | None = Field(
        default=None, description="Generation of the object that was looked at."
    )


PENDING: Final = Condition(
    type=ConditionType.READY.value,
    status=ConditionStatus.UNKNOWN,
    reason=ReadyReason.PENDING.value,
    message="Waiting for the operator",
    last_transition_time=EPOCH,
)
"""The condition every object starts with, put there by the schema."""

Conditions = Annotated[tuple[Condition, ...], MaxLen(16), Unique("type")]


class Status(StatusPart):
    """What every kind reports."""

    observed_generation: Number = Field(
        default=0, description="Generation of the object that the operator acted on last."
    )
    conditions: Conditions = Field(
        default=(PENDING,), description="The state of the object, aspect by aspect."
    )

    def condition(self, of: ConditionType) -> Condition | None:
        """Return the condition of a type, if it is present."""
        return next((item for item in self.conditions if item.type == of), None)


class ServerStatus(StatusPart):
    """The server behind a backend."""

    product: Word | None = Field(default=None, description="redis or valkey.")
    version: Word | None = Field(default=None, description="Version of the server.")
    mode: Word | None = Field(default=None, description="How the server says it is organised.")
    instance: Word | None = Field(
        default=None, description="Mark by which a replaced or emptied server is noticed."
    )


class NamespaceUsage(StatusPart):
    """What one namespace takes of a backend."""

    namespace: Label = Field(description="The namespace.")
    sessions: Number | None = Field(default=None, description="Sessions, coarsely.")
    bytes: Bytes | None = Field(default=None, description="Size of the sessions, coarsely.")


class Sweep(StatusPart):
    """The last sweep that repaired or found something, or that was asked for."""

    time: Timestamp | None = Field(default=None, description="When it ended.")
    repaired: Number = Field(
        default=0,
        description="Keys whose expiry was set right, and sessions put back into their index.",
    )
    orphans: Number = Field(
        default=0,
        description="Keys that belong to no session of the memory, or to no memory of the backend.",
    )
    dry_run: bool | None = Field(
        default=None, description="True where it only looked: then nothing was changed."
    )
    request: Word | None = Field(
        default=None, description="The annotation holdfast.dev/sweep that was handled last."
    )


class BackendStatus(Status):
    """What the operator reports about a MemoryBackend."""

    server: ServerStatus | None = Field(default=None, description="The server that answered.")
    used_memory: Quantity | None = Field(
        default=None, description="Memory the server uses, coarsely."
    )
    max_memory: Quantity | None = Field(
        default=None, description="Most memory the server may use; absent without a limit."
    )
    sessions: Number | None = Field(default=None, description="Sessions of all memories, coarsely.")
    top_namespaces: Annotated[tuple[NamespaceUsage, ...], MaxLen(20), Unique("namespace")] = Field(
        default=(), description="The namespaces that take most."
    )
    last_sweep: Sweep | None = Field(
        default=None, description="The last sweep that repaired or found something."
    )


class EffectiveLimits(StatusPart):
    """The limits in force, after the backend's bounds."""

    max_tokens: Number | None = Field(default=None, description="Most tokens of a session.")
    max_messages: Number | None = Field(default=None, description="Most messages of a session.")
    max_message_size: Quantity | None = Field(default=None, description="Largest message.")
    ttl: Duration | None = Field(default=None, description="Idle time until expiry.")
    max_lifetime: Duration | None = Field(default=None, description="Longest life of a session.")
    max_sessions: Number | None = Field(default=None, description="Most sessions of the memory.")
    max_bytes: Quantity | None = Field(
        default=None, description="Size of all its sessions at most."
    )


class Usage(StatusPart):
    """How much is stored, coarsely: written after a move of 10 %, at most every 5 minutes."""

    sessions: Number = Field(default=0, description="Sessions.")
    messages: Number = Field(default=0, description="Messages of all sessions.")
    tokens: Annotated[Integer, Ge(0), Unit("tokens")] = Field(
        default=0, description="Tokens of all sessions."
    )
    bytes: Bytes = Field(default=0, description="Size of all sessions.")
    observed_time: Timestamp | None = Field(default=None, description="When it was measured.")


class Rollout(StatusPart):
    """How far a new policy has reached the sessions that exist."""

    revision: Number = Field(default=0, description="Revision of the policy.")
    done: Number = Field(default=0, description="Sessions that follow it.")
    total: Number = Field(default=0, description="Sessions there are.")


class ResourceStatus(Status):
    """What the operator reports about a MemoryResource."""

    type: MemoryType | None = Field(default=None, description="What bounds a session.")
    policy_revision: Number | None = Field(
        default=None, description="Revision of the policy, raised with every effective change."
    )
    effective: EffectiveLimits | None = Field(
        default=None, description="The limits in force, after the backend's bounds."
    )
    key_prefix: Annotated[Text, MaxLen(160)] | None = Field(
        default=None, description="Beginning of every key of this memory."
    )
    usage: Usage | None = Field(default=None, description="How much is stored, coarsely.")
    rollout: Rollout | None = Field(
        default=None, description="How far the policy has reached the sessions that exist."
    )
    last_sweep: Sweep | None = Field(
        default=None, description="The last sweep that repaired or found something."
    )


class BoundSecret(StatusPart):
    """The Secret with which the workload connects, as servicebinding.io names it."""

    name: ObjectWord = Field(description="Name of the Secret, in the same namespace.")


class LastRotation(StatusPart):
    """When the password changed last."""

    last_time: Timestamp | None = Field(
        default=None, description="When the password in the Secret was made."
    )
    last_handled_request: Annotated[Text, MaxLen(256)] | None = Field(
        default=None,
        description="Value of holdfast.dev/rotate-requested-at for which it was made.",
    )


class BindingStatus(Status):
    """What the operator reports about a MemoryBinding."""

    binding: BoundSecret | None = Field(
        default=None, description="The Secret with which the workload connects."
    )
    required_acl: Annotated[Text, MaxLen(131072)] | None = Field(
        default=None,
        description=(
            "Rule that the server must have for the user in credentialsRef, without name and"
            " password; only on a backend with access.mode ProvidedCredentials."
        ),
    )
    rotation: LastRotation | None = Field(
        default=None, description="When the password changed last."
    )
