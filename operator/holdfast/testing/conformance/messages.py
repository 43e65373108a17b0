"""What an agent appends comes back as it was: JSON values, session keys, ids."""
# ruff: noqa: D102 - the name of a test is its sentence

import asyncio
import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from holdfast.errors import (
    IdempotencyConflict,
    MessageInvalid,
    MessageTooLarge,
    SessionKeyError,
)
from holdfast.session import Session
from holdfast.testing.conformance.support import (
    Advance,
    Connect,
    SessionContract,
    assistant,
    call,
    open_session,
    result,
    user,
)


def _nested(depth: int) -> Any:
    value: Any = "core"
    for level in range(depth):
        value = [value] if level % 2 else {"in": value}
    return value


@pytest.mark.asyncio
class TestMessages(SessionContract):
    """Messages come out as the JSON values that went in."""

    @pytest.mark.parametrize(
        "message",
        [
            user("hi"),
            user(""),
            user("naïve 日本語 😀 \u202e\u2028\u0000\x7f"),
            user("<|endoftext|>"),
            call("c1", "c2"),
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]},
            {"z": 1, "a": {"role": None}, "content": 5, "tool_calls": "none"},
            {"": {"": ""}, "]},": '",["', "\\": "\\u0041", "|": "{}*?[]"},
            None,
            True,
            "only text",
            [],
            {},
            _nested(200),
        ],
        ids=lambda message: json.dumps(message)[:24],
    )
    async def test_any_json_value_round_trips(self, session: Session, message: Any) -> None:
        await session.append(message)
        await session.append(assistant("after"))
        (first, _) = await session.read(limit=2)
        assert json.dumps(first) == json.dumps(message)

    async def test_numbers_keep_their_kind_and_every_digit(self, session: Session) -> None:
        numbers = [
            *(0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 10**30, -(10**30)),
            *(0.0, -0.0, 1.0, 0.1, 1e22, 1.5e300, 5e-324, -2.5e-8, 1e16, 123456789.123456789),
        ]
        await session.append({"role": "user", "content": "numbers", "numbers": numbers})
        (message,) = await session.read()
        assert [repr(number) for number in message["numbers"]] == list(map(repr, numbers))

    @pytest.mark.parametrize(
        "one",
        [user("oops"), {}, "oops", "", b"oops", bytearray(b"oops"), None, 5, iter([user("a")])],
        ids=lambda one: type(one).__name__,
    )
    async def test_one_message_is_no_list_of_messages(self, session: Session, one: Any) -> None:
        """Its keys or its characters would be stored, and take the place of a conversation."""
        await session.append(user("kept"))
        before = await session.read_page()
        with pytest.raises(MessageInvalid, match="put one message in a list"):
            await session.append_many(one)
        with pytest.raises(MessageInvalid, match="put one message in a list"):
            await session.replace(one)
        assert await session.read_page() == before
        await session.append_many(({"role": "user"}, [], "text"))
        assert await session.read(limit=3) == [{"role": "user"}, [], "text"]

    async def test_the_caller_s_own_value_is_not_changed(self, session: Session) -> None:
        message = call("c1") | {"extra": {"kept": [1, 2]}}
        before = json.dumps(message)
        await session.append(message)
        assert json.dumps(message) == before

    @pytest.mark.parametrize(
        "value",
        [
            math.nan,
            math.inf,
            -math.inf,
            b"bytes",
            bytearray(b"bytes"),
            datetime(2024, 1, 1, tzinfo=UTC),
            Decimal(1),
            {1, 2},
            1j,
            pytest.param(object(), id="an object"),
            {1: "number as key"},
            {None: "null as key"},
            {b"k": "bytes as key"},
            "\ud800",
            {"\udfff": 1},
        ],
        ids=repr,
    )
    async def test_what_is_no_json_value_is_refused(self, session: Session, value: Any) -> None:
        for message in (value, {"role": "user", "content": [{"deep": value}]}):
            with pytest.raises(MessageInvalid):
                await session.append(message)
        assert await session.read() == []

    async def test_what_is_nested_beyond_reason_is_refused(self, session: Session) -> None:
        with pytest.raises(MessageInvalid):
            await session.append(_nested(100_000))
        assert await session.read() == []

    async def test_one_invalid_message_refuses_its_batch(self, session: Session) -> None:
        with pytest.raises(MessageInvalid):
            await session.append_many([user("fine"), {"role": "user", "content": math.nan}])
        assert await session.read() == []

    async def test_a_message_over_the_size_limit_is_refused(self, connect: Connect) -> None:
        limits = {"maxTokens": 100_000, "maxMessageSize": "1Ki"}
        session = open_session(connect(limits=limits))
        await session.append(user("a" * 900))
        for text in ("a" * 1_100, "é" * 600):
            with pytest.raises(MessageTooLarge):
                await session.append(user(text))
        assert await session.read() == [user("a" * 900)]

    async def test_a_message_over_the_whole_budget_is_refused(self, connect: Connect) -> None:
        session = open_session(connect(limits={"maxTokens": 50}))
        await session.append(user("short"))
        with pytest.raises(MessageTooLarge):
            await session.append(user("word " * 400))
        assert await session.read() == [user("short")]

    async def test_an_append_says_what_the_session_holds(self, session: Session) -> None:
        one = await session.append(user("one"))
        many = await session.append_many([user("two"), assistant("three")])
        page = await session.read_page()
        assert (one.count, one.length, one.evicted, one.duplicate) == (1, 1, 0, False)
        assert (many.count, many.length) == (2, 3)
        assert many.seq == one.seq + 1
        assert many.tokens == sum(record.tokens for record in page.records)
        assert [record.seq for record in page.records] == [one.seq, many.seq, many.seq + 1]

    async def test_records_tell_their_id_and_time(self, session: Session, advance: Advance) -> None:
        await session.append(user("one"), id="request 1")
        await advance(0.05)
        await session.append(user("two"))
        one, two = (await session.read_page()).records
        assert (one.id, two.id) == ("request 1", None)
        assert two.ts > one.ts


@pytest.mark.asyncio
class TestSessionKeys(SessionContract):
    """Distinct keys are distinct sessions, whatever they look like."""

    HOSTILE = (
        *("a", "A", "a b", "a:b", "a%3Ab", "%", "%25", "a/b", "a//b", ".", "..", "-", "_"),
        *("{a}", "{", "}", "*", "?", "[a]", "[", "]", "a*", "\\", '"', "'", "|", "a|b"),
        *("\n", "\x00", " ", "ü", "u\u0308", "日本", "😀", "x" * 512, "é" * 256, "policy", "meta"),
        *("a:meta", "a}:meta", "a:log", "sessions", "support/a", "../support/a"),
    )

    async def test_hostile_keys_keep_apart(self, connect: Connect) -> None:
        memory = connect().memory("support")
        for key in self.HOSTILE:
            await memory.session(key).append(user(key))
        for key in self.HOSTILE:
            assert await memory.session(key).read() == [user(key)]

    @pytest.mark.parametrize("key", ["", "x" * 513, "é" * 257, "\ud800"])
    async def test_what_can_be_no_key_is_refused(self, connect: Connect, key: str) -> None:
        with pytest.raises(SessionKeyError):
            await connect().memory("support").session(key).append(user("hi"))

    async def test_the_fields_of_a_template_cannot_reach_into_each_other(
        self, connect: Connect
    ) -> None:
        memory = connect(keyTemplate="user:{user_id}:t:{thread}").memory("support")
        pairs = [
            *(("1:t:2", "3"), ("1", "2:t:3"), ("1%3At%3A2", "3"), ("1", "2"), ("1:t", "2")),
            *(("{user_id}", "{thread}"), ("{thread}", "{user_id}"), ("*", "?"), ("ü", " ")),
        ]
        for user_id, thread in pairs:
            await memory.session(user_id=user_id, thread=thread).append([user_id, thread])
        for user_id, thread in pairs:
            session = memory.session(user_id=user_id, thread=thread)
            assert await session.read() == [[user_id, thread]]

    @pytest.mark.parametrize(
        ("arguments", "fields"),
        [
            ((), {"user_id": "1"}),
            ((), {"user_id": "1", "thread": ""}),
            ((), {"user_id": "1", "thread": "2", "more": "3"}),
            (("user:1:t:2",), {}),
        ],
        ids=["missing", "empty", "unknown", "whole key"],
    )
    async def test_a_template_takes_exactly_its_fields(
        self, connect: Connect, arguments: tuple[str, ...], fields: dict[str, str]
    ) -> None:
        memory = connect(keyTemplate="user:{user_id}:t:{thread}").memory("support")
        with pytest.raises(SessionKeyError):
            await memory.session(*arguments, **fields).append(user("hi"))

    async def test_memories_keep_apart(self, connect: Connect) -> None:
        client = connect()
        for name in ("support", "sales"):
            await client.memory(name).session("any id").append(user(name))
        for name in ("support", "sales"):
            assert await client.memory(name).session("any id").read() == [user(name)]


@pytest.mark.asyncio
class TestRetries(SessionContract):
    """The id of an append makes a retry harmless."""

    async def test_a_retry_is_answered_as_a_duplicate(self, session: Session) -> None:
        first = await session.append(user("hi"), id="request 7")
        await session.append(assistant("hello"))
        again = await session.append(user("hi"), id="request 7")
        assert (again.seq, again.duplicate) == (first.seq, True)
        assert (again.length, again.evicted) == (2, 0)
        assert await session.read() == [user("hi"), assistant("hello")]

    async def test_a_retried_batch_is_stored_once(self, session: Session) -> None:
        messages = [user("one"), assistant("two")]
        first = await session.append_many(messages, id="batch 1")
        again = await session.append_many(messages, id="batch 1")
        assert (again.seq, again.duplicate) == (first.seq, True)
        assert await session.read() == messages

    async def test_another_content_under_the_same_id_is_a_conflict(self, session: Session) -> None:
        await session.append(user("hi"), id="request 7")
        with pytest.raises(IdempotencyConflict):
            await session.append(user("ho"), id="request 7")
        assert await session.read() == [user("hi")]

    async def test_an_id_survives_a_clear(self, session: Session) -> None:
        await session.append(user("hi"), id="request 7")
        await session.clear()
        again = await session.append(user("hi"), id="request 7")
        assert again.duplicate
        assert await session.read() == []

    async def test_ids_belong_to_their_session(self, connect: Connect) -> None:
        memory = connect().memory("support")
        for key in ("a", "b"):
            assert not (await memory.session(key).append(user("hi"), id="request 7")).duplicate

    async def test_ids_may_be_any_text(self, session: Session) -> None:
        ids = ["a", "A", " ", "a|b", '"]', "{}*?[]", "ü", "😀", "x" * 512]
        for id_ in ids:
            await session.append(user(id_), id=id_)
        assert [record.id for record in (await session.read_page()).records] == ids
        for id_ in ids:
            assert (await session.append(user(id_), id=id_)).duplicate

    async def test_a_retry_is_recognised_by_another_client(self, connect: Connect) -> None:
        first, second = (open_session(connect()) for _ in range(2))
        answers = await asyncio.gather(
            *(each.append(result("c1"), id="request 7") for each in (first, second))
        )
        assert sorted(answer.duplicate for answer in answers) == [False, True]
        assert (await first.read_page()).total == 1
