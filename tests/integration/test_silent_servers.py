"""What accepts connections and never answers, or never ends an answer: each call ends within its patience."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import hiredis
import pytest

from holdfast.client import Client
from holdfast.errors import AmbiguousWrite, StoreUnavailable
from holdfast.store.redis import RedisStore
from tests.harness.certificates import CertificateAuthority
from tests.integration import workers as work
from tests.integration.workers import user

pytestmark = pytest.mark.asyncio

PATIENCE = 0.5
"""Seconds, for a connection, for an exchange and for repeating."""
LIMIT = 8.0
"""Seconds that a call may take on a busy machine: it connects, sends and repeats, at several servers."""
SCHEMES = ("redis", "redis+cluster", "redis+sentinel")


class Slow:
    """A server that greets, or not, and then says nothing, or one byte after the other of a reply.

    Args:
        greets: it answers what is asked on connecting, and who has what in a Cluster or by Sentinel: itself.
        drips: what it does not answer it begins to answer.
    """

    def __init__(self, *, greets: bool, drips: bool) -> None:
        self.heard: set[bytes] = set()
        self._greets = greets
        self._drips = drips
        self._port = b"0"
        self._over = asyncio.Event()

    @contextlib.asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None) -> AsyncGenerator[int]:
        """Listen on a port of 127.0.0.1 within the block."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        self._port = str(port).encode()
        try:
            yield port
        finally:
            self._over.set()
            server.close()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader(notEnoughData=Ellipsis)
        try:
            if self._greets:
                while data := await reader.read(65536):
                    parser.feed(data)
                    while (command := parser.gets()) is not Ellipsis:
                        self.heard.add(command[0])
                        answer = self._answer(command)
                        if answer is None:
                            return await self._keep(writer)
                        writer.write(answer)
            else:
                await self._keep(writer)
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    def _answer(self, command: list[bytes]) -> bytes | None:
        match command[0], *command[1:2]:
            case (b"HELLO", *_):
                return b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n"
            case (b"CLIENT" | b"SELECT", *_):
                return b"+OK\r\n"
            case (b"ROLE", *_):
                return b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"
            case (b"CLUSTER", b"SLOTS"):
                node = b"*3\r\n$9\r\n127.0.0.1\r\n:%s\r\n$2\r\nid\r\n" % self._port
                return b"*1\r\n*3\r\n:0\r\n:16383\r\n" + node
            case (b"SENTINEL", _):
                port = b"$%d\r\n%s\r\n" % (len(self._port), self._port)
                return b"*2\r\n$9\r\n127.0.0.1\r\n" + port
            case _:
                return None

    async def _keep(self, writer: asyncio.StreamWriter) -> None:
        """Keep the connection, and say nothing that is a whole reply."""
        writer.write(b"$1000000\r\n" if self._drips else b"")
        while not (self._over.is_set() or writer.is_closing()):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), 0.02)
            if self._drips:
                writer.write(b"x")
                await writer.drain()


async def call_everything(url: str) -> None:
    """Make calls of every sort at once, and check how and when each of them ends."""
    store = RedisStore.from_url(url, timeout=PATIENCE)
    async with Client(store, policy=work.policy()) as client:
        session = client.memory(work.MEMORY).session(work.SHARED)
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: session.append(user("x")),
            lambda: session.append(user("x"), id="r-1"),
            session.read,
            session.read_page,
            session.health,
            session.pop,
            session.erase,
            session.flush,
            session.turn(wait="1m").__aenter__,
        ]
        for _ in range(2):  # the second time it is known to be away
            await asyncio.gather(*(_ends(url, call) for call in calls))
        began = time.monotonic()
    assert time.monotonic() - began < LIMIT, f"{url}: closing"


async def _ends(url: str, call: Callable[[], Awaitable[Any]]) -> None:
    began = time.monotonic()
    with pytest.raises((StoreUnavailable, AmbiguousWrite)):
        await asyncio.wait_for(call(), 60)
    took = time.monotonic() - began
    assert took < LIMIT, f"{url}: {took:.1f} s"


def _address(scheme: str, port: int, options: str = "") -> str:
    primary = "/main" if scheme.endswith("sentinel") else ""
    return f"{scheme}://127.0.0.1:{port}{primary}{options}"


@pytest.mark.parametrize("drips", [False, True], ids=["silent", "dripping"])
@pytest.mark.parametrize("greets", [False, True], ids=["at once", "after its greeting"])
async def test_every_call_ends_within_its_patience(
    tmp_path: Path, greets: bool, drips: bool
) -> None:
    """At an address of each kind, with TLS and without."""
    authority = CertificateAuthority(tmp_path, "authority")
    pair = authority.server("server", hosts=["127.0.0.1"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.certificate, pair.key)
    async with contextlib.AsyncExitStack() as stack:
        servers: list[Slow] = []
        urls: list[str] = []
        for scheme in SCHEMES:
            for context in (None, tls):
                servers.append(Slow(greets=greets, drips=drips))
                port = await stack.enter_async_context(servers[-1].listening(context))
                if context is None:
                    urls.append(_address(scheme, port))
                else:
                    secure = scheme.replace("redis", "rediss", 1)
                    urls.append(_address(secure, port, f"?ca={authority.certificate}"))
        await asyncio.gather(*(call_everything(url) for url in urls))
    if greets:  # so that all that comes before was passed
        assert all(b"HMGET" in server.heard for server in servers)


async def test_a_server_that_does_not_even_begin_with_tls() -> None:
    async with contextlib.AsyncExitStack() as stack:
        urls: list[str] = []
        for drips in (False, True):
            for scheme in SCHEMES:
                slow = Slow(greets=False, drips=drips)
                port = await stack.enter_async_context(slow.listening(None))
                urls.append(_address(scheme.replace("redis", "rediss", 1), port))
        await asyncio.gather(*(call_everything(url) for url in urls))
