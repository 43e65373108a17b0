"""A TCP proxy in front of a Redis or Valkey server that breaks connections exactly where told.

It reads requests and replies as whole units, so a fault hits one command wherever the network
happened to cut the stream: "executed, but the reply never arrived" is then a fact and not a race.
Every fault is armed by a call, fires a given number of times and counts how often it did.

Not understood, because no client here uses them: MONITOR, CLIENT REPLY OFF, and subscriptions
under RESP2, all of which break the rule "one reply a request".
"""

import asyncio
import contextlib
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Self

from holdfast.embedded import reserve_port

_HOST = "127.0.0.1"
_LINE_LIMIT = 2**20


class Cut(StrEnum):
    """Where a fault breaks the connection."""

    BEFORE_REQUEST = "before request"
    AFTER_REQUEST = "after request"
    HALF_REPLY = "half reply"


@dataclass(slots=True)
class Fault:
    """One armed fault.

    Attributes:
        cut: where it breaks the connection.
        match: bytes that the request contains, in its form on the wire.
        left: how often it will still fire.
        fired: how often it has fired; the connection is broken by then.
        delivered: with HALF_REPLY, how many bytes of the reply the client gets.
    """

    cut: Cut
    match: bytes
    left: int
    delivered: int
    fired: int = 0


@dataclass(eq=False, slots=True)
class _Link:
    """A client's connection and its own connection to the server."""

    client_reader: asyncio.StreamReader
    client: asyncio.StreamWriter
    server_reader: asyncio.StreamReader
    server: asyncio.StreamWriter
    unanswered: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    last: Fault | None = None
    """The fault that the reply to the last forwarded request runs into."""

    def cut(self) -> None:
        """Break both connections at once; what was not delivered yet is lost."""
        self.client.transport.abort()
        self.server.transport.abort()

    async def close(self) -> None:
        """Close both connections; what was written still goes out."""
        self.client.close()
        self.server.close()
        for writer in (self.client, self.server):
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class CuttingProxy:
    """Listens on 127.0.0.1 in its `async with` block and forwards to `upstream_port`.

    Faults are looked for in each request in the order they were armed. Replies to earlier requests
    of the same connection are delivered before the fault takes place; requests behind it are never
    forwarded.

    Attributes:
        upstream_port: where new connections are forwarded to; may be changed.
        connections: how many were accepted so far.
        delayed: how many requests were held by `delay`.
    """

    def __init__(self, upstream_port: int) -> None:
        self.upstream_port = upstream_port
        self.connections = 0
        self.delayed = 0
        self._delay = 0.0
        self._faults: list[Fault] = []
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._reserved = contextlib.ExitStack()
        self._port = 0

    @property
    def port(self) -> int:
        """Where clients connect; the same over `refuse()` and `accept()`."""
        return self._port

    @property
    def requests_open(self) -> int:
        """How many forwarded requests have no answer yet."""
        return sum(link.unanswered for link in self._links)

    @property
    def url(self) -> str:
        """The proxy's address as a Redis URL."""
        return f"redis://{_HOST}:{self._port}"

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        self._port = self._reserved.enter_context(reserve_port(None))
        await self.accept()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Break what is open; an error inside the proxy itself comes out here."""
        self.refuse()
        # One may be accepted already, and come up a few turns of the loop later.
        for _ in range(5):
            await asyncio.sleep(0)
        # Not cancelled, so that each closes its sockets; again, since one may just be connecting.
        while running := [task for task in self._tasks if not task.done()]:
            self.cut_all()
            await asyncio.wait(running, timeout=0.05)
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._reserved.close()
        for end in ends:
            if isinstance(end, Exception):
                raise end

    def arm(self, cut: Cut, match: bytes, *, times: int = 1, delivered: int = 5) -> Fault:
        """Break the connection `times` times where a request contains `match`.

        `delivered` is for `Cut.HALF_REPLY` alone: how many bytes of the reply reach the client.
        """
        fault = Fault(cut, match, times, delivered)
        self._faults.append(fault)
        return fault

    def cut_before_request(self, match: bytes, *, times: int = 1) -> Fault:
        """Break the connection instead of forwarding a request that contains `match`."""
        return self.arm(Cut.BEFORE_REQUEST, match, times=times)

    def cut_after_request(self, match: bytes, *, times: int = 1) -> Fault:
        """Forward a request with `match`, wait for the server's whole reply, deliver none of it."""
        return self.arm(Cut.AFTER_REQUEST, match, times=times)

    def half_reply(self, match: bytes, delivered: int, *, times: int = 1) -> Fault:
        """Like `cut_after_request`, but the reply's first `delivered` bytes reach the client."""
        return self.arm(Cut.HALF_REPLY, match, times=times, delivered=delivered)

    def delay(self, seconds: float) -> None:
        """Hold each request for so long before it is forwarded, one after the other; 0 ends it."""
        self._delay = seconds

    def refuse(self) -> None:
        """Refuse new connections as a dead server does. Those open stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def accept(self) -> None:
        """Take new connections again, on the same port."""
        if self._listener is None:
            self._listener = await asyncio.start_server(
                self._accepted, _HOST, self._port, limit=_LINE_LIMIT
            )

    def cut_all(self) -> int:
        """Break every open connection; returns how many there were."""
        for link in self._links:
            link.cut()
        return len(self._links)

    def _take_fault(self, request: bytes) -> Fault | None:
        for fault in self._faults:
            if fault.left and fault.match in request:
                fault.left -= 1
                return fault
        return None

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection(_HOST, self.upstream_port, limit=_LINE_LIMIT)
        except OSError:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return
        link = _Link(reader, writer, *upstream)
        link.idle.set()
        self._links.add(link)
        requests = asyncio.create_task(self._forward_requests(link))
        replies = asyncio.create_task(self._forward_replies(link))
        try:
            await asyncio.wait((requests, replies), return_when=asyncio.FIRST_COMPLETED)
            if link.last is not None:
                await asyncio.wait((replies,))
        finally:
            requests.cancel()
            replies.cancel()
            ends = await asyncio.gather(requests, replies, return_exceptions=True)
            self._links.discard(link)
            await link.close()
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, (OSError, EOFError)):
                raise end

    async def _forward_requests(self, link: _Link) -> None:
        while True:
            request = await _read_request(link.client_reader)
            fault = self._take_fault(request)
            if self._delay:
                self.delayed += 1
                await asyncio.sleep(self._delay)
            if fault is not None and fault.cut is Cut.BEFORE_REQUEST:
                await link.idle.wait()
                link.cut()
                fault.fired += 1
                return
            link.unanswered += 1
            link.idle.clear()
            link.last = fault
            link.server.write(request)
            await link.server.drain()
            if fault is not None:
                return

    async def _forward_replies(self, link: _Link) -> None:
        while True:
            reply = await _read_reply(link.server_reader)
            if not reply.startswith(b">"):  # a push message answers no request
                link.unanswered -= 1
                if link.last is not None and not link.unanswered:
                    self._lose_reply(link, link.last, reply)
                    return
            link.client.write(reply)
            await link.client.drain()
            if not link.unanswered:
                link.idle.set()

    @staticmethod
    def _lose_reply(link: _Link, fault: Fault, reply: bytes) -> None:
        if fault.cut is Cut.HALF_REPLY:
            # Closed in order once the bytes are out: a reset could make the client lose them.
            link.client.write(reply[: fault.delivered])
            link.client.close()
        else:
            link.cut()
        fault.fired += 1


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return line


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    """Read one request as it is: an array of strings, or a line typed by hand."""
    line = await _read_line(reader)
    if not line.startswith(b"*"):
        return line
    parts = [line]
    for _ in range(int(line[1:])):
        size = await _read_line(reader)
        parts += (size, await reader.readexactly(int(size[1:]) + 2))
    return b"".join(parts)


async def _read_reply(reader: asyncio.StreamReader) -> bytes:
    """Read one reply as it is, RESP2 or RESP3, however deeply nested."""
    parts: list[bytes] = []
    values = 1
    while values:
        line = await _read_line(reader)
        parts.append(line)
        values -= 1
        match line[:1]:
            case b"$" | b"=" | b"!" if not line.startswith(b"$-"):
                parts.append(await reader.readexactly(int(line[1:]) + 2))
            case b"*" | b"~" | b">":
                values += max(int(line[1:]), 0)
            case b"%":
                values += 2 * int(line[1:])
            case b"|":  # attributes stand in front of the value they describe
                values += 2 * int(line[1:]) + 1
            case _:
                pass
    return b"".join(parts)
