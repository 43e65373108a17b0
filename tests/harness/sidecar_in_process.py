"""A sidecar's server in the test's own loop, over any client, with limits of the test's choice."""

import shutil
import socket
import tempfile
from asyncio import StreamReader, StreamWriter, open_unix_connection
from asyncio import create_task as begin
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from holdfast.client import Client
from holdfast_sidecar.app import Api
from holdfast_sidecar.limits import Limits
from holdfast_sidecar.memories import GivenMemories
from holdfast_sidecar.service import Service
from holdfast_sidecar.serving import HttpServer


class InProcess:
    """A server that listens.

    Attributes:
        path: of its socket.
    """

    def __init__(self, path: Path, service: Service, api: Api, server: HttpServer) -> None:
        self.path = path
        self.service = service
        self.api = api
        self.server = server

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(self.path)),
            base_url="http://sidecar",
            timeout=httpx.Timeout(60),
        )

    async def raw(self) -> tuple[StreamReader, StreamWriter]:
        return await open_unix_connection(str(self.path))

    async def exchange(self, sent: bytes) -> bytes:
        """Send bytes on a connection of their own, and return all that comes until it is closed."""
        reader, writer = await self.raw()
        writer.write(sent)
        try:
            return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def serving(
    client: Client, *, limits: Limits | None = None, **more: Any
) -> AsyncGenerator[InProcess]:
    """Serve the memory `support` of a client for the length of a block; the client stays the caller's."""
    directory = Path(tempfile.mkdtemp(prefix="sc-"))  # a socket's path has to be short
    found = limits or Limits()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(directory / "api.sock"))
    service = Service(GivenMemories(client, ["support"]), found)
    api = Api(service, **more)
    server = HttpServer(api, [listener], found)
    running = begin(server.run_until_stopped())
    try:
        await server.listening.wait()
        yield InProcess(directory / "api.sock", service, api, server)
    finally:
        await service.turns.aclose()
        server.stop()
        await running
        shutil.rmtree(directory, ignore_errors=True)
