"""Messages with hundreds of tool calls: every call counts, whatever the number."""
# ruff: noqa: D102 - the name of a test is its sentence

from typing import Any

import pytest

from holdfast.session import Session
from holdfast.store import SessionStore
from holdfast.testing.conformance.support import (
    FREE,
    LONG,
    Advance,
    Connect,
    SessionContract,
    StoreContract,
    batch,
    call,
    digest,
    items,
    open_session,
    prepared,
    result,
    stored,
    terms,
    user,
    write,
)
from holdfast.values import Flag

MANY = 600
"""More than two bytes' worth of calls."""
_NAMES = [f"c{number}" for number in range(MANY)]


def _answer(name: str) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": name, "content": "rain"}


@pytest.mark.asyncio
class TestManyCalls(StoreContract):
    """What a store keeps of them."""

    async def test_each_of_many_calls_and_results_is_counted(self, handle: SessionStore) -> None:
        await write(handle, prepared("calls", 1, Flag.INEXACT, opens=_NAMES))
        await write(handle, prepared("results", closes=_NAMES[1:]))
        records = list(await stored(handle))
        assert [(record.opens, record.closes) for record in records] == [(MANY, 0), (0, MANY - 1)]
        assert [record.flags & 0xFFF for record in records] == [Flag.INEXACT, 0]
        assert records[0].group == records[1].group

    async def test_many_calls_leave_only_when_the_last_is_answered(
        self, handle: SessionStore
    ) -> None:
        agreed = terms(max_messages=3, lease=LONG)
        await write(handle, prepared("calls", opens=_NAMES), terms_=agreed)
        await write(handle, prepared("results", closes=_NAMES[1:]), terms_=agreed)
        await write(handle, prepared("aside"), terms_=agreed)
        answer = await handle.append(agreed, batch(prepared("more")), FREE)
        assert (answer.evicted, answer.over) == (1, False)  # the aside, which waits for nobody
        assert await items(handle) == ["calls", "results", "more"]
        await write(handle, prepared("the last", closes=_NAMES[:1]), terms_=agreed)
        answer = await handle.append(agreed, batch(prepared("next")), FREE)
        assert not answer.over
        assert await items(handle) == ["next"]

    async def test_many_calls_that_nobody_answers_block_only_for_a_while(
        self, handle: SessionStore, advance: Advance
    ) -> None:
        agreed = terms(max_messages=2, lease=400)
        await write(handle, prepared("calls", opens=_NAMES), terms_=agreed)
        await write(handle, prepared("results", closes=_NAMES[1:]), terms_=agreed)
        await advance(0.6)
        await write(handle, prepared("next"), terms_=agreed)
        assert await items(handle) == ["next"]
        await write(handle, prepared("late", closes=_NAMES[:1]), terms_=agreed)
        assert (await stored(handle))[-1].flags & Flag.ORPHAN

    async def test_pinning_many_calls_keeps_their_numbers(self, handle: SessionStore) -> None:
        (seq,) = await write(handle, prepared("calls", opens=_NAMES))
        await write(handle, prepared("results", closes=_NAMES[1:]))
        before = list(await stored(handle))
        await handle.pin(terms(), FREE, seq=seq, pinned=True)
        there = list(await stored(handle))
        assert [(one.opens, one.closes) for one in there] == [(MANY, 0), (0, MANY - 1)]
        assert all(one.protected for one in there)
        await handle.pin(terms(), FREE, seq=seq, pinned=False)
        assert list(await stored(handle)) == before

    async def test_popping_many_results_opens_every_call_again(self, handle: SessionStore) -> None:
        agreed = terms(max_messages=1, lease=LONG)
        await write(handle, prepared("calls", opens=_NAMES))
        (seq,) = await write(handle, prepared("results", closes=_NAMES))
        await handle.pop(terms(), FREE, expected=seq, opens=(), closes=tuple(map(digest, _NAMES)))
        answer = await handle.append(agreed, batch(prepared("aside")), FREE)
        assert (answer.evicted, answer.over) == (0, True)
        await write(handle, prepared("results", closes=_NAMES))
        records = list(await stored(handle))
        assert (records[-1].closes, records[-1].group) == (MANY, records[0].seq)


@pytest.mark.asyncio
class TestManyCallsOfASession(SessionContract):
    """What an agent sees of them."""

    async def test_many_calls_are_shown_when_the_last_is_answered(self, session: Session) -> None:
        messages = [call(*_NAMES), *map(result, _NAMES[1:]), user("meanwhile")]
        await session.append_many(messages)
        assert await session.read() == [user("meanwhile")]
        assert await session.read(max_tokens=90_000) == [user("meanwhile")]
        assert (await session.read_page(limit=1000)).omitted == MANY
        await session.append(result(_NAMES[0]))
        everything = [*messages, result(_NAMES[0])]
        assert await session.read() == everything
        assert await session.read(max_tokens=90_000) == everything
        assert (await session.read_page(limit=1000)).omitted == 0

    async def test_many_results_in_one_message_answer_many_calls_in_one(
        self, session: Session
    ) -> None:
        calls: dict[str, Any] = {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": name, "name": "weather", "input": {}} for name in _NAMES
            ],
        }
        results = list(map(_answer, _NAMES))
        await session.append(calls)
        await session.append({"role": "user", "content": results[1:]})
        await session.append(user("meanwhile"))
        assert await session.read() == [user("meanwhile")]
        assert (await session.read_page(limit=1000)).omitted == 2
        await session.append({"role": "user", "content": results[:1]})
        assert len(await session.read()) == 4
        assert (await session.read_page(limit=1000)).omitted == 0

    async def test_a_flush_takes_many_calls_and_all_results_or_none(self, connect: Connect) -> None:
        session = open_session(connect(flushing={"strategy": "FIFO", "targetPercent": 1}))
        await session.append_many([call(*_NAMES), *map(result, _NAMES[1:])])
        await session.append(user("meanwhile"))
        assert (await session.flush()).dropped == 0
        await session.append(result(_NAMES[0]))
        await session.append(user("newest"))
        assert (await session.flush()).dropped >= MANY + 1

    async def test_many_calls_go_out_and_come_in(self, session: Session, connect: Connect) -> None:
        await session.append_many([call(*_NAMES), *map(result, _NAMES[1:])])
        lines = [line async for line in session.export()]
        there = connect().memory("support").session("another")
        await there.import_(lines)
        await there.append(user("meanwhile"))
        assert await there.read() == [user("meanwhile")]
        await there.append(result(_NAMES[0]))
        assert len(await there.read()) == MANY + 2
