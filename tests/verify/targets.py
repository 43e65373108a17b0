"""The servers of a run: one that keeps what it acknowledged, a Sentinel set, a Cluster."""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from random import Random

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.harness.cluster_of_servers import ClusterOfServers, slot_of
from tests.harness.proxy import CuttingProxy
from tests.harness.sentinels import NAME, Sentinels
from tests.harness.servers import Product, Server, redis_client
from tests.harness.waiting import until
from tests.verify.case import SLOT_MOVED

_PATIENT = 120.0  # seconds
_ATTEMPTS = 8  # of a failover by command


class TargetName(StrEnum):
    """What a run may be directed at."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


class Target(ABC):
    """Servers, and what can be done to them.

    Attributes:
        proxy: stands in front of the server for some of the workers; None: for nobody.
        faults: kinds of faults, by how often.
        loses: kinds after which acknowledged writes may be gone.
    """

    proxy: CuttingProxy | None = None
    faults: dict[str, int]
    loses: frozenset[str] = frozenset()

    @abstractmethod
    def urls(self) -> Sequence[str]:
        """Addresses for workers, dealt out in turn."""

    @abstractmethod
    async def strike(self, kind: str, chance: Random, session: str) -> str:
        """Do something to a server and undo it; return to whom it was.

        Args:
            kind: one of `faults`.
            chance: of the run.
            session: the key of one that is worked on, as `namespace/profile/name`.
        """

    @abstractmethod
    async def nodes(self) -> Sequence[Server]:
        """The servers that have the data."""

    def probe(self) -> Redis | None:
        """A connection past all proxies for looks in between; None where none is cheap."""
        return None


class Standalone(Target):
    """One Valkey with an append-only file, synced before it answers."""

    def __init__(self, server: Server, proxy: CuttingProxy) -> None:
        self.server = server
        self.proxy = proxy
        self.faults = {"server stopped": 5, "server restarted": 2, "server killed": 2}

    def urls(self) -> Sequence[str]:
        assert self.proxy is not None
        return (self.proxy.url, self.server.url)

    async def strike(self, kind: str, chance: Random, session: str) -> str:
        if kind == "server stopped":
            await _freeze(self.server, chance)
        elif kind == "server restarted":
            await self.server.restart()
        else:
            await self.server.kill()
            await self.server.start()
        return "server"

    async def nodes(self) -> Sequence[Server]:
        return (self.server,)

    def probe(self) -> Redis | None:
        return self.server.client(socket_timeout=2.0)


class SentinelSet(Target):
    """A primary, its replica and three sentinels. What the replica has not yet is lost with the primary."""

    def __init__(self, sentinels: Sentinels) -> None:
        self.sentinels = sentinels
        self.faults = {"failover by kill": 2, "failover by command": 2, "replica stopped": 1}
        self.loses = frozenset({"failover by kill", "failover by command"})

    def urls(self) -> Sequence[str]:
        return (self.sentinels.url,)

    async def strike(self, kind: str, chance: Random, session: str) -> str:
        own = self.sentinels
        if kind == "replica stopped":
            await _freeze(await own.replica(), chance)
            return "replica"
        await self._settled()
        primary, replica = await own.primary(), await own.replica()
        if kind == "failover by kill":
            await primary.kill()
            await own.agreed(replica)
            await primary.start()
        else:
            await self._command_failover(replica)
        await self._settled()
        return f"server {own.servers.index(primary)}"

    async def _command_failover(self, replica: Server) -> None:
        """Repeat the command until the replica is the primary.

        A failover is given up where the replica was silent a moment ago, and taken back by a sentinel that
        hears of it late.
        """

        async def begun() -> bool:
            return await self.sentinels.primary() is replica or await self._fail_over()

        refused: list[AssertionError] = []
        while len(refused) < _ATTEMPTS:
            await until(begun, "a failover begins", deadline=_PATIENT)
            try:
                return await self.sentinels.agreed(replica, deadline=8.0)
            except AssertionError as error:
                refused.append(error)
        raise refused[-1]

    async def _fail_over(self) -> bool:
        try:
            async with redis_client(self.sentinels.ports[0]) as raw:
                await raw.execute_command("SENTINEL", "FAILOVER", NAME)
        except RedisError:
            return False  # one is under way, or the replica is not known to be fit yet
        return True

    async def _settled(self) -> None:
        """Wait until there is a replica that could take over."""

        async def follows() -> bool:
            try:
                async with (await self.sentinels.primary()).client() as raw:
                    await raw.set("in-step", "x", px=60_000)
                    return await raw.wait(1, 100) == 1
            except RedisError:
                return False

        await until(follows, "the replica follows", deadline=_PATIENT)

    async def nodes(self) -> Sequence[Server]:
        return (await self.sentinels.primary(),)


class ClusterTarget(Target):
    """Three nodes without replicas, with append-only files, whose slots move."""

    def __init__(self, cluster: ClusterOfServers) -> None:
        self.cluster = cluster
        self.faults = {SLOT_MOVED: 6, "node stopped": 2, "node killed": 1}

    def urls(self) -> Sequence[str]:
        return (self.cluster.url,)

    async def strike(self, kind: str, chance: Random, session: str) -> str:
        if kind == SLOT_MOVED:
            slot = slot_of(f"mem:{{{session}}}:meta")
            source = await self.cluster.owner(slot)
            to = chance.choice([node for node in self.cluster.nodes if node is not source])
            async with self.cluster.moving(slot, to) as move:
                async with source.client() as raw:
                    keys = await raw.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
                for key in keys:
                    await move.key(key)
                    await asyncio.sleep(chance.uniform(0, 0.1))
            return f"slot {slot}"
        node = chance.choice(self.cluster.nodes)
        if kind == "node stopped":
            await _freeze(node, chance)
        else:
            await node.kill()
            await node.start()
            await until(self._is_whole, "the Cluster is whole again", deadline=_PATIENT)
        return f"node {self.cluster.nodes.index(node)}"

    async def _is_whole(self) -> bool:
        for node in self.cluster.nodes:
            try:
                async with node.client() as raw:
                    if b"cluster_state:ok" not in await raw.execute_command("CLUSTER", "INFO"):
                        return False
            except RedisError:
                return False
        return True

    async def nodes(self) -> Sequence[Server]:
        return self.cluster.nodes


async def _freeze(server: Server, chance: Random) -> None:
    """Stop a server for a moment, sometimes for about as long as a sentinel or a node waits."""
    server.pause()
    try:
        await asyncio.sleep(chance.choice((0.05, 0.2, 0.2, 0.6, 1.2)))
    finally:
        server.resume()


@asynccontextmanager
async def running_target(name: TargetName, directory: Path) -> AsyncGenerator[Target]:
    """Run the servers of a target."""
    async with contextlib.AsyncExitStack() as running:
        match name:
            case TargetName.STANDALONE:
                server = Server(Product.VALKEY, directory / "server", persist=True)
                await running.enter_async_context(server)
                proxy = await running.enter_async_context(CuttingProxy(server.port))
                yield Standalone(server, proxy)
            case TargetName.SENTINEL:
                # They change places where they are told to: what is lost otherwise nobody would excuse.
                own = Sentinels(directory, down_after=1500)
                yield SentinelSet(await running.enter_async_context(own))
            case TargetName.CLUSTER:
                cluster = ClusterOfServers(directory, persist=True)
                yield ClusterTarget(await running.enter_async_context(cluster))
