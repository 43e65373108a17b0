"""Which policy a memory works under: fetched once, followed, and never guessed."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.errors import HoldfastError, PolicyInvalid, PolicyNotFound, StoreUnavailable
from holdfast.policies import (
    FOLLOW,
    FOLLOWING,
    GRANT,
    STANDALONE,
    TRUST,
    PolicyFeed,
    agreement,
    terms_of,
)
from holdfast.policy import Policy, load_policy
from holdfast.store import SessionStore
from holdfast.store.in_memory import InMemoryStore
from holdfast.tokens import Count
from holdfast.values import MemoryAddress, PolicyDocument, Refresh, Terms
from tests.harness.waiting import until

MEMORY = MemoryAddress("team-a", "support")


class Clock:
    """Monotonic seconds that stand still until they are moved, or move by a step at each look."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class Shelf:
    """The in-memory store, counting how often it is asked, and failing or waiting on demand."""

    def __init__(self) -> None:
        self.store = InMemoryStore()
        self.asked = 0
        self.fault: HoldfastError | None = None
        self.gate: asyncio.Event | None = None
        self.removed = False

    def put(self, revision: int, *, active: bool = True, **spec: Any) -> None:
        document = policy(**spec).document().encode()
        self.store.put_policy(MEMORY, PolicyDocument(revision, active, document))

    def session(self, memory: MemoryAddress, key: str) -> SessionStore:
        return self.store.session(memory, key)

    async def policy(self, memory: MemoryAddress) -> PolicyDocument | None:
        self.asked += 1
        document = None if self.removed else await self.store.policy(memory)
        fault, gate = self.fault, self.gate
        if gate is not None:
            await gate.wait()
        if fault is not None:
            raise fault
        return document

    async def aclose(self) -> None:
        await self.store.aclose()


def policy(**spec: Any) -> Policy:
    return load_policy({"retention": {"ttl": "1h"}, **spec})[1]


def tokens(number: int) -> dict[str, Any]:
    return {"limits": {"maxTokens": number}}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def feed(shelf: Shelf, clock: Clock) -> PolicyFeed:
    return PolicyFeed(shelf, MEMORY, None, clock=clock)


@pytest.fixture
def given(shelf: Shelf, clock: Clock) -> PolicyFeed:
    """A feed of somebody who gave a policy to `connect()`."""
    return PolicyFeed(shelf, MEMORY, policy(**tokens(100)), clock=clock)


async def limit(feed: PolicyFeed) -> int:
    """The limit that tells the policies of these tests apart."""
    return (await feed.current()).terms.max_tokens


async def asked(shelf: Shelf, times: int) -> None:
    """Wait until the store was asked so often, and give its answer time to be read."""
    await until(lambda: shelf.asked >= times, f"asked {times} times")
    for _ in range(5):
        await asyncio.sleep(0)


# --- what the store is told


def test_terms_are_the_numbers_of_a_policy() -> None:
    full = policy(
        limits={"maxTokens": 1000, "maxMessages": 50, "onFull": "Refuse"},
        retention={
            "ttl": "2h",
            "afterClear": "5m",
            "afterFlush": "7s",
            "maxLifetime": "1d",
            "refreshOn": ["Read", "Write"],
        },
        locking={"mode": "Enforced", "leaseTTL": "9s"},
        idempotency={"maxRememberedIDs": 17},
    )
    assert terms_of(full, 12) == Terms(
        revision=12,
        max_tokens=1000,
        max_messages=50,
        refuse=True,
        ttl=7_200_000,
        after_clear=300_000,
        after_flush=7_000,
        max_lifetime=86_400_000,
        refresh=Refresh.WRITE | Refresh.READ,
        lease=9_000,
        grant=GRANT,
        enforced=True,
        max_ids=17,
    )


def test_what_a_policy_does_not_say_is_none() -> None:
    found = terms_of(policy(limits={"maxMessages": 5}), 0)
    assert (found.max_tokens, found.max_messages, found.refuse) == (0, 5, False)
    assert (found.after_clear, found.after_flush, found.max_lifetime) == (0, 0, 0)
    assert (found.refresh, found.enforced) == (Refresh.WRITE, False)


@pytest.mark.parametrize(
    ("names", "refresh"),
    [
        (["Write"], Refresh.WRITE),
        (["Read"], Refresh.READ),
        (["Write", "Read"], Refresh.READ | Refresh.WRITE),
    ],
)
def test_which_calls_renew_the_expiry(names: list[str], refresh: Refresh) -> None:
    found = terms_of(policy(retention={"ttl": "1h", "refreshOn": names}), 0)
    assert found.refresh == refresh


@pytest.mark.parametrize(
    ("retention", "lasting"),
    [
        ({"ttl": "1h"}, 50),  # an erasure is marked for a minute
        ({"ttl": "10s"}, 10),
        ({"ttl": "1h", "afterClear": "20s", "afterFlush": "40s"}, 20),
        ({"ttl": "1h", "afterFlush": "30s"}, 30),
        ({"ttl": "1h", "maxLifetime": "1d"}, 0),  # nobody here knows when it began
        ({"ttl": "1h", "refreshOn": ["Read"]}, 0),
        ({"ttl": "1h", "refreshOn": ["Read", "Write"]}, 50),
    ],
)
def test_how_long_a_session_surely_lasts(retention: dict[str, Any], lasting: float) -> None:
    assert agreement(policy(retention=retention), 0).lasting == lasting


def test_a_policy_without_limits_has_2000_tokens() -> None:
    assert terms_of(policy(), 0).max_tokens == 2000


# --- found once


@pytest.mark.asyncio
async def test_nobody_wrote_a_policy_and_none_was_given(feed: PolicyFeed) -> None:
    with pytest.raises(PolicyNotFound, match="no operator wrote one") as refusal:
        await feed.current()
    assert refusal.value.memory == "team-a/support"
    assert feed.given is None


@pytest.mark.asyncio
async def test_a_policy_that_appears_is_found_by_the_next_call(
    feed: PolicyFeed, shelf: Shelf
) -> None:
    with pytest.raises(PolicyNotFound):
        await feed.current()
    shelf.put(1, **tokens(500))
    assert await limit(feed) == 500


@pytest.mark.asyncio
async def test_an_operators_policy_is_in_force(feed: PolicyFeed, shelf: Shelf) -> None:
    shelf.put(3, **tokens(500), model={"tokenizer": "approximate"})
    agreed = await feed.current()
    assert (agreed.managed, agreed.terms.revision, agreed.terms.max_tokens) == (True, 3, 500)
    assert agreed.counter.name == "approximate"
    assert agreed.max_message_size == 256 * 1024


@pytest.mark.asyncio
async def test_a_given_policy_holds_where_nobody_wrote_one(given: PolicyFeed) -> None:
    agreed = await given.current()
    assert (agreed.managed, agreed.terms.revision, agreed.terms.max_tokens) == (False, 0, 100)
    assert given.given is agreed.policy


@pytest.mark.asyncio
async def test_an_operators_policy_wins_over_a_given_one(given: PolicyFeed, shelf: Shelf) -> None:
    shelf.put(1, **tokens(500))
    assert await limit(given) == 500


@pytest.mark.asyncio
async def test_a_policy_is_asked_for_once(feed: PolicyFeed, shelf: Shelf, clock: Clock) -> None:
    shelf.put(1)
    first = await feed.current()
    clock.now += FOLLOW
    for _ in range(10):
        assert await feed.current() is first
    assert shelf.asked == 1


@pytest.mark.asyncio
async def test_a_policy_that_did_not_change_is_not_read_again(
    feed: PolicyFeed, shelf: Shelf, clock: Clock
) -> None:
    shelf.put(1)
    first = await feed.current()
    clock.now += TRUST + 1
    assert await feed.current() is first
    assert shelf.asked == 2


@pytest.mark.asyncio
async def test_fields_of_a_newer_operator_are_left_out(feed: PolicyFeed, shelf: Shelf) -> None:
    document = b'{"limits":{"maxTokens":7},"retention":{"ttl":"1h"},"dreams":{"a":1}}'
    shelf.store.put_policy(MEMORY, PolicyDocument(1, True, document))
    assert await limit(feed) == 7


@pytest.mark.asyncio
async def test_a_broken_document_is_an_error_of_its_own(feed: PolicyFeed, shelf: Shelf) -> None:
    shelf.store.put_policy(MEMORY, PolicyDocument(1, True, b'{"retention":{"ttl":"never"}}'))
    with pytest.raises(PolicyInvalid, match=r"^spec\.retention\.ttl: should match"):
        await feed.current()


# --- followed in the background


@pytest.mark.asyncio
async def test_a_new_revision_is_followed_within_two_seconds(
    feed: PolicyFeed, shelf: Shelf, clock: Clock
) -> None:
    shelf.put(1, **tokens(500))
    await feed.current()
    shelf.put(2, **tokens(600))
    assert FOLLOW == 2.0
    clock.now += FOLLOW + 0.001
    assert await limit(feed) == 500, "the call does not wait for the answer"
    await asked(shelf, 2)
    assert await limit(feed) == 600
    assert shelf.asked == 2


@pytest.mark.asyncio
async def test_one_question_at_a_time(feed: PolicyFeed, shelf: Shelf, clock: Clock) -> None:
    shelf.put(1)
    await feed.current()
    shelf.gate = asyncio.Event()
    clock.now += FOLLOW + 1
    for _ in range(10):
        await feed.current()
        await asyncio.sleep(0)
    assert shelf.asked == 2
    shelf.gate.set()
    await feed.aclose()


@pytest.mark.asyncio
async def test_a_store_in_trouble_is_not_noticed_for_four_seconds(
    feed: PolicyFeed, shelf: Shelf, clock: Clock
) -> None:
    shelf.put(1, **tokens(500))
    await feed.current()
    began = clock.now
    shelf.fault = StoreUnavailable("gone")
    assert TRUST == 4.0, "an operator walks through the sessions 5 s after an edit"
    for second in (2.5, 3, 3.5, 4):
        clock.now = began + second
        before = shelf.asked
        assert await limit(feed) == 500
        await asked(shelf, before + 1)
    clock.now = began + 4.001
    with pytest.raises(StoreUnavailable, match="gone"):
        await feed.current()
    shelf.fault = None
    assert await limit(feed) == 500


@pytest.mark.asyncio
async def test_who_slept_asks_before_it_writes(
    feed: PolicyFeed, shelf: Shelf, clock: Clock
) -> None:
    shelf.put(1, **tokens(500))
    await feed.current()
    shelf.put(2, **tokens(600))
    clock.now += TRUST + 0.001
    assert await limit(feed) == 600


@pytest.mark.asyncio
async def test_an_answer_that_comes_late_undoes_nothing(
    feed: PolicyFeed, shelf: Shelf, clock: Clock
) -> None:
    shelf.put(1, **tokens(500))
    await feed.current()
    shelf.gate = late = asyncio.Event()
    clock.now += FOLLOW + 1
    await feed.current()
    await asked(shelf, 2)
    shelf.gate = None
    shelf.put(2, **tokens(600))
    clock.now += 1
    await feed.catch_up(2)
    late.set()
    await asked(shelf, 3)
    assert await limit(feed) == 600


@pytest.mark.asyncio
async def test_a_broken_document_does_not_replace_a_good_one(
    feed: PolicyFeed, shelf: Shelf, clock: Clock
) -> None:
    shelf.put(1, **tokens(500))
    await feed.current()
    shelf.store.put_policy(MEMORY, PolicyDocument(2, True, b"no JSON"))
    clock.now += FOLLOW + 1
    await feed.current()
    await asked(shelf, 2)
    assert await limit(feed) == 500
    clock.now += TRUST
    with pytest.raises(PolicyInvalid):
        await feed.current()


@pytest.mark.asyncio
async def test_closing_ends_the_question_in_the_background(
    feed: PolicyFeed, shelf: Shelf, clock: Clock
) -> None:
    shelf.put(1)
    await feed.current()
    shelf.gate = asyncio.Event()
    clock.now += FOLLOW + 1
    await feed.current()
    await asked(shelf, 2)
    await feed.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await feed.aclose()


# --- standalone


@pytest.mark.asyncio
async def test_standalone_looks_for_an_operator_every_30_seconds(
    given: PolicyFeed, shelf: Shelf, clock: Clock
) -> None:
    assert await limit(given) == 100
    shelf.put(1, **tokens(500))
    clock.now += STANDALONE
    assert await limit(given) == 100
    assert shelf.asked == 1
    clock.now += 0.001
    await given.current()
    await asked(shelf, 2)
    agreed = await given.current()
    assert (agreed.terms.max_tokens, agreed.managed) == (500, True)


@pytest.mark.asyncio
async def test_a_session_that_was_managed_is_not_written_under_a_given_policy(
    given: PolicyFeed,
) -> None:
    await given.current()
    with pytest.raises(PolicyNotFound, match="under an operator's policy, and that policy is gone"):
        await given.catch_up(4)


# --- catching up with what a session has seen


@pytest.mark.asyncio
async def test_catching_up_fetches_at_once(feed: PolicyFeed, shelf: Shelf) -> None:
    shelf.put(1, **tokens(500))
    await feed.current()
    shelf.put(3, **tokens(600))
    await feed.catch_up(2)
    assert await limit(feed) == 600
    assert shelf.asked == 2


@pytest.mark.asyncio
async def test_catching_up_asks_until_the_revision_is_there(feed: PolicyFeed, shelf: Shelf) -> None:
    shelf.put(1, **tokens(500))
    await feed.current()
    catching_up = asyncio.create_task(feed.catch_up(2))
    await asked(shelf, 3)
    assert not catching_up.done()
    shelf.put(2, **tokens(600))
    await catching_up
    assert await limit(feed) == 600


@pytest.mark.asyncio
async def test_catching_up_ends_after_five_seconds(
    feed: PolicyFeed, shelf: Shelf, clock: Clock
) -> None:
    shelf.put(1)
    await feed.current()
    began, clock.step = clock.now, 0.4
    with pytest.raises(StoreUnavailable, match="stays older") as refusal:
        await feed.catch_up(2)
    assert refusal.value.memory == "team-a/support"
    assert 4 < clock.now - began < 7


@pytest.mark.asyncio
async def test_catching_up_tells_what_went_wrong(feed: PolicyFeed, shelf: Shelf) -> None:
    shelf.put(1)
    await feed.current()
    shelf.fault = StoreUnavailable("gone")
    with pytest.raises(StoreUnavailable, match="gone"):
        await feed.catch_up(2)


# --- removed, and being deleted


def remove(shelf: Shelf) -> None:
    shelf.removed = True


def delete(shelf: Shelf) -> None:
    shelf.put(9, active=False)


GONE = pytest.mark.parametrize(
    ("end", "sentence"),
    [(remove, "the policy of this memory was removed"), (delete, "the memory is being deleted")],
)


@pytest.mark.asyncio
@GONE
@pytest.mark.parametrize("pause", [FOLLOW + 1, TRUST + 1], ids=["in the background", "at once"])
@pytest.mark.parametrize("has_own", [False, True], ids=["managed only", "one was given too"])
async def test_a_policy_that_is_gone_is_not_replaced_in_silence(
    *,
    shelf: Shelf,
    clock: Clock,
    end: Callable[[Shelf], None],
    sentence: str,
    pause: float,
    has_own: bool,
) -> None:
    feed = PolicyFeed(shelf, MEMORY, policy(**tokens(100)) if has_own else None, clock=clock)
    shelf.put(1, **tokens(500))
    await feed.current()
    end(shelf)
    clock.now += pause
    if pause < TRUST:
        assert await limit(feed) == 500
        await asked(shelf, 2)
    for _ in range(3):
        with pytest.raises(PolicyNotFound, match=sentence) as refusal:
            await feed.current()
        assert refusal.value.memory == "team-a/support"
        clock.now += 1
    shelf.removed = False
    shelf.put(10, **tokens(700))
    assert await limit(feed) == 700


@pytest.mark.asyncio
@GONE
async def test_catching_up_with_a_policy_that_is_gone(
    feed: PolicyFeed, shelf: Shelf, end: Callable[[Shelf], None], sentence: str
) -> None:
    shelf.put(1)
    await feed.current()
    end(shelf)
    with pytest.raises(PolicyNotFound, match=sentence):
        await feed.catch_up(2)


@pytest.mark.asyncio
async def test_a_memory_that_is_being_deleted_from_the_start(
    given: PolicyFeed, shelf: Shelf
) -> None:
    delete(shelf)
    with pytest.raises(PolicyNotFound, match="being deleted"):
        await given.current()


# --- a given policy and an operator's


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "holdfast" and record.levelno >= logging.WARNING
    ]


@pytest.mark.asyncio
async def test_two_policies_that_differ_are_told_of_once(
    given: PolicyFeed, shelf: Shelf, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "holdfast")
    for revision in (1, 2, 3):
        shelf.put(revision, **tokens(500 + revision))
        await given.current()
        clock.now += TRUST + 1
    assert warnings(caplog) == [
        (
            "memory team-a/support: the operator's policy (revision 1) is in force, and differs from "
            "the one given as an argument"
        )
    ]


@pytest.mark.asyncio
async def test_the_same_policy_twice_is_nothing_to_tell(
    given: PolicyFeed, shelf: Shelf, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.put(1, **tokens(100), description="in other words")
    await given.current()
    assert warnings(caplog) == []
    shelf.put(2, **tokens(500))
    clock.now += TRUST + 1
    await given.current()
    assert len(warnings(caplog)) == 1


@pytest.mark.asyncio
async def test_trouble_in_the_background_is_no_warning(
    feed: PolicyFeed, shelf: Shelf, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "holdfast")
    shelf.put(1)
    await feed.current()
    shelf.fault = StoreUnavailable("redis://user:s3cret@host")
    clock.now += FOLLOW + 1
    await feed.current()
    await asked(shelf, 2)
    assert warnings(caplog) == []
    assert [record.getMessage() for record in caplog.records] == [
        "policy of memory team-a/support not refreshed: StoreUnavailable"
    ]


@pytest.mark.asyncio
async def test_a_memory_in_use_follows_between_its_calls_and_stops_when_it_rests(
    feed: PolicyFeed, shelf: Shelf, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.policies.FOLLOW", 0.001)
    shelf.put(1, **tokens(500))
    await feed.current()
    await asked(shelf, 5)
    clock.now += FOLLOWING
    await until(lambda: len(asyncio.all_tasks()) == 1, "the memory rests")


# --- what counts tokens


class Letters:
    """A program's own counter."""

    name = "letters"

    def count(self, text: str) -> Count:
        return Count(len(text), exact=True)


@pytest.mark.parametrize(
    ("model", "tokens", "exact"),
    [
        ({}, 2, True),
        ({"tokenizer": "approximate"}, 3, False),
        ({"name": "gpt-4o"}, 2, True),
        ({"name": "a-model"}, 2, True),
        ({"name": "claude-sonnet-4-5"}, 2, False),
        ({"name": "claude-sonnet-4-5", "tokenizer": "approximate"}, 3, False),
        ({"name": "gpt-4"}, 2, False),
        ({"name": "gpt-4", "tokenizer": "cl100k_base"}, 2, True),
    ],
)
def test_a_count_is_exact_only_with_the_models_own_tokenizer(
    model: dict[str, Any], tokens: int, exact: bool
) -> None:
    found = agreement(policy(model=model), 1).counter
    assert found.count("two words") == Count(tokens, exact)
    assert found.name == model.get("tokenizer", "o200k_base")


@pytest.mark.parametrize("model", [{}, {"name": "claude-sonnet-4-5"}, {"name": "gpt-4"}])
def test_a_counter_of_ones_own_wins_over_any_policy(model: dict[str, Any]) -> None:
    letters = Letters()
    found = agreement(policy(model=model), 1, letters)
    assert found.counter is letters
    assert found.warnings == ()


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"name": "a-model"},
        {"name": "gpt-4o"},
        {"name": "gpt-4", "tokenizer": "cl100k_base"},
        {"name": "gpt-4", "tokenizer": "approximate"},  # nobody chooses that by mistake
        {"name": "claude-sonnet-4-5"},  # there is nothing better to choose
    ],
)
def test_a_tokenizer_that_goes_with_the_model_needs_no_warning(model: dict[str, Any]) -> None:
    assert agreement(policy(model=model), 1).warnings == ()


@pytest.mark.asyncio
@pytest.mark.parametrize("by_argument", [False, True])
async def test_a_tokenizer_of_another_model_is_told_of_once(
    shelf: Shelf, clock: Clock, caplog: pytest.LogCaptureFixture, by_argument: bool
) -> None:
    wrong = {"name": "azure/gpt-4"}
    feed = PolicyFeed(shelf, MEMORY, policy(model=wrong) if by_argument else None, clock=clock)
    assert warnings(caplog) == []
    for revision in (1, 2):
        if not by_argument:
            shelf.put(revision, model=wrong, **tokens(500 + revision))
        await feed.current()
        clock.now += STANDALONE + 1
    await feed.current()
    assert warnings(caplog) == [
        (
            "memory team-a/support: model.name 'azure/gpt-4' counts with cl100k_base, "
            "model.tokenizer is o200k_base: token counts are estimates until the policy says the same"
        )
    ]
    await feed.aclose()


@pytest.mark.asyncio
async def test_every_agreement_counts_with_the_counter_of_ones_own(
    shelf: Shelf, clock: Clock
) -> None:
    letters = Letters()
    feed = PolicyFeed(shelf, MEMORY, policy(), counter=letters, clock=clock)
    assert (await feed.current()).counter is letters
    shelf.put(1, model={"name": "gpt-4"})
    clock.now += STANDALONE + 1
    assert (await feed.current()).terms.revision == 1
    assert (await feed.current()).counter is letters
    await feed.aclose()


def test_the_limit_is_a_part_of_what_the_model_is_known_to_hold() -> None:
    percent = {"limits": {"maxContextPercent": 10}}
    assert terms_of(policy(**percent, model={"name": "gpt-4o"}), 1).max_tokens == 12_800
    assert terms_of(policy(**percent, model={"name": "a-model"}), 1).max_tokens == 2000
