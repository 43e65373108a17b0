"""The refusals that every store gives in the same words."""

from holdfast.errors import (
    AcknowledgedLost,
    AmbiguousWrite,
    BudgetExceeded,
    ConfigurationError,
    CorruptRecord,
    IdempotencyConflict,
    ImportRefused,
    LeaseLost,
    NotDurable,
    QuotaExceeded,
    RecordNotFound,
    SessionBusy,
    TurnInterrupted,
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


def turn_not_entered() -> LeaseLost:
    """Nobody has asked for the turn yet, or it was not given."""
    return LeaseLost(
        "the turn was not entered, so it is not held: make calls under it within `async with "
        "session.turn() as turn` (holdfast.sync: `with`). This call wrote nothing"
    )


def turn_interrupted() -> TurnInterrupted:
    """Somebody else took the turn."""
    return TurnInterrupted(
        "the turn was interrupted: somebody else took it, as the policy says (onBusy: Interrupt). This "
        "call wrote nothing; what the turn wrote before stays"
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


def session_vanished(seen: int) -> AcknowledgedLost:
    """The store has nothing left of a session that cannot have ended by itself."""
    return AcknowledgedLost(
        f"the server no longer has this session, of which it had acknowledged messages up to {seen}, as "
        "after a failover or a restart without persistence: begin it again with what is missing",
        first=1,
        last=seen,
    )


def not_durable(seq: int) -> NotDurable:
    """Too few replicas have what was written."""
    return NotDurable(
        f"the call is written (sequence number {seq}), but too few replicas confirmed it in time: repeat "
        "it with the same id to ask again, or check the replicas",
        seq=seq,
    )


def unconfirmed_turn() -> SessionBusy:
    """Too few replicas know of the lease, so it was given back."""
    return SessionBusy(
        "the turn was given back: too few replicas confirmed its lease in time. Try again, or check "
        "the replicas"
    )


def erased_meanwhile() -> AmbiguousWrite:
    """The first answer was lost, and before the repetition came in the session was erased."""
    return AmbiguousWrite(
        "the connection broke before the answer, and the session was erased while the call was repeated: "
        "nothing of it is stored. Append it again if it belongs to what comes after"
    )


def import_overtaken() -> ImportRefused:
    """The session is not as the last part of the import left it."""
    return ImportRefused(
        "somebody else changed the session since the import began: what was imported before stays, and "
        "nothing of this part was written"
    )


def import_redacted_otherwise() -> ImportRefused:
    """The policy's privacy was changed while an import was under way."""
    return ImportRefused(
        "the policy's privacy was changed during the import, and this part was read under what held "
        "before; nothing of it was written: clear the session, and import it again"
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


def too_many_sessions(used: int, hard: int) -> QuotaExceeded:
    """No session may begin; those that are there go on."""
    return QuotaExceeded(
        f"the memory has {used} sessions and may have {hard} (quotas.sessions.hard), so this one cannot "
        "begin: let others expire, which is seen within a quarter of an hour, or raise the quota",
        quota="sessions",
        used=used,
        hard=hard,
    )


def quota_exceeded(quota: str, used: int, adds: int, hard: int) -> QuotaExceeded:
    """All sessions together would hold more `bytes` or `tokens` than they may."""
    return QuotaExceeded(
        f"the memory holds about {used} {quota}, this call adds {adds}, and {hard} are allowed "
        f"(quotas.{quota}.hard): clear sessions or let them expire, which the operator's next "
        "measurement sees within five minutes, or raise the quota",
        quota=quota,
        used=used,
        hard=hard,
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
