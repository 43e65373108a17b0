"""Every error the library raises, in one tree.

HoldfastError
├── ConfigurationError (ValueError)      what was given to `connect()` cannot work
│   └── PolicyInvalid                    a policy breaks a rule: file, line, field, reason
├── MessageInvalid (ValueError)          an item that is no JSON value
├── SessionKeyError (ValueError)         an empty, over-long or incomplete session key
├── MemoryNotFound (LookupError)         the client has no memory of that name
├── PolicyNotFound (LookupError)         no policy in Redis and none given, or the memory is being deleted
├── RecordNotFound (LookupError)         no record with that sequence number
├── AccessDenied (PermissionError)       the credentials do not allow the call
├── TokenCountFailed                     the counter given to `connect()` raised, hung or gave no count
├── MessageTooLarge                      one message over `maxMessageSize` or over the whole budget
├── BudgetExceeded                       the call does not fit beside what may not be evicted
├── QuotaExceeded                        all sessions of the memory together hold what they may
├── BudgetTooSmall                       `read(max_tokens=)` below what must be returned
├── ImportRefused (ValueError)           lines that are no export, or a session that holds something else
├── IdempotencyConflict                  a known id with another content
├── SessionBusy (TimeoutError)           somebody else holds the turn
├── LeaseLost                            the turn is over; this call wrote nothing
│   └── TurnInterrupted                  somebody else took it, as the policy says
├── AcknowledgedLost                     the server no longer has what it acknowledged
├── NotDurable                           written, but not confirmed by as many replicas as asked for
├── AmbiguousWrite (ConnectionError)     the connection broke: written or not, nobody knows
├── ScriptsMissing                       the server lacks our scripts and we may not load them
├── ServerTooOld                         Redis below 7.0, Valkey below 7.2
├── CorruptRecord                        a stored record that is not ours
├── UnknownKeys                          a key of ours holds another type or a newer layout
├── SummaryFailed                        a summariser gave no summary that could be used
└── StoreUnavailable (ConnectionError)   no answer in time

Each has a stable `code`, says whether a plain retry may help (`retryable`), and names the memory and
the session, never content or secrets. Except for `AmbiguousWrite`, `NotDurable` and
`AcknowledgedLost`, an error from a write means that nothing was written.
"""

from typing import ClassVar, TypeVar

E = TypeVar("E", bound="HoldfastError")


class HoldfastError(Exception):
    """Base of all errors of the library.

    Args:
        message: one sentence: what happened, to what, and what to do.
        memory: name of the memory, `namespace/name`, if one was involved.
        session: the session's key, if one was involved.
    """

    code: ClassVar[str] = "Error"
    retryable: ClassVar[bool] = False

    def __init__(
        self, message: str, *, memory: str | None = None, session: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.memory = memory
        self.session = session

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle and copy with all attributes: they go between processes, as of a pool."""
        return _again, (type(self), self.message), self.__dict__

    def __str__(self) -> str:
        """Return the sentence, then what it is about."""
        about = [
            f"{name} {value!r}"
            for name, value in (("memory", self.memory), ("session", self.session))
            if value is not None
        ]
        return f"{self.message} ({', '.join(about)})" if about else self.message


def _again(kind: type[E], message: str) -> E:
    """Return an error whose other attributes follow: its own `__init__` would ask for them."""
    error = kind.__new__(kind, message)
    HoldfastError.__init__(error, message)
    return error


class ConfigurationError(HoldfastError, ValueError):
    """What was given to `connect()` or to a method cannot work."""

    code = "ConfigurationError"


class PolicyInvalid(ConfigurationError):
    """A policy breaks a rule of its schema.

    Args:
        message: the rule's own sentence.
        path: the field in manifest form, such as `spec.limits.maxTokens`.
        reason: a Kubernetes cause such as `FieldValueInvalid`.
        file: the file's name, when there is one.
        line: 1-based line in the file, when known.
    """

    code = "PolicyInvalid"

    def __init__(
        self,
        message: str,
        *,
        path: str,
        reason: str,
        file: str | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(message)
        self.path = path
        self.reason = reason
        self.file = file
        self.line = line

    def __str__(self) -> str:
        """Return `file:line: field: sentence (reason)`."""
        place = ""
        if self.file is not None:
            place = f"{self.file}:{self.line}: " if self.line is not None else f"{self.file}: "
        return f"{place}{self.path}: {self.message} ({self.reason})"


class MessageInvalid(HoldfastError, ValueError):
    """The item is not a JSON value, so it could not be returned as it came."""

    code = "MessageInvalid"


class SessionKeyError(HoldfastError, ValueError):
    """A session key is empty, longer than 512 bytes, or does not fit the key template."""

    code = "SessionKeyError"


class MemoryNotFound(HoldfastError, LookupError):
    """The client was not given a memory of that name."""

    code = "MemoryNotFound"


class PolicyNotFound(HoldfastError, LookupError):
    """There is no policy for the memory, or the memory is being deleted."""

    code = "PolicyNotFound"


class RecordNotFound(HoldfastError, LookupError):
    """The session holds no record with that sequence number (any more)."""

    code = "RecordNotFound"


class AccessDenied(HoldfastError, PermissionError):
    """The server refused the credentials, or they do not allow this call."""

    code = "AccessDenied"


class TokenCountFailed(HoldfastError):
    """The program's own token counter raised, gave no count, or did not answer; nothing was sent.

    What it raised is the `__cause__`, in its own words: those may show content.
    """

    code = "TokenCountFailed"


class MessageTooLarge(HoldfastError):
    """One message is over `limits.maxMessageSize`, or alone over the whole budget."""

    code = "MessageTooLarge"


class BudgetExceeded(HoldfastError):
    """The call does not fit: what may not be evicted leaves no room, or the buffer is full."""

    code = "BudgetExceeded"


class QuotaExceeded(HoldfastError):
    """All sessions of the memory together hold what its policy allows; nothing was written.

    Reading, clearing and popping go on. Repeating helps once sessions have expired or were cleared.

    Args:
        quota: `sessions`, `bytes` or `tokens`.
        used: how much of it is used, as far as this client knows.
        hard: the policy's bound.
    """

    code = "QuotaExceeded"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        quota: str,
        used: int,
        hard: int,
        memory: str | None = None,
        session: str | None = None,
    ) -> None:
        super().__init__(message, memory=memory, session=session)
        self.quota = quota
        self.used = used
        self.hard = hard


class BudgetTooSmall(HoldfastError):
    """`max_tokens` is below what a read must return: the protected records and the newest group.

    Args:
        needed: tokens that would have been enough.
    """

    code = "BudgetTooSmall"

    def __init__(
        self, message: str, *, needed: int, memory: str | None = None, session: str | None = None
    ) -> None:
        super().__init__(message, memory=memory, session=session)
        self.needed = needed


class ImportRefused(HoldfastError, ValueError):
    """The lines are no export, or the session holds something else than their beginning.

    Nothing of the part that was refused is written; parts before it stay, and the import may go on.

    Args:
        message: what is wrong.
        line: 1-based number of the line it is about; 0 for none.
    """

    code = "ImportRefused"

    def __init__(
        self,
        message: str,
        *,
        line: int = 0,
        memory: str | None = None,
        session: str | None = None,
    ) -> None:
        super().__init__(message, memory=memory, session=session)
        self.line = line


class IdempotencyConflict(HoldfastError):
    """The id was used before for another content."""

    code = "IdempotencyConflict"


class SessionBusy(HoldfastError, TimeoutError):
    """Somebody else holds the turn.

    Args:
        holder: who, as they named themselves; None when unknown.
        remaining: seconds until the lease ends unless it is renewed.
        place: how many wait in front, the holder not counted.
    """

    code = "SessionBusy"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        holder: str | None = None,
        remaining: float = 0.0,
        place: int = 0,
        memory: str | None = None,
        session: str | None = None,
    ) -> None:
        super().__init__(message, memory=memory, session=session)
        self.holder = holder
        self.remaining = remaining
        self.place = place


class LeaseLost(HoldfastError):
    """The turn's lease has ended, so this call wrote nothing. Start a new turn and read again."""

    code = "LeaseLost"


class TurnInterrupted(LeaseLost):
    """Somebody else took the turn (`locking.onBusy: Interrupt`); this call wrote nothing.

    What the turn wrote before stays. A tool call that it left without a result is hidden from readers.
    """

    code = "TurnInterrupted"


class AcknowledgedLost(HoldfastError):
    """The server lost appends that it had acknowledged, as in a failover; or the whole session.

    Args:
        first: lowest lost sequence number; 1 where nothing is left of the session.
        last: highest lost sequence number.
    """

    code = "AcknowledgedLost"

    def __init__(
        self,
        message: str,
        *,
        first: int,
        last: int,
        memory: str | None = None,
        session: str | None = None,
    ) -> None:
        super().__init__(message, memory=memory, session=session)
        self.first = first
        self.last = last


class NotDurable(HoldfastError):
    """The append is written, but too few replicas confirmed it in time, and it was to be strict.

    Repeat it with the same `id` to ask again; without an id it would be stored twice.

    Args:
        seq: sequence number of the first record.
    """

    code = "NotDurable"

    def __init__(
        self, message: str, *, seq: int, memory: str | None = None, session: str | None = None
    ) -> None:
        super().__init__(message, memory=memory, session=session)
        self.seq = seq


class AmbiguousWrite(HoldfastError, ConnectionError):
    """The connection broke before the answer: the write may or may not have happened.

    Give appends an `id`: then the library repeats them by itself and they are stored once.
    """

    code = "AmbiguousWrite"


class ScriptsMissing(HoldfastError):
    """The server does not have the library's scripts, and these credentials may not load them."""

    code = "ScriptsMissing"
    retryable = True


class ServerTooOld(HoldfastError):
    """The server is older than Redis 7.0 or Valkey 7.2."""

    code = "ServerTooOld"


class CorruptRecord(HoldfastError):
    """A stored record does not have the library's form: something else wrote to the key."""

    code = "CorruptRecord"


class UnknownKeys(HoldfastError):
    """A key of the session holds another data type, or a layout newer than this version."""

    code = "UnknownKeys"


class SummaryFailed(HoldfastError):
    """A summariser failed, took too long, or wrote nothing that could be used. Nothing was replaced."""

    code = "SummaryFailed"
    retryable = True


class StoreUnavailable(HoldfastError, ConnectionError):
    """The store did not answer, or answered that it cannot serve now. Nothing was written.

    Args:
        retry_after: seconds for which the library knows the server to be away, and does not ask it;
            None: every call asks.
    """

    code = "StoreUnavailable"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        memory: str | None = None,
        session: str | None = None,
    ) -> None:
        super().__init__(message, memory=memory, session=session)
        self.retry_after = retry_after
