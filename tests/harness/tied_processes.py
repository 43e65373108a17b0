"""Server processes that never outlive the process that started them, however it ends."""

import atexit
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LAZY_COLLECTOR = {"GOGC": "400"}
"""For programs in Go: more memory, and a tenth less of the processor's time."""


class TiedProcesses:
    """Processes by name, each with a log in `directory`: `<name>.log`, added to by a restart.

    They run in that directory with nothing of the caller's environment. On Linux the kernel ends
    them with this process, even when it is killed; elsewhere an orderly exit does.
    """

    def __init__(self, directory: Path, commands: Mapping[str, list[str]]) -> None:
        self._directory = directory
        self._commands = commands
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        # The kernel ends a child with the thread that started it, not with its process. So this
        # thread, which lives until `stop`, starts them all, whoever asks from wherever.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tied-processes")
        atexit.register(self.stop)

    def start(self, name: str) -> None:
        """Start the process of this name, which must not be running."""
        self._running[name] = self._starter.submit(self._spawn, name).result()

    def kill(self, name: str) -> None:
        """End a process with SIGKILL and wait for it; a stopped one too."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a running process."""
        self._running[name].send_signal(number)

    def pid(self, name: str) -> int:
        """The process id of a running process."""
        return self._running[name].pid

    def stop(self) -> None:
        """Kill whatever runs. Nothing can be started afterwards; again is harmless."""
        atexit.unregister(self.stop)
        for name in list(self._running):
            self.kill(name)
        self._starter.shutdown()

    def ended(self) -> str | None:
        """The name of one that ended by itself, if there is one."""
        names = (name for name, process in self._running.items() if process.poll() is not None)
        return next(names, None)

    def log_tail(self, name: str, lines: int = 20) -> str:
        """The last lines of a log."""
        text = self._log(name).read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    def _spawn(self, name: str) -> subprocess.Popen[bytes]:
        with self._log(name).open("ab") as log:
            return subprocess.Popen(
                _tied(self._commands[name]),
                env={"PATH": os.defpath, "HOME": str(self._directory), **LAZY_COLLECTOR},
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the tests; it is they who end the servers.
                start_new_session=True,
            )


# Runs in a fresh interpreter that turns into the server: in a fork of this process, next to its
# other threads, the same could deadlock.
_END_WITH_PARENT = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def _tied(command: list[str]) -> list[str]:
    if sys.platform != "linux":
        return command
    return [sys.executable, "-I", "-S", "-c", _END_WITH_PARENT, str(os.getpid()), *command]
