"""The refusals that every store gives in the same words."""

from holdfast.errors import (
    AcknowledgedLost,
    BudgetExceeded,
    ConfigurationError,
    CorruptRecord,
    IdempotencyConflict,
    LeaseLost,
    RecordNotFound,
    SessionBusy,
)


def unreadable_address() -> ConfigurationError:
    """The address of the server has no form we know. Of what it holds nothing is shown."""
    return ConfigurationError(
        "the address of the server cannot be read: write it as "
        "redis://user:password@host:port/database, with '/', '?', '#', '@' and '[' in the password "
        "percent-encoded"
    )


def lease_lost() -> LeaseLost:
    """The caller's lease has ended, or its epoch has."""
    return LeaseLost(
        "the turn is over: its lease ended or the session was cleared. This call wrote nothing; "
        "start a new turn and read again"
    )


def busy(holder: str | None, remaining: float) -> SessionBusy:
    """Only the holder of the lease may write; `remaining` in seconds."""
    return SessionBusy(
        "somebody else holds the turn of this session, and its policy lets only the holder write",
        holder=holder,
        remaining=remaining,
    )


def conflict(seq: int) -> IdempotencyConflict:
    """The id is known, with another content; `seq` is that content's."""
    return IdempotencyConflict(
        f"the id was used before, for another content (sequence number {seq}): use a new id"
    )


def acknowledged_lost(first: int, last: int) -> AcknowledgedLost:
    """The store has less than it acknowledged; both ends are included."""
    return AcknowledgedLost(
        f"the server no longer has the messages {first} to {last} that it had acknowledged, as after "
        "a failover: read the session again and repeat what is missing",
        first=first,
        last=last,
    )


def full(messages: int, tokens: int) -> BudgetExceeded:
    """A session whose policy refuses instead of evicting."""
    return BudgetExceeded(
        f"the session is full with {messages} messages and {tokens} tokens, and its policy refuses "
        "instead of evicting (onFull: Refuse): clear it or raise the limits"
    )


def no_room() -> BudgetExceeded:
    """Evicting everything that may be evicted would not be enough."""
    return BudgetExceeded(
        "the call does not fit beside the protected messages and its own tool calls: unpin some, "
        "send less, or raise the limits"
    )


def corrupt_record() -> CorruptRecord:
    """A record that is none of ours. Of what it holds nothing is shown."""
    return CorruptRecord(
        "a stored record does not have the form of a record: something else wrote to the session. "
        "Clear the session, or remove the record"
    )


def no_record() -> RecordNotFound:
    """No record with that number."""
    return RecordNotFound("the session holds no record with this sequence number")
