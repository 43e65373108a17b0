"""What the formats read: whole facts for real items, and no exception for anything else."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import ConfigurationError, MessageInvalid
from holdfast.formats import FORMATS, ROLES, Facts, Kind, read_facts

MESSAGE, CALL, RESULT = Kind.MESSAGE, Kind.TOOL_CALL, Kind.TOOL_RESULT


def compact(item):
    return json.dumps(item, ensure_ascii=False, separators=(",", ":"))


def said(role, *texts, **more):
    return Facts(role, MESSAGE, texts=texts, follows=role == "assistant", **more)


def called(*texts, opens=(), **more):
    return Facts("assistant", CALL, opens=opens, texts=texts, follows=True, **more)


def answered(*texts, closes=(), **more):
    return Facts("tool", RESULT, closes=closes, texts=texts, **more)


CHAT = {
    "user": (
        {"role": "user", "content": "Where is order 1234?"},
        said("user", "Where is order 1234?"),
    ),
    "system with a name": (
        {"role": "system", "name": "house_rules", "content": "Be brief."},
        said("system", "house_rules", "Be brief.", names=1),
    ),
    "developer, parts": (
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        said("developer", "Be brief."),
    ),
    "unicode": (
        {"role": "user", "content": "Grüße, 世界 🌍 \u200d\ud83d \x00 <|endoftext|>"},
        said("user", "Grüße, 世界 🌍 \u200d\ud83d \x00 <|endoftext|>"),
    ),
    "empty content": ({"role": "user", "content": ""}, said("user")),
    "parts of every kind": (
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is on these?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "file", "file": {"file_data": "AAAA", "filename": "a.pdf"}},
                "a bare string",
                {"type": "text", "text": ""},
            ],
        },
        said("user", "What is on these?", "a bare string"),
    ),
    "parts in a tuple": (
        {"role": "user", "content": ({"type": "text", "text": "one"},)},
        said("user", "one"),
    ),
    "answer as a client library dumps it": (
        {
            "role": "assistant",
            "content": "It left this morning.",
            "refusal": None,
            "annotations": [],
            "audio": None,
            "function_call": None,
            "tool_calls": None,
        },
        said("assistant", "It left this morning."),
    ),
    "refusal": (
        {"role": "assistant", "content": None, "refusal": "I can't help with that."},
        said("assistant", "I can't help with that."),
    ),
    "refusal as a part": (
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        said("assistant", "No."),
    ),
    "reasoning_content": (
        {"role": "assistant", "content": "Four.", "reasoning_content": "2 + 2", "reasoning": "2+2"},
        said("assistant", "Four.", "2 + 2"),
    ),
    "reasoning": (
        {"role": "assistant", "content": "Four.", "reasoning": "2 + 2"},
        said("assistant", "Four.", "2 + 2"),
    ),
    "spoken answer": (
        {"role": "assistant", "audio": {"id": "audio_1", "transcript": "Hello."}, "content": None},
        said("assistant", "Hello."),
    ),
    "spoken answer by reference": (
        {"role": "assistant", "audio": {"id": "audio_1"}},
        said("assistant"),
    ),
    "parallel calls": (
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "find_order", "arguments": '{"id": 1234}'},
                },
                {
                    "id": "call_2",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Zürich"}'},
                },
            ],
        },
        called(
            "find_order",
            '{"id": 1234}',
            "weather",
            '{"city": "Zürich"}',
            opens=("call_1", "call_2"),
        ),
    ),
    "call with words": (
        {
            "role": "assistant",
            "content": "Let me look.",
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "now", "arguments": ""}}
            ],
        },
        called("Let me look.", "now", opens=("c",)),
    ),
    "custom tool": (
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "c", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}
            ],
        },
        called("sql", "SELECT 1", opens=("c",)),
    ),
    "arguments as an object": (
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"é": [1, None]}}}],
        },
        called("f", '{"é":[1,null]}', opens=("c",)),
    ),
    "the same id twice": (
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "c", "function": {"name": "f"}},
                {"id": "c", "function": {"name": "g"}},
            ],
        },
        called("f", "g", opens=("c",)),
    ),
    "no calls after all": (
        {"role": "assistant", "content": "Done.", "tool_calls": []},
        said("assistant", "Done."),
    ),
    "result": (
        {"role": "tool", "tool_call_id": "call_1", "content": '{"eta": "tomorrow"}'},
        answered('{"eta": "tomorrow"}', closes=("call_1",)),
    ),
    "result in parts, named": (
        {
            "role": "tool",
            "tool_call_id": "call_2",
            "name": "weather",
            "content": [{"type": "text", "text": "rain"}, {"type": "text", "text": "12 °C"}],
        },
        answered("weather", "rain", "12 °C", closes=("call_2",), names=1),
    ),
    "legacy call": (
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "find_order", "arguments": "{}"},
        },
        called("find_order", "{}", opens=("function:find_order",)),
    ),
    "legacy result": (
        {"role": "function", "name": "find_order", "content": "none"},
        answered("find_order", "none", closes=("function:find_order",), names=1),
    ),
    "fields of other systems": (
        {"role": "user", "content": "Hi", "id": "m1", "created_at": "2025-01-01", "type": None},
        said("user", "Hi"),
    ),
}

RESPONSES = {
    "user message": (
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What is this?"},
                {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "AAAA"},
            ],
        },
        said("user", "What is this?"),
    ),
    "answer": (
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "A cat.", "annotations": [{"type": "url"}]},
                {"type": "refusal", "refusal": "No name."},
            ],
        },
        said("assistant", "A cat.", "No name."),
    ),
    "developer message": (
        {"type": "message", "role": "developer", "content": "Be brief."},
        said("developer", "Be brief."),
    ),
    "function_call": (
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "namespace": "shop",
            "name": "find_order",
            "arguments": '{"id": 1234}',
            "status": "completed",
        },
        called("shop", "find_order", '{"id": 1234}', opens=("call_1",)),
    ),
    "function_call_output": (
        {"type": "function_call_output", "call_id": "call_1", "output": '{"eta": null}'},
        answered('{"eta": null}', closes=("call_1",)),
    ),
    "function_call_output, parts": (
        {
            "type": "function_call_output",
            "call_id": "call_1",
            "output": [
                {"type": "input_text", "text": "see the picture"},
                {"type": "input_image", "file_id": "file_1"},
            ],
        },
        answered("see the picture", closes=("call_1",)),
    ),
    "function_call_output of no call": (
        {"type": "function_call_output", "call_id": None, "name": "clock", "output": "12:00"},
        answered("clock", "12:00"),
    ),
    "custom_tool_call": (
        {"type": "custom_tool_call", "call_id": "c", "name": "sql", "input": "SELECT 1"},
        called("sql", "SELECT 1", opens=("c",)),
    ),
    "custom_tool_call_output": (
        {"type": "custom_tool_call_output", "call_id": "c", "output": "1"},
        answered("1", closes=("c",)),
    ),
    "computer_call": (
        {
            "type": "computer_call",
            "id": "cu_1",
            "call_id": "c",
            "action": {"type": "type", "text": "hello"},
            "pending_safety_checks": [],
            "status": "completed",
        },
        called('{"type":"type","text":"hello"}', opens=("c",)),
    ),
    "computer_call_output": (
        {
            "type": "computer_call_output",
            "call_id": "c",
            "output": {"type": "computer_screenshot", "image_url": "data:image/png;base64,AAAA"},
        },
        answered(closes=("c",)),
    ),
    "local_shell_call": (
        {
            "type": "local_shell_call",
            "id": "lsh_1",
            "call_id": "c",
            "action": {"type": "exec", "command": ["ls", "-l"], "env": {}},
            "status": "completed",
        },
        called('{"type":"exec","command":["ls","-l"],"env":{}}', opens=("c",)),
    ),
    "local_shell_call_output": (
        {"type": "local_shell_call_output", "id": "c", "output": "a.txt"},
        answered("a.txt", closes=("c",)),
    ),
    "local_shell_call_output with call_id": (
        {"type": "local_shell_call_output", "id": "lso_1", "call_id": "c", "output": "a.txt"},
        answered("a.txt", closes=("c",)),
    ),
    "shell_call": (
        {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}},
        called('{"commands":["ls"]}', opens=("c",)),
    ),
    "shell_call_output": (
        {
            "type": "shell_call_output",
            "call_id": "c",
            "output": [
                {"stdout": "a.txt", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}},
                {"stdout": "", "stderr": "killed", "outcome": {"type": "timeout"}},
            ],
        },
        answered("a.txt", "killed", closes=("c",)),
    ),
    "apply_patch_call": (
        {
            "type": "apply_patch_call",
            "call_id": "c",
            "operation": {"type": "delete_file", "path": "a.txt"},
            "status": "completed",
        },
        called('{"type":"delete_file","path":"a.txt"}', opens=("c",)),
    ),
    "apply_patch_call_output": (
        {"type": "apply_patch_call_output", "call_id": "c", "status": "failed", "output": "gone"},
        answered("gone", closes=("c",)),
    ),
    "apply_patch_call_output, silent": (
        {"type": "apply_patch_call_output", "call_id": "c", "status": "completed"},
        answered(closes=("c",)),
    ),
    "tool_search_call": (
        {"type": "tool_search_call", "call_id": "c", "arguments": {"query": "mail"}},
        called('{"query":"mail"}', opens=("c",)),
    ),
    "tool_search_call on the server": (
        {"type": "tool_search_call", "call_id": None, "execution": "server", "arguments": {}},
        called("{}"),
    ),
    "tool_search_output": (
        {"type": "tool_search_output", "call_id": "c", "tools": [{"type": "function"}]},
        answered('[{"type":"function"}]', closes=("c",)),
    ),
    "program": (
        {"type": "program", "id": "p", "call_id": "c", "code": "f()", "fingerprint": "xyz"},
        called("f()", opens=("c",)),
    ),
    "program_output": (
        {"type": "program_output", "id": "po", "call_id": "c", "result": "1"},
        answered("1", closes=("c",)),
    ),
    "mcp_approval_request": (
        {
            "type": "mcp_approval_request",
            "id": "mcpr_1",
            "server_label": "mail",
            "name": "send",
            "arguments": '{"to": "a"}',
        },
        called("send", '{"to": "a"}', opens=("mcpr_1",)),
    ),
    "mcp_approval_response": (
        {
            "type": "mcp_approval_response",
            "approval_request_id": "mcpr_1",
            "approve": False,
            "reason": "wrong address",
        },
        answered("wrong address", closes=("mcpr_1",)),
    ),
    "mcp_call": (
        {
            "type": "mcp_call",
            "id": "mcp_1",
            "approval_request_id": "mcpr_1",
            "server_label": "mail",
            "name": "send",
            "arguments": "{}",
            "output": "sent",
            "error": None,
        },
        called("send", "{}", "sent"),
    ),
    "mcp_call that failed": (
        {
            "type": "mcp_call",
            "id": "mcp_1",
            "name": "send",
            "arguments": "{}",
            "error": {"type": "http_error", "code": 500},
        },
        called("send", "{}", '{"type":"http_error","code":500}'),
    ),
    "mcp_list_tools": (
        {"type": "mcp_list_tools", "id": "l", "server_label": "mail", "tools": [{"name": "send"}]},
        Facts("", Kind.OTHER, texts=('[{"name":"send"}]',)),
    ),
    "web_search_call": (
        {"type": "web_search_call", "id": "ws", "action": {"type": "search", "query": "x"}},
        called('{"type":"search","query":"x"}'),
    ),
    "file_search_call": (
        {
            "type": "file_search_call",
            "id": "fs",
            "queries": ["refund"],
            "results": [{"file_id": "f", "text": "30 days", "score": 0.5}, {"file_id": "g"}],
        },
        called('["refund"]', "30 days"),
    ),
    "file_search_call without results": (
        {"type": "file_search_call", "id": "fs", "queries": ["refund"], "results": None},
        called('["refund"]'),
    ),
    "code_interpreter_call": (
        {
            "type": "code_interpreter_call",
            "id": "ci",
            "code": "print(1)",
            "outputs": [{"type": "logs", "logs": "1"}, {"type": "image", "url": "https://x"}],
        },
        called("print(1)", "1"),
    ),
    "image_generation_call": (
        {
            "type": "image_generation_call",
            "id": "ig",
            "result": "AAAA",
            "revised_prompt": "a small cat",
        },
        called("a small cat"),
    ),
    "reasoning": (
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "Looking at the order."}],
            "content": [{"type": "reasoning_text", "text": "Order 1234 ..."}],
            "encrypted_content": "gAAAA",
        },
        Facts(
            "assistant",
            Kind.REASONING,
            texts=("Looking at the order.", "Order 1234 ..."),
            leads=True,
            follows=True,
        ),
    ),
    "reasoning, encrypted only": (
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"},
        Facts("assistant", Kind.REASONING, leads=True, follows=True),
    ),
    "compaction": (
        {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAA"},
        Facts("", Kind.COMPACTION),
    ),
    "compaction_trigger": ({"type": "compaction_trigger"}, Facts("", Kind.OTHER)),
    "configuration_update": (
        {"type": "configuration_update", "reasoning": {"effort": "low"}},
        Facts("", Kind.OTHER),
    ),
    "item_reference": ({"type": "item_reference", "id": "msg_1"}, Facts("", Kind.OTHER)),
    "additional_tools": (
        {"type": "additional_tools", "role": "developer", "tools": []},
        Facts("developer", Kind.OTHER, texts=("[]",)),
    ),
}

PAIRS = {
    "chat, function": ("parallel calls", "result in parts, named", CHAT),
    "chat, legacy function": ("legacy call", "legacy result", CHAT),
    "function_call": ("function_call", "function_call_output", RESPONSES),
    "custom_tool_call": ("custom_tool_call", "custom_tool_call_output", RESPONSES),
    "computer_call": ("computer_call", "computer_call_output", RESPONSES),
    "local_shell_call": ("local_shell_call", "local_shell_call_output", RESPONSES),
    "shell_call": ("shell_call", "shell_call_output", RESPONSES),
    "apply_patch_call": ("apply_patch_call", "apply_patch_call_output", RESPONSES),
    "tool_search_call": ("tool_search_call", "tool_search_output", RESPONSES),
    "program": ("program", "program_output", RESPONSES),
    "mcp_approval": ("mcp_approval_request", "mcp_approval_response", RESPONSES),
}


def table(cases):
    return [pytest.param(*case, id=name) for name, case in cases.items()]


@pytest.mark.parametrize(("item", "expected"), table(CHAT))
def test_chat_message(item, expected):
    assert read_facts(item) == expected
    assert read_facts(item, "chat") == expected


@pytest.mark.parametrize(("item", "expected"), table(RESPONSES))
def test_responses_item(item, expected):
    assert read_facts(item) == expected
    assert read_facts(item, format="responses") == expected


@pytest.mark.parametrize(
    ("item", "name"),
    [
        *(pytest.param(item, "chat", id=name) for name, (item, _) in CHAT.items()),
        *(pytest.param(item, "responses", id=name) for name, (item, _) in RESPONSES.items()),
    ],
)
def test_the_shape_tells_the_format(item, name):
    assert next(candidate.name for candidate in FORMATS if candidate.matches(item)) == name


@pytest.mark.parametrize(("item", "expected"), table(CHAT))
def test_a_message_without_type_is_the_same_to_both_formats(item, expected):
    assert read_facts(item, format="responses") == expected


@pytest.mark.parametrize(
    "item",
    [
        None,
        True,
        5,
        1.5,
        "hello",
        [],
        [{"role": "user", "content": "one"}],
        {},
        {"role": "user"},
        {"content": "no role"},
        {"role": "narrator", "content": "Once upon a time"},
        {"role": ["user"], "content": "a role in a list"},
        {"type": ["message"], "content": "a type in a list"},
        {"type": "narration", "content": "of another family"},
        {"role": "agent", "parts": [{"text": "of another family"}]},
        {"id": "msg_1"},
    ],
    ids=compact,
)
def test_no_format_knows_it(item):
    assert not any(candidate.matches(item) for candidate in FORMATS)
    role = "user" if isinstance(item, dict) and item.get("role") == "user" else ""
    assert read_facts(item) == Facts(role, Kind.OTHER, texts=(compact(item),), recognised=False)


@pytest.mark.parametrize("format_name", [candidate.name for candidate in FORMATS])
@pytest.mark.parametrize("item", [None, 5, "text", [1], {"a": 1}], ids=compact)
def test_a_fixed_format_reads_nothing_into_what_it_does_not_know(item, format_name):
    assert read_facts(item, format=format_name) == Facts(
        "", Kind.OTHER, texts=(compact(item),), recognised=False
    )


def test_a_bare_reference_is_one_only_when_the_format_says_so():
    assert read_facts({"id": "msg_1"}, format="responses") == Facts("", Kind.OTHER)


def test_a_fixed_format_does_not_look_at_the_type():
    item = {"type": "narration", "role": "user", "content": "Hi"}
    assert not read_facts(item).recognised
    assert read_facts(item, format="chat") == said("user", "Hi")


@pytest.mark.parametrize(("call", "result", "cases"), table(PAIRS))
def test_a_call_and_its_result_carry_the_same_id(call, result, cases):
    opens = read_facts(cases[call][0]).opens
    closes = read_facts(cases[result][0]).closes
    assert len(closes) == 1
    assert set(closes) <= set(opens)


def test_the_role_can_be_given():
    item = {"role": "user", "content": "Summary so far"}
    assert read_facts(item, role="system") == said("system", "Summary so far")
    assert read_facts("free text", role="user") == Facts(
        "user", Kind.OTHER, texts=('"free text"',), recognised=False
    )
    assert read_facts(item, role="function").role == "tool"


@pytest.mark.parametrize("role", ["", "sytem", "User", "ai"])
def test_a_role_that_is_none_is_refused(role):
    with pytest.raises(ConfigurationError) as caught:
        read_facts({"role": "user", "content": "Hi"}, role=role)
    assert str(caught.value) == (
        f"{role!r} is no role; use one of assistant, developer, system, tool, user"
    )


@pytest.mark.parametrize("name", ["", "Chat", "prose"])
def test_a_format_that_is_none_is_refused(name):
    with pytest.raises(ConfigurationError) as caught:
        read_facts({"role": "user", "content": "Hi"}, format=name)
    assert str(caught.value) == (
        f"{name!r} is no message format; use one of anthropic, bedrock, chat, gemini, langchain, "
        "pydantic_ai, responses"
    )


HOSTILE = {
    "content is a number": ({"role": "user", "content": 5}, "user", MESSAGE),
    "content is an object": ({"role": "user", "content": {"text": "x"}}, "user", MESSAGE),
    "content is false": ({"role": "user", "content": False}, "user", MESSAGE),
    "a part is a number": ({"role": "user", "content": ["a", 5]}, "user", MESSAGE),
    "a part is null": ({"role": "user", "content": [None]}, "user", MESSAGE),
    "a part is a list": ({"role": "user", "content": [["a"]]}, "user", MESSAGE),
    "a part without text": ({"role": "user", "content": [{"type": "text"}]}, "user", MESSAGE),
    "a part nobody knows": (
        {"role": "user", "content": [{"type": "hologram", "data": "x"}]},
        "user",
        MESSAGE,
    ),
    "a part's type is a list": ({"role": "user", "content": [{"type": []}]}, "user", MESSAGE),
    "a name is a number": ({"role": "user", "name": 5, "content": "x"}, "user", MESSAGE),
    "refusal is a list": ({"role": "assistant", "refusal": ["x"]}, "assistant", MESSAGE),
    "audio is a string": ({"role": "assistant", "audio": "x"}, "assistant", MESSAGE),
    "tool_calls is an object": ({"role": "assistant", "tool_calls": {"a": 1}}, "assistant", CALL),
    "tool_calls is a number": ({"role": "assistant", "tool_calls": 1}, "assistant", CALL),
    "a call is a string": ({"role": "assistant", "tool_calls": ["f"]}, "assistant", CALL),
    "a call without id": (
        {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]},
        "assistant",
        CALL,
    ),
    "a call's id is a number": (
        {"role": "assistant", "tool_calls": [{"id": 5, "function": {"name": "f"}}]},
        "assistant",
        CALL,
    ),
    "a call's id is empty": (
        {"role": "assistant", "tool_calls": [{"id": "", "function": {"name": "f"}}]},
        "assistant",
        CALL,
    ),
    "function_call is a string": (
        {"role": "assistant", "function_call": "auto"},
        "assistant",
        CALL,
    ),
    "function_call without name": ({"role": "assistant", "function_call": {}}, "assistant", CALL),
    "a result without id": ({"role": "tool", "content": "x"}, "tool", RESULT),
    "a result's id is a number": (
        {"role": "tool", "tool_call_id": 5, "content": "x"},
        "tool",
        RESULT,
    ),
    "a result's id is null": (
        {"role": "tool", "tool_call_id": None, "content": "x"},
        "tool",
        RESULT,
    ),
    "a legacy result without name": ({"role": "function", "content": "x"}, "tool", RESULT),
    "message of nobody": ({"type": "message", "role": 5, "content": "x"}, "", Kind.OTHER),
    "call_id is a number": (
        {"type": "function_call", "call_id": 5, "name": "f", "arguments": "{}"},
        "assistant",
        CALL,
    ),
    "call_id is missing": ({"type": "shell_call", "action": {}}, "assistant", CALL),
    "an output's call_id is a number": (
        {"type": "function_call_output", "call_id": 5, "output": "x"},
        "tool",
        RESULT,
    ),
    "an output's call_id is empty": (
        {"type": "function_call_output", "call_id": "", "output": "x"},
        "tool",
        RESULT,
    ),
    "approval of nothing": (
        {"type": "mcp_approval_response", "approve": True},
        "tool",
        RESULT,
    ),
    "summary is a number": ({"type": "reasoning", "summary": 1}, "assistant", Kind.REASONING),
    "summary holds a number": ({"type": "reasoning", "summary": [1]}, "assistant", Kind.REASONING),
    "a summary's text is a number": (
        {"type": "reasoning", "summary": [{"text": 1}]},
        "assistant",
        Kind.REASONING,
    ),
}


@pytest.mark.parametrize(("item", "role", "kind"), table(HOSTILE))
def test_what_cannot_be_read_is_charged_as_json(item, role, kind):
    facts = read_facts(item)
    assert not facts.recognised
    assert (facts.role, facts.kind) == (role, kind)
    assert (facts.opens, facts.closes) == ((), ())
    assert facts.texts == (compact(item),)
    assert facts.names == 0


@pytest.mark.parametrize(
    ("item", "opens", "closes"),
    [
        (
            {
                "role": "assistant",
                "content": 5,
                "tool_calls": [
                    "f",
                    {"id": "c1"},
                    {"id": 5},
                    {"id": "c2", "function": {"name": ["f"]}},
                    {"id": "c3", "function": {"name": "f", "arguments": 5}},
                ],
            },
            ("c1", "c2", "c3"),
            (),
        ),
        (
            {"role": "assistant", "function_call": {"name": "f", "arguments": 5}},
            ("function:f",),
            (),
        ),
        ({"role": "tool", "tool_call_id": "c1", "content": 5}, (), ("c1",)),
        ({"type": "function_call", "call_id": "c1", "name": 5}, ("c1",), ()),
        ({"type": "computer_call_output", "call_id": "c1", "output": None}, (), ("c1",)),
    ],
)
def test_ids_that_can_be_read_count_beside_what_cannot(item, opens, closes):
    facts = read_facts(item)
    assert (facts.recognised, facts.opens, facts.closes) == (False, opens, closes)
    assert facts.texts == (compact(item),)


def test_ten_thousand_calls():
    calls = [
        {"id": f"call_{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        for n in range(10_000)
    ]
    facts = read_facts({"role": "assistant", "content": None, "tool_calls": calls})
    assert facts.opens == tuple(f"call_{n}" for n in range(10_000))
    assert facts.texts == ("f", "{}") * 10_000
    assert facts.recognised


# Deeper than the interpreter's stack allows, as a caller can build it by hand.
DEPTH = 20_000


SHARED = ["x"]


def nested(depth, wrap):
    value = "core"
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    ("wrap", "before", "after"),
    [
        (lambda value: [value], "[", "]"),
        (lambda value: (value,), "[", "]"),
        (lambda value: {"é": value}, '{"é":', "}"),
        (lambda value: [{}, value, [], 1.5, None], "[{},", ",[],1.5,null]"),
        (lambda value: [SHARED, value, SHARED], '[["x"],', ',["x"]]'),
        (lambda value: {"a": True, 'b"': value, "c": "\n"}, '{"a":true,"b\\"":', ',"c":"\\n"}'),
    ],
    ids=["list", "tuple", "object", "list with neighbours", "one list often", "object in full"],
)
def test_any_depth(wrap, before, after):
    core = before * DEPTH + '"core"' + after * DEPTH
    value = nested(DEPTH, wrap)
    facts = read_facts({"role": "user", "content": [value]})
    assert (facts.role, facts.recognised) == ("user", False)
    assert facts.texts == ('{"role":"user","content":[' + core + "]}",)
    call = read_facts({"type": "tool_search_call", "call_id": "c", "arguments": value})
    assert (call.opens, call.texts, call.recognised) == (("c",), (core,), True)


@pytest.mark.parametrize(
    "item",
    [
        {"a": {1, 2}},
        b"bytes",
        object(),
        {("a",): 1},
        nested(DEPTH, lambda value: [value, {1}]),
    ],
    ids=["set", "bytes", "object", "tuple as a key", "set far inside"],
)
def test_what_is_no_json_value_is_refused(item):
    with pytest.raises(MessageInvalid) as caught:
        read_facts(item)
    assert str(caught.value).startswith("the message is no JSON value: ")


@pytest.mark.parametrize("depth", [1, DEPTH])
def test_what_holds_itself_is_refused(depth):
    innermost = []
    value = innermost
    for _ in range(depth):
        value = [value]
    innermost.append(value)
    try:
        with pytest.raises(MessageInvalid):
            read_facts(value)
    finally:
        innermost.clear()


def test_facts_are_values():
    facts = read_facts({"role": "user", "content": "Hi"})
    assert {facts: 1}[said("user", "Hi")] == 1
    with pytest.raises(AttributeError):
        facts.role = "system"


# Arbitrary JSON, and JSON made of the very words that the formats look for.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
ANY_JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
WORDS = sorted(
    {"text", "input_text", "image_url", "message", "function", "user", "assistant", "tool", "c"}
    | {item["type"] for item, _ in RESPONSES.values()}
    | {"model", "tool_use", "tool_result", "thinking", "document", "ai", "human", "non_standard"}
    | {"request", "response", "tool-call", "tool-return", "user-prompt", "binary", "content"}
)
KEYS = sorted(
    {key for item, _ in (*CHAT.values(), *RESPONSES.values()) for key in item}
    | {"text", "function", "custom", "name", "arguments", "input", "transcript", "stdout", "logs"}
    | {"tool_use_id", "source", "toolUse", "toolUseId", "toolResult", "reasoningContent", "data"}
    | {"parts", "functionCall", "function_response", "args", "kind", "part_kind", "value", "json"}
)
NEAR_JSON = st.recursive(
    SCALARS | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6)
    ),
    max_leaves=24,
)
MUTATED = st.builds(
    lambda item, change: {**item, **change},
    st.sampled_from([item for item, _ in (*CHAT.values(), *RESPONSES.values())]),
    st.dictionaries(st.sampled_from(KEYS), NEAR_JSON, max_size=3),
)


@given(
    item=ANY_JSON | NEAR_JSON | MUTATED,
    name=st.sampled_from([None, *(candidate.name for candidate in FORMATS)]),
)
def test_any_json_value_has_facts(item, name):
    before = copy.deepcopy(item)
    facts = read_facts(item, format=name)
    assert item == before
    assert facts == read_facts(before, format=name)
    assert facts.role in {*ROLES, ""}
    assert all(isinstance(text, str) and text for text in facts.texts)
    assert all(isinstance(id_, str) and id_ for id_ in (*facts.opens, *facts.closes))
    assert len(set(facts.opens)) == len(facts.opens)
    assert 0 <= facts.names <= 1
    if not facts.recognised:
        assert facts.texts == (compact(item),)


@given(item=ANY_JSON | NEAR_JSON | MUTATED)
def test_matching_never_raises_and_decides_what_is_read(item):
    matching = [candidate for candidate in FORMATS if candidate.matches(item)]
    facts = read_facts(item)
    if matching:
        assert facts == matching[0].facts(item)
        shared = [candidate for candidate in matching if candidate.name in ("chat", "responses")]
        assert len({candidate.facts(item) for candidate in shared}) <= 1
    else:
        assert (facts.kind, facts.recognised) == (Kind.OTHER, False)


# --- what the shapes with parts make of what is none of theirs


@pytest.mark.parametrize(
    ("item", "format_name"),
    [
        ({"role": "model", "parts": [{"functionCall": "tide"}]}, "gemini"),
        ({"role": "user", "parts": [{"functionResponse": {"willContinue": True}}]}, "gemini"),
        (
            {"role": "user", "content": [{"type": "image", "source": "here"}, {"type": "text"}]},
            "anthropic",
        ),
    ],
)
def test_a_part_of_another_form_is_charged_as_json(item, format_name):
    facts = read_facts(item, format=format_name)
    assert not facts.recognised
    assert (facts.opens, facts.closes, facts.texts) == ((), (), (compact(item),))


def test_a_result_given_twice_in_the_message_of_its_call_answers_it_once():
    result = {"type": "mcp_tool_result", "tool_use_id": "c1", "content": "high"}
    call = {"type": "mcp_tool_use", "id": "c1", "name": "tide", "server_name": "sea", "input": {}}
    facts = read_facts({"role": "assistant", "content": [call, result, result]})
    assert (facts.opens, facts.closes) == ((), ())
    assert facts.recognised


def test_a_call_that_is_among_the_calls_is_charged_once_and_another_too():
    block = {"type": "tool_call", "name": "tide", "args": {}}
    item = {
        "type": "ai",
        "data": {
            "content": [{**block, "id": "c1"}, {**block, "id": "c2"}],
            "tool_calls": [{"name": "tide", "args": {}, "id": "c1"}],
        },
    }
    facts = read_facts(item)
    assert facts.opens == ("c2", "c1")
    assert facts.texts == ("tide", "{}") * 2


def test_a_result_of_the_responses_api_in_the_content_closes_its_call():
    output = {"type": "function_call_output", "call_id": "c1", "output": "high"}
    facts = read_facts({"type": "ai", "data": {"content": [output]}})
    assert (facts.closes, facts.texts) == (("c1",), ("high",))
