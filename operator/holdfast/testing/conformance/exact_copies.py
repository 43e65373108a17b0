"""What a session remembers besides its records comes along with its export: ids, and what has left."""
# ruff: noqa: D102 - the name of a test is its sentence

import json
from typing import Any

import pytest

from holdfast.errors import AccessDenied, HoldfastError, IdempotencyConflict, ImportRefused
from holdfast.session import Session
from holdfast.testing.conformance.authors import Author
from holdfast.testing.conformance.support import Connect, SessionContract, user
from holdfast.testing.conformance.transfer import another, export
from holdfast.testing.conformance.upkeep import HYBRID, Open, UpkeepContract, talk
from holdfast.values import Privacy

DIGITS = "0123456789abcdef01"
KEY = f"{DIGITS}a"


async def answer(session: Session, id: str, *texts: str) -> tuple[int, bool] | str:
    """Append under an id; return the sequence number and whether it was there, or the error."""
    try:
        done = await session.append_many([user(text) for text in texts], id=id)
    except HoldfastError as error:
        return error.code
    return done.seq, done.duplicate


def told(header: dict[str, Any], **changes: Any) -> str:
    """Return a header with other fields; those of None are left out."""
    changed = header | changes
    return json.dumps({name: value for name, value in changed.items() if value is not None})


def entry(**changes: Any) -> dict[str, Any]:
    """Return an entry of a history."""
    return {"at": 1, "rule": "pop", "first": 1, "last": 1, "messages": 1, "tokens": 1} | changes


HOSTILE_IDS: list[Any] = [
    7,
    {},
    ["x"],
    [[KEY, 1]],
    [[KEY, 0, 0]],
    [[KEY, 4, 0]],
    [[KEY, 2**31 + 1, 0]],
    [[KEY, 1.5, 0]],
    [[KEY, 1, -1]],
    [[KEY, 1, 2**20]],
    [[f"{DIGITS}", 1, 0]],
    [[f"{DIGITS}abc", 1, 0]],
    [[f"{DIGITS}A", 1, 0]],
    [[f"{DIGITS}a\n", 1, 0]],
    [[f"{DIGITS}a", 1, 0], [f"{DIGITS}b", 2, 0]],
    [[f"{at:019x}", 1, 0] for at in range(0, 160_016, 16)],
]
HOSTILE_HISTORIES: list[Any] = [
    7,
    [7],
    [[1, "pop", 1, 1, 1, 1]],
    [entry(rule='","')],
    [entry(rule="SECRET")],
    [entry(rule="share:")],
    [entry(rule="pop\n")],
    [entry(rule="block:10")],
    [entry(at=-1)],
    [entry(at=2**60)],
    [entry(at=253_402_300_800_000)],
    [entry(first=0)],
    [entry(first=2)],
    [entry(last=3)],
    [entry(last=2**40)],
    [entry(messages=-1)],
    [entry(messages=2**41)],
    [entry(tokens=2**41)],
    [entry(tokens=1.5)],
    [entry(summary=3)],
    [entry(summary=-1)],
    [entry(ranges=[[1, 2]])],
    [entry(last=2, ranges=[[2, 2], [1, 1]])],
    [entry(last=2, ranges=[[2, 1]])],
    [entry(ranges=[[1]])],
    [entry(ranges=[[1, 1]] * 300)],
    [entry()] * 257,
]


@pytest.mark.asyncio
class TestExactCopies(SessionContract):
    """A copy answers as the original does."""

    async def test_every_id_answers_on_the_copy_as_on_the_original(self, connect: Connect) -> None:
        parts: dict[str, Any] = {"limits": {"maxMessages": 8}}
        session = another(connect, "original", **parts)
        await answer(session, "trimmed", "t")
        await answer(session, "half", "h0", "h1")
        withheld: dict[str, Any] = {"privacy": {"nonPersistableTypes": ["log"]}}
        private = another(connect, "original", **parts, **withheld)
        await private.append_many([{"role": "log", "content": "x"}, user("b1")], id="batch")
        await session.append(user("secret"), id="secret", privacy=Privacy(sensitive=("content",)))
        await answer(session, "popped", "p")
        await session.pop()
        await answer(session, "one", "o")
        for number in range(4):
            await answer(session, f"n{number}", f"{number}")
        assert (await session.read_page(limit=1)).records[0].seq == 3
        copy = another(connect, **parts)
        await copy.import_(await export(session))
        asked = [
            ("trimmed", ["t"]),
            ("trimmed", ["other"]),
            ("half", ["h0", "h1"]),
            ("half", ["h1", "h0"]),
            ("batch", ["b0", "b1"]),
            ("secret", ["anything"]),
            ("popped", ["p"]),
            ("popped", ["q"]),
            ("one", ["o"]),
            ("one", ["another"]),
            ("n3", ["3"]),
            ("n3", ["4"]),
            ("half#1", ["h1"]),
            ("new", ["n"]),
        ]
        for name, texts in asked:
            assert await answer(copy, name, *texts) == await answer(session, name, *texts), name
        assert await answer(copy, "trimmed", "t") == (1, True)
        assert await answer(copy, "half", "h0", "h1") == (2, True)
        assert await answer(copy, "trimmed", "other") == IdempotencyConflict.code

    async def test_ids_that_look_like_a_batch_are_no_batch(
        self, session: Session, connect: Connect
    ) -> None:
        await session.append(user("a"), id="x#0")
        await session.append(user("b"), id="x#1")
        copy = another(connect)
        await copy.import_(await export(session))
        for one in (session, copy):
            assert await answer(one, "x", "new") == (3, False)
            assert await one.length() == 3

    async def test_an_id_of_nothing_is_known(self, session: Session, connect: Connect) -> None:
        await session.append(user("a"))
        await session.replace([], id="emptied")
        copy = another(connect)
        await copy.import_(await export(session))
        for one in (session, copy):
            assert (await one.replace([], id="emptied")).duplicate

    async def test_as_many_ids_are_remembered_as_the_policy_says(
        self, session: Session, connect: Connect
    ) -> None:
        for number in range(5):
            await answer(session, f"n{number}", f"{number}")
        few = another(connect, "few", idempotency={"maxRememberedIDs": 2})
        await few.import_(await export(session))
        assert [await answer(few, f"n{number}", f"{number}") for number in (4, 3, 2)] == [
            (5, True),
            (4, True),
            (6, False),
        ]
        many: dict[str, Any] = {"idempotency": {"maxRememberedIDs": 600}}
        larger = another(connect, "larger", **many)
        await larger.append(user("a"), id="own")
        await larger.clear()
        await larger.import_(await export(session))
        assert await export(larger) == await export(session)
        assert await answer(larger, "n0", "0") == (1, True)
        assert await answer(larger, "own", "a") == (6, False)
        again = another(connect, "again", **many)
        await again.import_(await export(larger))
        assert await export(again) == await export(larger)
        assert await answer(again, "own", "a") == (6, True)

    async def test_where_the_policy_redacts_a_retry_is_not_compared(
        self, session: Session, connect: Connect
    ) -> None:
        await answer(session, "one", "code 4111")
        copy = another(connect, privacy={"redactPatterns": ["[0-9]{4}"]})
        await copy.import_(await export(session))
        assert await answer(copy, "one", "code 4112") == (1, True)
        assert json.loads((await export(copy))[0])["ids"][0][2] == 0

    async def test_an_export_of_an_earlier_version_is_taken_in(
        self, session: Session, connect: Connect
    ) -> None:
        await session.append_many([user("a"), user("b")], id="batch")
        await answer(session, "popped", "c")
        await session.pop()
        await answer(session, "one", "d")
        header, *rest = await export(session)
        copy = another(connect)
        old = [told(json.loads(header), ids=None, history=None), *rest]
        assert (await copy.import_(old)).complete
        assert (await copy.import_(old)).resumed == 3
        assert await answer(copy, "one", "whatever") == (4, True)
        assert await answer(copy, "batch", "a", "b") == (1, True)
        assert await answer(copy, "popped", "c") == (5, False)
        assert "had left before the session was imported" in await copy.explain(seq=3)
        (left,) = await copy.history()
        assert (left.rule, left.messages, left.at, left.tokens) == ("import", 1, None, None)
        assert (await copy.health()).last_flush is None
        twice = another(connect, "twice")
        lines = await export(copy)
        await twice.import_(lines)
        assert await export(twice) == lines

    async def test_what_the_policy_kept_out_is_explained(
        self, session: Session, connect: Connect
    ) -> None:
        kinds = ["user", "log", "log", "user", "log"]
        await session.append_many([{"role": kind, "content": kind} for kind in kinds])
        copy = another(connect, privacy={"nonPersistableTypes": ["log"]})
        lines = await export(session)
        for _ in range(2):
            assert (await copy.import_(lines)).complete
            for seq in (2, 3, 5):
                assert "left out when the session was imported" in await copy.explain(seq=seq)
            (left,) = await copy.history()
            assert (left.rule, left.messages) == ("withheld", 3)

    async def test_one_that_stopped_keeps_ids_and_history(
        self, session: Session, connect: Connect
    ) -> None:
        await answer(session, "popped", "p")
        await session.pop()
        for first in range(0, 1_500, 500):
            await session.append_many([user(f"{n}") for n in range(first, first + 500)])
        await answer(session, "last", "l")
        lines = await export(session)
        copy = another(connect)

        def stopping() -> Any:
            yield from lines[:1_200]
            raise AccessDenied("the reader stops")

        with pytest.raises(AccessDenied):
            await copy.import_(stopping())
        assert "taken out by pop()" in await copy.explain(seq=1)
        assert await answer(copy, "popped", "p") == (1, True)
        assert (await copy.import_(lines)).complete
        assert await export(copy) == lines
        assert await answer(copy, "last", "l") == (1_502, True)
        assert await copy.history() == await session.history()

    async def test_one_that_stopped_explains_once_what_was_kept_out(
        self, session: Session, connect: Connect
    ) -> None:
        for first in range(0, 1_600, 400):
            roles = ["log" if n % 5 == 4 else "user" for n in range(first, first + 400)]
            await session.append_many([{"role": role, "content": "x"} for role in roles])
        lines = await export(session)
        copy = another(connect, privacy={"nonPersistableTypes": ["log"]})

        def stopping() -> Any:
            yield from lines[:1_400]
            raise AccessDenied("the reader stops")

        with pytest.raises(AccessDenied):
            await copy.import_(stopping())
        for _ in range(2):
            assert (await copy.import_(lines)).complete
            history = await copy.history()
            assert {entry.rule for entry in history} == {"withheld"}
            assert sum(entry.messages for entry in history) == 320

    async def test_no_value_of_a_file_is_told(self, session: Session) -> None:
        headers = [
            '{"format":"SECRET","version":1}',
            '{"format":"SECRET - at `$.x`","version":1}',
            '{"format":"holdfast.dev/session","version":71077345}',
            '{"SECRET":1}',
            '["SECRET"]',
            "SECRET",
        ]
        for header in headers:
            with pytest.raises(ImportRefused) as refusal:
                await session.import_([header])
            assert refusal.value.line == 1
            assert "SECRET" not in str(refusal.value)
            assert "71077345" not in str(refusal.value)
        await session.append(user("a"))
        header, line = await export(session)
        await session.clear()
        changed = json.loads(line) | {"notes": {"privacy": ["SECRET"]}}
        with pytest.raises(ImportRefused) as refusal:
            await session.import_([header, json.dumps(changed)])
        assert "SECRET" not in str(refusal.value)
        assert "Expected `str | null`, got `array` - at `$.notes.privacy`" in str(refusal.value)

    async def test_a_hostile_header_is_refused_and_nothing_written(
        self, session: Session, connect: Connect
    ) -> None:
        await session.append_many([user("a"), user("b")])
        header, *rest = await export(session)
        hostile = [{"ids": one} for one in HOSTILE_IDS]
        hostile += [{"history": one} for one in HOSTILE_HISTORIES]
        copy = another(connect)
        for changes in hostile:
            with pytest.raises(ImportRefused) as refusal:
                await copy.import_([told(json.loads(header), **changes), *rest])
            assert refusal.value.line == 1, changes
            assert "SECRET" not in str(refusal.value)
            (field,) = changes
            assert f"`$.{field}" in str(refusal.value)
        assert (await copy.health()).expires_at is None

    async def test_the_most_that_a_header_may_say_does_no_harm(
        self, session: Session, connect: Connect
    ) -> None:
        await session.append_many([user("a"), user("b")])
        header, *rest = await export(session)
        largest = entry(
            at=253_402_300_799_999, last=2, messages=2**40, tokens=2**40, summary=2, rule="block:9"
        )
        ids = [[f"{at:018x}0", 3, 2**20 - 1] for at in range(10_000)]  # in one field
        spec: dict[str, Any] = {"idempotency": {"maxRememberedIDs": 10_000}}
        copy = another(connect, **spec)
        line = told(json.loads(header), ids=ids, history=[largest] * 256)
        await copy.import_([line, *rest])
        exported = json.loads((await export(copy))[0])
        assert exported["ids"] == ids
        assert exported["history"] == [largest] * 256
        for number in range(3):
            await answer(copy, f"n{number}", "text")
            await copy.pop()
        assert len(await copy.history()) <= 257
        assert await answer(copy, "n2", "text") == (5, True)


@pytest.mark.asyncio
class TestExactHistories(UpkeepContract):
    """What has left is explained on a copy as on the original."""

    async def test_what_left_is_explained_on_the_copy_as_on_the_original(
        self, opened: Open, connect: Connect
    ) -> None:
        parts: dict[str, Any] = {"limits": {"maxTokens": 1_000}, "flushing": HYBRID}
        session = opened(Author("small talk"), **parts)
        await session.append(user("cleared"))
        await session.clear()
        await session.append(user("replaced"))
        await session.replace([user("popped")])
        await session.pop()
        await talk(session, 55)
        await session.flush("FIFO")
        await talk(session, 12)
        await session.flush()
        copy = another(connect, **parts)
        lines = await export(session)
        await copy.import_(lines)
        assert await export(copy) == lines
        await _same(copy, session)
        rules = {one.rule for one in await copy.history()}
        assert {"clear", "replace", "pop", "FIFO", "HybridSummary"} <= rules

    async def test_what_the_limits_dropped_is_explained_so_too(
        self, session: Session, connect: Connect
    ) -> None:
        parts: dict[str, Any] = {"limits": {"maxMessages": 5}}
        session = another(connect, "original", **parts)
        await talk(session, 9)
        await session.pop()
        await talk(session, 2)
        copy = another(connect, **parts)
        await copy.import_(await export(session))
        await _same(copy, session)
        await copy.append(user("one more"))
        assert "dropped when the session was full" in await copy.explain(seq=6)
        assert "taken out by pop()" in await copy.explain(seq=9)


async def _same(copy: Session, session: Session) -> None:
    """Check that both tell the same of each message, and count the same."""
    last = json.loads((await export(session))[0])["lastSeq"]
    for seq in range(last + 2):
        assert await copy.explain(seq=seq) == await session.explain(seq=seq)
    assert await copy.history() == await session.history()
    ours, theirs = await copy.health(), await session.health()
    assert (ours.dropped, ours.last_flush) == (theirs.dropped, theirs.last_flush)
