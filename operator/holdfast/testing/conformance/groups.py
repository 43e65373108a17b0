"""Groups: a tool call and its results stay together, are protected together, leave together."""
# ruff: noqa: D102 - the name of a test is its sentence

import pytest

from holdfast.errors import LeaseLost, RecordNotFound, SessionBusy
from holdfast.store import SessionStore, StalePolicy
from holdfast.testing.conformance.support import (
    FREE,
    LONG,
    Advance,
    StoreContract,
    batch,
    digest,
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
from holdfast.values import Caller, Flag, Stored


def _groups(records: list[Stored]) -> list[int]:
    """Return where each record's group begins, as a position in the list."""
    numbers = [record.seq for record in records]
    return [numbers.index(record.group) for record in records]


@pytest.mark.asyncio
class TestGroups(StoreContract):
    """Which records belong together."""

    async def test_a_result_joins_the_group_of_its_call(
        self, handle: SessionStore, other: SessionStore
    ) -> None:
        await write(handle, prepared("user"), prepared("call", opens=["c"]), prepared("user"))
        await write(other, prepared("result", closes=["c"]))
        records = list(await stored(handle))
        assert _groups(records) == [0, 1, 2, 1]
        assert (records[1].opens, records[3].closes) == (1, 1)
        assert not records[3].flags & Flag.ORPHAN

    async def test_the_results_of_parallel_calls_join_one_group(self, handle: SessionStore) -> None:
        await write(
            handle,
            prepared("calls", opens=["a", "b"]),
            prepared("result b", closes=["b"]),
            prepared("result a", closes=["a"]),
        )
        records = list(await stored(handle))
        assert _groups(records) == [0, 0, 0]
        assert [record.opens - record.closes for record in records] == [2, -1, -1]

    async def test_a_call_and_its_result_may_come_in_one_batch(self, handle: SessionStore) -> None:
        records = (
            prepared("call", opens=["c"]),
            prepared("aside"),
            prepared("result", closes=["c"]),
        )
        await handle.append(terms(), batch(*records), FREE)
        assert _groups(list(await stored(handle))) == [0, 1, 0]

    async def test_a_result_without_its_call_is_an_orphan(self, handle: SessionStore) -> None:
        await write(handle, prepared("user"), prepared("result", closes=["unknown"]))
        records = list(await stored(handle))
        assert _groups(records) == [0, 1]
        assert records[1].flags & Flag.ORPHAN
        assert records[1].closes == 0

    async def test_a_second_result_of_one_call_is_an_orphan(self, handle: SessionStore) -> None:
        await write(
            handle,
            prepared("call", opens=["c"]),
            prepared("result", closes=["c"]),
            prepared("again", closes=["c"]),
        )
        assert [bool(record.flags & Flag.ORPHAN) for record in await stored(handle)] == [
            False,
            False,
            True,
        ]

    async def test_what_need_not_be_open_is_no_orphan(self, handle: SessionStore) -> None:
        await write(
            handle,
            prepared("alone", closes=["?unknown"]),
            prepared("first", opens=["c"]),
            prepared("second", closes=["?c"]),
        )
        records = list(await stored(handle))
        assert not any(record.flags & Flag.ORPHAN for record in records)
        assert _groups(records) == [0, 1, 1]

    async def test_who_comes_by_itself_joins_what_waits_and_nothing_else(
        self, handle: SessionStore, other: SessionStore
    ) -> None:
        await write(handle, prepared("early", closes=["?c"]))
        await write(handle, prepared("thought", opens=["c"]))
        await write(other, prepared("user"))
        await write(other, prepared("answer", closes=["?c"]))
        await write(handle, prepared("next answer", closes=["?c"]))
        records = list(await stored(handle))
        assert _groups(records) == [0, 1, 2, 1, 4]
        assert [record.closes for record in records] == [0, 0, 0, 1, 0]
        assert not any(record.flags & Flag.ORPHAN for record in records)

    async def test_an_answer_that_replaces_everything_joins_nothing(
        self, handle: SessionStore
    ) -> None:
        await write(handle, prepared("thought", opens=["c"]))
        await handle.replace(terms(), batch(prepared("answer", closes=["?c"])), FREE)
        [record] = await stored(handle)
        assert (record.group, record.closes) == (record.seq, 0)

    async def test_a_record_joins_the_group_it_is_told_to(self, handle: SessionStore) -> None:
        first, _ = await write(handle, prepared("first"), prepared("aside"))
        (second,) = await write(handle, prepared("second", group=first))
        await write(handle, prepared("third", group=second))
        assert _groups(list(await stored(handle))) == [0, 1, 0, 0]

    async def test_a_record_told_to_join_what_has_left_stands_alone(
        self, handle: SessionStore
    ) -> None:
        agreed = terms(max_messages=2)
        first, *_ = await write(handle, prepared("a"), prepared("b"), prepared("c"), terms_=agreed)
        await write(handle, prepared("late", group=first))
        late = (await stored(handle))[-1]
        assert late.group == late.seq

    async def test_a_group_leaves_as_a_whole_even_when_its_records_lie_apart(
        self, handle: SessionStore
    ) -> None:
        agreed = terms(max_messages=3)
        await write(
            handle,
            prepared("call", opens=["c"]),
            prepared("aside"),
            prepared("result", closes=["c"]),
            terms_=agreed,
        )
        answer = await handle.append(agreed, batch(prepared("newest")), FREE)
        assert answer.evicted == 2
        assert await items(handle) == ["aside", "newest"]

    async def test_the_group_that_is_being_written_stays(self, handle: SessionStore) -> None:
        agreed = terms(max_messages=2)
        await write(
            handle,
            prepared("call", opens=["c"]),
            prepared("aside"),
            prepared("result", closes=["c"]),
            terms_=agreed,
        )
        assert await items(handle) == ["call", "result"]

    async def test_an_open_call_stays_and_the_session_is_over_its_limit(
        self, handle: SessionStore
    ) -> None:
        agreed = terms(max_messages=2, lease=LONG)
        await write(
            handle, prepared("one", opens=["a"]), prepared("two", opens=["b"]), terms_=agreed
        )
        answer = await handle.append(agreed, batch(prepared("three")), FREE)
        assert (answer.over, answer.evicted, answer.length) == (True, 0, 3)
        closing = batch(prepared("result", closes=["a"]))
        assert (await handle.append(agreed, closing, FREE)).over
        answer = await handle.append(agreed, batch(prepared("four")), FREE)
        assert not answer.over
        assert await items(handle) == ["two", "four"]

    async def test_a_call_whose_result_never_came_blocks_eviction_only_for_a_while(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        agreed = terms(max_messages=1, lease=400)
        await write(handle, prepared("call", opens=["c"]), terms_=agreed)
        await advance(0.6)
        await write(handle, prepared("next"), terms_=agreed)
        assert await items(handle) == ["next"]
        await write(handle, prepared("late result", closes=["c"]))
        assert (await stored(handle))[-1].flags & Flag.ORPHAN


@pytest.mark.asyncio
class TestPin(StoreContract):
    """Protection is the whole group's."""

    async def test_a_protected_record_is_never_evicted(self, handle: SessionStore) -> None:
        agreed = terms(max_messages=3)
        await write(handle, prepared("system", flags=Flag.SYSTEM), terms_=agreed)
        await write(handle, prepared("pinned", flags=Flag.PINNED), terms_=agreed)
        for number in range(5):
            await write(handle, prepared(number), terms_=agreed)
        assert await items(handle) == ["system", "pinned", 4]
        status = await handle.status()
        assert (status.messages, status.pinned, status.pinned_tokens) == (3, 2, 2)
        assert status.dropped == 4

    async def test_pinning_one_record_protects_its_group(self, handle: SessionStore) -> None:
        await write(handle, prepared("call", 2, opens=["c"]), prepared("aside", 3))
        (seq,) = await write(handle, prepared("result", 4, closes=["c"]))
        changed = await handle.pin(terms(), FREE, seq=seq, pinned=True)
        assert changed.records == 2
        assert [record.protected for record in await stored(handle)] == [True, False, True]
        status = await handle.status()
        assert (status.pinned, status.pinned_tokens) == (2, 6)
        answer = await handle.append(terms(max_messages=3), batch(prepared("newest")), FREE)
        assert answer.evicted == 1
        assert await items(handle) == ["call", "result", "newest"]

    async def test_a_record_that_joins_a_protected_group_is_protected(
        self, handle: SessionStore
    ) -> None:
        await write(handle, prepared("call", flags=Flag.PINNED, opens=["c"]))
        await write(handle, prepared("aside"), prepared("result", closes=["c"]))
        assert [record.protected for record in await stored(handle)] == [True, False, True]

    async def test_a_protected_record_protects_the_group_it_joins(
        self, handle: SessionStore
    ) -> None:
        first, _ = await write(handle, prepared("first", 5), prepared("aside", 6))
        await write(handle, prepared("pinned", 7, Flag.PINNED, group=first))
        assert [record.protected for record in await stored(handle)] == [True, False, True]
        status = await handle.status()
        assert (status.pinned, status.pinned_tokens, status.tokens) == (2, 12, 18)

    async def test_an_unpinned_group_is_back_in_its_place_and_leaves_first(
        self, handle: SessionStore
    ) -> None:
        first, *_ = await write(handle, prepared("one"), prepared("two"), prepared("three"))
        await handle.pin(terms(), FREE, seq=first, pinned=True)
        await handle.pin(terms(), FREE, seq=first, pinned=False)
        assert await items(handle) == ["one", "two", "three"]
        assert (await handle.status()).pinned == 0
        await handle.append(terms(max_messages=3), batch(prepared("four")), FREE)
        assert await items(handle) == ["two", "three", "four"]

    async def test_pinning_and_unpinning_change_nothing_else(self, handle: SessionStore) -> None:
        await write(handle, prepared("call", 3, Flag.INEXACT, opens=["a", "b"], id="x"))
        (seq,) = await write(handle, prepared("result", 4, closes=["a"]))
        before = list(await stored(handle))
        for pinned in (True, False):
            await handle.pin(terms(), FREE, seq=seq, pinned=pinned)
        assert await stored(handle) == before
        answer = await handle.append(terms(max_messages=1, lease=LONG), batch(prepared()), FREE)
        assert (answer.evicted, answer.over) == (0, True)

    async def test_unpinning_does_not_uncover_a_system_message(self, handle: SessionStore) -> None:
        (seq,) = await write(handle, prepared("system", flags=Flag.SYSTEM))
        await handle.pin(terms(), FREE, seq=seq, pinned=False)
        await write(handle, prepared("one"))
        await handle.append(terms(max_messages=2), batch(prepared("two")), FREE)
        assert await items(handle) == ["system", "two"]

    async def test_pinning_what_is_not_there_is_refused(self, handle: SessionStore) -> None:
        with pytest.raises(RecordNotFound):
            await handle.pin(terms(), FREE, seq=1, pinned=True)
        evicted, *_ = await write(handle, prepared(), prepared(), terms_=terms(max_messages=1))
        async with unchanged(handle, terms()):
            with pytest.raises(RecordNotFound):
                await handle.pin(terms(), FREE, seq=evicted, pinned=True)

    async def test_pin_and_pop_are_checked_like_an_append(self, handle: SessionStore) -> None:
        agreed = terms(revision=5, enforced=True)
        (seq,) = await write(handle, prepared(), terms_=agreed)
        granted = await take(handle, agreed, new_token())
        for caller, revision, error in (
            (FREE, 5, SessionBusy),
            (Caller(new_token(), granted.epoch), 5, LeaseLost),
        ):
            given = terms(revision=revision, enforced=True)
            async with unchanged(handle, agreed):
                with pytest.raises(error):
                    await handle.pin(given, caller, seq=seq, pinned=True)
                with pytest.raises(error):
                    await handle.pop(given, caller, expected=seq, opens=(), closes=())

    async def test_pin_and_pop_under_an_older_policy_are_refused(
        self, handle: SessionStore
    ) -> None:
        (seq,) = await write(handle, prepared(), terms_=terms(revision=5))
        async with unchanged(handle, terms(revision=5)):
            with pytest.raises(StalePolicy):
                await handle.pin(terms(revision=4), FREE, seq=seq, pinned=True)
            with pytest.raises(StalePolicy):
                await handle.pop(terms(revision=4), FREE, expected=seq, opens=(), closes=())


@pytest.mark.asyncio
class TestPop(StoreContract):
    """The newest record is taken out, and its group is as before it came."""

    async def test_pop_takes_the_newest_and_gives_its_tokens_back(
        self, handle: SessionStore
    ) -> None:
        _, newest = await write(handle, prepared("one", 3), prepared("two", 4))
        changed = await handle.pop(terms(), FREE, expected=newest, opens=(), closes=())
        assert changed.records == 1
        assert await items(handle) == ["one"]
        assert (await handle.status()).tokens == 3

    async def test_pop_takes_a_protected_record_too(self, handle: SessionStore) -> None:
        _, newest = await write(handle, prepared("one"), prepared("two", 4, Flag.PINNED))
        await handle.pop(terms(), FREE, expected=newest, opens=(), closes=())
        assert await items(handle) == ["one"]
        status = await handle.status()
        assert (status.tokens, status.pinned, status.pinned_tokens) == (1, 0, 0)

    async def test_pop_leaves_everything_when_the_newest_is_another(
        self, handle: SessionStore
    ) -> None:
        older, newest = await write(handle, prepared("one"), prepared("two"))
        async with unchanged(handle, terms()):
            for wrong in (older, newest + 1):
                changed = await handle.pop(terms(), FREE, expected=wrong, opens=(), closes=())
                assert changed.records == 0

    async def test_pop_of_nothing_takes_nothing(self, handle: SessionStore) -> None:
        changed = await handle.pop(terms(), FREE, expected=1, opens=(), closes=())
        assert changed.records == 0

    async def test_a_popped_number_is_not_given_again(self, handle: SessionStore) -> None:
        (seq,) = await write(handle, prepared("one"))
        epoch = (await handle.status()).epoch
        await handle.pop(terms(), FREE, expected=seq, opens=(), closes=())
        answer = await handle.append(terms(), batch(prepared()), Caller("", epoch, seen=seq))
        assert answer.seq > seq

    async def test_popping_a_result_opens_its_call_again(self, handle: SessionStore) -> None:
        agreed = terms(max_messages=1, lease=LONG)
        await write(handle, prepared("call", opens=["c"]))
        (seq,) = await write(handle, prepared("wrong", closes=["c"]))
        await handle.pop(terms(), FREE, expected=seq, opens=(), closes=(digest("c"),))
        answer = await handle.append(agreed, batch(prepared("aside")), FREE)
        assert (answer.evicted, answer.over) == (0, True)
        await write(handle, prepared("right", closes=["c"]))
        records = list(await stored(handle))
        assert [record.item for record in records] == ["call", "aside", "right"]
        assert _groups(records) == [0, 1, 0]
        assert not records[2].flags & Flag.ORPHAN

    async def test_popping_a_call_forgets_it(self, handle: SessionStore) -> None:
        await write(handle, prepared("user"))
        (seq,) = await write(handle, prepared("call", opens=["c"]))
        await handle.pop(terms(), FREE, expected=seq, opens=(digest("c"),), closes=())
        await write(handle, prepared("result", closes=["c"]))
        records = await stored(handle)
        assert records[-1].flags & Flag.ORPHAN
        assert records[-1].group == records[-1].seq

    async def test_the_holder_of_the_turn_pins_and_pops(self, handle: SessionStore) -> None:
        agreed = terms(enforced=True)
        one, two = await write(handle, prepared("one"), prepared("two"), terms_=agreed)
        token = new_token()
        caller = held(token, await take(handle, agreed, token))
        await handle.pin(agreed, caller, seq=one, pinned=True)
        await handle.pop(agreed, caller, expected=two, opens=(), closes=())
        (left,) = await stored(handle)
        assert (left.item, left.protected) == ("one", True)
