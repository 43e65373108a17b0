"""The sidecar's API over the memories of local mode, on a loopback port."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from holdfast.client import Client, Memory
from holdfast.connecting import connect
from holdfast.errors import ConfigurationError, MemoryNotFound
from holdfast_cli.local.manifests import RESOURCE, Key
from holdfast_cli.local.objects import Objects
from holdfast_cli.local.report import Way, way_of, ways
from holdfast_cli.local.server import ServerAddress
from holdfast_sidecar.app import Api
from holdfast_sidecar.limits import Limits
from holdfast_sidecar.mcp import McpApp
from holdfast_sidecar.memories import Memories, Offer
from holdfast_sidecar.options import Listen
from holdfast_sidecar.service import Service
from holdfast_sidecar.serving import HttpServer
from holdfast_sidecar.sockets import listen_on_port

_USUAL: Final = Listen("127.0.0.1", 7070)
_ANY: Final = Listen("127.0.0.1", 0)


class LocalMemories(Memories):
    """All memories there are: those of the namespace shown first by name, others as `namespace.name`.

    Args:
        objects: what there is.
        server: where.
    """

    def __init__(self, objects: Objects, server: ServerAddress) -> None:
        super().__init__()
        self._objects = objects
        self._server = server
        self._clients: dict[Way, Client] = {}

    def offers(self) -> Sequence[Offer]:
        """Return what is served."""
        return [Offer(name) for name in self._by_name()]

    def memory(self, name: str, *, format: str | None = None) -> Memory:
        """Return a memory; see `Memories.memory`."""
        found = self._by_name()
        if name not in found:
            there = ", ".join(map(repr, sorted(found))) or "none"
            raise MemoryNotFound(f"no memory {name!r} is served here; there are {there}")
        key = found[name]
        way = way_of(self._objects, key)
        client = self._clients.get(way)
        if client is None:
            url = self._server.url(namespace=way.namespace, prefix=way.prefix)
            client = self._clients[way] = connect(url)
        return client.memory(key.name, format=format)

    async def aclose(self, patience: float) -> None:
        """Close all clients."""
        for client in self._clients.values():
            await client.drain(patience)
            await client.aclose()

    def _by_name(self) -> dict[str, Key]:
        keys = sorted(key for key in self._objects.bodies() if key.kind == RESOURCE)
        first = ways(self._objects)[0].namespace if keys else ""
        return {
            key.name if key.namespace == first else f"{key.namespace}.{key.name}": key
            for key in keys
        }


@asynccontextmanager
async def serving(objects: Objects, server: ServerAddress) -> AsyncGenerator[str]:
    """Serve the API for the length of a block; gives its URL. The usual port, or a free one."""
    limits = Limits()
    memories = LocalMemories(objects, server)
    service = Service(memories, limits)
    try:
        listener = listen_on_port(_USUAL)
    except ConfigurationError:
        listener = listen_on_port(_ANY)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    mcp = McpApp(service)
    http = HttpServer(Api(service, mounts={b"mcp": mcp}), [listener], limits)
    running = asyncio.create_task(http.run_until_stopped())
    try:
        await http.listening.wait()
        yield url
    finally:
        await service.turns.aclose()
        http.stop()
        await asyncio.gather(running, return_exceptions=True)
        await mcp.aclose()
        await memories.aclose(patience=2.0)
