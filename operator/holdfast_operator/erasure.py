"""The MemoryErasure: an order to erase one session or a person's sessions, and its receipt."""

from typing import Annotated, Any, ClassVar

from annotated_types import MaxLen, MinLen
from pydantic import Field

from holdfast.policy import Cause, Duration, Part, Rule, TransitionRule
from holdfast.policy.fields import Flag, Lifetime, ObjectName, Text
from holdfast.policy.rules import Pattern, Unique, Unit
from holdfast_operator.status import Bytes, Number, Status, StatusPart, Timestamp

_MOST_BYTES = 512

Value = Annotated[
    Text,
    MinLen(1),
    MaxLen(_MOST_BYTES),
    Rule[str](
        path="",
        reason=Cause.INVALID,
        message="must be at most 512 bytes of UTF-8",
        check=lambda value: len(value.encode()) <= _MOST_BYTES,
        expression="bytes(self).size() <= 512",
    ),
]


class MemoryRef(Part):
    """Names a MemoryResource in the namespace of the object."""

    atomic: ClassVar[bool] = True

    name: ObjectName = Field(description="Name of the MemoryResource.")


class FieldValue(Part):
    """A field of the memory's key template and the value it had."""

    name: Annotated[Text, MinLen(1), MaxLen(31), Pattern("^[a-z][a-z0-9_]*$")] = Field(
        description="Name of the field."
    )
    value: Value = Field(description="Its value, as it was given to the library.")


class ErasureSpec(Part):
    """What is to be erased. It cannot be changed: another order is another object."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        Rule["ErasureSpec"](
            path="",
            reason=Cause.INVALID,
            message="exactly one of session and fields says what is to be erased",
            check=lambda it: (it.session is not None) != bool(it.fields),
            expression="has(self.session) != (has(self.fields) && self.fields.size() > 0)",
        ),
    )
    transitions: ClassVar[tuple[TransitionRule[Any], ...]] = (
        TransitionRule["ErasureSpec"](
            path="",
            reason=Cause.FORBIDDEN,
            message="spec is immutable: create another MemoryErasure",
            check=lambda new, old: new == old,
            expression="self == oldSelf",
        ),
    )

    memory_ref: MemoryRef = Field(description="The memory that keeps the sessions.")
    session: Value | None = Field(
        default=None, description="Id of the one session, of a memory without a key template."
    )
    fields: Annotated[tuple[FieldValue, ...], MaxLen(8), Unique("name")] = Field(
        default=(),
        description="Fields of the key template: every session that has all of them is meant.",
    )
    dry_run: Flag = Field(default=False, description="Counts what would go, and erases nothing.")
    ttl_after_finished: Lifetime = Field(
        default=Duration("24h"),
        description="How long this object stays after it finished; it names whom it was about.",
    )


class ErasureProgress(StatusPart):
    """How far an erasure is. Written before anything is erased."""

    found: Number = Field(default=0, description="Sessions that were counted at the beginning.")
    found_messages: Number = Field(default=0, description="Messages they held.")
    found_bytes: Bytes = Field(default=0, description="Size of those.")
    sessions: Number = Field(default=0, description="Sessions that are erased.")
    messages: Number = Field(default=0, description="Messages they held.")
    bytes: Bytes = Field(default=0, description="Size of those.")


class ErasureReceipt(StatusPart):
    """What was erased, or with dryRun would be. It says nothing of whom it was about."""

    sessions: Number = Field(default=0, description="How many sessions.")
    messages: Number = Field(default=0, description="Messages they held.")
    bytes: Bytes = Field(default=0, description="Size of those in the store.")
    digest: Annotated[Text, MaxLen(64), Unit("SHA-256 in hexadecimal")] | None = Field(
        default=None,
        description=(
            "Over key, epoch, last sequence number, messages and bytes of every session, as in the"
            " library's receipts; absent when interrupted."
        ),
    )
    completed_at: Timestamp = Field(description="When it was done.")
    interrupted: Flag | None = Field(
        default=None,
        description=(
            "The operator or a connection broke off in the middle: everything is erased, and the"
            " figures are the larger of what was counted before and what was seen to go."
        ),
    )


class ErasureStatus(Status):
    """What the operator reports about a MemoryErasure. No id and no field's value."""

    progress: ErasureProgress | None = Field(
        default=None, description="How far it is; absent before and after."
    )
    receipt: ErasureReceipt | None = Field(default=None, description="What it came to.")
