"""The proxy that loses replies: its faults hit exactly the command they were armed for."""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio
from redis import exceptions as redis_errors
from redis.asyncio import Redis

from tests.harness.proxy import CuttingProxy
from tests.harness.servers import Product, Server, redis_client
from tests.harness.waiting import until

pytestmark = [pytest.mark.asyncio, pytest.mark.redis]


@pytest_asyncio.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
async def client(
    request: pytest.FixtureRequest, proxy: CuttingProxy, valkey_server: Server
) -> AsyncGenerator[Redis]:
    """A client that reaches the emptied server through the proxy and repeats nothing."""
    async with valkey_server.client() as direct:
        await direct.flushall()
    async with redis_client(proxy.port, protocol=request.param) as through:
        yield through


@pytest_asyncio.fixture
async def direct(valkey_server: Server) -> AsyncGenerator[Redis]:
    """A client that reaches the server without the proxy."""
    async with valkey_server.client() as straight:
        yield straight


class TestCuttingProxy:
    async def test_passes_on_whatever_is_said(self, client: Redis) -> None:
        large = os.urandom(3_000_000)
        assert await client.set("large", large)
        assert await client.get("large") == large
        async with client.pipeline() as pipeline:
            for number in range(500):
                pipeline.rpush("list", f"{number}\r\n*1\r\n$4\r\n")
            pipeline.lrange("list", 0, -1)
            replies = await pipeline.execute()
        assert replies[:-1] == list(range(1, 501))
        assert len(replies[-1]) == 500
        await client.hset("hash", mapping={"a": "1", "b": ""})
        assert await client.hgetall("hash") == {b"a": b"1", b"b": b""}
        nested = "return {1, {2, {}, {'x', false}}, redis.status_reply('OK')}"
        assert await client.eval(nested, 0) == [1, [2, [], [b"x", None]], b"OK"]
        assert await client.sadd("set", "member") == 1
        assert await client.smembers("set") == {b"member"}
        assert await client.get("absent") is None
        assert await client.zadd("scores", {"x": 1.5})
        assert await client.zscore("scores", "x") == 1.5

    async def test_cut_after_request_loses_the_reply_of_a_write_that_happened(
        self, client: Redis, direct: Redis, proxy: CuttingProxy
    ) -> None:
        fault = proxy.cut_after_request(b"RPUSH")
        with pytest.raises(redis_errors.ConnectionError):
            await client.rpush("list", "record")
        assert fault.fired == 1
        assert await direct.lrange("list", 0, -1) == [b"record"]
        assert await client.rpush("list", "next") == 2, "the fault fires once"
        assert fault.fired == 1

    async def test_a_client_with_retries_stores_twice_behind_it(
        self, client: Redis, direct: Redis, proxy: CuttingProxy
    ) -> None:
        """Why the library's clients have their own retries off."""
        async with Redis(host="127.0.0.1", port=proxy.port) as retrying:
            await retrying.ping()
            fault = proxy.cut_after_request(b"RPUSH")
            assert await retrying.rpush("list", "record") == 2
        assert fault.fired == 1
        assert await direct.lrange("list", 0, -1) == [b"record", b"record"]

    async def test_cut_before_request_keeps_the_write_from_the_server(
        self, client: Redis, direct: Redis, proxy: CuttingProxy
    ) -> None:
        fault = proxy.cut_before_request(b"RPUSH", times=2)
        for fired in (1, 2):
            with pytest.raises(redis_errors.ConnectionError):
                await client.rpush("list", "record")
            assert fault.fired == fired
        assert await direct.llen("list") == 0
        assert await client.rpush("list", "record") == 1

    @pytest.mark.parametrize("executed", [True, False])
    async def test_inside_a_pipeline_the_fault_hits_one_command(
        self, client: Redis, direct: Redis, proxy: CuttingProxy, executed: bool
    ) -> None:
        arm = proxy.cut_after_request if executed else proxy.cut_before_request
        fault = arm(b"$6\r\nsecond\r\n")
        async with client.pipeline(transaction=False) as pipeline:
            for name in ("first", "second", "third"):
                pipeline.set(name, "1")
            with pytest.raises(redis_errors.ConnectionError):
                await pipeline.execute()
        assert fault.fired == 1
        assert await direct.exists("first", "second", "third") == 1 + executed
        assert await direct.exists("third") == 0

    @pytest.mark.parametrize("executed", [True, False])
    async def test_earlier_replies_arrive_before_the_cut(
        self, proxy: CuttingProxy, direct: Redis, executed: bool
    ) -> None:
        await direct.delete("cut")
        (proxy.cut_after_request if executed else proxy.cut_before_request)(b"cut")
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        slow = b"*3\r\n$4\r\nEVAL\r\n$50\r\nfor i = 1, 3000000 do local x = i * i end return 7\r\n"
        writer.write(slow + b"$1\r\n0\r\n" + b"*2\r\n$4\r\nINCR\r\n$3\r\ncut\r\n")
        assert await reader.read() == b":7\r\n"
        assert await direct.exists("cut") == executed
        writer.close()
        await writer.wait_closed()

    async def test_half_a_reply_is_exactly_that(self, proxy: CuttingProxy, direct: Redis) -> None:
        await direct.set("half", "0123456789")
        fault = proxy.half_reply(b"half", 7)
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"PING\r\n*2\r\n$3\r\nGET\r\n$4\r\nhalf\r\nPING\r\n")
        assert await reader.read() == b"+PONG\r\n" + b"$10\r\n01"
        assert fault.fired == 1
        writer.close()
        await writer.wait_closed()

    async def test_a_client_reports_half_a_reply_as_a_broken_connection(
        self, client: Redis, proxy: CuttingProxy
    ) -> None:
        await client.set("key", "0123456789")
        fault = proxy.half_reply(b"GET", 6)
        with pytest.raises(redis_errors.ConnectionError):
            await client.get("key")
        assert fault.fired == 1
        assert await client.get("key") == b"0123456789"

    async def test_a_request_in_pieces_is_still_one_request(
        self, proxy: CuttingProxy, direct: Redis
    ) -> None:
        await direct.delete("pieces")
        fault = proxy.cut_after_request(b"pieces")
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        for byte in b"*2\r\n$4\r\nINCR\r\n$6\r\npieces\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert fault.fired == 1
        assert await direct.get("pieces") == b"1"
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def test_several_connections_take_their_share_of_a_fault(
        self, direct: Redis, proxy: CuttingProxy
    ) -> None:
        await direct.delete("shared")
        fault = proxy.cut_after_request(b"shared", times=3)
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(redis_client(proxy.port)) for _ in range(8)]
            ends = await asyncio.gather(
                *(one.incr("shared") for one in clients), return_exceptions=True
            )
        assert sum(isinstance(end, redis_errors.ConnectionError) for end in ends) == 3
        assert fault.fired == 3
        assert await direct.get("shared") == b"8"

    async def test_a_delay_holds_requests(self, client: Redis, proxy: CuttingProxy) -> None:
        await client.ping()
        proxy.delay(3600)
        waiting = asyncio.create_task(client.set("key", "value"))
        await until(lambda: proxy.delayed == 1, "the request is held")
        assert not waiting.done()
        assert proxy.cut_all() == 1
        with pytest.raises(redis_errors.ConnectionError):
            await waiting
        proxy.delay(0)
        assert await client.get("key") is None

    async def test_refuse_and_accept_concern_new_connections(
        self, client: Redis, proxy: CuttingProxy
    ) -> None:
        assert await client.ping()
        port = proxy.port
        proxy.refuse()
        assert await client.ping(), "the open connection stays"
        for _ in range(20):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
        await proxy.accept()
        async with redis_client(port) as second:
            assert await second.ping()

    async def test_cut_all_breaks_what_is_open(self, client: Redis, proxy: CuttingProxy) -> None:
        assert await client.ping()
        waiting = asyncio.create_task(client.blpop(["empty"], timeout=60))
        await until(lambda: proxy.requests_open == 1, "the call is under way")
        assert proxy.cut_all() == 1
        with pytest.raises(redis_errors.ConnectionError):
            await waiting
        assert await client.ping()

    async def test_a_client_that_goes_away_goes_away_upstream(
        self, client: Redis, direct: Redis
    ) -> None:
        waiting = asyncio.create_task(client.blpop(["empty"], timeout=60))

        async def blocked() -> int:
            return (await direct.info("clients"))["blocked_clients"]

        async def nobody_blocked() -> bool:
            return not await blocked()

        await until(blocked, "the server holds the call")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await client.connection_pool.disconnect()
        await until(nobody_blocked, "the server has noticed")

    async def test_a_dead_server_behind_it_is_a_broken_connection(self, tmp_path: Path) -> None:
        async with (
            Server(Product.VALKEY, tmp_path) as server,
            CuttingProxy(server.port) as proxy,
            redis_client(proxy.port) as client,
        ):
            assert await client.ping()
            await server.kill()
            for _ in range(2):
                with pytest.raises(redis_errors.ConnectionError):
                    await client.ping()
            await server.start()
            assert await client.ping()
