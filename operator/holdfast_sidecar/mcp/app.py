"""The application at `/mcp`: what the address fixes, bounds, and the SDK once it is needed.

The data API stands in front of it and has refused pages of browsers before anything comes here.
"""

import asyncio
import importlib
from dataclasses import replace
from typing import Final, Protocol, cast

from holdfast_sidecar.answers import Refusal
from holdfast_sidecar.asgi import Message, Receive, Scope, Send
from holdfast_sidecar.mcp.tools import FIXED, Fixed, Tools
from holdfast_sidecar.requests import Budget, Query, Request, read_query
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
        self._limits = replace(service.limits, body=_BODY)
        self._bodies = Budget(_CALLS * _BODY)
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

        The query fixes what no argument shall choose: `/mcp?memory=support&session=42`. Anything else in it
        is refused: with a typing error a model would have the choice that was meant to be taken from it.

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
        headers = dict(cast("list[tuple[bytes, bytes]]", scope["headers"]))
        query = read_query(scope["query_string"], _QUERY)
        turn = headers.get(_TURN)
        fixed = Fixed(**query, turn=turn.decode("ascii", "replace") if turn is not None else None)
        request = Request(
            scope,
            receive,
            headers=headers,
            segments=(),
            query=query,
            limits=self._limits,
            budget=self._bodies,
        )
        if self._active >= _CALLS:
            raise Refusal("Overloaded", "too many calls at once: try again", retry_after=1)
        self._active += 1
        try:
            body = await request.body()
            serving = await self._started()
            await serving(dict(scope) | {FIXED: fixed}, _again(body, receive), send)
        finally:
            request.end()
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
