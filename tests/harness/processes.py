"""Worker processes: what must hold between processes is tested between processes.

A test gives a function of a module, or a module, and a number. Each worker is a process of its own: a
module's is a fresh interpreter, a function's is a fork of one that has only imported (see `forks`). It
speaks JSON lines: on stdout what it reports, on stdin what the test tells it; its stderr goes to a
file, and the end of that file is in every error.

    async def work(child: Child, *, url: str) -> int:
        await child.barrier()               # all begin at the same time
        child.report("begun")
        return 42

    async with Workers(work, 8, tmp_path, arguments={"url": server.url}) as workers:
        await workers.release()
        assert await workers.wait() == [42] * 8
"""

import asyncio
import contextlib
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from tests.harness.forks import Call, Fork

_LINE_LIMIT = 2**24
_TAIL_LINES = 25
_LOADED_LATER = ("holdfast.connecting", "holdfast.policy", "holdfast.store.redis")
"""What the library loads when it is first needed: nearly every worker needs it."""


class WorkerFailed(AssertionError):
    """A worker ended as it should not, or did not do in time what it should."""


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and only waits to be collected does not."""
    return _state(pid) != "Z"


def is_frozen(pid: int) -> bool:
    """Tell whether a process is stopped, as by SIGSTOP."""
    return _state(pid) == "T"


def _state(pid: int) -> str:
    """Return the letter that the kernel has for a process's state; `Z` also for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


class Child:
    """A worker's own side: its number and its two lines to the test.

    Attributes:
        index: 0 for the first worker, 1 for the next.
    """

    def __init__(self, index: int, reader: asyncio.StreamReader, output: TextIO) -> None:
        self.index = index
        self._output = output
        self._inbox: asyncio.Queue[Any] = asyncio.Queue()
        self._released = asyncio.Semaphore(0)
        self._listener = asyncio.create_task(self._listen(reader))

    async def barrier(self) -> None:
        """Wait until every worker is here and the test releases them."""
        self._say("waiting", None)
        await self._released.acquire()

    def report(self, value: Any) -> None:
        """Tell the test something; any JSON value."""
        self._say("report", value)

    async def receive(self) -> Any:
        """Wait for the next value that the test sends."""
        return await self._inbox.get()

    def finish(self, value: Any) -> None:
        """Give the worker's result."""
        self._say("result", value)

    def _say(self, kind: str, value: Any) -> None:
        self._output.write(json.dumps({"kind": kind, "value": value}) + "\n")
        self._output.flush()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            message = json.loads(line)
            if message["kind"] == "go":
                self._released.release()
            else:
                self._inbox.put_nowait(message["value"])
        os._exit(1)  # the test's process is gone, and nothing here is worth keeping


def run_child(
    work: Callable[..., Awaitable[Any]], index: int, arguments: Mapping[str, Any]
) -> None:
    """Run `work(child, **arguments)` in this process as a worker; for a module's `__main__` part."""

    async def main() -> None:
        # What the code under test prints must not get between the lines of the protocol.
        output = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        reader = asyncio.StreamReader(limit=_LINE_LIMIT)
        protocol = asyncio.StreamReaderProtocol(reader)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
        child = Child(index, reader, output)
        child.finish(await work(child, **arguments))
        output.close()

    asyncio.run(main())


class Worker:
    """The test's side of one worker process.

    Attributes:
        index: 0 for the first worker.
        reports: every value reported so far.
    """

    def __init__(
        self, index: int, process: asyncio.subprocess.Process | Fork, errors: Path
    ) -> None:
        self.index = index
        self.reports: list[Any] = []
        self._process = process
        self._errors = errors
        self._taken = 0
        self._waiting = 0
        self._result: Any = None
        self._ended = False
        self._news = asyncio.Event()
        self._listener = asyncio.create_task(self._listen())

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, value: Any) -> None:
        """Give the worker a value for its `receive()`."""
        self._tell({"kind": "message", "value": value})

    async def next_report(self, deadline: float = 120.0) -> Any:
        """Wait for the next report not yet asked for, in the order they were made."""
        await self._until(lambda: len(self.reports) > self._taken, "report anything", deadline)
        self._taken += 1
        return self.reports[self._taken - 1]

    async def at_barrier(self, deadline: float = 120.0) -> None:
        """Wait until the worker waits at its barrier."""
        await self._until(lambda: self._waiting > 0, "come to the barrier", deadline)

    def go(self) -> None:
        """Let the worker go on from the barrier."""
        self._waiting -= 1
        self._tell({"kind": "go"})

    def stop(self) -> None:
        """Freeze the process (SIGSTOP); back when it is frozen."""
        self._signal(signal.SIGSTOP)
        while is_alive(self.pid) and not is_frozen(self.pid):
            time.sleep(0.001)

    def cont(self) -> None:
        """Let a frozen process go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the process by SIGKILL, frozen or not."""
        self._signal(signal.SIGKILL)

    async def exit_code(self, deadline: float = 120.0) -> int:
        """Wait for the end, however it comes; minus the signal's number after a signal."""
        await self._until(lambda: self._ended, "end", deadline)
        return await self._process.wait()

    async def wait(self, deadline: float = 120.0) -> Any:
        """Wait for an orderly end and return the result."""
        code = await self.exit_code(deadline)
        if code != 0:
            raise WorkerFailed(self._sentence(f"ended with code {code}"))
        return self._result

    def close_input(self) -> None:
        """Say that nothing more will be sent. A worker that runs a function ends at that."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def close(self) -> None:
        """Kill the process if it is alive and let go of its pipes."""
        self.kill()
        await self._listener
        await self._process.wait()
        self.close_input()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            await self._process.stdin.wait_closed()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def _tell(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            kind, value = _parse(line)
            if kind == "waiting":
                self._waiting += 1
            elif kind == "result":
                self._result = value
            else:
                self.reports.append(value)
            self._news.set()
        self._ended = True
        self._news.set()

    async def _until(self, condition: Callable[[], bool], what: str, deadline: float) -> None:
        try:
            async with asyncio.timeout(deadline):
                while not condition():
                    if self._ended:
                        code = await self._process.wait()
                        raise WorkerFailed(self._sentence(f"ended ({code}) and did not {what}"))
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise WorkerFailed(self._sentence(f"did not {what} within {deadline:g} s")) from None

    def _sentence(self, what: str) -> str:
        tail = self._errors.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join([f"worker {self.index} (pid {self.pid}) {what}; its stderr ends:", *tail])


class Workers(Sequence[Worker]):
    """Worker processes for the length of an `async with` block, none of which outlives it.

    Args:
        target: an async function at the top of an importable module, called with a `Child` and the
            arguments, that returns a JSON value; or the name of a module for `python -m`.
        count: how many processes.
        directory: where each one's stderr goes, `worker-<index>.stderr`.
        arguments: JSON values, for a function by name.
        command_line: for a module.
    """

    def __init__(
        self,
        target: Callable[..., Awaitable[Any]] | str,
        count: int,
        directory: Path,
        *,
        arguments: Mapping[str, Any] | None = None,
        command_line: Sequence[str] = (),
    ) -> None:
        self._count = count
        self._directory = directory
        self._workers: list[Worker] = []
        self._target = target
        self._arguments = json.dumps(dict(arguments or {}))
        self._command_line = command_line

    def __getitem__(self, index: Any) -> Any:
        """Return one worker, or some."""
        return self._workers[index]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._workers)

    def __iter__(self) -> Iterator[Worker]:
        """Go through the workers in their order."""
        return iter(self._workers)

    async def __aenter__(self) -> Self:
        """Start them all."""
        try:
            for index in range(self._count):
                self._workers.append(await self._spawn(index))
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End those that still live."""
        await self._close()

    async def release(self, deadline: float = 120.0) -> None:
        """Wait until every worker is at its barrier, then let them all go."""
        await asyncio.gather(*(worker.at_barrier(deadline) for worker in self))
        for worker in self:
            worker.go()

    async def wait(self, deadline: float = 120.0) -> list[Any]:
        """Wait for the orderly end of all; returns their results in their order."""
        return await asyncio.gather(*(worker.wait(deadline) for worker in self))

    async def _spawn(self, index: int) -> Worker:
        path = self._directory / f"worker-{index}.stderr"
        with path.open("wb") as errors:
            if isinstance(self._target, str):
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-m", self._target, *self._command_line),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=errors,
                    limit=_LINE_LIMIT,
                )
            else:
                module, name = self._target.__module__, self._target.__qualname__
                call = Call(
                    f"{__name__}:work_forked",
                    [f"{module}:{name}", index, self._arguments],
                    load=[*_LOADED_LATER, module],
                )
                process = await Fork.start(call, errors=errors, limit=_LINE_LIMIT)
        return Worker(index, process, path)

    async def _close(self) -> None:
        await asyncio.gather(*(worker.close() for worker in self._workers))


def _parse(line: bytes) -> tuple[str, Any]:
    """Split a line of the protocol; what a module prints by itself is a report."""
    try:
        message = json.loads(line)
    except ValueError:
        return "report", line.decode(errors="replace").rstrip("\n")
    if isinstance(message, dict) and message.keys() == {"kind", "value"}:
        return message["kind"], message["value"]
    return "report", message


def work_forked(name: str, index: int, arguments: str) -> None:
    """Be the worker of this number, in a process that was forked for it."""
    module, _, function = name.partition(":")
    work = getattr(importlib.import_module(module), function)
    run_child(work, index, json.loads(arguments))
