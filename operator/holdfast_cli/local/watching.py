"""Noticing that somebody edited, added or removed a manifest."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from holdfast_cli.local.manifests import Signature, find_files, signature

T = TypeVar("T")

LOOK: Final = 0.2
"""Seconds between looks."""
QUIET: Final = 0.3
"""Seconds that a file must stay as it is: editors write in several steps."""
GONE: Final = 2.0
"""Seconds that a file must stay away or empty: a removal may delete people's conversations."""


class Watch:
    """Looks at files by asking for their times and sizes: that works on every file system.

    Args:
        paths: files and directories.
        clock: monotonic seconds.
    """

    def __init__(
        self, paths: Iterable[Path], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._paths = tuple(paths)
        self._clock = clock
        self._taken = self._look()

    def first(self, read: Callable[[Sequence[Path]], T]) -> T:
        """Return what is read from the files there are, all of it from one moment."""
        while True:
            found = read(list(self._taken))
            now = self._look()
            if now == self._taken:
                return found
            self._taken = now

    async def changes(self, read: Callable[[Sequence[Path]], T]) -> AsyncGenerator[T]:
        """Yield what is read from the files whenever they have changed and are quiet again.

        What was read while somebody wrote is dropped: a manifest that is missing from it would be
        taken for a removal.
        """
        seen, since = self._taken, self._clock()
        while True:
            await asyncio.sleep(LOOK)
            now = self._look()
            if now != seen:
                seen, since = now, self._clock()
            elif now != self._taken and self._clock() - since >= self._patience(now):
                found = read(list(now))
                if self._look() == now:
                    self._taken = now
                    yield found

    def _look(self) -> Signature:
        return signature(find_files(self._paths))

    def _patience(self, now: Signature) -> float:
        full = {path for path, (_, size, _) in now.items() if size > 0}
        return QUIET if self._taken.keys() <= full else GONE
