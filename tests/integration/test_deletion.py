"""Deleting a memory under its writers, on real servers."""

import asyncio
from typing import Any

import pytest

from holdfast.errors import PolicyNotFound
from holdfast.store import StalePolicy
from holdfast.store.maintenance import Ownership, Totals
from holdfast.store.redis.layout import session_keys
from tests.harness.waiting import until
from tests.integration.world import (
    AGAIN,
    FIRST,
    FREE,
    HOUR,
    REUSED,
    World,
    late,
    spec,
    take,
    total,
    user,
)

pytestmark = [pytest.mark.redis, pytest.mark.asyncio]


class TestDeletion:
    async def test_nothing_is_left_but_what_expires(self, world: World) -> None:
        agreed = await world.apply()
        await world.fill(250)
        await world.hands.put_usage(world.memory, FIRST, Totals(1, 1, 1, 1))
        revision = await world.hands.begin_deletion(world.memory, FIRST)
        assert revision == agreed.revision + 1
        assert await world.hands.begin_deletion(world.memory, FIRST) == revision
        steps = await world.bury(revision)
        assert total(steps, "changed") == 250
        assert steps[-1].total == 0
        assert total(await world.bury(revision), "seen") == 0
        assert await world.hands.end_deletion(world.memory, FIRST)
        assert await world.hands.end_deletion(world.memory, FIRST)
        left = await world.names()
        stones = [session_keys(world.memory, f"s-{n}", "mem").meta.decode() for n in range(250)]
        assert left == sorted([*stones, world.keys.owner.decode()])
        for name in stones:
            assert 0 < await world.raw.pttl(name) <= 60_000
        assert 0 < await world.raw.pttl(world.keys.owner) <= 86_400_000
        assert await world.raw.hget(world.keys.owner, "uid") is None

    async def test_writers_are_refused(self, world: World) -> None:
        old = await world.apply()
        session, reader = world.session("any"), world.session("any")
        await session.append(user("hello"))
        assert await reader.read()
        revision = await world.hands.begin_deletion(world.memory, FIRST)
        assert revision is not None
        with pytest.raises(PolicyNotFound):
            await world.session("any").append(user("a new process"))
        await world.bury(revision)
        with pytest.raises(PolicyNotFound):
            await session.append(user("an old copy of the policy"))
        with pytest.raises(PolicyNotFound):
            await world.session("any", spec()).append(user("a policy of its own"))
        handle = world.store().session(world.memory, "any")
        writes: list[Any] = [
            handle.append(old, late(), FREE),
            handle.clear(old, FREE, force=True),
            handle.acquire(old, "token-0", "somebody"),
        ]
        for write in writes:
            with pytest.raises(StalePolicy):
                await write
        assert (await handle.everything(old)).records == []
        assert await world.hands.end_deletion(world.memory, FIRST)
        with pytest.raises(PolicyNotFound):
            await session.append(user("an old copy of the policy"))

    async def test_a_memory_that_never_had_a_policy_refuses_writers_too(self, world: World) -> None:
        await world.hands.claim(world.memory, FIRST)
        assert await world.hands.begin_deletion(world.memory, FIRST) == 1
        with pytest.raises(PolicyNotFound, match="being deleted"):
            await world.session("any", spec()).append(user("hello"))
        assert await world.hands.put_policy(world.memory, FIRST, "{}", "sha") is None

    async def test_a_holder_and_who_waits_for_him_are_refused(self, world: World) -> None:
        await world.apply()
        session, other = world.session("any"), world.session("any")
        queue = session_keys(world.memory, "any", "mem").queue
        async with session.turn() as turn:
            await turn.append(user("1"))
            waiting = asyncio.create_task(take(other))

            async def in_line() -> bool:
                return bool(await world.raw.zcard(queue))

            await until(in_line, "the other one stands in line")
            revision = await world.hands.begin_deletion(world.memory, FIRST)
            assert revision is not None
            await world.bury(revision)
            assert not await world.raw.exists(queue)
            with pytest.raises(PolicyNotFound):
                await waiting

    async def test_what_was_written_behind_the_cursor_is_caught(self, world: World) -> None:
        old = await world.apply()
        await world.fill(5)
        revision = await world.hands.begin_deletion(world.memory, FIRST)
        assert revision is not None
        await world.bury(revision)
        store = world.store()
        await store.session(world.memory, "late").append(old, late(), FREE)
        assert total(await world.bury(revision), "changed") == 1
        with pytest.raises(StalePolicy):
            await store.session(world.memory, "late").append(old, late(), FREE)

    async def test_broken_sessions_are_buried_like_others(self, world: World) -> None:
        await world.apply()
        await world.fill(4)
        keys = [session_keys(world.memory, f"s-{number}", "mem") for number in range(4)]
        await world.raw.delete(keys[0].meta, keys[1].log, keys[3].meta)
        await world.raw.set(keys[0].meta, "somebody's")
        await world.raw.set(keys[1].log, "somebody's")
        await world.raw.hset(keys[2].meta, "s", "garbage")
        revision = await world.hands.begin_deletion(world.memory, FIRST)
        assert revision is not None
        assert total(await world.bury(revision), "changed") == 4
        for key in keys:
            assert await world.raw.exists(*key) == 1
            assert 0 < await world.raw.pttl(key.meta) <= 60_000

    async def test_a_memory_made_again_starts_empty_and_stays(self, world: World) -> None:
        await world.apply()
        session = world.session("s-0")
        await session.append(user("old"))
        await world.fill(3)
        revision = await world.hands.begin_deletion(world.memory, FIRST)
        assert revision is not None
        await world.bury(revision)
        assert await world.hands.end_deletion(world.memory, FIRST)
        # Writes that renew nothing: a tombstone's short life must not become the session's.
        agreed = await world.apply(AGAIN, retention={"ttl": "1h", "refreshOn": ["Read"]})
        assert agreed.revision == revision + 1
        fresh = world.session("s-1")
        for one in (session, fresh):
            while True:
                try:
                    answer = await one.append(user("new"))
                    break
                except PolicyNotFound:  # what the old process found while there was no policy
                    continue
            assert (answer.seq, answer.length) == (1, 1)
            assert await one.read() == [user("new")]
        assert set(await world.raw.zrange(world.keys.sessions, 0, -1)) == {b"s-0", b"s-1"}
        (expiry,) = await world.expiries("s-0")
        assert expiry > (await world.raw.time())[0] * 1000 + HOUR - 60_000
        # A leader that slept since the deletion.
        assert total(await world.bury(revision), "changed") == 0
        assert not await world.hands.end_deletion(world.memory, FIRST)
        assert await session.length() == 1

    async def test_a_tombstone_is_no_session_of_the_memory_made_again(self, world: World) -> None:
        await world.apply()
        await world.fill(1)
        revision = await world.hands.begin_deletion(world.memory, FIRST)
        assert revision is not None
        await world.bury(revision)
        await world.hands.end_deletion(world.memory, FIRST)
        agreed = await world.apply(AGAIN)
        stone = await world.meta("s-0")
        await world.raw.zadd(world.keys.sessions, {"s-0": 1})
        step, totals = await world.hands.measure(world.memory, cursor=0, limit=100)
        assert (step.changed, totals.sessions) == (1, 0)
        await world.raw.zadd(world.keys.sessions, {"s-0": 1})
        assert total(await world.roll_out(agreed), "changed") == 0
        assert await world.meta("s-0") == stone
        assert not await world.raw.exists(world.keys.sessions)

    async def test_the_note_of_a_writer_who_is_about_to_begin_is_kept(self, world: World) -> None:
        await world.apply()
        await world.fill(1)
        revision = await world.hands.begin_deletion(world.memory, FIRST)
        assert revision is not None
        now = int((await world.raw.time())[0]) * 1000
        await world.raw.zadd(world.keys.sessions, {"about to begin": 1, "about-to-begin": now})
        await world.bury(revision)
        assert await world.raw.zrange(world.keys.sessions, 0, -1) == [b"about-to-begin"]

    async def test_a_replaced_deletion_becomes_active_again(self, world: World) -> None:
        await world.apply()
        revision = await world.hands.begin_deletion(world.memory, FIRST)
        assert revision == 2
        assert await world.hands.put_policy(world.memory, FIRST, "{}", "sha") is None
        assert (await world.apply(AGAIN)).revision == 3
        assert not await world.hands.end_deletion(world.memory, AGAIN)
        await world.session("any").append(user("hello"))

    async def test_late_notes_of_writers_do_not_stand_in_the_way_of_the_next(
        self, world: World
    ) -> None:
        await world.apply()
        await world.hands.begin_deletion(world.memory, FIRST)
        assert await world.hands.end_deletion(world.memory, FIRST)
        now = int((await world.raw.time())[0]) * 1000
        await world.raw.zadd(world.keys.sessions, {"late": now})
        assert await world.hands.claim(world.memory, REUSED) is Ownership.OTHER
        assert await world.hands.claim(world.memory, AGAIN) is Ownership.TAKEN_OVER

    async def test_a_leader_that_slept_cannot_claim_what_was_deleted(self, world: World) -> None:
        await world.apply(FIRST._replace(epoch=5))
        await world.hands.begin_deletion(world.memory, FIRST._replace(epoch=5))
        assert await world.hands.end_deletion(world.memory, FIRST._replace(epoch=5))
        assert await world.hands.claim(world.memory, FIRST._replace(epoch=4)) is Ownership.FENCED
        assert await world.hands.claim(world.memory, REUSED._replace(epoch=5)) is Ownership.OURS
