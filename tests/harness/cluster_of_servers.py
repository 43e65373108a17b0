"""A Cluster of real servers, whose slots can be moved step by step."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis.asyncio import Redis
from redis.crc import key_slot

from holdfast.embedded import reserve_port
from tests.harness.servers import Product, Server, run_apart
from tests.harness.waiting import until

_SLOTS = 16384
_NODE_TIMEOUT = 2000  # ms until the nodes notice that one is gone


class ClusterOfServers:
    """Primaries on 127.0.0.1, the slots spread evenly over them, and replicas of the first ones.

    Args:
        directory: for logs and the nodes' files.
        count: how many primaries.
        replicas: how many of them have one replica each.
        persist: keep the data over restarts.
        arguments: more options of the servers.

    Attributes:
        nodes: the primaries, once they run.
        replicas: of the first node, the second, and so on.
    """

    def __init__(
        self,
        directory: Path,
        *,
        count: int = 3,
        replicas: int = 0,
        persist: bool = False,
        arguments: Sequence[str] = (),
    ) -> None:
        self.nodes: list[Server] = []
        self._directory = directory
        self.replicas: list[Server] = []
        self._count = count
        self._wanted = replicas
        self._persist = persist
        self._arguments = tuple(arguments)
        self._started = 0
        self._running = AsyncExitStack()

    @property
    def url(self) -> str:
        """The address, naming two of the nodes."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])
        return f"redis+cluster://{hosts}"

    async def owner(self, slot: int) -> Server:
        """The node that has a slot."""
        async with self.nodes[0].client() as raw:
            port = await _port_of(raw, slot)
        return next(node for node in self.nodes if node.port == port)

    @contextlib.asynccontextmanager
    async def moving(self, slot: int, to: Server) -> AsyncGenerator["Move"]:
        """Move a slot: both nodes know of it within the block; after it, every node knows where it is."""
        move = Move(slot, await self.owner(slot), to)
        async with move.source.client() as source, to.client() as target:
            ids = [await raw.execute_command("CLUSTER", "MYID") for raw in (source, target)]
            await target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
            await source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
            try:
                yield move
            finally:  # whatever became of the test: half a move would be what the next one finds
                await move.keys()
                for raw in (target, source):
                    await raw.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
        for node in self.nodes:
            async with node.client() as raw:
                await until(lambda raw=raw: _has(raw, slot, to), "every node knows of the move")

    async def move_slot(self, slot: int, to: Server) -> None:
        """Move a slot at once."""
        async with self.moving(slot, to):
            pass

    async def __aenter__(self) -> Self:
        """Start the servers and make them one Cluster."""
        try:
            await self._start()
        except BaseException:
            await self._running.aclose()
            raise
        return self

    async def _start(self) -> None:
        share = _SLOTS // self._count + 1
        for at in range(self._count):
            last = min((at + 1) * share, _SLOTS) - 1
            node = await self.join(
                ("CLUSTER", "ADDSLOTSRANGE", at * share, last),
                ("CLUSTER", "SET-CONFIG-EPOCH", at + 1),
            )
            self.nodes.append(node)
        for _ in range(self._wanted):
            self.replicas.append(await self.join())
        await self.settled(self.replicas)
        for node, replica in zip(self.nodes, self.replicas, strict=False):
            await self.follow(replica, node)

    async def settled(self, others: Sequence[Server] = ()) -> None:
        """Wait until the primaries and these others all know each other, and every slot has a node."""
        nodes = [*self.nodes, *others]
        for node in nodes:
            async with node.client() as raw:
                await until(
                    lambda raw=raw: self._settled(raw, len(nodes)), "the nodes are one Cluster"
                )

    async def join(self, *before: tuple[str | int, ...]) -> Server:
        """Start one more server and introduce it to the first node.

        Args:
            before: commands that it gets first.
        """
        # Between themselves the nodes talk over a port of its own.
        bus = self._running.enter_context(reserve_port(None))
        options = ("--cluster-enabled", "yes", "--cluster-port", str(bus))
        options += ("--cluster-node-timeout", str(_NODE_TIMEOUT))
        options += ("--repl-diskless-sync-delay", "0", *self._arguments)
        self._started += 1
        directory = self._directory / f"node-{self._started}"
        node = Server(Product.VALKEY, directory, persist=self._persist, arguments=options)
        await self._running.enter_async_context(node)
        async with node.client() as raw:
            for command in before:
                await raw.execute_command(*command)
        async with (self.nodes or [node])[0].client() as raw:
            await raw.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        return node

    async def follow(self, replica: Server, primary: Server) -> None:
        """Make one node the replica of another, and wait until it has all data and every node knows."""
        async with primary.client() as raw, replica.client() as follower:
            own = await raw.execute_command("CLUSTER", "MYID")
            await follower.execute_command("CLUSTER", "REPLICATE", own)
            await until(lambda: _in_step(follower), "the replica has all data")
        for node in [*self.nodes, *self.replicas]:
            async with node.client() as raw:
                await until(lambda raw=raw: _lists(raw, replica), "the replica is known")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the servers."""
        await self._running.aclose()

    async def _settled(self, raw: Redis, count: int) -> bool:
        info = await raw.execute_command("CLUSTER", "INFO")
        known = f"cluster_known_nodes:{count}".encode()
        # By slots, not by ranges: a slot that was moved divides the one that it was in.
        covered = sum(last - first + 1 for first, last, *_ in await _slots(raw))
        return b"cluster_state:ok" in info and known in info and covered == _SLOTS


class Move:
    """A slot on its way.

    Attributes:
        source: the node that has it.
        target: the node that is about to.
    """

    def __init__(self, slot: int, source: Server, target: Server) -> None:
        self.slot = slot
        self.source = source
        self.target = target

    async def key(self, *keys: bytes | str) -> None:
        """Move some keys, and leave the others for now."""
        async with self.source.client() as raw:
            await raw.execute_command(
                "MIGRATE", "127.0.0.1", self.target.port, "", 0, 5000, "KEYS", *keys
            )

    async def keys(self) -> None:
        """Move all keys that are left."""
        async with self.source.client() as raw:
            while keys := await raw.execute_command("CLUSTER", "GETKEYSINSLOT", self.slot, 10):
                await self.key(*keys)
                await asyncio.sleep(0)


def slot_of(key: str) -> int:
    """The slot of a key."""
    return key_slot(key.encode())


@contextlib.contextmanager
def running_cluster(directory: Path) -> Generator[ClusterOfServers]:
    """Run a Cluster for code without an event loop, such as a fixture of the whole run."""
    cluster = ClusterOfServers(directory)
    run_apart(cluster.__aenter__())
    try:
        yield cluster
    finally:
        run_apart(cluster.__aexit__(None, None, None))


async def _slots(raw: Redis) -> list[Any]:
    return await raw.execute_command("CLUSTER", "SLOTS")


async def _port_of(raw: Redis, slot: int) -> int:
    for first, last, (_, port, *_), *_ in await _slots(raw):
        if first <= slot <= last:
            return port
    raise AssertionError(f"nobody has slot {slot}")


async def _has(raw: Redis, slot: int, node: Server) -> bool:
    return await _port_of(raw, slot) == node.port


async def _lists(raw: Redis, replica: Server) -> bool:
    shards = await _slots(raw)
    return any(port == replica.port for _, _, _, *others in shards for _, port, *_ in others)


async def _in_step(replica: Redis) -> bool:
    return (await replica.info("replication")).get("master_link_status") == "up"
