"""Quotas: what one client adds to what was measured, and what it refuses."""

import asyncio
import contextlib
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import quotas
from holdfast.errors import (
    AmbiguousWrite,
    BudgetExceeded,
    HoldfastError,
    IdempotencyConflict,
    QuotaExceeded,
)
from holdfast.messages import encode_item, id_key
from holdfast.policies import FOLLOW, TRUST, PolicyFeed
from holdfast.policy import Policy, load_policy
from holdfast.quotas import STALE, Amount, Ledger, Standing, amount_of
from holdfast.store.in_memory import InMemorySession, InMemoryStore
from holdfast.values import (
    Appended,
    Batch,
    Caller,
    MemoryAddress,
    Notes,
    Part,
    PolicyDocument,
    Prepared,
    Stored,
    Usage,
)
from holdfast_operator.services import measurements
from tests.harness.waiting import until

MEMORY = MemoryAddress("team-a", "support")
HARD = {"tokens": {"soft": 80, "hard": 100}}
FREE = Caller()


class Clock:
    """Monotonic seconds that stand still until they are moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Sessions:
    """Sessions of an in-memory store, which fail on demand after the write or instead of it."""

    def __init__(self) -> None:
        self.store = InMemoryStore()
        self.fault: HoldfastError | None = None
        self.gate: asyncio.Event | None = None
        self.asked = 0

    def named(self, name: str) -> "Session":
        return Session(self, self.store.session(MEMORY, name))


class Session:
    """One of them."""

    def __init__(self, among: Sessions, inner: InMemorySession) -> None:
        self._among = among
        self._inner = inner

    async def append(self, terms: Any, batch: Batch, caller: Caller) -> Appended:
        self._among.asked += 1
        if self._among.gate is not None:
            await self._among.gate.wait()
        if self._among.fault is not None:
            raise self._among.fault
        return await self._inner.append(terms, batch, caller)

    async def known(self, batch: Batch) -> Appended | None:
        return await self._inner.known(batch)

    async def import_part(self, terms: Any, part: Part) -> tuple[int, int]:
        done = await self._inner.import_part(terms, part)
        if self._among.fault is not None:
            raise self._among.fault
        return done


def policy(**parts: Any) -> Policy:
    spec = {"limits": {"maxTokens": 100_000}, "retention": {"ttl": "1h"}, "quotas": parts}
    return load_policy(spec)[1]


def usage(*, tokens: int = 0, size: int = 0, sessions: int = 0, at: int = 1, age: int = 0) -> Usage:
    return Usage(sessions, 0, tokens, size, at, age)


def batch(tokens: int, *, id: str = "", digest: int = 7) -> Batch:
    return Batch((Prepared(b'"text"', tokens),), key=id_key(id) if id else "", digest=digest)


class World:
    """A ledger under a policy, and sessions to append to."""

    def __init__(self, **parts: Any) -> None:
        self.clock = Clock()
        self.policy = policy(**(parts or HARD))
        self.ledger = Ledger(MEMORY, clock=self.clock)
        self.sessions = Sessions()
        self.feed = PolicyFeed(self.sessions.store, MEMORY, self.policy)

    def measure(self, found: Usage | None, *, managed: bool = True) -> Standing:
        return self.ledger.observe(self.policy, found, managed=managed, asked=self.clock.now)

    async def append(self, tokens: int, name: str = "any", **id: Any) -> Appended:
        terms = (await self.feed.current()).terms
        session: Any = self.sessions.named(name)
        return await self.ledger.append(session, terms, batch(tokens, **id), FREE)

    def used(self, quota: str = "tokens") -> int:
        return next(level.used for level in self.ledger.levels if level.quota == quota)


@pytest.fixture
def world() -> World:
    return World()


def test_the_operator_measures_as_often_as_the_library_counts_on() -> None:
    assert quotas.MEASURED_EVERY == measurements.INTERVAL
    assert STALE == 900


# --- what a record takes


@given(
    text=st.text(max_size=50),
    id=st.none() | st.text(min_size=1, max_size=20),
    notes=st.none() | st.builds(Notes, share=st.text(max_size=9), redacted=st.integers(0, 99)),
    tokens=st.integers(0, 4_000_000),
)
def test_a_record_is_never_counted_below_what_it_takes(
    text: str, id: str | None, notes: Notes | None, tokens: int
) -> None:
    record = Prepared(encode_item(text), tokens, 0, 0, (), (), id, notes)
    found = amount_of(Batch((record, record)))
    assert found.tokens == 2 * tokens
    taken = asyncio.run(_taken(record))
    assert taken <= found.bytes <= taken + 80


async def _taken(record: Prepared) -> int:
    session = InMemoryStore().session(MEMORY, "any")
    terms = (await PolicyFeed(InMemoryStore(), MEMORY, load_policy(BARE)[1]).current()).terms
    await session.append(terms, Batch((record, record)), FREE)
    return (await session.status()).bytes


BARE = {"limits": {"maxTokens": 100_000_000}, "retention": {"ttl": "1h"}}


# --- whether they can be judged


def test_a_policy_without_quotas_asks_for_nothing() -> None:
    clock = Clock()
    ledger = Ledger(MEMORY, clock=clock)
    plain = load_policy(BARE)[1]
    assert ledger.observe(plain, None, managed=False, asked=0.0) is Standing.NONE
    assert (ledger.warnings(), ledger.levels, ledger.max_sessions) == ([], (), 0)


def test_standalone_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    with caplog.at_level(logging.WARNING, "holdfast"):
        for _ in range(3):
            assert world.measure(None, managed=False) is Standing.STANDALONE
    sentence = (
        "the quotas cannot be judged: no operator measures this memory. Leave `quotas` out of the "
        "policy, or let an operator manage it"
    )
    assert [record.getMessage() for record in caplog.records] == [
        f"memory team-a/support: {sentence}"
    ]
    assert world.ledger.warnings() == [sentence]
    assert world.ledger.max_sessions == 0, "nobody tidies the index"


def test_the_first_measurement_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    world = World(sessions={"hard": 5})
    assert world.measure(None) is Standing.UNMEASURED
    assert caplog.records == []
    assert "not measured" in world.ledger.warnings()[0]
    assert world.ledger.max_sessions == 5, "the index counts without it"


def test_an_old_measurement_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world = World(sessions={"hard": 5}, **HARD)
    assert world.measure(usage(tokens=100, age=900_000)) is Standing.JUDGED
    with caplog.at_level(logging.WARNING, "holdfast"):
        for age in (900_001, 2_000_000):
            assert world.measure(usage(tokens=100, age=age)) is Standing.STALE
    assert len(caplog.records) == 1
    assert "older than 15 minutes" in caplog.records[0].getMessage()
    assert world.ledger.warnings()[0] in caplog.records[0].getMessage()
    assert (world.ledger.levels, world.ledger.max_sessions) == ((), 0)
    assert world.measure(usage(tokens=100, at=2)) is Standing.JUDGED
    assert world.ledger.max_sessions == 5


# --- hard bounds


@pytest.mark.asyncio
async def test_a_client_fills_the_rest_and_no_more(world: World) -> None:
    world.measure(usage(tokens=70))
    await world.append(20)
    await world.append(10)
    for _ in range(3):
        with pytest.raises(QuotaExceeded) as refusal:
            await world.append(1)
        found = refusal.value
        assert (found.quota, found.used, found.hard) == ("tokens", 100, 100)
    assert world.sessions.asked == 2, "what is refused is not sent"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("fault", "counted"),
    [(None, 60), (AmbiguousWrite("perhaps"), 60), (HoldfastError("certainly not"), 0)],
)
async def test_an_import_in_doubt_counts(
    world: World, fault: HoldfastError | None, counted: int
) -> None:
    world.measure(usage(tokens=20))
    world.sessions.fault = fault
    session: Any = world.sessions.named("any")
    part = Part((Stored(60, 0, 1, 1, 1, None, "text"),), (), {}, (), 0, 0, 0, 1, 0)
    with contextlib.suppress(HoldfastError):
        await world.ledger.import_part(session, (await world.feed.current()).terms, part)
    assert world.used() == 20 + counted


@pytest.mark.asyncio
async def test_what_costs_nothing_is_never_refused(world: World) -> None:
    world.measure(usage(tokens=500))
    await world.append(0)


@pytest.mark.asyncio
async def test_bytes_are_bounded_as_tokens_are() -> None:
    world = World(bytes={"hard": "1Ki"})
    world.measure(usage(size=1024 - 2 * 80))
    for _ in range(2):
        await world.append(1_000)
    with pytest.raises(QuotaExceeded, match=r"quotas\.bytes\.hard"):
        await world.append(1_000)


@pytest.mark.asyncio
async def test_many_tasks_share_the_rest(world: World) -> None:
    world.measure(usage(tokens=90))
    world.sessions.gate = asyncio.Event()
    tasks = [asyncio.create_task(world.append(5)) for _ in range(10)]
    await until(lambda: world.sessions.asked == 2, "two appends are on their way")
    world.sessions.gate.set()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(one, QuotaExceeded) for one in done) == 8
    assert world.used() == 100


@pytest.mark.asyncio
async def test_what_was_not_written_is_not_counted(world: World) -> None:
    world.measure(usage(tokens=50))
    world.sessions.fault = BudgetExceeded("full")
    for _ in range(5):
        with pytest.raises(BudgetExceeded):
            await world.append(50)
    assert world.used() == 50
    world.sessions.fault = None
    await world.append(50)
    assert world.used() == 100


@pytest.mark.asyncio
async def test_what_is_in_doubt_is_counted(world: World) -> None:
    world.measure(usage(tokens=50))
    world.sessions.fault = AmbiguousWrite("who knows")
    with pytest.raises(AmbiguousWrite):
        await world.append(10)
    assert world.used() == 60
    world.sessions.fault = None
    world.sessions.gate = asyncio.Event()
    task = asyncio.create_task(world.append(10))
    await until(lambda: world.sessions.asked == 2, "it is on its way")
    task.cancel()
    await asyncio.wait([task])
    assert world.used() == 70


@pytest.mark.asyncio
async def test_a_repeated_append_counts_once(world: World) -> None:
    world.measure(usage(tokens=50))
    first = await world.append(10, id="a1")
    again = await world.append(10, id="a1")
    assert (again.seq, again.duplicate) == (first.seq, True)
    assert world.used() == 60


@pytest.mark.asyncio
async def test_what_was_stored_before_is_answered_when_the_quota_is_full(world: World) -> None:
    world.measure(usage(tokens=50))
    first = await world.append(50, id="a1")
    again = await world.append(50, id="a1")
    assert (again.seq, again.duplicate, again.tokens) == (first.seq, True, 50)
    with pytest.raises(QuotaExceeded):
        await world.append(50, id="b2")
    with pytest.raises(IdempotencyConflict):
        await world.append(50, id="a1", digest=1)
    with pytest.raises(QuotaExceeded):
        await world.append(50, name="another", id="a1")


# --- measurements come in


@pytest.mark.asyncio
async def test_a_measurement_replaces_what_was_written_before_it(world: World) -> None:
    world.measure(usage(tokens=50, at=1))
    await world.append(20)
    world.clock.now += 10
    await world.append(5)
    assert world.used() == 75
    world.clock.now += 10
    world.measure(usage(tokens=50, at=1, age=20_000))
    assert world.used() == 75, "the same one says nothing new"
    world.measure(usage(tokens=70, at=2, age=15_000))
    assert world.used() == 75, "5 came after it"
    world.clock.now += 10
    world.measure(usage(tokens=75, at=3, age=1_000))
    assert world.used() == 75


@pytest.mark.asyncio
async def test_what_is_on_its_way_outlives_a_measurement(world: World) -> None:
    world.measure(usage(tokens=50, at=1))
    world.sessions.gate = asyncio.Event()
    task = asyncio.create_task(world.append(30))
    await until(lambda: world.sessions.asked == 1, "it is on its way")
    world.clock.now += 10
    world.measure(usage(tokens=50, at=2))
    assert world.used() == 80
    world.sessions.gate.set()
    await task
    assert world.used() == 80


@pytest.mark.asyncio
async def test_a_steady_stream_is_not_counted_twice() -> None:
    world = World(tokens={"hard": 1_000_000})
    world.measure(usage(at=1))
    for _ in range(1000):  # a hundred seconds
        await world.append(1)
        world.clock.now += 0.1
    world.measure(usage(tokens=900, at=2, age=10_000))
    assert 1000 <= world.used() <= 1000 + 3, "a quarter of a second may count twice"


@pytest.mark.asyncio
async def test_what_nobody_measures_is_not_remembered_for_ever(world: World) -> None:
    world.measure(usage(tokens=0, at=1))
    await world.append(10)
    world.clock.now += STALE + 1
    await world.append(10)
    assert world.used() == 10


@pytest.mark.asyncio
async def test_the_error_is_what_the_others_wrote() -> None:
    first, second, third = World(), World(), World()
    for one in (first, second, third):
        one.measure(usage(tokens=60))
        written = 0
        for _ in range(5):
            written += (await one.append(7, name=f"s-{written}")).tokens
        with pytest.raises(QuotaExceeded):
            await one.append(7)
        assert written == 35
    # 60 + 3 x 35, and never more than 60 + 3 x 40.
    for one in (first, second, third):
        one.clock.now += 1
        one.measure(usage(tokens=165, at=2))
        with pytest.raises(QuotaExceeded):
            await one.append(1)


# --- sessions and soft bounds


@pytest.mark.asyncio
async def test_sessions_are_counted_where_they_begin() -> None:
    world = World(sessions={"soft": 11, "hard": 20})
    world.measure(usage(sessions=10))
    for _ in range(3):
        await world.append(1, name="a")
    assert (world.used("sessions"), world.ledger.warnings()) == (11, [])
    await world.append(1, name="b")
    assert world.used("sessions") == 12
    assert world.ledger.warnings() == world.ledger.exceeded()
    [told] = world.ledger.warnings()
    assert told == (
        "the memory holds about 12 sessions, more than 11 (quotas.sessions.soft); above 20 no session "
        "begins: clear sessions, let them expire sooner, or raise the quota"
    )


@pytest.mark.asyncio
async def test_a_soft_bound_refuses_nothing() -> None:
    world = World(tokens={"soft": 80}, bytes={"soft": "1Ki", "hard": "1Mi"})
    world.measure(usage(tokens=80, size=1024))
    assert world.ledger.exceeded() == []
    await world.append(500)
    size, tokens = world.ledger.exceeded()
    assert size == (
        f"the memory holds about {world.used('bytes')} bytes, more than 1024 (quotas.bytes.soft); above "
        "1048576 writes are refused: clear sessions, let them expire sooner, or raise the quota"
    )
    assert tokens == (
        "the memory holds about 580 tokens, more than 80 (quotas.tokens.soft): clear sessions, let them "
        "expire sooner, or raise the quota"
    )
    world.clock.now += 1
    world.measure(usage(tokens=80, size=2**20, at=2))
    assert world.ledger.exceeded()[0] == (
        "the memory holds about 1048576 bytes, and 1048576 are allowed (quotas.bytes.hard), so writes "
        "are refused: clear sessions, let them expire sooner, or raise the quota"
    )


def test_levels_are_figures() -> None:
    world = World(tokens={"soft": 80, "hard": 100}, sessions={"hard": 7})
    world.measure(usage(tokens=33, sessions=4))
    assert world.ledger.levels == (("sessions", 4, None, 7), ("tokens", 33, 80, 100))
    assert Amount(1, 2, 3).plus(Amount(1, 1, 1), -1) == Amount(0, 1, 2)


# --- they follow the policy


class Shelf:
    """What an operator wrote, with a manual clock of the store."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000_000
        self.store = InMemoryStore(clock=lambda: self.now)
        self.clock = Clock()
        self.feed = PolicyFeed(self.store, MEMORY, None, clock=self.clock)

    def put(self, revision: int, **parts: Any) -> None:
        document = policy(**parts).document().encode()
        self.store.put_policy(MEMORY, PolicyDocument(revision, True, document))

    def advance(self, seconds: float) -> None:
        self.now += int(seconds * 1_000_000)
        self.clock.now += seconds


@pytest.mark.asyncio
async def test_the_measurement_comes_with_the_policy() -> None:
    shelf = Shelf()
    shelf.put(1, sessions={"hard": 9}, tokens={"hard": 100})
    agreed = await shelf.feed.current()
    assert agreed.terms.max_sessions == 9
    assert shelf.feed.ledger.levels == ()
    shelf.store.put_usage(MEMORY, sessions=3, messages=9, tokens=40, bytes=2000)
    shelf.advance(TRUST + 1)
    assert await shelf.feed.current() is agreed, "nothing is read again that did not change"
    assert [level.used for level in shelf.feed.ledger.levels] == [3, 40]
    await shelf.feed.aclose()


@pytest.mark.asyncio
async def test_nobody_measures_any_more() -> None:
    shelf = Shelf()
    shelf.put(1, sessions={"hard": 9})
    shelf.store.put_usage(MEMORY, sessions=3, messages=9, tokens=40, bytes=2000)
    assert (await shelf.feed.current()).terms.max_sessions == 9
    shelf.advance(STALE + 1)
    agreed = await shelf.feed.current()
    assert (agreed.terms.max_sessions, agreed.terms.revision) == (0, 1)
    assert "older than 15 minutes" in shelf.feed.ledger.warnings()[0]
    shelf.store.put_usage(MEMORY, sessions=3, messages=9, tokens=40, bytes=2000)
    shelf.advance(FOLLOW + 1)
    await shelf.feed.catch_up(1)
    assert (await shelf.feed.current()).terms.max_sessions == 9
    await shelf.feed.aclose()


@pytest.mark.asyncio
async def test_an_edit_of_the_quota_is_followed() -> None:
    shelf = Shelf()
    shelf.put(1, sessions={"hard": 9})
    await shelf.feed.current()
    shelf.put(2)
    await shelf.feed.catch_up(2)
    assert (await shelf.feed.current()).terms.max_sessions == 0
    shelf.put(3, sessions={"hard": 4})
    await shelf.feed.catch_up(3)
    assert (await shelf.feed.current()).terms.max_sessions == 4
    await shelf.feed.aclose()
