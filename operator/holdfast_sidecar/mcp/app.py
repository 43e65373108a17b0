"""The ASGI app at `/mcp`: who may ask, what the address fixes, and the SDK once it is needed."""

import asyncio
import importlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from holdfast.wire import MAX_BODY
from holdfast_sidecar.mcp.arguments import RequestInvalid
from holdfast_sidecar.mcp.tools import Fixed, Memories, Tools

if TYPE_CHECKING:
    from holdfast_sidecar.mcp.serving import Serving

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_INVALID_REQUEST: Final = -32600
_SERVING: Final = "holdfast_sidecar.mcp.serving"


class McpApp:
    """Serves the tools over streamable HTTP, each call in one request and one JSON answer.

    There are no sessions of the protocol, so nothing is kept for a client between its calls, nothing is
    lost with a restart, and any number of clients costs nothing.

    Args:
        memories: what is served.
    """

    def __init__(self, memories: Memories) -> None:
        self._tools = Tools(memories)
        self._serving: Serving | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Serve inside of it; leaving it ends the calls that are still under way."""
        try:
            yield
        finally:
            async with self._starting:
                self._closed = True
            if self._serving is not None:
                await self._serving.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http"
        refused = refusal(scope)
        if refused is not None:
            await _answer(send, 403, refused)
            return
        if scope["method"] != "POST":
            # Nothing is told but in answer to a call: no stream to listen to, no session to end.
            await _answer(send, 405, "only POST", [(b"allow", b"POST")])
            return
        try:
            fixed = _fixed(scope)
        except RequestInvalid as error:
            await _answer(send, 400, str(error))
            return
        try:
            serving = await self._started()
        except ModuleNotFoundError as error:
            if error.name not in ("mcp", "mcp_types"):
                raise
            await _answer(send, 501, "MCP is an extra: pip install 'holdfast[mcp]'")
            return
        if serving is None:
            await _answer(send, 503, "shutting down", [(b"retry-after", b"1")])
            return
        await serving(dict(scope) | {"holdfast.fixed": fixed}, receive, send)

    async def _started(self) -> "Serving | None":
        async with self._starting:
            if self._serving is None and not self._closed:
                # Half a second of imports: not on the loop, on which turns are kept.
                module = await asyncio.to_thread(importlib.import_module, _SERVING)
                serving = module.Serving(self._tools, most=MAX_BODY)
                await serving.start()
                self._serving = serving
            return None if self._closed else self._serving


def refusal(scope: Scope) -> str | None:
    """Say why a page in a browser could be behind a request; None when it is not.

    A name that is made to lead here (DNS rebinding) shows in `Host`, another site's page in `Origin`. A
    browser does not reach a Unix socket.
    """
    headers: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name, []).append(value)
    for origin in headers.get(b"origin", ()):
        if _host(origin, "") not in _LOOPBACK:
            return "requests from other sites' pages are not answered"
    server = scope.get("server")
    if server is not None and server[1] is not None:
        hosts = headers.get(b"host", ())
        if len(hosts) != 1 or _host(hosts[0], "//") not in _LOOPBACK:
            return "this address is to be called by its own name: 127.0.0.1, ::1 or localhost"
    return None


def _host(address: bytes, before: str) -> str | None:
    try:
        return urlsplit(before + address.decode("ascii")).hostname
    except ValueError:
        return None


def _fixed(scope: Scope) -> Fixed:
    """Read what the address fixes: `/mcp?memory=support&session=42`.

    Raises:
        RequestInvalid: it says something else. A model would be left a choice that was meant to be taken.
    """
    found: dict[str, str] = {}
    try:
        pairs = parse_qsl(
            scope["query_string"].decode("ascii"), keep_blank_values=True, errors="strict"
        )
    except ValueError:
        raise RequestInvalid("the address is no UTF-8, percent-encoded") from None
    for name, value in pairs:
        if name not in ("memory", "session") or name in found or not value:
            raise RequestInvalid(
                "the address may fix memory and session, each once and not empty, and nothing else"
            )
        found[name] = value
    turns = [value for name, value in scope["headers"] if name == b"holdfast-turn"]
    if len(turns) > 1:
        raise RequestInvalid("one turn at a time")
    return Fixed(**found, turn=turns[0].decode("latin-1") if turns else None)


async def _answer(
    send: Send, status: int, sentence: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Answer without the protocol's server, in its form."""
    error = {"code": _INVALID_REQUEST, "message": sentence}
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()
    length = (b"content-length", str(len(body)).encode())
    kind = (b"content-type", b"application/json")
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [kind, length, *(headers or [])],
        }
    )
    await send({"type": "http.response.body", "body": body})
