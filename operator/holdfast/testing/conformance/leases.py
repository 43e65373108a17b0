"""The turn's lease: who holds it, for how long, and what a holder that lost it can still do."""
# ruff: noqa: D102 - the name of a test is its sentence

import asyncio

import pytest

from holdfast.errors import LeaseLost, SessionBusy, TurnInterrupted
from holdfast.store import MemoryStore, SessionStore
from holdfast.testing.conformance.support import (
    FREE,
    Advance,
    StoreContract,
    batch,
    held,
    items,
    new_token,
    prepared,
    stand_in_line,
    stored,
    take,
    terms,
    unchanged,
    write,
)
from holdfast.values import Caller, Granted, MemoryAddress, Queued


async def interrupt(handle: SessionStore, token: str) -> Granted:
    """Take the turn, whoever holds it."""
    answer = await handle.acquire(terms(), token, f"holder {token}", interrupt=True)
    assert isinstance(answer, Granted)
    return answer


@pytest.mark.asyncio
class TestLease(StoreContract):
    """One holder at a time, checked at every write."""

    async def test_a_free_turn_is_granted_at_once(self, handle: SessionStore) -> None:
        answer = await handle.append(terms(), batch(prepared()), FREE)
        granted = await take(handle, terms(), new_token())
        assert granted.fence > 0
        assert (granted.epoch, granted.seen) == (answer.epoch, answer.seq)

    async def test_a_turn_may_begin_before_the_first_write(self, handle: SessionStore) -> None:
        token = new_token()
        granted = await take(handle, terms(), token)
        assert granted.epoch > 0
        assert granted.seen == 0
        answer = await handle.append(terms(), batch(prepared("one")), held(token, granted))
        assert answer.epoch == granted.epoch
        await handle.release(terms(), token)
        assert await items(handle) == ["one"]

    async def test_a_turn_without_a_write_leaves_nothing_behind(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        token = new_token()
        await take(handle, terms(lease=400), token)
        await advance(0.6)
        status = await handle.status()
        assert not status.exists
        assert status.lease is None

    async def test_everybody_sees_who_holds_it_and_for_how_long(self, handle: SessionStore) -> None:
        token = new_token()
        granted = await handle.acquire(terms(lease=60_000), token, "pod-a|1|2")
        assert isinstance(granted, Granted)
        status = await handle.status()
        assert status.lease_token == token
        assert status.lease is not None
        assert status.lease.holder == "pod-a|1|2"
        assert status.lease.fence == granted.fence
        assert 30 < status.lease.remaining <= 60

    async def test_a_long_name_of_a_holder_is_shown_cut(self, handle: SessionStore) -> None:
        name = "x" + "ø" * 200
        await handle.acquire(terms(), new_token(), name)
        lease = (await handle.status()).lease
        assert lease is not None
        assert lease.holder
        assert name.startswith(lease.holder)

    async def test_a_released_turn_is_free(self, handle: SessionStore) -> None:
        token = new_token()
        await take(handle, terms(), token)
        await handle.release(terms(), token)
        status = await handle.status()
        assert (status.lease, status.lease_token) == (None, "")
        await take(handle, terms(), new_token())

    async def test_of_many_who_ask_at_once_one_gets_it(
        self, store: MemoryStore, memory: MemoryAddress
    ) -> None:
        answers = await asyncio.gather(
            *(store.session(memory, "any").acquire(terms(), new_token(), "") for _ in range(16))
        )
        assert sum(isinstance(answer, Granted) for answer in answers) == 1

    async def test_a_holder_that_asks_again_still_has_it(self, handle: SessionStore) -> None:
        token = new_token()
        granted = await take(handle, terms(), token)
        again = await take(handle, terms(), token)
        assert again.fence >= granted.fence
        await stand_in_line(handle, terms(), new_token())

    async def test_only_the_holder_can_release(self, handle: SessionStore) -> None:
        token = new_token()
        granted = await take(handle, terms(), token)
        await handle.release(terms(), new_token())
        await handle.append(terms(), batch(prepared("one")), held(token, granted))
        assert (await handle.status()).lease_token == token

    async def test_releasing_what_is_not_held_is_no_error(
        self, handle: SessionStore, other: SessionStore
    ) -> None:
        token = new_token()
        await handle.release(terms(), token)
        assert not (await handle.status()).exists
        await take(handle, terms(), token)
        for each in (handle, other, handle):
            await each.release(terms(), token)
        assert (await handle.status()).lease is None

    async def test_a_holder_writes_and_a_stranger_with_a_token_does_not(
        self, handle: SessionStore
    ) -> None:
        token = new_token()
        granted = await take(handle, terms(), token)
        await handle.append(terms(), batch(prepared("mine")), held(token, granted))
        stranger = Caller(new_token(), granted.epoch)
        async with unchanged(handle, terms()):
            with pytest.raises(LeaseLost):
                await handle.append(terms(), batch(prepared("yours")), stranger)

    async def test_an_advisory_turn_lets_others_write(self, handle: SessionStore) -> None:
        token = new_token()
        granted = await take(handle, terms(), token)
        await write(handle, prepared("aside"))
        await handle.append(terms(), batch(prepared("answer")), held(token, granted))
        assert await items(handle) == ["aside", "answer"]

    async def test_an_enforced_turn_refuses_others_and_says_who_holds_it(
        self, handle: SessionStore
    ) -> None:
        agreed = terms(enforced=True, lease=60_000)
        token = new_token()
        await handle.acquire(agreed, token, "pod-a")
        with pytest.raises(SessionBusy) as refusal:
            await handle.append(agreed, batch(prepared()), FREE)
        assert refusal.value.holder == "pod-a"
        assert 0 < refusal.value.remaining <= 60
        assert await items(handle) == []
        await handle.release(agreed, token)
        await handle.append(agreed, batch(prepared("now")), FREE)
        assert await items(handle) == ["now"]

    async def test_a_lease_ends_unless_it_is_renewed(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        agreed = terms(lease=400, enforced=True)
        await write(handle, prepared("before"), terms_=agreed)
        token = new_token()
        granted = await take(handle, agreed, token)
        await advance(0.6)
        status = await handle.status()
        assert (status.exists, status.lease, status.lease_token) == (True, None, "")
        with pytest.raises(LeaseLost):
            await handle.append(agreed, batch(prepared("late")), held(token, granted))
        with pytest.raises(LeaseLost):
            await handle.renew(agreed, token, granted.epoch)
        await write(handle, prepared("others may"), terms_=agreed)
        assert await items(handle) == ["before", "others may"]

    async def test_a_lease_of_a_session_never_written_ends_too(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        agreed = terms(lease=400)
        token = new_token()
        granted = await take(handle, agreed, token)
        await advance(0.6)
        with pytest.raises(LeaseLost):
            await handle.append(agreed, batch(prepared("late")), held(token, granted))
        with pytest.raises(LeaseLost):
            await handle.renew(agreed, token, granted.epoch)
        assert await items(handle) == []

    async def test_a_renewed_lease_is_held_on(self, handle: SessionStore, advance: Advance) -> None:
        agreed = terms(lease=900)
        token = new_token()
        granted = await take(handle, agreed, token)
        for _ in range(2):
            await advance(0.6)
            await handle.renew(agreed, token, granted.epoch)
        await handle.append(agreed, batch(prepared("in time")), held(token, granted))
        assert await items(handle) == ["in time"]

    async def test_renewing_tells_the_policy_the_session_has_seen(
        self, handle: SessionStore
    ) -> None:
        token = new_token()
        granted = await take(handle, terms(revision=2), token)
        await write(handle, prepared(), terms_=terms(revision=7))
        assert await handle.renew(terms(revision=2), token, granted.epoch) == 7

    async def test_a_lost_turn_writes_nothing_beside_its_successor(
        self, handle: SessionStore, other: SessionStore, advance: Advance
    ) -> None:
        old, new = new_token(), new_token()
        await write(handle, prepared("before"))
        lost = await take(handle, terms(lease=400), old)
        await advance(0.6)
        granted = await take(other, terms(), new)
        assert granted.fence > lost.fence
        await other.append(terms(), batch(prepared("successor")), held(new, granted))
        late = held(old, lost)
        (seq, *_) = (record.seq for record in await stored(handle))
        refused = (
            lambda: handle.append(terms(), batch(prepared("late")), late),
            lambda: handle.clear(terms(), late, force=False),
            lambda: handle.pin(terms(), late, seq=seq, pinned=True),
            lambda: handle.pop(terms(), late, expected=seq + 1, opens=(), closes=()),
            lambda: handle.renew(terms(), old, lost.epoch),
        )
        async with unchanged(handle, terms()):
            for attempt in refused:
                with pytest.raises(LeaseLost):
                    await attempt()
            await handle.release(terms(), old)
        await other.append(terms(), batch(prepared("still mine")), held(new, granted))

    async def test_the_fence_grows_over_release_clear_expiry_and_hand_over(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        short = terms(ttl=400, lease=400)
        fences: list[int] = []

        async def turn(*, give_back: bool) -> None:
            token = new_token()
            fences.append((await take(handle, short, token)).fence)
            if give_back:
                await handle.release(short, token)

        await turn(give_back=True)
        await turn(give_back=True)
        await handle.clear(short, FREE, force=True)
        await turn(give_back=False)
        await advance(0.6)
        assert not (await handle.status()).exists
        await turn(give_back=True)
        first, second = new_token(), new_token()
        fences.append((await take(handle, terms(), first)).fence)
        await stand_in_line(handle, terms(), second)
        await handle.release(terms(), first)
        fences.append((await take(handle, terms(), second)).fence)
        assert fences == sorted(set(fences))

    async def test_an_acquire_overtaken_by_its_own_release_takes_nothing(
        self, handle: SessionStore, other: SessionStore
    ) -> None:
        token = new_token()
        await handle.release(terms(), token, doubt=True)
        answer = await other.acquire(terms(), token, "late")
        assert isinstance(answer, Queued)
        assert not answer.queued
        status = await handle.status()
        assert (status.lease, status.waiting) == (None, 0)
        await take(handle, terms(), new_token())

    async def test_a_release_in_doubt_gives_up_what_was_granted_after_all(
        self, handle: SessionStore
    ) -> None:
        token, next_ = new_token(), new_token()
        await take(handle, terms(), token)
        await stand_in_line(handle, terms(), next_)
        for _ in range(2):
            await handle.release(terms(), token, doubt=True)
        assert (await handle.status()).lease_token == next_
        await handle.release(terms(), next_)
        assert not isinstance(await handle.acquire(terms(), token, "late"), Granted)

    async def test_an_interrupter_has_the_turn_at_once_and_the_holder_is_told(
        self, handle: SessionStore, other: SessionStore
    ) -> None:
        old, new, waiter = new_token(), new_token(wait=0), new_token()
        lost = await take(handle, terms(), old)
        await handle.append(terms(), batch(prepared("before")), held(old, lost))
        await stand_in_line(handle, terms(), waiter)
        granted = await interrupt(other, new)
        assert granted.fence > lost.fence
        await other.append(terms(), batch(prepared("after")), held(new, granted))
        late = held(old, lost)
        refused = (
            lambda: handle.append(terms(), batch(prepared("late")), late),
            lambda: handle.clear(terms(), late, force=False),
            lambda: handle.pin(terms(), late, seq=1, pinned=True),
            lambda: handle.pop(terms(), late, expected=2, opens=(), closes=()),
            lambda: handle.renew(terms(), old, lost.epoch),
        )
        async with unchanged(handle, terms()):
            for attempt in refused:
                with pytest.raises(TurnInterrupted):
                    await attempt()
            await handle.release(terms(), old)
        with pytest.raises(LeaseLost) as stranger:
            await handle.renew(terms(), new_token(), lost.epoch)
        assert not isinstance(stranger.value, TurnInterrupted)
        assert await items(handle) == ["before", "after"]
        await other.release(terms(), new)
        await take(handle, terms(), waiter)

    async def test_an_interrupted_holder_is_told_so_after_a_clear_too(
        self, handle: SessionStore
    ) -> None:
        old, new = new_token(), new_token()
        lost = await take(handle, terms(), old)
        granted = await interrupt(handle, new)
        await handle.clear(terms(), held(new, granted), force=False)
        with pytest.raises(TurnInterrupted):
            await handle.append(terms(), batch(prepared("late")), held(old, lost))

    async def test_of_several_in_a_row_each_is_told(self, handle: SessionStore) -> None:
        tokens = [new_token() for _ in range(5)]
        fences = [await interrupt(handle, token) for token in tokens]
        for token, lost in zip(tokens[:-1], fences, strict=False):
            with pytest.raises(TurnInterrupted):
                await handle.renew(terms(), token, lost.epoch)
        await handle.renew(terms(), tokens[-1], fences[-1].epoch)

    async def test_who_was_interrupted_is_told_until_its_time_ends(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        old = new_token()
        await write(handle, prepared())
        lost = await take(handle, terms(lease=400), old)
        await interrupt(handle, new_token())
        with pytest.raises(TurnInterrupted):
            await handle.renew(terms(), old, lost.epoch)
        await advance(0.6)
        with pytest.raises(LeaseLost) as refusal:
            await handle.renew(terms(), old, lost.epoch)
        assert not isinstance(refusal.value, TurnInterrupted)

    async def test_a_repeated_call_does_not_interrupt_back(self, handle: SessionStore) -> None:
        first, second = new_token(), new_token()
        await interrupt(handle, first)
        assert (await interrupt(handle, first)).fence
        granted = await interrupt(handle, second)
        with pytest.raises(TurnInterrupted):
            await handle.acquire(terms(), first, "", interrupt=True)
        await handle.append(terms(), batch(prepared("mine")), held(second, granted))

    async def test_a_turn_ends_with_its_session(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        agreed = terms(max_lifetime=400)
        await write(handle, prepared(), terms_=agreed)
        token = new_token()
        granted = await take(handle, agreed, token)
        await advance(0.6)
        await write(handle, prepared("new life"))
        with pytest.raises(LeaseLost):
            await handle.append(agreed, batch(prepared("late")), held(token, granted))
        assert await items(handle) == ["new life"]
