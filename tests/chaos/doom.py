"""Death at a chosen point: what a process sends is counted, and at the N-th exchange it kills itself.

Counted are exchanges that can change something: requests to the API server that are no reads and no renewals
of a lease, and exchanges with Redis that are more than a question about the server. What is counted is
also written down, one line each with one `write`, so that it survives the death it leads to.
"""

import os
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any, Final, NamedTuple

import aiohttp

from holdfast.store.redis.carrier import PoolCarrier
from holdfast.store.redis.script import all_scripts
from tests.chaos.refusals import Refusals

SIGNALS: Final = frozenset({signal.SIGUSR1, signal.SIGUSR2})
"""By which a process is doomed and spared."""
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_QUESTIONS: Final = frozenset(
    {"PING", "INFO", "ROLE", "TIME", "HELLO", "CLIENT", "SCRIPT EXISTS", "CLUSTER", "COMMAND"}
)
_WORD: Final = re.compile(rb"\*\d+\r\n\$\d+\r\n([A-Za-z_]+)\r\n(?:\$\d+\r\n([^\r]{1,64})\r\n)?")
_SUBCOMMANDS: Final = frozenset({"SCRIPT", "ACL", "CONFIG"})


class Side(StrEnum):
    """Where a process dies: before an exchange is sent, or after its answer came."""

    BEFORE = "before"
    AFTER = "after"


class Point(NamedTuple):
    """A line of the trace. `number` counts from the last time the doom was armed."""

    at: float
    server: str
    number: int
    what: str

    @classmethod
    def read(cls, line: str) -> "Point":
        """Read a line of the trace."""
        at, server, number, what = line.split(" ", 3)
        return cls(float(at), server, int(number), what)


class Doom:
    """Counts exchanges and ends the process at one of them.

    Args:
        trace: a file descriptor for a line per exchange.
        die_at: the exchange to die at, counted from 0; None: none.
        side: before or after it.
        armed: whether it counts from the start, or from the first SIGUSR1.
    """

    def __init__(self, trace: int, die_at: int | None, side: Side, *, armed: bool) -> None:
        self._trace = trace
        self._die_at = die_at
        self._side = side
        self._armed = armed
        self._count = 0

    def arm(self) -> None:
        """Count from 0, and die."""
        self._armed, self._count = True, 0

    def disarm(self) -> None:
        """Count on, and live."""
        self._armed = False

    def listen(self) -> None:
        """Let SIGUSR1 arm and SIGUSR2 disarm."""
        signal.signal(signal.SIGUSR1, lambda *_: self.arm())
        signal.signal(signal.SIGUSR2, lambda *_: self.disarm())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    @asynccontextmanager
    async def exchange(self, server: str, what: str) -> AsyncGenerator[None]:
        """Hold an exchange: its number is taken at the beginning."""
        number = self._count
        self._count += 1
        line = f"{time.monotonic():.6f} {server} {number} {what}\n"
        os.write(self._trace, line.encode())
        if self._side is Side.BEFORE:
            self._die(number)
        yield
        if self._side is Side.AFTER:
            self._die(number)

    def _die(self, number: int) -> None:
        if self._armed and number == self._die_at:
            os.write(self._trace, f"{time.monotonic():.6f} died {number} here\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


def is_write(method: str, path: str) -> bool:
    """Whether a request to the API server counts."""
    return method.upper() not in _READS and "/leases" not in path


def commands_of(packed: bytes, scripts: Mapping[bytes, str]) -> list[str]:
    """Name the commands of a request as it goes over the wire: `EVALSHA put_policy`, `ACL SETUSER`.

    Arguments are left out: there are names of sessions among them.
    """
    found: list[str] = []
    for word, second in _WORD.findall(packed):
        name = word.decode().upper()
        if name.startswith("EVALSHA"):
            name += f" {scripts.get(second, '?')}"
        elif name in _SUBCOMMANDS:
            name += f" {second.decode(errors='replace').upper()}"
        found.append(name)
    return found


def summary(commands: list[str]) -> str:
    """Return commands as a word: `ZSCAN + 100 EVALSHA roll_out`."""
    found = Counter(commands)
    return " + ".join(name if times == 1 else f"{times} {name}" for name, times in found.items())


def counts(commands: list[str]) -> bool:
    """Whether an exchange with Redis counts: one of its commands is more than a question."""
    return any(name not in _QUESTIONS for name in commands)


def watch_requests(doom: Doom, refuse: Refusals | None = None) -> None:
    """Count what this process sends to the API server, and let some of it be refused.

    Closest to the wire, so that a request that is repeated is one more.
    """
    begin: Any = aiohttp.ClientSession.__init__

    async def send(
        request: aiohttp.ClientRequest, onward: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if not is_write(request.method, request.url.path):
            return await onward(request)
        async with doom.exchange("api", f"{request.method} {request.url.path}"):
            instead = None if refuse is None else refuse.instead_of(request.method)
            if instead is None:
                return await onward(request)
            if instead.executed:
                (await onward(request)).release()
            return await instead.answer()

    def begun(self: aiohttp.ClientSession, *given: Any, **named: Any) -> None:
        begin(self, *given, **named | {"middlewares": (*named.get("middlewares", ()), send)})

    aiohttp.ClientSession.__init__ = begun


def watch_redis(doom: Doom) -> None:
    """Count what this process sends to Redis."""
    original: Any = PoolCarrier._exchange
    scripts = {script.sha: script.name for script in all_scripts()}

    async def exchange(self: PoolCarrier, places: Any, packed: bytes, *more: Any) -> Any:
        commands = commands_of(packed, scripts)
        if not counts(commands):
            return await original(self, places, packed, *more)
        async with doom.exchange("redis", summary(commands)):
            return await original(self, places, packed, *more)

    PoolCarrier._exchange = exchange
