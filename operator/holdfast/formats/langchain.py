"""Messages of LangChain: `messages_to_dict`, or each message's own `model_dump()`."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from holdfast.formats._facts import (
    JSON,
    Facts,
    Kind,
    Reader,
    each,
    known_role,
    read_json,
    read_part,
    read_text,
    unrecognised,
)
from holdfast.formats._parts import Part, Reading, Shape, fields_of, read_any
from holdfast.formats.anthropic import shape_of as anthropic_shape_of
from holdfast.formats.chat import read_calls, read_legacy_call
from holdfast.formats.responses import ResponsesFormat

# By the type of a message; a piece of a stream is named after the class instead.
_ROLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "human": "user",
        "HumanMessageChunk": "user",
        "ai": "assistant",
        "AIMessageChunk": "assistant",
        "system": "system",
        "SystemMessageChunk": "system",
        "tool": "tool",
        "ToolMessageChunk": "tool",
        "function": "tool",
        "FunctionMessageChunk": "tool",
        "chat": "",
        "ChatMessageChunk": "",
        "remove": "",
    }
)
_RESPONSES: Final = ResponsesFormat()
_PARTS_BY_KIND: Final[Mapping[Kind, Part]] = MappingProxyType(
    {
        Kind.TOOL_CALL: Part.CALL,
        Kind.TOOL_RESULT: Part.RESULT,
        Kind.REASONING: Part.THOUGHT,
        Kind.COMPACTION: Part.COMPACTION,
    }
)


class LangChainFormat:
    """Reader of `{"type": "ai", "data": {...}}`, and of the same with `data` laid open."""

    __slots__ = ()
    name = "langchain"

    def matches(self, item: JSON) -> bool:
        """Tell whether `type` is one of LangChain's and there is a content."""
        return _opened(item) is not None

    def facts(self, item: JSON) -> Facts:
        """Read the item as a message."""
        opened = _opened(item)
        if opened is None:
            return unrecognised(item)
        kind, data = opened
        if kind == "remove":
            return Facts("", Kind.OTHER)
        reading = Reading()
        role = _ROLES[kind] or _named_role(data.get("role"))
        name = data.get("name")
        reading.require(read_text(name, reading.texts))
        if role == "assistant":
            _read_answer(data, reading)
        else:
            _read_content(data.get("content"), reading, frozenset())
        if kind in ("tool", "ToolMessageChunk"):
            reading.result(data.get("tool_call_id"))
        elif kind in ("function", "FunctionMessageChunk"):
            reading.result(f"function:{name}" if isinstance(name, str) and name else None)
        return reading.facts(item, role, names=1 if name else 0)


def _opened(item: JSON) -> tuple[str, dict[str, JSON]] | None:
    """Return the type and the fields of a message, None if it is none."""
    if not isinstance(item, dict):
        return None
    kind, data = item.get("type"), item.get("data")
    if not isinstance(kind, str) or kind not in _ROLES:
        return None
    fields = item if data is None else data
    return (kind, fields) if isinstance(fields, dict) and "content" in fields else None


def _named_role(role: JSON) -> str:
    """Return the role that a message of the type `chat` gives itself."""
    return known_role(role) or (_ROLES.get(role, "") if isinstance(role, str) else "")


def _read_answer(data: dict[str, JSON], reading: Reading) -> None:
    """Read what a model says and calls.

    Most providers leave their own form of the same calls in the content or in the additional
    fields, and a piece of a stream has them a third time: each is charged once.
    """
    calls = list(_entries(data.get("tool_calls")))
    broken = list(_entries(data.get("invalid_tool_calls")))
    if not calls and not broken:
        broken = list(_entries(data.get("tool_call_chunks")))
    known = frozenset(
        call_id
        for call in (*calls, *broken)
        if isinstance(call, dict) and isinstance(call_id := call.get("id"), str)
    )
    _read_content(data.get("content"), reading, known)
    for call in calls:
        _read_call(call, reading, complete=True)
    for call in broken:
        _read_call(call, reading, complete=False)
    more = data.get("additional_kwargs")
    if isinstance(more, dict):
        _read_more(more, reading, with_calls=not calls and not broken)


def _entries(value: JSON) -> Iterator[JSON]:
    """Yield what is in a list; anything else is one entry that nobody can read."""
    if isinstance(value, (list, tuple)):
        yield from value
    elif value is not None:
        yield None


def _read_call(call: JSON, reading: Reading, *, complete: bool) -> None:
    """Read a call. One that is not complete may lack its id: nobody can answer it then."""
    reading.seen.add(Part.CALL)
    if not isinstance(call, dict):
        reading.require(False)
        return
    reading.take(_CALL, call)
    if complete or call.get("id"):
        reading.call(call.get("id"))


def _read_more(more: dict[str, JSON], reading: Reading, *, with_calls: bool) -> None:
    """Read what a provider's integration keeps outside the content."""
    texts = reading.texts
    thought = more.get("reasoning_content")
    if thought and Part.THOUGHT not in reading.seen:
        reading.seen.add(Part.THOUGHT)
        reading.require(read_text(thought, texts))
    reading.require(read_text(more.get("refusal"), texts))
    reading.require(fields_of(("transcript", read_text))(more.get("audio"), texts))
    if not with_calls:
        return
    opens: list[str] = []
    if more.get("tool_calls"):
        reading.seen.add(Part.CALL)
        reading.require(read_calls(more["tool_calls"], texts, opens))
    if more.get("function_call"):
        reading.seen.add(Part.CALL)
        reading.require(read_legacy_call(more["function_call"], texts, opens))
    for call_id in opens:
        reading.call(call_id)


def _read_content(content: JSON, reading: Reading, known: frozenset[str]) -> None:
    """Read a content: a string, or strings and blocks of any provider.

    Args:
        content: what it is.
        reading: where to.
        known: ids of the calls that are read elsewhere.
    """
    if isinstance(content, (list, tuple)):
        for block in content:
            if isinstance(block, dict):
                _read_block(block, reading, known)
            else:
                reading.seen.add(Part.SAID)
                reading.require(isinstance(block, str) and read_text(block, reading.texts))
    else:
        if content:
            reading.seen.add(Part.SAID)
        reading.require(read_text(content, reading.texts))


def _read_block(block: dict[str, JSON], reading: Reading, known: frozenset[str]) -> None:
    kind = block.get("type")
    if kind == "non_standard":
        inner = block.get("value")
        block, kind = (inner, inner.get("type")) if isinstance(inner, dict) else (block, None)
        if not isinstance(kind, str) or kind == "non_standard":
            reading.seen.add(Part.NOTE)
            reading.require(read_json(inner, reading.texts))
            return
    if not isinstance(kind, str):
        reading.seen.add(Part.SAID)
        reading.require(read_part(block, reading.texts))
        return
    if known and kind in _CALLS:
        call_id = block.get("call_id") or block.get("id")
        if not isinstance(call_id, str) or call_id in known:
            return
    shape = _BLOCKS.get(kind) or anthropic_shape_of(block)
    if shape is not None:
        reading.take(shape, block)
    elif kind != "message" and _RESPONSES.matches(block):
        _take_item(_RESPONSES.facts(block), reading)
    else:
        reading.seen.add(Part.SAID)
        reading.require(read_part(block, reading.texts))


def _take_item(facts: Facts, reading: Reading) -> None:
    """Add an item of the Responses API, as its integration keeps them in the content."""
    reading.seen.add(_PARTS_BY_KIND.get(facts.kind, Part.NOTE))
    reading.require(facts.recognised)
    reading.texts += facts.texts
    for call_id in facts.closes:
        reading.result(call_id)
    for call_id in facts.opens:
        reading.call(call_id)


def _said(*fields: tuple[str, Reader]) -> Shape:
    return Shape(Part.SAID, fields)


_CALL: Final = Shape(Part.CALL, (("name", read_text), ("args", read_json)))
_MEDIA: Final = _said(("text", read_text))

_BLOCKS: Final[Mapping[str, Shape]] = MappingProxyType(
    {
        # A file may be given as plain text.
        "audio": _MEDIA,
        "file": _MEDIA,
        "image": _MEDIA,
        "media": _MEDIA,
        "video": _MEDIA,
        "text-plain": _said(("title", read_text), ("context", read_text), ("text", read_text)),
        "reasoning": Shape(
            Part.THOUGHT,
            (("reasoning", read_text), ("summary", each("text")), ("content", each("text"))),
        ),
        "reasoning_content": Shape(
            Part.THOUGHT, (("reasoning_content", fields_of(("text", read_text))),)
        ),
        "tool_call": Shape(Part.CALL, _CALL.fields, id="id"),
        "tool_call_chunk": _CALL,
        "invalid_tool_call": _CALL,
        "input_json_delta": Shape(Part.CALL, (("partial_json", read_text),)),
        # Tools that the model's server runs.
        "server_tool_call": Shape(Part.CALL, _CALL.fields, id="id"),
        "server_tool_call_chunk": _CALL,
        "server_tool_result": Shape(Part.RESULT, (("output", read_any),), id="tool_call_id"),
    }
)
# What stands for a call that is among the `tool_calls` as well.
_CALLS: Final = frozenset(
    {
        "custom_tool_call",
        "function_call",
        "input_json_delta",
        "invalid_tool_call",
        "tool_call",
        "tool_call_chunk",
        "tool_use",
    }
)
