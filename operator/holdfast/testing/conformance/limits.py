"""Hard limits: exactly what `holdfast.planning.plan_backstop` says leaves, and nothing else."""
# ruff: noqa: D102 - the name of a test is its sentence

import asyncio
import random
from collections.abc import Sequence

import pytest

from holdfast.errors import BudgetExceeded
from holdfast.store import MemoryStore, SessionStore
from holdfast.testing.conformance.model import Model, seen
from holdfast.testing.conformance.support import (
    FREE,
    LONG,
    StoreContract,
    batch,
    digest,
    items,
    prepared,
    stored,
    terms,
    unchanged,
    write,
)
from holdfast.values import Batch, Flag, MemoryAddress, Prepared, Terms

CALLS = tuple(f"call {number}" for number in range(6))


class _History:
    """A random life of one session, played to a store and to the model at once."""

    def __init__(self, handle: SessionStore, agreed: Terms, rng: random.Random) -> None:
        self.handle = handle
        self.model = Model(agreed)
        self.rng = rng
        self.made: dict[int, Prepared] = {}

    async def step(self) -> None:
        """Do one thing to both, and compare them."""
        deed = self.rng.choices(("append", "pin", "pop"), (8, 1, 1))[0]
        if deed == "append" or not self.model.records:
            await self._append()
        elif deed == "pin":
            await self._pin()
        else:
            await self._pop()
        await self._compare()

    async def _append(self) -> None:
        model = self.model
        records: list[Prepared] = []
        for _ in range(self.rng.choice((1, 1, 1, 2, 3))):
            records.append(self._message(records))
        first = model.last + 1
        plan = model.append(records)
        if plan.hopeless:
            with pytest.raises(BudgetExceeded):
                await self.handle.append(model.terms, Batch(tuple(records)), FREE)
            return
        answer = await self.handle.append(model.terms, Batch(tuple(records)), FREE)
        self.made |= {first + at: record for at, record in enumerate(records)}
        assert answer.seq == first
        assert answer.evicted == len(plan.evict)
        assert answer.over == plan.over
        assert answer.length == len(model.records)
        assert answer.tokens == sum(record.tokens for record in model.records)

    def _message(self, before: Sequence[Prepared]) -> Prepared:
        """Return a message; the ones before it in the batch may be told to be its group."""
        rng, model = self.rng, self.model
        tokens = rng.randint(1, 15)
        item = f"message {len(self.made)} {rng.random()}"
        kind = rng.choices(
            ("plain", "call", "result", "orphan", "joins", "pinned", "system"),
            (8, 4, 5, 1, 2, 1, 1),
        )[0]
        flags = {"pinned": Flag.PINNED, "system": Flag.SYSTEM}.get(kind, 0)
        opens: Sequence[str] = ()
        closes: Sequence[str] = ()
        group = 0
        if kind == "call":
            opens = rng.sample(CALLS, rng.randint(1, 2))
        elif kind == "result":
            closes = self._answerable()
        elif kind == "orphan":
            closes = ("unknown",)
        elif kind == "joins":
            group = rng.randint(1, model.last + len(before) + 1)
        return prepared(item, tokens, flags, group=group, opens=opens, closes=closes)

    def _answerable(self) -> Sequence[str]:
        """Return one or two open calls of one group."""
        waiting = self.model.waiting
        if not waiting:
            return ("?unknown",)
        group = self.rng.choice(sorted(waiting.values()))
        calls = [call for call in CALLS if waiting.get(digest(call)) == group]
        return self.rng.sample(calls, self.rng.randint(1, len(calls)))

    async def _pin(self) -> None:
        seq = self.rng.choice(self.model.records).seq
        pinned = self.rng.random() < 0.4
        self.model.pin(seq, pinned=pinned)
        await self.handle.pin(self.model.terms, FREE, seq=seq, pinned=pinned)

    async def _pop(self) -> None:
        newest = self.model.records[-1]
        made = self.made[newest.seq]
        # Whether the call it answered was open is known by the flag; two may have been answered.
        reopens = made.closes if newest.closes == len(made.closes) else ()
        if newest.closes != len(reopens):
            return
        self.model.pop(opens=made.opens, reopens=reopens)
        changed = await self.handle.pop(
            self.model.terms, FREE, expected=newest.seq, opens=made.opens, closes=reopens
        )
        assert changed.records == 1

    async def _compare(self) -> None:
        window = await self.handle.everything(self.model.terms)
        records = self.model.records
        protected = [record for record in records if record.protected]
        assert seen(window.records) == seen(records)
        assert window.status.messages == len(records)
        assert window.status.tokens == sum(record.tokens for record in records)
        assert window.status.pinned == len(protected)
        assert window.status.pinned_tokens == sum(record.tokens for record in protected)
        assert window.status.dropped == self.model.dropped
        assert window.status.last_seq == self.model.last


@pytest.mark.asyncio
class TestLimits(StoreContract):
    """The backstop within an append."""

    @pytest.mark.parametrize("seed", range(12))
    async def test_a_random_history_is_what_the_planning_says(
        self, handle: SessionStore, seed: int
    ) -> None:
        limits = ({"max_tokens": 60}, {"max_messages": 8}, {"max_tokens": 50, "max_messages": 9})
        agreed = terms(lease=LONG, **limits[seed % 3])
        history = _History(handle, agreed, random.Random(seed))  # noqa: S311 - to be repeatable
        for _ in range(50):
            await history.step()

    @pytest.mark.parametrize("seed", range(2))
    async def test_concurrent_writers_leave_what_a_replay_by_number_leaves(
        self, store: MemoryStore, memory: MemoryAddress, seed: int
    ) -> None:
        rng = random.Random(seed)  # noqa: S311 - to be repeatable
        agreed = terms(max_tokens=100, max_messages=12, lease=LONG)
        acknowledged: dict[int, Prepared] = {}

        async def writer(name: int) -> None:
            handle = store.session(memory, "any")
            for number in range(20):
                message = prepared([name, number], rng.randint(1, 20))
                answer = await handle.append(agreed, batch(message), FREE)
                acknowledged[answer.seq] = message

        await asyncio.gather(*(writer(name) for name in range(6)))
        model = Model(agreed, last=min(acknowledged) - 1)
        for _, message in sorted(acknowledged.items()):
            model.append([message])
        assert len(acknowledged) == 120
        assert seen(await stored(store.session(memory, "any"))) == seen(model.records)

    async def test_a_session_at_its_limit_is_full_not_over(self, handle: SessionStore) -> None:
        agreed = terms(max_tokens=10, max_messages=2)
        await write(handle, prepared("one", 5), prepared("two", 5), terms_=agreed)
        assert await items(handle) == ["one", "two"]

    async def test_a_refused_append_takes_no_number(self, handle: SessionStore) -> None:
        agreed = terms(max_messages=1, refuse=True)
        (seq,) = await write(handle, prepared("one"), terms_=agreed)
        with pytest.raises(BudgetExceeded):
            await handle.append(agreed, batch(prepared("two")), FREE)
        (following,) = await write(handle, prepared("three"))
        assert following == seq + 1

    @pytest.mark.parametrize("limit", [{"max_tokens": 10}, {"max_messages": 2}])
    async def test_a_full_buffer_refuses_and_keeps_what_it_has(
        self, handle: SessionStore, limit: dict[str, int]
    ) -> None:
        agreed = terms(refuse=True, **limit)
        await write(handle, prepared("one", 5), prepared("two", 5), terms_=agreed)
        async with unchanged(handle, agreed):
            with pytest.raises(BudgetExceeded):
                await handle.append(agreed, batch(prepared("three")), FREE)

    async def test_a_buffer_takes_what_fits_after_something_was_taken_out(
        self, handle: SessionStore
    ) -> None:
        agreed = terms(refuse=True, max_messages=2)
        _, newest = await write(handle, prepared("one"), prepared("two"), terms_=agreed)
        await handle.pop(agreed, FREE, expected=newest, opens=(), closes=())
        answer = await handle.append(agreed, batch(prepared("three")), FREE)
        assert answer.evicted == 0
        assert await items(handle) == ["one", "three"]

    async def test_what_does_not_fit_beside_the_protected_is_refused(
        self, handle: SessionStore
    ) -> None:
        agreed = terms(max_tokens=100)
        await write(handle, prepared("system", 80, Flag.SYSTEM), prepared("old", 15), terms_=agreed)
        async with unchanged(handle, agreed):
            with pytest.raises(BudgetExceeded):
                await handle.append(agreed, batch(prepared("too much", 21)), FREE)
        await handle.append(agreed, batch(prepared("just enough", 20)), FREE)
        assert await items(handle) == ["system", "just enough"]

    async def test_protected_records_over_the_limit_are_refused(self, handle: SessionStore) -> None:
        agreed = terms(max_messages=2)
        pinned = [prepared(number, flags=Flag.PINNED) for number in range(2)]
        await write(handle, *pinned, terms_=agreed)
        async with unchanged(handle, agreed):
            with pytest.raises(BudgetExceeded):
                await handle.append(agreed, batch(prepared(2, flags=Flag.PINNED)), FREE)

    async def test_a_batch_over_the_limit_is_refused_as_a_whole(self, handle: SessionStore) -> None:
        agreed = terms(max_messages=3)
        await write(handle, prepared("old"), terms_=agreed)
        async with unchanged(handle, agreed):
            with pytest.raises(BudgetExceeded):
                await handle.append(agreed, batch(*(prepared(n) for n in range(4))), FREE)
        await handle.append(agreed, batch(*(prepared(n) for n in range(3))), FREE)
        assert await items(handle) == [0, 1, 2]

    async def test_the_first_append_of_a_session_is_refused_when_it_does_not_fit(
        self, handle: SessionStore
    ) -> None:
        with pytest.raises(BudgetExceeded):
            await handle.append(terms(max_tokens=4), batch(prepared("much", 5)), FREE)
        assert await items(handle) == []
        assert (await handle.status()).messages == 0

    async def test_lower_limits_take_hold_at_the_next_append(self, handle: SessionStore) -> None:
        await write(handle, *(prepared(number) for number in range(10)))
        answer = await handle.append(terms(revision=1, max_messages=3), batch(prepared(10)), FREE)
        assert answer.evicted == 8
        assert await items(handle) == [8, 9, 10]

    async def test_a_long_batch_is_stored(self, handle: SessionStore) -> None:
        records = [prepared(number) for number in range(1_000)]
        await handle.append(terms(), batch(*records), FREE)
        answer = await handle.append(terms(max_messages=1_000), batch(*records), FREE)
        assert (answer.evicted, answer.length) == (1_000, 1_000)
        assert await items(handle) == list(range(1_000))
