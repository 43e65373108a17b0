"""Quotas: what all sessions of a memory together may hold."""
# ruff: noqa: D102 - the name of a test is its sentence

import asyncio
from datetime import timedelta
from typing import Any, Protocol

import pytest
from msgspec.structs import replace

from holdfast.client import Client
from holdfast.errors import IdempotencyConflict, QuotaExceeded
from holdfast.messages import id_key
from holdfast.session import Session
from holdfast.store import MemoryStore, SessionStore
from holdfast.testing.conformance.support import (
    FREE,
    StoreContract,
    batch,
    identified,
    new_token,
    policy,
    prepared,
    take,
    terms,
    unchanged,
    user,
)
from holdfast.values import Granted, MemoryAddress

ROOM = {"sessions": {"hard": 100}, "bytes": {"hard": "1Mi"}, "tokens": {"hard": 1_000}}


class Govern(Protocol):
    """Be the operator of a memory."""

    async def __call__(self, memory: MemoryAddress, spec: dict[str, Any], /, **held: int) -> None:
        """Write a policy in manifest form and, where figures are given, what was measured now.

        Args:
            memory: whose.
            spec: the policy.
            held: `sessions`, `messages`, `tokens` and `bytes`; all or none.
        """
        ...


def held(**figures: int) -> dict[str, int]:
    """Return what was measured: nothing, but for the given figures."""
    return {"sessions": 0, "messages": 0, "tokens": 0, "bytes": 0} | figures


async def _fill(session: Session) -> None:
    """Append until the quota is full."""
    try:
        while True:
            await session.append(user("some words that take tokens"))
    except QuotaExceeded:
        return


@pytest.mark.asyncio
class TestSessionsOfAMemory(StoreContract):
    """How many sessions a store lets begin."""

    async def test_a_session_too_many_does_not_begin(
        self, store: MemoryStore, memory: MemoryAddress
    ) -> None:
        agreed = terms(max_sessions=2)
        for name in ("a", "b"):
            await store.session(memory, name).append(agreed, batch(prepared()), FREE)
        third = store.session(memory, "c")
        for _ in range(2):
            with pytest.raises(QuotaExceeded) as refusal:
                await third.append(agreed, batch(prepared()), FREE)
            found = refusal.value
            assert (found.quota, found.used, found.hard) == ("sessions", 2, 2)
            with pytest.raises(QuotaExceeded):
                await third.acquire(agreed, new_token(), "me")
        assert not (await third.status()).exists
        assert (await third.status()).lease is None

    async def test_those_that_are_there_go_on(
        self, store: MemoryStore, memory: MemoryAddress
    ) -> None:
        for name in ("a", "b", "c"):
            await store.session(memory, name).append(terms(), batch(prepared()), FREE)
        agreed = terms(max_sessions=2)
        for name in ("a", "b", "c"):
            session = store.session(memory, name)
            assert (await session.append(agreed, batch(prepared()), FREE)).length == 2
            token = new_token()
            assert isinstance(await session.acquire(agreed, token, "me"), Granted)
            await session.release(agreed, token)

    async def test_a_turn_begins_a_session_too(
        self, store: MemoryStore, memory: MemoryAddress
    ) -> None:
        agreed, token = terms(max_sessions=1), new_token()
        first = store.session(memory, "a")
        await take(first, agreed, token)
        await take(first, agreed, token)
        with pytest.raises(QuotaExceeded):
            await store.session(memory, "b").append(agreed, batch(prepared()), FREE)
        await first.append(agreed, batch(prepared()), FREE)

    async def test_another_memory_has_its_own(
        self, store: MemoryStore, memory: MemoryAddress
    ) -> None:
        agreed = terms(max_sessions=1)
        for address in (memory, memory._replace(name="another")):
            await store.session(address, "a").append(agreed, batch(prepared()), FREE)
            with pytest.raises(QuotaExceeded):
                await store.session(address, "b").append(agreed, batch(prepared()), FREE)

    async def test_of_many_at_once_no_more_begin_than_may(
        self, store: MemoryStore, memory: MemoryAddress
    ) -> None:
        agreed = terms(max_sessions=5)
        sessions = [store.session(memory, f"s-{number}") for number in range(20)]
        done = await asyncio.gather(
            *(session.append(agreed, batch(prepared()), FREE) for session in sessions),
            return_exceptions=True,
        )
        refused = [isinstance(one, QuotaExceeded) for one in done]
        assert refused.count(True) == 15
        there = [(await session.status()).exists for session in sessions]
        assert there == [not one for one in refused]


@pytest.mark.asyncio
class TestKnownIds(StoreContract):
    """Asking whether an append was stored before."""

    async def test_nothing_is_known_of_a_session_that_never_was(self, handle: SessionStore) -> None:
        assert await handle.known(identified("one", prepared())) is None

    async def test_the_answer_is_that_of_a_repeated_append(self, handle: SessionStore) -> None:
        one, two = (
            identified("one", prepared("a", 3), prepared("b", 4)),
            identified("two", prepared()),
        )
        await handle.append(terms(), batch(prepared("before", 2)), FREE)
        first = await handle.append(terms(), one, FREE)
        async with unchanged(handle, terms()):
            known = await handle.known(one)
            assert known == await handle.append(terms(), one, FREE)
            assert await handle.known(two) is None
        assert known is not None
        assert (known.seq, known.duplicate, known.tokens, known.length) == (first.seq, True, 9, 3)

    async def test_another_content_is_a_conflict(self, handle: SessionStore) -> None:
        one = identified("one", prepared("a"))
        await handle.append(terms(), one, FREE)
        with pytest.raises(IdempotencyConflict):
            await handle.known(replace(one, digest=one.digest ^ 1))

    async def test_ids_outlive_a_clear(self, handle: SessionStore) -> None:
        one = identified("one", prepared("a"))
        await handle.append(terms(), one, FREE)
        await handle.clear(terms(), FREE, force=False)
        known = await handle.known(one)
        assert known is not None
        assert (known.seq, known.length) == (1, 0)

    async def test_a_high_number_is_told_exactly(self, handle: SessionStore) -> None:
        bodies = tuple(prepared(number) for number in range(1000))
        for _ in range(5):
            await handle.append(terms(), batch(*bodies), FREE)
        one = replace(identified("one", prepared("a")), digest=2**20 - 1, key=id_key("x"))
        await handle.append(terms(), one, FREE)
        known = await handle.known(one)
        assert known is not None
        assert known.seq == 5001


@pytest.mark.asyncio
class TestQuotas:
    """Quotas as an agent meets them, under an operator."""

    @pytest.fixture
    def memory(self, namespace: str) -> MemoryAddress:
        """Return the memory of the tests."""
        return MemoryAddress(namespace, "support")

    async def test_what_would_lead_above_a_hard_bound_is_refused_and_nothing_is_written(
        self, store: MemoryStore, memory: MemoryAddress, govern: Govern
    ) -> None:
        await govern(memory, policy(quotas=ROOM), **held(tokens=990))
        client = Client(store, namespace=memory.namespace)
        session = client.memory("support").session("a")
        with pytest.raises(QuotaExceeded, match=r"quotas\.tokens\.hard") as refusal:
            await session.append(user("x" * 200))
        assert (refusal.value.memory, refusal.value.session) == (str(memory), "a")
        assert not (await session.status()).exists
        await client.aclose()

    async def test_all_but_writing_goes_on(
        self, store: MemoryStore, memory: MemoryAddress, govern: Govern
    ) -> None:
        await govern(memory, policy(quotas=ROOM), **held())
        client = Client(store, namespace=memory.namespace)
        session = client.memory("support").session("a")
        first = await session.append(user("one"), id="id-1")
        await session.append(user("two"))
        await govern(memory, policy(quotas=ROOM), **held(bytes=2**21))
        await client.memory("support").policies.catch_up(0)
        for attempt in (
            session.append(user("three")),
            session.append_many([user("three")]),
            session.replace([user("three")]),
        ):
            with pytest.raises(QuotaExceeded, match=r"quotas\.bytes\.hard"):
                await attempt
        assert await session.read() == [user("one"), user("two")]
        again = await session.append(user("one"), id="id-1")
        assert (again.duplicate, again.seq) == (True, first.seq)
        async with session.turn(wait=timedelta(0)) as turn:
            with pytest.raises(QuotaExceeded):
                await turn.append(user("three"))
            assert await turn.read() == [user("one"), user("two")]
            assert await turn.pop() == user("two")
            await turn.pin(first.seq)
        assert await session.clear() == 1
        assert "(quotas.bytes.hard), so writes are refused" in (await session.health()).warnings[0]
        await client.aclose()

    async def test_each_client_adds_at_most_the_rest(
        self, store: MemoryStore, memory: MemoryAddress, govern: Govern
    ) -> None:
        rest = 300
        await govern(memory, policy(quotas=ROOM), **held(tokens=1_000 - rest))
        clients = [Client(store, namespace=memory.namespace) for _ in range(2)]
        totals: list[int] = []
        for number, client in enumerate(clients):
            session = client.memory("support").session(f"s-{number}")
            await _fill(session)
            totals.append(await session.token_count())
        assert all(rest - 50 < total <= rest for total in totals), totals
        await govern(memory, policy(quotas=ROOM), **held(tokens=1_000 - rest + sum(totals)))
        for number, client in enumerate(clients):
            await client.memory("support").policies.catch_up(0)
            with pytest.raises(QuotaExceeded):
                await client.memory("support").session(f"s-{number}").append(user("a"))
            await client.aclose()

    async def test_a_session_too_many_does_not_begin(
        self, store: MemoryStore, memory: MemoryAddress, govern: Govern
    ) -> None:
        await govern(memory, policy(quotas={"sessions": {"hard": 2}}), **held())
        clients = [Client(store, namespace=memory.namespace) for _ in range(2)]
        for number, client in enumerate(clients):
            await client.memory("support").session(f"s-{number}").append(user("a"))
        third = clients[0].memory("support").session("s-2")
        with pytest.raises(QuotaExceeded, match="has 2 sessions and may have 2"):
            await third.append(user("a"), id="id-1")
        with pytest.raises(QuotaExceeded):
            async with third.turn():
                pass
        assert await third.read() == []
        await clients[1].memory("support").session("s-0").append(user("b"))
        for client in clients:
            await client.aclose()

    async def test_imports_of_one_client_at_once_keep_the_bound(
        self, store: MemoryStore, memory: MemoryAddress, govern: Govern
    ) -> None:
        await govern(memory, policy(quotas=ROOM), **held())
        client = Client(store, namespace=memory.namespace)
        sessions = client.memory("support")
        await sessions.session("from").append(user("words " * 200))
        lines = [line async for line in sessions.session("from").export()]
        copies = [sessions.session(f"to-{number}") for number in range(5)]
        done = await asyncio.gather(
            *(copy.import_(lines) for copy in copies), return_exceptions=True
        )
        each = await sessions.session("from").token_count()
        room = 1_000 // each - 1
        assert [isinstance(one, QuotaExceeded) for one in done].count(False) == room
        assert [await copy.length() for copy in copies].count(1) == room
        await client.aclose()

    async def test_a_soft_bound_is_told_with_every_write(
        self, store: MemoryStore, memory: MemoryAddress, govern: Govern
    ) -> None:
        quotas = {"tokens": {"soft": 500, "hard": 1_000}}
        await govern(memory, policy(quotas=quotas), **held(tokens=499))
        client = Client(store, namespace=memory.namespace)
        session = client.memory("support").session("a")
        told = (await session.append(user("a few words"))).warnings
        assert len(told) == 1
        assert "more than 500 (quotas.tokens.soft)" in told[0]
        assert (await session.health()).warnings == told
        await client.aclose()

    async def test_nobody_measured_yet(
        self, store: MemoryStore, memory: MemoryAddress, govern: Govern
    ) -> None:
        await govern(memory, policy(quotas=ROOM | {"tokens": {"hard": 1}}))
        client = Client(store, namespace=memory.namespace)
        session = client.memory("support").session("a")
        assert (await session.append(user("a few words"))).warnings == ()
        assert "has not measured" in (await session.health()).warnings[0]
        await client.aclose()

    async def test_nobody_will_measure(self, store: MemoryStore, namespace: str) -> None:
        quotas = {"sessions": {"hard": 1}, "tokens": {"hard": 1}}
        client = Client(store, namespace=namespace, policy=policy(quotas=quotas))
        for name in ("a", "b"):
            session = client.memory("support").session(name)
            await session.append(user("a few words"))
            assert "no operator measures" in (await session.health()).warnings[0]
        await client.aclose()
