"""Connections: HTTP/1.1 by httptools and uvicorn, with bounds that uvicorn does not have.

uvicorn bounds neither the headers nor the time that they take, and lets a connection on which nobody ever
asked stand for ever. Here a connection has a moment by which something has to have happened, and one look
a second closes those whose moment has passed: that costs a request no timer.
"""

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from holdfast_sidecar.answers import Answer, Refusal, of_refusal
from holdfast_sidecar.limits import Limits

_LOOK: Final = 1.0
"""Seconds between looks at the connections."""
_READ: Final = 256 * 1024
"""Bytes that come in one piece, at most."""
_CHUNKED: Final = 8
"""Bytes around a byte of a body, at most: chunks may be of one byte, which takes five."""
_LEAVE: Final = 16
"""One in so many connections is closed where there are too many: looking for them takes a while."""
_LINGER: Final = 1.0
"""Seconds for which what a refused client still sends is dropped, so that it gets to read why."""


class Connection(HttpToolsProtocol):
    """One connection.

    Attributes:
        due: time of the loop by which something has to have happened; never while a request is in work.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: Limits,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self.due = math.inf
        self._size = 0  # bytes of the head that were parsed
        self._around = 0  # bytes since the request began, or before the first, that are no body
        self._body = 0  # bytes of the request's body
        self._bodies = 0  # bytes of all bodies
        self._in_head = False
        self._in_message = False
        self._answered = math.inf
        self._over = False
        self._unanswered: deque[RequestResponseCycle] = deque()

    @property
    def idle(self) -> bool:
        """Whether no request is in work."""
        cycle = cast("RequestResponseCycle | None", self.cycle)  # none before the first request
        return cycle is None or cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come; one that is idle goes where there are too many."""
        super().connection_made(transport)
        self.due = self.loop.time() + self._limits.fresh_seconds
        if len(self.connections) > self._limits.connections:
            _make_room(self, self.connections)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone: every request that waits for something learns it, not the newest alone."""
        super().connection_lost(exc)
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
        self._unanswered.clear()

    def data_received(self, data: bytes) -> None:
        """The client has sent something."""
        if self._over:
            return
        self._unset_keepalive_if_required()
        parser: httptools.HttpRequestParser = self.parser  # type: ignore[assignment] # None once closed
        bodies = self._bodies
        try:
            parser.feed_data(data)
            self._around += len(data) - (self._bodies - bodies)
            if self._around > self._limits.head + _READ + _CHUNKED * self._body:
                raise self._too_large()
        except httptools.HttpParserUpgrade as upgrade:
            self._read_again(data[upgrade.args[0] :])
        except Refusal as refusal:
            self.refuse(refusal)
        except httptools.HttpParserError as error:
            reason = error.__context__
            self.refuse(
                reason
                if isinstance(reason, Refusal)
                else Refusal("RequestInvalid", "this is no request of HTTP/1.1 that can be read")
            )

    def on_message_begin(self) -> None:
        """The first byte of a request is here."""
        super().on_message_begin()
        self._size = self._around = self._body = 0
        self._in_head = self._in_message = True
        self.due = self.loop.time() + self._limits.head_seconds

    def on_url(self, url: bytes) -> None:
        """A part of the request's path is here."""
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header is here."""
        self._grow(len(name) + len(value) + 4)
        if not self._in_head:
            return  # behind a body in chunks: too late to say what the request is
        if len(self.headers) >= self._limits.fields:
            raise Refusal("HeadersTooLarge", f"a request has at most {self._limits.fields} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """All headers are here."""
        if self._asks_to_upgrade():
            return
        self._in_head, self.due = False, math.inf
        if len(self.pipeline) >= self._limits.pipeline:
            raise Refusal("RequestInvalid", "too many requests were sent before the first answer")
        super().on_headers_complete()
        self._unanswered.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        """A part of the body is here."""
        self._body += len(body)
        self._bodies += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is here with all of its body."""
        if self._asks_to_upgrade():
            return
        self._in_message = False
        super().on_message_complete()
        if self.idle:
            self.due = self.loop.time() + self._limits.idle_seconds

    def on_response_complete(self) -> None:
        """A request is answered; what is still to come of its body is dropped, for a while."""
        self._unanswered.popleft()
        super().on_response_complete()
        if not self._in_head and not self.pipeline:
            now = self._answered = self.loop.time()
            limits = self._limits
            self.due = now + (limits.body_seconds if self._in_message else limits.idle_seconds)

    def refuse(self, refusal: Refusal) -> None:
        """Answer what is no request and close; say nothing in the middle of another answer."""
        self._over, self.due = True, math.inf
        if self.transport.is_closing():
            return
        if not self.idle:
            self.transport.abort()
            return
        self.transport.write(_bytes_of(of_refusal(refusal)))
        self.loop.call_later(_LINGER, self.transport.close)

    def look(self, now: float) -> None:
        """Close the connection if its moment has passed."""
        if now < self.due:
            if self.idle and now > self._answered + self._limits.write_seconds and self._is_unread:
                self.transport.abort()
        elif not self.idle:
            self.due = now + self._limits.head_seconds  # the head of the next one can wait
        elif self._in_head:
            seconds = self._limits.head_seconds
            self.refuse(
                Refusal("RequestTooSlow", f"the headers did not arrive within {seconds:g} s")
            )
        else:
            self.transport.close()

    def _asks_to_upgrade(self) -> bool:
        """Whether another protocol is asked for, which a server may ignore: Java's client asks for HTTP/2.

        The parser then takes what follows the head for that protocol, a body included.
        """
        parser: httptools.HttpRequestParser = self.parser  # type: ignore[assignment] # None once closed
        if not parser.should_upgrade():
            return False
        if parser.get_method() == b"CONNECT":
            raise Refusal("RequestInvalid", "nothing is forwarded from here")
        return True

    def _read_again(self, rest: bytes) -> None:
        """Read the request as if it had not asked for another protocol, and what came behind its head."""
        parser: httptools.HttpRequestParser = self.parser  # type: ignore[assignment] # None once closed
        lines = [
            b"%s %s HTTP/%s" % (parser.get_method(), self.url, parser.get_http_version().encode())
        ]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                kept = b", ".join(one for one in options if one.lower() != b"upgrade")
                lines.append(b"connection: " + kept)
            elif name != b"upgrade":
                lines.append(b"%s: %s" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    @property
    def _is_unread(self) -> bool:
        """Whether the client has not taken all that was sent."""
        return self.transport.get_write_buffer_size() > 0

    def _grow(self, size: int) -> None:
        """Count what was parsed of a head."""
        self._size += size
        if self._size > self._limits.head:
            raise self._too_large()

    def _too_large(self) -> Refusal:
        return Refusal(
            "HeadersTooLarge", f"path and headers may have {self._limits.head} bytes together"
        )


async def watch(connections: Iterable[object]) -> None:
    """Look at all connections every second, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_LOOK)
        now = loop.time()
        for one in list(connections):
            if isinstance(one, Connection):
                one.look(now)


def _make_room(new: Connection, connections: Iterable[object]) -> None:
    """Close those that have been idle for longest; or the new one, where all are at work."""
    idle = [
        one
        for one in connections
        if isinstance(one, Connection)
        and one.idle
        and one is not new
        and not one.transport.is_closing()
    ]
    if not idle:
        new.refuse(
            Refusal("Overloaded", "too many connections are open: close some", retry_after=1)
        )
    for one in heapq.nsmallest(1 + len(idle) // _LEAVE, idle, key=lambda one: one.due):
        one.transport.abort()


def _bytes_of(answer: Answer) -> bytes:
    lines = [
        b"HTTP/1.1 %d %s" % (answer.status, HTTPStatus(answer.status).phrase.encode()),
        b"content-type: " + answer.kind,
        b"content-length: %d" % len(answer.body),
        b"connection: close",
        *(name + b": " + value for name, value in answer.headers),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + answer.body
