"""What the scripts decide inside the server is what `holdfast.planning` says.

The same random operations go to the store that decides with `planning` and to the one that decides in
Lua; after each of them everything that can be compared must be the same.
"""

import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import ConnectionPool

from holdfast.errors import HoldfastError
from holdfast.planning import plan_backstop, plan_shortened
from holdfast.planning.expiry import Rule
from holdfast.store import SessionStore
from holdfast.store.in_memory import InMemoryStore
from holdfast.store.redis import RedisStore
from holdfast.store.redis.carrier import PoolCarrier
from holdfast.store.redis.layout import pack_terms, session_keys
from holdfast.store.redis.replies import milliseconds
from holdfast.store.redis.runner import Runner
from holdfast.store.redis.script import script
from holdfast.values import Batch, Caller, Flag, MemoryAddress, Prepared, Refresh, Stored, Terms
from tests.harness.meta import Lease, Meta
from tests.harness.servers import Server

pytestmark = [pytest.mark.redis]

FREE = Caller()
HOUR = 3_600_000
CALLS = tuple(f"{number:016x}" for number in range(1, 6))
SETTINGS = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Message(NamedTuple):
    """A message to be; `group` counts back from the number it will get, 0 for a group of its own."""

    tokens: int
    flags: int
    group: int
    opens: tuple[str, ...]
    closes: tuple[str, ...]


class Append(NamedTuple):
    messages: tuple[Message, ...]


class Pin(NamedTuple):
    place: int
    pinned: bool


class Pop(NamedTuple):
    pass


class Clear(NamedTuple):
    pass


class Limit(NamedTuple):
    max_tokens: int
    max_messages: int


calls = st.lists(st.sampled_from(CALLS), max_size=3).map(tuple)
answers = st.lists(st.sampled_from(CALLS + tuple(f"?{call}" for call in CALLS)), max_size=3).map(
    tuple
)
messages = st.builds(
    Message,
    tokens=st.integers(1, 12),
    flags=st.sampled_from([0] * 8 + [Flag.SYSTEM, Flag.PINNED, Flag.INEXACT]),
    group=st.sampled_from([0] * 6 + [1, 2, 3, 5, 8]),
    opens=st.one_of(st.just(()), calls),
    closes=st.one_of(st.just(()), answers),
)
limits = st.builds(
    Limit,
    max_tokens=st.sampled_from([0, 10, 25, 40, 60]),
    max_messages=st.sampled_from([0, 1, 3, 5, 9]),
)
appends = st.builds(Append, st.lists(messages, min_size=1, max_size=4).map(tuple))
operations = st.lists(
    st.one_of(
        *[appends] * 8,
        st.builds(Pin, place=st.integers(0, 20), pinned=st.booleans()),
        st.just(Pop()),
        st.just(Clear()),
        limits,
    ),
    min_size=1,
    max_size=40,
)

PLAIN = Append((Message(1, 0, 0, (), ()),))
INEXACT = Append((Message(1, Flag.INEXACT, 0, (), ()),))
JOINING_SYSTEM = Append((Message(1, Flag.SYSTEM, 1, (), ()),))
CALL = Append((Message(1, 0, 0, CALLS[:1], ()),))
MANY = tuple(f"{number:016x}" for number in range(1, 301))
MANY_CALLS = Append((Message(1, 0, 0, MANY, ()),))
MANY_ANSWERS = Append((Message(1, 0, 0, (), MANY[1:]),))
HALF_ANSWER = Append((Message(1, 0, 0, (), CALLS[:2]),))


def terms(limit: Limit, *, lease: int = HOUR, refuse: bool = False, revision: int = 0) -> Terms:
    return Terms(
        revision=revision,
        max_tokens=limit.max_tokens,
        max_messages=limit.max_messages,
        refuse=refuse,
        ttl=HOUR,
        after_clear=HOUR // 2,
        after_flush=0,
        max_lifetime=0,
        refresh=Refresh.WRITE,
        lease=lease,
        grant=2000,
        enforced=False,
        max_ids=16,
    )


class Pair:
    """Two stores that are told the same."""

    def __init__(self, planned: SessionStore, scripted: SessionStore, terms: Terms) -> None:
        self.planned = planned
        self.scripted = scripted
        self.terms = terms
        self.last = 0
        self.made: dict[int, Prepared] = {}

    async def play(self, operation: NamedTuple) -> None:
        """Do it to both and compare what they answer and what they hold then."""
        if isinstance(operation, Limit):
            self.terms = replace(
                self.terms, revision=self.terms.revision + 1, **operation._asdict()
            )
            return
        handles = (self.planned, self.scripted)
        planned, scripted = [await self._answer(operation, handle) for handle in handles]
        assert scripted == planned, f"{operation} was answered differently"
        planned, scripted = [await self._state(handle) for handle in handles]
        assert scripted == planned, f"{operation} left something else"

    async def _answer(self, operation: NamedTuple, handle: SessionStore) -> Any:
        try:
            return await self._do(operation, handle)
        except HoldfastError as error:
            return error.code, error.message

    async def _do(self, operation: NamedTuple, handle: SessionStore) -> Any:
        match operation:
            case Append():
                batch = Batch(tuple(self._prepare(operation)))
                done = await handle.append(self.terms, batch, FREE)
                if handle is self.scripted:
                    self.made |= {done.seq + at: one for at, one in enumerate(batch.records)}
                    self.last = done.seq + len(batch.records) - 1
                return msgspec.structs.replace(done, epoch=0)
            case Pin():
                records = (await self.planned.everything(self.terms)).records
                seq = records[operation.place % len(records)].seq if records else 1
                done = await handle.pin(self.terms, FREE, seq=seq, pinned=operation.pinned)
                return done._replace(epoch=0)
            case Pop():
                newest = await handle.newest(self.terms, 1)
                seq = newest[0].seq if newest else 1
                made = self.made.get(seq, Prepared(b"", 0))
                done = await handle.pop(
                    self.terms, FREE, expected=seq, opens=made.opens, closes=made.closes
                )
                return done._replace(epoch=0)
            case _:
                return (await handle.clear(self.terms, FREE, force=False))._replace(epoch=0)

    def _prepare(self, operation: Append) -> list[Prepared]:
        return [
            Prepared(
                body=b'"message"',
                tokens=message.tokens,
                flags=int(message.flags),
                group=max(0, self.last + 1 + at - message.group) if message.group else 0,
                opens=message.opens,
                closes=message.closes,
            )
            for at, message in enumerate(operation.messages)
        ]

    async def _state(self, handle: SessionStore) -> Any:
        window = await handle.everything(self.terms)
        section = await handle.page(self.terms, after=0, limit=1000)
        status = window.status._replace(epoch=0, expires_at=0)
        records = [msgspec.structs.replace(record, ts=0) for record in window.records]
        return status, records, section.waiting, section.newest


def redis_store(server: Server) -> RedisStore:
    return RedisStore.from_url(server.url)


def new_memory() -> MemoryAddress:
    return MemoryAddress(f"mirror-{uuid.uuid4().hex[:12]}", "support")


@pytest.mark.asyncio
class TestAppend:
    """Groups, limits, flags and counters of whole lives of sessions."""

    @SETTINGS
    @given(
        limit=limits,
        lease=st.sampled_from([HOUR, 0]),
        refuse=st.sampled_from([False, False, False, True]),
        life=operations,
    )
    @example(limit=Limit(0, 0), lease=HOUR, refuse=False, life=[PLAIN, INEXACT, JOINING_SYSTEM])
    @example(
        limit=Limit(0, 0), lease=HOUR, refuse=False, life=[CALL, HALF_ANSWER, Pop(), Pop(), PLAIN]
    )
    @example(
        limit=Limit(0, 2),
        lease=HOUR,
        refuse=False,
        life=[
            MANY_CALLS,
            MANY_ANSWERS,
            PLAIN,
            Pin(0, True),
            Pin(0, False),
            CALL,
            HALF_ANSWER,
            Pop(),
        ],
    )
    async def test_both_stores_decide_the_same(
        self,
        *,
        valkey_server: Server,
        limit: Limit,
        lease: int,
        refuse: bool,
        life: list[NamedTuple],
    ) -> None:
        store, memory = redis_store(valkey_server), new_memory()
        pair = Pair(
            InMemoryStore(clock=lambda: time.time_ns() // 1000).session(memory, "any"),
            store.session(memory, "any"),
            terms(limit, lease=lease, refuse=refuse),
        )
        try:
            for operation in life:
                await pair.play(operation)
        finally:
            await store.aclose()

    @pytest.mark.parametrize("counted", [1, 3])
    async def test_hundreds_of_calls_stay_with_their_group(
        self, valkey_server: Server, counted: int
    ) -> None:
        store, memory = redis_store(valkey_server), new_memory()
        names = tuple(f"{number:016x}" for number in range(1, 301))
        pair = Pair(
            InMemoryStore(clock=lambda: time.time_ns() // 1000).session(memory, "any"),
            store.session(memory, "any"),
            terms(Limit(0, 0)),
        )

        def say(*, opens: tuple[str, ...] = (), closes: tuple[str, ...] = ()) -> Append:
            return Append((Message(1, 0, 0, opens, closes),))

        try:
            if counted > 1:
                # The many calls are made in an answer: the first record of the group made only one.
                await pair.play(say(opens=("f" * 16,)))
            await pair.play(say(opens=names, closes=("f" * 16,)))
            for name in names[:280]:
                await pair.play(say(closes=(name,)))
            await pair.play(say())
            await pair.play(Limit(0, 5))
            await pair.play(say())
            await pair.play(say(closes=(names[290],)))
        finally:
            await store.aclose()


@pytest.mark.asyncio
class TestRollOut:
    """The same decisions, made for a session that nobody writes to."""

    @SETTINGS
    @given(
        life=operations,
        limit=limits,
        lease=st.sampled_from([HOUR, 0]),
        refuse=st.sampled_from([False, False, False, True]),
    )
    async def test_a_policy_is_applied_as_planned(
        self, valkey_server: Server, life: list[NamedTuple], limit: Limit, lease: int, refuse: bool
    ) -> None:
        store, memory = redis_store(valkey_server), new_memory()
        session = store.session(memory, "any")
        pair = Pair(
            InMemoryStore(clock=lambda: time.time_ns() // 1000).session(memory, "any"),
            session,
            terms(Limit(0, 0)),
        )
        carrier = PoolCarrier(ConnectionPool(port=valkey_server.port), owned=True)
        try:
            for operation in life:
                if not isinstance(operation, Limit):
                    await pair.play(operation)
            before = await session.everything(pair.terms)
            agreed = terms(limit, lease=lease, refuse=refuse, revision=3)
            reply = await Runner(carrier, patience=2).run(
                script("roll_out"),
                session_keys(memory, "any", "mem")[:5],
                [pack_terms(agreed), 0],
                repeatable=True,
            )
            after = await session.everything(agreed)
        finally:
            await store.aclose()
            await carrier.aclose()
        if not before.status.exists:
            assert reply == [b"GONE"]
            return
        kept, over, evicted = planned(before.records, agreed)
        assert after.records == kept
        # A table costs the server as much as a command, and most sessions need none.
        assert ([reply, 0, 0] if reply == b"DONE" else reply) == [b"DONE", int(over), evicted]
        assert after.status == before.status._replace(
            revision=3,
            tokens=sum(record.tokens for record in kept),
            messages=len(kept),
            bytes=sum(len(record.encoded()) for record in kept),
            dropped=before.status.dropped + evicted,
            expires_at=after.status.expires_at,
            expiry_rule=after.status.expiry_rule,
        )

    @SETTINGS
    @given(
        created=st.integers(-90_000, 0),
        idle=st.integers(0, 90_000),
        left=st.integers(30_000, 120_000),
        held=st.sampled_from([None, -10_000, 20_000, 70_000]),
        rule=st.sampled_from(["ttl", "afterClear", "afterFlush", "maxLifetime", "lease"]),
        times=st.tuples(*[st.sampled_from([0, 1_000, 40_000, 100_000, 1_000_000])] * 3),
        ttl=st.sampled_from([1_000, 30_000, 100_000, 1_000_000]),
        grace=st.sampled_from([15_000, 60_000, HOUR]),
    )
    async def test_an_expiry_is_changed_as_planned(
        self,
        *,
        valkey_server: Server,
        created: int,
        idle: int,
        left: int,
        held: int | None,
        rule: Rule,
        times: tuple[int, int, int],
        ttl: int,
        grace: int,
    ) -> None:
        memory = new_memory()
        keys = session_keys(memory, "any", "mem")
        agreed = replace(
            terms(Limit(0, 0), revision=2),
            ttl=ttl,
            after_clear=times[0],
            after_flush=times[1],
            max_lifetime=times[2],
        )
        carrier = PoolCarrier(ConnectionPool(port=valkey_server.port), owned=True)
        runner = Runner(carrier, patience=2)
        try:
            [clock] = await runner.read([(b"TIME",)])
            now = milliseconds(clock)
            born, touched = now + created, max(now + created, now - idle)
            current, until = now + left, now + held if held is not None else 0
            before = Meta(
                rule=rule,
                epoch=7,
                created=born,
                revision=1,
                expires_at=current,
                touched=touched,
                lease=Lease("token", until, 9) if held is not None else None,
            )
            fields = [part for field in before.fields().items() for part in field]
            await runner.read([(b"HSET", keys.meta, *fields)])
            await runner.run(
                script("roll_out"), keys[:5], [pack_terms(agreed), grace], repeatable=True
            )
            [clock, values, moment] = await runner.read(
                [(b"TIME",), (b"HMGET", keys.meta, *before.fields()), (b"PEXPIRETIME", keys.meta)]
            )
        finally:
            await carrier.aclose()
        possible = {
            plan_shortened(
                agreed,
                now=at,
                created=born,
                lease_until=until if until > at else 0,
                touched=touched,
                current=current,
                grace=grace,
                rule=rule,
            )
            for at in range(now, milliseconds(clock) + 1)
        }
        after = Meta.read(dict(zip(before.fields(), values, strict=True)))
        assert (after.expires_at, after.rule) in possible
        assert after == replace(before, revision=2, expires_at=after.expires_at, rule=after.rule)
        assert moment == after.expires_at


@pytest.mark.asyncio
class TestVanishedRecords:
    """What a server that evicts keys, or a writer past the library, leaves of a session."""

    @pytest.mark.parametrize("refuse", [False, True])
    @pytest.mark.parametrize("limit", [Limit(60, 0), Limit(0, 6), Limit(0, 0)])
    @pytest.mark.parametrize("left", [0, 1, 5])
    async def test_an_append_counts_what_is_left_and_goes_on(
        self, valkey_server: Server, limit: Limit, left: int, *, refuse: bool
    ) -> None:
        store, memory = redis_store(valkey_server), new_memory()
        session = store.session(memory, "any")
        agreed = terms(limit, refuse=refuse)
        message = Batch((Prepared(b'"message"', 10),))
        try:
            for _ in range(6):
                await session.append(agreed, message, FREE)
            async with valkey_server.client() as raw:
                await raw.ltrim(session_keys(memory, "any", "mem").log, 6 - left, -1)
                if left == 0:
                    assert not await raw.exists(session_keys(memory, "any", "mem").log)
            answer = await session.append(agreed, message, FREE)
            status = await session.status()
            records = (await session.everything(agreed)).records
        finally:
            await store.aclose()
        assert answer.torn
        assert (answer.seq, answer.length, answer.tokens) == (7, left + 1, 10 * (left + 1))
        assert [record.seq for record in records] == [*range(7 - left, 7), 7]
        assert (status.messages, status.tokens, status.dropped) == (
            left + 1,
            10 * (left + 1),
            6 - left,
        )
        assert status.bytes == sum(len(record.encoded()) for record in records)


def planned(records: Sequence[Stored], terms: Terms) -> tuple[list[Stored], bool, int]:
    """Return what the planning leaves of a session, whether it is over a limit still, and how many left."""
    evictable = [record for record in records if not record.protected]
    tokens = sum(record.tokens for record in records)
    full = (0 < terms.max_tokens < tokens) or (0 < terms.max_messages < len(records))
    if terms.refuse or not full:
        return list(records), full, 0
    plan = plan_backstop(
        evictable,
        tokens=tokens,
        messages=len(records),
        terms=terms,
        keep={records[-1].group},
        now=records[-1].ts,
    )
    gone = {evictable[at].seq for at in plan.evict}
    kept = [record for record in records if record.seq not in gone]
    return kept, plan.over, len(plan.evict)
