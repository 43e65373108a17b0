"""The application at `/mcp`: what the address fixes, bounds, and the SDK once it is needed.

The data API stands in front of it and has refused pages of browsers before anything comes here.
"""

import asyncio
import importlib
from typing import Final, Protocol, cast

from holdfast_sidecar.answers import Refusal, Vanished
from holdfast_sidecar.asgi import Message, Receive, Scope, Send
from holdfast_sidecar.limits import Limits
from holdfast_sidecar.mcp.tools import Fixed, Tools
from holdfast_sidecar.requests import Query, read_query
from holdfast_sidecar.service import Service

_SERVING: Final = "holdfast_sidecar.mcp.serving"
_PACKAGES: Final = ("mcp", "mcp_types")
_TURN: Final = b"holdfast-turn"
_CALLS: Final = 32
"""Calls in work at a time. Those of a model come one by one: so many are many agents in one pod."""
_BODY: Final = 2**20
"""Bytes of a call. What a model writes in one go is far less; programs have the HTTP API."""
_QUERY: Final = (
    Query("memory", str, "The memory that all calls are for.", least=1, most=253),
    Query("session", str, "The session that all calls are for.", least=1, most=8192),
)


class Application(Protocol):
    """What answers: `holdfast_sidecar.mcp.serving.Serving`, which is not imported before it is needed."""

    async def aclose(self) -> None:
        """End what is under way."""
        ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        ...


class McpApp:
    """Serves the tools over streamable HTTP, each call in one request and one JSON answer.

    There are no sessions of the protocol: nothing is kept for a client between its calls, nothing is lost
    with a restart, and a thousand clients cost no more than one.

    Args:
        service: the memories and turns.
    """

    def __init__(self, service: Service) -> None:
        self._tools = Tools(service)
        self._limits = service.limits
        self._active = 0
        self._starting = asyncio.Lock()
        self._serving: Application | None = None
        self._closed = False

    async def aclose(self) -> None:
        """End the calls that are still under way, and serve no more."""
        async with self._starting:
            self._closed = True
        if self._serving is not None:
            await self._serving.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            Refusal: it cannot be served; nothing was sent.
            Vanished: the client went away.
        """
        if scope["raw_path"].rstrip(b"/") != b"/mcp":
            raise Refusal("RouteNotFound", "MCP is served at /mcp itself")
        if scope["method"] != "POST":
            # Nothing is told but in answer to a call: no stream to listen to, no session to end.
            raise Refusal(
                "MethodNotAllowed", "MCP is spoken by POST here", headers=((b"allow", b"POST"),)
            )
        fixed = _fixed(scope)
        if self._active >= _CALLS:
            raise Refusal("Overloaded", "too many calls at once: try again", retry_after=1)
        self._active += 1
        try:
            body = await _body(receive, self._limits)
            serving = await self._started()
            await serving(dict(scope) | {"holdfast.fixed": fixed}, _again(body, receive), send)
        finally:
            self._active -= 1

    async def _started(self) -> Application:
        if self._serving is not None and not self._closed:
            return self._serving
        async with self._starting:
            if self._closed:
                raise Refusal("ShuttingDown", "the sidecar is ending", retry_after=1)
            if self._serving is None:
                self._serving = await _load(self._tools)
            return self._serving


async def _load(tools: Tools) -> Application:
    try:
        # Half a second of imports: not on the loop, which keeps turns.
        module = await asyncio.to_thread(importlib.import_module, _SERVING)
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        raise Refusal("RouteNotFound", "MCP is an extra: pip install 'holdfast[mcp]'") from None
    serving = module.Serving(tools)
    await serving.start()
    return cast("Application", serving)


def _fixed(scope: Scope) -> Fixed:
    """Read what the address fixes: `/mcp?memory=support&session=42`.

    Raises:
        Refusal: it says something else. A model would be left a choice that was meant to be taken.
    """
    given = read_query(scope["query_string"], _QUERY)
    turns = [value for name, value in scope["headers"] if name == _TURN]
    if len(turns) > 1:
        raise Refusal("RequestInvalid", "a call is made under one turn")
    return Fixed(**given, turn=turns[0].decode("ascii", "replace") if turns else None)


async def _body(receive: Receive, limits: Limits) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(limits.body_seconds):
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise Vanished
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > _BODY:
                    raise Refusal("BodyTooLarge", f"a call may have {_BODY} bytes")
                more = message.get("more_body", False)
    except TimeoutError:
        raise Refusal(
            "RequestTooSlow",
            f"the body did not arrive within {limits.body_seconds:g} s",
            headers=((b"connection", b"close"),),
        ) from None
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Return what gives the body that was read already, and then whatever comes."""
    given = False

    async def next_message() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message
