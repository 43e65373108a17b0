"""Noticing that somebody edited, added or removed a manifest."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path
from typing import Final

from holdfast_cli.local.manifests import Signature, find_files, signature

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

    @property
    def files(self) -> list[Path]:
        """The files there were at the last look that was worth one."""
        return list(self._taken)

    async def changes(self) -> AsyncGenerator[list[Path]]:
        """Yield the files there are whenever they have changed and are quiet again."""
        seen, since = self._taken, self._clock()
        while True:
            await asyncio.sleep(LOOK)
            now = self._look()
            if now != seen:
                seen, since = now, self._clock()
            elif now != self._taken and self._clock() - since >= self._patience(now):
                self._taken = now
                yield list(now)

    def _look(self) -> Signature:
        return signature(find_files(self._paths))

    def _patience(self, now: Signature) -> float:
        full = {path for path, (_, size, _) in now.items() if size > 0}
        return QUIET if self._taken.keys() <= full else GONE
