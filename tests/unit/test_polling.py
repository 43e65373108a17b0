"""When an event loop is kept awake for an answer: by counting its turns, under a clock of the test."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from holdfast.store.redis.polling import Polling

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
Loop = Callable[[], asyncio.AbstractEventLoop]

SOON, LATE = 0.000249, 0.000251  # seconds after the question, on both sides of what is near


class Asked:
    """Questions, and how often the loop turned for their answers.

    Attributes:
        now: what the clock says.
        looks: at the clock, one in each turn, and one as somebody asks or is answered.
    """

    def __init__(self) -> None:
        self.now = 100.0
        self.looks = 0
        self.polling = Polling(self._clock)

    def _clock(self) -> float:
        self.looks += 1
        return self.now

    def ask(self) -> float:
        return self.polling.begin()

    async def turns(self, count: int) -> int:
        """Let the loop turn, and return in how many of the turns somebody looked."""
        before = self.looks
        for _ in range(count):
            await asyncio.sleep(0)
        return self.looks - before

    async def answered(self, after: float) -> bool:
        """Ask, be answered so many seconds later, and return whether the loop was awake until then."""
        until = self.ask()
        awake = await self.turns(3) > 0
        self.now += after
        await self.turns(2)
        self.polling.end(until)
        await self.turns(2)
        return awake

    async def skipped(self, after: float) -> int:
        """Ask until the loop is awake for it, and return how often it was not."""
        count = 0
        while not await self.answered(after):
            count += 1
        return count


def run(loop: Loop, test: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(test)


@pytest.mark.parametrize("loop", LOOPS)
class TestTheLoop:
    def test_is_awake_until_the_answer_is_there(self, loop: Loop) -> None:
        async def test() -> None:
            asked = Asked()
            until = asked.ask()
            assert await asked.turns(50) >= 49
            asked.now += SOON
            assert await asked.turns(50) >= 49
            asked.polling.end(until)
            assert await asked.turns(50) <= 1
            assert await asked.turns(50) == 0

        run(loop, test())

    def test_goes_to_sleep_when_the_answer_should_have_been_there(self, loop: Loop) -> None:
        async def test() -> None:
            asked = Asked()
            until = asked.ask()
            await asked.turns(5)
            asked.now += LATE
            assert await asked.turns(50) == 1
            asked.polling.end(until)
            assert await asked.turns(50) == 0

        run(loop, test())

    def test_turns_once_for_a_caller_who_asks_again_and_again(self, loop: Loop) -> None:
        """A turn that is left over from the last answer serves the next question too."""

        async def test() -> None:
            asked = Asked()
            for _ in range(20):
                asked.polling.end(asked.ask())
            until = asked.ask()
            assert 49 <= await asked.turns(50) <= 51
            asked.polling.end(until)
            await asked.turns(2)

        run(loop, test())

    def test_gives_others_their_turns(self, loop: Loop) -> None:
        async def test() -> None:
            asked, heard = Asked(), asyncio.Event()
            until = asked.ask()
            asyncio.get_running_loop().call_later(0.001, heard.set)
            # The clock of the test stands, so it looks all along.
            await asyncio.wait_for(heard.wait(), 10)
            assert await asked.turns(50) >= 49
            asked.polling.end(until)

        run(loop, test())


@pytest.mark.parametrize("loop", LOOPS)
class TestTwoCallers:
    def test_are_looked_for_until_the_later_one_is_answered(self, loop: Loop) -> None:
        async def test() -> None:
            asked = Asked()
            first = asked.ask()
            asked.now += SOON / 2
            second = asked.ask()
            asked.polling.end(first)
            assert await asked.turns(50) >= 49
            asked.now += SOON / 2 + LATE - SOON  # the first would be late by now
            assert await asked.turns(50) >= 49
            asked.polling.end(second)
            assert await asked.turns(50) <= 1

        run(loop, test())

    @pytest.mark.parametrize("apart", [0.0001, 0.0002, 0.0003])
    def test_do_not_take_a_late_answer_for_one_in_time(self, loop: Loop, apart: float) -> None:
        """Each is answered after 0.4 ms, while the other's answer would still be in time, or is late."""

        async def test() -> None:
            asked, looked = Asked(), 0
            under_way = [asked.ask()]
            for _ in range(400):
                asked.now += apart
                await asked.turns(2)
                under_way.append(asked.ask())
                looked += under_way[-1] > 0
                asked.now += 0.0004 - apart
                await asked.turns(2)
                asked.polling.end(under_way.pop(0))
            assert looked <= 20

        run(loop, test())


@pytest.mark.parametrize("loop", LOOPS)
class TestAServerFarAway:
    def test_is_looked_for_ever_less_often(self, loop: Loop) -> None:
        async def test() -> None:
            asked = Asked()
            assert [await asked.skipped(LATE) for _ in range(12)] == [
                0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256,
            ]  # fmt: skip

        run(loop, test())

    def test_that_answers_in_time_is_near_from_then_on(self, loop: Loop) -> None:
        async def test() -> None:
            asked = Asked()
            for _ in range(5):
                await asked.skipped(LATE)
            assert await asked.skipped(SOON) == 16
            assert await asked.skipped(SOON) == 0
            assert [await asked.skipped(LATE) for _ in range(3)] == [0, 8, 16]
            assert [await asked.skipped(SOON) for _ in range(6)] == [32, 0, 0, 0, 0, 0]
            assert [await asked.skipped(LATE) for _ in range(3)] == [0, 1, 2]

        run(loop, test())
