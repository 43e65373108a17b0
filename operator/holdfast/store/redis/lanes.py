"""Callers that come at once share an exchange, so that a crowd costs less per call than one alone.

Each system call, each wake-up of the event loop and each time-out is paid once for all that share it.
With a caller or two nothing changes: an idle lane is used at once and without a task of its own.

A crowd that calls again and again is kept in two halves of the same size, one on each lane, and nobody of
it waits for an exchange of others. Two rules see to that, whatever the order in which replies arrive:

- Before a lane takes the next ones, those it has just answered have had their turn of the event loop, so
  that they are among them.
- It takes no more than its part of all that are there, those on the other lanes included.

Without them sixteen would go in fours, or in ones and eights by turns, as it happened at first.

Where a server is silent, each exchange fails by its time-out alone, and a crowd would wait for one after
the other. So whoever waits behind an exchange that failed after a second or more is told at once as well.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias

from holdfast.errors import HoldfastError, StoreUnavailable
from holdfast.store.pool_in_use import PoolInUse
from holdfast.store.redis.polling import Polling

Replies: TypeAlias = list[Any]
Send: TypeAlias = Callable[[bytes, int], Awaitable[Replies]]
"""Sends packed commands, so many of them, on one connection, and returns their replies."""

_LANES: Final = 2  # while one waits for the server, what has come back on the other is dealt with
_MOST_CALLERS: Final = 64  # in one exchange
_MOST_BYTES: Final = 256 * 1024  # likewise: a large call must not keep small ones waiting
_SILENCE: Final = 1.0  # seconds; others should not wait for a failure that takes as long


class _Lane:
    """One exchange at a time.

    Attributes:
        busy: whether it has one, or somebody is about to begin one.
        callers: how many share it, or shared it and have not yet had the time to call again.
    """

    __slots__ = ("busy", "callers")

    def __init__(self) -> None:
        self.busy = False
        self.callers = 0


class Lanes:
    """A few lanes to one server.

    Args:
        send: carries out one exchange. What it raises is raised to everybody who shared it.
        polling: keeps the event loop awake for callers who share no exchange; in a crowd it hardly sleeps.
            None: it sleeps.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        send: Send,
        *,
        polling: Polling | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._polling = polling
        self._clock = clock
        self._lanes: Sequence[_Lane] = tuple(_Lane() for _ in range(_LANES))
        # Common to all lanes: whoever waits behind a slow exchange is taken by the next lane that is free.
        self._waiting: deque[tuple[bytes, int, asyncio.Future[Replies]]] = deque()
        self._pumps: set[asyncio.Task[None]] = set()

    async def exchange(self, packed: bytes, count: int) -> Replies:
        """Send commands, alone or together with those of other callers, and return their replies.

        Cancelling a caller that shares an exchange leaves the others alone: its replies are read and
        dropped. One that still waits for its exchange has sent nothing.

        Args:
            packed: as they go over the wire.
            count: how many commands these are.

        Raises:
            StoreUnavailable: the exchange in front found the server silent, or the pool in use. Nothing was
                sent.
        """
        lane, others = None, 0
        for each in self._lanes:
            others += each.callers
            if not each.busy:
                lane = each
        if lane is None or others > 1:
            future: asyncio.Future[Replies] = asyncio.get_running_loop().create_future()
            self._waiting.append((packed, count, future))
            if lane is not None:  # in a crowd: more of it may come before the pump's turn
                self._start_pump(lane)
            return await future
        lane.busy, lane.callers = True, 1
        began = self._clock()
        looking = 0.0 if self._polling is None else self._polling.begin()
        try:
            return await self._send(packed, count)
        except HoldfastError as error:
            self._refuse_after(began, error)
            raise
        finally:
            if self._polling is not None:
                self._polling.end(looking)
            lane.callers = 0
            if self._waiting:
                self._start_pump(lane)
            else:
                lane.busy = False

    async def aclose(self) -> None:
        """Wait for what still runs; each exchange has a time-out of its own."""
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def _start_pump(self, lane: _Lane) -> None:
        lane.busy = True
        pump = asyncio.create_task(self._pump(lane))
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)

    async def _pump(self, lane: _Lane) -> None:
        """Serve callers on a lane until nobody waits."""
        try:
            while batch := self._next_batch(lane):
                await self._serve(batch)
                await asyncio.sleep(0)  # no time: those who were answered go first
        finally:
            lane.busy, lane.callers = False, 0
            while self._waiting:  # the loop ends, and all its tasks with it
                self._waiting.popleft()[2].cancel()

    def _next_batch(self, lane: _Lane) -> list[tuple[bytes, int, asyncio.Future[Replies]]]:
        """Take a lane's part of those who are there, as far as they wait; one at least if anybody does."""
        lane.callers = 0
        there = len(self._waiting) + sum(each.callers for each in self._lanes)
        part = min(-(-there // _LANES), _MOST_CALLERS)
        batch: list[tuple[bytes, int, asyncio.Future[Replies]]] = []
        size = 0
        while self._waiting and len(batch) < part and size < _MOST_BYTES:
            waiting = self._waiting.popleft()
            if not waiting[2].done():  # cancelled while it waited
                batch.append(waiting)
                size += len(waiting[0])
        lane.callers = len(batch)
        return batch

    async def _serve(self, batch: list[tuple[bytes, int, asyncio.Future[Replies]]]) -> None:
        packed = b"".join([part for part, _, _ in batch])
        began = self._clock()
        try:
            replies = await self._send(packed, sum(count for _, count, _ in batch))
        except HoldfastError as error:
            for _, _, future in batch:
                if not future.done():
                    future.set_exception(_own(error))
            self._refuse_after(began, error)
            return
        except Exception as error:  # noqa: BLE001 - a fault of ours: whoever called shall see it
            for _, _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        except BaseException:
            for _, _, future in batch:
                future.cancel()
            raise
        at = 0
        for _, count, future in batch:
            if not future.done():
                future.set_result(replies[at : at + count])
            at += count

    def _refuse_after(self, began: float, error: HoldfastError) -> None:
        """Let nobody wait behind an exchange that failed by a time-out: the next one would as well."""
        if self._clock() - began < _SILENCE:
            return
        if not isinstance(error, PoolInUse):
            error = StoreUnavailable("the server was silent to the call before: nothing was sent")
        while self._waiting:
            future = self._waiting.popleft()[2]
            if not future.done():
                future.set_exception(_own(error))


def _own(error: HoldfastError) -> HoldfastError:
    """An error of its own for each caller: it will name the caller's memory and session."""
    own = type(error)(error.message)
    own.__cause__ = error
    return own
