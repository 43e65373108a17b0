"""Two flushes of a session: the second looks at what the first has left."""

import asyncio
from collections.abc import Collection

import pytest

from holdfast.client import Client
from holdfast.errors import SessionBusy
from holdfast.store.in_memory import InMemorySession, InMemoryStore
from holdfast.testing.conformance.support import open_session, policy
from holdfast.testing.conformance.upkeep import HYBRID, LIMITS, Author, talk
from holdfast.values import MemoryAddress
from tests.harness.waiting import until


class SlowToClaim(InMemoryStore):
    """A store that is long about the first claim of a flusher."""

    def __init__(self) -> None:
        super().__init__()
        self.come, self.go = asyncio.Event(), asyncio.Event()

    def session(
        self, memory: MemoryAddress, key: str, labels: Collection[str] = ()
    ) -> InMemorySession:
        handle = super().session(memory, key, labels)
        claim = handle.claim_flush

        async def slowly(token: str, milliseconds: int) -> bool:
            if not self.come.is_set():
                self.come.set()
                await self.go.wait()
            return await claim(token, milliseconds)

        handle.claim_flush = slowly
        return handle


@pytest.mark.asyncio
async def test_nothing_is_summarised_twice() -> None:
    store = SlowToClaim()
    author = Author("small talk")
    made = policy(flushing=HYBRID | {"thresholdPercent": 100}, limits=LIMITS)
    client = Client(store, namespace="team", policy=made, summarizer=author)
    session = open_session(client)
    await talk(session, 55)
    second = asyncio.create_task(open_session(client).flush())
    await until(store.come.is_set, "the second flush has come to its claim")
    assert (await session.flush()).summary is not None
    store.go.set()
    answer = await asyncio.gather(second, return_exceptions=True)
    assert not isinstance(answer[0], Exception) or isinstance(answer[0], SessionBusy)
    assert len(author.requests) == 1  # the first has left nothing to summarise
    health, summaries = await session.health(), await session.summaries()
    covered = sum(summary.messages for summary in summaries)
    assert covered + health.messages - len(summaries) + health.dropped == 55
    await client.aclose()
