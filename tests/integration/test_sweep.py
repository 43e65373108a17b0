"""Sweeps and surveys on real servers: what was planted is found and set right, nothing else is touched."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, Final

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

import holdfast
from holdfast.store.addresses import read_address
from holdfast.store.maintenance import Orphan, Step, Survey, Swept, Totals, Walk
from holdfast.store.redis.connecting import make_carrier
from holdfast.store.redis.layout import SessionKeys, memory_keys, session_keys
from holdfast.store.redis.maintenance import RedisMaintenance
from holdfast.store.redis.runner import Runner
from holdfast.values import MemoryAddress
from tests.harness.cluster_of_servers import ClusterOfServers
from tests.harness.meta import Meta
from tests.harness.servers import Product, Server, running_server
from tests.integration.world import AGAIN, FIRST, FOREIGN, HOUR, World, spec, user

pytestmark = [pytest.mark.redis, pytest.mark.asyncio]

STATE: Final = ("meta", "log", "pin", "ids", "hist")
TTL: Final = 2 * HOUR
DAY: Final = 24 * HOUR


class Sweeper:
    """Sweeps and surveys of the memory of a world, whole walks."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def sweep(self, *, mend: bool = True, limit: int = 20) -> Swept:
        return await sweep(self.world.hands, self.world.memory, mend=mend, limit=limit)

    async def survey(self, *expire: MemoryAddress, mend: bool = True) -> Survey:
        """Survey with this world's memory served; orphans of other tests are left out."""
        found = await survey(self.world.hands, {self.world.memory}, set(expire), mend=mend)
        mine = {
            memory: one
            for memory, one in found.orphans.items()
            if memory.namespace == self.world.memory.namespace
        }
        return found._replace(orphans=mine)

    def keys(self, name: str) -> SessionKeys:
        return session_keys(self.world.memory, name, "mem")

    async def full(self, name: str) -> int:
        """Make a session with all five keys; return its expiry."""
        session = self.world.session(name)
        await session.append(user("hello"), id="one")
        await session.append(user("pinned"), pin=True)
        expires_at = (await self.world.meta(name)).expires_at
        await self.world.raw.rpush(self.keys(name).hist, "entry")
        await self.world.raw.pexpireat(self.keys(name).hist, expires_at)
        return expires_at


async def sweep(
    hands: RedisMaintenance, memory: MemoryAddress, *, mend: bool = True, limit: int = 20
) -> Swept:
    cursor, parts, step = 0, list[Swept](), Step(1, 0, 0, 0, 0)
    while step.cursor != 0:
        step, part = await hands.sweep(memory, cursor=cursor, limit=limit, ttl=TTL, mend=mend)
        parts.append(part)
        cursor = step.cursor
    sums = (sum(column) for column in zip(*(part.totals for part in parts), strict=True))
    return Swept(
        Totals(*sums),
        sum(part.repaired for part in parts),
        sum(part.dropped for part in parts),
        sum(part.strays for part in parts),
    )


async def survey(
    hands: RedisMaintenance,
    served: set[MemoryAddress],
    expire: set[MemoryAddress],
    *,
    mend: bool = True,
) -> Survey:
    cursor, relisted, repaired, seen = 0, 0, 0, 0
    orphans: dict[MemoryAddress, Orphan] = {}
    while True:
        step = await hands.survey(
            served, set(), cluster="cluster-1", expire=expire, cursor=cursor, limit=50, mend=mend
        )
        cursor, seen = step.cursor, seen + step.seen
        relisted, repaired = relisted + step.relisted, repaired + step.repaired
        for memory, one in step.orphans.items():
            had = orphans.get(memory, Orphan(0, 0, one.ours))
            orphans[memory] = Orphan(had.keys + one.keys, had.immortal + one.immortal, one.ours)
        if cursor == 0:
            return Survey(0, seen, relisted, repaired, orphans)


@pytest.fixture
def sweeper(world: World) -> Sweeper:
    return Sweeper(world)


class TestSweep:
    async def test_nothing_wrong_is_a_look_and_writes_nothing(
        self, world: World, sweeper: Sweeper
    ) -> None:
        await world.apply()
        await world.fill(120)
        before = await world.changes()
        swept = await sweeper.sweep()
        assert swept == Swept(Totals(120, 360, swept.totals.tokens, swept.totals.bytes))
        _, measured = await world.hands.measure(world.memory, cursor=0, limit=1000)
        assert swept.totals == measured
        assert await world.changes() == before

    async def test_an_expiry_that_is_missing_or_wrong_is_found_on_each_key(
        self, world: World, sweeper: Sweeper
    ) -> None:
        await world.apply()
        faults = {f"{key}-{fault}": key for key in STATE for fault in ("gone", "wrong")}
        expiries = {name: await sweeper.full(name) for name in [*faults, "sound"]}
        for name, key in faults.items():
            place = sweeper.keys(name)[STATE.index(key)]
            if name.endswith("gone"):
                assert await world.raw.persist(place)
            else:
                await world.raw.pexpireat(place, expiries[name] + 5000)
        before = await world.changes()
        found = await sweeper.sweep(mend=False)
        assert (found.repaired, found.totals.sessions) == (10, 11)
        assert await world.changes() == before
        assert await sweeper.sweep() == found
        for name, expires_at in expiries.items():
            assert await world.expiries(name) == {expires_at}
        assert (await sweeper.sweep()).repaired == 0

    async def test_a_session_that_should_have_ended_gets_an_hour(
        self, world: World, sweeper: Sweeper
    ) -> None:
        await world.apply()
        await sweeper.full("s")
        keys = sweeper.keys("s")
        meta = Meta.read(await world.raw.hgetall(keys.meta))
        past = meta.expires_at - 2 * HOUR
        fields: Mapping[Any, Any] = replace_expiry(meta, past).fields()
        await world.raw.hset(keys.meta, mapping=dict(fields))
        for key in keys[:5]:
            await world.raw.persist(key)
        assert (await sweeper.sweep()).repaired == 5
        [expires_at] = await world.expiries("s")
        assert 0 < expires_at - past - 2 * HOUR <= 60_000
        assert (await sweeper.sweep()).repaired == 0
        assert await world.session("s").length() == 2

    async def test_keys_without_their_counters_are_left_to_an_expiry(
        self, world: World, sweeper: Sweeper
    ) -> None:
        await world.apply()
        await sweeper.full("bound")
        immortal, bound = sweeper.keys("immortal"), sweeper.keys("bound")
        await sweeper.full("immortal")
        await world.raw.delete(bound.meta, immortal.meta)
        await world.raw.persist(immortal.log)
        swept = await sweeper.sweep()
        assert (swept.repaired, swept.strays, swept.dropped) == (1, 8, 0)
        assert 0 < await world.raw.pttl(immortal.log) <= TTL
        assert await world.raw.exists(*bound[:5]) == 4
        assert (await sweeper.sweep()).repaired == 0

    async def test_what_is_not_ours_or_newer_is_not_touched_but_never_immortal(
        self, world: World, sweeper: Sweeper
    ) -> None:
        await world.apply()
        for name in ("foreign", "cut", "newer"):
            await sweeper.full(name)
        foreign, cut, newer = (sweeper.keys(name) for name in ("foreign", "cut", "newer"))
        await world.raw.set(foreign.meta, "text")
        slow = await world.raw.hget(cut.meta, "s")
        assert slow is not None
        await world.raw.hset(cut.meta, "s", slow[:20])
        await world.raw.hset(newer.meta, "s", b"\x02" + slow[1:])
        await world.raw.persist(cut.ids)
        await world.raw.persist(newer.ids)
        swept = await sweeper.sweep()
        assert (swept.repaired, swept.totals.sessions) == (2, 0)
        assert await world.raw.get(foreign.meta) == b"text"
        assert 0 < await world.raw.pttl(foreign.meta) <= TTL
        assert 0 < await world.raw.pttl(cut.ids) <= TTL
        assert await world.raw.pttl(newer.ids) == -1

    async def test_a_tombstone_is_no_session_and_no_immortal_key(
        self, world: World, sweeper: Sweeper
    ) -> None:
        agreed = await world.apply()
        await world.fill(2, messages=1)
        for name in ("s-0", "s-1"):
            await world.raw.zadd(world.keys.sessions, {name: 9e15})  # so that it stays listed
        await world.bury(agreed.revision + 1)
        await world.raw.zadd(world.keys.sessions, {"s-0": 9e15, "s-1": 9e15})
        await world.raw.persist(sweeper.keys("s-0").meta)
        swept = await sweeper.sweep()
        assert (swept.repaired, swept.totals.sessions) == (1, 0)
        assert 0 < await world.raw.pttl(sweeper.keys("s-0").meta) <= 60_000

    async def test_old_entries_without_a_session_are_dropped_and_new_ones_kept(
        self, world: World, sweeper: Sweeper
    ) -> None:
        await world.apply()
        await world.fill(1)
        now = (await world.raw.time())[0] * 1000
        entries: dict[str, float] = {"old": now - 601_000, "young": now - 300_000, "{bad}": 1}
        await world.raw.zadd(world.keys.sessions, entries)
        assert (await sweeper.sweep(mend=False)).dropped == 2
        assert await world.raw.zcard(world.keys.sessions) == 4
        assert (await sweeper.sweep()).dropped == 2
        assert set(await world.raw.zrange(world.keys.sessions, 0, -1)) == {b"s-0", b"young"}

    async def test_sessions_that_end_and_begin_meanwhile_are_never_harmed(
        self, world: World, sweeper: Sweeper
    ) -> None:
        await world.apply()
        names = await world.fill(60, messages=1)
        memory = world.client().memory("support")
        ended = asyncio.Event()

        async def churn() -> None:
            number = 0
            while not ended.is_set():
                session = memory.session(names[number % 60])
                await session.append(user("again"), id=f"{number}")
                if number % 7 == 0:
                    await world.raw.delete(*sweeper.keys(names[number % 60])[:5])
                if number % 5 == 0:
                    await world.raw.persist(sweeper.keys(names[(number + 3) % 60]).log)
                number += 1

        task = asyncio.create_task(churn())
        for _ in range(10):
            await sweeper.sweep(limit=10)
        ended.set()
        await task
        await sweeper.sweep()
        lengths = {name: await memory.session(name).length() for name in names}
        for name, length in lengths.items():
            if length:
                meta = await world.meta(name)
                assert await world.expiries(name) == {meta.expires_at}

    async def test_a_walk_that_is_noted_is_found_by_who_may_note_it(self, world: World) -> None:
        await world.apply()
        hands, memory = world.hands, world.memory
        walk = Walk(7, 1 << 90 | 1, second=True, done=12, unsatisfied=3, broken=1)
        assert await hands.noted_walk(memory) is None
        assert await hands.note_walk(memory, FIRST, walk)
        assert await hands.noted_walk(memory) == walk
        later = FIRST._replace(epoch=2)
        assert not await hands.note_walk(memory, FOREIGN, None)
        assert await hands.note_walk(memory, later, walk._replace(done=13))
        assert not await hands.note_walk(memory, FIRST, None)
        assert await hands.noted_walk(memory) == walk._replace(done=13)
        assert await hands.note_walk(memory, later, walk._replace(cursor=1 << 90))
        assert await hands.noted_walk(memory) is None  # the server did not say which run it is
        assert await hands.note_walk(memory, later, None)
        assert await hands.noted_walk(memory) is None
        await world.raw.hset(world.keys.owner, "walk", "what is this")
        assert await hands.noted_walk(memory) is None

    async def test_a_measurement_over_a_restart_counts_nobody_twice(
        self, own_world: World, own_server: Server
    ) -> None:
        world = own_world
        await world.apply()
        await world.fill(300, messages=1)
        step, _ = await world.hands.measure(world.memory, cursor=0, limit=100)
        assert step.cursor != 0
        assert not step.restarted
        await own_server.restart()
        seen, restarts = 0, 0
        while step.cursor != 0:
            step, totals = await world.hands.measure(world.memory, cursor=step.cursor, limit=100)
            restarts += step.restarted
            seen = totals.sessions if step.restarted else seen + totals.sessions
        assert (seen, restarts) == (300, 1)


@pytest.fixture(scope="module", params=list(Product))
def alone(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Each server in turn, for surveys alone."""
    request.getfixturevalue(f"{request.param}_server")  # says so where there is none
    with running_server(request.param, tmp_path_factory.mktemp("alone")) as server:
        yield server


class TestSurvey:
    """A survey looks at every key there is: what other tests left is kept from these."""

    @pytest_asyncio.fixture
    async def world(self, alone: Server) -> AsyncGenerator[World]:
        async with alone.client() as raw:
            await raw.flushall()
            world = World(alone, raw)
            await world.hands.load_scripts()
            yield world
            await world.aclose()

    async def test_sessions_that_no_index_knows_are_put_back(
        self, world: World, sweeper: Sweeper
    ) -> None:
        await world.apply()
        names = await world.fill(30)
        lost = names[:7]
        await world.raw.zrem(world.keys.sessions, *lost)
        await world.raw.delete(sweeper.keys(names[0]).meta)  # what is left is no session
        await world.raw.persist(sweeper.keys(names[0]).log)
        looked = await sweeper.survey(mend=False)
        assert (looked.relisted, looked.repaired) == (6, 1)
        assert await world.raw.zcard(world.keys.sessions) == 23
        found = await sweeper.survey()
        assert (found.relisted, found.repaired, found.orphans) == (6, 1, {})
        listed = {name.decode() for name in await world.raw.zrange(world.keys.sessions, 0, -1)}
        assert listed == set(names[1:])
        assert 0 < await world.raw.pttl(sweeper.keys(names[0]).log) <= DAY
        again = await sweeper.survey()
        assert (again.relisted, again.repaired) == (0, 0)

    async def test_waiters_and_wake_ups_never_stay_for_ever(
        self, world: World, sweeper: Sweeper
    ) -> None:
        await world.apply()
        await world.fill(1)
        queue = sweeper.keys("s-0").queue
        wake = queue.removesuffix(b":q") + b":w:token"
        await world.raw.zadd(queue, {"token": 1})
        await world.raw.rpush(wake, "go")
        assert (await sweeper.survey()).repaired == 2
        assert 0 < await world.raw.pttl(queue) <= 600_000
        assert 0 < await world.raw.pttl(wake) <= 600_000

    async def test_orphans_are_told_from_what_is_somebody_elses(
        self, world: World, sweeper: Sweeper
    ) -> None:
        raw, namespace = world.raw, world.memory.namespace
        await world.apply()
        gone, other, bare, ending = (
            MemoryAddress(namespace, name) for name in ("gone", "other", "bare", "ending")
        )
        assert await world.hands.claim(gone, FIRST)
        assert await world.hands.claim(other, FOREIGN)
        for memory in (gone, other, bare, ending):
            log = session_keys(memory, "s", "mem").log
            await raw.rpush(log, "record")
            if memory == ending:
                await raw.pexpire(log, 30_000)
        await raw.set(f"mem:{{{namespace}/gone/s}}:meta", "x", px=3 * HOUR)
        await raw.set(f"memory:{{{namespace}/gone}}:policy", "another prefix")
        await raw.set(f"mem:{{{namespace}}}:policy", "not one of ours")
        found = await sweeper.survey()
        # The marker, a log without an expiry, and one key more; what ends soon is not worth a word.
        assert found.orphans == {gone: Orphan(3, 1, True), bare: Orphan(1, 1, False)}
        assert found.repaired == 0
        assert (await sweeper.survey(gone, bare, other, mend=False)).repaired == 0
        assert (await sweeper.survey(gone, bare, other)).repaired == 1
        assert 6 * DAY < await raw.pttl(session_keys(gone, "s", "mem").log) <= 7 * DAY
        assert await raw.pttl(session_keys(bare, "s", "mem").log) == -1
        assert await raw.pttl(session_keys(other, "s", "mem").log) == -1
        assert await raw.pttl(memory_keys(gone, "mem").owner) == -1
        assert (await sweeper.survey()).orphans[gone] == Orphan(3, 0, True)

    async def test_a_deleted_memory_leaves_no_orphans_and_a_retained_one_does(
        self, world: World, sweeper: Sweeper
    ) -> None:
        agreed = await world.apply(retention={"ttl": "1d"})
        await world.fill(3)
        nobody = MemoryAddress("another", "memory")

        async def orphans() -> Mapping[MemoryAddress, Orphan]:
            return (await survey(world.hands, {nobody}, set())).orphans

        assert (await orphans())[world.memory].ours
        await world.release(FIRST)
        # Its own keys end behind the last session by themselves.
        keys = [one for one in await world.names() if "/s-" in one]
        assert (await orphans())[world.memory] == Orphan(len(keys), 0, ours=True)
        await world.apply(AGAIN, retention={"ttl": "1d"})
        revision = await world.hands.begin_deletion(world.memory, AGAIN)
        assert revision == agreed.revision + 1
        await world.bury(revision)
        assert await world.hands.end_deletion(world.memory, AGAIN)
        assert world.memory not in await orphans()

    async def test_a_retained_memory_without_sessions_is_no_news(self, world: World) -> None:
        await world.apply()
        await world.release(FIRST)
        assert await world.raw.pttl(world.keys.owner) > HOUR
        nobody = MemoryAddress("another", "memory")
        assert world.memory not in (await survey(world.hands, {nobody}, set())).orphans


async def test_a_sweep_and_a_survey_reach_every_node_of_a_cluster(
    cluster_of_servers: ClusterOfServers,
) -> None:
    memory = MemoryAddress(f"team-{uuid.uuid4().hex[:12]}", "support")
    hands = RedisMaintenance(make_carrier(read_address(cluster_of_servers.url), timeout=5))
    async with holdfast.connect(
        cluster_of_servers.url, namespace=memory.namespace, policy=spec()
    ) as client:
        assert await hands.claim(memory, FIRST)
        names = [f"s-{number}" for number in range(40)]
        for name in names:
            await client.memory("support").session(name).append(user("x"))
        carrier = make_carrier(read_address(cluster_of_servers.url), timeout=5)
        runner = Runner(carrier, patience=5)
        index = memory_keys(memory, "mem").sessions
        logs = [session_keys(memory, name, "mem").log for name in names]
        orphan = session_keys(MemoryAddress(memory.namespace, "gone"), "s", "mem").log
        await runner.each([(b"PERSIST", log) for log in logs[:25]])
        await runner.each([(b"ZREM", index, name) for name in names[20:]])
        await runner.each([(b"RPUSH", orphan, b"record")])
        assert (await sweep(hands, memory)).repaired == 20
        found = await survey(hands, {memory}, set())
        assert found.relisted == 20
        assert found.orphans[MemoryAddress(memory.namespace, "gone")] == Orphan(1, 1, ours=False)
        assert (await sweep(hands, memory)).repaired == 5
        lives = await runner.each([(b"PTTL", log) for log in logs])
        assert all(0 < life <= HOUR for life in lives)
        await runner.each([(b"DEL", orphan)])
        await carrier.aclose()
    await hands.aclose()


FAULTS = st.sampled_from(["right", "right", "immortal", "wrong", "absent"])
METAS = st.sampled_from(["right", "right", "immortal", "wrong", "overdue", "absent", "cut", "text"])
SESSION = st.tuples(METAS, FAULTS, FAULTS, FAULTS, FAULTS)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(sessions=st.lists(SESSION, min_size=1, max_size=12))
async def test_after_a_sweep_every_key_has_the_expiry_it_should(
    valkey_server: Server, sessions: list[tuple[str, ...]]
) -> None:
    memory = MemoryAddress(f"team-{uuid.uuid4().hex[:12]}", "support")
    hands = RedisMaintenance.connect("127.0.0.1", valkey_server.port)
    async with valkey_server.client() as raw:
        now = (await raw.time())[0] * 1000
        planted = 0
        for number, faults in enumerate(sessions):
            keys = session_keys(memory, str(number), "mem")
            await raw.zadd(memory_keys(memory, "mem").sessions, {str(number): now})
            planted += await plant(raw, keys, faults, now)
        before = [
            await look(raw, session_keys(memory, str(n), "mem")) for n in range(len(sessions))
        ]
        assert (await sweep(hands, memory, mend=False)).repaired == planted
        assert (await sweep(hands, memory)).repaired == planted
        assert (await sweep(hands, memory)).repaired == 0
        for number, faults in enumerate(sessions):
            after = await look(raw, session_keys(memory, str(number), "mem"))
            check(faults, now, before[number], after)
        used = [session_keys(memory, str(n), "mem") for n in range(len(sessions))]
        await raw.delete(*memory_keys(memory, "mem"), *(key for keys in used for key in keys))
    await hands.aclose()


async def plant(raw: Redis, keys: SessionKeys, faults: tuple[str, ...], now: int) -> int:
    """Write a session with faults; return how many keys a sweep has to set right."""
    meta, *others = faults
    overdue = meta == "overdue"
    says = now - HOUR if overdue else now + HOUR
    fields: dict[Any, Any] = dict(Meta(expires_at=says, touched=now, created=now).fields())
    if meta == "cut":
        fields[b"s"] = fields[b"s"][:9]
    if meta == "text":
        await raw.set(keys.meta, "text")
    elif meta != "absent":
        await raw.hset(keys.meta, mapping=fields)
    for key, fault in zip(keys[1:5], others, strict=True):
        if fault != "absent":
            await raw.rpush(key, "record")
    readable = meta in {"right", "immortal", "wrong", "overdue"}
    wrong = 0
    for key, fault in zip(keys[:5], faults, strict=True):
        immortal = fault in {"immortal", "overdue", "text"} or (overdue and fault == "right")
        if fault == "absent":
            continue
        if immortal:
            wrong += 1
        elif fault == "wrong":
            await raw.pexpireat(key, now + 2 * HOUR)
            wrong += readable
        else:
            await raw.pexpireat(key, now + HOUR)
    return wrong


async def look(raw: Redis, keys: SessionKeys) -> list[int]:
    return [await raw.pexpiretime(key) for key in keys[:5]]


def check(faults: tuple[str, ...], now: int, before: list[int], after: list[int]) -> None:
    readable = faults[0] in {"right", "immortal", "wrong", "overdue"}
    there = {at for at in after if at != -2}
    assert [at == -2 for at in before] == [at == -2 for at in after]
    assert -1 not in there
    if readable:
        assert len(there) == 1
        [at] = there
        assert (
            now + HOUR <= at <= now + HOUR + 60_000 if faults[0] == "overdue" else at == now + HOUR
        )
    else:  # only what had none got one
        for had, has in zip(before, after, strict=True):
            assert has == had if had != -1 else now < has <= now + TTL + 60_000


def replace_expiry(meta: Meta, expires_at: int) -> Meta:
    """Return what meta would say with another expiry."""
    values = {name: getattr(meta, name) for name in Meta.__dataclass_fields__}
    return Meta(**{**values, "expires_at": expires_at})
