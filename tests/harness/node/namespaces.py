"""The namespaces of a node: network, mounts and processes, apart from those of this machine."""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Self

from tests.harness.node.programs import Programs
from tests.harness.tied_processes import TiedProcesses

BRIDGE = "holdfast-node"
ADDRESS = "10.250.0.1"
_LENGTH = 24

_FIRST = Path(__file__).with_name("first_process.py")
_NAME = "namespaces"


class NamespacesFailed(Exception):
    """They could not be made; says what the first process said."""


class Namespaces:
    """Namespaces and their first process, which ends with this one, and all others with it.

    Args:
        directory: for the folders that are private to the node, and the log of the first process.
        services: the range of addresses that rules, not routes, lead on.
    """

    def __init__(self, directory: Path, programs: Programs, services: str) -> None:
        self._directory = directory
        self._nsenter = programs.system["nsenter"]
        command = [programs.system["unshare"], "--net", "--mount", "--pid", "--mount-proc"]
        command += ["--fork", "--kill-child=SIGKILL", "--", sys.executable, "-I", "-S", str(_FIRST)]
        command += [str(directory), BRIDGE, f"{ADDRESS}/{_LENGTH}", services]
        self._processes = TiedProcesses(directory, {_NAME: command})
        self._first: int | None = None

    def start(self, *, deadline: float = 30) -> Self:
        """Make them, and wait until they can be used, for at most `deadline` seconds."""
        self._processes.start(_NAME)
        end = time.monotonic() + deadline
        while not (self._directory / "ready").exists():
            if self._processes.ended() or time.monotonic() > end:
                self._processes.stop()
                raise NamespacesFailed(self._processes.log_tail(_NAME))
            time.sleep(0.01)
        self._first = _only_child(self._processes.pid(_NAME))
        return self

    @property
    def first(self) -> int:
        """The id of the first process, as this machine counts."""
        assert self._first is not None, "start() comes first"
        return self._first

    @property
    def network(self) -> tuple[str, ...]:
        """What stands before a command that is to use the node's network, and nothing else of it.

        The command takes the place of this one: its process id and its end are its own.
        """
        return (self._nsenter, f"--net=/proc/{self.first}/ns/net", "--")

    @property
    def inside(self) -> tuple[str, ...]:
        """What stands before a command that is to run in the node altogether."""
        return (self._nsenter, f"--target={self.first}", "--net", "--mount", "--pid", "--")

    def stop(self, *, deadline: float = 30) -> None:
        """End every process in them, and wait for it. Again is harmless."""
        if self._first is not None and self._processes.ended() is None:
            # The kernel lets a first process go only after all others.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._first, signal.SIGKILL)
            end = time.monotonic() + deadline
            while self._processes.ended() is None and time.monotonic() < end:
                time.sleep(0.01)
        self._first = None
        self._processes.stop()


def _only_child(parent: int) -> int:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii")
    (child,) = (int(pid) for pid in text.split())
    return child
