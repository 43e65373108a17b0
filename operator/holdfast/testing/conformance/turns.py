"""Turns: one agent at a time answers, and who lost the turn writes nothing."""
# ruff: noqa: D102 - the name of a test is its sentence

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest

from holdfast.errors import LeaseLost, SessionBusy, TurnInterrupted
from holdfast.session import Session
from holdfast.store import SessionStore
from holdfast.testing.conformance.support import (
    Connect,
    SessionContract,
    assistant,
    open_session,
    terms,
    until,
    user,
)
from holdfast.turn import Turn

AT_ONCE = timedelta(0)
INTERRUPT = {"onBusy": "Interrupt"}


async def _seize(underneath: SessionStore) -> None:
    """End the turn that is held, as if its lease had run out."""
    status = await underneath.status()
    assert status.lease is not None
    await underneath.release(terms(), status.lease_token)


async def _waiting(session: Session, number: int) -> None:
    """Return when so many are in line."""

    async def reached() -> bool:
        return (await session.health()).waiting == number

    await until(reached)


class _BodyError(Exception):
    """What the body of a turn raises."""


@pytest.mark.asyncio
class TestTurn(SessionContract):
    """What holds between entering and leaving."""

    async def test_a_turn_reads_and_writes_like_its_session(self, session: Session) -> None:
        async with session.turn() as turn:
            await turn.append(user("a"))
            await turn.append_many([assistant("b"), user("c")])
            assert await turn.read() == [user("a"), assistant("b"), user("c")]
            await turn.pop()
            assert (await turn.read_page()).total == 2
        assert await session.read() == [user("a"), assistant("b")]

    async def test_the_turn_is_free_again_after_the_body(self, session: Session) -> None:
        for _ in range(3):
            async with session.turn(wait=AT_ONCE) as turn:
                await turn.append(user("again"))
        assert (await session.health()).lease is None

    async def test_everybody_sees_that_the_turn_is_held(self, session: Session) -> None:
        async with session.turn() as turn:
            lease = (await session.health()).lease
            assert lease is not None
            assert lease.fence == turn.fence
            assert lease.remaining > 0
            assert lease.holder

    async def test_who_does_not_wait_is_told_who_holds_the_turn(self, connect: Connect) -> None:
        mine, yours = (open_session(connect()) for _ in range(2))
        async with mine.turn():
            lease = (await mine.health()).lease
            with pytest.raises(SessionBusy) as refusal:
                async with yours.turn(wait=AT_ONCE):
                    pytest.fail("two held the turn")
            assert lease is not None
            assert refusal.value.holder == lease.holder
            assert refusal.value.remaining > 0
            assert isinstance(refusal.value, TimeoutError)
            assert (await mine.health()).waiting == 0

    async def test_who_waited_in_vain_leaves_the_line(self, session: Session) -> None:
        async with session.turn():
            with pytest.raises(SessionBusy):
                async with session.turn(wait="300ms"):
                    pytest.fail("two held the turn")
            assert (await session.health()).waiting == 0

    async def test_a_policy_may_tell_not_to_wait(self, connect: Connect) -> None:
        session = open_session(connect(locking={"onBusy": "Reject"}))
        async with session.turn(), asyncio.timeout(10):
            with pytest.raises(SessionBusy):
                async with session.turn():
                    pytest.fail("two held the turn")

    async def test_who_says_how_long_waits_whatever_the_policy_tells(
        self, connect: Connect
    ) -> None:
        session = open_session(connect(locking={"onBusy": "Reject"}))

        async def patient() -> list[Any]:
            async with session.turn(wait="1m") as turn:
                return list(await turn.read())

        async with session.turn() as turn:
            waiting = asyncio.create_task(patient())
            await _waiting(session, 1)
            await turn.append(user("before"))
        async with asyncio.timeout(20):
            assert await waiting == [user("before")]

    async def test_eight_waiters_are_served_in_order(self, connect: Connect) -> None:
        order: list[int] = []

        async def waiter(number: int) -> None:
            async with open_session(connect()).turn(wait="1m"):
                order.append(number)

        session = open_session(connect())
        tasks: list[asyncio.Task[None]] = []
        async with session.turn():
            for number in range(8):
                tasks.append(asyncio.create_task(waiter(number)))
                await _waiting(session, number + 1)
            assert order == []
        async with asyncio.timeout(20):
            await asyncio.gather(*tasks)
        assert order == list(range(8))
        health = await session.health()
        assert (health.waiting, health.lease) == (0, None)

    async def test_what_a_turn_reads_is_what_it_writes_after(self, connect: Connect) -> None:
        async def count() -> None:
            for _ in range(5):
                async with open_session(connect()).turn(wait="1m") as turn:
                    numbers = await turn.read()
                    await asyncio.sleep(0)
                    await turn.append(len(numbers))

        async with asyncio.timeout(60):
            await asyncio.gather(*(count() for _ in range(6)))
        assert await open_session(connect()).read() == list(range(30))

    async def test_the_fence_grows_from_turn_to_turn(self, session: Session) -> None:
        fences: list[int] = []
        for number in range(4):
            async with session.turn() as turn:
                fences.append(turn.fence)
            if number == 1:
                await session.clear()
        assert fences == sorted(set(fences))

    async def test_the_error_of_the_body_comes_out_and_the_turn_is_free(
        self, session: Session
    ) -> None:
        async def body() -> None:
            async with session.turn() as turn:
                await turn.append(user("kept"))
                raise _BodyError

        with pytest.raises(_BodyError):
            await body()
        assert (await session.health()).lease is None
        assert await session.read() == [user("kept")]

    async def test_a_lost_turn_does_not_mask_the_error_of_the_body(
        self, session: Session, underneath: SessionStore
    ) -> None:
        async def body() -> None:
            async with session.turn():
                await _seize(underneath)
                raise _BodyError

        with pytest.raises(_BodyError):
            await body()

    async def test_a_turn_that_was_left_writes_nothing(self, session: Session) -> None:
        async with session.turn() as turn:
            await turn.append(user("in time"))
        with pytest.raises(LeaseLost):
            await turn.append(user("late"))
        assert await session.read() == [user("in time")]

    async def test_check_tells_whether_the_turn_is_still_held(
        self, session: Session, underneath: SessionStore
    ) -> None:
        async with session.turn() as turn:
            await turn.check()
            await _seize(underneath)
            with pytest.raises(LeaseLost):
                await turn.check()

    async def test_a_lost_turn_writes_nothing_and_its_successor_goes_on(
        self, connect: Connect, underneath: SessionStore
    ) -> None:
        old, new = (open_session(connect()) for _ in range(2))
        async with old.turn() as lost:
            await lost.append(user("before"))
            await _seize(underneath)
            async with new.turn(wait=AT_ONCE) as turn:
                await turn.append(assistant("successor"))
                for attempt in (
                    lost.append(user("late")),
                    lost.append_many([user("late"), user("later")]),
                    lost.pop(),
                    lost.clear(),
                ):
                    with pytest.raises(LeaseLost):
                        await attempt
                async with asyncio.timeout(5):
                    await lost.lost
                await turn.append(assistant("still mine"))
                assert turn.fence > lost.fence
        assert await new.read() == [
            user("before"),
            assistant("successor"),
            assistant("still mine"),
        ]

    async def test_leaving_a_lost_turn_leaves_the_successor_alone(
        self, connect: Connect, underneath: SessionStore
    ) -> None:
        old, new = (open_session(connect()) for _ in range(2))
        async with AsyncExitStack() as stack:

            async def lose() -> Turn:
                async with old.turn():
                    await _seize(underneath)
                    return await stack.enter_async_context(new.turn(wait=AT_ONCE))

            turn = await lose()
            await turn.append(user("mine"))
        assert await new.read() == [user("mine")]

    async def test_an_interrupted_turn_is_told_by_its_next_call(self, connect: Connect) -> None:
        old, new = (open_session(connect(locking=INTERRUPT)) for _ in range(2))
        async with old.turn() as lost:
            await lost.append(user("before"))
            async with new.turn(wait=AT_ONCE) as turn:
                assert turn.fence > lost.fence
                with pytest.raises(TurnInterrupted):
                    await lost.append(user("late"))
                assert lost.lost
                async with asyncio.timeout(5):
                    await lost.interrupted
                for attempt in (lost.read(), lost.pop(), lost.check()):
                    with pytest.raises(TurnInterrupted):
                        await attempt
                await turn.append(assistant("after"))
                assert not turn.interrupted
        assert await new.read() == [user("before"), assistant("after")]
        assert (await new.health()).lease is None

    @pytest.mark.parametrize("name", ["read", "read_page", "check", "clear"])
    async def test_whatever_an_interrupted_turn_calls_first(
        self, connect: Connect, name: str
    ) -> None:
        old, new = (open_session(connect(locking=INTERRUPT)) for _ in range(2))
        async with old.turn() as lost:
            await lost.append(user("before"))
            async with new.turn() as turn:
                with pytest.raises(TurnInterrupted):
                    await getattr(lost, name)()
                assert lost.interrupted
                await turn.append(user("after"))
        assert await new.length() == 2

    async def test_an_interrupted_body_is_cancelled_where_it_asked_for_that(
        self, connect: Connect
    ) -> None:
        old, new = (open_session(connect(locking=INTERRUPT)) for _ in range(2))
        entered = asyncio.Event()

        async def body() -> None:
            async with old.turn(on_interrupt="cancel"):
                entered.set()
                await asyncio.Event().wait()

        async def outer() -> str:
            with pytest.raises(TurnInterrupted) as refusal:
                await body()
            await asyncio.sleep(0)
            return str(refusal.value)

        task = asyncio.create_task(outer())
        async with asyncio.timeout(20):
            await entered.wait()
            async with new.turn() as turn:
                assert "any%20id" in await task
                assert task.cancelling() == 0
                await turn.append(user("mine"))

    async def test_a_cancellation_by_somebody_else_goes_on(self, connect: Connect) -> None:
        old, new = (open_session(connect(locking=INTERRUPT)) for _ in range(2))
        entered = asyncio.Event()

        async def body() -> None:
            async with old.turn(on_interrupt="cancel") as turn:
                entered.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    assert turn.interrupted
                    await asyncio.Event().wait()

        task = asyncio.create_task(body())
        async with asyncio.timeout(20):
            await entered.wait()
            async with new.turn():

                async def interrupted() -> bool:
                    return task.cancelling() == 1

                await until(interrupted)
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

    async def test_the_error_of_an_interrupted_body_comes_out(self, connect: Connect) -> None:
        old, new = (open_session(connect(locking=INTERRUPT)) for _ in range(2))
        entered = asyncio.Event()

        async def body() -> None:
            async with old.turn(on_interrupt="cancel"):
                entered.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    raise _BodyError from None

        task = asyncio.create_task(body())
        async with asyncio.timeout(20):
            await entered.wait()
            async with new.turn():
                with pytest.raises(_BodyError):
                    await task


@pytest.mark.asyncio
class TestTurnCancelled(SessionContract):
    """Whoever is cancelled leaves no trace."""

    async def test_a_cancelled_waiter_leaves_the_line(self, session: Session) -> None:
        async def waiter() -> None:
            async with session.turn(wait="1m"):
                pytest.fail("it was cancelled before")

        async with session.turn():
            task = asyncio.create_task(waiter())
            await _waiting(session, 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await _waiting(session, 0)
        async with session.turn(wait=AT_ONCE):
            pass

    async def test_a_cancelled_holder_frees_the_turn(self, session: Session) -> None:
        entered = asyncio.Event()

        async def holder() -> None:
            async with session.turn() as turn:
                await turn.append(user("kept"))
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(holder())
        async with asyncio.timeout(20):
            await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await session.health()).lease is None
        assert await session.read() == [user("kept")]

    @pytest.mark.parametrize("steps", range(6))
    async def test_a_waiter_cancelled_at_the_hand_over_passes_the_turn_on(
        self, connect: Connect, steps: int
    ) -> None:
        session = open_session(connect())

        async def waiter() -> None:
            async with open_session(connect()).turn(wait="1m"):
                await asyncio.sleep(0)

        async with session.turn():
            first = asyncio.create_task(waiter())
            await _waiting(session, 1)
            second = asyncio.create_task(waiter())
            await _waiting(session, 2)
        for _ in range(2**steps):
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        async with asyncio.timeout(20):
            await second

        async def free() -> bool:
            health = await session.health()
            return health.lease is None and health.waiting == 0

        await until(free)

    @pytest.mark.parametrize("steps", range(6))
    async def test_who_is_cancelled_while_entering_holds_nothing(
        self, connect: Connect, steps: int
    ) -> None:
        session = open_session(connect())

        async def enter() -> None:
            async with session.turn(wait=AT_ONCE):
                await asyncio.sleep(0)

        task = asyncio.create_task(enter())
        for _ in range(2**steps - 1):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        async def free() -> bool:
            return (await session.health()).lease is None

        await until(free)
