"""The sidecar beside the library in this process: one caller, many callers, memory, start."""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvloop
from callers import Caller
from measure import Call, Figure, alternating, figure, microseconds, ratio, run_on
from scene import FULL, MESSAGE, POLICY, TOKENS

import holdfast
from tests.harness.servers import Product, Server, running_server
from tests.harness.sidecar_apart import SidecarApart

HERE = Path(__file__).parent
MEMORY = "bench"
CROWD = 64
TOOLS = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Load:
    """What a run of many callers gave, and what the processes spent on it.

    Attributes:
        rate: appends per second.
        spent: seconds of CPU per second, by process.
    """

    rate: float
    spent: dict[str, float]

    def told(self) -> str:
        """Say which process used how much of a processor."""
        parts = ", ".join(f"{name} {share:.0%}" for name, share in self.spent.items())
        return f"of a processor: {parts}"


def bench(scale: int) -> list[Figure]:
    """Measure all of it on a Valkey of its own."""
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        with running_server(Product.VALKEY, directory / "valkey") as server:
            figures = started(server, directory, scale)
            with running(server, directory) as sidecar:
                for measured in (one_caller, one_program):
                    figures += run_on(
                        uvloop.new_event_loop, measured(server.url, sidecar.socket, scale)
                    )
            return figures + crowds(server, directory, scale)


@contextmanager
def running(server: Server, directory: Path) -> Generator[SidecarApart]:
    """Run a sidecar that serves one memory under the benchmark's policy."""
    with (
        tempfile.TemporaryDirectory(dir=directory) as own,
        SidecarApart.running(Path(own), server.url, policy=POLICY, memories=[MEMORY]) as sidecar,
    ):
        yield sidecar


def started(server: Server, directory: Path, scale: int) -> list[Figure]:
    """Start processes, one after the other, and look at what they take at rest and after a count."""
    ready: list[float] = []
    before: list[float] = []
    after: list[float] = []
    spoken: list[float] = []
    for at in range(max(2, scale // 2) + 1):
        began = time.monotonic()
        with running(server, directory) as sidecar:
            sidecar.wait_until_ready()
            if at:
                ready.append(time.monotonic() - began)
            before.append(resident(sidecar.pid))
            caller = Caller(str(sidecar.socket), MEMORY, "counted")
            for _ in range(20):
                caller.append()
            caller.connection.close()
            after.append(resident(sidecar.pid))
            told = sidecar.ask("POST", "/mcp", TOOLS, {"accept": "application/json"})
            assert told.status == 200, told
            spoken.append(resident(sidecar.pid))
    note = f"{len(ready)} processes, files in the cache"
    return [
        figure(
            "sidecar: ready after the start of its process",
            statistics.median(ready),
            "s",
            "<= 1.5",
            f"{note}; /readyz answers, so the store does",
        ),
        figure("sidecar: resident before the first count", max(before), "MiB", "<= 60", note),
        figure(
            "sidecar: resident with a tokenizer",
            max(after),
            "MiB",
            "<= 150",
            f"{note}; o200k_base, twenty appends; without MCP",
        ),
        figure(
            "sidecar: resident with a tokenizer and MCP",
            max(spoken),
            "MiB",
            None,
            f"{note}; one call",
        ),
    ]


def resident(pid: int) -> float:
    """Return the MiB of a process that are in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def one_caller(url: str, path: Path, scale: int) -> list[Figure]:
    """Append over the socket and in this process, op by op."""
    async with holdfast.connect(url, policy=POLICY) as client:
        session = client.memory("in-process").session("one")
        filled = await session.append_many([MESSAGE] * FULL)
        assert filled.tokens == FULL * TOKENS
        caller = Caller(str(path), MEMORY, "one")

        async def over_http() -> None:
            caller.append()

        calls: dict[str, Call] = {
            "library": lambda: session.append(MESSAGE),
            "sidecar": over_http,
        }
        rounds = await alternating(calls, rounds=7, each=60 * scale)
        caller.connection.close()
    note = (
        f"op by op, full sessions, uvloop; library {microseconds(rounds, 'library'):.0f} us, "
        f"sidecar {microseconds(rounds, 'sidecar'):.0f} us"
    )
    value = ratio(rounds, "sidecar", "library")
    return [figure("append over the Unix socket, 1 client", value, "x", "<= 3", note)]


async def one_program(url: str, path: Path, scale: int) -> list[Figure]:
    """Append with the library over the socket, as a Python program in a pod does, and in this process."""
    async with (
        holdfast.connect(url, policy=POLICY) as here,
        holdfast.connect(f"http+unix://{path}") as there,
    ):
        sessions = {
            "library": here.memory("in-process").session("program"),
            "over the socket": there.memory(MEMORY).session("program"),
        }
        calls: dict[str, Call] = {}
        for name, session in sessions.items():
            filled = await session.append_many([MESSAGE] * FULL)
            assert filled.tokens == FULL * TOKENS
            calls[name] = partial(session.append, MESSAGE)
        rounds = await alternating(calls, rounds=7, each=60 * scale)
    note = (
        f"op by op, full sessions, uvloop; library {microseconds(rounds, 'library'):.0f} us, "
        f"over the socket {microseconds(rounds, 'over the socket'):.0f} us"
    )
    value = ratio(rounds, "over the socket", "library")
    # No target: what aiohttp takes beside the sidecar is its own, and who counts microseconds mounts the
    # binding instead.
    return [figure('append by connect("http+unix://"), 1 client', value, "x", None, note)]


def crowds(server: Server, directory: Path, scale: int) -> list[Figure]:
    """Append from many callers at once, in the library and over the socket, taking turns."""
    seconds = max(1.0, scale / 2)
    library: list[Load] = []
    sidecar: list[Load] = []
    with running(server, directory) as process:
        for _ in range(5):
            with uvloop_runner() as runner:
                library.append(runner.run(in_process(server, seconds)))
            sidecar.append(over_socket(server, process, seconds))
    ratios = [there.rate / here.rate for here, there in zip(library, sidecar, strict=True)]
    best = max(sidecar, key=lambda load: load.rate)
    own = max(library, key=lambda load: load.rate)
    return [
        figure(
            f"appends per second, {CROWD} clients over the Unix socket, beside the library's",
            statistics.median(ratios),
            "x",
            ">= 0.25",
            f"sidecar {best.rate:.0f}/s, {best.told()}; library {own.rate:.0f}/s, {own.told()}",
        ),
        figure(f"appends per second, {CROWD} clients over the Unix socket", best.rate, "1/s"),
    ]


def uvloop_runner() -> asyncio.Runner:
    """Return what runs the library as the sidecar does."""
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


async def in_process(server: Server, seconds: float) -> Load:
    """Append in as many tasks as there are callers, for a while."""
    async with holdfast.connect(server.url, policy=POLICY) as client:
        memory = client.memory("in-process")
        sessions = [memory.session(f"crowd-{at}") for at in range(CROWD)]
        await asyncio.gather(*(one.append_many([MESSAGE] * FULL) for one in sessions))
        done = 0
        loop = asyncio.get_running_loop()
        pids = {"the library": os.getpid(), "Valkey": server.pid}
        spent = {name: cpu_seconds(pid) for name, pid in pids.items()}
        began = loop.time()

        async def appending(session: holdfast.Session) -> None:
            nonlocal done
            while loop.time() < began + seconds:
                await session.append(MESSAGE)
                done += 1

        await asyncio.gather(*map(appending, sessions))
        took = loop.time() - began
        shares = {name: (cpu_seconds(pid) - spent[name]) / took for name, pid in pids.items()}
    return Load(done / took, shares)


def over_socket(server: Server, sidecar: SidecarApart, seconds: float) -> Load:
    """Let a process of its own append over as many connections, for a while."""
    command = [sys.executable, str(HERE / "callers.py"), str(sidecar.socket), str(CROWD)]
    with subprocess.Popen(
        [*command, str(seconds), MEMORY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        pids = {"the sidecar": sidecar.pid, "Valkey": server.pid}
        spent = {name: cpu_seconds(pid) for name, pid in pids.items()}
        worker.stdin.write("\n")
        worker.stdin.flush()
        done, took, own = map(float, worker.stdout.readline().split())
        shares = {name: (cpu_seconds(pid) - spent[name]) / took for name, pid in pids.items()}
    return Load(done / took, shares | {"the callers": own / took})


def cpu_seconds(pid: int) -> float:
    """Return the seconds of CPU that a process has used, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
