"""Processes forked from one that has loaded already what they need.

An interpreter that starts by itself spends half a second of processor time on imports, and the tests start
more than a hundred workers. A fork is a process of its own like any other: it can be frozen and killed, and
takes nothing else along. It comes from a process that has done nothing but import: without threads, and
without anything of the tests.

`python -m tests.harness.forks` is that process. On the socket that is its standard input it is told, child
after child, what to call, and is given the child's three standard files and the one where it says the child's
id and at last its exit code. It ends with that socket; its children have to end with their own input.
"""

import asyncio
import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from functools import cache
from typing import IO, Any, NoReturn, Self

_LONGEST_ORDER = 2**17
_LOADED_LATER = ("holdfast.connecting", "holdfast.policy", "holdfast.store.redis")
"""What the library loads when it is first needed: nearly every child needs it."""


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
        cls, function: str, arguments: Sequence[str], *, load: str, errors: IO[bytes], limit: int
    ) -> Self:
        """Fork a child.

        Args:
            function: what it calls: `package.module:name`.
            arguments: of the function.
            load: a module that is loaded before the fork, and stays loaded for the next.
            errors: the file of its stderr.
            limit: bytes of the longest line that it writes.
        """
        pairs = [socket.socketpair() for _ in range(3)]
        (to_child, child_in), (from_child, child_out), (told, tells) = pairs
        order = {"function": function, "arguments": list(arguments), "load": load}
        try:
            _forker(os.getpid()).ask(
                {**order, "environ": dict(os.environ)},
                [child_in.fileno(), child_out.fileno(), errors.fileno(), tells.fileno()],
            )
        finally:
            for _, theirs in pairs:
                theirs.close()
        _, stdin = await asyncio.open_connection(sock=to_child)
        stdout, out = await asyncio.open_connection(sock=from_child, limit=limit)
        said, end = await asyncio.open_connection(sock=told)
        pid = int(await said.readline())

        async def ended() -> int:
            code = int(await said.readline())
            for writer in (out, end):
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


class _Forker:
    """The process that forks, as the one sees it that gives the orders."""

    def __init__(self) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        paths = os.pathsep.join(entry for entry in sys.path if entry)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": paths},
                start_new_session=True,
            )
        atexit.register(self._end)

    def ask(self, order: dict[str, Any], files: list[int]) -> None:
        socket.send_fds(self._orders, [json.dumps(order).encode()], files)

    def _end(self) -> None:
        self._orders.close()
        self._process.wait()


@cache
def _forker(_owner: int) -> _Forker:
    """Return the one of this process; a forked process that forks has its own."""
    return _Forker()


def main() -> None:
    """Fork until nobody is there to ask."""
    orders = socket.socket(fileno=os.dup(0))
    told: dict[int, socket.socket] = {}

    def reap(_number: int, _frame: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                with contextlib.suppress(OSError), told.pop(ended[0]) as tells:
                    tells.sendall(f"{os.waitstatus_to_exitcode(ended[1])}\n".encode())

    signal.signal(signal.SIGCHLD, reap)
    _load(_LOADED_LATER)
    while True:
        text, files, _, _ = socket.recv_fds(orders, _LONGEST_ORDER, 4)
        if not text:
            return
        order = json.loads(text)
        _load([order["load"], order["function"].partition(":")[0]])
        assert threading.active_count() == 1, "a fork beside other threads may never go on"
        gc.freeze()
        tells = socket.socket(fileno=files.pop())
        # Not reaped before it is known.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        child = os.fork()
        if child == 0:
            for other in (orders, tells, *told.values()):
                other.close()
            _live(order, files)
        told[child] = tells
        with contextlib.suppress(OSError):
            tells.sendall(f"{child}\n".encode())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        for file in files:
            os.close(file)


def _load(names: Sequence[str]) -> None:
    for name in names:
        # The child tries once more, and its errors are where they belong.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _live(order: dict[str, Any], files: list[int]) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        for target, file in enumerate(files):
            os.dup2(file, target)
            os.close(file)
        os.environ.clear()
        os.environ.update(order["environ"])
        module, _, name = order["function"].partition(":")
        getattr(importlib.import_module(module), name)(*order["arguments"])
        code = 0
    except BaseException:  # noqa: BLE001 - nobody sees it later, and the parent's code is not to go on
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
