"""Sidecars within the test's own event loop: the real server on a real Unix socket, over any store."""

import asyncio
import shutil
import socket
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

import holdfast
from holdfast.client import Client
from holdfast.keys import session_key
from holdfast.store import MemoryStore, SessionStore
from holdfast.telemetry import Observer
from holdfast.testing.conformance.support import policy
from holdfast.values import MemoryAddress
from holdfast_sidecar.app import Api
from holdfast_sidecar.limits import Limits
from holdfast_sidecar.memories import GivenMemories
from holdfast_sidecar.service import Service
from holdfast_sidecar.serving import HttpServer

MEMORIES = ("support", "sales")


class _Server(HttpServer):
    """Ends as soon as its connections have, instead of looking every tenth of a second."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what listens and what is connected, and wait for the end of both."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.001)


class Sidecar:
    """One sidecar. It listens from the beginning, and answers once the loop runs.

    Args:
        client: of the library, for the sidecar's own use.
        path: of its socket.
        loop: that it runs in.

    Attributes:
        memories: that it serves, from its next start on.
    """

    def __init__(self, client: Client, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.client = client
        self.path = path
        self.memories: Sequence[str] = MEMORIES
        self._loop = loop
        self.start()

    @property
    def url(self) -> str:
        """What `connect` takes."""
        return f"http+unix://{self.path}"

    def start(self) -> None:
        """Listen, where nobody does."""
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.path))
        listener.listen(128)
        self.service = Service(GivenMemories(self.client, self.memories), Limits())
        self._server = _Server(Api(self.service), [listener], Limits())
        self._serving = self._loop.create_task(self._server.run_until_stopped())

    async def stop(self) -> None:
        """End as on a signal: turns are given back, connections closed. Nobody listens afterwards."""
        await self.service.turns.aclose()
        self._server.stop()
        await self._serving
        self.path.unlink(missing_ok=True)


class Sidecars:
    """Sidecars of one test, one for each policy, and clients that reach them.

    Args:
        store: that all of them use.
        namespace: of the memories.
        directory: of their sockets; short, as the path of a socket has to be.
    """

    def __init__(self, store: MemoryStore, namespace: str, directory: Path) -> None:
        self._store = store
        self._namespace = namespace
        self._directory = directory
        self._loop = asyncio.get_running_loop()
        self._sidecars: dict[Any, Sidecar] = {}
        self._clients: list[Client] = []

    def sidecar(self, summarizer: Any = None, **spec: Any) -> Sidecar:
        """Return the sidecar of a policy, which writes summaries with `summarizer`."""
        key = (id(summarizer), msgspec.json.encode(spec))
        if key not in self._sidecars:
            client = Client(
                self._store,
                namespace=self._namespace,
                policy=policy(**spec),
                summarizer=summarizer,
            )
            path = self._directory / f"{len(self._sidecars)}.sock"
            self._sidecars[key] = Sidecar(client, path, self._loop)
        return self._sidecars[key]

    def connect(
        self, summarizer: Any = None, observers: Sequence[Observer] = (), **spec: Any
    ) -> Client:
        """Return a new client of the sidecar of a policy."""
        client = holdfast.connect(self.sidecar(summarizer, **spec).url, observers=observers)
        self._clients.append(client)
        return client

    def underneath(self, name: str = "any id") -> SessionStore:
        """Return the store's own handle on a session."""
        return self._store.session(MemoryAddress(self._namespace, MEMORIES[0]), session_key(name))

    async def aclose(self) -> None:
        """End all, clients first."""
        for client in self._clients:
            await client.aclose()
        for sidecar in self._sidecars.values():
            await sidecar.stop()


@asynccontextmanager
async def running_sidecars(store: MemoryStore, namespace: str) -> AsyncGenerator[Sidecars]:
    """Give sidecars over a store, and end them."""
    directory = Path(tempfile.mkdtemp(prefix="hf-"))
    sidecars = Sidecars(store, namespace, directory)
    try:
        yield sidecars
    finally:
        await sidecars.aclose()
        shutil.rmtree(directory)
