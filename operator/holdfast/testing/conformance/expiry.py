"""When a session ends, and what begins after it: expiry, clear, epochs."""
# ruff: noqa: D102 - the name of a test is its sentence

import contextlib

import pytest

from holdfast.errors import LeaseLost, SessionBusy
from holdfast.store import SessionStore, StalePolicy
from holdfast.testing.conformance.support import (
    FREE,
    LONG,
    Advance,
    StoreContract,
    batch,
    held,
    identified,
    items,
    new_token,
    newest,
    prepared,
    stand_in_line,
    stored,
    take,
    terms,
    unchanged,
    write,
)
from holdfast.values import Caller, Flag, Refresh


@pytest.mark.asyncio
class TestExpiry(StoreContract):
    """One moment for the whole session, and the rule that set it."""

    async def test_a_session_expires_one_idle_time_after_its_last_write(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        for _ in range(2):
            await write(handle, prepared(), terms_=terms(ttl=60_000))
            written = (await stored(handle))[-1].ts
            status = await handle.status()
            assert (status.expires_at, status.expiry_rule) == (written + 60_000, "ttl")
            await advance(0.1)

    async def test_an_expired_session_is_gone_and_another_begins(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        await write(handle, prepared("old", flags=Flag.PINNED), prepared("old", opens=["c"]))
        answer = await handle.append(terms(ttl=400), batch(prepared("old")), FREE)
        await advance(0.6)
        status = await handle.status()
        assert not status.exists
        assert (status.messages, status.tokens, status.pinned) == (0, 0, 0)
        assert await newest(handle) is None
        again = await handle.append(
            terms(), batch(prepared("new", closes=["c"])), Caller("", answer.epoch, answer.seq)
        )
        assert again.epoch > answer.epoch
        (record,) = await stored(handle)
        assert record.item == "new"
        assert record.flags & Flag.ORPHAN

    async def test_a_session_that_is_written_to_lives_on(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        for number in range(3):
            await write(handle, prepared(number), terms_=terms(ttl=800))
            await advance(0.4)
        assert await items(handle) == [0, 1, 2]

    async def test_asking_for_the_status_does_not_renew(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        await write(handle, prepared())
        before = (await handle.status()).expires_at
        await advance(0.05)
        assert (await handle.status()).expires_at == before

    @pytest.mark.parametrize(
        ("refresh", "renews"), [(Refresh.WRITE, False), (Refresh.WRITE | Refresh.READ, True)]
    )
    @pytest.mark.parametrize("call", ["everything", "tail", "page", "newest"])
    async def test_reading_renews_only_if_so_agreed(
        self, handle: SessionStore, advance: Advance, call: str, refresh: Refresh, renews: bool
    ) -> None:
        agreed = terms(refresh=refresh)
        await write(handle, prepared(), terms_=agreed)
        before = (await handle.status()).expires_at
        await advance(0.1)
        match call:
            case "everything":
                await handle.everything(agreed)
            case "tail":
                await handle.tail(agreed, tokens=10)
            case "page":
                await handle.page(agreed, after=0, limit=10)
            case _:
                await handle.newest(agreed, 1)
        after = (await handle.status()).expires_at
        assert after >= before + 100 if renews else after == before

    async def test_writing_renews_only_if_so_agreed(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        agreed = terms(refresh=Refresh.READ)
        await write(handle, prepared(), terms_=agreed)
        before = (await handle.status()).expires_at
        assert before == (await stored(handle))[0].ts + LONG
        await advance(0.1)
        [last] = await write(handle, prepared(), terms_=agreed)
        await handle.pin(agreed, FREE, seq=1, pinned=True)
        await handle.pop(agreed, FREE, expected=last, opens=(), closes=())
        assert (await handle.status()).expires_at == before

    async def test_a_reader_with_an_older_policy_does_not_shorten_the_life(
        self, handle: SessionStore
    ) -> None:
        await write(handle, prepared(), terms_=terms(revision=5))
        before = (await handle.status()).expires_at
        with contextlib.suppress(StalePolicy):
            await handle.everything(terms(revision=4, ttl=1_000, refresh=Refresh.READ))
        assert (await handle.status()).expires_at == before

    async def test_pin_and_pop_renew_like_an_append(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        seq, last = await write(handle, prepared(), prepared())
        moments = [(await handle.status()).expires_at]
        await advance(0.05)
        await handle.pin(terms(), FREE, seq=seq, pinned=True)
        moments.append((await handle.status()).expires_at)
        await advance(0.05)
        await handle.pop(terms(), FREE, expected=last, opens=(), closes=())
        moments.append((await handle.status()).expires_at)
        assert moments == sorted(set(moments))

    async def test_the_longest_life_caps_every_renewal(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        agreed = terms(max_lifetime=900)
        await write(handle, prepared("first"), terms_=agreed)
        created = (await stored(handle))[0].ts
        await advance(0.5)
        await write(handle, prepared("second"), terms_=agreed)
        status = await handle.status()
        assert (status.expires_at, status.expiry_rule) == (created + 900, "maxLifetime")
        await advance(0.6)
        assert not (await handle.status()).exists

    @pytest.mark.parametrize("call", ["clear", "replace"])
    async def test_neither_clear_nor_replace_begins_another_life(
        self, handle: SessionStore, advance: Advance, call: str
    ) -> None:
        agreed = terms(max_lifetime=60_000, after_clear=LONG)
        await handle.append(agreed, identified("request", prepared("old")), FREE)
        capped = (await stored(handle))[0].ts + 60_000
        await advance(0.05)
        if call == "clear":
            await handle.clear(agreed, FREE, force=False)
        else:
            await handle.replace(agreed, batch(prepared("new")), FREE)
        status = await handle.status()
        assert (status.expires_at, status.expiry_rule) == (capped, "maxLifetime")
        await write(handle, prepared("later", flags=Flag.PINNED), terms_=agreed)
        status = await handle.status()
        assert (status.expires_at, status.expiry_rule) == (capped, "maxLifetime")

    async def test_a_held_turn_keeps_a_short_lived_session_alive(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        agreed = terms(ttl=300, lease=5_000)
        token = new_token()
        granted = await take(handle, agreed, token)
        await handle.append(agreed, batch(prepared("kept")), held(token, granted))
        assert (await handle.status()).expiry_rule == "lease"
        await advance(0.5)
        assert await items(handle) == ["kept"]

    async def test_renewing_the_lease_renews_the_session(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        agreed = terms(ttl=200, lease=1_600)
        token = new_token()
        granted = await take(handle, agreed, token)
        await handle.append(agreed, batch(prepared("kept")), held(token, granted))
        await advance(0.9)
        await handle.renew(agreed, token, granted.epoch)
        await advance(0.9)
        assert await items(handle) == ["kept"]

    async def test_not_even_a_lease_outlives_the_longest_life(self, handle: SessionStore) -> None:
        agreed = terms(ttl=300, max_lifetime=2_000, lease=60_000)
        token = new_token()
        await write(handle, prepared(), terms_=agreed)
        ends = (await stored(handle))[0].ts + 2_000
        granted = await take(handle, agreed, token)
        assert (await handle.status()).expires_at <= ends
        await handle.renew(agreed, token, granted.epoch)
        assert (await handle.status()).expires_at <= ends
        await handle.append(agreed, batch(prepared()), held(token, granted))
        status = await handle.status()
        assert (status.expires_at, status.expiry_rule) == (ends, "maxLifetime")

    async def test_an_edit_that_makes_a_session_too_old_deletes_nothing_with_the_next_call(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        await write(handle, prepared("old"), terms_=terms(ttl=60_000))
        before = (await handle.status()).expires_at
        await advance(0.3)
        edited = terms(ttl=60_000, max_lifetime=200)
        await write(handle, prepared("new"), terms_=edited)
        token = new_token()
        await take(handle, edited, token)
        await handle.release(edited, token)
        status = await handle.status()
        assert await items(handle) == ["old", "new"]
        assert status.expires_at == before
        assert status.expiry_rule == "maxLifetime"


@pytest.mark.asyncio
class TestClear(StoreContract):
    """All records go, and an epoch ends."""

    async def test_clear_takes_everything_and_says_how_much(self, handle: SessionStore) -> None:
        before = await handle.append(
            terms(), batch(prepared(flags=Flag.SYSTEM), prepared(flags=Flag.PINNED)), FREE
        )
        await write(handle, prepared("three", 3))
        changed = await handle.clear(terms(), FREE, force=False)
        assert changed.records == 3
        assert changed.epoch > before.epoch
        status = await handle.status()
        assert (status.messages, status.tokens, status.bytes) == (0, 0, 0)
        assert (status.pinned, status.pinned_tokens) == (0, 0)
        assert status.epoch == changed.epoch
        assert await stored(handle) == []
        assert await newest(handle) is None

    async def test_clear_of_a_session_that_never_was_clears_nothing(
        self, handle: SessionStore
    ) -> None:
        assert (await handle.clear(terms(), FREE, force=False)).records == 0
        await write(handle, prepared("one"))
        assert await items(handle) == ["one"]

    async def test_every_clear_begins_a_new_epoch(self, handle: SessionStore) -> None:
        epochs = [(await handle.append(terms(), batch(prepared()), FREE)).epoch]
        epochs += [(await handle.clear(terms(), FREE, force=False)).epoch for _ in range(5)]
        assert epochs == sorted(set(epochs))

    async def test_numbers_go_on_after_a_clear(self, handle: SessionStore) -> None:
        (before,) = await write(handle, prepared())
        await handle.clear(terms(), FREE, force=False)
        (after,) = await write(handle, prepared())
        assert after > before

    async def test_open_calls_are_forgotten_by_a_clear(self, handle: SessionStore) -> None:
        await write(handle, prepared("call", opens=["c"]))
        await handle.clear(terms(), FREE, force=False)
        await write(handle, prepared("result", closes=["c"]))
        (record,) = await stored(handle)
        assert record.flags & Flag.ORPHAN
        assert record.group == record.seq

    async def test_a_cleared_session_has_its_own_idle_time_until_the_next_write(
        self, handle: SessionStore
    ) -> None:
        agreed = terms(after_clear=10_000)
        await write(handle, prepared(), terms_=agreed)
        before = await handle.status()
        await handle.clear(agreed, FREE, force=False)
        cleared = await handle.status()
        assert cleared.expiry_rule == "afterClear"
        assert cleared.expires_at < before.expires_at - LONG // 2
        await write(handle, prepared(), terms_=agreed)
        status = await handle.status()
        assert status.expiry_rule == "ttl"
        assert status.expires_at == (await stored(handle))[0].ts + LONG

    async def test_without_a_time_of_its_own_a_cleared_session_keeps_the_usual_one(
        self, handle: SessionStore
    ) -> None:
        await write(handle, prepared())
        before = await handle.status()
        await handle.clear(terms(), FREE, force=False)
        cleared = await handle.status()
        assert cleared.expiry_rule == "ttl"
        assert cleared.expires_at >= before.expires_at

    async def test_a_turn_ends_when_somebody_else_clears(self, handle: SessionStore) -> None:
        await write(handle, prepared("old"))
        token = new_token()
        granted = await take(handle, terms(), token)
        await handle.clear(terms(), FREE, force=False)
        async with unchanged(handle, terms()):
            with pytest.raises(LeaseLost):
                await handle.append(terms(), batch(prepared("late")), held(token, granted))
            with pytest.raises(LeaseLost):
                await handle.renew(terms(), token, granted.epoch)

    async def test_the_turn_goes_on_when_its_holder_clears(self, handle: SessionStore) -> None:
        agreed = terms(enforced=True)
        await write(handle, prepared("old"), terms_=agreed)
        token = new_token()
        granted = await take(handle, agreed, token)
        changed = await handle.clear(agreed, held(token, granted), force=False)
        caller = Caller(token, changed.epoch)
        await handle.append(agreed, batch(prepared("new")), caller)
        await handle.renew(agreed, token, changed.epoch)
        assert await items(handle) == ["new"]

    async def test_an_enforced_turn_is_cleared_by_others_only_with_force(
        self, handle: SessionStore
    ) -> None:
        agreed = terms(enforced=True)
        await write(handle, prepared("old"), terms_=agreed)
        token = new_token()
        granted = await take(handle, agreed, token)
        async with unchanged(handle, agreed):
            with pytest.raises(SessionBusy):
                await handle.clear(agreed, FREE, force=False)
        await handle.clear(agreed, FREE, force=True)
        assert await items(handle) == []
        with pytest.raises(LeaseLost):
            await handle.append(agreed, batch(prepared("late")), held(token, granted))

    async def test_a_lost_turn_clears_nothing(self, handle: SessionStore) -> None:
        await write(handle, prepared("kept"))
        token = new_token()
        granted = await take(handle, terms(), token)
        await handle.release(terms(), token)
        async with unchanged(handle, terms()):
            with pytest.raises(LeaseLost):
                await handle.clear(terms(), held(token, granted), force=False)

    async def test_clear_under_an_older_policy_is_refused(self, handle: SessionStore) -> None:
        await write(handle, prepared(), terms_=terms(revision=5))
        async with unchanged(handle, terms(revision=5)):
            with pytest.raises(StalePolicy):
                await handle.clear(terms(revision=4), FREE, force=False)

    async def test_the_line_survives_a_clear(self, handle: SessionStore) -> None:
        await write(handle, prepared())
        first, second = new_token(), new_token()
        await take(handle, terms(), first)
        await stand_in_line(handle, terms(), second)
        await handle.clear(terms(), FREE, force=True)
        await handle.release(terms(), first)
        granted = await take(handle, terms(), second)
        await handle.append(terms(), batch(prepared("new")), held(second, granted))
        assert await items(handle) == ["new"]
