"""A circuit breaker: what knows that a server does not answer, so that not every call has to find out."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Protocol, runtime_checkable

from holdfast.errors import StoreUnavailable
from holdfast.telemetry import Telemetry

FIRST_PAUSE = 1.0
"""Seconds for which calls fail at once before the server is asked again, at first."""
LONGEST_PAUSE = 30.0
"""Seconds at most; each question without an answer doubles them."""
PROBE = 2.0
"""Seconds that the server has for its answer when it is asked again."""
_FAILURES = 2  # one alone may be a connection that had been cut long before
_SPREAD = 0.25  # share of a pause that is left to chance, so that not all clients come at once


class BreakerState(StrEnum):
    """Whether calls are let through, or one that asks the server first."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """Decides whether a call to one server is worth a try.

    Closed, it lets calls through. It opens when the server was reached by none of them for a whole
    patience: then calls fail at once. After a pause one call may ask the server; an answer closes it, and
    silence lengthens the pause.

    Args:
        server: its name, for people.
        patience: seconds from the first failure on in which calls still try. Every call that can be
            repeated is, for as long, so a short outage opens nothing.
        failures: that many in a row at least.
        clock: monotonic seconds.
        jitter: gives numbers from 0 up to 1.
        changed: called after each change of the state.

    Attributes:
        server: its name.
        opened: how often it has opened.
    """

    def __init__(
        self,
        server: str = "",
        *,
        patience: float = 5.0,
        failures: int = _FAILURES,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        changed: Callable[[], object] | None = None,
    ) -> None:
        self.server = server
        self.opened = 0
        self._patience = patience
        self._most = failures
        self._clock = clock
        self._jitter = jitter
        self._changed = changed
        self._state = BreakerState.CLOSED
        self._failures = 0
        self._since = 0.0
        self._reason = ""
        self._pause = 0.0
        self._until = 0.0

    @property
    def state(self) -> BreakerState:
        """Whether calls are let through."""
        return self._state

    @property
    def away(self) -> float:
        """Seconds since the first of the failures without any success; 0 without one."""
        return self._clock() - self._since if self._failures else 0.0

    def admit(self) -> bool:
        """Let a call through; True where it has to ask the server first whether it is there.

        Whoever got True says how that ended: `succeeded`, `still_away` or `left`. Otherwise the next one
        may ask after `PROBE` seconds.

        Raises:
            StoreUnavailable: the server is known not to answer. `retry_after` says for how long.
        """
        if self._state is BreakerState.CLOSED:
            return False
        now = self._clock()
        if now < self._until:
            raise self._refusal(now)
        self._until = now + PROBE
        self._become(BreakerState.HALF_OPEN)
        return True

    def succeeded(self) -> None:
        """The server answered, whatever it said."""
        if not self._failures:
            return  # the usual case, in the middle of every call
        self._failures, self._pause = 0, 0.0
        if self._state is not BreakerState.CLOSED:
            self._become(BreakerState.CLOSED)

    def failed(self, reason: str) -> None:
        """A call that was let through did not reach the server, or got no answer.

        Args:
            reason: a sentence without secrets.
        """
        if self._state is not BreakerState.CLOSED:
            return  # one from before: it says nothing of the server as it is now
        now = self._clock()
        if not self._failures:
            self._since = now
        self._failures += 1
        self._reason = reason
        if self._failures >= self._most and now - self._since >= self._patience:
            self.opened += 1
            self._open(now)

    def still_away(self, reason: str) -> StoreUnavailable:
        """The server did not answer when it was asked again; return what its caller is told."""
        now = self._clock()
        if self._state is BreakerState.HALF_OPEN:
            self._reason = reason
            self._open(now)
        return self._refusal(now)

    def left(self) -> None:
        """Whoever asked did not wait for the answer: the next one may ask at once."""
        if self._state is BreakerState.HALF_OPEN:
            self._until = self._clock()
            self._become(BreakerState.OPEN)

    def _open(self, now: float) -> None:
        self._pause = min(LONGEST_PAUSE, 2 * self._pause or FIRST_PAUSE)
        self._until = now + self._pause * (1 - _SPREAD * self._jitter())
        self._become(BreakerState.OPEN)

    def _become(self, state: BreakerState) -> None:
        self._state = state
        if self._changed is not None:
            self._changed()

    def _refusal(self, now: float) -> StoreUnavailable:
        left = max(0.0, self._until - now)
        return StoreUnavailable(
            f"the server has not answered for {now - self._since:.0f} s: calls fail at once, and it is "
            f"asked again in {left:.1f} s. The last failure: {self._reason}",
            retry_after=left,
        )


def is_away(failure: BaseException) -> bool:
    """Whether nobody asked the server, since it is known not to answer."""
    return isinstance(failure, StoreUnavailable) and failure.retry_after is not None


def all_away(failures: Sequence[BaseException]) -> StoreUnavailable | None:
    """Return what to raise where none of several servers was asked, since all are known to be away.

    It is the failure of the one that is asked again first; None where at least one was asked.
    """
    away = [one for one in failures if isinstance(one, StoreUnavailable) and is_away(one)]
    if not away or len(away) < len(failures):
        return None
    return min(away, key=lambda one: one.retry_after or 0.0)


class Breakers:
    """The breakers of one client: one for each server that it talks to.

    Args:
        patience: as for a `Breaker`.
        telemetry: is told how many are in which state.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        patience: float,
        telemetry: Telemetry | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience = patience
        self._telemetry = telemetry or Telemetry()
        self._clock = clock
        self._breakers: list[Breaker] = []

    def __iter__(self) -> Iterator[Breaker]:
        """Return those of the servers that are in use now."""
        return iter(tuple(self._breakers))

    def add(self, server: str) -> Breaker:
        """Make the breaker of a server that is talked to from now on."""
        breaker = Breaker(server, patience=self._patience, clock=self._clock, changed=self._tell)
        self._breakers.append(breaker)
        self._tell()
        return breaker

    def remove(self, breaker: Breaker) -> None:
        """Forget a server that nobody talks to any more."""
        if breaker in self._breakers:
            self._breakers.remove(breaker)
            self._tell()

    def _tell(self) -> None:
        states = Counter(breaker.state for breaker in self._breakers)
        for state in BreakerState:
            self._telemetry.breakers(state, states[state])


@runtime_checkable
class Guarded(Protocol):
    """A store that talks to servers through breakers."""

    @property
    def breakers(self) -> Sequence[Breaker]:
        """One for each server that it talks to at the moment."""
        ...
