"""What reads answer while the store is unavailable: errors, copies, or nothing, as the policy says."""

import json
import logging
import random
from collections.abc import Callable, Collection
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.client import Client
from holdfast.copies import MAX_AGE, MAX_CALLS, Copies, Question
from holdfast.errors import AccessDenied, HoldfastError, PolicyNotFound, StoreUnavailable
from holdfast.fallback import PAGE
from holdfast.policies import TRUST
from holdfast.policy import load_policy
from holdfast.session import Session
from holdfast.store import SessionStore
from holdfast.store.in_memory import InMemoryStore
from holdfast.values import MemoryAddress, Messages, Page, PolicyDocument, Record
from tests.unit.test_policies import Clock

MEMORY = MemoryAddress("local", "support")
SPEC: dict[str, Any] = {
    "model": {"tokenizer": "approximate"},
    "limits": {"maxTokens": 100_000},
    "retention": {"ttl": "1h"},
}


def away() -> StoreUnavailable:
    """Return a fault of its own: an error keeps the session that it was first raised for."""
    return StoreUnavailable("away")


class Reached:
    """A session's handle that fails while the store is away."""

    def __init__(self, store: "Faulty", session: SessionStore) -> None:
        self._store = store
        self._session = session

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._session, name)

        async def reach(*arguments: Any, **options: Any) -> Any:
            self._store.fail()
            answer = await call(*arguments, **options)
            if self._store.after is not None:
                after, self._store.after = self._store.after, None
                await after()
            return answer

        return reach


class Faulty:
    """The in-memory store behind something that can break.

    Attributes:
        fault: what every call raises; None: the store answers.
        policy_fault: what asking for the policy raises as well.
        after: called once, after the next call was carried out and before its caller hears of it.
    """

    def __init__(self) -> None:
        self.store = InMemoryStore()
        self.fault: HoldfastError | None = None
        self.policy_fault: HoldfastError | None = None
        self.after: Callable[[], Any] | None = None

    def fail(self) -> None:
        if self.fault is not None:
            raise self.fault

    def session(self, memory: MemoryAddress, key: str, labels: Collection[str] = ()) -> Any:
        return Reached(self, self.store.session(memory, key, labels))

    def put(self, revision: int, **spec: Any) -> None:
        document = load_policy(SPEC | spec)[1].document().encode()
        self.store.put_policy(MEMORY, PolicyDocument(revision, active=True, document=document))

    async def policy(self, memory: MemoryAddress) -> PolicyDocument | None:
        self.fail()
        if self.policy_fault is not None:
            raise self.policy_fault
        return await self.store.policy(memory)

    async def aclose(self) -> None:
        await self.store.aclose()


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


@pytest.fixture
def store() -> Faulty:
    return Faulty()


def client(store: Faulty, mode: str = "ReadStale", **spec: Any) -> Client:
    return Client(store, policy=SPEC | {"failureMode": mode} | spec)


def session(store: Faulty, mode: str = "ReadStale", **spec: Any) -> Session:
    return client(store, mode, **spec).memory("support").session("42")


READS: list[Callable[[Session], Any]] = [
    lambda session: session.read(),
    lambda session: session.read(limit=2),
    lambda session: session.read(max_tokens=1000),
    lambda session: session.read(after=1),
    lambda session: session.read_page(),
    lambda session: session.read_page(after=1, limit=1),
]
reads = pytest.mark.parametrize(
    "read", READS, ids=["all", "limit", "budget", "after", "page", "2."]
)


# --- the modes


@pytest.mark.asyncio
@reads
async def test_strict_raises(store: Faulty, read: Callable[[Session], Any]) -> None:
    strict = session(store, "Strict")
    await strict.append_many([user("a"), user("b")])
    assert (await read(strict)).stale is False
    store.fault = away()
    with pytest.raises(StoreUnavailable):
        await read(strict)


@pytest.mark.asyncio
@reads
async def test_stale_returns_the_last_answer_to_the_same_call(
    store: Faulty, read: Callable[[Session], Any]
) -> None:
    stale = session(store)
    await stale.append_many([user("a"), {"role": "user", "content": "é", "n": [1, 2.5, None]}])
    answer = await read(stale)
    await stale.append(user("c"))
    store.fault = away()
    for _ in range(2):
        copy = await read(stale)
        assert copy.stale is True
        if isinstance(copy, Page):
            assert (copy.records, copy.total, copy.next) == (
                answer.records,
                answer.total,
                answer.next,
            )
            copy.records[0].item["content"] = "changed by its caller"
        else:
            assert copy == answer
            copy[0]["content"] = "changed by its caller"
            copy.clear()
    store.fault = None
    fresh = await read(stale)
    assert fresh.stale is False
    assert fresh != answer


@pytest.mark.asyncio
@reads
async def test_stale_without_an_earlier_answer_raises(
    store: Faulty, read: Callable[[Session], Any]
) -> None:
    stale = session(store)
    await stale.append_many([user("a"), user("b")])
    await stale.read(limit=1)
    store.fault = away()
    with pytest.raises(StoreUnavailable) as caught:
        await read(stale)
    assert (caught.value.memory, caught.value.session) == ("local/support", "42")


@pytest.mark.asyncio
@reads
async def test_empty_returns_nothing(store: Faulty, read: Callable[[Session], Any]) -> None:
    empty = session(store, "ReadEmpty")
    await empty.append_many([user("a"), user("b")])
    assert not (await read(empty)).stale
    store.fault = away()
    answer = await read(empty)
    assert answer.stale is True
    assert answer == ([] if isinstance(answer, list) else Page((), 0, None, 0, stale=True))


@pytest.mark.asyncio
async def test_empty_needs_no_first_answer(store: Faulty) -> None:
    store.fault = away()
    assert await session(store, "ReadEmpty").read() == []
    with pytest.raises(StoreUnavailable):
        await session(store, "ReadStale").read()


@pytest.mark.asyncio
@pytest.mark.parametrize("mode", ["Strict", "ReadStale", "ReadEmpty"])
async def test_everything_but_reading_raises(store: Faulty, mode: str) -> None:
    one = session(store, mode)
    await one.append_many([user("a"), user("b")])
    await one.read()
    store.fault = away()
    for call in (
        one.append(user("c")),
        one.append(user("c"), id="1"),
        one.pop(),
        one.clear(),
        one.pin(1),
        one.length(),
        one.token_count(),
        one.status(),
        one.health(),
        one.turn().__aenter__(),
    ):
        with pytest.raises(StoreUnavailable):
            await call


@pytest.mark.asyncio
@pytest.mark.parametrize("mode", ["ReadStale", "ReadEmpty"])
@reads
async def test_a_turn_never_reads_copies(
    store: Faulty, mode: str, read: Callable[[Any], Any]
) -> None:
    one = session(store, mode)
    await one.append_many([user("a"), user("b")])
    await read(one)
    async with one.turn() as turn:
        await read(turn)
        store.fault = away()
        with pytest.raises(StoreUnavailable):
            await read(turn)
        store.fault = None


@pytest.mark.asyncio
async def test_what_a_turn_read_is_nobody_elses(store: Faulty) -> None:
    one = session(store)
    async with one.turn() as turn:
        await turn.append(user("a"))
        await turn.read()
    store.fault = away()
    with pytest.raises(StoreUnavailable):
        await one.read()


@pytest.mark.asyncio
async def test_other_handles_of_the_session_have_the_same_copy(store: Faulty) -> None:
    memory = client(store).memory("support")
    await memory.session("42").append(user("a"))
    await memory.session("42").read()
    store.fault = away()
    assert await memory.session("42").read() == [user("a")]
    with pytest.raises(StoreUnavailable):
        await memory.session("43").read()


@pytest.mark.asyncio
async def test_closing_drops_the_copies(store: Faulty) -> None:
    one = client(store)
    stale = one.memory("support").session("42")
    await stale.append(user("a"))
    await stale.read()
    await one.aclose()
    store.fault = away()
    with pytest.raises(StoreUnavailable):
        await stale.read()


@pytest.mark.asyncio
async def test_errors_that_are_answers_stay_errors(store: Faulty) -> None:
    stale = session(store)
    await stale.append(user("a" * 400))
    await stale.read(max_tokens=1000)
    with pytest.raises(ValueError, match="limit"):
        await stale.read(limit=-1)
    with pytest.raises(HoldfastError, match="max_tokens"):
        await stale.read(max_tokens=1)


# --- what was taken out


@pytest.mark.asyncio
@pytest.mark.parametrize("taking", [lambda one: one.clear(), lambda one: one.pop()])
@pytest.mark.parametrize("answered", [True, False], ids=["answered", "not answered"])
async def test_what_this_process_takes_out_is_in_no_copy(
    store: Faulty, taking: Callable[[Session], Any], answered: bool
) -> None:
    stale = session(store)
    await stale.append(user("secret"))
    await stale.read()
    await stale.read_page()
    if answered:
        await taking(stale)
    store.fault = away()
    if not answered:
        with pytest.raises(StoreUnavailable):
            await taking(stale)
    for read in (stale.read(), stale.read_page()):
        with pytest.raises(StoreUnavailable):
            await read


@pytest.mark.asyncio
async def test_a_new_handle_that_cannot_clear_drops_the_copy_too(store: Faulty) -> None:
    memory = client(store).memory("support")
    await memory.session("42").append(user("secret"))
    await memory.session("42").read()
    store.fault = away()
    with pytest.raises(StoreUnavailable):
        await memory.session("42").clear()
    with pytest.raises(StoreUnavailable):
        await memory.session("42").read()


@pytest.mark.asyncio
async def test_a_read_under_way_while_it_is_cleared_keeps_nothing(store: Faulty) -> None:
    stale = session(store)
    await stale.append(user("secret"))
    store.after = stale.clear
    assert await stale.read() == [user("secret")]
    store.fault = away()
    with pytest.raises(StoreUnavailable):
        await stale.read()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "look",
    [lambda one: one.read(limit=5), lambda one: one.read_page(), lambda one: one.read(limit=1)],
)
async def test_what_others_erased_is_gone_with_the_next_answer(
    store: Faulty, look: Callable[[Session], Any]
) -> None:
    stale, other = session(store), session(store)
    await stale.append(user("secret"))
    await stale.read()
    await other.clear()
    await look(stale)
    store.fault = away()
    with pytest.raises(StoreUnavailable):
        await stale.read()


@pytest.mark.asyncio
async def test_what_others_erased_and_filled_again_is_gone_with_the_next_answer(
    store: Faulty,
) -> None:
    stale, other = session(store), session(store)
    await stale.append(user("secret"))
    await stale.read()
    await other.clear()
    await other.append(user("new"))
    assert (await stale.read_page()).total == 1
    store.fault = away()
    with pytest.raises(StoreUnavailable):
        await stale.read()
    assert (await stale.read_page()).records[0].item == user("new")


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [AccessDenied("no"), PolicyNotFound("gone")])
async def test_whoever_may_not_read_any_more_has_no_copies(
    store: Faulty, error: HoldfastError
) -> None:
    memory = client(store).memory("support")
    for name in ("1", "2"):
        await memory.session(name).append(user("secret"))
        await memory.session(name).read()
    store.fault = error
    with pytest.raises(type(error)):
        await memory.session("1").read()
    store.fault = away()
    for name in ("1", "2"):
        with pytest.raises(StoreUnavailable):
            await memory.session(name).read()


# --- the policy


@pytest.fixture
def clock() -> Clock:
    return Clock()


def managed(store: Faulty, clock: Clock) -> tuple[Client, Session]:
    """A client that works under an operator's policy."""
    one = Client(store)
    memory = one.memory("support")
    memory.policies._clock = clock
    return one, memory.session("42")


@pytest.mark.asyncio
@pytest.mark.parametrize("mode", ["Strict", "ReadStale", "ReadEmpty"])
async def test_where_the_policy_cannot_be_asked_for_the_last_one_is_good_enough_to_read(
    store: Faulty, clock: Clock, mode: str
) -> None:
    store.put(3, failureMode=mode)
    one, session = managed(store, clock)
    async with one:
        await session.append(user("a"))
        clock.now += TRUST + 1
        store.policy_fault = away()  # as where it is on another node of a Cluster
        if mode == "Strict":
            with pytest.raises(StoreUnavailable):
                await session.read()
        else:
            answer = await session.read()
            assert (answer, answer.stale) == ([user("a")], False)
        with pytest.raises(StoreUnavailable):
            await session.append(user("b"))
        store.fault = away()
        if mode == "ReadStale":
            answer = await session.read()
            assert (answer, answer.stale) == ([user("a")], True)
        store.fault = store.policy_fault = None
        store.put(4, failureMode="Strict")
        clock.now += TRUST + 1
        assert (await session.read()) == [user("a")]
        store.fault = away()
        with pytest.raises(StoreUnavailable):
            await session.read()


@pytest.mark.asyncio
async def test_nobody_guesses_a_policy_that_was_never_seen(store: Faulty, clock: Clock) -> None:
    store.put(3, failureMode="ReadEmpty")
    store.fault = away()
    one, session = managed(store, clock)
    async with one:
        with pytest.raises(StoreUnavailable):
            await session.read()


@pytest.mark.asyncio
async def test_the_key_of_a_session_is_never_guessed(store: Faulty, clock: Clock) -> None:
    store.put(3, keyTemplate="{tenant}:{user}")
    given = SPEC | {"failureMode": "ReadEmpty", "keyTemplate": "{user}:{tenant}"}
    one = Client(store, policy=given)
    session = one.memory("support").session(user="1", tenant="2")
    store.fault = away()
    assert await session.read() == []
    store.fault = None
    async with one:
        await session.append(user("a"))
        assert await InMemoryRead(store).texts("2:1") == ["a"]


class InMemoryRead:
    """Reads past the library."""

    def __init__(self, store: Faulty) -> None:
        self._store = store

    async def texts(self, key: str) -> list[str]:
        terms = load_policy(SPEC)[1]
        from holdfast.policies import terms_of

        session = self._store.store.session(MEMORY, key)
        records = await session.newest(terms_of(terms, 3), 10)
        return [record.item["content"] for record in records]


# --- being told


@pytest.mark.asyncio
@pytest.mark.parametrize(("mode", "word"), [("ReadStale", "copies"), ("ReadEmpty", "nothing")])
async def test_it_is_logged_once_counted_and_shown(
    store: Faulty, caplog: pytest.LogCaptureFixture, mode: str, word: str
) -> None:
    one = session(store, mode)
    await one.append(user("a"))
    await one.read()
    assert (await one.health()).warnings == ()
    store.fault = away()
    with caplog.at_level(logging.INFO, "holdfast"):
        for _ in range(20):
            await one.read()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert "local/support" in lines[0]
    assert word in lines[0]
    store.fault = None
    [warning] = (await one.health()).warnings
    counts = "20 reads of this memory were answered with copies of earlier answers, 0 with nothing"
    if mode == "ReadEmpty":
        counts = (
            "0 reads of this memory were answered with copies of earlier answers, 20 with nothing"
        )
    assert counts in warning


# --- the mark


def test_messages_are_a_list_like_any_other() -> None:
    items = [{"role": "user", "content": "a"}, 1, None]
    messages = Messages(items, stale=True)
    assert messages == items
    assert json.loads(json.dumps(messages)) == items
    assert msgspec.json.decode(msgspec.json.encode(messages)) == items
    assert type(messages[1:]) is list
    assert (messages.stale, Messages().stale, repr(messages)) == (True, False, repr(items))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(items=st.lists(JSON, max_size=4), next=st.none() | st.integers(1, 2**53))
def test_a_kept_page_is_the_page(items: list[Any], next: int | None) -> None:
    records = tuple(
        Record(seq, 1_700_000_000_000, 3, seq, None if seq % 2 else "id", seq % 3 == 0, item, None)
        for seq, item in enumerate(items, 1)
    )
    page = Page(records, len(items), next, 1)
    copy = PAGE.copy(PAGE.text(page))
    assert copy == Page(records, len(items), next, 1, stale=True)


# --- the copies


def keep(copies: Copies, name: str, text: bytes, *question: int, **options: Any) -> None:
    with copies.reading((MEMORY, name)) as reading:
        copies.keep(reading, question, text, **({"life": 3600.0} | options))


def found(copies: Copies, name: str, *question: int) -> bytes | None:
    return copies.find((MEMORY, name), question)


def test_copies_end_by_age_and_with_the_life_of_a_session(clock: Clock) -> None:
    copies = Copies(clock=clock)
    keep(copies, "long", b"a")
    keep(copies, "short", b"b", life=10.0)
    clock.now += 9.9
    assert (found(copies, "long"), found(copies, "short")) == (b"a", b"b")
    clock.now += 0.1
    assert found(copies, "short") is None
    clock.now += MAX_AGE - 10.1
    assert found(copies, "long") == b"a"
    clock.now += 0.1
    assert found(copies, "long") is None
    keep(copies, "other", b"c")
    assert len(copies) == 1, "what is too old is not kept in memory either"


def test_copies_are_bounded_by_sessions_bytes_and_calls(clock: Clock) -> None:
    copies = Copies(sessions=3, size=10_000, clock=clock)
    for number in range(5):
        keep(copies, str(number), b"x")
    assert [found(copies, str(number)) for number in range(5)] == [None, None, b"x", b"x", b"x"]
    keep(copies, "2", b"again")
    keep(copies, "5", b"x")
    assert [found(copies, name) for name in "2345"] == [b"again", None, b"x", b"x"]
    keep(copies, "big", b"y" * 9_700)
    assert [found(copies, name) is None for name in ("2", "4", "5", "big")] == [True] * 3 + [False]
    keep(copies, "big", b"z" * 10_000)
    assert found(copies, "big") is None, "what does not fit replaces what did"
    assert (copies.size, len(copies)) == (0, 0)
    for number in range(MAX_CALLS + 2):
        keep(copies, "calls", b"", number)
    assert [found(copies, "calls", number) is None for number in (0, 1, 2)] == [True, True, False]


@given(seed=st.integers(0, 2**32))
def test_the_size_is_the_size_of_what_is_kept(seed: int) -> None:
    chance, clock = random.Random(seed), Clock()
    copies = Copies(sessions=5, size=3_000, clock=clock)
    for _ in range(80):
        name, question = str(chance.randrange(8)), chance.randrange(20)
        match chance.randrange(6):
            case 0:
                copies.forget((MEMORY, name))
            case 1:
                clock.now += chance.random() * 60
            case _:
                text, epoch = bytes(chance.randrange(1_000)), chance.choice([None, 1, 2])
                keep(copies, name, text, question, epoch=epoch, life=chance.random() * 400)
        assert len(copies) <= 5
        assert 0 <= copies.size <= 3_000
        kept = [answers for answers in copies._sessions.values() for answers in answers.values()]
        assert copies.size == sum(len(copy.text) + 200 for copy in kept)
        assert all(copies._sessions.values()), "no session without a copy"
    copies.clear()
    assert (copies.size, len(copies)) == (0, 0)


def test_a_memory_is_forgotten_with_what_is_being_read(clock: Clock) -> None:
    copies = Copies(clock=clock)
    other = MemoryAddress("local", "other")
    question: Question = ("read",)
    keep(copies, "1", b"a")
    with copies.reading((other, "1")) as elsewhere, copies.reading((MEMORY, "2")) as reading:
        copies.forget_memory(MEMORY)
        copies.keep(reading, question, b"late", life=10)
        copies.keep(elsewhere, question, b"b", life=10)
    assert found(copies, "1") is None
    assert copies.find((MEMORY, "2"), question) is None
    assert copies.find((other, "1"), question) == b"b"


def test_two_who_read_a_session_at_once_both_keep_what_they_read(clock: Clock) -> None:
    copies = Copies(clock=clock)
    with copies.reading((MEMORY, "1")) as one:
        with copies.reading((MEMORY, "1")) as two:
            copies.keep(two, (2,), b"two", life=3600.0)
        copies.keep(one, (1,), b"one", life=3600.0)
        assert (found(copies, "1", 1), found(copies, "1", 2)) == (b"one", b"two")
        copies.forget((MEMORY, "1"))
        copies.keep(one, (1,), b"late", life=3600.0)
    assert found(copies, "1", 1) is None, "what was forgotten meanwhile is not kept"
