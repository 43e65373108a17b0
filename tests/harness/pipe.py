"""A TCP proxy that understands nothing: for protocols that are encrypted, and for bytes that arrive late."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_HOST = "127.0.0.1"
_CHUNK = 65536


@dataclass(eq=False, slots=True)
class _Link:
    client_reader: asyncio.StreamReader
    client: asyncio.StreamWriter
    server_reader: asyncio.StreamReader
    server: asyncio.StreamWriter
    open: asyncio.Event = field(default_factory=asyncio.Event)
    kept: bytearray = field(default_factory=bytearray)
    replies: bytearray = field(default_factory=bytearray)

    def deliver(self) -> None:
        if self.kept:
            self.server.write(bytes(self.kept))
            self.kept.clear()


class Pipe:
    """Listens on a port of its own on 127.0.0.1 in its `async with` block, and forwards to another one.

    Args:
        upstream_port: where to.

    Attributes:
        port: where clients connect.
    """

    def __init__(self, upstream_port: int) -> None:
        self.port = 0
        self._upstream_port = upstream_port
        self._delay = 0.0
        self._silent = False
        self._links: set[_Link] = set()
        self._held: set[_Link] = set()
        self._word = b""
        self._listening: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._listener: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        await self.accept()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Break what is open."""
        self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # in which the sockets are closed

    async def accept(self) -> None:
        """Take connections, again on the same port, and forward what they say."""
        self._silent, self._delay = False, 0.0
        self._held.clear()
        self._listening.clear()
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accepted, _HOST, self.port)
            self.port = self._listener.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Break every connection, and take no new ones, as a dead server does."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for link in self._links:
            link.client.transport.abort()
            link.server.transport.abort()

    def hang(self) -> None:
        """Take connections and bytes, and forward none of them; those of before are lost too."""
        self._silent = True

    def slow(self, seconds: float) -> None:
        """Forward everything that clients say only after so many seconds."""
        self._delay = seconds

    def hold(self, *, word: bytes = b"") -> None:
        """Keep what the clients that are connected now say; what they hear, and new ones, pass.

        Args:
            word: of each client all is kept from the piece on in which it says this; empty: from now on.
        """
        if word:
            self._word, self._listening = word, set(self._links)
        else:
            self._held |= self._links

    @property
    def holds(self) -> int:
        """How many bytes are kept."""
        return sum(len(link.kept) for link in self._held)

    def release(self) -> None:
        """Deliver what was kept, also of clients that are gone, and note what is answered from now on."""
        for link in self._held:
            link.replies.clear()
            link.deliver()

    @property
    def replies(self) -> bytes:
        """What was answered since the release to clients whose words were kept."""
        return b"".join(bytes(link.replies) for link in self._held)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection(_HOST, self._upstream_port)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(reader, writer, *upstream)
        self._links.add(link)
        forth = asyncio.create_task(self._forth(link))
        back = asyncio.create_task(self._back(link))
        try:
            await asyncio.wait((forth, back), return_when=asyncio.FIRST_COMPLETED)
            if link in self._held:
                await back  # its last words may still be delivered
        finally:
            forth.cancel()
            back.cancel()
            await asyncio.gather(forth, back, return_exceptions=True)
            self._links.discard(link)
            link.client.transport.abort()
            link.server.transport.abort()

    async def _forth(self, link: _Link) -> None:
        with contextlib.suppress(OSError):
            while chunk := await link.client_reader.read(_CHUNK):
                if self._delay:
                    await asyncio.sleep(self._delay)
                if link in self._listening and self._word in chunk:
                    self._held.add(link)
                if link in self._held:
                    link.kept += chunk
                elif not self._silent:
                    link.server.write(chunk)
                    await link.server.drain()

    async def _back(self, link: _Link) -> None:
        with contextlib.suppress(OSError):
            while chunk := await link.server_reader.read(_CHUNK):
                link.replies += chunk
                if not self._silent and not link.client.is_closing():
                    with contextlib.suppress(OSError):
                        link.client.write(chunk)
                        await link.client.drain()
