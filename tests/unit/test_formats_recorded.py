"""Conversations as the SDKs write them: whose they are, what they say, and which calls they pair."""

import copy
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats import FORMATS, ROLES, Facts, Kind, read_facts
from holdfast.messages import calls_of, encode_item
from holdfast.planning import presentable
from holdfast.planning.groups import group_records
from holdfast.values import Flag, Prepared, Stored

RECORDED = Path(__file__).parents[1] / "fixtures" / "messages"


def compact(item):
    return json.dumps(item, ensure_ascii=False, separators=(",", ":"))


def said(role, *texts, **more):
    return Facts(role, Kind.MESSAGE, texts=texts, follows=role == "assistant", **more)


def called(*texts, **more):
    return Facts("assistant", Kind.TOOL_CALL, texts=texts, follows=True, **more)


def answered(*texts, role="tool", **more):
    return Facts(role, Kind.TOOL_RESULT, texts=texts, follows=role == "assistant", **more)


def thought(*texts):
    return Facts("assistant", Kind.REASONING, texts=texts, leads=True, follows=True)


PILOT = said("system", "You are a harbour pilot.")
QUESTION = said("user", "When can I leave Brest?")
ANSWER = said("assistant", "Sail at ten.")

LANGCHAIN_TOOLS = [
    ("langchain", PILOT),
    ("langchain", said("user", "skipper", "When can I leave Brest?", names=1)),
    (
        "langchain",
        called(
            *("tide", '{"port":"Brest"}', "wind", "{}", "berth", '{"length": '),
            opens=("call_tide", "call_wind", "call_berth"),
        ),
    ),
    ("langchain", answered("tide", "high at 10:12", closes=("call_tide",), names=1)),
    ("langchain", answered("4 Bft", "west", closes=("call_wind",))),
    ("langchain", answered("say the length as a number", closes=("call_berth",))),
    ("langchain", ANSWER),
]
GEMINI_TOOLS = [
    ("gemini", said("user", "When can I leave Brest or Vigo?")),
    ("gemini", thought("Two ports, two tides.")),
    (
        "gemini",
        called(
            *("tide", '{"port":"Brest"}', "tide", '{"port":"Vigo"}', "wind", "{}"),
            opens=("function:tide", "function:tide#2", "function:wind"),
        ),
    ),
    (
        "gemini",
        answered(
            *("tide", '{"result":"10:12"}', "tide", '{"error":"no such port"}'),
            *("wind", '{"result":4}'),
            closes=("function:tide", "function:tide#2", "function:wind"),
        ),
    ),
    ("gemini", called("tide", '{"port":"Lisbon"}', opens=("function:tide",))),
    ("gemini", answered("tide", '{"result":"11:40"}', closes=("function:tide",))),
    ("gemini", called("print(12 - 10)", "2\n", "Two hours apart.")),
    ("gemini", said("assistant")),
]

# What each item of each file is, in order. Text alone says the same in every format that puts it into
# a content, and is read as `chat`.
EXPECTED = {
    "anthropic/documents": [
        (
            "anthropic",
            said(
                "user",
                *("Logbook", "of the last voyage", "Left Brest at ten."),
                "Rule one: look out.",
                *("Rules", "https://example.org/rules", "Rule two: give way."),
                "When did we leave?",
            ),
        ),
        ("anthropic", said("assistant", "At ten.")),
    ],
    "anthropic/server_tools": [
        ("chat", said("user", "Is the harbour open, and when is the tide?")),
        (
            "anthropic",
            called(
                *("web_search", '{"query":"Brest harbour closed"}'),
                *("Harbour news", "https://example.org/harbour", "It is open."),
            ),
        ),
        (
            "anthropic",
            called(
                *("code_execution", """{"code":"print(tide('Brest'))"}"""),
                *("tide", '{"port":"Brest"}'),
                opens=("srvtoolu_code", "toolu_tide"),
            ),
        ),
        ("anthropic", answered("10:12", closes=("toolu_tide",))),
        (
            "anthropic",
            answered(
                "10:12\n", "High water is at 10:12.", role="assistant", closes=("srvtoolu_code",)
            ),
        ),
        (
            "anthropic",
            called(
                "They asked for the tide in Brest.",
                *("harbour", "berth", '{"length":12}', "berth 7"),
            ),
        ),
    ],
    "anthropic/tools": [
        ("chat", PILOT),
        ("chat", QUESTION),
        (
            "anthropic",
            called(
                *("Tide first, then wind.", "I will look."),
                *("tide", '{"port":"Brest"}', "wind", "{}"),
                opens=("toolu_tide", "toolu_wind"),
            ),
        ),
        (
            "anthropic",
            answered("high at 10:12", "no station answered", closes=("toolu_tide", "toolu_wind")),
        ),
        ("anthropic", called("wind", '{"hours":6}', opens=("toolu_wind_2",))),
        ("anthropic", answered("Hurry, please.", role="user", closes=("toolu_wind_2",))),
        ("anthropic", thought("Tide first, then wind.")),
        ("chat", ANSWER),
        ("anthropic", said("assistant", "Fair winds.")),
    ],
    "bedrock/documents": [
        (
            "bedrock",
            said(
                "user",
                *("logbook", "of the last voyage", "Left Brest at ten."),
                *("Rules", "https://example.org/rules", "Give way."),
                "When did we leave?",
            ),
        ),
        ("bedrock", called("grounding", '{"query":"fog"}', "no fog", "At ten.")),
    ],
    "bedrock/tools": [
        ("chat", PILOT),
        ("bedrock", QUESTION),
        (
            "bedrock",
            called(
                *("Tide, wind.", "I will look.", "tide", '{"port":"Brest"}', "wind", "{}"),
                opens=("tooluse_tide", "tooluse_wind"),
            ),
        ),
        (
            "bedrock",
            answered(
                *('{"high":"10:12"}', "springs", "forecast", "4 Bft"),
                closes=("tooluse_tide", "tooluse_wind"),
            ),
        ),
        ("bedrock", thought()),
        ("chat", ANSWER),
    ],
    "chat/tools": [
        ("chat", PILOT),
        ("chat", QUESTION),
        (
            "chat",
            called(
                *("tide", '{"port": "Brest"}', "wind", "Brest, tomorrow"),
                opens=("call_tide", "call_wind"),
            ),
        ),
        ("chat", answered("high at 10:12", closes=("call_tide",))),
        ("chat", answered("4 Bft, west", closes=("call_wind",))),
        ("chat", ANSWER),
    ],
    "gemini/continued": [
        ("gemini", called("watch", "{}", opens=("function:watch",))),
        (
            "gemini",
            answered(
                *("watch", '{"seen":"a buoy"}'),
                closes=("function:watch",),
                opens=("function:watch",),
            ),
        ),
        ("gemini", answered("watch", '{"seen":"land"}', closes=("function:watch",))),
        ("gemini", said("assistant", "Land ahead.")),
    ],
    "gemini/tools_camel_case": GEMINI_TOOLS,
    "gemini/tools_snake_case": GEMINI_TOOLS,
    "langchain/legacy": [
        ("langchain", said("developer", "Be brief.")),
        ("langchain", said("user", "Which way?")),
        ("langchain", called("wind", "{}", opens=("function:wind",))),
        ("langchain", answered("wind", "4 Bft", closes=("function:wind",), names=1)),
        ("langchain", thought("West wind, so east.")),
        ("langchain", said("assistant", "East.")),
    ],
    "langchain/providers": [
        ("langchain", said("user", "When can I leave?", "Log", "In Brest.")),
        (
            "langchain",
            called("I will look. look. ", "tide", '{"port":"Brest"}', opens=("call_1",)),
        ),
        ("langchain", answered("10:12", closes=("call_1",))),
        (
            "langchain",
            called(
                *("And the wind?", "Now the wind.", "wind", '{"hours":6}'), opens=("toolu_wind",)
            ),
        ),
        ("langchain", answered("west", closes=("toolu_wind",))),
        ("langchain", called("A berth.", "berth", "{}", opens=("call_berth",))),
        ("langchain", answered("berth 7", closes=("call_berth",))),
        (
            "langchain",
            called(
                *("All is known.", "web_search", '{"query":"fog"}', '["none"]'),
                *("Sail at ten.", '{"horn":"two blasts"}'),
            ),
        ),
    ],
    "langchain/tools_as_dicts": LANGCHAIN_TOOLS,
    "langchain/tools_dumped": LANGCHAIN_TOOLS,
    "pydantic_ai/agent": [
        ("pydantic_ai", said("system", "You are a harbour pilot.", "When can I leave Brest?")),
        (
            "pydantic_ai",
            called(
                *("Tide first.", "tide", '{"port":"Brset"}', "wind", '{"port": "Brest"}'),
                opens=("call_1", "call_2"),
            ),
        ),
        (
            "pydantic_ai",
            answered("tide", "No such port.", "wind", "5", closes=("call_1", "call_2")),
        ),
        ("pydantic_ai", called("tide", '{"port":"Brest"}', opens=("call_3",))),
        ("pydantic_ai", answered("tide", '{"high":"10:12","metres":6.1}', closes=("call_3",))),
        ("pydantic_ai", ANSWER),
        ("pydantic_ai", said("user", "Thanks!")),
        ("pydantic_ai", said("assistant", "Fair winds.")),
    ],
    "pydantic_ai/parts": [
        (
            "pydantic_ai",
            said("user", "Three requests are left.", "What is on these?", "One is a chart."),
        ),
        ("pydantic_ai", thought("Let me see.")),
        (
            "pydantic_ai",
            called(
                *("web_search", '{"query":"chart of Brest"}'),
                *("web_search", '{"status":"completed"}'),
                *("A chart of Brest.", "zoom"),
                opens=("call_1",),
            ),
        ),
        (
            "pydantic_ai",
            answered("zoom", "Enlarged:", "Is it up to date?", role="user", closes=("call_1",)),
        ),
        ("pydantic_ai", said("assistant", "{}")),
        (
            "pydantic_ai",
            said("user", '[{"type":"missing","loc":["year"],"msg":"Field required","input":{}}]'),
        ),
        (
            "pydantic_ai",
            Facts("assistant", Kind.COMPACTION, texts=("They looked at a chart.",), follows=True),
        ),
    ],
    "pydantic_ai/retries": [
        ("pydantic_ai", called("tide", "{}", opens=("call_1",))),
        ("pydantic_ai", answered("tide", "Which port?", closes=("call_1",))),
        ("pydantic_ai", said("assistant", "At ten")),
        ("pydantic_ai", said("user", "Answer as JSON.")),
    ],
    "responses/tools": [
        ("chat", QUESTION),
        ("responses", thought("The tide decides.")),
        ("responses", called("tide", '{"port":"Brest"}', opens=("call_tide",))),
        ("responses", answered("10:12", closes=("call_tide",))),
        ("responses", ANSWER),
    ],
}


def conversation(name):
    return json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))["items"]


ITEMS = {name: conversation(name) for name in EXPECTED}
EACH = [
    pytest.param(item, own, expected, name.split("/")[0], id=f"{name}-{at}")
    for name, cases in EXPECTED.items()
    for at, (item, (own, expected)) in enumerate(zip(ITEMS[name], cases, strict=True))
]
ALL = [(name.split("/")[0], item) for name, items in ITEMS.items() for item in items]


def test_every_recording_is_expected_here_and_names_its_versions():
    found = {path.relative_to(RECORDED).with_suffix("").as_posix() for path in RECORDED.glob("*/*")}
    assert found == EXPECTED.keys()
    for name in found:
        made = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))["recorded_with"]
        assert made
        assert all(release[0].isdigit() for release in made.values())


@pytest.mark.parametrize(("item", "own", "expected", "family"), EACH)
def test_a_recorded_item(item, own, expected, family):
    before = copy.deepcopy(item)
    assert next(each.name for each in FORMATS if each.matches(item)) == own
    assert read_facts(item) == expected
    assert read_facts(item, format=family) == expected, "the format itself reads it like that"
    assert item == before
    assert msgspec.json.decode(encode_item(item)) == item


@pytest.mark.parametrize("name", EXPECTED)
def test_every_call_and_its_result_are_one_group(name):
    records = []
    for item in ITEMS[name]:
        opens, closes = calls_of(read_facts(item))
        records.append(Prepared(b"", 1, opens=opens, closes=closes))
    result = group_records(
        records, first=1, waiting={}, group_of=lambda _: None, is_protected=lambda _: False
    )
    assert not any(flags & Flag.ORPHAN for flags in result.flags)
    assert not result.opened, "a call is still open"
    balance = {}
    for group, flags in zip(result.groups, result.flags, strict=True):
        record = Stored(1, flags, 1, 0, group, None, None)
        balance[group] = balance.get(group, 0) + record.opens - record.closes
    assert not any(balance.values())


def test_calls_of_one_name_pair_in_order():
    def call(*names):
        parts = [{"function_call": {"name": name, "args": {}}} for name in names]
        return read_facts({"role": "model", "parts": parts}).opens

    def response(*names):
        parts = [{"functionResponse": {"name": name, "response": {}}} for name in names]
        return read_facts({"role": "user", "parts": parts}).closes

    assert call("f", "g", "f", "f") == ("function:f", "function:g", "function:f#2", "function:f#3")
    assert set(response("f", "f", "f", "g")) == set(call("f", "g", "f", "f"))
    assert response("f") == call("f"), "one after the other the name is enough"


@pytest.mark.parametrize(
    ("call_id", "response_id"), [(None, None), ("a", "a"), ("a", None), (None, "made-up")]
)
def test_a_gemini_call_finds_its_response_whatever_became_of_the_id(call_id, response_id):
    call = {"role": "model", "parts": [{"functionCall": {"id": call_id, "name": "f", "args": {}}}]}
    response = {"name": "f", "id": response_id, "response": {"ok": True}}
    answer = {"role": "function", "parts": [{"function_response": response}]}
    assert read_facts(call).opens == read_facts(answer).closes == ("function:f",)


OWN = {
    "anthropic": {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]},
    "bedrock": {"role": "user", "content": [{"toolResult": {"toolUseId": "t", "content": []}}]},
    "gemini": {"parts": [{"code_execution_result": {"id": "t", "output": ""}}]},
    "pydantic_ai": {
        "kind": "request",
        "parts": [{"part_kind": "tool-return", "tool_call_id": "t", "content": None}],
    },
    "langchain": {"type": "tool", "tool_call_id": "t", "content": ""},
}


@pytest.mark.parametrize(("name", "item"), OWN.items())
def test_a_silent_result(name, item):
    assert next(each.name for each in FORMATS if each.matches(item)) == name
    assert read_facts(item) == answered(closes=("t",))


NO_FORMAT = [
    {"role": "user", "parts": [{"kind": "text", "text": "of another family"}], "kind": "message"},
    {"role": "user", "parts": [{"type": "text", "text": "of another family"}]},
    {"role": "agent", "parts": [{"text": "of another family"}]},
    {"role": "model", "parts": "text"},
    {"role": "user", "parts": []},
    {"parts": [{}]},
    {"kind": "request"},
    {"kind": "request", "parts": {}},
    {"kind": ["request"], "parts": []},
    {"type": "human"},
    {"type": "human", "data": {"text": "no content"}},
    {"type": "human", "data": "text", "content": "x"},
    {"type": "Human", "content": "x"},
    {"role": "tool", "type": "message", "stop_reason": None, "content": []},
]


@pytest.mark.parametrize("item", NO_FORMAT, ids=compact)
def test_what_only_resembles_a_format_stays_unrecognised(item):
    facts = read_facts(item)
    assert (facts.recognised, facts.texts) == (False, (compact(item),))
    assert (facts.opens, facts.closes) == ((), ())


# Whose calls stand beside the content, whatever blocks the content has borrowed.
def test_blocks_of_another_api_do_not_hide_the_calls_of_chat():
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    for block in ({"type": "thinking", "thinking": "x"}, {"reasoningContent": {}}):
        item = {"role": "assistant", "content": [block], "tool_calls": calls}
        assert read_facts(item).opens == ("c",)


UNREADABLE = {
    "anthropic, a block nobody knows": (
        {
            "role": "assistant",
            "content": [
                {"type": "hologram", "text": "x"},
                {"type": "tool_use", "id": "c", "name": "f", "input": {}},
            ],
        },
        "assistant",
        Kind.TOOL_CALL,
        (("c",), ()),
    ),
    "anthropic, a call without id": (
        {"role": "assistant", "content": [{"type": "tool_use", "name": "f", "input": {}}]},
        "assistant",
        Kind.TOOL_CALL,
        ((), ()),
    ),
    "anthropic, a result of something": (
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "c", "content": [{"type": "x"}]}],
        },
        "tool",
        Kind.TOOL_RESULT,
        ((), ("c",)),
    ),
    "anthropic, a document from nowhere": (
        {"role": "user", "content": [{"type": "document", "source": {"type": "x"}}]},
        "user",
        Kind.MESSAGE,
        ((), ()),
    ),
    "bedrock, a block nobody knows": (
        {"role": "user", "content": [{"cachePoint": {}}, {"hologram": {}}]},
        "user",
        Kind.MESSAGE,
        ((), ()),
    ),
    "bedrock, a result in a form nobody knows": (
        {"role": "user", "content": [{"toolResult": {"toolUseId": "c", "content": [{"x": 1}]}}]},
        "tool",
        Kind.TOOL_RESULT,
        ((), ("c",)),
    ),
    "bedrock, a thought in a form nobody knows": (
        {"role": "assistant", "content": [{"reasoningContent": {"text": "x"}}]},
        "assistant",
        Kind.REASONING,
        ((), ()),
    ),
    "gemini, a call of nothing": (
        {"role": "model", "parts": [{"functionCall": {"args": {}}}, {"text": "x"}]},
        "assistant",
        Kind.TOOL_CALL,
        ((), ()),
    ),
    "gemini, a text that is none": (
        {"role": "user", "parts": [{"text": 5}]},
        "user",
        Kind.MESSAGE,
        ((), ()),
    ),
    "gemini, a part nobody knows": (
        {"role": "model", "parts": [{"hologram": {}}, {"functionCall": {"name": "f"}}]},
        "assistant",
        Kind.TOOL_CALL,
        (("function:f",), ()),
    ),
    "pydantic_ai, a part nobody knows": (
        {
            "kind": "response",
            "parts": [
                {"part_kind": "hologram", "content": "x"},
                {"part_kind": "tool-call", "tool_name": "f", "args": None, "tool_call_id": "c"},
            ],
        },
        "assistant",
        Kind.TOOL_CALL,
        (("c",), ()),
    ),
    "langchain, a call without id": (
        {"type": "ai", "content": "", "tool_calls": [{"name": "f", "args": {}, "id": None}]},
        "assistant",
        Kind.TOOL_CALL,
        ((), ()),
    ),
    "langchain, a result of no call": (
        {"type": "tool", "content": "x", "tool_call_id": None},
        "tool",
        Kind.TOOL_RESULT,
        ((), ()),
    ),
    "langchain, calls that are no list": (
        {"type": "ai", "content": "", "tool_calls": {"id": "c"}},
        "assistant",
        Kind.TOOL_CALL,
        ((), ()),
    ),
    "langchain, somebody": (
        {"type": "chat", "role": "narrator", "content": "x"},
        "",
        Kind.MESSAGE,
        ((), ()),
    ),
}


@pytest.mark.parametrize(
    ("item", "role", "kind", "ids"), UNREADABLE.values(), ids=UNREADABLE.keys()
)
def test_what_cannot_be_read_is_charged_as_json_and_keeps_its_ids(item, role, kind, ids):
    facts = read_facts(item)
    assert (facts.role, facts.kind, (facts.opens, facts.closes)) == (role, kind, ids)
    assert (facts.recognised, facts.texts) == (False, (compact(item),))


READ = {
    "a thought in parts": (
        {"role": "assistant", "content": [{"type": "thinking", "thinking": [{"text": "x"}]}]},
        thought("x"),
    ),
    "a piece of a call": (
        {
            "type": "AIMessageChunk",
            "content": [{"type": "input_json_delta", "partial_json": '{"a'}],
            "tool_call_chunks": [{"name": None, "args": '{"a', "id": None, "index": 0}],
        },
        called('{"a', '{"a'),
    ),
    "calls in the form of their provider alone": (
        {
            "type": "ai",
            "content": "",
            "additional_kwargs": {
                "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}],
                "audio": {"id": "a", "transcript": "One moment."},
            },
        },
        called("One moment.", "f", "{}", opens=("c",)),
    ),
    "a call in the content alone": (
        {"type": "ai", "content": [{"type": "tool_call", "id": "c", "name": "f", "args": {}}]},
        called("f", "{}", opens=("c",)),
    ),
    "a borrowed block that stands for itself": (
        {
            "type": "ai",
            "content": [{"type": "non_standard", "value": {"type": "redacted_thinking"}}, "Yes."],
        },
        said("assistant", "Yes."),
    ),
    "an item of the Responses API in the content": (
        {"type": "ai", "content": [{"type": "computer_call", "call_id": "c", "action": {"x": 1}}]},
        called('{"x":1}', opens=("c",)),
    ),
    "what a provider gave that has no form": (
        {"type": "ai", "content": [{"type": "non_standard", "value": "x"}, {"text": "y"}]},
        said("assistant", "x", "y"),
    ),
    "a guarded picture": (
        {"role": "user", "content": [{"guardContent": {"image": {"format": "png"}}}]},
        said("user"),
    ),
    "a search result without content": (
        {"role": "user", "content": [{"searchResult": {"title": "x", "source": "y"}}]},
        said("user", "x", "y"),
    ),
    "an order to remove": ({"type": "remove", "id": "m1", "content": ""}, Facts("", Kind.OTHER)),
    "a chat message of a person": (
        {"type": "chat", "role": "human", "content": "Hi"},
        said("user", "Hi"),
    ),
    "a request of nothing but instructions": (
        {"kind": "request", "parts": [], "instructions": "Go on."},
        said("user", "Go on."),
    ),
    "a system prompt behind a result": (
        {
            "kind": "request",
            "parts": [
                {"part_kind": "tool-return", "tool_call_id": "c", "content": "x"},
                {"part_kind": "system-prompt", "content": "Be quick."},
            ],
        },
        answered("x", "Be quick.", role="user", closes=("c",)),
    ),
    "a file among what a tool returned": (
        {
            "kind": "request",
            "parts": [
                {
                    "part_kind": "tool-return",
                    "tool_call_id": "c",
                    "content": {"kind": "binary", "data": "AAAA", "media_type": "image/png"},
                }
            ],
        },
        answered(closes=("c",)),
    ),
    "a call and its result by id across contents": (
        {"role": "model", "parts": [{"executableCode": {"id": "x", "code": "1"}}]},
        called("1", opens=("x",)),
    ),
    "a signature that came late": (
        {"role": "model", "parts": [{"thoughtSignature": "AAAA"}]},
        said("assistant"),
    ),
    "a content of nobody": ({"parts": [{"text": "Hi"}]}, said("user", "Hi")),
    "a system content": ({"role": "system", "parts": [{"text": "Hi"}]}, said("system", "Hi")),
}


@pytest.mark.parametrize(("item", "expected"), READ.values(), ids=READ.keys())
def test_shapes_that_no_recording_has(item, expected):
    assert read_facts(item) == expected


def test_the_same_result_twice_closes_once():
    block = {"type": "tool_result", "tool_use_id": "t", "content": "x"}
    assert read_facts({"role": "user", "content": [block, block]}).closes == ("t",)


def leaves(value, path=()):
    """Yield the path and the text of every string in a JSON value."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from leaves(inner, (*path, key))


def put(item, path, value):
    inner = changed = copy.deepcopy(item)
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


SPOKEN = [
    (family, item, text)
    for family, item in ALL
    for text in read_facts(item).texts
    if text[0] not in "[{"  # arguments, whose JSON text may be a string elsewhere
]
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(SPOKEN), st.text(min_size=1))
def test_whatever_is_said_is_charged(place, text):
    family, item, spoken = place
    changed = item
    for path, leaf in leaves(item):
        if leaf == spoken:  # LangChain has the same call in several places
            changed = put(changed, path, text)
    facts = read_facts(changed, format=family)
    assert changed == item or text in facts.texts


PATHS = [(family, item, path) for family, item in ALL for path, _ in leaves(item)]


@given(st.sampled_from(PATHS), st.integers(min_value=0, max_value=9), ANY_JSON)
def test_a_recorded_item_with_something_else_in_it(place, depth, value):
    family, item, path = place
    changed = put(item, path[: max(1, len(path) - depth)], value)
    before = copy.deepcopy(changed)
    for name in (None, family, *(each.name for each in FORMATS)):
        facts = read_facts(changed, format=name)
        assert changed == before
        assert facts.role in {*ROLES, ""}
        assert all(isinstance(text, str) and text for text in facts.texts)
        assert all(isinstance(id_, str) and id_ for id_ in (*facts.opens, *facts.closes))
        assert facts.recognised or facts.texts == (compact(changed),)


def test_too_deep_for_the_stack_in_every_field_of_every_format():
    deep = "core"
    for _ in range(5_000):
        deep = [deep]
    fields = {
        (family, *(key for key in path if isinstance(key, str))): (item, path)
        for family, item, path in PATHS
    }
    for (family, *_), (item, path) in fields.items():
        facts = read_facts(put(item, path, deep), format=family)
        assert facts.recognised or len(facts.texts) == 1


def test_ten_thousand_calls_of_one_name():
    parts = [{"function_call": {"name": "f", "args": {}}} for _ in range(10_000)]
    facts = read_facts({"role": "model", "parts": parts})
    assert len(facts.opens) == 10_000
    assert facts.opens[-1] == "function:f#10000"


MANY = 300
MANY_IDS = [f"call_{number}" for number in range(MANY)]
MANY_CALLS = {
    "chat": {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": one, "type": "function", "function": {"name": "f", "arguments": "{}"}}
            for one in MANY_IDS
        ],
    },
    "anthropic": {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": one, "name": "f", "input": {}} for one in MANY_IDS],
    },
    "gemini": {
        "role": "model",
        "parts": [{"function_call": {"name": one, "args": {}}} for one in MANY_IDS],
    },
    "bedrock": {
        "role": "assistant",
        "content": [{"toolUse": {"toolUseId": one, "name": "f", "input": {}}} for one in MANY_IDS],
    },
    "langchain": {
        "type": "ai",
        "content": "",
        "tool_calls": [
            {"id": one, "name": "f", "args": {}, "type": "tool_call"} for one in MANY_IDS
        ],
    },
    "pydantic_ai": {
        "kind": "response",
        "parts": [
            {"part_kind": "tool-call", "tool_call_id": one, "tool_name": "f", "args": "{}"}
            for one in MANY_IDS
        ],
    },
}


def many_results(family, ids):
    """The results of these calls, as the format has them: in as few messages as it can."""
    match family:
        case "chat":
            return [{"role": "tool", "tool_call_id": one, "content": "done"} for one in ids]
        case "anthropic":
            blocks = [{"type": "tool_result", "tool_use_id": one, "content": "done"} for one in ids]
            return [{"role": "user", "content": blocks}]
        case "gemini":
            answers = [{"function_response": {"name": one, "response": {}}} for one in ids]
            return [{"role": "user", "parts": answers}]
        case "bedrock":
            blocks = [
                {"toolResult": {"toolUseId": one, "content": [{"text": "done"}]}} for one in ids
            ]
            return [{"role": "user", "content": blocks}]
        case "langchain":
            return [{"type": "tool", "tool_call_id": one, "content": "done"} for one in ids]
        case _:
            parts = [
                {
                    "part_kind": "tool-return",
                    "tool_call_id": one,
                    "tool_name": "f",
                    "content": "done",
                }
                for one in ids
            ]
            return [{"kind": "request", "parts": parts}]


def stored(items):
    """The items as a store keeps them, and a later message behind them."""
    records = []
    for item in [*items, {"role": "user", "content": "meanwhile"}]:
        opens, closes = calls_of(read_facts(item))
        records.append(Prepared(b"", 1, opens=opens, closes=closes))
    found = group_records(
        records, first=1, waiting={}, group_of=lambda _: None, is_protected=lambda _: False
    )
    facts = zip(found.flags, found.groups, strict=True)
    return [
        Stored(1, flags, at, 0, group, None, None) for at, (flags, group) in enumerate(facts, 1)
    ]


@pytest.mark.parametrize("family", list(MANY_CALLS))
def test_hundreds_of_calls_are_shown_when_the_last_is_answered(family):
    calls = MANY_CALLS[family]
    assert next(each.name for each in FORMATS if each.matches(calls)) == family
    assert len(read_facts(calls).opens) == MANY
    waiting = stored([calls, *many_results(family, MANY_IDS[:-1])])
    assert [record.seq for record in presentable(waiting)] == [len(waiting)]
    answered = stored([calls, *many_results(family, MANY_IDS)])
    assert presentable(answered) == answered
