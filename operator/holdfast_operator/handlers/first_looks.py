"""First looks at objects, a few at a time: an operator that starts finds all of them at once."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

PLACES: Final = 32
"""First looks at a time. Each holds memory while it waits for its server, and a process does not shrink
again: a thousand at once would leave it large for good."""
LONGEST: Final = 0.25
"""Seconds after which a look goes on without its place, which the next one gets. So a server that does not
answer delays looks at other servers by no more than this for every `PLACES` objects."""


class FirstLooks:
    """Places for first looks.

    Args:
        places: of them.
        longest: seconds that a look keeps its place.
    """

    def __init__(self, places: int = PLACES, longest: float = LONGEST) -> None:
        self._places = asyncio.Semaphore(places)
        self._longest = longest

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[None]:
        """Wait for a place, and hold it within the block, but for `longest` at most."""
        await self._places.acquire()
        held = True

        def leave() -> None:
            nonlocal held
            if held:
                held = False
                self._places.release()

        timer = asyncio.get_running_loop().call_later(self._longest, leave)
        try:
            yield
        finally:
            timer.cancel()
            leave()
