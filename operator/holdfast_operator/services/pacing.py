"""How fast walks over sessions may go, so that those who use the server hardly notice.

All walks on one server share a rate and a number of places. Where calls take long, they become smaller
and rest as long as the last one took; where calls are quick again, they grow back.
"""

import asyncio
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from holdfast_operator.services.ports import Clock

PLACES: Final = 4
"""Walks on one server at a time."""
PATIENCE: Final = 2.0
"""Seconds in which a walk waits for its place before others of its object's concerns get a look."""
RATE: Final = 9000.0
"""Sessions per second that all walks on one server may change: with the second pass of a rollout, and the
pauses between steps, it makes the 5,000 that are promised. Faster ones would only take more of the server."""
MOST: Final = 100
"""Sessions in one call. Who carries it out sends them in small parts, so others wait for one of those."""
LEAST: Final = 2
SLOW: Final = 0.1
"""Seconds: a call that takes longer says that the server has enough to do."""
LONGEST_REST: Final = 1.0

T = TypeVar("T")


class Pace:
    """The pace of all walks on one server.

    Args:
        clock: measures the calls, and waits.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._places = asyncio.Semaphore(PLACES)
        self._size = MOST
        self._free = float("-inf")

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[bool]:
        """Hold one of the places within the block; False when there was none for `PATIENCE`."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._places.acquire()
        except TimeoutError:
            yield False
            return
        try:
            yield True
        finally:
            self._places.release()

    async def call(
        self,
        work: Callable[[int], Awaitable[T]],
        *,
        cost: float = 1.0,
        expected: int | None = None,
    ) -> T:
        """Make a call when it is time for it, and return its result.

        Args:
            work: the call, given how many sessions it may take.
            cost: what one session costs the server, beside one that is changed.
            expected: how many sessions it will find at most, as far as known: the next call waits for no
                more than these. A thousand memories without sessions hold nobody up.
        """
        size, now = self._size, self._clock.monotonic()
        begins = max(now, self._free)
        booked = size if expected is None else min(size, expected * cost)
        self._free = begins + booked / RATE
        if begins > now:
            await self._clock.sleep(begins - now)
        began = self._clock.monotonic()
        try:
            return await work(round(size / cost))
        finally:
            self._note(self._clock.monotonic() - began)

    def _note(self, took: float) -> None:
        if took > SLOW:
            self._size = max(LEAST, self._size // 2)
            rested = self._clock.monotonic() + min(took, LONGEST_REST)
            self._free = max(self._free, rested)
        else:
            self._size = min(MOST, self._size + LEAST)


class Paces:
    """The paces of all servers.

    Args:
        clock: as of `Pace`.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._paces: dict[str, Pace] = {}

    def of(self, backend: str) -> Pace:
        """Return the pace on the server of a MemoryBackend, by its uid."""
        return self._paces.setdefault(backend, Pace(self._clock))

    def forget(self, backend: str) -> None:
        """Drop what is remembered of a backend that is gone."""
        self._paces.pop(backend, None)


def spread(uid: str, interval: float) -> float:
    """Return seconds within an interval, always the same for an object."""
    return zlib.crc32(uid.encode()) % interval
