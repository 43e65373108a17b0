"""First looks at objects: an operator that starts finds a thousand, and holds few of them at a time."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import kopf
import pytest

from holdfast_operator.handlers.first_looks import PLACES, FirstLooks
from holdfast_operator.handlers.keeper import Keeper, Services
from holdfast_operator.handlers.settings import FINALIZER
from holdfast_operator.handlers.wakers import Wakers
from holdfast_operator.services.outcome import Outcome
from holdfast_operator.services.ports import Body
from holdfast_operator.storage.mirror import Key, Kind, Mirror
from tests.harness.waiting import until

pytestmark = pytest.mark.asyncio

KEYS = [Key(Kind.RESOURCE, "team", f"memory-{number}") for number in range(4 * PLACES)]


class Looks:
    """What a service is asked, and answers only when it is let."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.under_way = 0
        self.answer = asyncio.Event()

    async def look(self, body: Body) -> Outcome:
        self.begun.append(body["metadata"]["name"])
        self.under_way += 1
        await self.answer.wait()
        self.under_way -= 1
        return Outcome()


def body(name: str) -> dict[str, Any]:
    names = {"namespace": "team", "name": name, "uid": name}
    return {"metadata": names | {"resourceVersion": "1", "finalizers": [FINALIZER]}}


@contextlib.asynccontextmanager
async def kept(looks: Looks, wakers: Wakers, longest: float) -> AsyncGenerator[None]:
    """Keep all objects, as an operator that starts does."""
    mirror = Mirror()
    nobody: Any = None
    services = {Kind.RESOURCE: Services(looks.look, looks.look)}
    first = FirstLooks(longest=longest)
    keeper = Keeper(services, mirror, wakers, nobody, interval=3600, first_looks=first)
    never: Any = False
    for key in KEYS:
        mirror.put(key, body(key.name))
    tasks = [
        asyncio.create_task(keeper.keep(key, kopf.Body(body(key.name)), never)) for key in KEYS
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def settle() -> None:
    """Let everything go on that can without time."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_few_objects_at_a_time_have_their_first_look_and_all_of_them_have_one():
    looks, wakers = Looks(), Wakers()
    async with kept(looks, wakers, longest=3600):
        await settle()
        assert looks.under_way == len(looks.begun) == PLACES
        looks.answer.set()
        await until(lambda: len(set(looks.begun)) == len(KEYS), "every object had its look")
        await until(lambda: looks.under_way == 0, "all are at rest")
        # Later looks take no place: whatever waits for a backend hears at once that it is Ready.
        looks.answer.clear()
        wakers.wake_all(KEYS)
        await settle()
        assert looks.under_way == len(KEYS)


async def test_a_look_that_takes_long_gives_its_place_to_the_next():
    looks = Looks()
    async with kept(looks, Wakers(), longest=0.01):
        await until(lambda: looks.under_way == len(KEYS), "who waits for a server holds up nobody")


async def test_a_place_is_given_back_once_whatever_happened_in_it():
    looks, inside = FirstLooks(places=1, longest=3600), 0
    with pytest.raises(ZeroDivisionError):
        async with looks.place():
            raise ZeroDivisionError
    async with looks.place():
        pass

    async def hold() -> None:
        nonlocal inside
        async with looks.place():
            inside += 1
            await asyncio.Event().wait()

    holding = [asyncio.create_task(hold()) for _ in range(3)]
    await settle()
    assert inside == 1
    for task in holding:
        task.cancel()
    await asyncio.gather(*holding, return_exceptions=True)
