"""Processes forked from one that has loaded already what they need.

An interpreter that starts by itself spends half a second of processor time on imports, for the operator more
than one, and the tests start hundreds. A fork is a process of its own like any other: it can be frozen and
killed, and takes nothing else along. It comes from a process that has done nothing but import: without
threads, and without anything of the tests.

`python -m tests.harness.forks` is that process. On the socket that is its standard input it is told, child
after child, what to call, and is given the child's three standard files and the one where it says the child's
id and at last its exit code. It ends with that socket. A worker ends with its own input, a program with the
process that forked it.
"""

import asyncio
import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO, NoReturn, Self

_LONGEST_ORDER = 2**17
_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Call:
    """What a child does.

    Attributes:
        function: `package.module:name`; what it returns, if it is a number, is the exit code.
        arguments: of the function, JSON values.
        load: modules that are loaded before the fork, and stay loaded for the next. Calls with the same
            first module share the process that forks.
        environ: the environment; absent: that of the process that orders.
        directory: where it runs, with no terminal, until the process ends that forked it; absent: as any
            child.
    """

    function: str
    arguments: Sequence[object]
    load: Sequence[str]
    environ: Mapping[str, str] | None = None
    directory: str = ""


class Fork:
    """A child, with what `asyncio.subprocess.Process` has of it.

    Attributes:
        pid: of the process.
        stdin: where to write what it reads.
        stdout: what it writes.
    """

    def __init__(
        self,
        pid: int,
        stdin: asyncio.StreamWriter,
        stdout: asyncio.StreamReader,
        code: asyncio.Task[int],
    ) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self._code = code

    @classmethod
    async def start(
        cls, call: Call, *, errors: IO[bytes] | None = None, limit: int = 2**16
    ) -> Self:
        """Fork a child.

        Args:
            call: what it does.
            errors: the file of its stderr; absent: it goes where its stdout goes.
            limit: bytes of the longest line that it writes.
        """
        (to_child, child_in), (from_child, child_out) = (socket.socketpair() for _ in range(2))
        with child_in, child_out:
            out = child_out.fileno()
            files = (child_in.fileno(), out, out if errors is None else errors.fileno())
            told = _fork(call, files)
        _, stdin = await asyncio.open_connection(sock=to_child)
        stdout, end_of_out = await asyncio.open_connection(sock=from_child, limit=limit)
        said, end = await asyncio.open_connection(sock=told)
        pid = int(await said.readline())

        async def ended() -> int:
            code = int(await said.readline())
            for writer in (end_of_out, end):
                writer.close()
            return code

        return cls(pid, stdin, stdout, asyncio.create_task(ended()))

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal.

        Raises:
            ProcessLookupError: it has ended.
        """
        if self._code.done():
            raise ProcessLookupError
        os.kill(self.pid, number)

    async def wait(self) -> int:
        """Wait until it has ended and return its code; minus the signal's number after a signal."""
        return await asyncio.shield(self._code)


class Program:
    """A forked program, with what `subprocess.Popen` has of it. It never outlives this process.

    Args:
        call: what it does.
        log: the file that its output and its errors are added to.

    Attributes:
        pid: of the process.
    """

    def __init__(self, call: Call, log: Path) -> None:
        with log.open("ab") as output, Path(os.devnull).open("rb") as null:
            files = (null.fileno(), output.fileno(), output.fileno())
            self._told = _fork(call, files)
        self._said = self._told.makefile("rb", buffering=0)  # `select` sees what was not read
        self.pid = int(self._said.readline())
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, if it has ended; minus the signal's number after a signal."""
        if self._code is None and select.select([self._told], [], [], 0)[0]:
            self.wait()
        return self._code

    def wait(self) -> int:
        """Wait until it has ended and return its code."""
        if self._code is None:
            self._code = int(self._said.readline())
            self._said.close()
            self._told.close()
        return self._code

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens when it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.send_signal(signal.SIGKILL)


def run_program(function: str, name: str, arguments: Sequence[str]) -> object:
    """Call a function that reads its command line from `sys.argv`; for a `Call`."""
    sys.argv = [name, *arguments]
    return _found(function)()


def _found(function: str) -> Callable[..., object]:
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def _fork(call: Call, files: Sequence[int]) -> socket.socket:
    """Fork a child; return the socket where the id and the exit code come, a line each."""
    told, tells = socket.socketpair()
    with tells:
        environ = dict(os.environ if call.environ is None else call.environ)
        order = json.dumps({**asdict(call), "environ": environ}).encode()
        orders = _forker(os.getpid(), call.load[0])
        socket.send_fds(orders, [order], [*files, tells.fileno()])
    return told


@cache
def _forker(_owner: int, _family: str) -> socket.socket:
    """Start a process that forks, and return where it takes orders.

    Each family has its own, so that it has loaded nothing of another; and a fork that forks has its own.
    """
    orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": paths},
            start_new_session=True,
        )

    def end() -> None:
        orders.close()
        process.wait()

    atexit.register(end)
    return orders


def main() -> None:
    """Fork until nobody is there to ask."""
    orders = socket.socket(fileno=os.dup(0))
    told: dict[int, socket.socket] = {}
    # A handler would not run for a child that ends just before `recvmsg` waits. `select` sees what is sent.
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    while True:
        ready = select.select([orders, woken], [], [])[0]
        if woken in ready:
            woken.recv(4096)
            _reap(told)
        if orders not in ready:
            continue
        text, files, _, _ = socket.recv_fds(orders, _LONGEST_ORDER, 4)
        if not text:
            return
        call = Call(**json.loads(text))
        for name in call.load:
            # The child tries once more, and its errors are where they belong.
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        assert threading.active_count() == 1, "a fork beside other threads may never go on"
        gc.freeze()
        tells = socket.socket(fileno=files.pop())
        child = os.fork()
        if child == 0:
            signal.set_wakeup_fd(-1)
            for other in (orders, woken, wakes, tells, *told.values()):
                other.close()
            _live(call, files)
        told[child] = tells
        with contextlib.suppress(OSError):
            tells.sendall(f"{child}\n".encode())
        for file in files:
            os.close(file)


def _reap(told: dict[int, socket.socket]) -> None:
    """Say the exit codes of children that ended."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with contextlib.suppress(OSError), told.pop(ended[0]) as tells:
                tells.sendall(f"{os.waitstatus_to_exitcode(ended[1])}\n".encode())


def _live(call: Call, files: Sequence[int]) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if call.directory:
            ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
            os.setsid()
            os.chdir(call.directory)
        for target, file in enumerate(files):
            os.dup2(file, target)
            os.close(file)
        os.environ.clear()
        os.environ.update(call.environ or {})
        returned = _found(call.function)(*call.arguments)
        code = returned if isinstance(returned, int) else 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - nobody sees it later, and the parent's code is not to go on
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
