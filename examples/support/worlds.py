"""Where the demo takes place: `holdfast dev` on this machine, or a Kubernetes API server."""

import asyncio
import contextlib
import re
import shutil
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol

HERE = Path(__file__).parent
MEMORY = "memory.yaml"


class World(Protocol):
    """A place where manifests are in force.

    Attributes:
        name: what people should read.
        url: what `holdfast.connect()` takes.
    """

    name: str
    url: str

    async def edit(self, manifest: str) -> None:
        """Put another text in the place of `memory.yaml`."""
        ...

    async def followed(self, revision: int) -> str:
        """Wait until it is reported that every session follows a revision; return that sentence."""
        ...


class WorldFailed(Exception):
    """It did not come up or did not do in time what it should."""


class Local:
    """`holdfast dev` as a process of its own, with an embedded Valkey that leaves nothing behind."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.name = "`holdfast dev` with its own Valkey"
        self.url = ""
        self._process = process
        self._folder = folder
        self._said: list[str] = []
        self._news = asyncio.Event()
        self._listener = asyncio.create_task(self._listen())

    async def edit(self, manifest: str) -> None:
        """Write the file; `holdfast dev` notices."""
        (self._folder / MEMORY).write_text(manifest, encoding="utf-8")

    async def followed(self, revision: int) -> str:
        """Wait for the line that says so."""
        line = await self._line(rf"Every live session follows revision {revision}\.")
        return line.partition("Applied: ")[2]

    async def until_ready(self) -> None:
        """Wait until the memory is Ready, and find the address to paste."""
        export = await self._line("^export HOLDFAST_URL=")
        self.url = export.partition("'")[2].rstrip("'")
        await self._line(r"^local/support +True")

    async def stop(self) -> None:
        """End it as Ctrl-C does."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        await self._process.wait()
        await self._listener

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._said.append(line.decode().rstrip())
            self._news.set()
        self._said.append("")
        self._news.set()

    async def _line(self, pattern: str, deadline: float = 60.0) -> str:
        """Wait for a line that matches."""
        try:
            async with asyncio.timeout(deadline):
                while True:
                    self._news.clear()
                    for line in self._said:
                        if re.search(pattern, line):
                            return line
                    if self._listener.done():
                        break
                    await self._news.wait()
        except TimeoutError:
            pass
        raise WorldFailed("`holdfast dev` did not say what it should:\n" + "\n".join(self._said))


@contextlib.asynccontextmanager
async def local(folder: Path) -> AsyncGenerator[Local]:
    """Run `holdfast dev` on copies of the manifests here.

    Args:
        folder: an empty one, for the copies.
    """
    for file in HERE.glob("*.yaml"):
        shutil.copy(file, folder)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "holdfast_cli", "dev", "--ephemeral", "-f", str(folder)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for the demo, which ends it in order
    )
    world = Local(process, folder)
    try:
        await world.until_ready()
        yield world
    finally:
        await world.stop()
