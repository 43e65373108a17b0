"""Servers that are killed, frozen, full, loading or demoted: who is told what, and how soon."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from holdfast.breaker import BreakerState
from holdfast.client import Client
from holdfast.errors import HoldfastError, StoreUnavailable
from holdfast.session import Session
from holdfast.store.redis import RedisStore
from tests.harness.parts import need_server
from tests.harness.servers import SLOW_TO_LOAD, Product, Server, is_loading
from tests.harness.waiting import until
from tests.integration import workers as work
from tests.integration.workers import user

pytestmark = [pytest.mark.asyncio, pytest.mark.redis]

PATIENCE = 0.5
"""Seconds of the clients of these tests; of the library's own they are 5."""
AT_ONCE = 0.3
"""Seconds: more than a call that is not sent takes on a busy machine, and less than the patience."""


@pytest.fixture
def server(own_server: Server) -> Server:
    return own_server


@pytest_asyncio.fixture
async def raw(server: Server) -> AsyncGenerator[Redis]:
    """Return a client for what happens behind the library's back."""
    async with server.client() as raw:
        yield raw


def connect(
    server: Server, namespace: str, mode: str = "Strict", *, timeout: float = PATIENCE
) -> Client:
    store = RedisStore.from_url(server.url, timeout=timeout)
    return Client(store, namespace=namespace, policy=work.policy(failureMode=mode))


def state(client: Client) -> BreakerState:
    [breaker] = client.breakers
    return breaker.state


async def opened(client: Client, session: Session) -> None:
    """Call until the breaker is open, as a program would that goes on asking."""

    async def is_open() -> bool:
        with contextlib.suppress(HoldfastError):
            await session.length()
        return state(client) is BreakerState.OPEN

    await until(is_open, "the breaker is open")


async def refused_at_once(client: Client, call: Callable[[], Any]) -> StoreUnavailable:
    """Call until the refusal is one that nobody waited for: now and then a call asks the server."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            await call()
        if time.monotonic() - began < AT_ONCE and state(client) is BreakerState.OPEN:
            return caught.value
    raise AssertionError("no call failed at once")


Away = Callable[[Server], Any]


async def _kill(server: Server) -> None:
    await server.kill()


async def _freeze(server: Server) -> None:
    server.pause()


async def _back(server: Server) -> None:
    if server.running:
        server.resume()
    else:
        await server.start()


away = pytest.mark.parametrize("leave", [_kill, _freeze], ids=["killed", "frozen"])


class TestAway:
    @away
    async def test_calls_fail_at_once_until_it_is_back(
        self, server: Server, namespace: str, leave: Away
    ) -> None:
        async with connect(server, namespace) as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            await session.append(user("before"))
            await leave(server)
            await opened(client, session)
            for number, call in enumerate(
                (
                    lambda: session.append(user("never sent")),
                    lambda: session.append(user("never sent"), id="r-1"),
                    session.read,
                    session.read_page,
                    session.pop,
                    session.clear,
                    session.health,
                    lambda: session.turn(wait="30s").__aenter__(),
                )
            ):
                error = await refused_at_once(client, call)
                assert error.retry_after is not None, number
                assert "asked again" in error.message
                assert server.url.rpartition(":")[2] not in str(error)
            began = time.monotonic()
            ends = await asyncio.gather(
                *(session.read() for _ in range(500)), return_exceptions=True
            )
            assert {type(end) for end in ends} == {StoreUnavailable}
            assert time.monotonic() - began < 30, "they were not told at once"
            await _back(server)

            async def answered() -> bool:
                try:
                    return await session.read() == [user("before")]
                except StoreUnavailable:
                    return False

            await until(answered, "the server is found again")
            assert state(client) is BreakerState.CLOSED
            await session.append(user("after"))
            assert await session.read() == [user("before"), user("after")]

    @away
    async def test_reads_go_on_as_the_policy_says(
        self, server: Server, namespace: str, leave: Away
    ) -> None:
        async with (
            connect(server, namespace, "ReadStale") as stale,
            connect(server, namespace, "ReadEmpty") as empty,
        ):
            copies = stale.memory(work.MEMORY).session(work.SHARED)
            nothing = empty.memory(work.MEMORY).session(work.SHARED)
            await copies.append(user("before"))
            for session in (copies, nothing):
                for answer in (await session.read(), await session.read_page()):
                    assert answer.stale is False
            await leave(server)
            # Also the first call, which finds out.
            answer, gone = await asyncio.gather(copies.read(), nothing.read())
            assert (answer, answer.stale) == ([user("before")], True)
            assert (gone, gone.stale) == ([], True)
            page, none = await asyncio.gather(copies.read_page(), nothing.read_page())
            assert ([record.item for record in page.records], page.stale) == (answer, True)
            assert (none.total, none.stale) == (0, True)
            with pytest.raises(StoreUnavailable):
                await copies.read(limit=1)  # was not read before
            for session in (copies, nothing):
                with pytest.raises(HoldfastError):
                    await session.append(user("after"), id="r-1")
                with pytest.raises(StoreUnavailable):
                    await session.turn().__aenter__()
            await _back(server)

            async def fresh() -> bool:
                answers = [await copies.read(), await nothing.read()]
                return not any(answer.stale for answer in answers)

            await until(fresh, "the server is found again")
            for session in (copies, nothing):
                [warning] = [
                    text for text in (await session.health()).warnings if "unavailable" in text
                ]
                assert "failureMode" in warning

    async def test_a_restart_within_the_patience_opens_nothing(
        self, server: Server, namespace: str
    ) -> None:
        async with connect(server, namespace, timeout=20) as client:
            memory = client.memory(work.MEMORY)
            sessions = [memory.session(str(number)) for number in range(20)]
            await asyncio.gather(*(session.append(user("before")) for session in sessions))
            await server.kill()
            calls = [
                asyncio.create_task(session.append(user("after"), id="r-1")) for session in sessions
            ]
            await until(
                lambda: any(breaker.away > 0.5 for breaker in client.breakers), "calls have failed"
            )
            await server.start()
            await asyncio.gather(*calls)
            for session in sessions:
                assert await session.read() == [user("before"), user("after")]
            assert [breaker.opened for breaker in client.breakers] == [0]

    async def test_whoever_waits_for_a_turn_is_told(self, server: Server, namespace: str) -> None:
        async with connect(server, namespace) as client, connect(server, namespace) as other:
            session = client.memory(work.MEMORY).session(work.SHARED)
            waiting = other.memory(work.MEMORY).session(work.SHARED)
            async with session.turn():
                waiter = asyncio.create_task(waiting.turn(wait="60s").__aenter__())

                async def queued() -> bool:
                    return (await session.health()).waiting == 1

                await until(queued, "somebody waits")
                began = time.monotonic()
                await server.kill()
                with pytest.raises(StoreUnavailable):
                    await waiter
                assert time.monotonic() - began < 50

    async def test_a_write_that_was_under_way_is_stored_once(
        self, server: Server, namespace: str
    ) -> None:
        async with connect(server, namespace, timeout=2) as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            await session.append(user("0"))
            server.pause()
            calls = [
                asyncio.create_task(session.append(user(str(number)), id=f"r-{number}"))
                for number in range(1, 11)
            ]
            await until(lambda: state(client) is not BreakerState.CLOSED, "the breaker is open")
            server.resume()
            ends = await asyncio.gather(*calls, return_exceptions=True)
            assert all(not isinstance(end, BaseException) or _known(end) for end in ends)

            async def all_stored() -> bool:
                try:
                    for number in range(1, 11):
                        await session.append(user(str(number)), id=f"r-{number}")
                except StoreUnavailable:
                    return False
                return True

            await until(all_stored, "the server is found again")
            stored = sorted(int(item["content"]) for item in await session.read())
            assert stored == list(range(11))


def _known(error: BaseException) -> bool:
    return isinstance(error, HoldfastError) and error.code in ("AmbiguousWrite", "StoreUnavailable")


class TestThere:
    """A server that answers is there, whatever it answers."""

    async def test_a_full_one_can_be_freed(
        self, raw: Redis, server: Server, namespace: str
    ) -> None:
        async with connect(server, namespace, "ReadStale") as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            other = client.memory(work.MEMORY).session("another")
            await session.append_many([user("a"), user("b"), user("c")])
            await other.append(user("x"), id="r-1")
            async with session.turn() as turn:
                await raw.config_set("maxmemory", 1)
                for _ in range(3):
                    with pytest.raises(StoreUnavailable, match="memory") as caught:
                        await session.append(user("new"))
                    assert caught.value.retry_after is None
                answer = await session.read()
                assert (len(answer), answer.stale) == (3, False)
                assert await turn.pop() == user("c")
            assert (await session.health()).lease is None, "a release frees memory too"
            assert await session.pop() == user("b")
            assert await session.clear() == 1
            assert (await other.erase()).messages == 1
            assert not (await other.health()).messages
            assert state(client) is BreakerState.CLOSED
            await raw.config_set("maxmemory", 0)
            await session.append(user("room again"))
            assert await session.read() == [user("room again")]

    async def test_a_replica_is_read_and_not_written(
        self, raw: Redis, server: Server, namespace: str
    ) -> None:
        async with connect(server, namespace, "ReadStale") as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            await session.append(user("before"))
            await session.read()
            await raw.replicaof("127.0.0.1", 1)
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match="read-only replica") as caught:
                    await session.append(user("new"))
                assert caught.value.retry_after is None
            assert (await session.read()).stale is False
            await raw.config_set("replica-serve-stale-data", "no")
            answer = await session.read()
            assert (answer, answer.stale) == ([user("before")], True)
            assert state(client) is BreakerState.CLOSED
            await raw.replicaof("NO", "ONE")
            await session.append(user("after"))
            assert await session.read() == [user("before"), user("after")]

    async def test_one_that_loads_is_waited_for(self, namespace: str, tmp_path: Path) -> None:
        need_server(Product.REDIS)
        async with Server(
            Product.REDIS, tmp_path / "slow", persist=True, arguments=SLOW_TO_LOAD
        ) as server:
            async with server.client() as raw:
                for number in range(600):
                    await raw.set(f"ballast-{number}", secrets.token_bytes(100))
            async with (
                connect(server, namespace, "ReadStale") as client,
                connect(server, namespace, timeout=30) as patient,
            ):
                session = client.memory(work.MEMORY).session(work.SHARED)
                other = patient.memory(work.MEMORY).session(work.SHARED)
                await session.append(user("before"))
                await session.read()
                await other.read()
                async with server.client() as raw:
                    await raw.save()
                await server.stop()
                starting = asyncio.create_task(server.start())
                await until(lambda: is_loading(server), "it loads")
                answer = await session.read()
                assert (answer, answer.stale) == ([user("before")], True)
                await other.append(user("after"))
                await starting
                assert await other.read() == [user("before"), user("after")]
                assert [breaker.opened for breaker in patient.breakers] == [0]
