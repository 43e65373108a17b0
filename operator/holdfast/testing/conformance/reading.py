"""Reading as an agent does: what a model accepts, within a budget, or exactly what is stored."""
# ruff: noqa: D102 - the name of a test is its sentence

from typing import Any

import pytest

from holdfast.errors import BudgetTooSmall, ConfigurationError, MessageInvalid, RecordNotFound
from holdfast.planning import fit_budget, order_for_model, presentable
from holdfast.session import Session
from holdfast.store import SessionStore
from holdfast.testing.conformance.support import (
    Connect,
    SessionContract,
    assistant,
    call,
    open_session,
    result,
    stored,
    system,
    user,
)


async def _tell(session: Session, *messages: Any) -> list[int]:
    """Append one message after the other, and return their numbers."""
    return [(await session.append(message)).seq for message in messages]


@pytest.mark.asyncio
class TestRead(SessionContract):
    """`read()` gives what a model accepts."""

    async def test_a_conversation_is_read_in_the_order_it_was_appended(
        self, session: Session
    ) -> None:
        messages = [
            user("a"),
            system("b"),
            call("c1", "c2"),
            result("c2"),
            user("aside"),
            result("c1"),
        ]
        await _tell(session, *messages)
        assert await session.read() == messages
        assert (await session.read_page()).omitted == 0

    async def test_a_session_that_never_was_reads_empty(self, session: Session) -> None:
        assert await session.read() == []
        assert await session.read(max_tokens=1) == []
        assert await session.read(limit=5) == []
        page = await session.read_page()
        assert (page.records, page.total, page.next, page.omitted) == ((), 0, None, 0)

    async def test_a_result_without_its_call_is_left_out(self, session: Session) -> None:
        await _tell(session, user("a"), result("unknown"), user("b"))
        assert await session.read() == [user("a"), user("b")]
        page = await session.read_page()
        assert [record.item for record in page.records] == [user("a"), result("unknown"), user("b")]
        assert page.omitted == 1

    async def test_a_call_without_its_result_is_left_out_unless_it_is_the_newest(
        self, session: Session
    ) -> None:
        await _tell(session, user("a"), call("c1"))
        assert await session.read() == [user("a"), call("c1")]
        await _tell(session, user("b"))
        assert await session.read() == [user("a"), user("b")]
        assert (await session.read_page()).omitted == 1
        await _tell(session, result("c1"))
        assert await session.read() == [user("a"), call("c1"), user("b"), result("c1")]
        assert (await session.read_page()).omitted == 0

    async def test_parallel_calls_stay_out_until_all_are_answered(self, session: Session) -> None:
        await _tell(session, call("c1", "c2"), result("c1"), user("a"))
        assert await session.read() == [user("a")]
        assert (await session.read_page()).omitted == 2
        await _tell(session, result("c2"))
        assert len(await session.read()) == 4

    async def test_system_messages_come_first_once_the_oldest_part_has_left(
        self, connect: Connect
    ) -> None:
        session = open_session(connect(limits={"maxMessages": 4}))
        await _tell(session, user("a"), user("b"), system("s"), user("c"))
        assert await session.read() == [user("a"), user("b"), system("s"), user("c")]
        await _tell(session, user("d"))
        assert await session.read() == [system("s"), user("b"), user("c"), user("d")]
        page = await session.read_page()
        assert [record.item for record in page.records] == [
            user("b"),
            system("s"),
            user("c"),
            user("d"),
        ]

    async def test_a_role_or_a_pin_given_with_the_append_protects(self, connect: Connect) -> None:
        session = open_session(connect(limits={"maxMessages": 3}))
        await session.append("be kind", role="system")
        await session.append(user("remember"), pin=True)
        for text in ("a", "b", "c"):
            await session.append(user(text))
        assert await session.read() == ["be kind", user("remember"), user("c")]
        page = await session.read_page()
        assert [record.pinned for record in page.records] == [True, True, False]

    async def test_a_record_may_be_told_its_group(self, connect: Connect) -> None:
        session = open_session(connect(limits={"maxMessages": 3}))
        seq, _ = await _tell(session, user("a"), user("b"))
        await session.append(assistant("belongs to a"), group=seq)
        await session.append(user("c"))
        assert await session.read() == [user("b"), user("c")]

    async def test_the_numbers_after_one_are_read(self, session: Session) -> None:
        seqs = await _tell(session, *(user(text) for text in "abcd"))
        assert await session.read(after=seqs[1]) == [user("c"), user("d")]
        assert await session.read(after=seqs[3]) == []

    async def test_a_limit_gives_exactly_what_is_stored(self, session: Session) -> None:
        messages = [user("a"), result("unknown"), call("c1"), user("b")]
        await _tell(session, *messages)
        for limit in (1, 2, 3, 4, 5):
            assert await session.read(limit=limit) == messages[-limit:]

    async def test_a_limit_counts_protected_records_too(self, session: Session) -> None:
        await _tell(session, system("s"), user("a"), system("t"), user("b"))
        assert await session.read(limit=2) == [system("t"), user("b")]

    async def test_who_changes_what_was_read_changes_nothing_that_is_stored(
        self, session: Session
    ) -> None:
        message = user("a")
        await session.append(message)
        message["content"] = "b"
        async with session.turn() as turn:
            for found in (
                await session.read(),
                await session.read(limit=1),
                await session.read(max_tokens=100),
                [record.item for record in (await session.read_page()).records],
                await turn.read(),
            ):
                assert found == [user("a")]
                found[0]["content"] = "c"
        assert await session.pop() == user("a")

    async def test_a_limit_and_a_budget_exclude_each_other(self, session: Session) -> None:
        with pytest.raises(ValueError, match="limit"):
            await session.read(limit=5, max_tokens=100)


@pytest.mark.asyncio
class TestReadBudget(SessionContract):
    """`read(max_tokens=)` takes whole groups and never cuts silently."""

    async def _converse(self, session: Session) -> None:
        await _tell(
            session,
            user("What is the weather like in Oslo and in Bergen?"),
            system("Answer in one sentence, and name your source."),
            call("c1", "c2"),
            result("c1", "rain " * 10),
            user("And tomorrow?"),
            result("c2", "sun " * 7),
            assistant("It rains in Oslo, and the sun shines in Bergen."),
            result("unknown", "nobody asked " * 5),
            call("c3"),
            user("never mind"),
            system("Be kind."),
            assistant("Of course."),
        )

    async def test_every_budget_gives_what_the_planning_says(
        self, session: Session, underneath: SessionStore
    ) -> None:
        await self._converse(session)
        records = presentable(await stored(underneath))
        total = sum(record.tokens for record in records)
        needed = fit_budget(records, 0, complete=True).needed
        for budget in range(needed, total + 10):
            fit = fit_budget(records, budget, complete=True)
            expected = order_for_model(fit.records, oldest_left=fit.cut)
            assert await session.read(max_tokens=budget) == [record.item for record in expected]
        assert await session.read(max_tokens=total) == await session.read()

    async def test_a_budget_too_small_says_what_would_do(self, session: Session) -> None:
        await self._converse(session)
        with pytest.raises(BudgetTooSmall) as refusal:
            await session.read(max_tokens=1)
        needed = refusal.value.needed
        least = await session.read(max_tokens=needed)
        assert [message["role"] for message in least] == ["system", "system", "assistant"]
        with pytest.raises(BudgetTooSmall):
            await session.read(max_tokens=needed - 1)

    async def test_a_large_answer_to_a_call_that_waits_hides_nothing_before_it(
        self, session: Session
    ) -> None:
        newer = [user(f"{number}") for number in range(31)]  # Redis reads 32 at a time
        await session.append_many([user("before"), call("c1", "c2"), result("c1", "rain " * 200)])
        await session.append_many(newer)
        assert await session.read(max_tokens=200) == [user("before"), *newer]

    async def test_a_budget_is_kept_in_a_long_session(self, session: Session) -> None:
        messages = [user(f"message {number}") for number in range(300)]
        await session.append_many([system("s"), *messages])
        tokens = {record.tokens for record in (await session.read_page(limit=1_000)).records[1:]}
        most, least = max(tokens), min(tokens)
        found = await session.read(max_tokens=20 * most)
        assert found[0] == system("s")
        assert found[1:] == messages[-len(found) + 1 :]
        assert 18 <= len(found) <= 20 * most // least


@pytest.mark.asyncio
class TestPages(SessionContract):
    """`read_page` shows exactly what is stored, a part at a time."""

    @pytest.mark.parametrize("limit", [1, 4, 10, 100])
    async def test_a_walk_gives_every_record_once(self, session: Session, limit: int) -> None:
        messages = [system("s") if number % 4 == 1 else user(f"{number}") for number in range(10)]
        await session.append_many(messages)
        found: list[Any] = []
        after: int | None = None
        while True:
            page = await session.read_page(after=after, limit=limit)
            assert page.total == 10
            assert len(page.records) <= limit
            assert not page.stale
            found += [record.item for record in page.records]
            if page.next is None:
                break
            assert page.next == page.records[-1].seq
            after = page.next
        assert found == messages

    async def test_a_walk_sees_what_is_appended_meanwhile(self, session: Session) -> None:
        await _tell(session, user("a"), user("b"), user("c"))
        page = await session.read_page(limit=2)
        await _tell(session, user("d"))
        rest = await session.read_page(after=page.next, limit=10)
        assert [record.item for record in (*page.records, *rest.records)] == [
            user(text) for text in "abcd"
        ]
        assert (rest.total, rest.next) == (4, None)

    @pytest.mark.parametrize("failure_mode", ["Strict", "ReadEmpty"])
    async def test_sequence_numbers_are_whole(self, connect: Connect, failure_mode: str) -> None:
        """What is none is refused before any store is asked: alike everywhere, and never as its outage."""
        session = open_session(connect(failureMode=failure_mode))
        await session.append(user("a"))
        before = await session.read_page()
        for odd in ("1", "x", 1.0, 1.5, True, -1, 2**31 + 1, 10**30, float("nan"), [1], b"1"):
            number: Any = odd
            for name in ("after", "limit", "max_tokens"):
                with pytest.raises(ConfigurationError, match=rf"^{name} is a whole number, 0\.\."):
                    await session.read(**{name: number})
            with pytest.raises(ConfigurationError, match=r"^after is a whole number, 0\.\."):
                await session.read_page(after=number)
            with pytest.raises(ConfigurationError, match=r"^limit is a whole number, 1\.\.1000"):
                await session.read_page(limit=number)
            with pytest.raises(ConfigurationError, match=r"^seq is a whole number, 0\.\."):
                await session.pin(number)
            with pytest.raises(ConfigurationError, match=r"^seq is a whole number, 0\.\."):
                await session.explain(seq=number)
            with pytest.raises(MessageInvalid, match=r"^group is .* a whole number, 1\.\."):
                await session.append(user("b"), group=number)
        assert await session.read_page() == before
        assert (before.total, before.stale) == (1, False)
        top = 2**31
        assert await session.read(limit=top) == await session.read(max_tokens=top) == [user("a")]
        assert (await session.read_page(after=top)).records == ()
        assert await session.read(after=top) == []
        with pytest.raises(RecordNotFound):
            await session.pin(top)

    async def test_a_record_tells_its_group(self, session: Session) -> None:
        await _tell(session, user("a"), call("c1"), user("aside"), result("c1"))
        records = (await session.read_page()).records
        assert [record.group for record in records] == [
            records[0].seq,
            records[1].seq,
            records[2].seq,
            records[1].seq,
        ]
