"""Bringing live sessions under an edited policy, on real servers."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from holdfast.errors import ImportRefused, StoreUnavailable
from holdfast.policies import terms_of
from holdfast.policy import load_policy
from holdfast.store import StalePolicy
from holdfast.store.maintenance import Totals
from holdfast.store.redis.carrier import Command, PoolCarrier
from holdfast.store.redis.index import Entry, Index
from holdfast.store.redis.layout import session_keys
from holdfast.store.redis.maintenance import RedisMaintenance
from holdfast.store.redis.runner import Runner
from holdfast.store.redis.visiting import CHANGED, COUNTED
from tests.harness.servers import Server
from tests.harness.waiting import until
from tests.integration.world import (
    FIRST,
    FREE,
    HOUR,
    World,
    call,
    late,
    result,
    spec,
    take,
    total,
    user,
)

pytestmark = [pytest.mark.redis, pytest.mark.asyncio]

CARDS = {"redactPatterns": [r"(\d{4}-){3}\d{4}"]}


class TestRollOut:
    async def test_all_sessions_follow(self, world: World) -> None:
        await world.apply(retention={"ttl": "1h"})
        names = await world.fill(500)
        agreed = await world.apply(limits={"maxMessages": 2}, retention={"ttl": "2h"})
        steps = await world.roll_out(agreed)
        assert len(steps) >= 5
        assert total(steps, "changed") == 500
        assert total(steps, "seen") >= 500
        assert total(steps, "unsatisfied") == 0
        assert {step.total for step in steps} == {500}
        memory = world.client().memory("support")
        for name in names:
            meta = await world.meta(name)
            assert (meta.expires_at - meta.touched, meta.rule) == (2 * HOUR, "ttl")
            assert await world.expiries(name) == {meta.expires_at}
            assert meta.revision == agreed.revision
        health = await memory.session(names[7]).health()
        assert (health.messages, health.dropped, health.revision) == (2, 1, 2)
        assert await memory.session(names[7]).read() == [user("s-7 1"), user("s-7 2")]

    async def test_a_second_walk_is_a_look_and_writes_nothing(self, world: World) -> None:
        await world.apply()
        await world.fill(150)
        agreed = await world.apply(limits={"maxMessages": 2})
        assert total(await world.roll_out(agreed), "changed") == 150
        before = await world.changes()
        steps = await world.roll_out(agreed)
        assert (total(steps, "seen"), total(steps, "changed")) == (150, 0)
        assert await world.changes() == before

    async def test_a_walk_that_expects_them_to_follow_finds_those_that_do_not(
        self, world: World
    ) -> None:
        await world.apply()
        await world.fill(150)
        agreed = await world.apply(limits={"maxMessages": 2})
        behind = await world.roll_out(agreed, again=True)
        assert (total(behind, "seen"), total(behind, "changed")) == (150, 150)
        assert (await world.meta("s-7")).revision == agreed.revision
        # Whatever is not plainly as it should be is left to the script, and told alike.
        full, torn, gone = (session_keys(world.memory, f"s-{n}", "mem") for n in (1, 2, 3))
        await world.raw.delete(gone.meta)
        await world.raw.hset(torn.meta, "s", "text")
        await world.raw.delete(full.meta)
        await world.raw.set(full.meta, "text")
        looked, seen = await world.roll_out(agreed, again=True), await world.roll_out(agreed)
        assert await world.roll_out(agreed, again=True) == seen == looked
        assert total(seen, "broken") >= 1
        calls = await world.raw.info("commandstats")
        before = calls["cmdstat_evalsha"]["calls"]
        await world.roll_out(agreed, again=True)
        calls = await world.raw.info("commandstats")
        assert calls["cmdstat_evalsha"]["calls"] - before < 20

    async def test_a_writer_with_the_old_policy_cannot_undo_it(self, world: World) -> None:
        old = await world.apply()
        await world.fill(1)
        handle = world.store().session(world.memory, "s-0")
        granted = await handle.acquire(old, "token-1000", "somebody")
        agreed = await world.apply(retention={"ttl": "10m"})
        await world.roll_out(agreed)
        before = await world.meta("s-0"), await world.expiries("s-0")
        writes: list[Any] = [
            handle.append(old, late(), FREE),
            handle.clear(old, FREE, force=True),
            handle.pin(old, FREE, seq=1, pinned=True),
            handle.pop(old, FREE, expected=3, opens=(), closes=()),
            handle.acquire(old, "other-1000", "somebody else"),
        ]
        for write in writes:
            with pytest.raises(StalePolicy) as refused:
                await write
            assert refused.value.revision == agreed.revision
        assert (await world.meta("s-0"), await world.expiries("s-0")) == before
        assert await handle.renew(old, "token-1000", granted.epoch) == agreed.revision
        await handle.release(old, "token-1000")
        assert await world.expiries("s-0") == before[1]

    async def test_a_client_with_the_old_policy_goes_on_with_the_new_one(
        self, world: World
    ) -> None:
        await world.apply()
        session = world.session("any")
        for number in range(5):
            await session.append(user(str(number)))
        agreed = await world.apply(limits={"maxMessages": 3})
        await world.roll_out(agreed)
        answer = await session.append(user("5"))
        assert (answer.length, answer.evicted) == (3, 1)
        assert await world.revision("any") == agreed.revision

    @pytest.mark.parametrize("way", ["append", "append_many", "replace", "turn"])
    async def test_a_client_with_the_old_policy_redacts_by_the_new_one(
        self, world: World, monkeypatch: pytest.MonkeyPatch, way: str
    ) -> None:
        for seconds in ("FOLLOW", "TRUST"):  # it learns of the edit from the session alone
            monkeypatch.setattr(f"holdfast.policies.{seconds}", 3600.0)
        card = "4111-1111-1111-1111"
        await world.apply()
        session = world.session("any")
        await session.append(user("hello"))
        async with AsyncExitStack() as stack:
            turn = await stack.enter_async_context(session.turn()) if way == "turn" else None
            agreed = await world.apply(privacy=CARDS)
            await world.roll_out(agreed)
            feed = session._place.policies
            assert feed.last is not None
            assert feed.last.terms.revision < agreed.revision
            said = user(f"my card is {card}")
            if way in ("append", "turn"):
                answer = await (turn or session).append(said, id="r-1")
            else:
                answer = await getattr(session, way)([said], id="r-1")
        assert answer.redacted == 1
        assert feed.last.terms.revision == agreed.revision
        keys = session_keys(world.memory, "any", "mem")
        log = await world.raw.lrange(keys.log, 0, -1)
        assert b"[REDACTED]" in log[-1]
        assert card.encode() not in b"".join(log)
        assert (await session.read())[-1] == user("my card is [REDACTED]")

    async def test_an_import_by_a_client_with_the_old_policy_is_redacted_by_the_new_one(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for seconds in ("FOLLOW", "TRUST"):  # it learns of the edit from the session alone
            monkeypatch.setattr(f"holdfast.policies.{seconds}", 3600.0)
        await world.apply()
        original, session = world.session("original"), world.session("any")
        await original.append(user("my card is 4111-1111-1111-1111"))
        lines = [line async for line in original.export()]
        await session.append(user("hello"))
        await world.roll_out(await world.apply(privacy=CARDS))
        await world.session("any").clear()
        assert (await session.import_(lines)).redacted == 1
        assert await session.read() == [user("my card is [REDACTED]")]

    async def test_an_import_during_which_more_is_to_be_redacted_is_refused(
        self, world: World
    ) -> None:
        await world.apply()
        original, session = world.session("original"), world.session("any")
        await original.append(user("my card is 4111-1111-1111-1111"))
        lines = [line async for line in original.export()]

        async def slowly() -> AsyncGenerator[str]:
            for line in lines:
                yield line
            agreed = await world.apply(privacy=CARDS)
            await session._place.policies.catch_up(agreed.revision)

        with pytest.raises(ImportRefused, match="privacy was changed during the import"):
            await session.import_(slowly())
        assert await session.read() == []
        assert (await session.import_(lines)).redacted == 1

    async def test_an_older_roll_out_changes_nothing(self, world: World) -> None:
        old = await world.apply(limits={"maxMessages": 2}, retention={"ttl": "3h"})
        agreed = await world.apply(retention={"ttl": "2h"})
        await world.fill(20)
        await world.roll_out(agreed)
        before = await world.changes()
        steps = await world.roll_out(old)
        assert (total(steps, "seen"), total(steps, "changed")) == (20, 0)
        assert await world.changes() == before

    async def test_a_shorter_life_leaves_the_grace(self, world: World) -> None:
        await world.apply(retention={"ttl": "30d"})
        await world.fill(1)
        agreed = await world.apply(retention={"ttl": "1m"})
        seconds, _ = await world.raw.time()
        await world.roll_out(agreed, grace=HOUR)
        (expiry,) = await world.expiries("s-0")
        assert seconds * 1000 + HOUR <= expiry < seconds * 1000 + HOUR + 60_000
        await world.session("s-0").append(user("again"))
        (expiry,) = await world.expiries("s-0")
        assert expiry < seconds * 1000 + 120_000

    async def test_grace_never_lengthens_a_life(self, world: World) -> None:
        await world.apply(retention={"ttl": "10m"})
        await world.fill(1)
        before = await world.expiries("s-0")
        await world.roll_out(await world.apply(retention={"ttl": "1m"}), grace=HOUR)
        assert await world.expiries("s-0") == before

    async def test_a_cleared_session_keeps_its_short_life(self, world: World) -> None:
        await world.apply(retention={"ttl": "1h", "afterClear": "10m"})
        session = world.session("any")
        await session.append(user("hello"))
        await session.clear()
        before = await world.expiries("any")
        await world.roll_out(await world.apply(retention={"ttl": "2h", "afterClear": "10m"}))
        assert await world.expiries("any") == before

    async def test_a_tool_call_stays_with_its_result(self, world: World) -> None:
        await world.apply()
        session = world.session("any")
        for number in range(3):
            await session.append_many([call(f"c{number}"), user("wait"), result(f"c{number}")])
        await world.roll_out(await world.apply(limits={"maxMessages": 8}))
        left = await session.read(limit=100)
        assert left == [user("wait"), *[call("c1"), user("wait"), result("c1")], *left[4:]]
        assert len(left) == 7
        await world.roll_out(await world.apply(limits={"maxMessages": 1}))
        assert await session.read(limit=100) == [call("c2"), result("c2")]
        assert await world.expiries("any")

    async def test_a_call_that_waits_stays_until_it_is_answered(self, world: World) -> None:
        await world.apply()
        session = world.session("any")
        await session.append_many([call("c"), call("d"), user("1"), user("2")])
        agreed = await world.apply(limits={"maxMessages": 2})
        assert total(await world.roll_out(agreed), "unsatisfied") == 1
        assert await session.read(limit=9) == [call("c"), call("d"), user("2")]
        await session.append(result("c"))
        assert await session.read(limit=9) == [call("c"), call("d"), result("c")]
        await session.append(result("d"))
        assert await session.read(limit=9) == [call("d"), result("d")]

    async def test_what_is_protected_stays_and_is_counted(self, world: World) -> None:
        await world.apply()
        memory = world.client().memory("support")
        for name in ("pinned", "system"):
            role = {"role": "system" if name == "system" else "user"}
            for number in range(3):
                message = user(f"{number}") | role
                await memory.session(name).append(message, pin=name == "pinned")
            await memory.session(name).append(user("newest"))
        agreed = await world.apply(limits={"maxMessages": 2})
        for changed in (2, 0):
            steps = await world.roll_out(agreed)
            assert total(steps, "changed") == changed
            assert total(steps, "unsatisfied") == 2
            assert total(steps, "broken") == 0
        assert await memory.session("pinned").length() == 4

    async def test_a_policy_that_refuses_evicts_nothing(self, world: World) -> None:
        await world.apply()
        await world.fill(2, messages=5)
        agreed = await world.apply(limits={"maxMessages": 2, "onFull": "Refuse"})
        steps = await world.roll_out(agreed)
        assert (total(steps, "changed"), total(steps, "unsatisfied")) == (2, 2)
        assert await world.session("s-0").length() == 5

    async def test_limits_that_could_not_be_met_are_tried_again(self, world: World) -> None:
        await world.apply()
        session = world.session("any")
        first = await session.append(user("1"), pin=True)
        await session.append_many([user("2"), user("3")], pin=True)
        agreed = await world.apply(limits={"maxMessages": 2})
        assert total(await world.roll_out(agreed), "unsatisfied") == 1
        await session.pin(first.seq, pinned=False)
        assert total(await world.roll_out(agreed), "unsatisfied") == 0
        assert await session.length() == 2

    async def test_only_what_leaves_changes_the_counters_and_nothing_the_version(
        self, world: World
    ) -> None:
        await world.apply()
        await world.fill(1)
        keys = session_keys(world.memory, "s-0", "mem")
        before, records = await world.meta("s-0"), await world.raw.lrange(keys.log, 0, -1)
        longer = await world.apply(retention={"ttl": "2h"})
        await world.roll_out(longer)
        same = await world.meta("s-0")
        assert same == replace(
            before, revision=longer.revision, expires_at=before.touched + 2 * HOUR
        )
        assert await world.raw.lrange(keys.log, 0, -1) == records
        fewer = await world.apply(limits={"maxMessages": 2})
        await world.roll_out(fewer)
        assert await world.raw.lrange(keys.log, 0, -1) == records[1:]
        after = await world.meta("s-0")
        assert after == replace(
            before,
            messages=2,
            tokens=sum(json.loads(record)[0] for record in records[1:]),
            size=sum(map(len, records[1:])),
            dropped=1,
            revision=fewer.revision,
        )
        assert after.version == before.version

    async def test_lease_and_waiters_are_left_alone(self, world: World) -> None:
        await world.apply()
        session, other = world.session("any"), world.session("any")
        await session.append_many([user(str(number)) for number in range(5)])
        queue = session_keys(world.memory, "any", "mem").queue
        async with session.turn() as turn:
            waiting = asyncio.create_task(take(other))

            async def in_line() -> bool:
                return bool(await world.raw.zcard(queue))

            await until(in_line, "the other one stands in line")
            before = (await world.meta("any")).lease
            assert before is not None
            line = await world.raw.zrange(queue, 0, -1, withscores=True)
            agreed = await world.apply(limits={"maxMessages": 2}, retention={"ttl": "1m"})
            assert total(await world.roll_out(agreed), "changed") == 1
            assert (await world.meta("any")).lease == before
            assert await world.raw.zrange(queue, 0, -1, withscores=True) == line
            assert await turn.append(user("6"))
            assert len(await turn.read()) == 2
        assert await waiting == 2

    async def test_a_session_lives_as_long_as_its_turn_may(self, world: World) -> None:
        await world.apply(locking={"leaseTTL": "10m"})
        session = world.session("any")
        async with session.turn():
            await session.append(user("1"))
            lease = (await world.meta("any")).lease
            assert lease is not None
            agreed = await world.apply(locking={"leaseTTL": "10m"}, retention={"ttl": "1m"})
            await world.roll_out(agreed)
            assert await world.expiries("any") == {lease.until}

    async def test_a_plain_session_costs_a_few_commands_and_another_one_what_it_needs(
        self, own_world: World
    ) -> None:
        world = own_world
        await world.apply()
        await world.fill(20)
        # What the counters know nothing of expires with the rest all the same.
        odd = session_keys(world.memory, "s-7", "mem")
        await world.raw.rpush(odd.hist, "something")
        before = await world.raw.info("commandstats")
        agreed = await world.apply(retention={"ttl": "10m"})
        assert total(await world.roll_out(agreed, grace=HOUR // 2), "changed") == 20
        after = await world.raw.info("commandstats")
        calls = after["cmdstat_pexpireat"]["calls"] - before["cmdstat_pexpireat"]["calls"]
        assert calls == 2 * 19 + 5
        for name in ("s-0", "s-7"):
            assert len(await world.expiries(name)) == 1

    async def test_others_wait_for_a_few_sessions_however_many_a_step_takes(
        self, each_server: Server, world: World
    ) -> None:
        await world.apply()
        await world.fill(120)
        sizes: list[int] = []

        class Watched(PoolCarrier):
            """A carrier that notes how many commands go out at once."""

            async def exchange(
                self, commands: Sequence[Command], *, near: bytes = b""
            ) -> list[Any]:
                sizes.append(len(commands))
                return await super().exchange(commands, near=near)

        hands = RedisMaintenance(Watched(each_server.client().connection_pool, owned=True))
        agreed = await world.apply(retention={"ttl": "2h"})
        for again in (False, True):
            cursor = 0
            while True:
                step = await hands.roll_out(
                    world.memory, agreed, cursor=cursor, limit=500, grace=0, again=again
                )
                cursor = step.cursor
                if cursor == 0:
                    break
            assert max(sizes) == (COUNTED if again else CHANGED)
        await hands.aclose()

    async def test_a_session_that_lost_records_is_counted_anew(self, world: World) -> None:
        await world.apply()
        await world.fill(1, messages=6)
        await world.raw.ltrim(session_keys(world.memory, "s-0", "mem").log, 2, -1)
        await world.roll_out(await world.apply(limits={"maxMessages": 3}))
        health = await world.session("s-0").health()
        assert (health.messages, health.dropped) == (3, 3)
        assert len(await world.session("s-0").read()) == 3


class TestWalk:
    async def test_no_session_is_missed_while_others_come_go_and_are_used(
        self, world: World
    ) -> None:
        agreed = await world.apply()
        names = await world.fill(300, messages=1)
        agreed = await world.apply(limits={"maxTokens": 900})
        memory = world.client().memory("support")
        cursor, number = 0, 0
        while True:
            step = await world.hands.roll_out(
                world.memory, agreed, cursor=cursor, limit=20, grace=0
            )
            cursor = step.cursor
            if cursor == 0:
                break
            for _ in range(30):
                number += 1
                await world.raw.zadd(world.keys.sessions, {f"new-{number}": number})
            await world.raw.zrem(world.keys.sessions, *[f"new-{number - n}" for n in range(10)])
            used = names[(number * 7) % 300]
            await world.raw.zadd(world.keys.sessions, {used: 1})
            await memory.session(used).length()
        assert [await world.revision(name) for name in names] == [agreed.revision] * 300

    async def test_sessions_behind_the_cursor_are_caught_by_a_second_walk(
        self, world: World
    ) -> None:
        old = await world.apply()
        await world.fill(300, messages=1)
        agreed = await world.apply(limits={"maxTokens": 900})
        store = world.store()
        cursor, behind = 0, list[str]()
        while True:
            step = await world.hands.roll_out(
                world.memory, agreed, cursor=cursor, limit=100, grace=0
            )
            cursor = step.cursor
            for _ in range(20):
                # A process that slept: its copy of the policy is the old one.
                name = f"late-{len(behind)}"
                await store.session(world.memory, name).append(old, late(), FREE)
                behind.append(name)
            if cursor == 0:
                break
        assert old.revision in [await world.revision(name) for name in behind]
        await world.roll_out(agreed)
        assert {await world.revision(name) for name in behind} == {agreed.revision}

    async def test_a_cursor_of_an_earlier_run_begins_again(
        self, own_world: World, own_server: Server
    ) -> None:
        world = own_world
        await world.apply()
        names = await world.fill(400, messages=1)
        agreed = await world.apply(limits={"maxTokens": 900})
        step = await world.hands.roll_out(world.memory, agreed, cursor=0, limit=100, grace=0)
        assert step.cursor != 0
        await own_server.restart()
        cursor = step.cursor
        while cursor != 0:
            step = await world.hands.roll_out(
                world.memory, agreed, cursor=cursor, limit=100, grace=0
            )
            cursor = step.cursor
        assert [await world.revision(name) for name in names] == [agreed.revision] * 400

    async def test_one_broken_session_does_not_stop_the_others(self, world: World) -> None:
        await world.apply()
        await world.fill(10)
        keys = [session_keys(world.memory, f"s-{number}", "mem") for number in range(10)]
        await world.raw.delete(keys[1].meta, keys[2].log, keys[3].log)
        await world.raw.set(keys[1].meta, "somebody's")
        await world.raw.set(keys[2].log, "somebody's")
        await world.raw.rpush(keys[3].log, "no", "record", "at all")
        await world.raw.hset(keys[4].meta, "k", "garbage")
        newer = replace(await world.meta("s-5"), layout=2).fields()[b"s"]
        await world.raw.hset(keys[5].meta, "s", newer + b"more")
        steps = await world.roll_out(await world.apply(limits={"maxMessages": 2}))
        assert total(steps, "broken") == total(steps, "unsatisfied") == 5
        assert total(steps, "changed") == 5
        step, totals = await world.hands.measure(world.memory, cursor=0, limit=100)
        assert step.broken == 3
        assert totals.sessions == 7

    async def test_names_that_no_session_can_have_lead_nowhere(self, world: World) -> None:
        agreed = await world.apply()
        await world.fill(1)
        strange = [b"", b"a}b", b"\xff\xfe", b"x y", b"{*?[]}"]
        await world.raw.zadd(world.keys.sessions, dict.fromkeys(strange, 1))
        steps = await world.roll_out(agreed)
        assert (total(steps, "seen"), total(steps, "broken")) == (6, 0)
        assert await world.raw.zrange(world.keys.sessions, 0, -1) == [b"s-0"]

    async def test_an_entry_without_a_session_is_dropped_when_it_is_old(self, world: World) -> None:
        agreed = await world.apply()
        await world.fill(1)
        now = int((await world.raw.time())[0]) * 1000
        await world.raw.zadd(world.keys.sessions, {"old": now - 700_000, "young": now - 300_000})
        step, totals = await world.hands.measure(world.memory, cursor=0, limit=100)
        assert (step.seen, step.changed, step.total, totals.sessions) == (3, 1, 2, 1)
        await world.raw.zadd(world.keys.sessions, {"old": now - 700_000})
        assert total(await world.roll_out(agreed), "total") == 2
        assert set(await world.raw.zrange(world.keys.sessions, 0, -1)) == {b"s-0", b"young"}

    async def test_an_entry_comes_back_where_a_session_began_meanwhile(
        self, world: World, each_server: Server
    ) -> None:
        await world.apply()
        await world.fill(1)
        await world.raw.zadd(world.keys.sessions, {"s-0": 5, "noted": 7})
        carrier = PoolCarrier(each_server.client().connection_pool, owned=True)
        index = Index(Runner(carrier, patience=2), world.memory, world.keys, "mem")
        seen = [Entry(b"s-0", b"5"), Entry(b"noted", b"6")]
        assert await index.forget(seen, idle=600_000) == 0
        scores = dict(await world.raw.zrange(world.keys.sessions, 0, -1, withscores=True))
        assert scores.pop(b"s-0") > 1_000_000
        assert scores == {b"noted": 7}
        await carrier.aclose()

    async def test_what_is_measured_is_what_the_sessions_hold(self, world: World) -> None:
        await world.apply()
        names = await world.fill(250, messages=2)
        sums, cursor, steps = Totals(0, 0, 0, 0), 0, 0
        while True:
            step, part = await world.hands.measure(world.memory, cursor=cursor, limit=50)
            sums = Totals(*(a + b for a, b in zip(sums, part, strict=True)))
            cursor, steps = step.cursor, steps + 1
            if cursor == 0:
                break
        memory = world.client().memory("support")
        healths = [await memory.session(name).health() for name in names]
        assert steps >= 3
        assert sums == Totals(
            250,
            500,
            sum(health.tokens for health in healths),
            sum(health.bytes for health in healths),
        )

    async def test_a_full_server_lets_go_but_takes_nothing(
        self, own_world: World, own_server: Server
    ) -> None:
        world = own_world
        await world.apply()
        await world.fill(20)
        _, policy = load_policy(spec(limits={"maxMessages": 1}))
        agreed = replace(terms_of(policy, 2))
        await world.raw.config_set("maxmemory", "1")
        hands = RedisMaintenance.connect("127.0.0.1", own_server.port, timeout=0.1)
        with pytest.raises(StoreUnavailable):
            await hands.put_policy(world.memory, FIRST, policy.document(), policy.sha256())
        await hands.aclose()
        assert await world.raw.hget(world.keys.policy, "revision") == b"1"
        assert total(await world.roll_out(agreed), "changed") == 20
        revision = await world.hands.begin_deletion(world.memory, FIRST)
        assert revision == 2
        assert total(await world.bury(revision), "changed") == 20
        assert await world.hands.end_deletion(world.memory, FIRST)
        await world.raw.config_set("maxmemory", "0")
