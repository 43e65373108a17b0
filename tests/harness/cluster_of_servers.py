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
    """Primaries on 127.0.0.1 without replicas, the slots spread evenly over them.

    Args:
        directory: for logs and the nodes' files.
        product: which server.
        count: how many.
        persist: keep the data over restarts.
        arguments: more options of the servers.

    Attributes:
        nodes: the servers, once they run.
    """

    def __init__(
        self,
        directory: Path,
        product: Product = Product.VALKEY,
        *,
        count: int = 3,
        persist: bool = False,
        arguments: Sequence[str] = (),
    ) -> None:
        self.nodes: list[Server] = []
        self._directory = directory
        self._product = product
        self._count = count
        self._persist = persist
        self._arguments = tuple(arguments)
        self._running = AsyncExitStack()

    @property
    def url(self) -> str:
        """The address, naming two of the nodes."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])
        return f"redis+cluster://{hosts}"

    async def owner(self, slot: int) -> Server:
        """The node that has a slot."""
        async with self.nodes[0].client() as raw:
            for first, last, (_, port, *_), *_ in await _slots(raw):
                if first <= slot <= last:
                    return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"nobody has slot {slot}")

    @contextlib.asynccontextmanager
    async def moving(self, slot: int, to: Server) -> AsyncGenerator["Move"]:
        """Move a slot: both nodes know of it within the block; at its end the slot has moved."""
        move = Move(slot, await self.owner(slot), to)
        async with move.source.client() as source, to.client() as target:
            ids = [await raw.execute_command("CLUSTER", "MYID") for raw in (source, target)]
            await target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
            await source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
            yield move
            await move.keys()
            for raw in (target, source):
                await raw.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])

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
        for at in range(self._count):
            # Between themselves the nodes talk over a port of its own.
            bus = self._running.enter_context(reserve_port(None))
            options = ("--cluster-enabled", "yes", "--cluster-port", str(bus))
            options += ("--cluster-node-timeout", str(_NODE_TIMEOUT), *self._arguments)
            node = Server(
                self._product,
                self._directory / f"node-{at}",
                persist=self._persist,
                arguments=options,
            )
            await self._running.enter_async_context(node)
            self.nodes.append(node)
            share = _SLOTS // self._count + 1
            last = min((at + 1) * share, _SLOTS) - 1
            async with node.client() as raw:
                await raw.execute_command("CLUSTER", "ADDSLOTSRANGE", at * share, last)
                await raw.execute_command("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
            async with self.nodes[0].client() as raw:
                await raw.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        for node in self.nodes:
            async with node.client() as raw:
                await until(lambda raw=raw: self._settled(raw), "the nodes are one Cluster")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the servers."""
        await self._running.aclose()

    async def _settled(self, raw: Redis) -> bool:
        info = await raw.execute_command("CLUSTER", "INFO")
        return b"cluster_state:ok" in info and len(await _slots(raw)) == len(self.nodes)


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
