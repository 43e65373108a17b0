"""What observers are told: each call with its outcome, each count, each level, and nothing of a person."""

import asyncio
import logging
from collections import Counter

import pytest
from redis.exceptions import BusyLoadingError, NoScriptError

from holdfast import errors
from holdfast.client import Client
from holdfast.connecting import connect
from holdfast.errors import HoldfastError, LeaseLost, StoreUnavailable, TokenCountFailed
from holdfast.store.in_memory import InMemoryStore
from holdfast.store.redis.carrier import Broken
from holdfast.store.redis.runner import Runner
from holdfast.telemetry import (
    OUTCOMES,
    Call,
    Counted,
    Loss,
    Measured,
    Quota,
    Retry,
    Rule,
    Telemetry,
    outcome_of,
)
from holdfast.tokens import Count
from holdfast.values import Appended, Batch, MemoryAddress
from tests.harness.observed_work import (
    MARKERS,
    MEMORY,
    NAME,
    SESSION,
    Hand,
    call_everything,
    client_of,
    fail,
    fail_in_every_way,
    interrupt,
    store_what_is_screened,
    user,
)
from tests.harness.waiting import until

AHEAD = {Call.REPLACE, Call.EXPORT, Call.IMPORT, Call.ERASE}
"""Calls that have a name before they exist."""


class Recorder:
    """Remembers everything it is told."""

    def __init__(self) -> None:
        self.open: list[tuple[Call, object]] = []
        self.calls: list[tuple[Call, str]] = []
        self.counts: Counter[tuple[Counted, str]] = Counter()
        self.levels: dict[tuple[Measured, str], float | None] = {}
        self.memories: set[MemoryAddress | None] = set()
        self.told: list[tuple[object, ...]] = []

    def begun(self, call: Call, memory: MemoryAddress, /) -> object:
        self._note(call, memory)
        self.open.append((call, token := object()))
        return token

    def ended(
        self, call: Call, memory: MemoryAddress, outcome: str, seconds: float, begun: object, /
    ) -> None:
        self._note(call, memory, outcome)
        assert 0 <= seconds < 60
        if call is Call.HOLD:
            assert begun is None
        else:
            self.open.remove((call, begun))
        self.calls.append((call, outcome))

    def counted(
        self, what: Counted, memory: MemoryAddress | None, amount: int, label: str, /
    ) -> None:
        self._note(what, memory, label)
        assert amount > 0
        self.counts[what, label] += amount

    def measured(
        self, what: Measured, memory: MemoryAddress | None, value: float | None, label: str, /
    ) -> None:
        self._note(what, memory, label)
        self.levels[what, label] = value

    def _note(self, *told: object) -> None:
        self.told.append(told)
        self.memories.add(told[1])  # pyright: ignore[reportArgumentType]

    def outcomes(self, call: Call) -> Counter[str]:
        return Counter(outcome for name, outcome in self.calls if name is call)


@pytest.fixture
def heard() -> Recorder:
    return Recorder()


# --- calls


@pytest.mark.asyncio
async def test_every_call_is_told_once_with_its_memory(heard: Recorder) -> None:
    async with client_of(heard) as client:
        await call_everything(client.memory(NAME).session(SESSION))
    once = {call: 1 for call in Call if call not in AHEAD | {Call.SUMMARIZE}}
    # The first append_many of two, and the one of nothing.
    assert Counter(call for call, _ in heard.calls) == once | {Call.APPEND_MANY: 2}
    assert {outcome for _, outcome in heard.calls} == {"ok"}
    assert heard.open == []
    assert heard.memories == {MEMORY}


@pytest.mark.asyncio
async def test_a_call_that_fails_ends_with_the_code_of_its_error(heard: Recorder) -> None:
    async with client_of(heard) as client:
        await fail_in_every_way(client.memory(NAME).session(SESSION))
    assert heard.outcomes(Call.APPEND) == {
        "ok": 2,
        "IdempotencyConflict": 1,
        "MessageTooLarge": 1,
        "LeaseLost": 1,
    }
    assert heard.outcomes(Call.PIN) == {"RecordNotFound": 1}
    assert heard.outcomes(Call.READ) == {"BudgetTooSmall": 1}
    assert heard.outcomes(Call.WAIT) == {"ok": 3, "SessionBusy": 1, "Cancelled": 1}
    assert heard.outcomes(Call.HOLD) == {"ok": 2, "LeaseLost": 1}
    assert heard.open == []


@pytest.mark.asyncio
async def test_what_is_no_error_of_ours_ends_with_error(heard: Recorder) -> None:
    class BrokenCounter:
        name = "broken"

        def count(self, text: str) -> Count:
            raise ZeroDivisionError(text)

    class Odd(InMemoryStore):
        async def policy(self, memory: MemoryAddress) -> None:
            raise ZeroDivisionError(str(memory))

    spec = {"retention": {"ttl": "1h"}}
    async with Client(Odd(), policy=spec, observers=[heard]) as client:
        await fail(ZeroDivisionError, client.memory().session("a").length())
    async with connect(
        "memory://", policy=spec, counter=BrokenCounter(), observers=[heard]
    ) as client:
        await fail(TokenCountFailed, client.memory().session("a").append(user()))
    assert heard.calls == [(Call.LENGTH, "Error"), (Call.APPEND, "TokenCountFailed")]


def test_the_outcomes_are_closed() -> None:
    class Foreign(HoldfastError):
        code = "of a store of somebody else"

    assert len(set(OUTCOMES)) == len(OUTCOMES)
    assert {"ok", "Cancelled", "Error"} < set(OUTCOMES)
    assert outcome_of(None) == "ok"
    assert outcome_of(asyncio.CancelledError()) == "Cancelled"
    assert outcome_of(TimeoutError()) == "Error"
    assert outcome_of(Foreign("no")) == "Error"
    for name in errors.__dict__:
        kind = getattr(errors, name)
        if isinstance(kind, type) and issubclass(kind, HoldfastError):
            assert outcome_of(kind.__new__(kind)) == kind.code


# --- counts


@pytest.mark.asyncio
async def test_what_is_stored_and_what_is_not_is_counted(heard: Recorder) -> None:
    async with client_of(heard) as client:
        session = client.memory(NAME).session(SESSION)
        await store_what_is_screened(session)
        stored = await session.token_count()
        left = await session.length()
    assert left == 6
    assert heard.counts[Counted.MESSAGES, ""] == 8
    assert heard.counts[Counted.TOKENS, ""] > stored > 0
    assert heard.counts[Counted.EVICTED, Rule.LIMIT] == 2
    assert heard.counts[Counted.DUPLICATES, ""] == 1
    assert heard.counts[Counted.REDACTED, ""] == 1
    assert heard.counts[Counted.WITHHELD, ""] == 1
    assert heard.counts[Counted.UNRECOGNISED, ""] == 1
    assert len(heard.counts) == 7


@pytest.mark.asyncio
async def test_the_tokens_that_are_counted_are_those_of_the_session(heard: Recorder) -> None:
    async with client_of(heard) as client:
        session = client.memory(NAME).session(SESSION)
        await session.append_many([user("one"), user("two, and a little more")])
        assert heard.counts[Counted.TOKENS, ""] == await session.token_count()


def test_what_the_store_says_of_an_append_is_counted() -> None:
    heard = Recorder()
    telemetry = Telemetry([heard], MEMORY)
    done = Appended(1, False, 5, 1, 0, 1, over=False, torn=True, durable=False, strict=False)
    telemetry.appended(done, Batch(()))
    assert heard.counts == {(Counted.UNCONFIRMED, ""): 1, (Counted.REBUILT, ""): 1}


@pytest.mark.asyncio
async def test_what_leaves_with_a_flush_is_counted_by_its_rule(heard: Recorder) -> None:
    async with client_of(heard, limits={"maxTokens": 10_000}) as client:
        session = client.memory(NAME).session(SESSION)
        for n in range(40):
            await session.append(user(f"number {n}: " + "some words of a person, " * 32))
        await session.flush(dry_run=True)
        assert (Counted.EVICTED, Rule.FIFO) not in heard.counts
        done = await session.flush()
        assert done.dropped == heard.counts[Counted.EVICTED, Rule.FIFO] > 0
    summary = {"strategy": "HybridSummary", "summary": {"maxTokens": 60}}
    async with client_of(heard, limits={"maxTokens": 1000}, flushing=summary) as client:
        session = client.memory(NAME).session(SESSION)
        for n in range(60):
            await session.append(user(f"number {n}: " + "some words of a person, " * 8))
        await until(lambda: heard.counts[Counted.SUMMARIES, ""] > 0, "a summary was written")
        assert await session.summaries()
    assert heard.counts[Counted.EVICTED, Rule.HYBRID_SUMMARY] > 0
    assert heard.outcomes(Call.SUMMARIZE)["ok"] == heard.counts[Counted.SUMMARIES, ""]
    assert heard.outcomes(Call.FLUSH)["ok"] >= 3  # two of them asked for
    assert heard.open == []


def test_the_rules_of_a_flush_are_cut_where_a_policy_names_something() -> None:
    heard = Recorder()
    rules = {"share:secret-plans": 2, "share:longTerm": 1, "block:2": 3, "fold": 1, "new": 4}
    Telemetry([heard], MEMORY).flushed(rules, summaries=0)
    assert heard.counts == {
        (Counted.EVICTED, "share"): 3,
        (Counted.EVICTED, "block"): 3,
        (Counted.EVICTED, "fold"): 1,
        (Counted.EVICTED, "other"): 4,
    }


# --- turns


@pytest.mark.asyncio
async def test_a_turn_that_was_taken_is_interrupted(heard: Recorder) -> None:
    async with client_of(heard, locking={"onBusy": "Interrupt"}) as client:
        await interrupt(client, lambda turn: turn.append(user()))
    assert heard.counts == {(Counted.TURNS_LOST, Loss.INTERRUPTED): 1}
    assert heard.outcomes(Call.HOLD) == {"ok": 1, "TurnInterrupted": 1}
    assert heard.outcomes(Call.APPEND) == {"TurnInterrupted": 1}


@pytest.mark.asyncio
async def test_a_turn_that_was_lost_is_counted_at_once_and_only_once(heard: Recorder) -> None:
    async with client_of(heard) as client:
        session = client.memory(NAME).session(SESSION)
        async with session.turn() as turn:
            await session.clear()
            for _ in range(2):
                await fail(LeaseLost, turn.append(user()))
            assert heard.counts[Counted.TURNS_LOST, Loss.LOST] == 1
    assert heard.counts[Counted.TURNS_LOST, Loss.LOST] == 1


@pytest.mark.asyncio
async def test_a_turn_that_is_over_or_whose_client_is_closed_is_not_lost(heard: Recorder) -> None:
    async with client_of(heard) as client:
        session = client.memory(NAME).session(SESSION)
        async with session.turn() as turn:
            pass
        await fail(LeaseLost, turn.append(user()))
        left_open = session.turn()
        await left_open.__aenter__()
    assert left_open.lost
    assert (Counted.TURNS_LOST, Loss.LOST) not in heard.counts
    assert heard.outcomes(Call.HOLD) == {"ok": 1}


# --- levels


@pytest.mark.asyncio
async def test_the_revision_and_the_quotas_are_told_with_each_reading_of_the_policy(
    heard: Recorder,
) -> None:
    quotas = {"tokens": {"soft": 900, "hard": 1000}, "sessions": {"hard": 5}}
    async with client_of(heard, quotas=quotas) as client:
        await client.memory(NAME).session(SESSION).length()
    assert heard.levels == {
        (Measured.REVISION, ""): 7,
        (Measured.QUOTA_USED, Quota.SESSIONS): 1,
        (Measured.QUOTA_SOFT, Quota.SESSIONS): None,
        (Measured.QUOTA_HARD, Quota.SESSIONS): 5,
        (Measured.QUOTA_USED, Quota.BYTES): None,
        (Measured.QUOTA_SOFT, Quota.BYTES): None,
        (Measured.QUOTA_HARD, Quota.BYTES): None,
        (Measured.QUOTA_USED, Quota.TOKENS): 30,
        (Measured.QUOTA_SOFT, Quota.TOKENS): 900,
        (Measured.QUOTA_HARD, Quota.TOKENS): 1000,
    }


# --- retries


@pytest.mark.asyncio
async def test_what_is_sent_again_is_counted_by_its_reason(heard: Recorder) -> None:
    faults = {
        Retry.UNREACHABLE: StoreUnavailable("no"),
        Retry.LOST: Broken("cut"),
        Retry.SCRIPTS: NoScriptError("NOSCRIPT"),
        Retry.SERVER: BusyLoadingError("LOADING"),
    }
    runner = Runner(Hand(*faults.values()), patience=30, telemetry=Telemetry([heard]))
    assert await runner.read([(b"GET", b"key")]) == [b"fine"]
    assert heard.counts == {(Counted.RETRIES, reason): 1 for reason in faults}
    assert heard.memories == {None}


@pytest.mark.asyncio
async def test_what_is_given_up_was_not_sent_again(heard: Recorder) -> None:
    runner = Runner(Hand(StoreUnavailable("no")), patience=0, telemetry=Telemetry([heard]))
    await fail(StoreUnavailable, runner.read([(b"GET", b"key")]))
    assert heard.counts == {}


@pytest.mark.asyncio
async def test_a_client_tells_its_observers_of_retries(heard: Recorder) -> None:
    spec = {"retention": {"ttl": "1h"}}
    async with connect("redis://127.0.0.1:1", policy=spec, observers=[heard]) as client:
        task = asyncio.create_task(client.memory().session("a").length())
        await until(lambda: bool(heard.counts), "the first retry")
        task.cancel()
        await fail(asyncio.CancelledError, task)  # pyright: ignore[reportArgumentType]
    assert set(heard.counts) == {(Counted.RETRIES, Retry.UNREACHABLE)}
    assert heard.calls == [(Call.LENGTH, "Cancelled")]


# --- observers that fail, and none


class Failing(Recorder):
    """Raises whatever it is asked."""

    def _note(self, *told: object) -> None:
        raise ZeroDivisionError(*told)


@pytest.mark.asyncio
async def test_an_observer_that_fails_hurts_nobody_and_is_named_once(
    heard: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="holdfast")
    async with client_of(Failing(), heard) as client:
        await call_everything(client.memory(NAME).session(SESSION))
    assert len(heard.calls) > 10
    assert heard.open == []
    assert [record.getMessage() for record in caplog.records] == [
        "observer Failing failed with ZeroDivisionError; that is said once"
    ]


@pytest.mark.asyncio
async def test_nothing_of_a_person_is_told(heard: Recorder) -> None:
    async with client_of(heard, locking={"onBusy": "Interrupt"}) as client:
        await interrupt(client, lambda turn: turn.append(user()))
    async with client_of(heard) as client:
        session = client.memory(NAME).session(SESSION)
        await call_everything(session)
        await fail_in_every_way(session)
        await store_what_is_screened(session)
    told = repr(heard.told)
    assert "support" in told
    for marker in MARKERS:
        assert marker not in told
