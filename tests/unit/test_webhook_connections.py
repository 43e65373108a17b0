"""Clients of the webhook that take their time, or send too much."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
import uvicorn
from starlette.types import Receive, Scope, Send

from holdfast_webhook.connections import Connection
from tests.harness.waiting import until

pytestmark = pytest.mark.asyncio


class Impatient(Connection):
    """The same with less time."""

    fresh = 0.6
    request = 0.6


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self):
        yield


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(1.2)  # longer than a client may take
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@pytest_asyncio.fixture
async def port() -> AsyncGenerator[int]:
    """Where an impatient server listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            answer, http=Impatient, lifespan="off", log_config=None, log_level="error"
        )
        server = Server(config)
        running = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started, "it listens")
        yield listener.getsockname()[1]
        server.should_exit = True
        await running


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST / HTTP/1.1\r\nHost: a\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx",
    ],
    ids=["nothing", "half a head", "half a body"],
)
async def test_who_takes_too_long_is_hung_up_on(port: int, sent: bytes):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    # What was sent at that very moment is answered by a reset.
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(90):
            assert b"HTTP/1.1 2" not in await reader.read()
    await closed(writer)


async def test_an_answer_may_take_longer_and_a_connection_is_kept(port: int):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
        async with asyncio.timeout(90):
            assert b"204" in await reader.readuntil(b"\r\n\r\n")
    await closed(writer)


@pytest.mark.parametrize("where", ["header", "path"])
async def test_a_head_that_is_too_large_is_refused(port: int, where: str):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    large = b"x" * (1 << 17)
    head = b"A: " + large if where == "header" else b"Host: a"
    path = large if where == "path" else b""
    writer.write(b"POST /" + path + b" HTTP/1.1\r\n" + head + b"\r\n\r\n")
    # Whoever is still sending may see the connection go before the answer.
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(90):
            assert (await reader.read()).startswith(b"HTTP/1.1 400")
    await closed(writer)
