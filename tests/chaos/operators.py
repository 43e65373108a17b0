"""Doomed operators, born in a nursery, each for one namespace."""

import asyncio
import contextlib
import json
import os
import select
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from holdfast_operator.__main__ import parser as operator_parser
from tests.chaos.doom import Point, Side
from tests.harness.operator_process import ROOT
from tests.harness.waiting import until

_ALONE = ("--leader-election=false", "--health-port=0")


@dataclass(frozen=True, slots=True)
class Fate:
    """How an operator is doomed.

    Attributes:
        die_at: the exchange it dies at; None: it lives.
        side: before or after that exchange.
        plant: a bug in it.
        refuse: how many of its writes the API server refuses, 0 to 1.
        refusals: the URL of the answers.
        seed: of what is random.
    """

    die_at: int | None = None
    side: Side = Side.BEFORE
    plant: str | None = None
    refuse: float = 0.0
    refusals: str = ""
    seed: int = 0

    def arguments(self) -> list[str]:
        """Return the words on the command line."""
        words: list[str] = []
        if self.die_at is not None:
            words += [f"--die-at={self.die_at}", f"--side={self.side}"]
        if self.plant is not None:
            words.append(f"--plant={self.plant}")
        if self.refuse:
            words += [f"--refuse={self.refuse}", f"--refusals={self.refusals}"]
        return [*words, f"--seed={self.seed}"]


class Operator:
    """A running operator.

    Args:
        pid: its process.
        log: the file of its log.
        trace: the file of what it sent.
    """

    def __init__(self, pid: int, log: Path, trace: Path) -> None:
        self._pid = pid
        self._log = log
        self._trace = trace
        try:
            self._handle = os.pidfd_open(pid)
        except ProcessLookupError:
            self._handle = None

    @property
    def alive(self) -> bool:
        """Whether it lives."""
        if self._handle is None:
            return False
        ended, _, _ = select.select([self._handle], [], [], 0)
        return not ended

    def log(self) -> str:
        """Return everything it wrote."""
        return self._log.read_text("utf-8", errors="replace") if self._log.exists() else ""

    def points(self) -> list[Point]:
        """Return what it sent, its death included."""
        if not self._trace.exists():
            return []
        return [Point.read(line) for line in self._trace.read_text("utf-8").splitlines()]

    def sent(self) -> list[Point]:
        """Return what it sent."""
        return [point for point in self.points() if point.server != "died"]

    @property
    def doomed(self) -> bool:
        """Whether it died as it was told to."""
        return any(point.server == "died" for point in self.points())

    def arm(self) -> None:
        """Let it die at its point, counted from now."""
        self._signal(signal.SIGUSR1)

    def disarm(self) -> None:
        """Let it live."""
        self._signal(signal.SIGUSR2)

    async def kill(self) -> None:
        """End it with SIGKILL."""
        self._signal(signal.SIGKILL)
        await until(lambda: not self.alive, "the operator is gone")
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _signal(self, number: signal.Signals) -> None:
        if self._handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)


class Nursery:
    """Bears operators in its `async with` block, which they do not outlive.

    Args:
        directory: for logs and traces.
        kubeconfig: how they reach the API server.
    """

    def __init__(self, directory: Path, kubeconfig: Path) -> None:
        self._directory = directory
        self._kubeconfig = kubeconfig
        self._known = operator_parser({}).format_help()
        self._process: asyncio.subprocess.Process | None = None
        self._orders = asyncio.Lock()
        self._born = 0

    async def __aenter__(self) -> Self:
        """Load the operator's code."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.chaos.nursery",
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={"PATH": os.defpath, "HOME": str(self._directory)},
            start_new_session=True,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End, and all of them with it."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def bear(
        self,
        namespace: str,
        fate: Fate,
        *,
        armed: bool = False,
        kubeconfig: Path | None = None,
    ) -> Operator:
        """Start an operator.

        Args:
            namespace: the one it serves.
            fate: how it is doomed.
            armed: whether its doom counts from the start.
            kubeconfig: its own way to the API server.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._born += 1
        name = f"{namespace}.{self._born}"
        log, trace = (self._directory / f"{name}.{end}" for end in ("log", "trace"))
        own = [
            f"--kubeconfig={kubeconfig or self._kubeconfig}",
            f"--namespace={namespace}",
            *(word for word in _ALONE if word.partition("=")[0] in self._known),
        ]
        words = [*fate.arguments(), f"--trace={trace}", *([] if armed else ["--spared"]), *own]
        order = json.dumps({"arguments": words, "log": str(log)})
        async with self._orders:
            self._process.stdin.write(f"{order}\n".encode())
            pid = await self._process.stdout.readline()
        assert pid, "the nursery has ended"
        return Operator(int(pid), log, trace)
