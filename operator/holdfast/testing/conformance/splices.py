"""Splices: exactly what was planned leaves."""
# ruff: noqa: D102 - the name of a test is its sentence

import pytest

from holdfast.store import SessionStore, StalePolicy
from holdfast.testing.conformance.flushing import (
    FLUSHER,
    SUMMED_UP,
    left,
    plan,
    recounted,
    summary,
)
from holdfast.testing.conformance.support import (
    FREE,
    Advance,
    StoreContract,
    batch,
    held,
    items,
    new_token,
    prepared,
    stored,
    take,
    terms,
    unchanged,
    write,
)
from holdfast.values import (
    Caller,
    Flag,
    Prepared,
    Spliced,
)


@pytest.mark.asyncio
class TestSplice(StoreContract):
    """Exactly what was planned leaves, and its summary takes its place."""

    async def test_a_summary_takes_the_place_of_what_it_covers(self, handle: SessionStore) -> None:
        await write(handle, *(prepared(number, 10) for number in range(6)))
        short = summary(7, first=1, last=4)
        done = await handle.splice(terms(), await plan(handle, [1, 2, 4], short=short))
        assert done == Spliced(True, 3, 37, 4, summary=4)
        records = await stored(handle)
        assert [(it.seq, it.item) for it in records] == [(3, 2), (4, "in short"), (5, 4), (6, 5)]
        placed = records[1]
        assert placed.flags & Flag.SUMMARY
        assert placed.protected
        assert (placed.tokens, placed.group, placed.notes) == (7, 4, short.notes)
        await recounted(handle)

    async def test_without_a_summary_it_is_dropped(self, handle: SessionStore) -> None:
        await write(handle, *(prepared(number, 10) for number in range(6)))
        done = await handle.splice(terms(), await plan(handle, [2, 5], "LRU"))
        assert done == Spliced(True, 2, 40, 4)
        assert await items(handle) == [0, 2, 3, 5]
        assert (await handle.status()).dropped == 2
        await recounted(handle)

    async def test_what_is_summarised_is_not_dropped(self, handle: SessionStore) -> None:
        await write(handle, *(prepared(number, 10) for number in range(6)))
        await handle.splice(terms(), await plan(handle, [1, 2, 3], short=summary()))
        assert (await handle.status()).dropped == 0

    async def test_nobody_takes_the_protection_from_a_summary(self, handle: SessionStore) -> None:
        await write(handle, *(prepared(number) for number in range(4)))
        await handle.splice(terms(), await plan(handle, [1, 2], short=summary()))
        assert (await handle.pin(terms(), FREE, seq=2, pinned=False)).records == 0
        assert [one.seq for one in await stored(handle) if one.protected] == [2]

    async def test_a_summary_outlives_the_limits(self, handle: SessionStore) -> None:
        agreed = terms(max_messages=4)
        await write(handle, *(prepared(number) for number in range(4)), terms_=agreed)
        await handle.splice(agreed, await plan(handle, [1, 2], short=summary()))
        await write(handle, *(prepared(number) for number in range(4, 10)), terms_=agreed)
        assert await items(handle) == ["in short", 7, 8, 9]
        await handle.trim(agreed, tokens=0, messages=1)
        assert await items(handle) == ["in short", 9]
        await recounted(handle)

    async def test_summaries_are_folded_into_one(self, handle: SessionStore) -> None:
        await write(handle, *(prepared(number, 10) for number in range(8)))
        await handle.splice(terms(), await plan(handle, [1, 2], short=summary(5, "one")))
        await handle.splice(terms(), await plan(handle, [3, 4], short=summary(5, "two")))
        done = await handle.splice(
            terms(), await plan(handle, [2, 4, 5], short=summary(6, "all of it"))
        )
        assert done == Spliced(True, 3, 36, 4, summary=5)
        assert await items(handle) == ["all of it", 5, 6, 7]
        await recounted(handle)

    async def test_a_record_pinned_meanwhile_stays(self, handle: SessionStore) -> None:
        await write(handle, *(prepared(number, 10) for number in range(6)))
        splice = await plan(handle, [1, 2, 3], short=summary(5))
        await handle.pin(terms(), FREE, seq=2, pinned=True)
        done = await handle.splice(terms(), splice)
        assert done == Spliced(True, 2, 45, 5, summary=3)
        assert await items(handle) == [1, "in short", 3, 4, 5]
        assert await left(handle) == [(SUMMED_UP, 1, 3, 2, 20, 3)]
        await recounted(handle)

    async def test_a_summary_stands_where_the_newest_that_left_stood(
        self, handle: SessionStore
    ) -> None:
        await write(handle, *(prepared(number, 10) for number in range(6)))
        splice = await plan(handle, [1, 2, 3], short=summary(5))
        await handle.pin(terms(), FREE, seq=3, pinned=True)
        done = await handle.splice(terms(), splice)
        assert (done.done, done.removed, done.summary) == (True, 2, 2)
        assert await items(handle) == ["in short", 2, 3, 4, 5]
        await recounted(handle)

    async def test_nothing_leaves_when_all_was_pinned_meanwhile(self, handle: SessionStore) -> None:
        await write(handle, *(prepared(number, 10) for number in range(4)))
        splice = await plan(handle, [1, 2], short=summary(5))
        for seq in (1, 2):
            await handle.pin(terms(), FREE, seq=seq, pinned=True)
        async with unchanged(handle, terms()):
            assert (await handle.splice(terms(), splice)).removed == 0
        assert await handle.departed() == ()

    async def test_a_head_trimmed_meanwhile_is_in_the_summary_nevertheless(
        self, handle: SessionStore
    ) -> None:
        agreed = terms(max_tokens=100)
        await write(handle, *(prepared(number, 10) for number in range(10)), terms_=agreed)
        splice = await plan(handle, range(1, 7), short=summary(20))
        await write(handle, *(prepared(number, 10) for number in range(10, 13)), terms_=agreed)
        assert (await handle.status()).dropped == 3
        done = await handle.splice(agreed, splice)
        assert done == Spliced(True, 3, 90, 8, summary=6)
        assert await items(handle) == ["in short", *range(6, 13)]
        # The tokens are of those that this took out.
        assert await left(handle) == [(SUMMED_UP, 1, 6, 6, 30, 6)]
        assert (await handle.status()).dropped == 0
        await recounted(handle)

    async def test_a_summary_lands_even_when_all_it_covers_was_trimmed(
        self, handle: SessionStore
    ) -> None:
        agreed = terms(max_tokens=100)
        await write(handle, *(prepared(number, 10) for number in range(10)), terms_=agreed)
        splice = await plan(handle, range(1, 7), short=summary(20))
        await write(handle, *(prepared(number, 10) for number in range(10, 16)), terms_=agreed)
        done = await handle.splice(agreed, splice)
        assert done == Spliced(True, 0, 100, 9, summary=6, evicted=2)
        assert await items(handle) == ["in short", *range(8, 16)]
        assert (await handle.status()).dropped == 2
        await recounted(handle)

    @pytest.mark.parametrize("refill", [0, 3])
    async def test_a_conversation_that_was_cleared_is_not_put_back(
        self, handle: SessionStore, refill: int
    ) -> None:
        await write(handle, *(prepared("the same", 10) for _ in range(6)))
        splice = await plan(handle, [1, 2, 3], short=summary(5))
        await handle.clear(terms(), FREE, force=False)
        await write(handle, *(prepared("the same", 10) for _ in range(refill)))
        await handle.claim_flush(FLUSHER, 60_000)
        async with unchanged(handle, terms()):
            assert not (await handle.splice(terms(), splice)).done

    async def test_nor_is_one_that_expired(self, handle: SessionStore, advance: Advance) -> None:
        await write(handle, *(prepared(number) for number in range(4)), terms_=terms(ttl=500))
        splice = await plan(handle, [1, 2], short=summary())
        await advance(0.7)
        assert not (await handle.splice(terms(), splice)).done
        assert not (await handle.status()).exists

    async def test_records_that_are_others_by_now_stay(self, handle: SessionStore) -> None:
        await write(handle, *(prepared(number, 10) for number in range(6)))
        splice = await plan(handle, [1, 2, 3], short=summary(5))
        records = list(splice.records)
        records[1] = (2, records[1][1].replace(b",1]", b",9]"))
        assert records != splice.records
        async with unchanged(handle, terms()):
            assert not (await handle.splice(terms(), splice._replace(records=records))).done
        assert await handle.departed() == ()

    async def test_what_came_in_place_of_what_was_popped_stays(self, handle: SessionStore) -> None:
        await write(handle, *(prepared(number, 10) for number in range(4)))
        splice = await plan(handle, [2, 3, 4], short=summary(5))
        await handle.pop(terms(), FREE, expected=4, opens=(), closes=())
        assert await write(handle, prepared("another", 10)) == [5]
        assert (await handle.splice(terms(), splice)).done
        assert await items(handle) == [0, "in short", "another"]
        await recounted(handle)

    async def test_what_was_popped_meanwhile_does_not_come_back_as_a_record(
        self, handle: SessionStore
    ) -> None:
        await write(handle, *(prepared(number, 10) for number in range(4)))
        splice = await plan(handle, [1, 2, 3], short=summary(5))
        for seq in (4, 3):
            await handle.pop(terms(), FREE, expected=seq, opens=(), closes=())
        await handle.splice(terms(), splice)
        assert 2 not in await items(handle)
        await recounted(handle)

    async def test_records_that_came_meanwhile_stay(self, handle: SessionStore) -> None:
        await write(handle, prepared("a", 10), prepared("b", 10))
        splice = await plan(handle, [1, 2], short=summary(5))
        await write(handle, prepared("c", 10), prepared("d", 10))
        assert (await handle.splice(terms(), splice)).removed == 2
        assert await items(handle) == ["in short", "c", "d"]
        await recounted(handle)

    @pytest.mark.parametrize("short", [summary(5), None], ids=["summarised", "dropped"])
    async def test_a_call_stays_with_the_result_that_came_meanwhile(
        self, handle: SessionStore, short: Prepared | None
    ) -> None:
        await write(handle, prepared("call", 10, opens=["c"]), prepared("b", 10))
        splice = await plan(handle, [1, 2], short=short)
        await write(handle, prepared("result", 10, closes=["c"]), prepared("d", 10))
        assert (await handle.splice(terms(), splice)).removed == 1
        texts = await items(handle)
        assert texts == ["call", *(["in short"] if short else []), "result", "d"]
        assert not any(it.flags & Flag.ORPHAN for it in await stored(handle))
        await recounted(handle)

    @pytest.mark.parametrize("name", ["nobody", "another", "late"])
    async def test_only_the_flusher_may(
        self, handle: SessionStore, advance: Advance, name: str
    ) -> None:
        await write(handle, *(prepared(number) for number in range(4)))
        splice = await plan(handle, [1, 2], short=summary())
        match name:
            case "nobody":
                await handle.claim_flush(FLUSHER, 0)
            case "another":
                await handle.claim_flush(FLUSHER, 0)
                assert await handle.claim_flush("o" * 24, 60_000)
            case _:
                assert await handle.claim_flush(FLUSHER, 300)
                await advance(0.5)
        async with unchanged(handle, terms()):
            assert not (await handle.splice(terms(), splice)).done

    async def test_the_flushers_time_ends_with_it(self, handle: SessionStore) -> None:
        await write(handle, *(prepared(number) for number in range(4)))
        splice = await plan(handle, [1, 2], short=summary())
        assert (await handle.splice(terms(), splice)).done
        assert await handle.claim_flush("o" * 24, 60_000)

    async def test_the_same_again_changes_nothing(self, handle: SessionStore) -> None:
        await write(handle, *(prepared(number) for number in range(4)))
        splice = await plan(handle, [1, 2], short=summary())
        await handle.splice(terms(), splice)
        assert await handle.claim_flush(FLUSHER, 60_000)
        async with unchanged(handle, terms()):
            await handle.splice(terms(), splice)
        assert len(await handle.departed()) == 1

    async def test_it_needs_no_turn_and_disturbs_none(self, handle: SessionStore) -> None:
        agreed = terms(enforced=True)
        await write(handle, *(prepared(number) for number in range(4)), terms_=agreed)
        token = new_token()
        caller = held(token, await take(handle, agreed, token))
        version = (await handle.status()).version
        splice = await plan(handle, [1, 2], short=summary())
        assert (await handle.splice(agreed, splice)).done
        assert (await handle.status()).version == version
        assert (await handle.append(agreed, batch(prepared("on")), caller)).seq == 5
        again = Caller("", caller.epoch, 5)
        await handle.release(agreed, token)
        assert (await handle.append(agreed, batch(prepared("and on")), again)).seq == 6

    async def test_an_older_policy_splices_nothing(self, handle: SessionStore) -> None:
        newer = terms(revision=2)
        await write(handle, *(prepared(number) for number in range(4)), terms_=newer)
        splice = await plan(handle, [1, 2], short=summary())
        async with unchanged(handle, newer):
            with pytest.raises(StalePolicy):
                await handle.splice(terms(revision=1), splice)
        assert (await handle.splice(newer, splice)).done

    async def test_calls_of_what_left_are_forgotten(self, handle: SessionStore) -> None:
        await write(handle, prepared("call", opens=["c"]), prepared("b"), prepared("d"))
        await handle.splice(terms(), await plan(handle, [1], short=summary()))
        (late,) = await write(handle, prepared("late", closes=["c"]))
        record = (await stored(handle))[-1]
        assert (record.seq, record.group) == (late, late)
        assert record.flags & Flag.ORPHAN

    async def test_what_left_and_what_stays_may_be_anywhere(
        self, handle: SessionStore, other: SessionStore
    ) -> None:
        await handle.append(terms(), batch(*(prepared(n, n % 7) for n in range(500))), FREE)
        gone = [seq for seq in range(1, 500) if seq % 3]
        done = await handle.splice(terms(), await plan(handle, gone, short=summary()))
        assert (done.removed, done.summary) == (len(gone), gone[-1])
        kept = [seq for seq in range(1, 501) if seq not in gone]
        assert [it.seq for it in await stored(other)] == sorted([*kept, gone[-1]])
        await recounted(handle)
        (entry,) = await handle.departed()
        assert (entry.first, entry.last, entry.messages) == (1, gone[-1], len(gone))

    async def test_a_flush_leaves_its_own_life(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        agreed = terms(ttl=60_000, after_flush=600_000)
        await write(handle, *(prepared(number) for number in range(6)), terms_=agreed)
        await advance(0.05)
        await handle.splice(agreed, await plan(handle, [1, 2], short=summary()))
        status = await handle.status()
        at = (await handle.departed())[-1].at
        assert (status.expires_at, status.expiry_rule) == (at + 600_000, "afterFlush")
        await write(handle, prepared(), terms_=agreed)
        written = (await stored(handle))[-1].ts
        status = await handle.status()
        assert (status.expires_at, status.expiry_rule) == (written + 60_000, "ttl")
        await handle.trim(agreed, tokens=0, messages=3)
        at = (await handle.departed())[-1].at
        status = await handle.status()
        assert (status.expires_at, status.expiry_rule) == (at + 600_000, "afterFlush")

    async def test_a_flush_is_no_sign_of_life_otherwise(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        await write(handle, *(prepared(number) for number in range(6)))
        before = (await handle.status()).expires_at
        await advance(0.05)
        await handle.splice(terms(), await plan(handle, [1, 2], short=summary()))
        await handle.trim(terms(), tokens=0, messages=3)
        assert (await handle.status()).expires_at == before
