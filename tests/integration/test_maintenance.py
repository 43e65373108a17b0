"""Whose a memory is, and its policy, on real servers."""

import pytest

from holdfast.errors import AccessDenied, StoreUnavailable, UnknownKeys
from holdfast.policy import load_policy
from holdfast.store.maintenance import Lasting, LayoutTooNew, Owner, Ownership, Superseded, Totals
from holdfast.store.redis.maintenance import RedisMaintenance
from holdfast.store.redis.script import all_scripts
from tests.harness.servers import Server
from tests.integration.world import AGAIN, FIRST, FOREIGN, HOUR, REUSED, World, spec, total, user

pytestmark = [pytest.mark.redis, pytest.mark.asyncio]


class TestServer:
    async def test_it_says_what_it_is(self, world: World, each_server: Server) -> None:
        info = await world.hands.server()
        assert info.product == each_server.product
        assert int(info.version.split(".")[0]) >= 7
        assert info.mode == "standalone"
        assert info.used_memory > 0
        assert info.max_memory == 0
        assert info.eviction_policy == "noeviction"

    async def test_it_knows_every_script_afterwards(self, world: World) -> None:
        await world.raw.script_flush()
        await world.hands.load_scripts()
        shas = [script.sha.decode() for script in all_scripts()]
        assert all(await world.raw.script_exists(*shas))
        assert len(shas) >= 20

    async def test_scripts_that_were_lost_are_loaded_on_the_way(self, world: World) -> None:
        agreed = await world.apply()
        await world.fill(3)
        await world.raw.script_flush()
        assert total(await world.roll_out(agreed), "seen") == 3

    async def test_a_wrong_password_is_refused(self, each_server: Server) -> None:
        hands = RedisMaintenance.connect(
            "127.0.0.1", each_server.port, username="nobody", password="x"
        )
        with pytest.raises(AccessDenied):
            await hands.server()
        await hands.aclose()

    async def test_no_server_is_unavailable(self, own_server: Server) -> None:
        hands = RedisMaintenance.connect("127.0.0.1", own_server.port, timeout=0.2)
        await own_server.stop()
        with pytest.raises(StoreUnavailable):
            await hands.server()
        await hands.aclose()
        await own_server.start()


class TestOwnership:
    async def test_the_first_marker_wins(self, world: World) -> None:
        hands, memory = world.hands, world.memory
        assert await hands.claim(memory, FIRST) is Ownership.OURS
        assert await hands.claim(memory, FIRST) is Ownership.OURS
        for other in (REUSED, FOREIGN):
            assert await hands.claim(memory, other) is Ownership.OTHER
            assert await hands.put_policy(memory, other, "{}", "sha") is None
            assert await hands.begin_deletion(memory, other) is None
            assert not await hands.end_deletion(memory, other)
            await hands.put_usage(memory, other, Totals(1, 1, 1, 1))
            await hands.release(memory, other, Lasting())
        marker = await world.raw.hgetall(world.keys.owner)
        assert marker == {
            b"cluster": b"cluster-1",
            b"namespaceUid": b"namespace-1",
            b"namespace": b"team",
            b"name": b"support",
            b"uid": b"uid-1",
            b"epoch": b"1",
        }
        assert await world.names() == [world.keys.owner.decode()]
        assert await world.raw.ttl(world.keys.owner) == -1

    async def test_a_resource_made_again_takes_over(self, world: World) -> None:
        await world.apply()
        await world.fill(1)
        assert await world.hands.claim(world.memory, AGAIN) is Ownership.TAKEN_OVER
        assert await world.hands.claim(world.memory, AGAIN) is Ownership.OURS
        assert await world.hands.put_policy(world.memory, FIRST, "{}", "sha") is None
        assert await world.session("s-0").length() == 3

    @pytest.mark.parametrize("other", [REUSED, FOREIGN])
    async def test_adopting_takes_over_from_anybody(self, world: World, other: Owner) -> None:
        await world.apply(FIRST._replace(epoch=9))
        adopted = await world.hands.claim(
            world.memory, other._replace(epoch=9 if other is REUSED else 1), adopt=True
        )
        assert adopted is Ownership.TAKEN_OVER
        assert await world.hands.claim(world.memory, FIRST._replace(epoch=9)) is Ownership.OTHER
        assert int(await world.raw.hget(world.keys.owner, "epoch")) == (9 if other is REUSED else 1)

    async def test_sessions_without_a_marker_are_left_alone(self, world: World) -> None:
        session = world.session("any", spec())
        await session.append(user("hello"))
        assert await world.hands.claim(world.memory, FIRST) is Ownership.UNMARKED
        assert not await world.raw.exists(world.keys.owner)
        assert await world.hands.claim(world.memory, FIRST, adopt=True) is Ownership.TAKEN_OVER
        agreed = await world.apply()
        await world.roll_out(agreed)
        assert await world.revision("any") == agreed.revision
        assert await session.append(user("again"))
        assert (await session.health()).managed

    async def test_a_policy_without_a_marker_is_left_alone(self, world: World) -> None:
        await world.apply()
        await world.raw.delete(world.keys.owner)
        assert await world.hands.claim(world.memory, FIRST) is Ownership.UNMARKED

    async def test_names_of_sessions_that_ended_do_not_stand_in_the_way(self, world: World) -> None:
        now = int((await world.raw.time())[0]) * 1000
        await world.raw.zadd(world.keys.sessions, {"ended": now - 700_000})
        assert await world.hands.claim(world.memory, FIRST) is Ownership.OURS
        assert not await world.raw.exists(world.keys.sessions)

    async def test_a_leader_that_was_replaced_changes_nothing(self, world: World) -> None:
        hands, memory = world.hands, world.memory
        newer, older = FIRST._replace(epoch=7), FIRST._replace(epoch=6)
        agreed = await world.apply(newer)
        before = await world.raw.hgetall(world.keys.policy)
        for adopt in (False, True):
            assert await hands.claim(memory, older, adopt=adopt) is Ownership.FENCED
        assert await hands.put_policy(memory, older, "{}", "sha") is None
        with pytest.raises(Superseded):
            await hands.begin_deletion(memory, older)
        await hands.begin_deletion(memory, newer)
        with pytest.raises(Superseded):
            await hands.end_deletion(memory, older)
        await hands.put_usage(memory, older, Totals(1, 1, 1, 1))
        await hands.release(memory, older, Lasting())
        assert await world.raw.ttl(world.keys.owner) == -1
        assert not await world.raw.exists(world.keys.usage)
        assert await world.raw.hget(world.keys.policy, "doc") == before[b"doc"]
        assert agreed.revision == 1

    async def test_any_call_raises_the_epoch(self, world: World) -> None:
        await world.apply()
        await world.hands.put_usage(world.memory, FIRST._replace(epoch=5), Totals(0, 0, 0, 0))
        assert await world.hands.claim(world.memory, FIRST) is Ownership.FENCED

    @pytest.mark.parametrize("name", ["owner", "policy", "usage", "sessions"])
    async def test_a_key_of_another_type_is_in_the_way(self, world: World, name: str) -> None:
        await world.raw.set(getattr(world.keys, name), "somebody's")
        for _ in range(2):
            with pytest.raises(UnknownKeys):
                await world.hands.claim(world.memory, FIRST)
        assert await world.names() == [getattr(world.keys, name).decode()]
        await world.raw.delete(getattr(world.keys, name))
        assert await world.hands.claim(world.memory, FIRST) is Ownership.OURS

    async def test_a_newer_layout_is_left_alone(self, world: World) -> None:
        await world.apply()
        await world.raw.hset(world.keys.policy, "layout", "2")
        before = await world.raw.hgetall(world.keys.policy)
        hands, memory = world.hands, world.memory
        for work in (
            hands.claim(memory, FIRST),
            hands.put_policy(memory, FIRST, "{}", "sha"),
            hands.begin_deletion(memory, FIRST),
            hands.end_deletion(memory, FIRST),
        ):
            with pytest.raises(LayoutTooNew):
                await work
        assert await world.raw.hgetall(world.keys.policy) == before


class TestNames:
    async def test_a_walk_names_every_session_and_nothing_else(self, world: World) -> None:
        await world.apply()
        names = await world.fill(250)
        await world.raw.zadd(world.keys.sessions, dict.fromkeys([b"a}b", b"\xff", b"x y"], 1))
        found, steps = set[str](), 0
        cursor, part = await world.hands.names(world.memory, cursor=0, limit=50)
        while True:
            found |= set(part)
            steps += 1
            if cursor == 0:
                break
            cursor, part = await world.hands.names(world.memory, cursor=cursor, limit=50)
        assert found == set(names)
        assert steps > 2
        status = await world.hands.store().session(world.memory, names[0]).status()
        assert status.messages == 3


class TestPolicy:
    async def test_the_revision_follows_the_document(self, world: World) -> None:
        assert (await world.apply()).revision == 1
        before = await world.changes()
        assert (await world.apply()).revision == 1
        assert await world.changes() == before
        assert (await world.apply(limits={"maxTokens": 500})).revision == 2
        assert (await world.apply()).revision == 3
        document = await world.raw.hgetall(world.keys.policy)
        _, policy = load_policy(spec())
        assert document == {
            b"layout": b"1",
            b"revision": b"3",
            b"state": b"active",
            b"sha256": policy.sha256().encode(),
            b"doc": policy.document().encode(),
        }

    async def test_an_emptied_server_does_not_begin_again_at_one(self, world: World) -> None:
        await world.apply()
        terms = await world.apply(limits={"maxTokens": 500})
        old = world.session("held over")
        await old.append(user("before"))
        await world.raw.delete(*await world.names())
        assert await world.hands.claim(world.memory, FIRST) is Ownership.OURS
        _, policy = load_policy(spec(limits={"maxTokens": 500}))
        document = policy.document(), policy.sha256()
        revision = await world.hands.put_policy(
            world.memory, FIRST, *document, before=terms.revision
        )
        assert revision == terms.revision + 1
        again = await world.hands.put_policy(world.memory, FIRST, *document, before=revision)
        assert again == revision
        await old.append(user("after"))  # by a process that held the old copy
        assert await world.session("held over").read() == [user("after")]

    async def test_agents_work_under_it(self, world: World) -> None:
        await world.apply(limits={"maxMessages": 2})
        session = world.session("any")
        for number in range(5):
            await session.append(user(str(number)))
        health = await session.health()
        assert (health.messages, health.managed, health.revision) == (2, True, 1)

    async def test_nothing_is_written_before_the_claim(self, world: World) -> None:
        assert await world.hands.put_policy(world.memory, FIRST, "{}", "sha") is None
        assert await world.names() == []

    async def test_the_counter_survives_a_resource_made_again(self, world: World) -> None:
        await world.apply()
        await world.apply(limits={"maxTokens": 500})
        await world.fill(2)
        await world.release(FIRST)
        assert (await world.apply(AGAIN, limits={"maxTokens": 500})).revision == 2
        assert (await world.apply(AGAIN)).revision == 3

    async def test_a_lost_counter_starts_above_what_the_sessions_have_seen(
        self, world: World
    ) -> None:
        for limit in (500, 600, 700):
            await world.apply(limits={"maxTokens": limit})
        await world.fill(1)
        await world.raw.delete(world.keys.policy)
        agreed = await world.apply()
        assert agreed.revision > 3
        assert (await world.session("s-0").append(user("again"))).length == 4

    @pytest.mark.parametrize("field", ["doc", "sha256", "state", "layout"])
    async def test_what_was_edited_by_hand_is_put_back(self, world: World, field: str) -> None:
        agreed = await world.apply(limits={"maxTokens": 500})
        before = await world.raw.hgetall(world.keys.policy)
        await world.raw.hset(world.keys.policy, field, "0")
        assert (await world.apply(limits={"maxTokens": 500})).revision == agreed.revision + 1
        after = await world.raw.hgetall(world.keys.policy)
        assert after == {**before, b"revision": b"%d" % (agreed.revision + 1)}

    async def test_usage_is_written_with_its_time(self, world: World) -> None:
        await world.apply()
        await world.hands.put_usage(world.memory, FIRST, Totals(1, 2, 3, 4))
        usage = await world.raw.hgetall(world.keys.usage)
        seconds, _ = await world.raw.time()
        assert abs(int(usage.pop(b"at")) - seconds * 1000) < 60_000
        assert usage == {b"sessions": b"1", b"messages": b"2", b"tokens": b"3", b"bytes": b"4"}


class TestRetain:
    async def test_everything_expires_and_the_marker_last(self, world: World) -> None:
        await world.apply(retention={"ttl": "2d"})
        await world.fill(150, messages=1)
        await world.hands.put_usage(world.memory, FIRST, Totals(1, 1, 1, 1))
        await world.release(FIRST)
        longest = max([max(await world.expiries(f"s-{n}")) for n in range(150)])
        assert await world.raw.pexpiretime(world.keys.policy) == longest
        assert await world.raw.pexpiretime(world.keys.usage) == longest
        marker = await world.raw.pexpiretime(world.keys.owner)
        assert marker == await world.raw.pexpiretime(world.keys.sessions)
        # Whoever writes last under that policy does so before it ends, and for two days.
        assert marker >= longest + 2 * 24 * HOUR
        assert await world.session("s-0").append(user("still in use"))

    async def test_another_namespace_of_that_name_does_not_inherit(self, world: World) -> None:
        await world.apply()
        await world.fill(1)
        await world.release(FIRST)
        assert await world.hands.claim(world.memory, REUSED) is Ownership.OTHER
        assert await world.raw.pttl(world.keys.owner) > 0

    async def test_the_resource_made_again_keeps_them(self, world: World) -> None:
        await world.apply()
        await world.fill(1)
        await world.release(FIRST)
        assert await world.hands.claim(world.memory, AGAIN) is Ownership.TAKEN_OVER
        for key in (world.keys.owner, world.keys.policy, world.keys.sessions):
            assert await world.raw.pttl(key) == -1

    async def test_an_empty_memory_leaves_its_marker_for_a_day(self, world: World) -> None:
        await world.apply()
        await world.release(FIRST)
        assert 0 < await world.raw.pttl(world.keys.policy) <= HOUR
        assert await world.raw.pttl(world.keys.owner) > 24 * HOUR - 60_000
