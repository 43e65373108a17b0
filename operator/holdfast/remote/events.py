"""Server-sent events, cut out of the bytes of an answer."""

import asyncio
from collections import deque
from typing import NamedTuple

import aiohttp


class Event(NamedTuple):
    """One event.

    Attributes:
        name: what happened.
        data: JSON text.
    """

    name: str
    data: bytes


class Events:
    """Events of one stream, in order. Comments, which only show that somebody is there, are left out.

    Args:
        content: of the answer.
    """

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content
        self._rest = b""
        self._ready: deque[Event] = deque()
        self._name = ""
        self._data: list[bytes] = []

    async def next(self, silence: float | None = None) -> Event | None:
        """Return the next event; None at the end of the stream.

        Args:
            silence: seconds without any byte, after which the stream is given up; None for ever.

        Raises:
            TimeoutError, aiohttp.ClientError, OSError: the stream is broken.
        """
        while not self._ready:
            async with asyncio.timeout(silence):
                part = await self._content.readany()
            if not part:
                return None
            *lines, self._rest = (self._rest + part).split(b"\n")
            for line in lines:
                self._read(line.removesuffix(b"\r"))
        return self._ready.popleft()

    def _read(self, line: bytes) -> None:
        if not line:
            if self._name or self._data:
                self._ready.append(Event(self._name, b"\n".join(self._data)))
            self._name, self._data = "", []
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            self._name = value.decode(errors="replace")
        elif field == b"data":
            self._data.append(value)
