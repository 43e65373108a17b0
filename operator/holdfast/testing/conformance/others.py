"""What others may do while somebody holds the turn, and what they see."""
# ruff: noqa: D102 - the name of a test is its sentence

from datetime import timedelta

import pytest

from holdfast.errors import LeaseLost, SessionBusy
from holdfast.session import Session
from holdfast.testing.conformance.support import (
    Connect,
    SessionContract,
    assistant,
    call,
    open_session,
    result,
    user,
)

ENFORCED = {"mode": "Enforced"}


@pytest.mark.asyncio
class TestTurnAndOthers(SessionContract):
    """What others may do while somebody holds the turn, and what they see."""

    async def test_a_turn_that_was_not_entered_says_so_and_writes_nothing(
        self, session: Session
    ) -> None:
        await session.append(user("kept"))
        turn = session.turn()
        for attempt in (
            turn.append(user("late")),
            turn.append_many([user("late")]),
            turn.replace([]),
            turn.pin(1),
            turn.pop(),
            turn.clear(),
            turn.read(),
            turn.read_page(),
            turn.length(),
            turn.health(),
            turn.check(),
        ):
            with pytest.raises(LeaseLost, match="the turn was not entered"):
                await attempt
        assert not turn.lost
        async with session.turn():
            refused = session.turn(wait=timedelta(0))
            with pytest.raises(SessionBusy):
                await refused.__aenter__()
            with pytest.raises(LeaseLost, match="the turn was not entered"):
                await refused.append(user("late"))
        async with turn:
            await turn.append(user("now"))
        assert await session.read() == [user("kept"), user("now")]

    async def test_an_advisory_turn_lets_others_append(self, connect: Connect) -> None:
        mine, yours = (open_session(connect()) for _ in range(2))
        async with mine.turn() as turn:
            await yours.append(user("aside"))
            await turn.append(assistant("answer"))
        assert await yours.read() == [user("aside"), assistant("answer")]

    async def test_an_advisory_turn_ends_when_somebody_else_clears(self, connect: Connect) -> None:
        mine, yours = (open_session(connect()) for _ in range(2))
        async with mine.turn() as turn:
            await turn.append(user("gone"))
            await yours.clear()
            with pytest.raises(LeaseLost):
                await turn.append(user("late"))
        async with yours.turn(wait="20s") as turn:
            await turn.append(user("new"))
        assert await mine.read() == [user("new")]

    async def test_the_holder_clears_and_goes_on(self, session: Session) -> None:
        await session.append(user("old"))
        async with session.turn() as turn:
            await turn.clear()
            await turn.append(user("new"))
            assert await turn.read() == [user("new")]
        assert await session.read() == [user("new")]

    async def test_an_enforced_turn_refuses_the_writes_of_others(self, connect: Connect) -> None:
        mine, yours = (open_session(connect(locking=ENFORCED)) for _ in range(2))
        async with mine.turn() as turn:
            seq = (await turn.append(user("mine"))).seq
            for attempt in (
                yours.append(user("aside")),
                yours.append_many([user("aside")]),
                yours.pin(seq),
                yours.pop(),
                yours.clear(),
            ):
                with pytest.raises(SessionBusy):
                    await attempt
            assert await yours.read() == [user("mine")]
        await yours.append(user("now"))
        assert await mine.read() == [user("mine"), user("now")]

    async def test_an_enforced_turn_is_cleared_by_force(self, connect: Connect) -> None:
        mine, yours = (open_session(connect(locking=ENFORCED)) for _ in range(2))
        async with mine.turn() as turn:
            await turn.append(user("gone"))
            await yours.clear(force=True)
            with pytest.raises(LeaseLost):
                await turn.append(user("late"))
        assert await mine.read() == []

    async def test_an_open_call_is_seen_by_the_turn_that_made_it_and_not_by_others(
        self, connect: Connect
    ) -> None:
        mine, yours = (open_session(connect()) for _ in range(2))
        async with mine.turn() as turn:
            await turn.append(user("a"))
            await turn.append(call("c1"))
            assert await turn.read() == [user("a"), call("c1")]
            assert await yours.read() == [user("a")]
            assert await yours.read(max_tokens=1_000) == [user("a")]
        assert await yours.read() == [user("a"), call("c1")]

    async def test_a_turn_sees_its_open_call_behind_other_messages(self, connect: Connect) -> None:
        mine, yours = (open_session(connect()) for _ in range(2))
        async with mine.turn() as turn:
            await turn.append(call("c1"))
            await yours.append(user("aside"))
            assert await turn.read() == [call("c1"), user("aside")]
            assert await turn.read(max_tokens=1_000) == [call("c1"), user("aside")]
            assert await yours.read() == [user("aside")]
            await turn.append(result("c1"))
            assert await yours.read() == [call("c1"), user("aside"), result("c1")]

    async def test_a_turn_sees_the_open_call_it_added_to_a_group(self, connect: Connect) -> None:
        mine, yours = (open_session(connect()) for _ in range(2))
        async with mine.turn() as turn:
            seq = (await turn.append(assistant("let me see"))).seq
            await turn.append(call("c1"), group=seq)
            await yours.append(user("aside"))
            assert await turn.read() == [assistant("let me see"), call("c1"), user("aside")]
            assert await yours.read() == [user("aside")]

    async def test_what_is_left_out_is_counted_for_the_reader(self, connect: Connect) -> None:
        mine, yours = (open_session(connect()) for _ in range(2))
        async with mine.turn() as turn:
            await turn.append(user("a"))
            await turn.append(call("c1"))
            for reader in (turn, yours):
                page = await reader.read_page()
                assert page.total == 2
                assert page.omitted == 2 - len(await reader.read())
