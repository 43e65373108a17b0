"""The session in which Kopf talks to the API server."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import aiohttp
import kopf
import pytest
from aiohttp import web

from holdfast_operator.handlers import counted_session
from holdfast_operator.handlers.sessions import CountedSession

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def api_server(*codes: int) -> AsyncGenerator[tuple[CountedSession, list[str], list[str]]]:
    """Give a session with a server that answers with these codes in turn; what it got, what was counted."""
    left, got, counted = list(codes), list[str](), list[str]()

    async def answer(request: web.Request) -> web.StreamResponse:
        got.append(f"{request.method} {await request.text()}")
        code = left.pop(0)
        if not code:  # half an answer
            response = web.StreamResponse(headers={"Content-Length": "10"})
            await response.prepare(request)
            await response.write(b"{}")
            assert request.transport is not None
            request.transport.close()
            return response
        return web.json_response({}, status=code)

    app = web.Application()
    app.router.add_route("*", "/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    [(_, port)] = runner.addresses
    info = kopf.ConnectionInfo(server=f"http://127.0.0.1:{port}")
    session = counted_session(info, counted.append, watches=1)
    try:
        yield session, got, counted
    finally:
        await session.aiohttp_session.close()
        await runner.cleanup()


async def test_a_patch_that_conflicts_is_sent_again():
    async with api_server(409, 409, 200) as (session, got, _):
        answer = await session.aiohttp_session.patch(f"{session.server}/", json={"a": 1})
        assert answer.status == 200
    assert got == ['PATCH {"a": 1}'] * 3


@pytest.mark.parametrize(("method", "code"), [("POST", 409), ("PATCH", 422), ("GET", 409)])
async def test_anything_else_is_for_kopf_to_judge(method: str, code: int):
    async with api_server(code) as (session, got, counted):
        answer = await session.aiohttp_session.request(method, f"{session.server}/")
        assert answer.status == code
    assert len(got) == 1
    assert counted == [one for one in [method] if one != "GET"]


async def test_half_an_answer_is_a_broken_connection_which_kopf_repeats():
    async with api_server(0) as (session, _, __):
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.aiohttp_session.patch(f"{session.server}/", json={})
