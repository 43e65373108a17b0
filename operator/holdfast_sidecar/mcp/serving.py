"""The protocol: the official SDK's server over the tools. Imported with the first request, not before."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import mcp_types as types
import msgspec
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError

from holdfast import __version__
from holdfast_sidecar.answers import Refusal
from holdfast_sidecar.asgi import Receive, Scope, Send
from holdfast_sidecar.mcp.tools import FIXED, INSTRUCTIONS, NAMES, Answer, Fixed, Tool, Tools


class Serving:
    """One server for all requests. None of them leaves anything behind: a call is one request.

    Args:
        tools: what is served.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._manager = StreamableHTTPSessionManager(
            Server(
                "holdfast",
                version=__version__,
                instructions=INSTRUCTIONS,
                on_list_tools=self._list,
                on_call_tool=self._call,
            ),
            json_response=True,
            stateless=True,
        )
        self._end = asyncio.Event()
        self._runs: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to serve."""
        begun = asyncio.get_running_loop().create_future()
        self._runs = asyncio.create_task(self._run(begun.set_result))
        await begun

    async def aclose(self) -> None:
        """End what is under way, and serve no more."""
        self._end.set()
        if self._runs is not None:
            await self._runs

    async def _run(self, begun: Callable[[None], None]) -> None:
        # The manager's task group is entered and left by one task.
        async with self._manager.run():
            begun(None)
            await self._end.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._manager.handle_request(scope, receive, send)

    async def _list(
        self, context: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        del params
        try:
            offered = self._tools.offered(_fixed(context))
        except Refusal as refusal:
            problem = refusal.problem
            told = msgspec.to_builtins(problem)
            raise MCPError(types.INTERNAL_ERROR, problem.detail, told) from None
        return types.ListToolsResult(tools=[_told(tool) for tool in offered])

    async def _call(
        self, context: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        fixed = _fixed(context)
        try:
            names = {tool.name for tool in self._tools.offered(fixed)}
        except Refusal:
            names = NAMES  # the call itself says why nothing is served yet
        if params.name not in names:
            raise MCPError(types.INVALID_PARAMS, f"there is no tool {params.name!r} here")
        return _result(await self._tools.call(params.name, params.arguments, fixed))


def _fixed(context: ServerRequestContext[Any, Any]) -> Fixed:
    assert context.request is not None, "every message comes with its request"
    fixed = context.request.scope[FIXED]
    assert isinstance(fixed, Fixed)
    return fixed


def _told(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        description=tool.description,
        input_schema=tool.schema,
        annotations=types.ToolAnnotations(
            read_only_hint=not tool.writes,
            destructive_hint=False,
            idempotent_hint=not tool.writes,
            open_world_hint=False,
        ),
    )


def _result(answer: Answer) -> types.CallToolResult:
    text = answer.sentence or json.dumps(answer.value, ensure_ascii=False, separators=(",", ":"))
    return types.CallToolResult(
        content=[types.TextContent(text=text)],
        structured_content=answer.value,
        is_error=answer.sentence is not None,
    )
