"""Quotas on real servers: what an operator measures, what clients add, and who is let in."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from holdfast.client import Client
from holdfast.errors import QuotaExceeded
from holdfast.quotas import STALE
from holdfast.store.maintenance import Totals
from holdfast.store.redis import RedisStore
from holdfast.store.redis.layout import session_keys
from holdfast.values import Batch, Prepared
from tests.harness.servers import Server, redis_client
from tests.harness.waiting import until
from tests.integration.world import FIRST, FREE, HOUR, World, spec, user

pytestmark = [pytest.mark.redis, pytest.mark.asyncio]

NOTHING = Totals(0, 0, 0, 0)


async def measure(world: World) -> Totals:
    """Measure the memory and write down what it holds, as the operator does."""
    step, totals = await world.hands.measure(world.memory, cursor=0, limit=10_000)
    assert step.cursor == 0
    await world.hands.put_usage(world.memory, FIRST, totals)
    return totals


async def fill(client: Client, name: str, message: Any) -> int:
    """Append until the quota is full; return how many went in."""
    session, count = client.memory("support").session(name), 0
    while True:
        try:
            await session.append(message)
        except QuotaExceeded:
            return count
        count += 1


async def test_clients_exceed_a_quota_by_no_more_than_each_ones_rest(world: World) -> None:
    hard, count = 20_000, 3
    await world.apply(quotas={"bytes": {"hard": str(hard)}})
    await world.fill(5, messages=20)
    before = (await measure(world)).bytes
    rest = hard - before
    clients = [world.client() for _ in range(count)]
    written = await asyncio.gather(
        *(fill(client, f"new-{n}", user("words " * 20)) for n, client in enumerate(clients))
    )
    after = (await measure(world)).bytes
    assert all(written)
    assert hard < after <= before + count * rest
    for n, client in enumerate(clients):
        await client.memory("support").policies.catch_up(0)
        assert await fill(client, f"new-{n}", user("a")) == 0


async def test_a_client_alone_exceeds_nothing(world: World) -> None:
    await world.apply(quotas={"bytes": {"hard": "10000"}})
    await measure(world)
    count = await fill(world.client(), "only", user("words " * 20))
    held = (await measure(world)).bytes
    assert 10_000 - 40 * count - 200 < held <= 10_000


async def test_a_measurement_is_followed_in_the_background(world: World) -> None:
    await world.apply(quotas={"tokens": {"soft": 100, "hard": 1_000}})
    await world.hands.put_usage(world.memory, FIRST, NOTHING)
    session = world.session("a")
    assert (await session.append(user("a"))).warnings == ()
    await world.hands.put_usage(world.memory, FIRST, NOTHING._replace(tokens=5_000))

    async def told() -> bool:
        return "writes are refused" in " ".join((await session.health()).warnings)

    await until(told, "the client has seen the measurement")
    with pytest.raises(QuotaExceeded):
        await session.append(user("b"))
    assert await session.read() == [user("a")]
    await world.hands.put_usage(world.memory, FIRST, NOTHING)

    async def room() -> bool:
        return not (await session.health()).warnings

    await until(room, "the client has seen that there is room again")
    await session.append(user("b"))


async def test_an_old_measurement_is_no_measurement(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    quotas = {"tokens": {"hard": 10}, "sessions": {"hard": 1}}
    await world.apply(quotas=quotas)
    await world.hands.put_usage(world.memory, FIRST, NOTHING._replace(tokens=5_000))
    with pytest.raises(QuotaExceeded):
        await world.session("a").append(user("a"))
    at = int(await world.raw.hget(world.keys.usage, "at"))
    await world.raw.hset(world.keys.usage, "at", at - int(STALE + 1) * 1000)
    client = world.client()
    for name in ("a", "b"):
        session = client.memory("support").session(name)
        await session.append(user("a"))
        assert "older than 15 minutes" in (await session.health()).warnings[0]
    warned = [record for record in caplog.records if "quotas" in record.getMessage()]
    assert len(warned) == 1


async def test_of_many_clients_no_more_sessions_begin_than_may(world: World) -> None:
    await world.apply(quotas={"sessions": {"hard": 30}})
    await measure(world)
    clients = [world.client() for _ in range(4)]
    done = await asyncio.gather(
        *(
            client.memory("support").session(f"s-{n}-{at}").append(user("a"))
            for n, client in enumerate(clients)
            for at in range(25)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(one, QuotaExceeded) for one in done) == 70
    assert await world.raw.zcard(world.keys.sessions) == 30
    metas = [name for name in await world.names() if name.endswith(":meta")]
    assert len(metas) == 30


async def test_a_refused_session_leaves_nothing(world: World) -> None:
    await world.apply(quotas={"sessions": {"hard": 1}})
    await measure(world)
    await world.session("first").append(user("a"))
    there = await world.names()
    for name in ("second", "third"):
        session = world.session(name)
        with pytest.raises(QuotaExceeded):
            await session.append(user("a"), id="id-1")
        with pytest.raises(QuotaExceeded):
            async with session.turn():
                pass
    # A mark that whoever asked for the turn has gone ends by itself.
    assert [name for name in await world.names() if ":w:" not in name] == there


async def test_a_session_that_has_expired_counts_until_it_is_tidied(world: World) -> None:
    await world.apply(quotas={"sessions": {"hard": 1}})
    await measure(world)
    await world.session("first").append(user("a"))
    for key in session_keys(world.memory, "first", "mem"):
        await world.raw.delete(key)
    with pytest.raises(QuotaExceeded):
        await world.session("second").append(user("a"))
    await world.session("first").append(user("begins again under its name"))
    for key in session_keys(world.memory, "first", "mem"):
        await world.raw.delete(key)
    await world.raw.zadd(world.keys.sessions, {"first": 1})
    assert await measure(world) == NOTHING
    await world.session("second").append(user("a"))


async def test_a_session_that_the_index_lost_goes_on(world: World) -> None:
    terms = await world.apply(quotas={"sessions": {"hard": 1}})
    await measure(world)
    await world.session("first").append(user("a"))
    await world.raw.delete(world.keys.sessions)
    await world.session("second").append(user("a"))
    await world.session("first").append(user("b"))
    assert await world.session("first").read() == [user("a"), user("b")]
    assert terms.max_sessions == 0, "the operator's own terms bound nothing"


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [False, True])
async def test_a_known_id_is_told_whatever_the_client_speaks(
    each_server: Server, world: World, protocol: int, decode: bool
) -> None:
    terms = await world.apply()
    raw = redis_client(each_server.port, protocol=protocol, decode_responses=decode)
    session = RedisStore.from_client(raw).session(world.memory, "a")
    one = Batch((Prepared(b'"a"', 3),), key="0123456789abcdef" * 2, digest=2**20 - 1)
    assert await session.known(one) is None
    await session.append(terms, Batch((Prepared(b'"b"', 4),)), FREE)
    first = await session.append(terms, one, FREE)
    known = await session.known(one)
    assert known == replace(first, duplicate=True)
    await raw.aclose()


async def test_a_memory_without_an_operator_has_no_quotas(world: World) -> None:
    policy = spec(quotas={"sessions": {"hard": 1}, "bytes": {"hard": "1"}})
    client = world.client(policy)
    for name in ("a", "b"):
        await client.memory("support").session(name).append(user("a"))
    health = await client.memory("support").session("a").health()
    assert health.managed is False
    assert "no operator measures" in health.warnings[0]
    assert 24 * HOUR < await world.raw.pttl(world.keys.sessions) <= 26 * HOUR
