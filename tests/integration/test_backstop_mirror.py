"""What the scripts decide inside the server is what `holdfast.planning` says.

The same random operations go to the store that decides with `planning` and to the one that decides in
Lua; after each of them everything that can be compared must be the same.
"""

import time
import uuid
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.errors import HoldfastError
from holdfast.planning import plan_backstop, plan_shortened
from holdfast.planning.expiry import Rule
from holdfast.store import SessionStore
from holdfast.store.in_memory import InMemoryStore
from holdfast.store.redis import RedisStore
from holdfast.store.redis.layout import pack_terms, session_keys
from holdfast.store.redis.runner import Runner
from holdfast.store.redis.script import script
from holdfast.values import Batch, Caller, Flag, MemoryAddress, Prepared, Refresh, Stored, Terms
from tests.harness.servers import Server

pytestmark = [pytest.mark.redis]

FREE = Caller()
HOUR = 3_600_000
CALLS = tuple(f"{number:016x}" for number in range(1, 6))
SETTINGS = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Message(NamedTuple):
    """A message to be; `group` counts back from the number it will get, 0 for a group of its own."""

    tokens: int
    flags: Flag
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
    flags=st.sampled_from([Flag(0)] * 8 + [Flag.SYSTEM, Flag.PINNED, Flag.INEXACT]),
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
                return done._replace(epoch=0)
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
    async def test_both_stores_decide_the_same(
        self, valkey_server: Server, limit: Limit, lease: int, refuse: bool, life: list[NamedTuple]
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
