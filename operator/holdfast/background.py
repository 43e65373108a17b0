"""What goes on behind the callers of one client, and has to end with it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Background:
    """Short clean-ups that nobody waits for, and what is open until its caller closes it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._open: set[Callable[[], None]] = set()

    def run(self, call: Coroutine[Any, Any, object]) -> None:
        """Run a call to its end, whatever becomes of whoever asked for it. Its errors are dropped."""
        task = asyncio.create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def opened(self, end: Callable[[], None]) -> None:
        """Remember what ends something, should the client be closed before its caller does it."""
        self._open.add(end)

    def closed(self, end: Callable[[], None]) -> None:
        """Forget it: its caller closed it."""
        self._open.discard(end)

    async def aclose(self, seconds: float) -> None:
        """End what is open, and wait so long for what runs; then cancel it."""
        while self._open:
            self._open.pop()()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()  # it would open connections again that nobody closes
            await asyncio.gather(*late, return_exceptions=True)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # read, so that nobody complains that nobody did
