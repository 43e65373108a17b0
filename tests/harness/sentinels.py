"""A primary, its replica, and three sentinels that make the one the other."""

import contextlib
from collections.abc import Generator
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from holdfast.embedded import find_binary, reserve_port
from tests.harness.servers import Product, Server, redis_client, run_apart
from tests.harness.tied_processes import TiedProcesses
from tests.harness.waiting import until

NAME = "memory"
"""What the sentinels call the primary."""

_FAILOVER = 5000  # ms for a failover, and half of what lies between two attempts
# In ms; the defaults would make each test wait some ten seconds. No shorter period of publishing: the
# sentinel that fails over asks the new primary only once a second what it is. The others, who see a replica
# that calls itself a primary beside one that is well, make it a replica again after four times that period,
# unless they have been told by then.
_PERIODS = ("PUBLISH-PERIOD", 500, "INFO-PERIOD", 300, "ELECTION-TIMEOUT", 2000)


class Sentinels:
    """Five processes on 127.0.0.1; a failover needs two of the three sentinels.

    Args:
        directory: for logs, configurations and data.
        down_after: milliseconds without an answer after which a sentinel thinks a server down. A machine
            that is busy for as long makes the servers change places by themselves.

    Attributes:
        servers: the two, the first primary first; who it is later `primary()` says.
        ports: of the sentinels.
    """

    def __init__(self, directory: Path, *, down_after: int = 700) -> None:
        self._down_after = down_after
        self.servers: list[Server] = []
        self.ports: list[int] = []
        self._directory = directory
        self._running = AsyncExitStack()
        self._processes: TiedProcesses | None = None

    @property
    def url(self) -> str:
        """The address of the primary, whichever it is."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"redis+sentinel://{hosts}/{NAME}"

    async def primary(self) -> Server:
        """The server that the sentinels name now."""
        port = await self._named(self.ports[0])
        return next(server for server in self.servers if server.port == port)

    async def replica(self) -> Server:
        """The other one."""
        primary = await self.primary()
        return next(server for server in self.servers if server is not primary)

    async def agreed(self, primary: Server, *, deadline: float = 120.0) -> None:
        """Wait until every sentinel names this one, and it is what they say, both at once.

        Args:
            primary: who should be it.
            deadline: seconds.

        Raises:
            AssertionError: they did not agree, with what each of them said last.
        """

        async def agreed() -> bool:
            named = [await self._named(port) for port in self.ports]
            return set(named) == {primary.port} and await _role(primary) == "master"

        try:
            await until(
                agreed, "the sentinels agree on the primary, and it is one", deadline=deadline
            )
        except AssertionError as error:
            raise AssertionError(f"{error}; {await self._standing(primary)}") from None

    async def _standing(self, wanted: Server) -> str:
        """Say what the servers are, whom each sentinel names, and what it did last."""
        assert self._processes is not None
        roles = [f"{server.port} is {await _role(server)}" for server in self.servers]
        lines = [f"{wanted.port} should be the primary; {', '.join(roles)}"]
        for at, port in enumerate(self.ports):
            lines.append(f"sentinel-{at} names {await self._named(port)}; the end of its log:")
            lines.append(self._processes.log_tail(f"sentinel-{at}", 12))
        return "\n".join(lines)

    async def in_step(self) -> None:
        """Wait until the replica has all that the primary has."""
        async with (await self.primary()).client() as raw:
            await raw.set("in-step", "x")
            # Asked itself, a primary counts a replica that still loads.
            await until(lambda: _has_replica(raw), "the replica has all")

    def blind(self) -> None:
        """Kill the sentinels, for good."""
        assert self._processes is not None
        self._processes.stop()

    async def __aenter__(self) -> Self:
        """Start all of them and wait until they know each other."""
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop all of them."""
        await self._stop()

    async def _start(self) -> None:
        for at in range(2):
            follow = ("--replicaof", "127.0.0.1", str(self.servers[0].port)) if at else ()
            options = ("--repl-diskless-sync-delay", "0", *follow)
            server = Server(Product.VALKEY, self._directory / f"server-{at}", arguments=options)
            self.servers.append(await self._running.enter_async_context(server))
        commands: dict[str, list[str]] = {}
        for at in range(3):
            port = self._running.enter_context(reserve_port(None))
            self.ports.append(port)
            file = self._directory / f"sentinel-{at}.conf"
            file.write_text(_configuration(port, self.servers[0].port, self._down_after))
            commands[f"sentinel-{at}"] = [str(find_binary()), str(file), "--sentinel"]
        self._processes = TiedProcesses(self._directory, commands)
        for name in commands:
            self._processes.start(name)
        for port in self.ports:
            await until(lambda port=port: _hurry(port), "the sentinel answers")
        for port in self.ports:
            await until(lambda port=port: _knows_all(port), "they know each other")
        await self.in_step()

    async def _stop(self) -> None:
        if self._processes is not None:
            self._processes.stop()
        await self._running.aclose()

    async def _named(self, port: int) -> int:
        async with redis_client(port) as raw:
            question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
            _, primary = await raw.execute_command(*question)
        return int(primary)


def _configuration(port: int, primary: int, down_after: int) -> str:
    lines = (
        f"port {port}",
        "bind 127.0.0.1",
        f"sentinel monitor {NAME} 127.0.0.1 {primary} 2",
        f"sentinel down-after-milliseconds {NAME} {down_after}",
        f"sentinel failover-timeout {NAME} {_FAILOVER}",
        "",
    )
    return "\n".join(lines)


async def _hurry(port: int) -> bool:
    try:
        async with redis_client(port) as raw:
            await raw.execute_command("SENTINEL", "DEBUG", *_PERIODS)
    except RedisError:
        return False
    return True


async def _knows_all(port: int) -> bool:
    async with redis_client(port) as raw:
        state: Any = await raw.sentinel_master(NAME)
    return state["num-slaves"] == 1 and state["num-other-sentinels"] == 2


async def _role(server: Server) -> str:
    """What a server says it is. Nothing while it does not answer: its connections end as it changes."""
    try:
        async with server.client() as raw:
            return (await raw.execute_command("ROLE"))[0].decode()
    except RedisError:
        return ""


async def _has_replica(raw: Redis) -> bool:
    return await raw.wait(1, 100) == 1


@contextlib.contextmanager
def running_sentinels(directory: Path) -> Generator[Sentinels]:
    """Run them for code without an event loop, such as a fixture of the whole run."""
    sentinels = Sentinels(directory)
    run_apart(sentinels.__aenter__())
    try:
        yield sentinels
    finally:
        run_apart(sentinels.__aexit__(None, None, None))
