"""Connections of our own: what arrives on them, when, and what becomes of them."""

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import ConnectionPool
from redis.exceptions import BusyLoadingError, InvalidResponse, ResponseError

from holdfast.store.addresses import Login
from holdfast.store.redis.carrier import Broken, PoolCarrier
from holdfast.store.redis.lines import OwnLine
from holdfast.store.redis.pools import make_pool
from tests.harness.listener import Listener
from tests.harness.waiting import until

pytestmark = pytest.mark.asyncio

PING = b"*1\r\n$4\r\nPING\r\n"
PATIENCE = 10.0


@asynccontextmanager
async def line_to(server: Listener) -> AsyncGenerator[OwnLine]:
    """A connection that was taken over; it is closed as the pool closes."""
    pool = make_pool(("127.0.0.1", server.port), login=Login(None, None), tls=None, timeout=5.0)
    line = OwnLine(await pool.get_connection())
    try:
        yield line
    finally:
        await pool.release(line.connection)
        async with asyncio.timeout(PATIENCE):  # redis-py waits for the end of the connection
            await pool.aclose()


class TestReplies:
    async def test_come_in_order_however_they_are_cut(self) -> None:
        whole = b"*2\r\n:1\r\n$3\r\nabc\r\n"
        answers = {b"PING": whole[:7], b"ECHO": whole[7:]}
        async with Listener(answers) as server, line_to(server) as line:
            packed = PING + b"*1\r\n$4\r\nECHO\r\n" + b"*1\r\n$3\r\nGET\r\n"
            assert await line.talk(packed, 2, PATIENCE) == [[1, b"abc"], b"OK"]
            assert line.usable

    async def test_an_error_stands_among_them(self) -> None:
        answers = {b"PING": b"-ERR no\r\n", b"GET": b"-LOADING wait\r\n"}
        async with Listener(answers) as server, line_to(server) as line:
            replies = await line.talk(
                PING + b"*1\r\n$3\r\nGET\r\n" + b"*1\r\n$3\r\nSET\r\n", 3, 9.0
            )
            assert [type(reply) for reply in replies] == [ResponseError, BusyLoadingError, bytes]
            assert line.usable

    async def test_what_the_server_tells_unasked_is_none(self) -> None:
        push = b">2\r\n$7\r\nmessage\r\n$2\r\nhi\r\n"
        async with (
            Listener({b"PING": push + b"+PONG\r\n" + push}) as server,
            line_to(server) as line,
        ):
            assert await line.talk(PING, 1, PATIENCE) == [b"PONG"]
            assert await line.talk(PING, 1, PATIENCE) == [b"PONG"]
            assert line.usable

    async def test_bytes_that_are_none_break_the_connection(self) -> None:
        answers = {b"PING": b"HTTP/1.1 400 Bad Request\r\n\r\n"}
        async with Listener(answers) as server, line_to(server) as line:
            with pytest.raises(InvalidResponse):
                await line.talk(PING, 1, PATIENCE)
            assert not line.usable

    @pytest.mark.parametrize("later", [False, True])
    async def test_one_too_many_is_not_taken_for_the_next(self, later: bool) -> None:
        """Whoever used the connection next would read somebody else's answer."""
        answer = b"+PONG\r\n" if later else b"+PONG\r\n+WRONG\r\n"
        async with Listener({b"PING": answer}) as server, line_to(server) as line:
            packed = PING * 2 if later else PING
            assert await line.talk(packed, 1, PATIENCE) == [b"PONG"]
            await until(lambda: not line.usable, "noticed")


class TestEnds:
    async def test_the_server_hangs_up_meanwhile(self) -> None:
        async with Listener({b"PING": b""}) as server, line_to(server) as line:
            with pytest.raises(OSError, match="closed"):
                await line.talk(PING, 1, PATIENCE)
            assert not line.usable

    async def test_the_server_hangs_up_between(self) -> None:
        async with Listener() as server, line_to(server) as line:
            assert await line.talk(PING, 1, PATIENCE) == [b"OK"]
            server.hang_up()
            await until(lambda: not line.usable, "noticed")
            with pytest.raises(OSError, match="closed"):
                await line.talk(PING, 1, PATIENCE)

    async def test_no_answer_in_time(self) -> None:
        async with Listener() as server, line_to(server) as line:
            server.silent.add(b"PING")
            with pytest.raises(TimeoutError):
                await line.talk(PING, 1, 0.05)

    async def test_a_flood_that_nobody_asked_for_is_cut_off(self) -> None:
        async with Listener({b"PING": b"+PONG\r\n" * 1_000_000}) as server, line_to(server) as line:
            assert await line.talk(PING, 1, PATIENCE) == [b"PONG"]
            assert not line.usable
            await until(lambda: server.open == 0, "hung up")


class TestCarrier:
    def carrier_to(
        self, server: Listener, *, lost: Callable[[], None] | None = None
    ) -> tuple[PoolCarrier, ConnectionPool]:
        login = Login(None, None)
        pool = make_pool(("127.0.0.1", server.port), login=login, tls=None, timeout=5.0)
        return PoolCarrier(pool, owned=True, timeout=PATIENCE, lost=lost), pool

    async def test_what_the_server_ends_is_told_at_once_and_what_we_end_is_not(self) -> None:
        lost = 0

        def tell() -> None:
            nonlocal lost
            lost += 1

        async with Listener() as server:
            carrier, _ = self.carrier_to(server, lost=tell)
            await carrier.exchange([(b"PING",)])
            server.hang_up()
            await until(lambda: lost == 1, "told of one that nobody uses")
            server.answers[b"PING"] = b""
            with pytest.raises(Broken):
                await carrier.exchange([(b"PING",)])
            assert lost == 2
            server.answers[b"PING"] = b"+PONG\r\n"
            await carrier.exchange([(b"PING",)])
            await carrier.aclose()
            await until(lambda: server.open == 0, "closed by us")
            assert lost == 2

    async def test_a_cancelled_call_takes_its_connection_along(self) -> None:
        async with Listener({b"GET": b"$6\r\nothers\r\n"}) as server:
            carrier, _ = self.carrier_to(server)
            await carrier.exchange([(b"PING",)])
            server.hold.clear()
            call = asyncio.create_task(carrier.exchange([(b"GET", b"key")]))
            await until(lambda: bool(server.named(b"GET")), "asked")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            server.hold.set()
            assert await carrier.exchange([(b"PING",)]) == [b"OK"]
            assert server.connections == 2
            await carrier.aclose()

    async def test_one_connection_serves_call_after_call_and_is_closed_with_the_carrier(
        self,
    ) -> None:
        async with Listener() as server:
            carrier, _ = self.carrier_to(server)
            for _ in range(20):
                assert await carrier.exchange([(b"PING",), (b"PING",)]) == [b"OK", b"OK"]
            assert server.connections == 1
            await carrier.aclose()
            await until(lambda: server.open == 0, "hung up")
            gc.collect()  # a transport left open would warn, and warnings are errors
