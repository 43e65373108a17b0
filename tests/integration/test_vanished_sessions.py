"""A session that vanished is told to who wrote to it, and one that ended is not."""

import contextlib
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from holdfast.errors import AcknowledgedLost, PolicyNotFound
from holdfast.session import Session
from holdfast.store.redis.layout import session_keys
from holdfast.testing.conformance.support import items, prepared, terms, write
from holdfast.values import Flag, Splice
from tests.harness.servers import Server
from tests.harness.waiting import until
from tests.integration.world import AGAIN, FIRST, World, spec, user

pytestmark = [pytest.mark.asyncio, pytest.mark.redis]

Happening = Callable[[World, Session], Awaitable[object]]


@pytest_asyncio.fixture
async def world(valkey_server: Server) -> AsyncGenerator[World]:
    async with valkey_server.client() as raw:
        world = World(valkey_server, raw)
        await world.hands.load_scripts()
        yield world
        await world.aclose()


@pytest.fixture
def name() -> str:
    return f"s-{secrets.token_hex(4)}"


async def lose(world: World, name: str) -> None:
    """Take a session away, as a server does that has lost it."""
    assert await world.raw.delete(*session_keys(world.memory, name, "mem"))


async def ended(world: World, name: str) -> None:
    """Return when nothing is left of a session."""

    async def gone() -> bool:
        return not await world.raw.exists(*session_keys(world.memory, name, "mem"))

    await until(gone, "the session has ended")


class TestTold:
    async def test_once_and_before_anything_is_written(self, world: World, name: str) -> None:
        session = world.session(name, spec())
        await session.append_many([user("one"), user("two")])
        await lose(world, name)
        with pytest.raises(AcknowledgedLost) as lost:
            await session.append(user("three"))
        assert (lost.value.first, lost.value.last) == (1, 2)
        assert lost.value.session == name
        assert await session.length() == 0
        assert (await session.append(user("three"))).seq == 1
        assert await session.read() == [user("three")]

    async def test_who_replaces_everything(self, world: World, name: str) -> None:
        session = world.session(name, spec())
        await session.append(user("one"))
        await lose(world, name)
        with pytest.raises(AcknowledgedLost):
            await session.replace([user("two")])
        await session.replace([user("two")])
        assert await session.read() == [user("two")]

    @pytest.mark.parametrize("call", ["append", "pop", "clear", "pin"])
    async def test_where_another_began_it_anew(self, world: World, name: str, call: str) -> None:
        session = world.session(name, spec())
        await session.append_many([user("one"), user("two")])
        await lose(world, name)
        await world.session(name, spec()).append(user("new"))
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "append": lambda: session.append(user("three")),
            "pop": session.pop,
            "clear": session.clear,
            "pin": lambda: session.pin(1),
        }
        with pytest.raises(AcknowledgedLost) as lost:
            await calls[call]()
        assert (lost.value.first, lost.value.last) == (1, 2)
        assert await session.read() == [user("new")]
        await calls[call]()

    async def test_where_another_began_it_with_a_turn(self, world: World, name: str) -> None:
        session = world.session(name, spec())
        await session.append(user("one"))
        await lose(world, name)
        async with world.session(name, spec()).turn():
            with pytest.raises(AcknowledgedLost):
                await session.append(user("two"))
            await session.append(user("two"))

    async def test_under_the_policy_of_an_operator(self, world: World, name: str) -> None:
        await world.apply()
        session = world.session(name)
        await session.append(user("one"))
        await lose(world, name)
        with pytest.raises(AcknowledgedLost):
            await session.append(user("two"))


class TestRewound:
    """A store that lost its last writes, as in a failover: others get their numbers."""

    @pytest.mark.parametrize("covered", [[1, 2, 3, 4], [3, 4], [2, 3]])
    async def test_a_summary_takes_nothing_that_it_does_not_stand_for(
        self, world: World, covered: list[int]
    ) -> None:
        handle, agreed = world.store().session(world.memory, "any"), terms()
        keys = session_keys(world.memory, "any", "mem")
        await write(handle, prepared("one"), prepared("two"))
        assert await handle.claim_flush("flusher", 60_000)
        before = {key: await world.raw.dump(key) for key in keys}
        await write(handle, prepared("lost"), prepared("lost too"))
        found = await handle.snapshot()
        records = [(seq, found.encoded[seq - 1]) for seq in covered]
        rules = [(seq, "HybridSummary") for seq in covered]
        for key, value in before.items():
            await (
                world.raw.delete(key)
                if value is None
                else world.raw.restore(key, 0, value, replace=True)
            )
        assert await write(handle, prepared("other"), prepared("another")) == [3, 4]
        short = prepared("in short", flags=Flag.SUMMARY | Flag.PINNED)
        splice = Splice("flusher", found.status.epoch, rules, records, short)
        assert not (await handle.splice(agreed, splice)).done
        assert await items(handle) == ["one", "two", "other", "another"]


class TestNotTold:
    @pytest.mark.parametrize(
        "retention",
        [
            pytest.param({"ttl": "1s"}, id="idle"),
            pytest.param({"ttl": "1s", "maxLifetime": "1s"}, id="at the end of its life"),
            pytest.param({"ttl": "1s", "refreshOn": ["Read"]}, id="not renewed by writing"),
        ],
    )
    async def test_a_session_that_expired(
        self, world: World, name: str, retention: dict[str, Any]
    ) -> None:
        session = world.session(name, spec(retention=retention))
        await session.append(user("one"))
        if len(retention) > 1:
            meta = session_keys(world.memory, name, "mem").meta

            async def half() -> bool:
                return await world.raw.pttl(meta) < 600

            await until(half, "half of its life is over")
            await session.append(user("late"))
        await ended(world, name)
        assert (await session.append(user("two"))).seq == 1

    async def test_a_session_that_expired_and_began_again(self, world: World, name: str) -> None:
        given = spec(retention={"ttl": "1s"})
        session, other = world.session(name, given), world.session(name, given)
        await session.append(user("one"))
        await ended(world, name)
        await other.append(user("new"))
        await session.append(user("two"))

    async def test_one_that_another_policy_let_expire_sooner(self, world: World, name: str) -> None:
        """Read from the store before anything is said: here nobody has followed the edit yet."""
        await world.apply()
        session = world.session(name)
        await session.append(user("one"))
        await world.apply(retention={"ttl": "1s"})
        await world.session(name).append(user("two"))
        await ended(world, name)
        assert (await session.append(user("three"))).seq == 1

    @pytest.mark.parametrize("again", [False, True], ids=["gone", "begun again"])
    @pytest.mark.parametrize(
        "happening",
        [
            pytest.param(lambda _, other: other.clear(), id="cleared"),
            pytest.param(lambda _, other: other.erase(), id="erased"),
            pytest.param(lambda _, other: other.pop(), id="popped"),
            pytest.param(lambda _, other: other.replace([]), id="emptied"),
        ],
    )
    async def test_what_somebody_did(
        self, world: World, name: str, happening: Happening, *, again: bool
    ) -> None:
        session, other = world.session(name, spec()), world.session(name, spec())
        await session.append(user("one"))
        await happening(world, other)
        if again:
            await other.append(user("new"))
        await session.append(user("two"))
        assert (await session.read())[-1] == user("two")

    async def test_a_clear_after_which_it_expired(self, world: World, name: str) -> None:
        given = spec(retention={"ttl": "1h", "afterClear": "1s"})
        session, other = world.session(name, given), world.session(name, given)
        await session.append(user("one"))
        await other.clear()
        await ended(world, name)
        await session.append(user("two"))

    async def test_what_it_did_itself(self, world: World, name: str) -> None:
        session = world.session(name, spec())
        await session.append(user("one"))
        lines = [line async for line in session.export()]
        await session.erase()
        await session.append(user("two"))
        await session.clear()
        await session.append(user("three"))
        await session.erase()
        await session.import_(lines)
        await session.append(user("four"))
        assert await session.read() == [user("one"), user("four")]

    async def test_a_memory_that_was_deleted_and_made_again(self, world: World, name: str) -> None:
        await world.apply()
        session = world.session(name)
        await session.append(user("one"))
        revision = await world.hands.begin_deletion(world.memory, FIRST)
        assert revision is not None
        await world.bury(revision)
        assert await world.hands.end_deletion(world.memory, FIRST)
        await world.apply(AGAIN)
        with contextlib.suppress(PolicyNotFound):  # of the copy at hand; the next call asks again
            await session.append(user("one"))
        await session.append(user("two"))
        assert (await session.read())[-1] == user("two")

    async def test_where_only_the_counters_went(self, world: World, name: str) -> None:
        """What is left is counted again: decision 3."""
        session = world.session(name, spec())
        await session.append(user("one"))
        assert await world.raw.delete(session_keys(world.memory, name, "mem").meta)
        await session.append(user("two"))
        assert await session.read() == [user("one"), user("two")]

    async def test_who_wrote_nothing_to_it(self, world: World, name: str) -> None:
        session = world.session(name, spec())
        await world.session(name, spec()).append(user("one"))
        assert len(await session.read()) == 1
        await lose(world, name)
        await session.append(user("two"))
