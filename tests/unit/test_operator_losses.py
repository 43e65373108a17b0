"""A server that ended a connection is looked at soon, and not for ever."""

import asyncio

import pytest

from holdfast_operator.handlers.losses import PAUSE, Losses
from holdfast_operator.handlers.wakers import Wakers
from holdfast_operator.storage.mirror import Key, Kind, Mirror

SHARED = Key(Kind.BACKEND, "platform", "shared")
OTHER = Key(Kind.BACKEND, "platform", "other")
SUPPORT = Key(Kind.RESOURCE, "team", "support")


class Scene:
    """Two backends and a memory, and a clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wakers = Wakers()
        mirror = Mirror()
        for version, (key, uid) in enumerate({SHARED: "u-1", OTHER: "u-2", SUPPORT: "u-3"}.items()):
            mirror.put(key, {"metadata": {"uid": uid, "resourceVersion": str(version)}})
            self.wakers.expect(key)
        self.losses = Losses(mirror, self.wakers, clock=lambda: self.now)

    async def woken(self) -> list[Key]:
        """Return for whom the bell rang since the last question."""
        rung: list[Key] = []
        for key in (SHARED, OTHER, SUPPORT):
            waits = asyncio.create_task(self.wakers.wait(key, 3600))
            for _ in range(3):
                await asyncio.sleep(0)
            if waits.done():
                rung.append(key)
            waits.cancel()
        return rung


@pytest.mark.asyncio
async def test_the_backend_is_woken_and_nothing_else() -> None:
    scene = Scene()
    scene.losses.lost("u-2")
    assert await scene.woken() == [OTHER]
    for nobody in ("u-3", "gone"):
        scene.losses.lost(nobody)
    assert await scene.woken() == []


@pytest.mark.asyncio
async def test_one_that_ends_every_connection_is_not_looked_at_all_the_time() -> None:
    scene = Scene()
    looks = 0
    for _ in range(1000):  # every look at it makes a connection, which it ends after 0.1 s
        scene.losses.lost("u-1")
        looks += len(await scene.woken())
        scene.now += 0.1
    assert looks == pytest.approx(1000 * 0.1 / PAUSE, abs=1)
    scene.losses.lost("u-2")
    assert await scene.woken() == [OTHER]
