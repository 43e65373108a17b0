"""Callers that come at once share an exchange, so that a crowd costs less per call than one alone.

Each system call, each wake-up of the event loop and each time-out is paid once for all that share it.
With a caller or two nothing changes: an idle lane is used at once and without a task of its own.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias

from holdfast.errors import HoldfastError

Replies: TypeAlias = list[Any]
Send: TypeAlias = Callable[[bytes, int], Awaitable[Replies]]
"""Sends packed commands, so many of them, on one connection, and returns their replies."""

_LANES: Final = 2  # while one waits for the server, what has come back on the other is dealt with
_MOST_CALLERS: Final = 64  # in one exchange
_MOST_BYTES: Final = 256 * 1024  # likewise: a large call must not keep small ones waiting


class _Lane:
    """One exchange at a time, and who waits for the next."""

    __slots__ = ("busy", "waiting")

    def __init__(self) -> None:
        self.busy = False
        self.waiting: deque[tuple[bytes, int, asyncio.Future[Replies]]] = deque()


class Lanes:
    """A few lanes to one server.

    Args:
        send: carries out one exchange. What it raises is raised to everybody who shared it.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._lanes: Sequence[_Lane] = tuple(_Lane() for _ in range(_LANES))
        self._pumps: set[asyncio.Task[None]] = set()

    async def exchange(self, packed: bytes, count: int) -> Replies:
        """Send commands, alone or together with those of other callers, and return their replies.

        Cancelling a caller that shares an exchange leaves the others alone: its replies are read and
        dropped. One that still waits for its exchange has sent nothing.

        Args:
            packed: as they go over the wire.
            count: how many commands these are.
        """
        lane = min(self._lanes, key=_load)
        if lane.busy:
            future: asyncio.Future[Replies] = asyncio.get_running_loop().create_future()
            lane.waiting.append((packed, count, future))
            return await future
        lane.busy = True
        try:
            return await self._send(packed, count)
        finally:
            if lane.waiting:
                pump = asyncio.create_task(self._pump(lane))
                self._pumps.add(pump)
                pump.add_done_callback(self._pumps.discard)
            else:
                lane.busy = False

    async def aclose(self) -> None:
        """Wait for what still runs; each exchange has a time-out of its own."""
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _pump(self, lane: _Lane) -> None:
        """Serve a lane until nobody waits there."""
        try:
            while lane.waiting:
                batch = _next_batch(lane)
                if batch:
                    await self._serve(batch)
        finally:
            lane.busy = False
            while lane.waiting:  # the loop ends, and all its tasks with it
                lane.waiting.popleft()[2].cancel()

    async def _serve(self, batch: list[tuple[bytes, int, asyncio.Future[Replies]]]) -> None:
        packed = b"".join([part for part, _, _ in batch])
        try:
            replies = await self._send(packed, sum(count for _, count, _ in batch))
        except HoldfastError as error:
            for _, _, future in batch:
                if not future.done():
                    future.set_exception(_own(error))
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


def _load(lane: _Lane) -> int:
    return lane.busy + len(lane.waiting)


def _next_batch(lane: _Lane) -> list[tuple[bytes, int, asyncio.Future[Replies]]]:
    batch: list[tuple[bytes, int, asyncio.Future[Replies]]] = []
    size = 0
    while lane.waiting and len(batch) < _MOST_CALLERS and size < _MOST_BYTES:
        waiting = lane.waiting.popleft()
        if not waiting[2].done():  # cancelled while it waited
            batch.append(waiting)
            size += len(waiting[0])
    return batch


def _own(error: HoldfastError) -> HoldfastError:
    """An error of its own for each caller: it will name the caller's memory and session."""
    own = type(error)(error.message)
    own.__cause__ = error
    return own
