"""Connections with bounds that uvicorn does not have: on the time a request may take to arrive, and its head.

The listener is reachable for every pod of a cluster whose network is not told otherwise.
"""

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class HeadTooLarge(Exception):
    """The headers of a request are over the limit."""


class Connection(HttpToolsProtocol):
    """A connection that is closed when its client takes too long.

    Attributes:
        fresh: seconds to the first byte of the first request; an API server may keep a connection in hand.
        request: seconds from its first byte to its last; an API server waits for 5 s for the answer.
        head: bytes of all headers of a request.
    """

    fresh: ClassVar[float] = 60.0
    request: ClassVar[float] = 10.0
    head: ClassVar[int] = 64 << 10

    _patience: asyncio.TimerHandle | None = None
    _size = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait(self.fresh)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._wait(None)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin to wait for the end of a request."""
        super().on_message_begin()
        self._size = 0
        self._wait(self.request)

    def on_url(self, url: bytes) -> None:
        """Take a part of the path."""
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._grow(len(name) + len(value))
        super().on_header(name, value)

    def on_message_complete(self) -> None:
        """Stop waiting: how long the answer takes is our business."""
        self._wait(None)
        super().on_message_complete()

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self.head:
            raise HeadTooLarge  # becomes an answer of 400, as any request that cannot be read

    def _wait(self, seconds: float | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = None
        if seconds is not None:
            self._patience = self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
