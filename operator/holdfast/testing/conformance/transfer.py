"""Export and import: the same session somewhere else."""
# ruff: noqa: D102 - the name of a test is its sentence

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from holdfast.errors import (
    AccessDenied,
    BudgetExceeded,
    ImportRefused,
    LeaseLost,
    SessionBusy,
)
from holdfast.session import Session
from holdfast.testing.conformance.support import (
    Connect,
    SessionContract,
    call,
    open_session,
    result,
    system,
    user,
)
from holdfast.values import ImportResult, Privacy


async def export(session: Session) -> list[str]:
    """Return all lines."""
    return [line async for line in session.export()]


def another(connect: Connect, name: str = "another", **spec: Any) -> Session:
    """Return a session that was never written."""
    return connect(**spec).memory("support").session(name)


async def _fill(session: Session) -> list[str]:
    """Write one of each kind, and return the export."""
    await session.append(system("be kind"))
    await session.append_many([user("a"), call("c1"), result("c1")], id="batch")
    await session.append(user('ünï\u2028 \\ " \x7f'), id="one", pin=True)
    await session.append({"odd": [1, 2.5, None, True, {"n": 10**15}]})
    await session.append(user("private"), privacy=Privacy(level="confidential"))
    await session.append(user("popped"))
    await session.pop()
    await session.append(call("c2", "c3"))
    await session.append(result("c2"))
    return await export(session)


@pytest.mark.asyncio
class TestTransfer(SessionContract):
    """What goes out and comes in."""

    async def test_what_is_imported_exports_the_same(
        self, session: Session, connect: Connect
    ) -> None:
        lines = await _fill(session)
        copy = another(connect)
        assert await copy.import_(lines) == ImportResult(9, 10, complete=True)
        assert await export(copy) == lines
        header = json.loads(lines[0])
        assert (len(header["ids"]), len(header["history"])) == (2, 1)
        assert await copy.read() == await session.read()
        assert await copy.read(limit=100) == await session.read(limit=100)
        assert await copy.history() == await session.history()
        ours, theirs = await copy.health(), await session.health()
        for field in ("tokens", "messages", "pinned", "bytes", "dropped"):
            assert getattr(ours, field) == getattr(theirs, field)

    async def test_the_header_says_no_name_unless_asked(self, session: Session) -> None:
        await session.append(user("a"))
        header = json.loads((await export(session))[0])
        assert header == {
            "format": "holdfast.dev/session",
            "version": 1,
            "memory": header["memory"],
            "revision": 0,
            "messages": 1,
            "tokens": header["tokens"],
            "lastSeq": 1,
            "dropped": 0,
            "ids": [],
            "history": [],
        }
        named = [line async for line in session.export(name=True)]
        assert json.loads(named[0])["session"] == "any%20id"

    async def test_a_session_that_is_not_there_is_a_header(
        self, session: Session, connect: Connect
    ) -> None:
        lines = await export(session)
        assert len(lines) == 1
        assert await another(connect).import_(lines) == ImportResult(0, 0, complete=True)

    async def test_an_empty_session_keeps_its_numbers(
        self, session: Session, connect: Connect
    ) -> None:
        await session.append_many([user("a"), user("b")])
        await session.clear()
        copy = another(connect)
        await copy.import_(await export(session))
        assert (await copy.append(user("c"))).seq == 3

    async def test_calls_that_wait_still_do(self, session: Session, connect: Connect) -> None:
        lines = await _fill(session)
        for done in (session, copy := another(connect)):
            if done is copy:
                await copy.import_(lines)
            await done.append(result("c3"))
        assert await copy.read() == await session.read()
        assert (await copy.read_page()).omitted == 0

    async def test_ids_are_known_again(self, session: Session, connect: Connect) -> None:
        lines = await _fill(session)
        copy = another(connect)
        await copy.import_(lines)
        assert (await copy.append(user('ünï\u2028 \\ " \x7f'), id="one")).duplicate
        again = await copy.append_many([user("a"), call("c1"), result("c1")], id="batch")
        assert (again.duplicate, again.seq) == (True, 2)
        assert not (await copy.append(user("new"), id="new")).duplicate

    async def test_lines_may_come_asynchronously(self, session: Session, connect: Connect) -> None:
        lines = await _fill(session)

        async def slowly() -> AsyncIterator[str]:
            for line in lines:
                yield line

        for name, given in {"a": slowly(), "b": iter(lines)}.items():
            copy = another(connect, name)
            assert (await copy.import_(given)).complete
            assert await export(copy) == lines

    async def test_line_ends_and_blank_lines_do_no_harm(
        self, session: Session, connect: Connect
    ) -> None:
        lines = await _fill(session)
        copy = another(connect)
        await copy.import_(part for line in lines for part in (line + "\r\n", "\n"))
        assert await export(copy) == lines

    async def test_many_go_in_parts(self, session: Session, connect: Connect) -> None:
        for first in range(0, 2_500, 500):
            await session.append_many([user(f"{n}") for n in range(first, first + 500)])
        lines = await export(session)
        copy = another(connect)
        assert (await copy.import_(lines)).records == 2_500
        assert await export(copy) == lines
        assert (await copy.append(user("next"))).seq == 2_501

    async def test_one_that_stopped_goes_on(self, session: Session, connect: Connect) -> None:
        await session.append(call("c1"))
        for first in range(0, 1_500, 500):
            await session.append_many([user(f"{n}") for n in range(first, first + 500)])
        await session.append(result("c1"))
        lines = await export(session)
        copy = another(connect)

        def stopping() -> Any:
            yield from lines[:1_200]
            raise AccessDenied("the reader stops")

        with pytest.raises(AccessDenied):
            await copy.import_(stopping())
        # A whole part, and what else was on its way when the lines ended.
        held = await copy.length()
        assert 1_000 <= held < 1_200
        done = await copy.import_(lines)
        assert (done.records, done.resumed, done.complete) == (1_502, held, True)
        assert await export(copy) == lines
        assert (await copy.read())[0] == call("c1")
        assert (await copy.import_(lines)).resumed == 1_502

    async def test_lines_that_end_early_can_be_completed(
        self, session: Session, connect: Connect
    ) -> None:
        lines = await _fill(session)
        copy = another(connect)
        assert await copy.import_(lines[:4]) == ImportResult(3, 10, complete=False)
        assert (await copy.import_(lines)).complete
        assert await export(copy) == lines

    async def test_what_holds_something_else_is_left_alone(
        self, session: Session, connect: Connect
    ) -> None:
        lines = await _fill(session)
        copy = another(connect)
        await copy.append(user("mine"))
        before = await export(copy)
        with pytest.raises(ImportRefused) as refusal:
            await copy.import_(lines)
        assert refusal.value.line == 1
        assert await export(copy) == before
        await session.append(user("later"))
        with pytest.raises(ImportRefused):
            await session.import_(lines)

    async def test_a_change_between_the_parts_ends_it(
        self, session: Session, connect: Connect
    ) -> None:
        await session.append_many([user(f"{n}") for n in range(900)])
        await session.append_many([user(f"{n}") for n in range(900)])
        lines = await export(session)
        copy, other = another(connect), another(connect)

        async def disturbed() -> AsyncIterator[str]:
            for at, line in enumerate(lines):
                if at == 1_500:
                    await other.append(user("in between"))
                yield line

        with pytest.raises(ImportRefused):
            await copy.import_(disturbed())
        assert await copy.length() == 1_001

    @pytest.mark.parametrize(
        ("at", "line"),
        [
            (1, "no json"),
            (1, '{"format": "other", "version": 1}'),
            (3, "[" * 5_000),
            (3, '{"seq": 2}'),
            (3, '{"seq":"2","ts":1,"tokens":1,"flags":0,"group":2,"item":1}'),
            (3, '{"seq":1,"ts":1,"tokens":1,"flags":0,"group":1,"item":1}'),
            (3, '{"seq":99,"ts":1,"tokens":1,"flags":0,"group":99,"item":1}'),
            (3, '{"seq":2,"ts":1,"tokens":-1,"flags":0,"group":2,"item":1}'),
            (3, '{"seq":2,"ts":1,"tokens":1,"flags":0,"group":3,"item":1}'),
            (3, '{"seq":2,"ts":1,"tokens":1,"flags":0,"group":1,"item":1}'),
            (3, '{"seq":2,"ts":1,"tokens":1,"flags":9999999999999999,"group":2,"item":1}'),
            (3, '{"seq":2,"ts":1.5,"tokens":1,"flags":0,"group":2,"item":1}'),
        ],
    )
    async def test_a_bad_line_is_named_and_nothing_written(
        self, session: Session, connect: Connect, at: int, line: str
    ) -> None:
        lines = await _fill(session)
        lines[at - 1] = line
        copy = another(connect)
        with pytest.raises(ImportRefused) as refusal:
            await copy.import_(lines)
        assert refusal.value.line == at
        assert (await copy.health()).expires_at is None

    async def test_no_lines_are_no_export(self, session: Session) -> None:
        with pytest.raises(ImportRefused):
            await session.import_([])

    async def test_what_is_too_large_is_refused_at_once(
        self, session: Session, connect: Connect
    ) -> None:
        await session.append_many([user(f"{n}") for n in range(20)])
        lines = await export(session)
        for limits in ({"maxTokens": 50}, {"maxMessages": 19}):
            copy = another(connect, limits=limits)
            with pytest.raises(BudgetExceeded):
                await copy.import_(lines)
            assert (await copy.health()).expires_at is None

    async def test_the_policy_redacts(self, session: Session, connect: Connect) -> None:
        await session.append_many([user("my card is 4111"), user("nothing")])
        lines = await export(session)
        copy = another(connect, privacy={"redactPatterns": ["[0-9]{4}"]})
        done = await copy.import_(lines)
        assert (done.redacted, done.records, done.complete) == (1, 2, True)
        assert "4111" not in str(await copy.read())
        assert (await copy.import_(lines)).resumed == 2

    async def test_what_is_not_to_be_stored_is_left_out(
        self, session: Session, connect: Connect
    ) -> None:
        await session.append_many([user("a"), {"role": "log", "content": "b"}, user("c")])
        copy = another(connect, privacy={"nonPersistableTypes": ["log"]})
        done = await copy.import_(await export(session))
        assert (done.withheld, done.records, done.complete) == (1, 2, True)
        assert await copy.read(limit=9) == [user("a"), user("c")]

    async def test_turns_of_others(self, session: Session, connect: Connect) -> None:
        lines = await _fill(session)
        copy = another(connect, locking={"mode": "Enforced"})
        async with another(connect).turn():
            with pytest.raises(SessionBusy):
                await copy.import_(lines)
            assert await copy.length() == 0
        advisory = another(connect)
        async with another(connect).turn() as turn:
            await advisory.import_(lines)
            with pytest.raises(LeaseLost):
                await turn.append(user("of before"))

    async def test_an_imported_session_is_found_by_its_labels(
        self, session: Session, connect: Connect
    ) -> None:
        await session.append(user("a"))
        memory = connect().memory("support")
        await memory.session("copy", labels={"user": "1"}).import_(await export(session))
        assert (await memory.erase(labels={"user": "1"})).messages == 1
        assert open_session(connect()) is not session
