"""What leaves a session at once: trims, the one who flushes, and what that needs to know."""
# ruff: noqa: D102 - the name of a test is its sentence

from collections.abc import Collection

import msgspec
import pytest

from holdfast.store import SessionStore, StalePolicy
from holdfast.testing.conformance.support import (
    FREE,
    Advance,
    StoreContract,
    batch,
    held,
    identified,
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
    Covered,
    Departed,
    Flag,
    Notes,
    Prepared,
    Splice,
    Trimmed,
)

FLUSHER = "f" * 24
SUMMED_UP = "HybridSummary"


def summary(tokens: int = 1, text: str = "in short", first: int = 1, last: int = 1) -> Prepared:
    """Return a summary as the library hands it to a store."""
    return Prepared(
        body=msgspec.json.encode(text),
        tokens=tokens,
        flags=int(Flag.SUMMARY | Flag.PINNED),
        notes=Notes(covers=Covered(first, last, last - first + 1, tokens * 2, "test")),
    )


async def plan(
    handle: SessionStore,
    seqs: Collection[int],
    rule: str = SUMMED_UP,
    *,
    short: Prepared | None = None,
) -> Splice:
    """Plan to take records out as they are now, and be the one who may."""
    assert await handle.claim_flush(FLUSHER, 60_000)
    now = await handle.snapshot()
    pairs = zip(now.records, now.encoded, strict=True)
    covered = [(record.seq, encoded) for record, encoded in pairs if record.seq in seqs]
    assert [seq for seq, _ in covered] == sorted(seqs)
    return Splice(FLUSHER, now.status.epoch, [(seq, rule) for seq in sorted(seqs)], covered, short)


async def recounted(handle: SessionStore) -> None:
    """Check that the counters are what a recount gives, and the records in order."""
    status, _, records, encoded, _ = await handle.snapshot()
    protected = [record for record in records if record.protected]
    assert (status.messages, status.tokens) == (len(records), sum(it.tokens for it in records))
    assert status.bytes == sum(map(len, encoded))
    assert status.pinned == len(protected)
    assert status.pinned_tokens == sum(record.tokens for record in protected)
    assert [record.encoded() for record in records] == list(encoded)
    seqs = [record.seq for record in records]
    assert seqs == sorted(set(seqs))


async def left(handle: SessionStore) -> list[tuple[str, int, int, int, int, int]]:
    """Return the history without its times: rule, first, last, messages, tokens, summary."""
    return [
        (it.rule, it.first, it.last, it.messages, it.tokens, it.summary)
        for it in await handle.departed()
    ]


@pytest.mark.asyncio
class TestTrim(StoreContract):
    """The oldest whole groups leave, down to a target."""

    async def test_the_oldest_leave_down_to_a_target(self, handle: SessionStore) -> None:
        await write(handle, *(prepared(number, 10) for number in range(10)))
        assert await handle.trim(terms(), tokens=45, messages=0) == Trimmed(6, 40, 4)
        assert await items(handle) == [6, 7, 8, 9]
        assert await handle.trim(terms(), tokens=0, messages=3) == Trimmed(1, 30, 3)
        assert await items(handle) == [7, 8, 9]
        await recounted(handle)
        assert (await handle.status()).dropped == 7

    async def test_one_that_is_at_its_target_is_left_alone(self, handle: SessionStore) -> None:
        await write(handle, *(prepared(number, 10) for number in range(3)))
        async with unchanged(handle, terms()):
            for target in ({"tokens": 30, "messages": 3}, {"tokens": 0, "messages": 0}):
                assert await handle.trim(terms(), **target) == Trimmed(0, 30, 3)
        assert await handle.departed() == ()

    async def test_a_session_that_is_not_there_does_not_begin(self, handle: SessionStore) -> None:
        assert await handle.trim(terms(), tokens=1, messages=1) == Trimmed(0, 0, 0)
        assert not (await handle.status()).exists

    async def test_the_newest_group_stays_however_large(self, handle: SessionStore) -> None:
        await write(handle, prepared("old", 10))
        group = [prepared("call", 10, opens=["c"]), prepared("result", 10, closes=["c"])]
        await handle.append(terms(), batch(*group), FREE)
        assert await handle.trim(terms(), tokens=5, messages=1) == Trimmed(1, 20, 2)
        assert await items(handle) == ["call", "result"]
        await recounted(handle)

    async def test_what_is_protected_stays(self, handle: SessionStore) -> None:
        flags = [Flag.SYSTEM, 0, Flag.PINNED, 0, 0]
        await write(handle, *(prepared(at, 10, flag) for at, flag in enumerate(flags)))
        assert await handle.trim(terms(), tokens=10, messages=0) == Trimmed(2, 30, 3)
        assert await items(handle) == [0, 2, 4]
        await recounted(handle)

    async def test_a_group_leaves_as_a_whole_wherever_its_records_stand(
        self, handle: SessionStore
    ) -> None:
        await write(
            handle,
            prepared("call", 10, opens=["c"]),
            prepared("aside", 10),
            prepared("result", 10, closes=["c"]),
            prepared("last", 10),
        )
        assert await handle.trim(terms(), tokens=30, messages=0) == Trimmed(2, 20, 2)
        assert await items(handle) == ["aside", "last"]
        (entry,) = await handle.departed()
        assert entry.ranges == ((1, 1), (3, 3))
        await recounted(handle)

    async def test_a_call_that_may_be_answered_stays_for_a_lease(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        agreed = terms(lease=400)
        await write(handle, prepared("call", opens=["c"]), prepared("b"), prepared("c"))
        await handle.trim(agreed, tokens=0, messages=2)
        assert await items(handle) == ["call", "c"]
        await advance(0.6)
        await handle.trim(agreed, tokens=0, messages=1)
        assert await items(handle) == ["c"]
        await write(handle, prepared("late", closes=["c"]))
        assert (await stored(handle))[-1].flags & Flag.ORPHAN

    async def test_it_needs_no_turn_and_disturbs_none(self, handle: SessionStore) -> None:
        agreed = terms(enforced=True)
        await write(handle, *(prepared(number) for number in range(5)), terms_=agreed)
        token = new_token()
        caller = held(token, await take(handle, agreed, token))
        version = (await handle.status()).version
        assert (await handle.trim(agreed, tokens=0, messages=2)).evicted == 3
        assert (await handle.status()).version == version
        assert (await handle.append(agreed, batch(prepared("on")), caller)).seq == 6
        assert await items(handle) == [3, 4, "on"]

    async def test_an_older_policy_trims_nothing(self, handle: SessionStore) -> None:
        newer = terms(revision=2)
        await write(handle, *(prepared(number) for number in range(5)), terms_=newer)
        async with unchanged(handle, newer):
            with pytest.raises(StalePolicy) as stale:
                await handle.trim(terms(revision=1), tokens=0, messages=2)
        assert stale.value.revision == 2

    async def test_it_stands_in_the_history(self, handle: SessionStore) -> None:
        await write(handle, *(prepared(number, 10) for number in range(6)))
        before = (await handle.snapshot()).now
        await handle.trim(terms(), tokens=0, messages=4)
        after = (await handle.snapshot()).now
        (entry,) = await handle.departed()
        assert before <= entry.at <= after
        assert entry._replace(at=0) == Departed(0, "FIFO", 1, 2, 2, 20, 0, ((1, 2),))

    async def test_ids_of_what_left_are_known(self, handle: SessionStore) -> None:
        await handle.append(terms(), identified("a", prepared("one")), FREE)
        await write(handle, prepared("two"))
        await handle.trim(terms(), tokens=0, messages=1)
        again = await handle.append(terms(), identified("a", prepared("one")), FREE)
        assert (again.duplicate, again.seq) == (True, 1)
        assert await items(handle) == ["two"]


@pytest.mark.asyncio
class TestFlusher(StoreContract):
    """One flushes at a time."""

    async def test_one_at_a_time(self, handle: SessionStore, other: SessionStore) -> None:
        await write(handle, prepared())
        assert await handle.claim_flush("a" * 24, 60_000)
        assert not await other.claim_flush("b" * 24, 60_000)
        assert await handle.claim_flush("a" * 24, 60_000)
        assert not await other.claim_flush("b" * 24, 0)  # it is not b's to end
        assert not await other.claim_flush("b" * 24, 60_000)
        await handle.claim_flush("a" * 24, 0)
        assert await other.claim_flush("b" * 24, 60_000)

    async def test_a_dead_one_is_replaced(self, handle: SessionStore, advance: Advance) -> None:
        await write(handle, prepared())
        assert await handle.claim_flush("a" * 24, 300)
        await advance(0.5)
        assert await handle.claim_flush("b" * 24, 60_000)
        assert not await handle.claim_flush("a" * 24, 300)

    async def test_asking_again_lengthens_the_time(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        await write(handle, prepared())
        assert await handle.claim_flush("a" * 24, 300)
        assert await handle.claim_flush("a" * 24, 60_000)
        await advance(0.5)
        assert not await handle.claim_flush("b" * 24, 60_000)

    async def test_there_is_nothing_to_flush_where_there_is_no_session(
        self, handle: SessionStore
    ) -> None:
        assert not await handle.claim_flush("a" * 24, 60_000)
        assert not (await handle.status()).exists

    async def test_it_renews_nothing_and_disturbs_no_turn(self, handle: SessionStore) -> None:
        await write(handle, prepared())
        token = new_token()
        caller = held(token, await take(handle, terms(), token))
        async with unchanged(handle, terms()):
            assert await handle.claim_flush("a" * 24, 60_000)
        await handle.append(terms(), batch(prepared()), caller)

    async def test_what_is_read_is_noted(self, handle: SessionStore, advance: Advance) -> None:
        await write(handle, *(prepared(number) for number in range(4)))
        assert (await handle.snapshot()).accessed == {}
        await advance(0.02)
        await handle.touch(terms(), [1, 3])
        now = await handle.snapshot()
        assert set(now.accessed) == {1, 3}
        assert all(now.records[-1].ts < at <= now.now for at in now.accessed.values())
        await advance(0.02)
        await handle.touch(terms(), [3])
        again = (await handle.snapshot()).accessed
        assert again[1] == now.accessed[1]
        assert again[3] > now.accessed[3]

    async def test_what_left_is_not_noted_any_more(self, handle: SessionStore) -> None:
        await write(handle, *(prepared(number) for number in range(6)))
        await handle.touch(terms(), [1, 2, 3, 4, 5])
        await handle.trim(terms(), tokens=0, messages=5)
        await handle.splice(terms(), await plan(handle, [3], "LRU"))
        assert set((await handle.snapshot()).accessed) == {2, 4, 5}

    async def test_what_the_limits_dropped_is_forgotten_with_the_next_note(
        self, handle: SessionStore
    ) -> None:
        agreed = terms(max_messages=3)
        for number in range(3):
            await handle.append(agreed, batch(prepared(number)), FREE)
        await handle.touch(agreed, [1, 2, 3])
        for number in range(2):
            await handle.append(agreed, batch(prepared(10 + number)), FREE)
        await handle.touch(agreed, [5])
        assert set((await handle.snapshot()).accessed) == {3, 5}

    async def test_a_clear_forgets_what_was_read(self, handle: SessionStore) -> None:
        await write(handle, prepared())
        await handle.touch(terms(), [1])
        await handle.clear(terms(), FREE, force=False)
        assert (await handle.snapshot()).accessed == {}

    async def test_noting_begins_no_session(self, handle: SessionStore) -> None:
        await handle.touch(terms(), [1])
        assert not (await handle.status()).exists
