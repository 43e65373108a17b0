"""Handlers that move a whole session: lines of JSON as a stream, out and in."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final, cast

from holdfast.wire import JSON_LINES
from holdfast_sidecar.answers import Answer, Stream, ok
from holdfast_sidecar.requests import Request
from holdfast_sidecar.service import Service

_PART: Final = 64 * 1024
"""Bytes that are sent together, at least."""


async def export(service: Service, request: Request) -> Stream:
    """Give the session as lines."""
    session = await service.session(request)
    lines = cast("AsyncGenerator[str]", session.export(name=request.query.get("name", False)))
    # What goes wrong goes wrong before the first line: then it is still a problem with a status.
    first = await anext(lines)
    return Stream(_parts(first, lines), JSON_LINES.encode())


async def import_(service: Service, request: Request) -> Answer:
    """Take lines in."""
    session = await service.session(request)
    return ok(await session.import_(request.lines()))


async def _parts(first: str, lines: AsyncGenerator[str]) -> AsyncIterator[bytes]:
    part = bytearray(first.encode() + b"\n")
    async with aclosing(lines):
        async for line in lines:
            part += line.encode() + b"\n"
            if len(part) >= _PART:
                yield bytes(part)
                part.clear()
    yield bytes(part)
