"""A flush that failed in the background is tried again: later each time, and soon after a success."""

import asyncio
from types import SimpleNamespace

import pytest

from holdfast.client import Client
from holdfast.store.in_memory import InMemoryStore
from holdfast.testing.conformance.support import open_session, policy, user
from holdfast.testing.conformance.upkeep import HYBRID, LIMITS, Author, converse
from tests.harness.waiting import until


class Scene:
    """A session above its threshold, whose summariser fails, and the time as the flusher sees it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.author = Author(RuntimeError("down"))
        made = policy(flushing=HYBRID, limits=LIMITS)
        self.client = Client(InMemoryStore(), namespace="team", policy=made, summarizer=self.author)
        self.session = open_session(self.client)
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr("holdfast.flushing.time", clock)

    async def asked(self, *, after: float) -> int:
        """Return how often the summariser was asked, so many seconds later and with one more message."""
        self.now += after
        before = len(self.author.requests)
        await self.session.append(user("and on it goes"))
        await self.rest()
        return len(self.author.requests) - before

    async def rest(self) -> None:
        """Return when nothing goes on in the background: what failed is noted as of now."""
        await until(lambda: len(asyncio.all_tasks()) == 1, "nothing goes on in the background")


@pytest.mark.asyncio
async def test_later_each_time_and_soon_after_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    await converse(scene.session, 780)
    await scene.session.append(user("much at once " * 20))
    await scene.rest()
    assert len(scene.author.requests) == 1
    for pause in (5, 10, 20, 40, 80, 160, 320, 600, 600):
        assert await scene.asked(after=pause - 0.5) == 0
        assert await scene.asked(after=1) == 1
    assert await scene.session.summaries() == []

    scene.author.text = "at last"
    assert await scene.asked(after=601) == 1
    assert len(await scene.session.summaries()) == 1

    scene.author.text = RuntimeError("down again")
    await converse(scene.session, 780)
    await scene.session.append(user("much at once " * 20))
    await scene.rest()
    assert await scene.asked(after=4.5) == 0
    assert await scene.asked(after=1) == 1
    await scene.client.aclose()
