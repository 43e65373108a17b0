"""Ids: an append that is repeated is stored once."""
# ruff: noqa: D102 - the name of a test is its sentence

import asyncio

import pytest

from holdfast.errors import IdempotencyConflict
from holdfast.store import MemoryStore, SessionStore
from holdfast.testing.conformance.support import (
    FREE,
    Advance,
    StoreContract,
    batch,
    identified,
    items,
    prepared,
    terms,
    unchanged,
    write,
)
from holdfast.values import MemoryAddress


@pytest.mark.asyncio
class TestIds(StoreContract):
    """An append that is repeated under its id is stored once."""

    async def test_a_retry_is_answered_with_the_first_number_and_todays_counters(
        self, handle: SessionStore
    ) -> None:
        twice = identified("request", prepared("one", 3), prepared("two", 4))
        first = await handle.append(terms(), twice, FREE)
        await write(handle, prepared("three", 5))
        again = await handle.append(terms(), twice, FREE)
        assert again.duplicate
        assert not first.duplicate
        assert (again.seq, again.tokens, again.length) == (first.seq, 12, 3)
        assert again.evicted == 0
        assert await items(handle) == ["one", "two", "three"]

    async def test_another_content_under_a_known_id_is_a_conflict(
        self, handle: SessionStore
    ) -> None:
        await handle.append(terms(), identified("request", prepared("one")), FREE)
        async with unchanged(handle, terms()):
            with pytest.raises(IdempotencyConflict):
                await handle.append(terms(), identified("request", prepared("two")), FREE)

    async def test_one_of_many_concurrent_retries_is_stored(
        self, store: MemoryStore, memory: MemoryAddress
    ) -> None:
        answers = await asyncio.gather(
            *(
                store.session(memory, "any").append(
                    terms(), identified("request", prepared("one")), FREE
                )
                for _ in range(16)
            )
        )
        assert len({answer.seq for answer in answers}) == 1
        assert sum(not answer.duplicate for answer in answers) == 1
        assert await items(store.session(memory, "any")) == ["one"]

    async def test_an_id_outlives_its_record(self, handle: SessionStore) -> None:
        agreed = terms(max_messages=1)
        answer = await handle.append(agreed, identified("request", prepared("one")), FREE)
        await handle.append(agreed, batch(prepared("two")), FREE)
        again = await handle.append(agreed, identified("request", prepared("one")), FREE)
        assert (again.duplicate, again.seq) == (True, answer.seq)
        assert await items(handle) == ["two"]

    async def test_an_id_stays_known_after_a_clear(self, handle: SessionStore) -> None:
        request = identified("request", prepared("one"))
        answer = await handle.append(terms(), request, FREE)
        await handle.clear(terms(), FREE, force=False)
        again = await handle.append(terms(), request, FREE)
        assert (again.duplicate, again.seq) == (True, answer.seq)
        assert await items(handle) == []

    async def test_an_id_is_forgotten_with_an_expired_session(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        request = identified("request", prepared("one"))
        await handle.append(terms(ttl=400), request, FREE)
        await advance(0.6)
        assert not (await handle.append(terms(), request, FREE)).duplicate

    async def test_the_latest_ids_stay_known_when_older_ones_are_forgotten(
        self, handle: SessionStore
    ) -> None:
        agreed = terms(max_ids=4)
        for number in range(100):
            await handle.append(agreed, identified(f"{number}", prepared(number)), FREE)
        for number in range(96, 100):
            again = await handle.append(agreed, identified(f"{number}", prepared(number)), FREE)
            assert again.duplicate
        assert len(await items(handle)) == 100
        assert await handle.known(identified("95", prepared(95))) is None
