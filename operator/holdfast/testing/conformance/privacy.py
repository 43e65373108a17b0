"""What must not be stored is in no answer of the store, and what was kept away is counted."""
# ruff: noqa: D102 - the name of a test is its sentence

import json
from typing import Any

import pytest
from msgspec.structs import replace

from holdfast.errors import ConfigurationError, IdempotencyConflict
from holdfast.session import Session
from holdfast.store import SessionStore
from holdfast.testing.conformance.support import (
    FREE,
    Connect,
    SessionContract,
    assistant,
    call,
    identified,
    items,
    open_session,
    prepared,
    result,
    stored,
    system,
    terms,
    user,
)
from holdfast.values import Privacy

CARD = "4111-1111-1111-1111"
GONE = "[REDACTED]"


def rules(**privacy: Any) -> dict[str, Any]:
    """Return the part of a policy that redacts card numbers, with further rules."""
    return {"privacy": {"redactPatterns": [r"(\d{4}-){3}\d{4}"]} | privacy}


def paying(arguments: str) -> dict[str, Any]:
    """Return a message of the model that calls a tool with such arguments."""
    function = {"name": "pay", "arguments": arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": CARD, "type": "function", "function": function}],
    }


@pytest.mark.asyncio
class TestPrivacy(SessionContract):
    """Redaction, kinds that are not stored, and what a caller says of its own messages."""

    async def test_matches_are_replaced_in_texts_and_in_arguments(
        self, connect: Connect, underneath: SessionStore
    ) -> None:
        session = open_session(connect(**rules()))
        done = await session.append(user(f"charge {CARD} or {CARD}"))
        await session.append(paying(json.dumps({"card": CARD})))
        await session.append(result(CARD, f"charged {CARD}"))
        assert (done.redacted, done.withheld) == (2, 0)
        assert await items(underneath) == [
            user(f"charge {GONE} or {GONE}"),
            paying(json.dumps({"card": GONE})),
            result(CARD, f"charged {GONE}"),
        ]
        assert await session.read() == await items(underneath), "a call lost its result"
        assert (await session.health()).redacted == 4

    async def test_tokens_are_those_of_what_is_stored(self, connect: Connect) -> None:
        spec = {"privacy": {"redactPatterns": ["x+"], "redactionText": "x"}}
        one, other = (connect(**spec).memory("support").session(name) for name in ("a", "b"))
        long = await one.append(user("x" * 50_000))
        short = await other.append(user("x"))
        assert long.tokens == short.tokens

    async def test_a_role_is_not_stored(self, connect: Connect) -> None:
        session = open_session(connect(**rules(nonPersistableTypes=["System"])))
        await session.append(user("one"))
        done = await session.append_many(
            [system("a"), user("two"), system("b"), assistant("three")]
        )
        assert (done.seq, done.count, done.length, done.withheld) == (2, 2, 3, 2)
        assert await session.read() == [user("one"), user("two"), assistant("three")]

    async def test_where_nothing_is_stored_the_result_says_so(self, connect: Connect) -> None:
        session = open_session(connect(**rules(nonPersistableTypes=["system"])))
        before = await session.append(user("one"))
        for done in (
            await session.append(system("a"), id="request 1"),
            await session.append(user(CARD), privacy=Privacy(persist=False)),
        ):
            assert (done.seq, done.count, done.duplicate) == (0, 0, False)
            assert (done.tokens, done.length, done.withheld) == (before.tokens, 1, 1)
        assert await session.read() == [user("one")]
        assert (await session.health()).withheld == 2

    async def test_the_first_message_may_be_one_that_is_not_stored(
        self, connect: Connect, underneath: SessionStore
    ) -> None:
        session = open_session(connect(**rules(nonPersistableTypes=["system"])))
        done = await session.append(system("a"))
        assert (done.count, done.length, done.tokens) == (0, 0, 0)
        assert not (await underneath.status()).exists

    async def test_a_result_that_is_not_stored_leaves_its_call_answered(
        self, connect: Connect
    ) -> None:
        session = open_session(connect(**rules(nonPersistableTypes=["tool_result"])))
        await session.append(call("c1"))
        done = await session.append(result("c1", "private"))
        await session.append(user("thanks"))
        assert (done.count, done.withheld) == (1, 1)
        assert await session.read() == [call("c1"), result("c1", GONE), user("thanks")]

    async def test_a_call_that_is_not_stored_leaves_its_result_readable(
        self, connect: Connect
    ) -> None:
        session = open_session(connect(**rules(nonPersistableTypes=["tool_call"])))
        await session.append(paying('{"private": 1}'))
        await session.append(result(CARD, "done"))
        await session.append(user("thanks"))
        assert await session.read() == [paying("{}"), result(CARD, "done"), user("thanks")]

    async def test_what_a_caller_calls_sensitive_is_not_stored(self, session: Session) -> None:
        path = "tool_calls.function.arguments.pin"
        done = await session.append(
            paying('{"pin":"7","for":"x"}'),
            privacy=Privacy(level="confidential", sensitive=(path, "content.pin")),
        )
        (record,) = (await session.read_page()).records
        assert record.item == paying(f'{{"pin":"{GONE}","for":"x"}}')
        assert record.privacy == "confidential"
        assert done.redacted == 1
        assert len(done.warnings) == 1

    async def test_what_the_caller_redacted_is_taken_as_it_is(self, connect: Connect) -> None:
        session = open_session(connect(**rules()))
        done = await session.append(user(CARD), privacy=Privacy(redacted=True, level="public"))
        assert done.redacted == 0
        assert await session.read() == [user(CARD)]

    async def test_a_retry_after_an_edit_that_redacts_is_a_duplicate(
        self, connect: Connect
    ) -> None:
        more = rules(nonPersistableTypes=["tool"])
        batch = [user(CARD), result("c1", "rain"), assistant("it rains")]
        for name, first, second in (("a", {}, more), ("b", more, {}), ("c", rules(), more)):
            writer, retrier = (
                connect(**spec).memory("support").session(name) for spec in (first, second)
            )
            done = await writer.append_many(batch, id="request 7")
            before = (await retrier.health()).redacted
            again = await retrier.append_many(batch, id="request 7")
            assert (again.seq, again.duplicate) == (done.seq, True)
            after = (await retrier.health()).redacted
            assert after == before, "nothing was stored the second time"

    async def test_other_contents_still_conflict_where_nothing_was_redacted(
        self, connect: Connect
    ) -> None:
        session = open_session(connect(**rules()))
        await session.append(user("hi"), id="request 7")
        with pytest.raises(IdempotencyConflict):
            await session.append(user("ho"), id="request 7")

    async def test_a_digest_of_0_is_not_compared(self, underneath: SessionStore) -> None:
        plain = identified("req", prepared("one"))
        hidden, other = replace(plain, digest=0), identified("req", prepared("two"))
        for first, second in ((plain, hidden), (hidden, plain), (hidden, other)):
            fresh = f"{first.digest}{second.digest}".ljust(32, "0")
            done = await underneath.append(terms(), replace(first, key=fresh), FREE)
            again = await underneath.append(terms(), replace(second, key=fresh), FREE)
            assert (again.seq, again.duplicate) == (done.seq, True)
        assert len(await stored(underneath)) == 3

    async def test_a_share_is_kept_and_an_unknown_one_refused(
        self, connect: Connect, underneath: SessionStore
    ) -> None:
        shares = {"shortTermPercent": 70, "userDefined": [{"name": "facts", "percent": 30}]}
        session = open_session(connect(tokenAllocation=shares))
        await session.append(user("one"), share="facts")
        with pytest.raises(ConfigurationError):
            await session.append(user("two"), share="opinions")
        (record,) = await stored(underneath)
        assert record.notes is not None
        assert record.notes.share == "facts"

    async def test_a_kind_of_priority_0_is_never_evicted(self, connect: Connect) -> None:
        blocks = [{"priority": 0, "contentTypes": ["tool_result", "developer"]}]
        session = open_session(
            connect(
                limits={"maxMessages": 4},
                eviction={"policy": "Priority", "priorityBlocks": blocks},
            )
        )
        await session.append_many([call("c1"), result("c1")])
        for number in range(5):
            await session.append(user(str(number)))
        assert await session.read() == [call("c1"), result("c1"), user("3"), user("4")]
