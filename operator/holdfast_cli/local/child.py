"""The program that `--exec` runs beside the server."""

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
from typing import Final

from holdfast.errors import ConfigurationError

_PATIENCE: Final = 5.0
"""Seconds that it gets to end after a signal, each time."""


class ChildProgram:
    """A program with `HOLDFAST_URL` set.

    Args:
        command: as on a command line. No shell is involved: say `sh -c '...'` for one.

    Raises:
        ConfigurationError: there is no such program.
    """

    def __init__(self, command: str) -> None:
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise ConfigurationError(f"--exec cannot be read: {error}") from None
        if not self._words or shutil.which(self._words[0]) is None:
            raise ConfigurationError(f"--exec names no program that can be run: {command!r}")
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, url: str) -> None:
        """Start it with this `HOLDFAST_URL`.

        Raises:
            ConfigurationError: it cannot be run, such as a script that does not name its interpreter.
        """
        environ = os.environ | {"HOLDFAST_URL": url}
        try:
            self._process = await asyncio.create_subprocess_exec(*self._words, env=environ)
        except OSError as error:
            raise ConfigurationError(
                f"--exec names a program that cannot be run: {error.strerror}"
            ) from None

    async def wait(self) -> int:
        """Return its exit code, 128 and the signal's number if a signal ended it."""
        assert self._process is not None, "it was not started"
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    async def stop(self, number: signal.Signals) -> None:
        """End it: with the signal that we got, then SIGTERM, then SIGKILL, each with its patience."""
        process = self._process
        # The terminal sends Ctrl-C to the whole group, so the program has got that one already.
        first = None if number is signal.SIGINT else number
        for each in (first, signal.SIGTERM, signal.SIGKILL):
            if process is None or process.returncode is not None:
                return
            if each is not None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(each)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await process.wait()

    def kill(self) -> None:
        """End it at once, if it still runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
