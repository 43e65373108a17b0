"""What a carrier leaves open as it is closed in the middle of a call: nothing."""

import asyncio
import contextlib

import pytest
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from holdfast.errors import StoreUnavailable
from holdfast.store.redis.carrier import Broken, PoolCarrier
from tests.harness.listener import Listener
from tests.harness.waiting import until

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("turns", range(16))
async def test_a_call_under_way_closes_its_connection(turns: int, *, cancelled: bool) -> None:
    """However far it has come: it looks for a connection, makes it, or waits for its answer."""
    async with Listener() as server:
        pool = ConnectionPool(host="127.0.0.1", port=server.port, retry=Retry(NoBackoff(), 0))
        carrier = PoolCarrier(pool, owned=True)
        call = asyncio.create_task(carrier.exchange([(b"PING",)]))
        for _ in range(turns):
            await asyncio.sleep(0)
        if cancelled:
            call.cancel()
        await carrier.aclose()
        with contextlib.suppress(Broken, StoreUnavailable, asyncio.CancelledError):
            await call
        await until(lambda: server.open == 0, "nobody is connected", deadline=10)
