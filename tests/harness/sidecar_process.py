"""A sidecar as its own process, on a Unix socket and a port for its status."""

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.harness.waiting import until

POD = {
    "HOLDFAST_POD_NAMESPACE": "team-a",
    "HOLDFAST_POD_NAME": "agent-1",
    "HOLDFAST_POD_UID": "0f3c5a1e-0000-4000-8000-000000000000",
}
HOLDER = "team-a/agent-1/0f3c5a1e"


class SidecarProcess:
    """A running sidecar.

    Attributes:
        socket: path of its data socket.
        status: URL of its status listener.
        http: URL of its port for data.
    """

    def __init__(self, process: asyncio.subprocess.Process, directory: Path) -> None:
        self.process = process
        self.socket = directory / "api.sock"
        self.status = ""
        self.http = ""
        self._log = directory / "log"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def resident(self) -> int:
        """Bytes of memory that the process holds."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024

    def client(self, **options: Any) -> httpx.AsyncClient:
        """A client over the Unix socket."""
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(self.socket)),
            base_url="http://sidecar",
            timeout=httpx.Timeout(60),
            **options,
        )

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of one's own."""
        return await asyncio.open_unix_connection(str(self.socket))

    async def listening(self) -> None:
        """Wait until it serves."""

        def ready() -> bool:
            assert self.process.returncode is None, self.log
            return "listening on" in self.log

        await until(ready, "the sidecar listens")
        line = next(line for line in self.log.splitlines() if "listening on" in line)
        ports = re.findall(r"127\.0\.0\.1:(\d+)", line)
        self.http = f"http://127.0.0.1:{ports[0]}"
        self.status = f"http://127.0.0.1:{re.findall(r'status on 127.0.0.1:([0-9]+)', line)[0]}"

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        async with asyncio.timeout(120):
            return await self.process.wait()


@asynccontextmanager
async def running_sidecar(
    *arguments: str, environ: Mapping[str, str] = POD, command: Sequence[str] = ()
) -> AsyncGenerator[SidecarProcess]:
    """Run a sidecar for the length of a block.

    Args:
        arguments: besides those that say where to listen.
        environ: added to what Python needs.
        command: instead of the module, such as another entry point.
    """
    directory = Path(tempfile.mkdtemp(prefix="sc-"))  # a socket's path has to be short
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    places = ("--unix", str(directory / "api.sock"), "--http", "127.0.0.1:0")
    try:
        with (directory / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *(command or ("-m", "holdfast_sidecar")),
                *places,
                "--status",
                "127.0.0.1:0",
                *arguments,
                env={"PATH": os.defpath, "PYTHONPATH": paths, **environ},
                stdout=log,
                stderr=log,
            )
        sidecar = SidecarProcess(process, directory)
        try:
            await sidecar.listening()
            yield sidecar
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
