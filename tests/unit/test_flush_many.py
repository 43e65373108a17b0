"""Many sessions that are due at once: a client flushes a few of them at a time."""

import asyncio
import time

import pytest

from holdfast.client import Client
from holdfast.session import Session
from holdfast.store.in_memory import InMemoryStore
from holdfast.summaries import SummaryRequest
from holdfast.testing.conformance.support import policy, user
from holdfast.testing.conformance.upkeep import HYBRID, LIMITS
from tests.harness.waiting import until

SESSIONS, AT_ONCE = 20, 8


class Crowd:
    """A summariser that writes when it may, and knows how many waited for it at the same time."""

    name = "crowd"

    def __init__(self) -> None:
        self.asked = 0
        self.most = 0
        self.may = asyncio.Event()
        self._now = 0

    async def summarize(self, request: SummaryRequest) -> str:
        self.asked += 1
        self._now += 1
        self.most = max(self.most, self._now)
        await self.may.wait()
        self._now -= 1
        return f"{len(request.messages)} of them"


async def rest(*, still: float = 0.0) -> None:
    """Return in the turn of the loop in which the last of what goes on in the background ends.

    Args:
        still: seconds for which the loop stands still between its turns, as on a busy machine: what flushes
            leave to threads is done by then, so that they all end in the same turn.
    """
    limit = time.monotonic() + 120
    while len(asyncio.all_tasks()) > 1:
        assert time.monotonic() < limit, "something still goes on in the background"
        await asyncio.sleep(0)
        time.sleep(still)  # noqa: ASYNC251 - standing still is what is wanted


async def is_flushed(session: Session) -> bool:
    return bool(await session.summaries())


@pytest.mark.asyncio
async def test_a_few_are_flushed_at_a_time_and_the_others_after_their_next_append() -> None:
    crowd = Crowd()
    made = policy(flushing=HYBRID, limits=LIMITS)
    client = Client(InMemoryStore(), namespace="team", policy=made, summarizer=crowd)
    sessions = [client.memory("support").session(f"s-{number}") for number in range(SESSIONS)]
    talk = [user(f"{number} some words of small talk") for number in range(80)]
    for session in sessions:
        await session.append_many(talk)
        assert (await session.health()).flush_due
    await until(lambda: crowd.asked >= AT_ONCE, "as many are flushed as may be")
    for session in sessions:
        await session.append(user("and on it goes"))
    assert (crowd.asked, crowd.most) == (AT_ONCE, AT_ONCE)

    crowd.may.set()
    await rest(still=0.05)
    flushed = [await is_flushed(session) for session in sessions]
    assert flushed.count(True) >= AT_ONCE
    for session in sessions:
        await session.append(user("and on it goes"))
        await rest()
        assert await is_flushed(session)
        assert not (await session.health()).flush_due
    assert crowd.most == AT_ONCE
    await client.aclose()
