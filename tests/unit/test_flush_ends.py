"""Flushes in the background: how many at a time, what a client that closes leaves, and what is said later."""

import asyncio

import pytest

from holdfast.client import Client
from holdfast.store.in_memory import InMemoryStore
from holdfast.testing.conformance.authors import Author, begun
from holdfast.testing.conformance.support import policy, user
from holdfast.testing.conformance.upkeep import HYBRID, LIMITS, converse
from tests.harness.waiting import until

pytestmark = pytest.mark.asyncio

AT_ONCE = 8


def client_of(author: Author) -> Client:
    made = policy(flushing=HYBRID, limits=LIMITS)
    return Client(InMemoryStore(), namespace="team", policy=made, summarizer=author)


async def test_a_client_that_closes_waits_so_long_and_changes_nothing_afterwards() -> None:
    author = Author(waits=True)
    client = client_of(author)
    session = client.memory("support").session("a")
    await converse(session, 780)
    await session.append(user("much at once " * 20))
    await begun(author)
    before = await session.length()
    await client.drain(0.01)
    author.may.set()
    await until(lambda: len(asyncio.all_tasks()) == 1, "nothing goes on in the background")
    assert await session.length() == before
    assert await session.summaries() == []
    await client.aclose()


async def test_a_client_flushes_eight_sessions_at_a_time() -> None:
    author = Author(waits=True)
    client = client_of(author)
    sessions = [client.memory("support").session(str(number)) for number in range(AT_ONCE + 1)]
    for session in sessions:
        await converse(session, 780)
        await session.append(user("much at once " * 20))
    await until(lambda: len(author.requests) == AT_ONCE, "they are flushed")
    author.may.set()
    await until(lambda: len(asyncio.all_tasks()) == 1, "they were flushed")
    assert len(author.requests) == AT_ONCE
    await sessions[-1].append(user("one more"))
    await until(lambda: len(author.requests) == AT_ONCE + 1, "its next message begins its flush")
    await client.aclose()


async def test_where_nothing_is_there_is_nothing_to_flush() -> None:
    client = Client(InMemoryStore(), policy=policy(limits=LIMITS))
    session = client.memory("support").session("a")
    never = await session.flush()
    await session.append(user("hi"))
    await session.clear()
    cleared = await session.flush()
    for done in (never, cleared):
        assert (done.dropped, done.length, done.reached) == (0, 0, True)


async def test_what_went_into_a_summary_that_left_is_told_so() -> None:
    client = client_of(Author())
    session = client.memory("support").session("a")
    await converse(session, 700)
    await session.flush()
    [summary] = await session.summaries()
    said = await session.explain(seq=summary.first)
    assert f"is part of the summary at {summary.seq}" in said
    await session.replace([user("anew")])
    said = await session.explain(seq=summary.first)
    assert "went into a summary" in said
    assert "which was removed by replace()" in said
    await client.aclose()
