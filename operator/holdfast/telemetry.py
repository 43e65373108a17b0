"""What a program is told of what the library does: calls, counts and levels.

Whoever wants to know gives observers to `connect(observers=[...])`: a `PrometheusObserver` of
`holdfast.metrics`, an `OpenTelemetryObserver` of `holdfast.tracing`, or one of their own. They hear which
memory something happened in, never in which session, for whom, or with what content. Every label has a
closed list of values, given here. Without observers nothing is timed and nothing counted.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, Protocol, TypeVar

from holdfast import errors
from holdfast.errors import HoldfastError
from holdfast.values import Appended, Batch, Flag, MemoryAddress

_log = logging.getLogger("holdfast")

T = TypeVar("T")


class Call(StrEnum):
    """What is timed: the calls of a session, and the waiting for its turn and the holding of it."""

    APPEND = "append"
    APPEND_MANY = "append_many"
    READ = "read"
    READ_PAGE = "read_page"
    POP = "pop"
    REPLACE = "replace"
    PIN = "pin"
    CLEAR = "clear"
    LENGTH = "length"
    TOKEN_COUNT = "token_count"  # noqa: S105 - the name of a call
    STATUS = "status"
    HEALTH = "health"
    CHECK = "check"
    FLUSH = "flush"
    SUMMARIZE = "summarize"
    SUMMARIES = "summaries"
    HISTORY = "history"
    EXPLAIN = "explain"
    EXPORT = "export"
    IMPORT = "import"
    ERASE = "erase"
    WAIT = "wait"
    HOLD = "hold"


class Counted(StrEnum):
    """What is counted, each with the label in brackets, if any."""

    MESSAGES = "messages"
    TOKENS = "tokens"
    DUPLICATES = "duplicates"
    EVICTED = "evicted"  # [Rule]
    SUMMARIES = "summaries"
    REDACTED = "redacted"
    WITHHELD = "withheld"
    UNRECOGNISED = "unrecognised"
    UNCONFIRMED = "unconfirmed"
    REBUILT = "rebuilt"
    CORRUPT = "corrupt"
    TURNS_LOST = "turns_lost"  # [Loss]
    RETRIES = "retries"  # [Retry], of no memory: several may be on one server


class Measured(StrEnum):
    """What has a level, each with the label in brackets, if any."""

    REVISION = "revision"
    QUOTA_USED = "quota_used"  # [Quota]
    QUOTA_SOFT = "quota_soft"  # [Quota]
    QUOTA_HARD = "quota_hard"  # [Quota]
    BREAKERS = "breakers"  # [holdfast.breaker.BreakerState], of no memory


class Rule(StrEnum):
    """By which rule messages left: the limit within an append, or a rule of a flush."""

    LIMIT = "Limit"
    FIFO = "FIFO"
    LRU = "LRU"
    TOKEN_AWARE_LRU = "TokenAwareLRU"  # noqa: S105 - the name of a strategy
    HYBRID_SUMMARY = "HybridSummary"
    TIME_BASED = "TimeBased"
    PRIORITY = "Priority"
    SHARE = "share"
    BLOCK = "block"
    FOLD = "fold"
    ORPHAN = "orphan"
    OTHER = "other"


class Loss(StrEnum):
    """How a turn was lost while it was held."""

    LOST = "lost"
    INTERRUPTED = "interrupted"


class Retry(StrEnum):
    """Why a command is sent to the store again."""

    LOST = "lost"
    UNREACHABLE = "unreachable"
    SCRIPTS = "scripts"
    SERVER = "server"


class Quota(StrEnum):
    """What a quota bounds."""

    SESSIONS = "sessions"
    BYTES = "bytes"
    TOKENS = "tokens"


OK: Final = "ok"
CANCELLED: Final = "Cancelled"
OTHER: Final = "Error"
"""The outcome of what ended with an error that is not the library's own."""

OUTCOMES: Final = (
    OK,
    CANCELLED,
    *sorted(
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, HoldfastError)
    ),
)
"""How a call may end: well, cancelled, or with the code of an error."""

_KNOWN: Final = frozenset(OUTCOMES)
_RULES: Final = frozenset(Rule)


def outcome_of(error: BaseException | None) -> str:
    """Return the outcome that an error stands for: one of `OUTCOMES`."""
    if error is None:
        return OK
    if isinstance(error, HoldfastError):
        return error.code if error.code in _KNOWN else OTHER
    return CANCELLED if isinstance(error, asyncio.CancelledError) else OTHER


class Observer(Protocol):
    """What is told of calls, counts and levels, in the middle of each call: it should return at once.

    What it raises is logged once and else ignored.
    """

    def begun(self, call: Call, memory: MemoryAddress, /) -> object:
        """A call begins. What is returned comes back with its end."""
        ...

    def ended(
        self, call: Call, memory: MemoryAddress, outcome: str, seconds: float, begun: object, /
    ) -> None:
        """A call has ended.

        Args:
            call: which.
            memory: in which memory.
            outcome: one of `OUTCOMES`.
            seconds: how long it took.
            begun: what `begun` returned; None where it failed, and for `HOLD`, which it is not asked of:
                the turn's body is the caller's.
        """
        ...

    def counted(
        self, what: Counted, memory: MemoryAddress | None, amount: int, label: str, /
    ) -> None:
        """Something happened so many times, 1 or more; `label` is empty where there is none."""
        ...

    def measured(
        self, what: Measured, memory: MemoryAddress | None, value: float | None, label: str, /
    ) -> None:
        """Something has a new level; None says that there is none any more."""
        ...


class Telemetry:
    """What observers are told of one memory, or of a server.

    Args:
        observers: in the order in which they are told.
        memory: which memory; None for what concerns a server.
    """

    __slots__ = ("_failed", "_observers", "memory")

    def __init__(
        self, observers: Sequence[Observer] = (), memory: MemoryAddress | None = None
    ) -> None:
        self.memory = memory
        self._observers = tuple(observers)
        self._failed = False

    def begin(self, call: Call) -> "Watch | None":
        """A call of the memory begins; None where nobody is told."""
        return Watch(self, self._observers, call) if self._observers else None

    def timed(self, call: Call, outcome: str, seconds: float) -> None:
        """A call of the memory took so long, whose beginning nobody was told."""
        memory = self.memory
        if memory is not None:
            self._tell(lambda observer: observer.ended(call, memory, outcome, seconds, None))

    def count(self, what: Counted, amount: int = 1, label: str = "") -> None:
        """Something happened so many times; 0 is not told."""
        if amount:
            self._tell(lambda observer: observer.counted(what, self.memory, amount, label))

    def measure(self, what: Measured, value: float | None, label: str = "") -> None:
        """Something has a new level."""
        self._tell(lambda observer: observer.measured(what, self.memory, value, label))

    def appended(self, done: Appended, batch: Batch) -> None:
        """An append was acknowledged."""
        if not self._observers:
            return
        self.count(Counted.UNCONFIRMED, int(not done.durable))
        self.count(Counted.REBUILT, int(done.torn))
        if done.duplicate:
            self.count(Counted.DUPLICATES)
            return
        records = batch.records
        self.count(Counted.MESSAGES, len(records))
        self.count(Counted.TOKENS, sum(record.tokens for record in records))
        self.count(Counted.UNRECOGNISED, sum(1 for one in records if one.flags & Flag.UNRECOGNISED))
        self.count(Counted.EVICTED, done.evicted, Rule.LIMIT)

    def screened(self, redacted: int, withheld: int) -> None:
        """Values were replaced, and the content of messages was withheld, before anything was sent."""
        if self._observers:
            self.count(Counted.REDACTED, redacted)
            self.count(Counted.WITHHELD, withheld)

    def flushed(self, rules: Mapping[str, int], *, summaries: int) -> None:
        """Messages left by a flush.

        Args:
            rules: how many by which rule, as the flush's plan names it. What follows a colon, such as a
                share's name, is not told.
            summaries: how many took their place.
        """
        for rule, messages in rules.items():
            name = rule.partition(":")[0]
            self.count(Counted.EVICTED, messages, name if name in _RULES else Rule.OTHER)
        self.count(Counted.SUMMARIES, summaries)

    def turn_lost(self, *, interrupted: bool) -> None:
        """A turn was lost while it was held."""
        self.count(Counted.TURNS_LOST, 1, Loss.INTERRUPTED if interrupted else Loss.LOST)

    def retried(self, reason: Retry) -> None:
        """A command is sent to the store again."""
        self.count(Counted.RETRIES, 1, reason)

    def agreed(
        self, revision: int, levels: Iterable[tuple[str, int, int | None, int | None]]
    ) -> None:
        """The policy in force was read, and how far its quotas are used.

        Args:
            revision: of the policy.
            levels: of each quota that can be judged its name, what is used, the soft and the hard bound.
        """
        if not self._observers:
            return
        self.measure(Measured.REVISION, revision)
        judged = {name: bounds for name, *bounds in levels}
        for quota in Quota:
            used, soft, hard = judged.get(quota, (None, None, None))
            self.measure(Measured.QUOTA_USED, used, quota)
            self.measure(Measured.QUOTA_SOFT, soft, quota)
            self.measure(Measured.QUOTA_HARD, hard, quota)

    def breakers(self, state: str, number: int) -> None:
        """So many circuit breakers of the store are in a state, a `holdfast.breaker.BreakerState`."""
        self.measure(Measured.BREAKERS, number, state)

    def ask(self, observer: Observer, question: Callable[[Observer], T]) -> T | None:
        """Return an observer's answer; None where it fails, which must not be the caller's trouble."""
        try:
            return question(observer)
        except Exception as error:  # noqa: BLE001 - foreign code, called in the middle of a call
            if not self._failed:
                self._failed = True
                _log.warning(
                    "observer %s failed with %s; that is said once",
                    type(observer).__name__,
                    type(error).__name__,
                )
            return None

    def _tell(self, news: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            self.ask(observer, news)


class Watch:
    """Times one call; made by `Telemetry.begin`."""

    __slots__ = ("_began", "_begun", "_call", "_memory", "_observers", "_telemetry")

    def __init__(self, telemetry: Telemetry, observers: Sequence[Observer], call: Call) -> None:
        assert telemetry.memory is not None
        memory = self._memory = telemetry.memory
        self._telemetry = telemetry
        self._observers = observers
        self._call = call
        self._begun = [telemetry.ask(one, lambda it: it.begun(call, memory)) for one in observers]
        self._began = time.perf_counter()

    def end(self, error: BaseException | None) -> None:
        """The call has ended, well or with an error."""
        seconds = time.perf_counter() - self._began
        call, memory, outcome = self._call, self._memory, outcome_of(error)
        # The last to open a span is the first to close it.
        for observer, begun in zip(reversed(self._observers), reversed(self._begun), strict=True):
            self._telemetry.ask(
                observer,
                lambda it, begun=begun: it.ended(call, memory, outcome, seconds, begun),
            )
