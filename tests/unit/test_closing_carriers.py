"""What a carrier leaves open that is closed in the middle of a call, or before it: nothing."""

import asyncio
import contextlib
from typing import Any

import pytest

from holdfast.errors import StoreUnavailable
from holdfast.store.redis.carrier import Broken, Carrier
from tests.harness.listener import Listener
from tests.harness.waiting import until
from tests.unit.test_finding_servers import PRIMARY, address_of, cluster_of, connect, watching

pytestmark = pytest.mark.asyncio

KINDS = ["server", "sentinel", "cluster"]


def carrier_to(kind: str, server: Listener) -> Carrier:
    if kind == "server":
        return connect(("127.0.0.1", server.port))
    if kind == "sentinel":  # which is the server itself
        server.answers |= {b"SENTINEL": address_of(server), b"ROLE": PRIMARY}
        return watching(server)
    return cluster_of(server)


async def ends(call: asyncio.Task[Any]) -> None:
    with contextlib.suppress(Broken, StoreUnavailable, asyncio.CancelledError):
        await call


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_call_under_way_closes_its_connection(kind: str, *, cancelled: bool) -> None:
    """However far it has come: looking for a server, making a connection, or waiting for its answer."""
    for turns in range(40):
        async with Listener() as server:
            carrier = carrier_to(kind, server)
            call = asyncio.create_task(carrier.exchange([(b"GET", b"a")]))
            for _ in range(turns):
                await asyncio.sleep(0)
            if cancelled:
                call.cancel()
            await carrier.aclose()
            await ends(call)
            await until(lambda: server.open == 0, "nobody is connected", deadline=10)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_comes_later_closes_its_connection(kind: str) -> None:
    async with Listener({b"GET": b"$2\r\nhi\r\n"}) as server:
        carrier = carrier_to(kind, server)
        await carrier.exchange([(b"GET", b"a")])
        await carrier.aclose()
        assert await carrier.exchange([(b"GET", b"a")]) == [b"hi"]
        await until(lambda: server.open == 0, "nobody is connected", deadline=10)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_comes_later_and_is_cancelled_closes_its_connection(kind: str) -> None:
    for turns in range(80):
        async with Listener() as server:
            carrier = carrier_to(kind, server)
            await carrier.aclose()
            call = asyncio.create_task(carrier.exchange([(b"GET", b"a")]))
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
            await ends(call)
            await until(lambda: server.open == 0, "nobody is connected", deadline=10)
