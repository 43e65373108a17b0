"""A turn's lease as this process keeps it: asked for, renewed while it is held, given back."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from typing import Any

from holdfast.background import Background
from holdfast.errors import HoldfastError, LeaseLost, SessionBusy, TurnInterrupted
from holdfast.place import Nameable, Place
from holdfast.policies import Agreement
from holdfast.policy import OnBusy
from holdfast.store import StalePolicy, lease_token
from holdfast.store.refusals import lease_lost, turn_interrupted, turn_not_entered
from holdfast.values import Caller, Granted, Queued, Terms

_RENEWALS = 3  # a lease is renewed at a third of its life
_RETRIES = 10  # and after a failure at each tenth
_FIRST = 8  # one that was handed over at an eighth: it lives for the grant time only
_MARGIN = 0.1  # of its life: so long before its end it counts as lost without asking
_HEED = 1.0  # seconds between renewals, at most, where another may take the turn: they tell of it
_WAKE_SLACK = 0.02  # seconds after a lease's end before asking whether it ended
_WITHDRAW = 1.0  # seconds that giving up the turn or a place may keep a caller waiting


class Signal:
    """Something that happens once; awaiting it returns when it has happened."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait until it happened."""
        return self._wait().__await__()

    def __bool__(self) -> bool:
        """Whether it happened."""
        return self._event.is_set()

    def set(self) -> None:
        """It happened."""
        self._event.set()

    async def _wait(self) -> None:
        await self._event.wait()


class Gate:
    """Lets many in at once, or one alone."""

    def __init__(self) -> None:
        self._door = asyncio.Lock()
        self._inside = 0
        self._empty = asyncio.Event()

    @asynccontextmanager
    async def shared(self) -> AsyncGenerator[None]:
        """Be inside with others."""
        if self._door.locked():
            async with self._door:
                self._inside += 1
        else:
            self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator[None]:
        """Wait until all are out, and be inside alone."""
        async with self._door:
            while self._inside:
                self._empty.clear()
                await self._empty.wait()
            yield


class Ending:
    """How a lease ends: it is given back, or lost, or somebody else took it.

    Args:
        place: the session.
        on_interrupt: called once, when it turns out that somebody else took the lease.

    Attributes:
        lost: happens once the lease is lost.
        interrupted: happens as well where somebody else took it.
    """

    def __init__(self, place: Nameable, on_interrupt: Callable[[], None]) -> None:
        self.lost = Signal()
        self.interrupted = Signal()
        self._named = place
        self._on_interrupt: Callable[[], None] | None = on_interrupt

    def lose(self, error: LeaseLost | None = None) -> None:
        """The lease is lost, as the store said with `error`."""
        if not self.lost and self._on_interrupt is not None:  # it is held yet, not given back
            interrupted = isinstance(error, TurnInterrupted)
            self._named.telemetry.turn_lost(interrupted=interrupted)
        self.lost.set()
        if isinstance(error, TurnInterrupted):
            self.interrupted.set()
            if self._on_interrupt is not None:
                self._on_interrupt()
                self._on_interrupt = None

    def refusal(self) -> LeaseLost:
        """Return what a call is told that comes too late."""
        return turn_interrupted() if self.interrupted else lease_lost()


class HeldLease(Ending):
    """The lease of one turn.

    Every grant is counted from a moment before it was made, so this process takes its lease for lost
    before the store does, also after it was stopped for a while.

    Args:
        place: the session.
        wait: milliseconds in line; None is the policy's.
        ttl: milliseconds of life between renewals; None is the policy's.
        holder: what others are shown.
        background: of the client.
        on_interrupt: called once, when it turns out that somebody else took the lease.

    Attributes:
        lost: happens once the lease is lost.
        interrupted: happens as well where somebody else took it.
        gate: calls that name the session's epoch pass it together; what changes the epoch, alone.
        token: of the lease; empty before it was asked for.
        fence: grows with every turn of the session; 0 before it was granted.
        epoch: of the session.
    """

    def __init__(
        self,
        place: Place,
        *,
        wait: int | None,
        ttl: int | None,
        holder: str,
        background: Background,
        on_interrupt: Callable[[], None],
    ) -> None:
        super().__init__(place, on_interrupt)
        self.gate = Gate()
        self.token = ""
        self.fence = 0
        self.epoch = 0
        self._place = place
        self._wait = wait
        self._ttl = ttl
        self._holder = holder
        self._background = background
        self._interrupts = False
        self._terms: Terms | None = None
        self._deadline = 0.0
        self._life = 0.0
        self._handed_over = False
        self._asking = False
        self._given_back = False
        self._timer: asyncio.TimerHandle | None = None
        self._renewal: asyncio.Task[None] | None = None

    def guard(self) -> None:
        """Refuse what comes too late.

        Raises:
            LeaseLost: it is known that the lease is lost, or it was never had.
        """
        if self.lost or time.monotonic() >= self._deadline:
            if not self.fence:
                raise turn_not_entered()
            self.lose()
            raise self.refusal()

    def caller(self) -> Caller:
        """Return what is sent along with a write; the first time, a short lease is renewed meanwhile.

        Raises:
            LeaseLost: it is known that the lease is lost.
        """
        self.guard()
        if self._handed_over:
            self._renew_now()
        return Caller(self.token, self.epoch, self._place.seen)

    def lose(self, error: LeaseLost | None = None) -> None:
        """The lease is lost, as the store said with `error`; not one that was never had."""
        self._stop_timer()
        if self.fence:
            super().lose(error)

    async def why(self, error: LeaseLost) -> LeaseLost:
        """Return what the store says, where a read only showed that the lease is not ours."""
        if self.fence and not self.lost:
            try:
                await self.renew()
            except LeaseLost as found:
                return found
            except HoldfastError:
                pass
            self.lose()
        return error

    async def acquire(self) -> None:
        """Wait for the lease; see `Turn.__aenter__`. Whatever it raises, no lease and no place is left."""
        wait = self._patience(await self._place.agreed())
        self.token = lease_token(wait)
        until = time.monotonic() + wait / 1000
        try:
            while True:
                self._terms = self._adopt(await self._place.agreed())
                try:
                    if await self._ask(self._terms, until):
                        break
                except StalePolicy as stale:
                    self._asking = False
                    await self._place.policies.catch_up(stale.revision)
        except BaseException:
            await self._give_back()
            raise
        self._background.opened(self._end)

    async def renew(self) -> None:
        """Lengthen the lease to its TTL from now.

        Raises:
            LeaseLost: the store says so.
            StoreUnavailable: nobody knows.
        """
        assert self._terms is not None
        async with self.gate.shared():
            asked = time.monotonic()
            life = self._terms.lease / 1000
            try:
                revision = await self._place.store.renew(
                    self._terms, self.token, self.epoch, self._holder
                )
            except LeaseLost as error:
                self.lose(error)
                raise
            self._deadline = max(self._deadline, asked + life * (1 - _MARGIN))
            self._life, self._handed_over = life, False
        if revision > self._terms.revision:
            await self._place.policies.catch_up(revision)
            newer = self._adopt(await self._place.agreed())
            # A shorter lease is for the next turn: this one's would end before its next renewal.
            longest = max(newer.lease, self._terms.lease)
            self._terms = dataclasses.replace(newer, lease=longest)

    async def settled(self) -> None:
        """Wait until a lease that was handed over is renewed, or that has failed.

        What follows may keep the whole process from renewing it, for longer than a grant lasts.
        """
        if self._handed_over and self._renewal is not None:
            await asyncio.wait([self._renewal])

    async def release(self) -> None:
        """Give the lease to the next in line. Takes a second at most; goes on in the background."""
        self._background.closed(self._end)
        self._close()
        if not self._given_back and not self.interrupted:
            await self._give_back()

    def _end(self) -> None:
        """End a lease whose client is closed."""
        self._close()
        self.lose()
        self._given_back = True
        self._background.run(self._release())

    def _close(self) -> None:
        self._deadline = 0.0
        self._on_interrupt = None
        self._stop_timer()
        if self._renewal is not None:
            self._renewal.cancel()

    def _patience(self, agreed: Agreement) -> int:
        """Milliseconds this caller waits in line."""
        if self._wait is not None:
            return self._wait
        locking = agreed.policy.locking
        return 0 if locking.on_busy is OnBusy.REJECT else locking.wait_timeout.milliseconds

    def _adopt(self, agreed: Agreement) -> Terms:
        self._interrupts = agreed.policy.locking.on_busy is OnBusy.INTERRUPT
        terms = agreed.terms
        return terms if self._ttl is None else dataclasses.replace(terms, lease=self._ttl)

    async def _ask(self, terms: Terms, until: float) -> bool:
        """Ask for the lease once, and wait in line for a while if it is somebody else's."""
        self._asking = True
        answer = await self._place.store.acquire(
            terms, self.token, self._holder, interrupt=self._interrupts
        )
        self._asking = False
        if isinstance(answer, Granted):
            return self._begin(answer, terms.lease / 1000, 1 / _RENEWALS, handed_over=False)
        left = until - time.monotonic()
        if not answer.queued or left <= 0:
            raise _busy(answer)
        nap = min(answer.remaining + _WAKE_SLACK, terms.lease / 1000 / _RENEWALS, left)
        granted = await self._place.store.sleep(self.token, nap)
        if granted is None:
            return False
        return self._begin(granted, terms.grant / 1000, 1 / _FIRST, handed_over=True)

    def _begin(self, granted: Granted, life: float, first: float, *, handed_over: bool) -> bool:
        deadline = granted.until - life * _MARGIN
        if handed_over and deadline <= time.monotonic():
            return False
        self.fence, self.epoch = granted.fence, granted.epoch
        self._place.note(granted.epoch, granted.seen)
        self._deadline, self._life, self._handed_over = deadline, life, handed_over
        self._renew_in(life * first)
        return True

    async def _give_back(self) -> None:
        """Give up the lease or the place in line, also if this task is cancelled again."""
        try:
            async with asyncio.timeout(_WITHDRAW):
                await self._release()
        except TimeoutError:
            self._background.run(self._release())
        except BaseException:
            self._background.run(self._release())
            raise

    async def _release(self) -> None:
        if self._terms is None:
            return
        try:
            await self._place.store.release(self._terms, self.token, doubt=self._asking)
        except HoldfastError:
            # The lease ends by itself, after its TTL at the latest.
            return

    def _renew_in(self, seconds: float) -> None:
        self._stop_timer()
        left = self._deadline - time.monotonic()
        if self._interrupts:
            seconds = min(seconds, _HEED)
        self._timer = asyncio.get_running_loop().call_later(min(seconds, left), self._when_due)

    def _when_due(self) -> None:
        if time.monotonic() >= self._deadline:
            self.lose()
        else:
            self._renew_now()

    def _renew_now(self) -> None:
        if self._renewal is None or self._renewal.done():
            self._stop_timer()
            self._renewal = asyncio.create_task(self._renew_in_time())

    async def _renew_in_time(self) -> None:
        share = _RENEWALS
        try:
            left = self._deadline - time.monotonic()
            async with asyncio.timeout(left):
                await self.renew()
        except LeaseLost:
            return
        except (HoldfastError, TimeoutError):
            share = _RETRIES
        self._renew_in(self._life / share)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _busy(answer: Queued) -> SessionBusy:
    who = f"{answer.holder!r}" if answer.holder else "somebody else"
    return SessionBusy(
        f"{who} holds the turn of this session for another {max(0.0, answer.remaining):.1f} s, with "
        f"{answer.place} in line: wait longer, or try again",
        holder=answer.holder,
        remaining=max(0.0, answer.remaining),
        place=answer.place,
    )
