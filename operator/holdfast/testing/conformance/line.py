"""The line of those who wait for the turn, and how it is handed over."""
# ruff: noqa: D102 - the name of a test is its sentence

import asyncio
import time

import pytest

from holdfast.store import SessionStore
from holdfast.testing.conformance.support import (
    FREE,
    Advance,
    StoreContract,
    batch,
    held,
    new_token,
    newest,
    prepared,
    stand_in_line,
    take,
    terms,
    write,
)
from holdfast.values import Queued


@pytest.mark.asyncio
class TestLine(StoreContract):
    """Those who wait for the turn are served strictly in order."""

    async def test_who_does_not_wait_is_told_and_forgotten(self, handle: SessionStore) -> None:
        agreed = terms(lease=60_000)
        token = new_token()
        await handle.acquire(agreed, token, "pod-a")
        answer = await stand_in_line(handle, agreed, new_token(wait=0))
        assert (answer.holder, answer.queued) == ("pod-a", False)
        assert 0 < answer.remaining <= 60
        assert (await handle.status()).waiting == 0
        await handle.release(agreed, token)
        assert (await handle.status()).lease is None

    async def test_a_token_keeps_its_place(self, handle: SessionStore) -> None:
        first, second = new_token(), new_token()
        await take(handle, terms(), new_token())
        for _ in range(2):
            ahead = await stand_in_line(handle, terms(), first)
            behind = await stand_in_line(handle, terms(), second)
            assert (ahead.place, behind.place) == (0, 1)
            assert ahead.queued
            assert behind.queued
        assert (await handle.status()).waiting == 2

    async def test_the_turn_is_handed_over_in_order(self, handle: SessionStore) -> None:
        holder = new_token()
        await take(handle, terms(), holder)
        line = [new_token() for _ in range(8)]
        for token in line:
            await stand_in_line(handle, terms(), token)
        fences: list[int] = []
        while line:
            await handle.release(terms(), holder)
            for impatient in reversed(line[1:]):
                await stand_in_line(handle, terms(), impatient)
            holder = line.pop(0)
            fences.append((await take(handle, terms(), holder)).fence)
        assert fences == sorted(set(fences))
        assert (await handle.status()).waiting == 0

    async def test_nobody_overtakes_between_release_and_hand_over(
        self, handle: SessionStore
    ) -> None:
        holder, first = new_token(), new_token()
        await take(handle, terms(), holder)
        await stand_in_line(handle, terms(), first)
        await handle.release(terms(), holder)
        await stand_in_line(handle, terms(), new_token(wait=0))
        assert (await handle.status()).lease_token == first
        await take(handle, terms(), first)

    async def test_a_turn_handed_over_is_short_until_its_new_holder_comes(
        self, handle: SessionStore
    ) -> None:
        agreed = terms(lease=60_000, grant=5_000)
        holder, first = new_token(), new_token()
        await take(handle, agreed, holder)
        await stand_in_line(handle, agreed, first)
        await handle.release(agreed, holder)
        lease = (await handle.status()).lease
        assert lease is not None
        assert lease.remaining <= 5
        await take(handle, agreed, first)
        lease = (await handle.status()).lease
        assert lease is not None
        assert lease.remaining > 5

    async def test_a_dead_waiter_costs_no_more_than_the_grant_time(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        agreed = terms(grant=400)
        holder, dead, alive = (new_token() for _ in range(3))
        await take(handle, agreed, holder)
        await stand_in_line(handle, agreed, dead)
        await stand_in_line(handle, agreed, alive)
        await handle.release(agreed, holder)
        await advance(0.6)
        await take(handle, agreed, alive)

    @pytest.mark.parametrize("written", [True, False], ids=["written", "never written"])
    async def test_a_killed_holder_costs_its_lease_and_the_first_in_line_is_next(
        self, handle: SessionStore, advance: Advance, written: bool
    ) -> None:
        if written:
            await write(handle, prepared())
        first, second, latecomer = (new_token() for _ in range(3))
        await take(handle, terms(lease=600), new_token())
        await stand_in_line(handle, terms(), first)
        await stand_in_line(handle, terms(), second)
        await advance(0.8)
        await stand_in_line(handle, terms(), latecomer)
        await stand_in_line(handle, terms(), second)
        await take(handle, terms(), first)

    async def test_who_has_waited_long_enough_is_passed_over(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        holder, impatient, patient = new_token(), new_token(wait=300), new_token()
        await take(handle, terms(), holder)
        await stand_in_line(handle, terms(), impatient)
        await stand_in_line(handle, terms(), patient)
        await advance(0.5)
        await handle.release(terms(), holder)
        await take(handle, terms(), patient)

    async def test_who_leaves_the_line_is_passed_over(self, handle: SessionStore) -> None:
        holder, first, second = (new_token() for _ in range(3))
        await take(handle, terms(), holder)
        await stand_in_line(handle, terms(), first)
        await stand_in_line(handle, terms(), second)
        await handle.release(terms(), first)
        assert (await stand_in_line(handle, terms(), second)).place == 0
        assert (await handle.status()).waiting == 1
        await handle.release(terms(), holder)
        await take(handle, terms(), second)

    async def test_who_leaves_after_the_hand_over_passes_the_turn_on(
        self, handle: SessionStore
    ) -> None:
        holder, first, second = (new_token() for _ in range(3))
        await take(handle, terms(), holder)
        await stand_in_line(handle, terms(), first)
        await stand_in_line(handle, terms(), second)
        await handle.release(terms(), holder)
        await handle.release(terms(), first)
        await take(handle, terms(), second)
        await handle.release(terms(), second)
        assert (await handle.status()).lease is None

    async def test_who_left_may_line_up_again_at_the_end(self, handle: SessionStore) -> None:
        holder, first, second = (new_token() for _ in range(3))
        await take(handle, terms(), holder)
        await stand_in_line(handle, terms(), first)
        await stand_in_line(handle, terms(), second)
        await handle.release(terms(), first)
        assert (await stand_in_line(handle, terms(), first)).place == 1

    async def test_a_sleeper_is_woken_by_the_hand_over(
        self, handle: SessionStore, other: SessionStore
    ) -> None:
        holder, first = new_token(), new_token()
        await take(handle, terms(), holder)
        await stand_in_line(other, terms(), first)
        sleeping = asyncio.create_task(other.sleep(first, 60))
        await asyncio.sleep(0)
        await handle.release(terms(), holder)
        await asyncio.wait_for(sleeping, 20)
        await take(other, terms(), first)

    async def test_a_hand_over_before_the_sleep_is_not_missed(self, handle: SessionStore) -> None:
        holder, first = new_token(), new_token()
        await take(handle, terms(), holder)
        await stand_in_line(handle, terms(), first)
        await handle.release(terms(), holder)
        await asyncio.wait_for(handle.sleep(first, 60), 20)

    async def test_the_hand_over_carries_the_grant(
        self, handle: SessionStore, other: SessionStore
    ) -> None:
        agreed = terms(lease=60_000, grant=5_000)
        holder, first = new_token(), new_token()
        before = await take(handle, agreed, holder)
        asked = time.monotonic()
        await stand_in_line(other, agreed, first)
        answer = await handle.append(agreed, batch(prepared("one")), held(holder, before))
        await handle.release(agreed, holder)
        granted = await other.sleep(first, 60)
        assert granted is not None
        assert granted.fence > before.fence
        assert (granted.epoch, granted.seen) == (answer.epoch, answer.seq)
        assert asked < granted.until <= time.monotonic() + 5
        await other.append(agreed, batch(prepared("two")), held(first, granted))
        await other.renew(agreed, first, granted.epoch, "pod-b")
        lease = (await handle.status()).lease
        assert lease is not None
        assert (lease.holder, lease.fence) == ("pod-b", granted.fence)
        assert lease.remaining > 5
        await other.renew(agreed, first, granted.epoch)
        lease = (await handle.status()).lease
        assert lease is not None
        assert lease.holder == "pod-b"

    async def test_a_hand_over_that_is_over_gives_nothing(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        agreed = terms(grant=400)
        holder, first, second = (new_token() for _ in range(3))
        await take(handle, agreed, holder)
        await stand_in_line(handle, agreed, first)
        await stand_in_line(handle, agreed, second)
        await handle.release(agreed, holder)
        await advance(0.6)
        assert await asyncio.wait_for(handle.sleep(first, 60), 20) is None
        await stand_in_line(handle, agreed, first)
        await take(handle, agreed, second)
        assert await handle.sleep(first, 0.05) is None

    async def test_a_sleep_ends_by_itself(self, handle: SessionStore) -> None:
        holder, first = new_token(), new_token()
        await take(handle, terms(), holder)
        await stand_in_line(handle, terms(), first)
        assert await asyncio.wait_for(handle.sleep(first, 0.05), 20) is None
        assert isinstance(await handle.acquire(terms(), first, ""), Queued)

    async def test_a_cancelled_sleep_leaves_the_store_usable(self, handle: SessionStore) -> None:
        holder, first = new_token(), new_token()
        await take(handle, terms(), holder)
        await stand_in_line(handle, terms(), first)
        for round_ in range(20):
            sleeping = asyncio.create_task(handle.sleep(first, 60))
            for _ in range(round_ % 4):
                await asyncio.sleep(0)
            sleeping.cancel()
            await asyncio.gather(sleeping, return_exceptions=True)
            answer = await handle.append(terms(), batch(prepared(round_)), FREE)
            last = await newest(handle)
            assert last is not None
            assert (last.seq, last.item) == (answer.seq, round_)
        await handle.release(terms(), holder)
        await take(handle, terms(), first)
