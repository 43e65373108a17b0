"""A pool of the program's own, lent with `client=`: few connections, or all of them in use by the program."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.exceptions import ConnectionError as RedisConnectionError

import holdfast
from holdfast.breaker import PROBE, Breakers, BreakerState
from holdfast.client import Client
from holdfast.errors import StoreUnavailable
from holdfast.session import Session
from holdfast.store.redis import RedisStore
from holdfast.store.redis.breaking import BreakingCarrier
from tests.harness.servers import Server
from tests.harness.waiting import until
from tests.integration import workers as work
from tests.integration.workers import user

pytestmark = [pytest.mark.asyncio, pytest.mark.redis]

Make = Callable[[int, int], ConnectionPool]
"""Makes a pool to a port, of so many connections."""


def _refusing(port: int, most: int) -> ConnectionPool:
    return ConnectionPool(host="127.0.0.1", port=port, max_connections=most, socket_timeout=None)


def _waiting(port: int, most: int) -> ConnectionPool:
    return BlockingConnectionPool(
        host="127.0.0.1", port=port, max_connections=most, timeout=None, socket_timeout=None
    )


def _impatient(port: int, most: int) -> ConnectionPool:
    return BlockingConnectionPool(
        host="127.0.0.1", port=port, max_connections=most, timeout=0.05, socket_timeout=None
    )


KINDS: dict[str, Make] = {"refusing": _refusing, "waiting": _waiting, "impatient": _impatient}
each_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


@contextlib.asynccontextmanager
async def lent(
    pool: ConnectionPool, namespace: str, *, waits: float, opens_after: float, **spec: Any
) -> AsyncGenerator[Client]:
    """Return a client over a pool, as `connect(client=)` makes it but for its times, in seconds."""
    breakers = Breakers(patience=opens_after)
    carrier = BreakingCarrier(pool, owned=False, timeout=waits, breakers=breakers)
    store = RedisStore(carrier, patience=0.2, breakers=breakers)
    async with Client(store, namespace=namespace, policy=work.policy(**spec)) as client:
        yield client


@contextlib.asynccontextmanager
async def all_in_use(pool: ConnectionPool) -> AsyncGenerator[None]:
    """Use all connections of a pool, as a program does that subscribes or blocks."""
    taken: list[Any] = []
    while pool.can_get_connection():
        taken.append(await pool.get_connection())
    try:
        yield
    finally:
        for connection in taken:
            await pool.release(connection)


def state(client: Client) -> BreakerState:
    (breaker,) = client.breakers
    return breaker.state


def shared(client: Client) -> Session:
    return client.memory(work.MEMORY).session(work.SHARED)


class TestInUse:
    async def test_a_callers_pool_that_is_in_use_is_no_outage(
        self, valkey_server: Server, namespace: str
    ) -> None:
        """Every kind of pool under every failure mode, at the same time: each call waits for its patience."""
        async with contextlib.AsyncExitStack() as stack:
            pools = [make(valkey_server.port, 3) for make in KINDS.values()]
            clients: list[Client] = []
            for pool in pools:
                own = await stack.enter_async_context(Redis.from_pool(pool))
                for mode in ("Strict", "ReadStale", "ReadEmpty"):
                    policy = work.policy(failureMode=mode)
                    connecting = holdfast.connect(client=own, namespace=namespace, policy=policy)
                    clients.append(await stack.enter_async_context(connecting))
            sessions = [shared(client) for client in clients]
            await sessions[0].append(user("first"))
            for session in sessions:
                assert await session.read() == [user("first")]
            calls: list[Callable[[], Awaitable[Any]]] = []
            for session in sessions:
                calls += [session.read, session.read_page, session.health]
                calls += [lambda session=session: session.append(user("never sent"))]
                calls += [lambda session=session: session.turn(wait="1m").__aenter__()]
            async with contextlib.AsyncExitStack() as using:
                for pool in pools:
                    await using.enter_async_context(all_in_use(pool))
                began = time.monotonic()
                ends = await asyncio.gather(*(call() for call in calls), return_exceptions=True)
                took = time.monotonic() - began
            for end in ends:
                assert isinstance(end, StoreUnavailable), end
                assert end.code == "StoreUnavailable"
                assert "max_connections" in end.message
                assert end.retry_after is None
            assert 5 <= took < 30
            assert {state(client) for client in clients} == {BreakerState.CLOSED}
            assert [await session.read() for session in sessions] == [[user("first")]] * 9
            for session in sessions:
                assert (await session.health()).warnings == ()
            await sessions[-1].append(user("second"))

    @each_kind
    async def test_a_connection_that_comes_free_is_used(
        self, valkey_server: Server, namespace: str, make: Make
    ) -> None:
        own = Redis.from_pool(pool := make(valkey_server.port, 2))
        async with (
            own,
            holdfast.connect(client=own, namespace=namespace, policy=work.policy()) as client,
        ):
            session = shared(client)
            await session.append(user("first"))
            async with all_in_use(pool):
                call = asyncio.create_task(session.append(user("second")))
                done, _ = await asyncio.wait([call], timeout=0.3)
                assert not done
            assert (await call).length == 2
            assert client.breakers[0].away == 0

    @each_kind
    async def test_callers_who_give_up_waiting_open_nothing(
        self, valkey_server: Server, namespace: str, make: Make
    ) -> None:
        own = Redis.from_pool(pool := make(valkey_server.port, 2))
        async with own, lent(pool, namespace, waits=30, opens_after=0) as client:
            session = shared(client)
            await session.append(user("first"))

            async def give_up() -> None:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(1.2):
                        await session.length()

            async with all_in_use(pool):
                await asyncio.gather(*(give_up() for _ in range(6)))
                assert state(client) is BreakerState.CLOSED
                assert client.breakers[0].away == 0
            assert await session.length() == 1

    async def test_a_silent_server_that_keeps_them_all_is_an_outage(
        self, own_server: Server, namespace: str
    ) -> None:
        """What the program itself asks hangs, too, and holds the connections."""
        own = Redis.from_pool(pool := _refusing(own_server.port, 2))
        modes = {"failureMode": "ReadStale"}
        async with own, lent(pool, namespace, waits=1, opens_after=600, **modes) as client:
            session = shared(client)
            await session.append(user("first"))
            assert not (await session.read()).stale
            own_server.pause()
            asked: list[asyncio.Task[Any]] = []
            try:
                assert (await session.read()).stale
                asked = [asyncio.create_task(own.ping()) for _ in range(2)]
                await until(lambda: not pool.can_get_connection(), "the program holds them all")
                copy = await session.read()
                assert (copy, copy.stale) == ([user("first")], True)
                with pytest.raises(StoreUnavailable, match="max_connections"):
                    await session.length()
            finally:
                own_server.resume()
            await asyncio.gather(*asked)
            assert not (await session.read()).stale

    @pytest.mark.parametrize("waits", [0.5, 30.0], ids=["short", "longer than a probe"])
    async def test_one_that_cannot_be_asked_again_is_asked_by_the_next_call(
        self, valkey_server: Server, namespace: str, waits: float
    ) -> None:
        own = Redis.from_pool(pool := _refusing(valkey_server.port, 2))
        modes = {"failureMode": "ReadEmpty"}
        async with own, lent(pool, namespace, waits=waits, opens_after=0, **modes) as client:
            session = shared(client)
            await session.append(user("first"))
            (breaker,) = client.breakers
            for _ in range(2):
                breaker.failed("as if it had been away")
            assert breaker.state is BreakerState.OPEN
            async with all_in_use(pool):

                async def asks() -> bool:
                    with pytest.raises(StoreUnavailable) as refusal:
                        await session.length()
                    return "max_connections" in refusal.value.message

                await until(asks, "the pause is over")
                if waits < PROBE:  # else it takes as long again
                    assert (await session.read()).stale, "it was away, as far as anybody knows"
                assert breaker.state is BreakerState.OPEN
            assert await session.read() == [user("first")]
            assert (breaker.state, breaker.opened) == (BreakerState.CLOSED, 1)


class TestSmall:
    @each_kind
    @pytest.mark.parametrize("most", [1, 2, 3])
    async def test_several_wait_for_a_turn_with_few_connections(
        self, valkey_server: Server, namespace: str, make: Make, most: int
    ) -> None:
        waiters = 8
        served: list[int] = []
        over = asyncio.Event()
        own = Redis.from_pool(make(valkey_server.port, most))

        async def wait(client: Client, number: int) -> None:
            async with shared(client).turn(wait="60s") as turn:
                await turn.append(user(str(number)))
                assert (await turn.read())[-1] == user(str(number))
                served.append(number)

        async def use() -> int:
            """Use a connection now and then, as the program that it belongs to."""
            times = 0
            while not over.is_set():
                with contextlib.suppress(RedisConnectionError):
                    await own.ping()
                times += 1
                await asyncio.sleep(0.005)
            return times

        policy = work.policy(locking={"leaseTTL": "60s"})  # so that nobody wakes up by itself
        async with (
            own,
            holdfast.connect(client=own, namespace=namespace, policy=policy) as first,
            holdfast.connect(client=own, namespace=namespace, policy=policy) as second,
        ):
            using = asyncio.create_task(use())
            began = time.monotonic()
            async with shared(first).turn() as turn:
                tasks: list[asyncio.Task[None]] = []
                for number in range(waiters):
                    client = (first, second)[number % 2]
                    tasks.append(asyncio.create_task(wait(client, number)))

                    async def queued(count: int = number + 1) -> bool:
                        return (await turn.health()).waiting == count

                    await until(queued, "one more waits")
                for number in range(5):
                    await turn.append(user(f"of the holder {number}"))
            await asyncio.gather(*tasks)
            assert served == list(range(waiters))
            assert time.monotonic() - began < 50, "they waited for as long as the turn lasts"
            assert await shared(second).length() == waiters + 5
            over.set()
            assert await using > 0
            for client in (first, second):
                assert (state(client), client.breakers[0].opened) == (BreakerState.CLOSED, 0)
