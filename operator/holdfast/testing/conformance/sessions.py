"""A session as a whole: what is taken out, what is kept, how it fares, and when it ends."""
# ruff: noqa: D102 - the name of a test is its sentence

import asyncio

import pytest

from holdfast.errors import BudgetExceeded, RecordNotFound
from holdfast.session import Session
from holdfast.testing.conformance.support import (
    Advance,
    Connect,
    SessionContract,
    call,
    open_session,
    result,
    system,
    user,
)


@pytest.mark.asyncio
class TestSession(SessionContract):
    """Changes other than an append."""

    async def test_pop_takes_the_newest(self, session: Session) -> None:
        await session.append_many([user("a"), system("b")])
        for taken, left in ((system("b"), [user("a")]), (user("a"), []), (None, [])):
            assert await session.pop() == taken
            assert await session.read() == left

    async def test_a_popped_result_may_be_given_again(self, session: Session) -> None:
        await session.append_many([user("a"), call("c1"), result("c1", "wrong")])
        await session.pop()
        assert await session.read() == [user("a"), call("c1")]
        await session.append(result("c1", "right"))
        assert await session.read() == [user("a"), call("c1"), result("c1", "right")]
        assert (await session.read_page()).omitted == 0

    async def test_a_popped_call_is_forgotten(self, session: Session) -> None:
        await session.append_many([user("a"), call("c1")])
        await session.pop()
        await session.append(result("c1"))
        assert await session.read() == [user("a")]

    async def test_a_pinned_message_stays_and_an_unpinned_one_leaves(
        self, connect: Connect
    ) -> None:
        session = open_session(connect(limits={"maxMessages": 3}))
        seq = (await session.append(user("pinned"))).seq
        await session.pin(seq)
        for text in ("a", "b", "c"):
            await session.append(user(text))
        assert await session.read() == [user("pinned"), user("b"), user("c")]
        assert (await session.health()).pinned == 1
        await session.pin(seq, pinned=False)
        await session.append(user("d"))
        assert await session.read() == [user("b"), user("c"), user("d")]
        with pytest.raises(RecordNotFound):
            await session.pin(seq)

    async def test_a_call_and_its_result_leave_together(self, connect: Connect) -> None:
        session = open_session(connect(limits={"maxMessages": 4}))
        await session.append_many([call("c1", "c2"), result("c1"), user("aside"), result("c2")])
        done = await session.append(user("next"))
        assert done.evicted == 3
        assert await session.read() == [user("aside"), user("next")]

    async def test_the_token_limit_holds_after_every_append(self, connect: Connect) -> None:
        session = open_session(connect(limits={"maxTokens": 200}))
        await session.append(system("Answer in one sentence."))
        evicted = 0
        for number in range(60):
            done = await session.append(user(f"message {number} " + "word " * (number % 12)))
            evicted += done.evicted
            assert done.tokens <= 200
        records = (await session.read_page()).records
        health = await session.health()
        assert records[0].item == system("Answer in one sentence.")
        assert health.tokens == sum(record.tokens for record in records)
        assert health.messages == len(records) == 61 - evicted
        assert health.dropped == evicted > 0

    async def test_a_full_buffer_refuses(self, connect: Connect) -> None:
        session = open_session(connect(limits={"maxMessages": 2, "onFull": "Refuse"}))
        await session.append_many([user("a"), user("b")])
        with pytest.raises(BudgetExceeded):
            await session.append(user("c"))
        assert await session.read() == [user("a"), user("b")]

    async def test_what_the_protected_leave_no_room_for_is_refused(self, connect: Connect) -> None:
        session = open_session(connect(limits={"maxMessages": 2}))
        await session.append_many([system("a"), system("b")])
        with pytest.raises(BudgetExceeded):
            await session.append(user("c"))
        assert (await session.read_page()).total == 2

    async def test_two_clients_share_a_session(self, connect: Connect) -> None:
        sessions = [open_session(connect()) for _ in range(2)]

        async def write(name: int) -> None:
            for number in range(10):
                await sessions[name].append([name, number])

        await asyncio.gather(*(write(name) for name in range(2)))
        found = await sessions[0].read()
        assert found == await sessions[1].read()
        for name in range(2):
            own = [number for who, number in found if who == name]
            assert own == list(range(10))

    async def test_clear_is_seen_by_all(self, connect: Connect) -> None:
        mine, yours = (open_session(connect()) for _ in range(2))
        await mine.append(user("a"))
        await yours.append(user("b"))
        await mine.clear()
        assert await yours.read() == []
        await yours.append(user("c"))
        await mine.append(user("d"))
        assert await yours.read() == [user("c"), user("d")]

    async def test_an_expired_session_begins_anew(self, connect: Connect, advance: Advance) -> None:
        session = open_session(connect(retention={"ttl": "1s"}))
        await session.append(user("old"))
        await advance(1.3)
        assert await session.read() == []
        await session.append(user("new"))
        assert await session.read() == [user("new")]


@pytest.mark.asyncio
class TestHealth(SessionContract):
    """`health()` tells how a session fares."""

    async def test_a_session_that_never_was_has_nothing(self, session: Session) -> None:
        health = await session.health()
        assert (health.messages, health.tokens, health.bytes, health.pinned) == (0, 0, 0, 0)
        assert (health.expires_at, health.lease, health.waiting) == (None, None, 0)

    async def test_counters_are_those_of_the_records(self, session: Session) -> None:
        await session.append_many([system("a"), user("b"), user("c")])
        records = (await session.read_page()).records
        health = await session.health()
        assert (health.messages, health.pinned, health.dropped) == (3, 1, 0)
        assert health.tokens == sum(record.tokens for record in records)
        assert health.bytes > 3 * len('{"role":"user","content":"b"}')

    async def test_the_expiry_and_its_rule_are_shown(self, connect: Connect) -> None:
        hour = 3_600_000
        retention = {"ttl": "1h", "afterClear": "5m", "maxLifetime": "2h"}
        session = open_session(connect(retention=retention))
        await session.append(user("a"))
        written = (await session.read_page()).records[0].ts
        health = await session.health()
        assert (health.expires_at, health.expiry_rule) == (written + hour, "ttl")
        await session.clear()
        health = await session.health()
        assert health.expiry_rule == "afterClear"
        assert health.expires_at is not None
        assert health.expires_at < written + hour

    async def test_a_policy_given_as_argument_is_not_managed(self, session: Session) -> None:
        await session.append(user("a"))
        health = await session.health()
        assert (health.managed, health.revision, health.revision_behind) == (False, 0, 0)

    async def test_the_version_grows_with_every_change(self, session: Session) -> None:
        versions = [(await session.health()).version]
        seq = (await session.append(user("a"))).seq
        versions.append((await session.health()).version)
        await session.pin(seq)
        versions.append((await session.health()).version)
        await session.append(user("b"))
        versions.append((await session.health()).version)
        await session.pop()
        versions.append((await session.health()).version)
        await session.clear()
        versions.append((await session.health()).version)
        assert versions == sorted(set(versions))

    async def test_reading_changes_no_version(self, session: Session) -> None:
        await session.append(user("a"))
        before = (await session.health()).version
        await session.read()
        await session.read_page()
        assert (await session.health()).version == before

    async def test_what_no_format_reads_is_counted_and_kept(self, session: Session) -> None:
        await session.append(42)
        await session.append(user("a"))
        assert (await session.health()).unrecognised == 1
        assert await session.read() == [42, user("a")]
