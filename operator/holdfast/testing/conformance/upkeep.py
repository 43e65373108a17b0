"""Flushes as an agent sees them: on demand, at the threshold, and what they leave alone."""
# ruff: noqa: D102 - the name of a test is its sentence

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.client import Client
from holdfast.errors import ConfigurationError, SessionBusy
from holdfast.planning import plan_flush
from holdfast.policy import load_policy
from holdfast.session import Session
from holdfast.store import MemoryStore, SessionStore
from holdfast.testing.conformance.authors import Author, begun
from holdfast.testing.conformance.flushing import recounted
from holdfast.testing.conformance.support import (
    Advance,
    SessionContract,
    assistant,
    call,
    open_session,
    policy,
    result,
    stored,
    system,
    terms,
    unchanged,
    until,
    user,
)
from holdfast.values import Flag, FlushResult, Stored

STRATEGIES = ["FIFO", "LRU", "TokenAwareLRU", "HybridSummary", "TimeBased"]
EVICTIONS = ["FIFO", "LRU", "Priority"]
SUMMARY = {"oldestPercent": 30, "maxTokens": 60}
HYBRID = {"strategy": "HybridSummary", "summary": SUMMARY}
LIMITS = {"maxTokens": 1_000}

Open = Callable[..., Session]


class UpkeepContract(SessionContract):
    """Fixtures of the tests of this module."""

    @pytest.fixture
    def opened(self, store: MemoryStore, namespace: str) -> Open:
        """Return a maker of sessions, each of a client of its own."""

        def make(author: Any = None, **spec: Any) -> Session:
            made = policy(**spec)
            return open_session(Client(store, namespace=namespace, policy=made, summarizer=author))

        return make


def flushing(strategy: str) -> dict[str, Any]:
    """Return that part of a policy, with short times and summaries."""
    parts: dict[str, Any] = {"strategy": strategy}
    if strategy == "TimeBased":
        parts["maxAge"] = "1s"
    if strategy == "HybridSummary":
        parts["summary"] = SUMMARY
    return parts


def eviction(order: str) -> dict[str, Any]:
    """Return that part of a policy; with priorities, it has some."""
    parts: dict[str, Any] = {"policy": order, "keepLast": 2}
    if order == "Priority":
        parts["priorityKeywords"] = ["order"]
        parts["priorityBlocks"] = [
            {"priority": 0, "contentTypes": ["developer"]},
            {"priority": 3, "contentTypes": ["tool-result"], "maxTokens": 30},
        ]
    return parts


async def converse(session: Session, tokens: int) -> None:
    """Talk until the session has so many tokens: rules, tools, pins, and words of all lengths."""
    await session.append(system("be kind"))
    await session.append({"role": "developer", "content": "never say never"})
    await session.append(user("remember this"), pin=True)
    await session.append(call("c1", "c2"))
    await session.append(user("my order is 4711"))
    await session.append(result("c1"))
    await session.append(result("c2", "snow " * 10))
    await session.append(result("gone"))
    number = 0
    while await session.token_count() < tokens:
        number += 1
        await session.append(
            (user, assistant)[number % 2](f"{number} " + "word " * (number * 7 % 23))
        )


async def talk(session: Session, count: int, text: str = "some words of small talk") -> None:
    """Append short messages, one by one."""
    for number in range(count):
        await session.append(user(f"{number} {text}"))


async def accounted(session: Session, underneath: SessionStore) -> None:
    """Check that each message is kept, in one summary, or counted as dropped."""
    records = await stored(underneath)
    kept = [record for record in records if not record.flags & Flag.SUMMARY]
    covered = sum(summary.messages for summary in await session.summaries())
    status = await underneath.status()
    assert len(kept) + covered + status.dropped == status.last_seq
    await recounted(underneath)


def numbers(records: list[Stored]) -> list[int]:
    """Return the sequence numbers."""
    return [record.seq for record in records]


async def flushed(session: Session) -> None:
    """Return when the session was flushed in the background."""

    async def done() -> bool:
        return any(it.at is not None for it in await session.history())

    await until(done)


async def grow(session: Session, count: int) -> int:
    """Append short messages, letting each flush that is due end; return by how much it grew."""
    grown = 0
    for number in range(count):
        before = await session.token_count()
        done = await session.append(user(f"{number} some words of small talk"))
        grown += done.tokens - before

        async def settled() -> bool:
            return not (await session.health()).flush_due

        await until(settled)
    return grown


@pytest.mark.asyncio
class TestFlush(UpkeepContract):
    """What leaves before a session is full, on demand and in the background."""

    @pytest.mark.parametrize("order", EVICTIONS)
    @pytest.mark.parametrize("strategy", STRATEGIES)
    async def test_on_demand_it_takes_what_is_planned(
        self, opened: Open, underneath: SessionStore, advance: Advance, strategy: str, order: str
    ) -> None:
        parts = {"flushing": flushing(strategy), "eviction": eviction(order), "limits": LIMITS}
        session = opened(**parts)
        await converse(opened(), 700)
        await session.read_page(limit=12)
        await advance(1.2 if strategy == "TimeBased" else 0.05)
        now = await underneath.snapshot()
        _, declared = load_policy(policy(**parts))
        plan = plan_flush(now.records, declared, now=now.now, accessed=now.accessed)
        assert plan.reasons
        done = await session.flush()
        if strategy == "TokenAwareLRU":  # the order changes as time goes by, by itself
            left = await underneath.snapshot()
            kept = tuple(record.seq for record in left.records)
            plans = (
                plan_flush(now.records, declared, now=at, accessed=now.accessed)
                for at in range(now.now, left.now + 1)
            )
            plan = next((one for one in plans if one.keep == kept), plan)
        assert (done.strategy, done.dry_run, done.reached) == (strategy, False, plan.reached)
        assert (done.dropped, done.summarised) == (len(plan.drop), len(plan.summarise))
        assert sum(done.rules.values()) == len(plan.drop) + len(plan.summarise)
        assert (done.summary is not None) == bool(plan.summarise)
        after = await stored(underneath)
        summaries = [done.summary] if done.summary is not None else []
        assert numbers(list(after)) == sorted([*plan.keep, *summaries])
        status = await underneath.status()
        assert (done.tokens_before, done.tokens) == (now.status.tokens, status.tokens)
        assert done.length == status.messages
        assert status.tokens <= plan.tokens_after
        await accounted(session, underneath)

    @pytest.mark.parametrize("order", EVICTIONS)
    @pytest.mark.parametrize("strategy", STRATEGIES)
    async def test_at_the_threshold_it_comes_by_itself(
        self, opened: Open, underneath: SessionStore, advance: Advance, strategy: str, order: str
    ) -> None:
        session = opened(flushing=flushing(strategy), eviction=eviction(order), limits=LIMITS)
        # While they talk, nothing may grow too old.
        await converse(opened(limits=LIMITS) if strategy == "TimeBased" else session, 780)
        assert await session.history() == []
        if strategy == "TimeBased":
            await advance(1.2)
            await session.append(user("and then"))
        else:
            await session.append(user("much at once " * 20))
        await flushed(session)

        async def at_target() -> bool:
            return await session.token_count() <= 500

        await until(at_target)
        assert (await session.history())[0].rule
        await accounted(session, underneath)

    @pytest.mark.parametrize("strategy", ["FIFO", "LRU", "TokenAwareLRU", "HybridSummary"])
    async def test_a_strategy_may_be_named_for_one_call(
        self, opened: Open, underneath: SessionStore, strategy: str
    ) -> None:
        session = opened(limits=LIMITS)
        await converse(session, 700)
        done = await session.flush(strategy)
        assert (done.strategy, done.reached) == (strategy, True)
        assert done.tokens <= 500
        assert bool(await session.summaries()) == (strategy == "HybridSummary")
        await accounted(session, underneath)

    async def test_a_policy_without_a_strategy_flushes_the_oldest(
        self, opened: Open, underneath: SessionStore
    ) -> None:
        session = opened(limits=LIMITS)
        await talk(session, 60)
        done = await session.flush()
        assert (done.strategy, done.reached) == ("FIFO", True)
        kept = numbers(list(await stored(underneath)))
        assert kept == list(range(61 - len(kept), 61))
        assert done.rules == {"FIFO": 60 - len(kept)}

    @pytest.mark.parametrize("strategy", ["Disabled", "TimeBased", "Sometimes"])
    async def test_a_strategy_that_cannot_be_asked_for_is_refused(
        self, session: Session, underneath: SessionStore, strategy: str
    ) -> None:
        await talk(session, 3)
        async with unchanged(underneath, terms()):
            with pytest.raises((ValueError, ConfigurationError)):
                await session.flush(strategy)

    @pytest.mark.parametrize("strategy", STRATEGIES)
    async def test_a_dry_run_says_what_would_happen_and_changes_nothing(
        self, opened: Open, underneath: SessionStore, advance: Advance, strategy: str
    ) -> None:
        author = Author()
        session = opened(author, flushing=flushing(strategy), limits=LIMITS)
        await converse(opened(), 700)
        await advance(1.2 if strategy == "TimeBased" else 0.05)
        async with unchanged(underneath, terms()):
            would = await session.flush(dry_run=True)
        assert await session.history() == []
        assert author.requests == []
        assert would.dry_run
        done = await session.flush()
        if strategy == "TokenAwareLRU":  # by then another order may hold
            assert (would.reached, would.summarised) == (done.reached, done.summarised)
            return
        assert (would.dropped, would.summarised) == (done.dropped, done.summarised)
        assert (would.rules, would.reached) == (done.rules, done.reached)
        assert would.tokens >= done.tokens
        assert would.tokens == done.tokens or strategy == "HybridSummary"
        assert (would.tokens_before, would.length) == (done.tokens_before, done.length)

    async def test_one_that_is_at_its_target_stays_as_it_is(
        self, opened: Open, underneath: SessionStore
    ) -> None:
        for strategy in ("FIFO", "HybridSummary"):
            session = opened(flushing=flushing(strategy), limits=LIMITS)
            await session.append(user("a word"))
            async with unchanged(underneath, terms()):
                done = await session.flush()
            assert (done.dropped, done.summarised, done.summary, done.reached) == (0, 0, None, True)
        assert await session.history() == []

    async def test_one_that_never_was_does_not_begin(
        self, session: Session, underneath: SessionStore
    ) -> None:
        done = await session.flush()
        assert (done.dropped, done.tokens, done.length) == (0, 0, 0)
        assert (await session.summaries(), await session.history()) == ([], [])
        assert not (await underneath.status()).exists

    @pytest.mark.parametrize("strategy", ["FIFO", "LRU", "HybridSummary"])
    async def test_it_does_not_come_again_with_the_next_append(
        self, opened: Open, underneath: SessionStore, strategy: str
    ) -> None:
        author = Author()
        session = opened(author, flushing=flushing(strategy), limits=LIMITS)
        grown = await grow(session, 300)
        flushes = await session.history()
        assert all(it.at is not None for it in flushes)
        assert 5 < len(flushes) <= grown // 300 + 1
        assert len(author.requests) == (len(flushes) if strategy == "HybridSummary" else 0)
        await accounted(session, underneath)

    async def test_nor_where_what_is_protected_is_above_the_target(
        self, opened: Open, underneath: SessionStore
    ) -> None:
        session = opened(flushing=flushing("FIFO"), limits=LIMITS)
        await session.append(user("word " * 700), pin=True)
        assert 800 < await session.token_count() < 950
        for number in range(200):
            await session.append(user(f"{number} some words of small talk"))
            await asyncio.sleep(0)
        assert len([it for it in await session.history() if it.at is not None]) < 40
        await accounted(session, underneath)

    @pytest.mark.parametrize("way", ["large", "pinned", "cleared"])
    async def test_it_comes_again_where_one_could_not_take_enough(
        self, opened: Open, underneath: SessionStore, way: str
    ) -> None:
        """What was in the way may leave later, and a full session does not grow."""
        session = opened(Author("small talk"), flushing=HYBRID, limits=LIMITS)
        await talk(session, 15)
        if way == "large":
            await session.append(user("word " * 750))
            await flushed(session)
        else:
            large = user("word " * 250)
            pins = [(await session.append(large, pin=True)).seq for _ in range(3)]
            await talk(session, 10)
            if way == "cleared":
                await session.clear()
            else:
                for seq in pins:
                    await session.pin(seq, False)
        latest = max((it.last for it in await session.summaries()), default=0)

        async def another() -> bool:
            await session.append(user("some more words of small talk"))
            return any(it.last > latest for it in await session.summaries())

        await until(another)
        await (recounted(underneath) if way == "cleared" else accounted(session, underneath))

    async def test_two_at_once_take_nothing_twice(
        self, opened: Open, underneath: SessionStore
    ) -> None:
        parts = {"flushing": HYBRID, "limits": LIMITS}
        first, second = opened(Author("one"), **parts), opened(Author("two"), **parts)
        await converse(first, 700)
        results = await asyncio.gather(first.flush(), second.flush(), return_exceptions=True)
        assert all(isinstance(it, FlushResult | SessionBusy) for it in results)
        done = [it for it in results if isinstance(it, FlushResult) and it.summary is not None]
        assert done
        assert len(await first.summaries()) == len(done)
        await accounted(first, underneath)

    async def test_a_turn_goes_on_while_the_session_is_flushed(
        self, opened: Open, underneath: SessionStore
    ) -> None:
        author = Author(waits=True)
        enforced = {"mode": "Enforced"}
        session = opened(author, flushing=HYBRID, limits=LIMITS, locking=enforced)
        other = opened(limits=LIMITS, locking=enforced)
        await converse(other, 780)
        async with other.turn() as turn:
            await turn.append(user("much at once " * 20))
            flush = asyncio.create_task(session.flush())
            await begun(author)
            await turn.append(assistant("meanwhile"))
            author.may.set()
            done = await flush
            assert done.summary is not None
            await turn.check()
            await turn.append(assistant("afterwards"))
            assert (await turn.read())[-2:] == [assistant("meanwhile"), assistant("afterwards")]
            assert (await turn.flush(dry_run=True)).dry_run
        await accounted(session, underneath)

    @pytest.mark.parametrize("read", ["limit", "max_tokens", "page", "look", "all"])
    @pytest.mark.parametrize("order", ["LRU", "FIFO"])
    async def test_what_is_read_in_part_counts_as_used(
        self, opened: Open, underneath: SessionStore, advance: Advance, order: str, read: str
    ) -> None:
        session = opened(eviction={"policy": order})
        await talk(session, 6)
        await advance(0.02)
        match read:
            case "limit":
                await session.read(limit=2)
            case "max_tokens":
                await session.read(max_tokens=30)
            case "page" | "look":
                await session.read_page(limit=2, used=read == "page")
            case _:
                await session.read()
        counted = {"limit": {5, 6}, "max_tokens": {5, 6}, "page": {1, 2}}
        assert set((await underneath.snapshot()).accessed) == (
            counted.get(read, set[int]()) if order == "LRU" else set()
        )

    async def test_what_was_used_stays_longer(
        self, opened: Open, underneath: SessionStore, advance: Advance
    ) -> None:
        session = opened(flushing=flushing("LRU"), limits=LIMITS)
        await talk(session, 50)
        await advance(0.02)
        await session.read_page(limit=3)
        await session.flush()
        assert numbers(list(await stored(underneath)))[:3] == [1, 2, 3]

    async def test_health_says_how_it_is_flushed(
        self, opened: Open, underneath: SessionStore
    ) -> None:
        session = opened(flushing=flushing("LRU"), limits=LIMITS)
        health = await session.health()
        assert (health.strategy, health.last_flush, health.flush_due) == ("LRU", None, False)
        other = opened(limits=LIMITS)
        await talk(other, 80)
        assert await session.token_count() >= 800
        assert (await session.health()).flush_due
        assert not (await other.health()).flush_due
        assert (await other.health()).strategy == "Disabled"
        await session.pop()
        assert (await session.health()).last_flush is None
        await session.flush()
        health = await session.health()
        assert not health.flush_due
        assert health.last_flush == (await underneath.departed())[-1].at
        await session.pop()
        assert (await session.health()).last_flush == health.last_flush

    async def test_shares_above_their_part_give_first(
        self, opened: Open, underneath: SessionStore
    ) -> None:
        shares = {
            "systemPercent": 10,
            "shortTermPercent": 60,
            "longTermPercent": 20,
            "userDefined": [{"name": "documents", "percent": 10}],
        }
        session = opened(
            flushing=flushing("FIFO"), limits={"maxTokens": 1_000}, tokenAllocation=shares
        )
        await talk(session, 5)
        for _ in range(20):
            await session.append(user("a page of a document"), share="documents")
        await talk(session, 20)
        done = await session.flush()
        assert done.rules["share:documents"] > 0
        assert numbers(list(await stored(underneath)))[:5] == [1, 2, 3, 4, 5]
        assert done.overshoot == {}
        held = [it for it in await stored(underneath) if it.notes is not None]
        assert 0 < sum(it.tokens for it in held) <= 100
        await accounted(session, underneath)
