"""A call that is cancelled ends there, also on a caller's pool, where redis-py's own time-outs are in use."""

import asyncio

import pytest
from redis.asyncio.connection import ConnectionPool

from holdfast.store.redis.carrier import PoolCarrier
from tests.harness.listener import Listener
from tests.harness.waiting import until


@pytest.mark.asyncio
@pytest.mark.parametrize("connected", [False, True])
async def test_at_whatever_turn_of_the_loop(*, connected: bool) -> None:
    """redis-py sends by `asyncio.wait_for`, which on Python 3.11 drops a cancellation as it ends."""
    async with Listener() as server:
        server.silent.add(b"GET")
        for turns in range(80):
            pool = ConnectionPool(host="127.0.0.1", port=server.port, socket_timeout=60)
            carrier = PoolCarrier(pool, owned=False, timeout=60)
            if connected:
                await carrier.exchange([(b"PING",)])
            call = asyncio.create_task(carrier.exchange([(b"GET", b"a")]))
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call], timeout=10)
            assert call.cancelled(), turns
            await carrier.aclose()
            await pool.aclose()
        await until(lambda: server.open == 0, "nobody is connected")
