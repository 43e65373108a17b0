"""Appending: what is stored, what the answer says, and what is refused in which order."""
# ruff: noqa: D102 - the name of a test is its sentence

import asyncio
from typing import Any

import pytest

from holdfast.errors import (
    AcknowledgedLost,
    BudgetExceeded,
    HoldfastError,
    IdempotencyConflict,
    LeaseLost,
    SessionBusy,
)
from holdfast.store import MemoryStore, SessionStore, StalePolicy
from holdfast.testing.conformance.support import (
    FREE,
    Advance,
    StoreContract,
    batch,
    held,
    identified,
    items,
    new_token,
    newest,
    prepared,
    stored,
    take,
    terms,
    unchanged,
    write,
)
from holdfast.values import Batch, Caller, Flag, Granted, MemoryAddress, Terms


@pytest.mark.asyncio
class TestAppend(StoreContract):
    """What is stored, and what the answer says."""

    async def test_the_answer_says_where_the_batch_is_and_what_the_session_holds(
        self, handle: SessionStore
    ) -> None:
        first = await handle.append(terms(), batch(prepared(tokens=3), prepared(tokens=4)), FREE)
        second = await handle.append(terms(), batch(prepared(tokens=5)), FREE)
        assert first.seq > 0
        assert first.epoch > 0
        assert (first.tokens, first.length, first.evicted) == (7, 2, 0)
        assert (second.tokens, second.length, second.evicted) == (12, 3, 0)
        assert second.seq == first.seq + 2
        assert second.epoch == first.epoch
        assert not any((first.duplicate, first.over, first.torn))

    async def test_a_record_keeps_what_it_was_given(self, handle: SessionStore) -> None:
        item = {"role": "user", "content": "hi"}
        record = prepared(item, 7, Flag.UNRECOGNISED, id="request 7")
        answer = await handle.append(terms(), batch(record), FREE)
        (kept,) = await stored(handle)
        assert (kept.seq, kept.group, kept.tokens) == (answer.seq, answer.seq, 7)
        assert kept.flags == Flag.UNRECOGNISED
        assert kept.id == "request 7"
        assert kept.item == item

    @pytest.mark.parametrize(
        "item",
        [
            '"]},[{|\\',
            'a","b",["c"]]',
            "\x00\x1f\u2028\u2029\ufffd",
            {"[1,2,3,4,5,": {"]": ["[[", None, True, 1.5, -0.0, 2**63]}},
            [],
            None,
        ],
        ids=["brackets", "quotes", "control", "keys", "empty", "null"],
    )
    async def test_an_item_comes_out_as_the_json_that_went_in(
        self, handle: SessionStore, item: Any
    ) -> None:
        await write(handle, prepared("before"), prepared(item, id='"],7|'), prepared("after"))
        kept = await stored(handle)
        assert [record.item for record in kept] == ["before", item, "after"]
        assert kept[1].id == '"],7|'

    async def test_the_time_of_a_record_is_the_stores_own(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        await write(handle, prepared("early"))
        await advance(0.1)
        await write(handle, prepared("late"))
        early, late = await stored(handle)
        assert late.ts >= early.ts + 100

    async def test_sessions_keep_apart(self, store: MemoryStore, namespace: str) -> None:
        here = MemoryAddress(namespace, "support")
        handles = [
            store.session(memory, key)
            for memory, key in (
                (here, "a"),
                (here, "a:b"),
                (MemoryAddress(namespace, "support-a"), "a"),
                (MemoryAddress(f"{namespace}-b", "support"), "a"),
            )
        ]
        for number, handle in enumerate(handles):
            await write(handle, prepared(number))
        assert [await items(handle) for handle in handles] == [[0], [1], [2], [3]]

    async def test_two_handles_on_one_session_see_the_same(
        self, handle: SessionStore, other: SessionStore
    ) -> None:
        await write(handle, prepared("one"))
        await write(other, prepared("two"))
        assert await items(handle) == await items(other) == ["one", "two"]

    async def test_the_first_two_writers_of_a_session_both_write(
        self, handle: SessionStore, other: SessionStore
    ) -> None:
        answers = await asyncio.gather(
            *(each.append(terms(), batch(prepared()), FREE) for each in (handle, other))
        )
        assert len({answer.seq for answer in answers}) == 2
        assert len({answer.epoch for answer in answers}) == 1
        assert len(await stored(handle)) == 2

    async def test_concurrent_batches_are_all_stored_and_each_stays_together(
        self, store: MemoryStore, memory: MemoryAddress
    ) -> None:
        async def writer(name: int) -> None:
            handle = store.session(memory, "any")
            for number in range(10):
                records = [prepared([name, number, part]) for part in range(3)]
                await handle.append(terms(), batch(*records), FREE)

        await asyncio.gather(*(writer(name) for name in range(8)))
        kept = await stored(store.session(memory, "any"))
        written = [tuple(record.item) for record in kept]
        assert [record.seq for record in kept] == sorted({record.seq for record in kept})
        assert len(written) == 240
        for at in range(0, 240, 3):
            name, number, _ = written[at]
            assert written[at : at + 3] == [(name, number, part) for part in range(3)]
        for name in range(8):
            own = [(number, part) for who, number, part in written if who == name]
            assert own == [(number, part) for number in range(10) for part in range(3)]

    async def test_counters_belong_to_the_records_read_with_them(
        self, handle: SessionStore, other: SessionStore
    ) -> None:
        agreed = terms(max_messages=7)

        async def writer() -> None:
            for number in range(60):
                await other.append(agreed, batch(prepared(number, tokens=number)), FREE)

        writing = asyncio.create_task(writer())
        while not writing.done():
            window = await handle.everything(agreed)
            assert window.status.messages == len(window.records)
            assert window.status.tokens == sum(record.tokens for record in window.records)
            await asyncio.sleep(0)
        await writing

    async def test_cancelled_appends_do_not_mix_up_later_answers(
        self, handle: SessionStore
    ) -> None:
        for number in range(40):
            doomed = asyncio.create_task(
                handle.append(terms(), batch(prepared(f"doomed {number}")), FREE)
            )
            for _ in range(number % 5):
                await asyncio.sleep(0)
            doomed.cancel()
            await asyncio.gather(doomed, return_exceptions=True)
            answer = await handle.append(terms(), batch(prepared(number)), FREE)
            last = await newest(handle)
            assert last is not None
            assert (last.seq, last.item) == (answer.seq, number)

    async def test_the_version_grows_with_every_change(self, handle: SessionStore) -> None:
        versions = [(await handle.status()).version]

        async def note() -> None:
            versions.append((await handle.status()).version)

        seq, _, last = await write(handle, prepared(), prepared(), prepared())
        await note()
        await handle.pin(terms(), FREE, seq=seq, pinned=True)
        await note()
        await handle.pop(terms(), FREE, expected=last, opens=(), closes=())
        await note()
        await handle.clear(terms(), FREE, force=False)
        await note()
        assert versions == sorted(set(versions))

    async def test_a_newer_policy_is_taken_over_and_an_older_one_refused(
        self, handle: SessionStore
    ) -> None:
        await handle.append(terms(revision=5), batch(prepared()), FREE)
        assert (await handle.status()).revision == 5
        async with unchanged(handle, terms(revision=5)):
            with pytest.raises(StalePolicy) as refusal:
                await handle.append(terms(revision=4, ttl=1_000), batch(prepared()), FREE)
        assert refusal.value.revision == 5
        await handle.append(terms(revision=6), batch(prepared()), FREE)
        assert (await handle.status()).revision == 6

    async def test_numbers_acknowledged_but_unknown_to_the_store_are_reported_lost(
        self, handle: SessionStore
    ) -> None:
        answer = await handle.append(terms(), batch(prepared(), prepared()), FREE)
        last = answer.seq + 1
        async with unchanged(handle, terms()):
            with pytest.raises(AcknowledgedLost) as refusal:
                await handle.append(
                    terms(), batch(prepared()), Caller("", answer.epoch, seen=last + 3)
                )
        assert (refusal.value.first, refusal.value.last) == (last + 1, last + 3)
        await handle.append(terms(), batch(prepared()), Caller("", answer.epoch, seen=last))

    async def test_a_writer_without_a_turn_goes_on_in_a_later_epoch(
        self, handle: SessionStore
    ) -> None:
        before = await handle.append(terms(), batch(prepared("old")), FREE)
        await handle.clear(terms(), FREE, force=False)
        late = Caller("", before.epoch, before.seq)
        after = await handle.append(terms(), batch(prepared("new")), late)
        assert after.epoch > before.epoch
        assert await items(handle) == ["new"]

    async def test_no_policy_was_written_by_an_operator(
        self, store: MemoryStore, memory: MemoryAddress
    ) -> None:
        assert await store.policy(memory) is None


@pytest.mark.asyncio
class TestOrderOfChecks(StoreContract):
    """Where several things are wrong at once, the first of the contract's list is reported."""

    @pytest.fixture
    def agreed(self) -> Terms:
        """Return the terms the session has seen."""
        return terms(revision=5, max_tokens=10)

    async def _prepare(self, handle: SessionStore, agreed: Terms) -> tuple[Granted, str]:
        """Write a protected record under an id, and take the turn."""
        known = identified("known", prepared("first", 8, Flag.PINNED))
        await handle.append(agreed, known, FREE)
        token = new_token()
        return await take(handle, agreed, token), token

    async def _refused(
        self,
        handle: SessionStore,
        agreed: Terms,
        error: type[HoldfastError],
        *,
        caller: Caller,
        stale: bool,
        records: Batch | None = None,
    ) -> None:
        """Try to write more than fits, and expect another error than that."""
        given = terms(revision=4 if stale else 5, max_tokens=10, enforced=agreed.enforced)
        async with unchanged(handle, agreed):
            with pytest.raises(error):
                await handle.append(given, records or batch(prepared(tokens=5)), caller)

    async def test_a_known_id_is_answered_whatever_else_is_wrong(
        self, handle: SessionStore, agreed: Terms
    ) -> None:
        granted, _ = await self._prepare(handle, agreed)
        wrong = Caller(new_token(), granted.epoch - 1, seen=99)
        known = identified("known", prepared("first", 8, Flag.PINNED))
        async with unchanged(handle, agreed):
            answer = await handle.append(terms(revision=4, max_tokens=1), known, wrong)
        assert answer.duplicate

    async def test_a_conflicting_id_is_reported_first(
        self, handle: SessionStore, agreed: Terms
    ) -> None:
        granted, _ = await self._prepare(handle, agreed)
        await self._refused(
            handle,
            agreed,
            IdempotencyConflict,
            caller=Caller(new_token(), granted.epoch - 1, seen=99),
            stale=True,
            records=identified("known", prepared("something else", 5)),
        )

    async def test_then_the_epoch(self, handle: SessionStore, agreed: Terms) -> None:
        granted, token = await self._prepare(handle, agreed)
        caller = Caller(token, granted.epoch - 1, seen=99)
        await self._refused(handle, agreed, LeaseLost, caller=caller, stale=True)

    async def test_then_the_lease(self, handle: SessionStore, agreed: Terms) -> None:
        granted, _ = await self._prepare(handle, agreed)
        caller = Caller(new_token(), granted.epoch, seen=99)
        await self._refused(handle, agreed, LeaseLost, caller=caller, stale=True)

    async def test_then_an_enforced_lease_of_somebody_else(
        self, handle: SessionStore, agreed: Terms
    ) -> None:
        granted, _ = await self._prepare(handle, agreed)
        await self._refused(
            handle,
            terms(revision=5, max_tokens=10, enforced=True),
            SessionBusy,
            caller=Caller("", granted.epoch, seen=99),
            stale=True,
        )

    async def test_then_the_policy(self, handle: SessionStore, agreed: Terms) -> None:
        granted, token = await self._prepare(handle, agreed)
        caller = Caller(token, granted.epoch, seen=99)
        await self._refused(handle, agreed, StalePolicy, caller=caller, stale=True)

    async def test_then_what_the_caller_has_seen(self, handle: SessionStore, agreed: Terms) -> None:
        granted, token = await self._prepare(handle, agreed)
        caller = Caller(token, granted.epoch, seen=99)
        await self._refused(handle, agreed, AcknowledgedLost, caller=caller, stale=False)

    async def test_then_the_limits(self, handle: SessionStore, agreed: Terms) -> None:
        granted, token = await self._prepare(handle, agreed)
        await self._refused(
            handle, agreed, BudgetExceeded, caller=held(token, granted), stale=False
        )

    async def test_and_with_nothing_wrong_the_write_goes_through(
        self, handle: SessionStore, agreed: Terms
    ) -> None:
        granted, token = await self._prepare(handle, agreed)
        await handle.append(agreed, batch(prepared("second", 2)), held(token, granted))
        assert await items(handle) == ["first", "second"]
