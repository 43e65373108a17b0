"""The ASGI application of the data listeners: one function from a request to its answer, and no layers."""

import asyncio
import logging
import re
import time
import traceback
from collections.abc import Generator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, Final, Protocol, cast

from holdfast.errors import AmbiguousWrite, HoldfastError
from holdfast_sidecar.answers import (
    Answer,
    Refusal,
    Stream,
    Vanished,
    of_error,
    of_refusal,
)
from holdfast_sidecar.asgi import Application, Message, Receive, Scope, Send
from holdfast_sidecar.requests import Budget, Request, read_query
from holdfast_sidecar.routes import ROUTES, Route
from holdfast_sidecar.routing import Router
from holdfast_sidecar.service import Service

_log = logging.getLogger("holdfast.sidecar")

_PLACE: Final = rb"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]{1,5})?"
_HOST: Final = re.compile(_PLACE, re.IGNORECASE)
_ORIGIN: Final = re.compile(rb"https?://" + _PLACE, re.IGNORECASE)
_ANYTHING: Final = frozenset({b"*/*", b"application/json"})
OTHER: Final = "other"
"""Stands for the operation of a request that is for none."""


class Instruments(Protocol):
    """Is told of requests."""

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """A request was answered, or its stream has ended."""
        ...


class Api:
    """The data API.

    Args:
        service: the parts that answer.
        instruments: is told of each request; None tells nobody.
        mounts: other applications, by the first segment of their path, such as `b"mcp"`.
    """

    def __init__(
        self,
        service: Service,
        *,
        instruments: Instruments | None = None,
        mounts: Mapping[bytes, Application] | None = None,
    ) -> None:
        self._service = service
        self._limits = service.limits
        self._instruments = instruments
        self._mounts = dict(mounts or {})
        self._router: Router[Route] = Router(ROUTES)
        self._budget = Budget(self._limits.bodies)
        self._answers = Budget(self._limits.answers)
        self._active = 0
        self._streams = 0
        self._mounted = 0

    @property
    def active(self) -> int:
        """How many requests are in work, streams and those of mounts included."""
        return self._active + self._streams + self._mounted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        began = time.perf_counter()
        operation = OTHER
        headers = dict(cast("list[tuple[bytes, bytes]]", scope["headers"]))
        status = 499
        try:
            guard(scope, headers)
            raw_path: bytes = scope["raw_path"]
            _, _, below = raw_path.partition(b"/")
            segment = below.partition(b"/")[0]
            mounted = self._mounts.get(segment)
            if mounted is not None:
                operation = segment.decode()

                async def noting(message: Message) -> None:
                    nonlocal status
                    status = message.get("status", status)
                    await send(message)

                self._mounted += 1
                try:
                    await mounted(scope, receive, noting)
                finally:
                    self._mounted -= 1
                return
            route, segments = self._router.find(scope["method"], raw_path)
            operation = route.operation
            accept = headers.get(b"accept")
            if accept is not None and accept not in _ANYTHING:
                headers[b"accept"] = accept = _every(b"accept", scope)
                _require_acceptable(accept, route)
            request = Request(
                scope,
                receive,
                headers=headers,
                segments=segments,
                query=read_query(scope["query_string"], route.query),
                limits=self._limits,
                budget=self._budget,
            )
            with self._place(route):
                answer = await self._answer(route, request)
                status = answer.status
                if isinstance(answer, Stream):
                    await self._stream(answer, send)
                else:
                    await self._send(answer, send, route)
        except (HoldfastError, Refusal) as error:
            answer = of_refusal(error) if isinstance(error, Refusal) else of_error(error)
            status = answer.status
            await _send(answer, send)
        except Vanished:
            return
        finally:
            if self._instruments is not None:
                self._instruments.answered(operation, status, time.perf_counter() - began)

    @contextmanager
    def _place(self, route: Route) -> Generator[None]:
        """Take a place among the requests at work, until the client has taken the answer."""
        if route.waits:
            yield
            return
        if self._active >= self._limits.requests:
            raise Refusal("Overloaded", "too many requests at once: try again", retry_after=1)
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1

    async def _answer(self, route: Route, request: Request) -> Answer | Stream:
        """Have the handler answer; what nobody expected is logged, and nothing of it is told."""
        try:
            return await route.handler(self._service, request)
        except (HoldfastError, Refusal, Vanished):
            raise
        except asyncio.CancelledError:
            raise AmbiguousWrite(
                "the sidecar ended before the answer: what the call writes may be written or not"
            ) from None
        except Exception as error:  # noqa: BLE001 - the last one who can answer
            _log_unexpected(route, error)
            raise Refusal(
                "InternalError", "the sidecar met an error that nobody expected; its log has more"
            ) from None
        finally:
            request.end()

    async def _send(self, answer: Answer, send: Send, route: Route) -> None:
        """Send an answer; a large one in parts, as fast as the client takes them.

        What is read may be asked for again, so it is refused where too much waits for clients already.
        """
        size = len(answer.body)
        if size <= self._limits.small:
            await _send(answer, send)
            return
        read = route.method == "GET"
        if read:
            self._answers.take(size)
        try:
            await send(_start(answer))
            step = self._limits.small
            for first in range(0, size, step):
                await self._part(answer.body[first : first + step], send)
            await send({"type": "http.response.body", "body": b""})
        finally:
            if read:
                self._answers.give(size)

    async def _stream(self, stream: Stream, send: Send) -> None:
        """Send an answer in parts, as fast as the client takes them."""
        self._streams += 1
        try:
            async with aclosing(cast("Any", stream.parts)) as parts:
                first = await anext(parts, b"")  # before anything is sent: a stream begun is ended
                headers = [(b"content-type", stream.kind), (b"cache-control", b"no-store")]
                start = {"type": "http.response.start", "status": stream.status, "headers": headers}
                await send(start)
                await self._part(first, send)
                async for part in parts:
                    await self._part(part, send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._streams -= 1

    async def _part(self, part: bytes, send: Send) -> None:
        async with asyncio.timeout(self._limits.write_seconds):
            await send({"type": "http.response.body", "body": part, "more_body": True})


def guard(scope: Scope, headers: Mapping[bytes, bytes]) -> None:
    """Refuse what a page in a browser sends, and whatever was made to come here by a name of its own.

    Raises:
        Refusal: the origin is not this machine, or the name that was called is not.
    """
    origin = headers.get(b"origin")
    if origin is not None and not _ORIGIN.fullmatch(origin):
        raise Refusal("OriginRefused", "requests of web pages of other hosts are refused")
    server = scope["server"]
    if server is not None and server[1] is None:
        return  # a Unix socket: nobody comes there by a name
    if not _HOST.fullmatch(headers.get(b"host", b"")):
        raise Refusal("OriginRefused", "the Host has to be localhost or a loopback address")


def _every(name: bytes, scope: Scope) -> bytes:
    """Return a header that is a list, and may be there several times, as one."""
    return b",".join(value for each, value in scope["headers"] if each == name)


def _require_acceptable(accept: bytes, route: Route) -> None:
    kinds = {kind.encode() for kind in route.kinds} or {b"*/*"}
    wildcards = {kind.partition(b"/")[0] + b"/*" for kind in kinds} | {b"*/*"}
    for part in accept.split(b","):
        kind, _, options = part.partition(b";")
        if kind.strip().lower() in kinds | wildcards and not re.search(rb"q=0(\.0*)?\s*$", options):
            return
    if route.status == 204:
        return
    there = ", ".join(route.kinds)
    raise Refusal("NotAcceptable", f"the answer is {there}, which the request does not accept")


async def _send(answer: Answer, send: Send) -> None:
    await send(_start(answer))
    await send({"type": "http.response.body", "body": answer.body})


def _start(answer: Answer) -> Message:
    headers = [*answer.headers]
    if answer.status != 204:
        headers += [(b"content-type", answer.kind), (b"content-length", b"%d" % len(answer.body))]
    return {"type": "http.response.start", "status": answer.status, "headers": headers}


def _log_unexpected(route: Route, error: Exception) -> None:
    """Say where it came from, without its words: those may show content."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    _log.error("%s failed with %s\n%s", route.operation, type(error).__name__, frames)
