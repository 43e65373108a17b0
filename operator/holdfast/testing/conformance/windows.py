"""Reading from a store: everything, the newest part, pages."""
# ruff: noqa: D102 - the name of a test is its sentence

from collections.abc import Sequence

import pytest

from holdfast.store import SessionStore
from holdfast.testing.conformance.support import (
    FREE,
    StoreContract,
    batch,
    newest,
    prepared,
    stored,
    terms,
    write,
)
from holdfast.values import Flag, Stored


async def _walk(handle: SessionStore, limit: int) -> list[Stored]:
    """Return all records, a page at a time."""
    found: list[Stored] = []
    while True:
        page = await handle.page(terms(), after=found[-1].seq if found else 0, limit=limit)
        assert len(page.records) <= limit
        if not page.records:
            return found
        found += page.records


def _numbers(records: Sequence[Stored]) -> list[int]:
    return [record.seq for record in records]


@pytest.mark.asyncio
class TestWindows(StoreContract):
    """What a read returns is of one moment and in the order of the appends."""

    async def test_a_session_that_never_was_is_empty(self, handle: SessionStore) -> None:
        status = await handle.status()
        assert not status.exists
        assert (status.messages, status.tokens, status.bytes, status.waiting) == (0, 0, 0, 0)
        assert status.lease is None
        assert list((await handle.everything(terms())).records) == []
        assert list((await handle.tail(terms(), tokens=10)).records) == []
        assert list((await handle.page(terms(), after=0, limit=10)).records) == []
        assert list(await handle.newest(terms(), 10)) == []
        assert not (await handle.status()).exists

    async def test_everything_is_in_the_order_of_the_appends_protected_or_not(
        self, handle: SessionStore
    ) -> None:
        flags = [0, Flag.SYSTEM, 0, Flag.PINNED, 0, 0, Flag.SYSTEM]
        seqs = await write(handle, *(prepared(at, flags=flag) for at, flag in enumerate(flags)))
        window = await handle.everything(terms())
        assert _numbers(window.records) == seqs
        assert [record.item for record in window.records] == list(range(7))
        assert window.complete
        assert (window.status.messages, window.status.last_seq) == (7, seqs[-1])

    async def test_the_newest_is_the_last_appended_protected_or_not(
        self, handle: SessionStore
    ) -> None:
        for number, flag in enumerate((0, Flag.PINNED, 0, Flag.SYSTEM)):
            await write(handle, prepared(number, flags=flag))
            last = await newest(handle)
            assert last is not None
            assert last.item == number

    @pytest.mark.parametrize("count", [1, 2, 7, 40, 100])
    async def test_so_many_of_the_newest_come_in_the_order_of_the_appends(
        self, handle: SessionStore, count: int
    ) -> None:
        await write(handle, *(prepared(at, flags=0 if at % 6 else Flag.PINNED) for at in range(50)))
        found = await handle.newest(terms(), count)
        assert [record.item for record in found] == list(range(50))[-count:]

    @pytest.mark.parametrize("tokens", [0, 1, 50, 51, 200, 299, 1_000])
    async def test_the_tail_has_all_protected_records_and_enough_of_the_newest(
        self, handle: SessionStore, tokens: int
    ) -> None:
        await write(
            handle,
            *(
                prepared(number, number, Flag.PINNED if number % 20 == 5 else 0)
                for number in range(1, 60)
            ),
        )
        whole = await stored(handle)
        window = await handle.tail(terms(), tokens=tokens)
        found = _numbers(window.records)
        optional = [record for record in window.records if not record.protected]
        evictable = [record for record in whole if not record.protected]
        assert found == sorted(set(found))
        assert {r.seq for r in whole if r.protected} <= set(found)
        assert optional == evictable[len(evictable) - len(optional) :]
        assert window.complete == (len(optional) == len(evictable))
        assert window.complete or sum(record.tokens for record in optional) > tokens
        assert window.status.messages == 59

    async def test_the_tail_of_a_long_session_does_not_read_it_all(
        self, handle: SessionStore
    ) -> None:
        await handle.append(terms(), batch(*(prepared(number) for number in range(1_000))), FREE)
        window = await handle.tail(terms(), tokens=10)
        assert not window.complete
        assert len(window.records) < 500
        assert window.records[-1].item == 999

    @pytest.mark.parametrize("limit", [1, 3, 7, 100])
    async def test_pages_give_every_record_once(self, handle: SessionStore, limit: int) -> None:
        for number in range(25):
            flag = Flag.PINNED if number in (0, 6, 7, 13, 24) else 0
            await write(handle, prepared(number, flags=flag))
        assert [record.item for record in await _walk(handle, limit)] == list(range(25))

    async def test_pages_pass_over_gaps(self, handle: SessionStore) -> None:
        first, second, *_ = await write(handle, *(prepared(number) for number in range(4)))
        await handle.pin(terms(), FREE, seq=first, pinned=True)
        await write(handle, prepared(4), terms_=terms(max_messages=4))
        assert [record.item for record in await _walk(handle, 2)] == [0, 2, 3, 4]
        page = await handle.page(terms(), after=second, limit=1)
        assert [record.item for record in page.records] == [2]
        assert page.status.messages == 4

    async def test_a_page_after_the_newest_is_empty(self, handle: SessionStore) -> None:
        (seq,) = await write(handle, prepared())
        for after in (seq, seq + 100):
            page = await handle.page(terms(), after=after, limit=10)
            assert list(page.records) == []
            assert page.status.messages == 1

    async def test_a_page_tells_where_calls_wait_for_their_results(
        self, handle: SessionStore
    ) -> None:
        assert (await handle.page(terms(), after=0, limit=1)).newest == 0
        first, second = await write(
            handle, prepared("call", opens=["a"]), prepared("calls", opens=["b", "c"])
        )
        _, third = await write(
            handle, prepared("result", closes=["b"]), prepared("call", opens=["d"])
        )
        for limit in (1, 10):
            page = await handle.page(terms(), after=0, limit=limit)
            assert (page.waiting, page.newest) == ({first, second, third}, third)
        await write(handle, prepared("result", closes=["c"]))
        page = await handle.page(terms(), after=0, limit=10)
        assert (page.waiting, page.newest) == ({first, third}, second)
        (last,) = await write(handle, prepared("pinned", flags=Flag.PINNED))
        assert (await handle.page(terms(), after=0, limit=1)).newest == last

    async def test_the_size_grows_and_shrinks_with_the_records(self, handle: SessionStore) -> None:
        await write(handle, prepared("a" * 100))
        small = (await handle.status()).bytes
        (last,) = await write(handle, prepared("a" * 1_000))
        large = (await handle.status()).bytes
        await handle.pop(terms(), FREE, expected=last, opens=(), closes=())
        assert small >= 100
        assert large >= small + 1_000
        assert (await handle.status()).bytes == small
