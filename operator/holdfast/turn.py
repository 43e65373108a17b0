"""A turn: the lease on a session, and the messages written under it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from holdfast.background import Background
from holdfast.errors import LeaseLost
from holdfast.lease import HeldLease, Signal
from holdfast.log import MessageLog
from holdfast.place import Place
from holdfast.store.refusals import lease_lost, turn_interrupted
from holdfast.telemetry import Call, outcome_of
from holdfast.values import AppendResult, Caller, Messages, Page, Status

__all__ = ["Body", "Signal", "Turn"]

T = TypeVar("T")


class Body:
    """The task that holds a turn, and the cancellation with which an interrupted turn may end it.

    Args:
        cancels: an interruption cancels it.
    """

    def __init__(self, *, cancels: bool) -> None:
        self._cancels = cancels
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._cancelled = False

    def begin(self) -> None:
        """The current task holds the turn from now on."""
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task is not None else 0

    def interrupt(self) -> None:
        """The turn was interrupted."""
        # A call of the body itself raises, and need not be told twice.
        if self._cancels and self._task is not None and self._task is not asyncio.current_task():
            self._cancelled = self._task.cancel()

    def end(self, error: BaseException | None) -> bool:
        """Whether the body ended because it was cancelled, by nobody but this turn."""
        if not self._cancelled or self._task is None:
            return False
        self._cancelled = False
        ours = self._task.uncancel() <= self._cancelling
        return ours and isinstance(error, asyncio.CancelledError)


class Turn(MessageLog):
    """The right to answer in a session, held by one caller at a time; `async with session.turn()`.

    The lease is renewed while it is held, and every write is checked against it inside the store. Once
    it is lost, every call raises `LeaseLost`, which means that the call wrote nothing; `TurnInterrupted`
    where somebody else took it, as the policy may allow.
    """

    def __init__(
        self,
        place: Place,
        *,
        wait: int | None,
        ttl: int | None,
        holder: str,
        background: Background,
        cancels: bool = False,
    ) -> None:
        super().__init__(place)
        self._body = Body(cancels=cancels)
        self._lease = HeldLease(
            place,
            wait=wait,
            ttl=ttl,
            holder=holder,
            background=background,
            on_interrupt=self._body.interrupt,
        )
        self._written: set[int] = set()
        self._since = 0.0

    @property
    def fence(self) -> int:
        """The fencing token: an integer that grows with every turn of the session."""
        return self._lease.fence

    @property
    def interrupted(self) -> Signal:
        """Await it to learn that somebody else took the turn; false until then. Implies `lost`."""
        return self._lease.interrupted

    @property
    def lost(self) -> Signal:
        """Await it to learn of the loss of the turn; false until then."""
        return self._lease.lost

    async def __aenter__(self) -> Self:
        """Wait for the turn.

        Raises:
            SessionBusy: somebody else held it all the time.
            TurnInterrupted: it was taken away again before this call knew that it had it.
            QuotaExceeded: the session would begin with it, and the memory has as many as it may.
            StoreUnavailable, AccessDenied, PolicyNotFound.
        """
        if self._lease.token:
            raise RuntimeError("a turn is entered once: call session.turn() again")
        with self._place.naming(Call.WAIT):
            await self._lease.acquire()
        self._since = time.monotonic()
        self._body.begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the turn to the next in line. Never hides the body's exception.

        Raises:
            TurnInterrupted: instead of the cancellation with which an interrupted turn ended its body.
                A cancellation by anybody else goes on.
        """
        self._tell_of_the_end()
        try:
            await self._lease.release()
        finally:
            ours = self._body.end(error)
        if ours:
            with self._place.naming():
                raise turn_interrupted() from error

    async def check(self) -> None:
        """Ask the store whether the turn is still held; call it before a side effect.

        Raises:
            LeaseLost: it is not.
            StoreUnavailable: nobody knows.
        """
        with self._place.naming(Call.CHECK):
            self._lease.guard()
            await self._lease.renew()

    # Calls name the epoch of the session, and clearing changes it: what is under way at that moment
    # would be told that the turn is over.

    async def read(
        self, *, limit: int | None = None, max_tokens: int | None = None, after: int | None = None
    ) -> Messages:
        """Return messages as they were appended; see `MessageLog.read`."""
        call = partial(super().read, limit=limit, max_tokens=max_tokens, after=after)
        return await self._beside_others(call)

    async def read_page(
        self, *, after: int | None = None, limit: int = 100, used: bool = True
    ) -> Page:
        """Return a part of exactly what is stored; see `MessageLog.read_page`."""
        call = partial(super().read_page, after=after, limit=limit, used=used)
        return await self._beside_others(call)

    async def pop(self) -> Any | None:
        """Take the newest message out; see `MessageLog.pop`."""
        return await self._beside_others(super().pop)

    async def pin(self, seq: int, pinned: bool = True) -> None:
        """Never evict a message; see `MessageLog.pin`."""
        await self._beside_others(partial(super().pin, seq, pinned))

    async def clear(self, *, force: bool = False) -> int:
        """Remove all messages; see `MessageLog.clear`. The turn goes on."""
        async with self._lease.gate.alone():
            return await super().clear(force=force)

    async def _append(self, *messages: Any, **options: Any) -> AppendResult:
        call = partial(super()._append, *messages, **options)
        return await self._beside_others(call, alone=options.get("replace", False))

    async def _beside_others(self, call: Callable[[], Awaitable[T]], *, alone: bool = False) -> T:
        gate = self._lease.gate
        try:
            async with gate.alone() if alone else gate.shared():
                result = await call()
        except LeaseLost as error:
            with self._place.naming():
                raise await self._lease.why(error) from None
        await self._lease.settled()
        return result

    def _caller(self) -> Caller:
        return self._lease.caller()

    def _wrote(self, seqs: Iterable[int]) -> None:
        self._written.update(seqs)

    def _own(self) -> Collection[int]:
        return self._written

    def _lease_gone(self, error: LeaseLost) -> None:
        self._lease.lose(error)

    def _guard(self) -> None:
        self._caller()

    def _holds(self, status: Status) -> bool:
        return status.lease_token == self._lease.token

    def _check_window(self, status: Status) -> None:
        self._caller()
        if not self._holds(status) or status.epoch != self._lease.epoch:
            raise lease_lost()

    def _tell_of_the_end(self) -> None:
        lost = turn_interrupted() if self.interrupted else lease_lost() if self.lost else None
        seconds = time.monotonic() - self._since
        self._place.telemetry.timed(Call.HOLD, outcome_of(lost), seconds)

    def _cleared(self, epoch: int) -> None:
        self._lease.epoch = epoch
