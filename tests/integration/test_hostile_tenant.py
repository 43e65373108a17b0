"""What a tenant can write into its own keys must not stop the operator, nor reach anybody else's."""

from dataclasses import replace
from typing import Any, Final

import pytest

from holdfast.erasure import receipt
from holdfast.errors import UnknownKeys
from holdfast.store.maintenance import Ownership
from holdfast.store.redis.layout import label_key_of, session_keys
from tests.harness.meta import COUNTERS, SLOW
from tests.integration.world import AGAIN, FIRST, FOREIGN, HOUR, World

pytestmark = [pytest.mark.redis, pytest.mark.asyncio]

NAN, INF = float("nan"), float("inf")
MOST: Final = 2**62
"""More than any server holds, and a number that the API server still takes."""


async def poisoned(world: World, field: str, values: dict[int, float]) -> None:
    """Overwrite numbers in the packed fields of a session."""
    key = session_keys(world.memory, "s-0", "mem").meta
    form = COUNTERS if field == "k" else SLOW
    numbers = list(form.unpack(await world.raw.hget(key, field)))
    for at, value in values.items():
        numbers[at] = value
    await world.raw.hset(key, field, form.pack(*numbers))


async def every_walk(world: World) -> None:
    """Walk as the operator does over the life of a memory, up to its end."""
    hands, memory = world.hands, world.memory
    await hands.load_scripts()
    terms = await world.apply(limits={"maxTokens": 90_000})
    await world.roll_out(terms)
    step, totals = await hands.measure(memory, cursor=0, limit=1000)
    assert step.cursor == 0
    assert all(0 <= total <= MOST for total in totals)
    step, swept = await hands.sweep(memory, cursor=0, limit=1000, ttl=HOUR, mend=True)
    assert step.cursor == 0
    assert all(0 <= total <= MOST for total in swept.totals)
    await hands.put_usage(memory, FIRST, swept.totals)
    await survey(world)


async def survey(world: World) -> None:
    cursor, found = 0, None
    while found is None or cursor:
        found = await world.hands.survey(
            {world.memory},
            set(),
            cluster="cluster-1",
            expire=set(),
            cursor=cursor,
            limit=1000,
            mend=True,
        )
        cursor = found.cursor


async def end(world: World) -> None:
    """Delete the memory; nothing of it may stay that has no end."""
    revision = await world.hands.begin_deletion(world.memory, FIRST)
    assert revision is not None
    await world.bury(revision)
    assert await world.hands.end_deletion(world.memory, FIRST)
    lives = [await world.raw.pttl(name) for name in await world.names()]
    assert all(0 <= life <= 24 * HOUR for life in lives), lives


@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e308, -1e308, 1e18, -1.0])
@pytest.mark.parametrize("at", [0, 1, 2, 3, 5])
async def test_counters_that_are_no_counters(world: World, value: float, at: int) -> None:
    await world.apply()
    await world.fill(3)
    await poisoned(world, "k", {at: value})
    await every_walk(world)
    await end(world)


@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e308, -1.0])
@pytest.mark.parametrize("at", [7, 8, 9, 10, 11])
async def test_times_that_are_no_times(world: World, value: float, at: int) -> None:
    await world.apply()
    await world.fill(3)
    await poisoned(world, "s", {at: value})
    await every_walk(world)
    await end(world)


@pytest.mark.parametrize(
    "lease", [b"", b"x", b"a|b|c", b"\xff|1|1", b"t|9e99|1", b"t|1", b"x" * 100_000]
)
async def test_a_lease_that_is_none(world: World, lease: bytes) -> None:
    terms = await world.apply()
    await world.fill(3)
    keys = session_keys(world.memory, "s-0", "mem")
    await world.raw.hset(keys.meta, "l", lease)
    await every_walk(world)
    erased = (
        await world.store()
        .session(world.memory, "s-0")
        .erase(replace(terms, revision=9), force=True)
    )
    assert await world.raw.exists(keys.log) == 0
    receipt([("s-0", erased)])
    await end(world)


@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e308, -1e308, -1.0])
async def test_an_erasure_of_numbers_that_are_none(world: World, value: float) -> None:
    """Everything goes, and a receipt that says nothing of it fits into a status."""
    terms = await world.apply()
    await world.fill(1)
    keys = session_keys(world.memory, "s-0", "mem")
    for field, places in (("k", (0, 2, 3)), ("s", (7, 9))):
        for at in places:
            await world.fill(1)
            await poisoned(world, field, {at: value})
            await world.raw.hset(keys.meta, b"b:\xff,x", "")
            erased = await world.store().session(world.memory, "s-0").erase(terms, force=True)
            made = receipt([("s-0", erased)])
            assert 0 <= made.messages <= MOST
            assert 0 <= made.bytes <= MOST
            assert await world.raw.exists(keys.log) == 0


@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e308, -1e308, -1.0])
async def test_a_memory_that_is_retained_ends_whatever_times_its_sessions_say(
    world: World, value: float
) -> None:
    await world.apply()
    await world.fill(3)
    await poisoned(world, "s", {10: value})
    await poisoned(world, "s", {11: -value})
    await world.release(FIRST)
    for key in (world.keys.policy, world.keys.owner, world.keys.sessions):
        assert 0 < await world.raw.pttl(key) < 30 * 365 * 24 * HOUR


async def test_an_index_of_another_type(world: World) -> None:
    """It is removed where the memory is ours, and the sessions are found again; else it is an error."""
    await world.apply()
    await world.fill(3)
    await world.hands.load_scripts()
    await world.raw.delete(world.keys.sessions)
    await world.raw.hset(world.keys.sessions, "a", "b")
    for other in (FOREIGN, AGAIN):
        with pytest.raises(UnknownKeys):
            await world.hands.claim(world.memory, other)
    assert await world.hands.claim(world.memory, FIRST) is Ownership.MENDED
    assert await world.hands.claim(world.memory, FIRST) is Ownership.OURS
    await survey(world)
    assert await world.raw.zcard(world.keys.sessions) == 3


async def test_an_index_of_labels_of_another_type(world: World) -> None:
    await world.apply()
    await world.fill(3)
    await world.raw.set(label_key_of(world.keys.sessions, "names"), "x")
    await every_walk(world)
    await end(world)


async def test_odd_names_in_the_index(world: World) -> None:
    await world.apply()
    await world.fill(3)
    names: dict[Any, float] = {
        b"\xff\x00": 1,
        b"": 2,
        b"s-0}:meta": -INF,
        b"../x": INF,
        b"{a}": 0,
        b"a" * 10_000: 5,
    }
    await world.raw.zadd(world.keys.sessions, names)
    await every_walk(world)
    await end(world)


async def test_what_is_too_large_for_a_session_is_never_brought_to_the_operator(
    world: World,
) -> None:
    """The operator serves everybody: one tenant must not fill its memory."""
    await world.apply()
    await world.fill(3)
    await world.hands.load_scripts()
    large = b"x" * 1_000_000
    base = session_keys(world.memory, "s-0", "mem").meta.removesuffix(b"}:meta")
    for number in range(20):
        await world.raw.zadd(world.keys.sessions, {b"%d%b" % (number, large): 1})
        await world.raw.set(b"%b-%d-%b" % (base, number, large), "")
    for field in ("k", "l", "h"):
        await world.raw.hset(session_keys(world.memory, "s-1", "mem").meta, field, large)
    before = (await world.raw.info("stats"))["total_net_output_bytes"]
    await every_walk(world)
    await world.hands.names(world.memory, cursor=0, limit=1000)
    await world.release(FIRST)
    sent = (await world.raw.info("stats"))["total_net_output_bytes"] - before
    assert sent < len(large)
    await world.raw.unlink(*[key async for key in world.raw.scan_iter(f"mem:{{{world.memory}*")])
