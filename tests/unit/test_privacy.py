"""What is never stored: patterns, sensitive fields, kinds of messages."""

import json
import logging
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import holdfast
from holdfast.errors import ConfigurationError, HoldfastError, MessageTooLarge
from holdfast.formats import JSON, read_facts
from holdfast.messages import Draft, Preparer, require_share
from holdfast.policy import Policy
from holdfast.policy.parts import Privacy as Rules
from holdfast.privacy import Redactor, Screened
from holdfast.privacy.patterns import PATIENCE, Patterns
from holdfast.privacy.texts import TextRedactor
from holdfast.session import Session
from holdfast.tokens import APPROXIMATE, MESSAGE_OVERHEAD, counter
from holdfast.values import Flag, Privacy, Refresh, Terms

CARD = "4111-1111-1111-1111"
CARDS = r"\d{4}-\d{4}-\d{4}-\d{4}"
GONE = "[REDACTED]"


def rules(*patterns: str, kinds: tuple[str, ...] = (), text: str = GONE) -> Rules:
    return Rules(redact_patterns=patterns, non_persistable_types=kinds, redaction_text=text)


def screen(item: Any, *patterns: str, kinds: tuple[str, ...] = (), **said: Any) -> Screened:
    screening = Redactor(rules(*patterns, kinds=kinds)).screening(Privacy(**said))
    assert screening is not None
    return screening.screen(json.loads(json.dumps(item)), read_facts(item))


def redacted(text: str, *patterns: str, replacement: str = GONE) -> tuple[str, int]:
    redactor = TextRedactor(Patterns(patterns).search(), replacement)
    return redactor.redact(text), redactor.places


# --- texts


@pytest.mark.parametrize(
    ("text", "patterns", "expected", "places"),
    [
        ("pay with 4111-1111-1111-1111 now", [CARDS], "pay with [REDACTED] now", 1),
        (f"{CARD} {CARD}", [CARDS], f"{GONE} {GONE}", 2),
        ("nothing here", [CARDS], "nothing here", 0),
        ("", [".*"], "", 0),
        ("aXb", ["x*"], "aXb", 0),
        ("axxb", ["x*"], f"a{GONE}b", 1),
        ("My SECRET", ["(?i)secret"], f"My {GONE}", 1),
        ("My SECRET", ["secret"], "My SECRET", 0),
        ("one\ntwo", ["(?m)^two$"], f"one\n{GONE}", 1),
        ("abcdef", ["abcd", "cdef"], GONE, 1),
        ("ab cd", ["ab", "cd"], f"{GONE} {GONE}", 2),
        ("aaaa", ["a"], GONE, 1),
        ("Straße Müller 日本 😀 end", ["Müller", "😀"], f"Straße {GONE} 日本 {GONE} end", 2),
        (f"a {GONE}", ["[A-Z]+", "a"], f"{GONE} [{GONE}]", 2),
        ("(group) x", [r"\((gr(ou)p)\)"], f"{GONE} x", 1),
    ],
)
def test_matches_are_replaced(text: str, patterns: list[str], expected: str, places: int) -> None:
    assert redacted(text, *patterns) == (expected, places)


def test_one_pattern_never_works_on_what_another_one_left() -> None:
    assert redacted("a" * 10, *(f"[{letter}X]" for letter in "abcdefgh"), replacement="X" * 64) == (
        "X" * 64,
        1,
    )


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_matches_nothing_stays_as_it_is(text: str) -> None:
    assert redacted(text, r"\pN{30}x") == (text, 0)


# --- JSON inside a text


@pytest.mark.parametrize(
    ("text", "pattern", "expected"),
    [
        ('{"card": "4111-1111-1111-1111", "n": 1.50}', CARDS, '{"card": "[REDACTED]", "n": 1.50}'),
        ('{"a": "pay 4111-1111-1111-1111 now"}', CARDS, '{"a": "pay [REDACTED] now"}'),
        ('{"a": "M\\u00fcller"}', "Müller", '{"a": "[REDACTED]"}'),
        ('{"a": "say \\"hi\\""}', "hi", '{"a": "say \\"[REDACTED]\\""}'),
        ('{"a": 4111111111111111, "b": 2}', r"\d{16}", '{"a": "[REDACTED]", "b": 2}'),
        (
            '{"password":"hunter2","b":"c"}',
            r'"password":"[^"]*"',
            '{"password":"[REDACTED]","b":"c"}',
        ),
        ('{"a": [true, null, "x"]}', "true", '{"a": ["[REDACTED]", null, "x"]}'),
        (
            '{"a": "x", "b": ["y", 2]}',
            r"\S+",
            '{"a": "[REDACTED]", "b": ["[REDACTED]", "[REDACTED]"]}',
        ),
        (
            '{"a": "{\\"b\\": \\"4111-1111-1111-1111\\"}"}',
            CARDS,
            '{"a": "{\\"b\\": \\"[REDACTED]\\"}"}',
        ),
        ('{"not": json 4111-1111-1111-1111', CARDS, '{"not": json [REDACTED]'),
        ('{"a": ""}', "b", '{"a": ""}'),
        (' [ "x" ] ', "x", ' [ "[REDACTED]" ] '),
    ],
)
def test_json_text_stays_json(text: str, pattern: str, expected: str) -> None:
    redactor = TextRedactor(Patterns([pattern]).search(), GONE)
    assert redactor.redact(text, keep_keys=True) == expected
    assert redactor.places == expected.count("REDACTED")


def test_keys_of_json_text_stay_in_arguments_only() -> None:
    text = '{"ann@example.com": 1}'
    assert redacted(text, r"\w+@[\w.]+")[0] == '{"[REDACTED]": 1}'
    arguments = {"type": "function_call", "call_id": "c", "name": "f", "arguments": text}
    assert screen(arguments, r"\w+@[\w.]+").item == arguments


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abx{["), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES, st.sampled_from(["a", r"\S+", '[{"]', r"\d", "(?s).+", r"\w", ":", ","]))
def test_whatever_matches_json_text_is_json_afterwards(value: Any, pattern: str) -> None:
    for nested in ({"v": value}, [value]):
        for text in (json.dumps(nested), json.dumps(nested, ensure_ascii=False, indent=1)):
            search = Patterns([pattern]).search()
            after = json.loads(TextRedactor(search, GONE).redact(text, keep_keys=True))
            assert type(after) is type(nested)
            assert not isinstance(after, dict) or after.keys() == nested.keys()


# --- time


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"(a+)+$", "a" * (1 << 20) + "b"),
        (r"(a|aa)+$", "a" * (4 << 20) + "b"),
        (r"(\w+\s?)*!", "word " * 200_000),
        (r"[a-q][^u-z]{13}x", "abcdefghijklmnopq" * 60_000),
        ("x*", "y" * 100_000),
    ],
)
def test_hostile_patterns_and_texts_take_linear_time(pattern: str, text: str) -> None:
    begun = time.process_time()
    assert redacted(text, pattern)[0] == text
    assert time.process_time() - begun < 20


@pytest.mark.slow
def test_searching_ends_also_where_each_of_many_matches_looks_ahead_in_vain() -> None:
    begun = time.process_time()
    redactor = TextRedactor(Patterns(["x[^!]*!|x."]).search(), GONE)
    redactor.redact("x " * (1 << 20))
    assert time.process_time() - begun < PATIENCE + 20


def test_when_the_time_is_over_the_rest_of_each_text_with_a_match_is_replaced() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += PATIENCE / 3
        return now[0]

    screening = Redactor(rules("b"), clock=clock).screening(None)
    assert screening is not None
    item: Any = {"role": "user", "content": "b b b b and a rest", "name": "nothing"}
    done = screening.screen(item, read_facts(item))
    assert done.item == {
        "role": "user",
        "content": " ".join([GONE] * 4),
        "name": "nothing",
    }
    [warning] = screening.warnings()
    assert "took more than" in warning


# --- items

CHAT_CALL: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "4111-1111-1111-1111",
            "type": "function",
            "function": {"name": "pay", "arguments": '{"card": "4111-1111-1111-1111", "id": 7}'},
        }
    ],
}


def test_every_text_of_a_message_is_searched_and_its_ids_stay() -> None:
    done = screen(CHAT_CALL, CARDS)
    expected = json.loads(json.dumps(CHAT_CALL))
    expected["tool_calls"][0]["function"]["arguments"] = '{"card": "[REDACTED]", "id": 7}'
    assert (done.item, done.places) == (expected, 1)


def test_nested_lists_and_objects_are_searched() -> None:
    item: Any = {
        "role": "user",
        "name": CARD,
        "content": [{"type": "text", "text": f"it is {CARD}"}],
        "more": {"deep": [[{"id": CARD, "type": CARD}], 4111111111111111, True, None]},
    }
    done = screen(item, CARDS, r"\d{16}")
    assert done.item == {
        "role": "user",
        "name": GONE,
        "content": [{"type": "text", "text": f"it is {GONE}"}],
        "more": {"deep": [[{"id": GONE, "type": GONE}], GONE, True, None]},
    }
    assert done.places == 5


@pytest.mark.parametrize("item", ["text " + CARD, [CARD], {"id": CARD}, {"type": CARD}, [[CARD]]])
def test_what_no_format_reads_is_all_content(item: Any) -> None:
    assert CARD not in json.dumps(screen(item, CARDS).item)


FUNCTION = {"name": "f", "arguments": '{"a": "b"}'}
PAIRS: list[dict[str, Any]] = [
    CHAT_CALL,
    {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "rain"}]},
    {"role": "assistant", "content": "so", "function_call": FUNCTION},
    {"role": "function", "name": "f", "content": "rain"},
    {"type": "function_call", "call_id": "c1", "status": "completed", **FUNCTION},
    {"type": "function_call_output", "call_id": "c1", "output": "rain"},
    {
        "type": "function_call_output",
        "call_id": "c1",
        "output": [
            {"type": "input_text", "text": "rain"},
            {"type": "input_image", "image_url": "x"},
        ],
    },
    {"type": "custom_tool_call", "call_id": "c1", "name": "f", "input": "free text"},
    {"type": "custom_tool_call_output", "call_id": "c1", "output": "rain"},
    {"type": "local_shell_call", "call_id": "c1", "action": {"type": "exec", "command": ["ls"]}},
    {"type": "local_shell_call_output", "id": "c1", "output": "rain"},
    {"type": "shell_call_output", "call_id": "c1", "output": [{"stdout": "rain", "stderr": ""}]},
    {"type": "mcp_approval_request", "id": "c1", "name": "f", "arguments": "{}"},
    {"type": "mcp_approval_response", "approval_request_id": "c1", "approve": True, "reason": "ok"},
    {"type": "apply_patch_call_output", "call_id": "c1", "output": "rain", "status": "completed"},
]

INPUT = {"id": "x", "note": "rain"}
PAIRS += [
    {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": INPUT}],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "c1", "content": "rain"},
            {
                "type": "tool_result",
                "tool_use_id": "c2",
                "content": [{"type": "text", "text": "rain"}, {"type": "text", "text": "rain"}],
            },
        ],
    },
    {
        "kind": "response",
        "parts": [
            {"part_kind": "text", "content": "rain"},
            {
                "part_kind": "tool-call",
                "tool_call_id": "c1",
                "tool_name": "f",
                "args": '{"b": "so"}',
            },
        ],
    },
    {
        "kind": "request",
        "parts": [
            {
                "part_kind": "tool-return",
                "tool_call_id": "c1",
                "tool_name": "f",
                "content": INPUT,
                "timestamp": "2031-01-02T03:04:05Z",
            }
        ],
    },
    {
        "type": "ai",
        "data": {
            "type": "ai",
            "content": "rain",
            "id": "m1",
            "tool_calls": [{"type": "tool_call", "id": "c1", "name": "f", "args": INPUT}],
            "additional_kwargs": {
                "tool_calls": [{"id": "c1", "type": "function", "function": FUNCTION}]
            },
        },
    },
    {
        "type": "tool",
        "data": {"type": "tool", "content": "rain", "tool_call_id": "c1", "name": "f"},
    },
    {"type": "tool", "content": "rain", "tool_call_id": "c1"},
    {"type": "function", "content": "rain", "name": "f"},
    {"role": "model", "parts": [{"text": "rain"}, {"functionCall": {"name": "f", "args": INPUT}}]},
    {
        "role": "user",
        "parts": [{"functionResponse": {"name": "f", "response": {"output": "rain"}}}],
    },
    {
        "role": "assistant",
        "content": [
            {"text": "rain"},
            {"toolUse": {"toolUseId": "c1", "name": "f", "input": INPUT}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"toolResult": {"toolUseId": "c1", "content": [{"json": INPUT}], "status": "success"}}
        ],
    },
]


def shape(item: dict[str, Any]) -> str:
    return item.get("type") or item.get("kind") or item["role"]


@pytest.mark.parametrize("item", PAIRS, ids=shape)
@pytest.mark.parametrize("pattern", [".+", r"\w", "c1", "f"])
def test_no_pattern_parts_a_result_from_its_call(item: dict[str, Any], pattern: str) -> None:
    before, after = read_facts(item), read_facts(screen(item, pattern).item)
    assert before.recognised
    assert (after.opens, after.closes, after.role, after.kind) == (
        before.opens,
        before.closes,
        before.role,
        before.kind,
    )


# --- kinds that are not stored


@pytest.mark.parametrize(
    "kind", ["reasoning", "Reasoning", "REASONING", "assistant", "Assistant", "rea-soning"]
)
def test_a_kind_or_a_role_is_not_stored(kind: str) -> None:
    done = screen({"type": "reasoning", "id": "rs_1", "summary": []}, kinds=(kind,))
    assert (done.stored, done.withheld) == (False, True)


def test_a_type_is_not_stored_and_others_are() -> None:
    user: Any = {"role": "user", "content": "hi"}
    assert not screen({"type": "web_search_call", "action": {}}, kinds=("web_search_call",)).stored
    assert screen(user, kinds=("web_search_call", "tool")) == Screened(user)
    assert not screen(user, kinds=("message",)).stored


@pytest.mark.parametrize("item", PAIRS, ids=shape)
def test_a_call_and_its_result_stay_together_as_stubs(item: dict[str, Any]) -> None:
    done = screen(item, kinds=("tool_call", "ToolResult"))
    before, after = read_facts(item), read_facts(done.item)
    assert done.stored
    assert done.withheld
    assert (after.opens, after.closes, after.role, after.kind, after.recognised) == (
        before.opens,
        before.closes,
        before.role,
        before.kind,
        True,
    )
    text = json.dumps(done.item)
    for content in ("rain", CARD + '\\"', "free text", '"ls"', '"b', '"so"', '"ok"'):
        assert content not in text


def test_a_stub_keeps_what_a_model_needs() -> None:
    assert screen(CHAT_CALL | {"content": "well"}, kinds=("tool_call",)).item == {
        "role": "assistant",
        "content": GONE,
        "tool_calls": [
            {"id": CARD, "type": "function", "function": {"name": "pay", "arguments": "{}"}}
        ],
    }
    result = {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "x"}] * 2}
    assert screen(result, kinds=("tool",)).item == {
        "role": "tool",
        "tool_call_id": "c1",
        "content": [{"type": "text", "text": GONE}],
    }


def test_a_stub_of_what_is_no_text_has_a_text_or_nothing() -> None:
    result = {"role": "tool", "tool_call_id": "c1", "content": 4111, "score": 0.5, "ok": None}
    assert screen(result, kinds=("tool",)).item == {
        "role": "tool",
        "tool_call_id": "c1",
        "content": GONE,
        "ok": None,
    }


def test_a_part_of_a_content_becomes_a_text() -> None:
    for kind, text in (("input_image", "input_text"), ("image_url", "text")):
        item: Any = {
            "role": "user",
            "content": [{"type": "text", "text": "see"}, {"type": kind, kind: "data:…"}],
        }
        done = screen(item, kinds=(kind,))
        assert (done.places, done.withheld) == (1, False)
        assert done.item == {
            "role": "user",
            "content": [{"type": "text", "text": "see"}, {"type": text, "text": GONE}],
        }


# --- what a caller says


def test_a_sensitive_field_is_replaced_wherever_its_path_leads() -> None:
    path = "tool_calls.function.arguments.card"
    done = screen(CHAT_CALL, sensitive=(path,))
    assert isinstance(done.item, dict)
    function: Any = done.item["tool_calls"][0]["function"]
    assert json.loads(function["arguments"]) == {"card": GONE, "id": 7}
    many = {"content": [{"a": {"b": 1}}, {"a": {"b": [2]}}, {"a": 3}], "role": "user"}
    done = screen(many, sensitive=("content.a.b",))
    assert done.item == {
        "content": [{"a": {"b": GONE}}, {"a": {"b": GONE}}, {"a": 3}],
        "role": "user",
    }
    assert done.places == 2


def test_a_path_that_leads_nowhere_is_told() -> None:
    screening = Redactor(rules()).screening(Privacy(sensitive=("content", "a.b", "content.x")))
    assert screening is not None
    item: JSON = {"role": "user", "content": "hi"}
    screening.screen(item, read_facts(item))
    assert screening.warnings() == (
        "sensitive: no message has the field 'a.b'",
        "sensitive: no message has the field 'content.x'",
    )


def test_redaction_done_by_the_caller_is_not_done_again() -> None:
    redactor = Redactor(rules(CARDS))
    assert redactor.screening(Privacy(redacted=True)) is None
    assert redactor.screening(None) is not None
    assert Redactor(rules()).screening(None) is None
    done = screen({"role": "user", "content": CARD, "a": 1}, CARDS, redacted=True, sensitive=("a",))
    assert done.item == {"role": "user", "content": CARD, "a": GONE}


@pytest.mark.parametrize(
    "arguments",
    [
        {"level": "secret"},
        {"sensitive": "content"},
        {"sensitive": ["content"]},
        {"sensitive": ("",)},
        {"sensitive": ("a..b",)},
        {"sensitive": (1,)},
    ],
)
def test_what_would_protect_nothing_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Privacy(**arguments)


def test_it_is_public() -> None:
    assert holdfast.Privacy is Privacy


# --- what is stored


def terms() -> Terms:
    return Terms(0, 0, 0, False, 1000, 0, 0, 0, Refresh.WRITE, 30_000, 2000, False, 256)


async def prepare(*items: Any, by: Rules | None = None, **options: Any) -> Draft:
    arguments: dict[str, Any] = {"id": None, "role": None, "pin": False, "group": None} | options
    return await Preparer().prepare(
        items,
        counter=counter(APPROXIMATE),
        terms=terms(),
        redactor=Redactor(by or rules(CARDS)),
        **{"max_bytes": 1 << 20} | arguments,
    )


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


@pytest.mark.asyncio
async def test_size_and_tokens_are_those_of_what_is_stored() -> None:
    long = "9" * 4000
    draft = await prepare(user(long), by=rules(r"\d+"), max_bytes=100)
    [record] = draft.batch.records
    assert json.loads(record.body) == user(GONE)
    assert record.tokens == 3 + MESSAGE_OVERHEAD
    assert (draft.redacted, draft.withheld) == (1, 0)
    assert record.notes is not None
    assert record.notes.redacted == 1
    with pytest.raises(MessageTooLarge):
        await prepare(user("1 " * 30), by=rules(r"\d", text="x" * 64), max_bytes=100)


@pytest.mark.asyncio
async def test_long_texts_are_redacted_too() -> None:
    draft = await prepare(user(f"{CARD} " * 10_000))
    assert draft.redacted == 10_000
    assert CARD.encode() not in draft.batch.records[0].body


@pytest.mark.asyncio
async def test_what_nothing_matched_is_stored_byte_for_byte() -> None:
    item = {"role": "user", "content": "hi", "n": [1.0, 10**30, -0.0]}
    plain = await Preparer().prepare(
        [item],
        counter=counter(APPROXIMATE),
        max_bytes=1000,
        terms=terms(),
        id="a",
        role=None,
        pin=False,
        group=None,
    )
    assert await prepare(item, id="a") == plain


@pytest.mark.asyncio
async def test_the_rest_of_a_batch_keeps_its_order_and_its_ids() -> None:
    items = [user("a"), {"role": "assistant", "content": "b"}, user("c")]
    draft = await prepare(*items, by=rules(kinds=("assistant",)), id="req")
    assert [record.id for record in draft.batch.records] == ["req#0", "req#2"]
    assert [json.loads(record.body) for record in draft.batch.records] == [items[0], items[2]]
    assert draft.withheld == 1
    alone = await prepare(*items[:2], by=rules(kinds=("assistant",)), id="req")
    assert [record.id for record in alone.batch.records] == ["req#0"]


@pytest.mark.asyncio
async def test_a_digest_of_what_was_hidden_is_never_sent() -> None:
    plain = await prepare(user("hi"), id="req")
    assert 0 < plain.batch.digest < 1 << 20
    for hidden in (
        await prepare(user(CARD), id="req"),
        await prepare(user("hi"), id="req", privacy=Privacy(sensitive=("content",))),
        await prepare(
            user("hi"), {"role": "tool", "content": 1}, by=rules(kinds=("tool",)), id="req"
        ),
    ):
        assert (hidden.batch.key, hidden.batch.digest) == (plain.batch.key, 0)


@pytest.mark.asyncio
async def test_what_is_not_to_persist_leaves_nothing_to_send() -> None:
    draft = await prepare(user("a"), user("b"), id="req", privacy=Privacy(persist=False))
    assert (draft.batch.records, draft.withheld) == ((), 2)


@pytest.mark.asyncio
async def test_a_field_that_pairs_cannot_be_called_sensitive() -> None:
    result = {"role": "tool", "tool_call_id": "c1", "content": "rain"}
    with pytest.raises(ConfigurationError, match="which result belongs to which tool call"):
        await prepare(result, privacy=Privacy(sensitive=("tool_call_id",)))
    with pytest.raises(ConfigurationError):
        await prepare(CHAT_CALL, privacy=Privacy(sensitive=("tool_calls",)))
    assert (await prepare(result, privacy=Privacy(sensitive=("content",)))).redacted == 1


@pytest.mark.asyncio
async def test_level_and_share_are_kept_beside_the_message() -> None:
    draft = await prepare(user("a"), share="facts", privacy=Privacy(level="confidential"))
    notes = draft.batch.records[0].notes
    assert notes is not None
    assert (notes.share, notes.privacy, notes.redacted) == ("facts", "confidential", 0)
    assert (await prepare(user("a"), privacy=Privacy())).batch.records[0].notes is None


@pytest.mark.asyncio
async def test_a_message_of_a_critical_kind_is_protected() -> None:
    result = {"role": "tool", "tool_call_id": "c1", "content": "rain"}
    batch = (await prepare(user("a"), result, critical={"tool_result"})).batch
    assert [bool(record.flags & Flag.PINNED) for record in batch.records] == [False, True]
    [record] = (await prepare(user("a"), critical={"assistant"}, role="assistant")).batch.records
    assert record.flags & Flag.PINNED


def test_a_share_is_one_that_the_policy_names() -> None:
    allocation = {"shortTermPercent": 60, "userDefined": [{"name": "facts", "percent": 40}]}
    spec: dict[str, Any] = {"retention": {"ttl": "1h"}, "limits": {"maxTokens": 100}}
    with_shares = Policy.model_validate(spec | {"tokenAllocation": allocation})
    require_share(with_shares, None)
    require_share(with_shares, "facts")
    with pytest.raises(ConfigurationError, match="no share 'fact'; there is facts"):
        require_share(with_shares, "fact")
    with pytest.raises(ConfigurationError, match="there is none"):
        require_share(Policy.model_validate(spec), "facts")


# --- nothing is told of it

SECRET = "m4rker"


def refusals(session: Session, other: Session) -> list[Callable[[], Awaitable[Any]]]:
    """Appends that are refused, each for another reason, or stored in part."""
    pinned, big = user(f"{SECRET} " * 80), user(f"{SECRET} " * 3000)
    result = {"role": "tool", "tool_call_id": SECRET, "content": SECRET}
    return [
        lambda: session.append({"content": SECRET.encode()}),  # pyright: ignore[reportArgumentType]
        lambda: session.append(f"{SECRET}\ud800"),
        lambda: session.append(user(SECRET), role="boss"),
        lambda: session.append(user(SECRET), id=""),
        lambda: session.append(user(SECRET), group=0),
        lambda: session.append(user(SECRET), share="facts"),
        lambda: session.append(big),
        lambda: session.append_many([user(SECRET)] * 1001),
        lambda: session.append_many([user(f"{SECRET} " * 100)] * 5),
        lambda: session.append(user(f"{SECRET} other"), id="known"),
        lambda: session.append(pinned, pin=True),
        lambda: session.append(result, privacy=Privacy(sensitive=("tool_call_id",))),
        lambda: other.append(user(SECRET)),
        lambda: session.append({"unknown": SECRET}),
        lambda: session.append({"role": "developer", "content": SECRET}),
        lambda: session.append(result, privacy=Privacy(sensitive=("content", "missing"))),
        lambda: session.append(user(SECRET), privacy=Privacy(persist=False)),
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize("pattern", ["never", SECRET, f"{SECRET}|[a-z]"])
async def test_no_log_line_and_no_error_shows_content(
    pattern: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    policy = {
        "retention": {"ttl": "1h"},
        "limits": {"maxTokens": 400, "maxMessageSize": "4Ki"},
        "model": {"tokenizer": "approximate"},
        "locking": {"mode": "Enforced", "onBusy": "Reject"},
        "privacy": {"redactPatterns": [pattern], "nonPersistableTypes": ["developer"]},
    }
    told: list[str] = []
    refused = 0
    async with holdfast.connect("memory://", policy=policy) as client:
        memory = client.memory("support")
        session, busy = memory.session("a"), memory.session("b")
        await session.append(user(f"{SECRET} first"), id="known")
        await session.append({"role": "system", "content": f"{SECRET} " + "7" * 1200})
        async with busy.turn():
            for attempt in refusals(session, busy):
                try:
                    told += (await attempt()).warnings
                except HoldfastError as error:
                    refused += 1
                    lines = traceback.TracebackException.from_exception(error).format(chain=True)
                    told += [str(error), error.message, repr(error)]
                    told += [line for line in lines if not line.lstrip().startswith("File")]
        told += (await session.health()).warnings
    told += [record.getMessage() for record in caplog.records]
    assert refused >= 9
    assert any("was not stored" in line for line in told)
    assert SECRET not in "\n".join(told)
