"""How callers that come at once share exchanges: by counting who shares them, never by the clock."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from holdfast.errors import StoreUnavailable
from holdfast.store.redis.lanes import Lanes
from holdfast.store.redis.polling import Polling

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
Loop = Callable[[], asyncio.AbstractEventLoop]


class Wire:
    """Exchanges under way, which end when the test says so.

    Attributes:
        sizes: callers of each exchange so far, in the order in which they were sent.
        under_way: those that nobody has answered yet.
        now: what the clock of the lanes says.
        looks: at another clock, which stands: how often the event loop turned for an answer.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.under_way: list[tuple[bytes, asyncio.Future[list[Any]]]] = []
        self.now = 0.0
        self.looks = 0
        self.lanes = Lanes(self._send, polling=Polling(self._look), clock=lambda: self.now)

    def _look(self) -> float:
        self.looks += 1
        return 100.0

    async def is_awake(self) -> bool:
        """Whether the loop turns for an answer."""
        before = self.looks
        await self.settle()
        return self.looks > before + 2

    async def _send(self, packed: bytes, count: int) -> list[Any]:
        self.sizes.append(count)
        future = asyncio.get_running_loop().create_future()
        self.under_way.append((packed, future))
        return await future

    def answer(self, at: int = 0) -> None:
        """Answer an exchange: to each command the command itself."""
        packed, future = self.under_way.pop(at)
        if not future.done():  # cancelled together with the only caller
            future.set_result(list(packed))

    def fail(self, error: BaseException) -> None:
        self.under_way.pop(0)[1].set_exception(error)

    async def settle(self) -> None:
        """Let everybody go on who can."""
        for _ in range(20):
            await asyncio.sleep(0)


class Crowd:
    """Callers that call again as soon as they are answered, `hops` turns of the loop later."""

    def __init__(self, wire: Wire, callers: int, hops: int = 0) -> None:
        self._wire, self._hops = wire, hops
        self.answered = [0] * callers
        self._tasks = [asyncio.create_task(self._call(at)) for at in range(callers)]

    async def _call(self, at: int) -> None:
        while True:
            assert await self._wire.lanes.exchange(bytes([at]), 1) == [at]
            self.answered[at] += 1
            for _ in range(self._hops):
                await asyncio.sleep(0)

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._wire.under_way:
            self._wire.answer()
            await self._wire.settle()
        await self._wire.lanes.aclose()


def run(loop: Loop, test: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(test)


async def one_by_one(wire: Wire) -> None:
    wire.answer()
    await wire.settle()


async def both_at_once(wire: Wire) -> None:
    while wire.under_way:
        wire.answer()
    await wire.settle()


async def the_newer_first(wire: Wire) -> None:
    wire.answer(-1)
    await wire.settle()


async def one_after_a_turn_of_the_loop(wire: Wire) -> None:
    for _ in range(len(wire.under_way)):
        wire.answer()
        await asyncio.sleep(0)
    await wire.settle()


ORDERS = [one_by_one, both_at_once, the_newer_first, one_after_a_turn_of_the_loop]


@pytest.mark.parametrize("loop", LOOPS)
class TestACrowd:
    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("callers", [16, 17, 64])
    def test_is_in_two_halves_in_whatever_order_replies_come(
        self, loop: Loop, order: Callable[[Wire], Awaitable[None]], callers: int
    ) -> None:
        async def test() -> None:
            wire = Wire()
            crowd = Crowd(wire, callers)
            await wire.settle()
            assert wire.sizes == [1, 1]  # there was no crowd yet
            for _ in range(60):
                await order(wire)
            half = callers // 2
            assert set(wire.sizes[6:]) <= {half, callers - half}
            waiting = sum(len(packed) for packed, _ in wire.under_way)
            assert sum(wire.sizes) == sum(crowd.answered) + waiting
            await crowd.leave()

        run(loop, test())

    @pytest.mark.parametrize("seed", range(5))
    def test_is_in_two_halves_after_disorder(self, loop: Loop, seed: int) -> None:
        async def test() -> None:
            chance = random.Random(seed)
            wire = Wire()
            crowd = Crowd(wire, 16)
            await wire.settle()
            for _ in range(100):
                await chance.choice([*ORDERS[:2], *ORDERS[3:]])(wire)
            assert set(wire.sizes[6:]) == {8}
            await crowd.leave()

        run(loop, test())

    @pytest.mark.parametrize("hops", [1, 2, 5])
    def test_stays_together_where_its_callers_come_back_later(self, loop: Loop, hops: int) -> None:
        """Sixteen in three parts: two are under way while one is on its way back."""

        async def test() -> None:
            wire = Wire()
            crowd = Crowd(wire, 16, hops)
            await wire.settle()
            for _ in range(100):
                await one_by_one(wire)
            later = wire.sizes[10:]
            assert len(later) * 4 <= sum(later)
            await crowd.leave()

        run(loop, test())

    def test_is_served_around_an_exchange_that_takes_long(self, loop: Loop) -> None:
        async def test() -> None:
            wire = Wire()
            crowd = Crowd(wire, 16)
            await wire.settle()
            await both_at_once(wire)
            stuck = wire.under_way[0][0]
            for _ in range(20):
                await the_newer_first(wire)
            waited = [crowd.answered[at] for at in range(16) if at not in stuck]
            assert min(waited) >= 8
            await crowd.leave()

        run(loop, test())

    def test_of_more_than_an_exchange_takes_is_served_in_order(self, loop: Loop) -> None:
        async def test() -> None:
            wire = Wire()
            crowd = Crowd(wire, 200)
            await wire.settle()
            for _ in range(40):
                await one_by_one(wire)
            assert set(wire.sizes[2:]) == {64}
            assert max(crowd.answered) - min(crowd.answered) <= 1
            await crowd.leave()

        run(loop, test())


@pytest.mark.parametrize("loop", LOOPS)
class TestFew:
    def test_call_at_once_and_without_a_task(self, loop: Loop) -> None:
        async def test() -> None:
            wire = Wire()
            crowd = Crowd(wire, 2)
            await wire.settle()
            tasks = len(asyncio.all_tasks())
            for _ in range(20):
                await one_by_one(wire)
                assert len(wire.under_way) == 2
                assert len(asyncio.all_tasks()) == tasks
            assert set(wire.sizes) == {1}
            await crowd.leave()

        run(loop, test())

    def test_are_looked_for_until_answered_and_a_crowd_is_not(self, loop: Loop) -> None:
        async def test() -> None:
            wire = Wire()
            alone = asyncio.create_task(wire.lanes.exchange(b"a", 1))
            assert await wire.is_awake()
            await one_by_one(wire)
            assert await alone == [97]
            assert not await wire.is_awake()
            crowd = Crowd(wire, 16)
            await wire.settle()
            for _ in range(20):
                await both_at_once(wire)
            assert not await wire.is_awake()
            await crowd.leave()
            for end in (
                RuntimeError("a fault"),
                StoreUnavailable("gone"),
                asyncio.CancelledError(),
            ):
                failing = asyncio.create_task(wire.lanes.exchange(b"a", 1))
                assert await wire.is_awake()
                wire.fail(end)
                await asyncio.gather(failing, return_exceptions=True)
                assert not await wire.is_awake()

        run(loop, test())

    def test_find_their_lanes_idle_after_a_crowd(self, loop: Loop) -> None:
        async def test() -> None:
            wire = Wire()
            crowd = Crowd(wire, 16)
            await wire.settle()
            for _ in range(5):
                await both_at_once(wire)
            await crowd.leave()
            alone = asyncio.create_task(wire.lanes.exchange(b"a", 1))
            await asyncio.sleep(0)
            assert len(wire.under_way) == 1
            wire.answer()
            assert await alone == [97]
            assert len(asyncio.all_tasks()) == 1

        run(loop, test())


@pytest.mark.parametrize("loop", LOOPS)
class TestFailures:
    def test_are_told_to_all_who_shared_and_to_nobody_else(self, loop: Loop) -> None:
        async def test() -> None:
            wire = Wire()
            calls = [asyncio.create_task(wire.lanes.exchange(bytes([at]), 1)) for at in range(7)]
            await wire.settle()
            await both_at_once(wire)
            assert wire.sizes == [1, 1, 3, 2]
            wire.fail(StoreUnavailable("gone"))
            await both_at_once(wire)
            told = await asyncio.gather(*calls, return_exceptions=True)
            errors = [one for one in told if isinstance(one, StoreUnavailable)]
            assert (
                len(errors) == len({id(one) for one in errors}) == 3
            )  # each will name its session
            assert [one for one in told if one not in errors] == [[0], [1], [5], [6]]

        run(loop, test())

    def test_of_a_silent_server_are_told_to_those_who_wait_too(self, loop: Loop) -> None:
        async def test() -> None:
            for seconds, told in ((0.9, {0}), (5.0, {0, *range(2, 300)})):
                wire = Wire()
                lanes = wire.lanes
                calls = [asyncio.create_task(lanes.exchange(b"a", 1)) for _ in range(300)]
                await wire.settle()
                assert wire.sizes == [1, 1]
                wire.now += seconds
                wire.fail(StoreUnavailable("silent"))
                await wire.settle()
                assert {at for at, call in enumerate(calls) if call.done()} == told
                while wire.under_way:
                    await one_by_one(wire)
                answers = await asyncio.gather(*calls, return_exceptions=True)
                refused = {at for at, one in enumerate(answers) if one != [97]}
                assert refused == told
                assert all(isinstance(answers[at], StoreUnavailable) for at in refused)
                assert await asyncio.gather(lanes.exchange(b"b", 1), self._answer(wire)) == [
                    [98],
                    None,
                ]

        run(loop, test())

    async def _answer(self, wire: Wire) -> None:
        await one_by_one(wire)

    def test_of_our_own_are_seen_and_end_no_lane(self, loop: Loop) -> None:
        async def test() -> None:
            wire = Wire()
            calls = [asyncio.create_task(wire.lanes.exchange(bytes([at]), 1)) for at in range(8)]
            await wire.settle()
            await one_by_one(wire)
            wire.under_way.pop(1)[1].set_exception(RuntimeError("a fault"))
            await wire.settle()
            while wire.under_way:
                await one_by_one(wire)
            told = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(one) for one in told} == {RuntimeError, list}

        run(loop, test())

    def test_a_cancelled_caller_leaves_the_others_alone(self, loop: Loop) -> None:
        async def test() -> None:
            wire = Wire()
            calls = [asyncio.create_task(wire.lanes.exchange(bytes([at]), 1)) for at in range(6)]
            await wire.settle()
            calls[5].cancel()  # waits
            calls[0].cancel()  # its exchange is under way, and its own
            await wire.settle()
            calls[2].cancel()  # shares one
            await wire.settle()
            while wire.under_way:
                await one_by_one(wire)
            told = await asyncio.gather(*calls, return_exceptions=True)
            assert [told[at] for at in (1, 3, 4)] == [[1], [3], [4]]
            assert all(isinstance(told[at], asyncio.CancelledError) for at in (0, 2, 5))
            assert sum(wire.sizes) == 5

        run(loop, test())

    def test_of_any_kind_pass_by_a_sharer_who_was_cancelled(self, loop: Loop) -> None:
        async def test() -> None:
            for fault in (StoreUnavailable("gone"), RuntimeError("a fault")):
                wire = Wire()
                calls = [
                    asyncio.create_task(wire.lanes.exchange(bytes([at]), 1)) for at in range(7)
                ]
                await wire.settle()
                await both_at_once(wire)
                calls[2].cancel()
                await wire.settle()
                wire.fail(fault)
                await both_at_once(wire)
                told = await asyncio.gather(*calls, return_exceptions=True)
                kinds = [type(one) for one in told[2:5]]
                assert kinds == [asyncio.CancelledError, type(fault), type(fault)]
                assert [one for one in told if isinstance(one, list)] == [[0], [1], [5], [6]]

        run(loop, test())

    def test_of_a_silent_server_pass_by_a_waiter_who_was_cancelled(self, loop: Loop) -> None:
        async def test() -> None:
            wire = Wire()
            calls = [asyncio.create_task(wire.lanes.exchange(b"a", 1)) for _ in range(4)]
            await wire.settle()
            calls[2].cancel()
            await wire.settle()
            wire.now += 5
            wire.fail(StoreUnavailable("silent"))
            await wire.settle()
            await one_by_one(wire)
            told = [type(one) for one in await asyncio.gather(*calls, return_exceptions=True)]
            assert told == [StoreUnavailable, list, asyncio.CancelledError, StoreUnavailable]

        run(loop, test())

    def test_of_the_loop_itself_keep_nobody_waiting(self, loop: Loop) -> None:
        """Whoever ends a loop cancels its tasks: those that serve others may be the first."""

        async def test() -> None:
            wire = Wire()
            calls = [asyncio.create_task(wire.lanes.exchange(b"a", 1)) for _ in range(200)]
            await wire.settle()
            await one_by_one(wire)  # a task serves a part of those who wait
            [pump] = asyncio.all_tasks() - {*calls} - {asyncio.current_task()}
            pump.cancel()
            await wire.settle()
            wire.answer()
            told = [type(one) for one in await asyncio.gather(*calls, return_exceptions=True)]
            assert told.count(list) == 2
            assert told.count(asyncio.CancelledError) == 198

        run(loop, test())
