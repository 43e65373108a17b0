"""The time-outs of exchanges: what `asyncio.timeout` does, with one timer for all."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

from holdfast.store.redis.alarm import Alarm

SOON, LATE = 0.02, 30.0  # seconds


@asynccontextmanager
async def limited(alarm: Alarm | None, seconds: float) -> AsyncGenerator[None]:
    """Limit a block by an alarm, or as the standard library does."""
    if alarm is None:
        async with asyncio.timeout(seconds):
            yield
    else:
        with alarm.after(seconds):
            yield


pytestmark = pytest.mark.parametrize("make", [Alarm, lambda: None], ids=["alarm", "asyncio"])
Make = Callable[[], Alarm | None]


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


@pytest.mark.asyncio
async def test_what_is_in_time_goes_on(make: Make) -> None:
    alarm = make()
    for _ in range(3):
        async with limited(alarm, LATE):
            await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_what_takes_too_long_is_ended(make: Make) -> None:
    alarm = make()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with limited(alarm, SOON):
                await forever()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0, "what comes after would be cancelled"
    await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_each_has_its_own_time(make: Make) -> None:
    alarm = make()
    ended: list[float] = []

    async def within(seconds: float) -> None:
        try:
            async with limited(alarm, seconds):
                await forever()
        except TimeoutError:
            ended.append(seconds)

    patient = asyncio.create_task(
        within(LATE)
    )  # first, so that others must bring the timer forward
    await asyncio.gather(*(within(SOON * times) for times in (4, 1, 3, 2, 1)))
    assert ended == sorted(ended)
    assert len(ended) == 5
    assert not patient.done()
    patient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await patient


@pytest.mark.asyncio
async def test_who_is_cancelled_by_others_stays_cancelled(make: Make) -> None:
    alarm = make()

    async def within(seconds: float) -> None:
        async with limited(alarm, seconds):
            await forever()

    for seconds in (LATE, SOON):
        task = asyncio.create_task(within(seconds))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.asyncio
async def test_both_at_once_is_a_cancellation(make: Make) -> None:
    alarm = make()
    reached = asyncio.Event()

    async def within() -> None:
        async with limited(alarm, SOON):
            try:
                await forever()
            except asyncio.CancelledError:
                reached.set()
                await forever()  # cleans up, and is cancelled meanwhile

    task = asyncio.create_task(within())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.asyncio
async def test_an_error_within_is_raised_as_it_is(make: Make) -> None:
    with pytest.raises(KeyError):
        async with limited(make(), LATE):
            raise KeyError


@pytest.mark.asyncio
@pytest.mark.parametrize(("outer", "inner"), [(SOON, LATE), (LATE, SOON)])
async def test_a_limit_within_a_limit(make: Make, outer: float, inner: float) -> None:
    alarm = make()

    async def within() -> None:
        try:
            async with limited(alarm, inner):
                await forever()
        except TimeoutError:
            assert inner == SOON
            raise

    with pytest.raises(TimeoutError):
        async with limited(alarm, outer):
            await within()


def test_a_second_loop_begins_anew(make: Make) -> None:
    alarm = make()

    async def too_long() -> None:
        async with limited(alarm, SOON):
            await forever()

    async def in_time() -> None:
        async with limited(alarm, LATE):
            await asyncio.sleep(0)

    asyncio.run(in_time())  # leaves a timer behind, whose loop has ended
    with pytest.raises(TimeoutError):
        asyncio.run(too_long())
