"""Replace: everything for something else, as one change."""
# ruff: noqa: D102 - the name of a test is its sentence

import asyncio

import pytest

from holdfast.errors import BudgetExceeded, LeaseLost, SessionBusy
from holdfast.session import Session
from holdfast.store import SessionStore, StalePolicy
from holdfast.testing.conformance.support import (
    FREE,
    Advance,
    Connect,
    SessionContract,
    StoreContract,
    batch,
    call,
    held,
    identified,
    items,
    new_token,
    open_session,
    prepared,
    result,
    snapshot,
    stored,
    system,
    take,
    terms,
    unchanged,
    user,
    write,
)
from holdfast.values import Caller


@pytest.mark.asyncio
class TestReplaceInTheStore(StoreContract):
    """What the script promises."""

    async def test_numbers_go_on_and_the_epoch_rises(self, handle: SessionStore) -> None:
        await write(handle, prepared("a", tokens=3), prepared("b", tokens=4))
        before = await handle.status()
        done = await handle.replace(terms(), batch(prepared("c", tokens=5), prepared("d")), FREE)
        after = await handle.status()
        assert (done.seq, done.length, done.tokens, done.evicted) == (3, 2, 6, 0)
        assert done.epoch == after.epoch > before.epoch
        assert after.version == before.version + 1
        assert [record.seq for record in await stored(handle)] == [3, 4]
        assert (after.messages, after.tokens, after.dropped) == (2, 6, 0)
        assert after.bytes == sum(len(record.encoded()) for record in await stored(handle))

    async def test_what_is_not_there_begins(self, handle: SessionStore) -> None:
        done = await handle.replace(terms(), batch(prepared("a")), FREE)
        assert (done.seq, await items(handle)) == (1, ["a"])

    async def test_nothing_instead_of_everything(self, handle: SessionStore) -> None:
        await write(handle, prepared("a"), prepared("b", flags=1))
        done = await handle.replace(terms(), batch(), FREE)
        assert (done.seq, done.length, done.tokens) == (3, 0, 0)
        assert await write(handle, prepared("c")) == [3]
        assert await items(handle) == ["c"]

    async def test_protected_records_go_and_come(self, handle: SessionStore) -> None:
        await write(handle, prepared("old", flags=1), prepared("more", flags=2))
        await handle.replace(terms(), batch(prepared("new", flags=1), prepared("b")), FREE)
        status = await handle.status()
        assert (status.pinned, await items(handle)) == (1, ["new", "b"])

    async def test_no_call_of_before_waits(self, handle: SessionStore) -> None:
        await write(handle, prepared("call", opens=["c1"]))
        await handle.replace(terms(), batch(prepared("result", closes=["c1"])), FREE)
        (record,) = await stored(handle)
        assert (record.group, record.flags & 4) == (record.seq, 4)
        await write(handle, prepared("result", closes=["c1"]))
        assert all(one.flags & 4 for one in await stored(handle))

    async def test_no_group_of_before_is_joined(self, handle: SessionStore) -> None:
        (first,) = await write(handle, prepared("a"))
        await handle.replace(terms(), batch(prepared("b", group=first)), FREE)
        assert [(one.seq, one.group) for one in await stored(handle)] == [(2, 2)]

    async def test_calls_within_it_wait(self, handle: SessionStore) -> None:
        await write(handle, prepared("a"))
        await handle.replace(terms(), batch(prepared("call", opens=["c1"])), FREE)
        await write(handle, prepared("result", closes=["c1"]))
        assert [record.group for record in await stored(handle)] == [2, 2]

    @pytest.mark.parametrize("refuse", [True, False])
    async def test_the_old_makes_room_for_the_new(self, handle: SessionStore, refuse: bool) -> None:
        agreed = terms(max_tokens=10, max_messages=3, refuse=refuse)
        await write(handle, *(prepared(str(n), tokens=3) for n in range(3)), terms_=agreed)
        done = await handle.replace(agreed, batch(*(prepared("n", 3) for _ in range(3))), FREE)
        assert (done.length, done.evicted, await items(handle)) == (3, 0, ["n"] * 3)

    @pytest.mark.parametrize("refuse", [True, False])
    async def test_what_does_not_fit_leaves_all(self, handle: SessionStore, refuse: bool) -> None:
        agreed = terms(max_tokens=10, refuse=refuse)
        await write(handle, prepared("a", opens=["c"]), prepared("b", flags=1), terms_=agreed)
        async with unchanged(handle, agreed):
            with pytest.raises(BudgetExceeded):
                await handle.replace(agreed, batch(prepared("x", 6), prepared("y", 6)), FREE)
        await write(handle, prepared("r", closes=["c"]))
        assert (await stored(handle))[-1].group == 1

    async def test_a_repetition_is_answered(self, handle: SessionStore) -> None:
        await write(handle, prepared("a"))
        first = await handle.replace(terms(), identified("r", prepared("b")), FREE)
        await write(handle, prepared("c"))
        again = await handle.replace(terms(), identified("r", prepared("b")), FREE)
        assert (again.duplicate, again.seq) == (True, first.seq)
        assert await items(handle) == ["b", "c"]

    async def test_ids_of_before_stay_known(self, handle: SessionStore) -> None:
        await handle.append(terms(), identified("i", prepared("a")), FREE)
        await handle.replace(terms(), batch(prepared("b")), FREE)
        late = await handle.append(terms(), identified("i", prepared("a")), FREE)
        assert (late.duplicate, await items(handle)) == (True, ["b"])

    async def test_history_names_it(self, handle: SessionStore) -> None:
        await write(handle, prepared("a", 2), prepared("b", 3, flags=1))
        await handle.replace(terms(), batch(prepared("c")), FREE)
        (entry,) = await handle.departed()
        assert (entry.rule, entry.ranges, entry.tokens) == ("replace", ((1, 2),), 5)

    async def test_history_names_nothing_where_there_was_nothing(
        self, handle: SessionStore
    ) -> None:
        await write(handle, prepared("a"))
        await handle.clear(terms(), FREE, force=False)
        before = await handle.departed()
        await handle.replace(terms(), batch(prepared("b")), FREE)
        assert await handle.departed() == before
        assert await items(handle) == ["b"]

    async def test_an_older_policy_and_other_holders_are_refused(
        self, handle: SessionStore
    ) -> None:
        agreed = terms(enforced=True, revision=3)
        await write(handle, prepared("a"), terms_=agreed)
        async with unchanged(handle, agreed):
            with pytest.raises(StalePolicy):
                await handle.replace(terms(revision=2), batch(prepared("b")), FREE)
        token = new_token()
        granted = await take(handle, agreed, token)
        async with unchanged(handle, agreed):
            with pytest.raises(SessionBusy):
                await handle.replace(agreed, batch(prepared("b")), FREE)
            with pytest.raises(LeaseLost):
                await handle.replace(agreed, batch(prepared("b")), Caller(new_token(), 1))
        await handle.replace(agreed, batch(prepared("b")), held(token, granted))
        with pytest.raises(LeaseLost):  # of the epoch before
            await handle.append(agreed, batch(prepared("c")), held(token, granted))

    async def test_the_lifetime_begins_anew(self, handle: SessionStore, advance: Advance) -> None:
        await write(handle, prepared("a"), terms_=terms(ttl=60_000))
        before = (await handle.status()).expires_at
        await advance(0.1)
        await handle.replace(terms(ttl=60_000), batch(prepared("b", flags=1)), FREE)
        assert (await snapshot(handle, terms())).status.expires_at > before


@pytest.mark.asyncio
class TestReplace(SessionContract):
    """What an agent sees."""

    async def test_exactly_these_are_held(self, session: Session) -> None:
        await session.append_many([system("s"), user("a"), call("c1")])
        done = await session.replace([system("t"), user("b")], id="again")
        assert (done.count, done.length) == (2, 2)
        assert await session.read() == [system("t"), user("b")]
        assert (await session.replace([system("t"), user("b")], id="again")).duplicate
        assert "replace()" in await session.explain(seq=1)
        assert (await session.replace([])).length == 0
        assert await session.read() == []

    async def test_readers_see_all_or_nothing(self, connect: Connect) -> None:
        session = open_session(connect())
        sets = [[user(f"{n} {k}") for k in range(4)] for n in range(20)]
        await session.replace(sets[0])
        done = asyncio.Event()

        async def look() -> None:
            reader = open_session(connect())
            while not done.is_set():
                assert await reader.read() in sets
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            group.create_task(look())
            for messages in sets:
                await session.replace(messages)
            done.set()

    async def test_a_turn_goes_on(self, session: Session, connect: Connect) -> None:
        await session.append(user("a"))
        async with session.turn() as turn:
            await turn.replace([user("b"), call("c1")])
            await turn.append(result("c1"))
            assert await turn.read() == [user("b"), call("c1"), result("c1")]
            await asyncio.gather(turn.replace([user("c")]), turn.check(), turn.read())
            await open_session(connect()).replace([user("d")])
            with pytest.raises(LeaseLost):
                await turn.append(user("too late"))
        assert await session.read() == [user("d")]
