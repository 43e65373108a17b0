"""The history of all that left."""
# ruff: noqa: D102 - the name of a test is its sentence

import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from holdfast.store import MemoryStore, SessionStore
from holdfast.store.in_memory import InMemoryStore
from holdfast.testing.conformance.flushing import (
    SUMMED_UP,
    left,
    plan,
    recounted,
    summary,
)
from holdfast.testing.conformance.model import seen
from holdfast.testing.conformance.support import (
    FREE,
    Advance,
    StoreContract,
    batch,
    digest,
    prepared,
    stored,
    terms,
    unchanged,
    write,
)
from holdfast.values import (
    MemoryAddress,
)


@pytest.mark.asyncio
class TestHistory(StoreContract):
    """What left, by which rule, and where it went."""

    async def test_each_rule_has_its_entry(self, handle: SessionStore) -> None:
        await write(handle, *(prepared(number, 10) for number in range(9)))
        splice = await plan(handle, [1, 2, 3, 5, 6])
        rules = ["FIFO", "share:longTerm", "FIFO", "FIFO", "block:2"]
        mixed = [(seq, rule) for (seq, _), rule in zip(splice.rules, rules, strict=True)]
        await handle.splice(terms(), splice._replace(rules=mixed))
        entries = {it.rule: it for it in await handle.departed()}
        fifo = entries.pop("FIFO")
        assert (fifo.first, fifo.last, fifo.messages, fifo.tokens) == (1, 5, 3, 30)
        assert fifo.ranges == ((1, 1), (3, 3), (5, 5))
        assert entries["share:longTerm"].ranges == ((2, 2),)
        assert entries["block:2"].ranges == ((6, 6),)
        assert all(it.summary == 0 for it in entries.values())

    async def test_entries_are_in_the_order_of_what_happened(self, handle: SessionStore) -> None:
        await write(handle, *(prepared(number, 10) for number in range(9)))
        await handle.splice(terms(), await plan(handle, [4, 5], short=summary(5)))
        await handle.trim(terms(), tokens=0, messages=6)
        await handle.splice(terms(), await plan(handle, [5, 7], "fold", short=summary(5)))
        assert await left(handle) == [
            (SUMMED_UP, 4, 5, 2, 20, 5),
            ("FIFO", 1, 2, 2, 20, 0),
            (SUMMED_UP, 5, 7, 2, 15, 7),
        ]

    async def test_popping_and_clearing_stand_in_it(self, handle: SessionStore) -> None:
        await write(handle, *(prepared(number, 10) for number in range(4)))
        await handle.pop(terms(), FREE, expected=4, opens=(), closes=())
        await handle.clear(terms(), FREE, force=False)
        entries = await left(handle)
        assert ("pop", 4, 4, 1, 10, 0) in entries
        assert ("clear", 1, 3, 3, 30, 0) in entries

    async def test_it_is_bounded_and_nothing_in_it_is_lost(self, handle: SessionStore) -> None:
        await handle.append(terms(), batch(*(prepared(number, 2) for number in range(301))), FREE)
        for seq, rule in zip(range(1, 301), itertools.cycle(["LRU", "Priority"]), strict=False):
            await handle.splice(terms(), await plan(handle, [seq], rule))
        entries = await handle.departed()
        assert len(entries) <= 256
        assert (sum(it.messages for it in entries), sum(it.tokens for it in entries)) == (300, 600)
        assert [(it.first, it.last) for it in entries[-3:]] == [(298, 298), (299, 299), (300, 300)]
        assert (entries[0].first, entries[0].rule) == (1, "several")
        assert all(one.last < two.first for one, two in itertools.pairwise(entries))

    async def test_it_ends_with_the_session(self, handle: SessionStore, advance: Advance) -> None:
        agreed = terms(ttl=400)
        await write(handle, *(prepared(number) for number in range(4)), terms_=agreed)
        await handle.trim(agreed, tokens=0, messages=1)
        await advance(0.6)
        assert await handle.departed() == ()
        await write(handle, prepared())
        assert await handle.departed() == ()

    async def test_asking_renews_nothing(self, handle: SessionStore, advance: Advance) -> None:
        await write(handle, *(prepared(number) for number in range(4)))
        await handle.trim(terms(), tokens=0, messages=2)
        async with unchanged(handle, terms()):
            await advance(0.05)
            await handle.departed()
            await handle.snapshot()

    @pytest.mark.parametrize("seed", range(4))
    async def test_any_sequence_ends_as_it_does_in_memory(
        self, store: MemoryStore, memory: MemoryAddress, seed: int
    ) -> None:
        chance = random.Random(seed)  # noqa: S311 - the same every time
        handle = store.session(memory, f"any-{seed}")
        twin = InMemoryStore().session(memory, "twin")
        agreed = terms(max_tokens=400, max_messages=40)
        for number in range(120):
            act = _act(chance, number)
            answers = [await _perform(one, agreed, act) for one in (handle, twin)]
            assert answers[0] == answers[1], act
            assert seen(await stored(handle)) == seen(await stored(twin)), act
            assert await left(handle) == await left(twin), act
            assert (await handle.status()).dropped == (await twin.status()).dropped
            await recounted(handle)


def _act(chance: random.Random, number: int) -> Sequence[Any]:
    """Return what is done next, the same for any two sessions that are the same."""
    kind = chance.choice(["append"] * 6 + ["call", "result", "trim", "pin", "pop"] + ["splice"] * 3)
    return kind, number, chance.randrange(1, 30), chance.random(), chance.random()


async def _perform(handle: SessionStore, agreed: Any, act: Sequence[Any]) -> object:
    kind, number, tokens, here, there = act
    now = (await handle.snapshot()).records
    match kind:
        case "append" | "call" | "result":
            opens = [f"c-{number}"] if kind == "call" else []
            closes = [f"c-{n}" for n in range(number - 8, number)][:1] if kind == "result" else []
            record = prepared(number, tokens, opens=opens, closes=closes)
            return replace(await handle.append(agreed, batch(record), FREE), epoch=0)
        case "trim":
            target = int(400 * here)
            return await handle.trim(agreed, tokens=target, messages=int(40 * there))
        case "pop" if now:
            done = await handle.pop(
                agreed, FREE, expected=now[-1].seq, opens=[digest(f"c-{now[-1].item}")], closes=()
            )
            return done.records
        case "pin" if now and len([it for it in now if it.protected]) < 5:
            seq = now[int(here * len(now))].seq
            done = await handle.pin(agreed, FREE, seq=seq, pinned=there < 0.5)
            return done.records
        case "splice" if len(now) > 2:
            # Whole groups, planned before two more records come.
            groups = sorted({it.group for it in now if not it.protected} - {now[-1].group})
            chosen = set(groups[: int(here * len(groups)) + 1])
            seqs = [it.seq for it in now if it.group in chosen and not it.protected]
            if not seqs:
                return None
            short = summary(min(8, sum(it.tokens for it in now) // 4)) if there < 0.7 else None
            splice = await plan(handle, seqs, SUMMED_UP if short else "LRU", short=short)
            for more in range(2):
                await handle.append(agreed, batch(prepared(f"{number}-{more}", tokens)), FREE)
            return await handle.splice(agreed, splice)
        case _:
            return None
