"""Messages of the Messages API of Anthropic: calls and results are blocks inside the content."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from holdfast.formats._facts import (
    JSON,
    Facts,
    Reader,
    read_json,
    read_parts,
    read_text,
    unrecognised,
)
from holdfast.formats._parts import (
    Part,
    Reading,
    Shape,
    content_blocks,
    parts_of,
    read_string,
    speaker,
)


class AnthropicFormat:
    """Reader of `{"role", "content": [{"type": "tool_use", ...}, ...]}`."""

    __slots__ = ()
    name = "anthropic"

    def matches(self, item: JSON) -> bool:
        """Tell whether a block is of this API alone, or the message is one that it answered.

        A message of nothing but text says the same in `chat`, and is read as that.
        """
        if not isinstance(item, dict) or item.get("type") not in (None, "message"):
            return False
        blocks = content_blocks(item)
        answer = item.get("type") == "message" and "stop_reason" in item
        return (answer and len(blocks) > 0) or any(
            shape_of(block) not in (None, _TEXT) for block in blocks
        )

    def facts(self, item: JSON) -> Facts:
        """Read the item as a message."""
        if not isinstance(item, dict) or "content" not in item:
            return unrecognised(item)
        content = item["content"]
        reading = Reading()
        if isinstance(content, (list, tuple)):
            for block in content:
                shape = shape_of(block)
                if shape is None:
                    reading.require(False)
                else:
                    reading.take(shape, block)
        else:
            reading.require(read_string(content, reading.texts))
        return reading.facts(item, speaker(item))


def shape_of(block: JSON) -> Shape | None:
    """Return how to read a block of content, None when its type is not of this API."""
    kind = block.get("type") if isinstance(block, dict) else None
    return _BLOCKS.get(kind) if isinstance(kind, str) else None


def _read_source(value: JSON, texts: list[str]) -> bool:
    """Read where a picture or document comes from: only text that is given here is charged."""
    if not isinstance(value, dict):
        return False
    kind = value.get("type")
    if kind == "text":
        return read_string(value.get("data"), texts)
    if kind == "content":
        return _read_plain(value.get("content"), texts)
    return kind in ("base64", "url", "file")


_TEXT: Final = Shape(Part.SAID, (("text", read_string),))
_IMAGE: Final = Shape(Part.SAID, (("source", _read_source),))
_read_plain: Final = parts_of({"text": _TEXT, "image": _IMAGE})

# What may stand in a message and in the result of a tool.
_INSIDE: Final[Mapping[str, Shape]] = MappingProxyType(
    {
        "text": _TEXT,
        "image": _IMAGE,
        "document": Shape(
            Part.SAID, (("title", read_text), ("context", read_text), ("source", _read_source))
        ),
        "search_result": Shape(
            Part.SAID, (("title", read_text), ("source", read_text), ("content", _read_plain))
        ),
        "tool_reference": Shape(Part.SAID, (("tool_name", read_string),)),
        "browser_state": Shape(Part.SAID, (("tabs", read_json), ("state_changes", read_json))),
    }
)
_read_inside: Final = parts_of(_INSIDE)


def _read_thought(value: JSON, texts: list[str]) -> bool:
    """Read a thought: a string, empty where it is not shown. Some servers give it in parts."""
    return value is not None and read_parts(value, texts)


def _said(*fields: tuple[str, Reader]) -> Shape:
    return Shape(Part.SAID, fields)


def _call(*fields: tuple[str, Reader]) -> Shape:
    return Shape(Part.CALL, (*fields, ("name", read_string), ("input", read_json)), id="id")


def _result(read: Reader) -> Shape:
    return Shape(Part.RESULT, (("content", read),), id="tool_use_id")


def _failed(*fields: tuple[str, Reader]) -> Shape:
    return _said(("error_code", read_text), *fields)


# What the tools give back that the API itself runs. What is encrypted there is no text.
_read_output: Final = parts_of(
    {
        "web_search_result": _said(("title", read_text), ("url", read_text)),
        "web_search_tool_result_error": _failed(),
        "web_fetch_result": _said(("url", read_text), ("content", _read_inside)),
        "web_fetch_tool_result_error": _failed(),
        "code_execution_result": _said(("stdout", read_text), ("stderr", read_text)),
        "encrypted_code_execution_result": _said(("stderr", read_text)),
        "code_execution_tool_result_error": _failed(),
        "bash_code_execution_result": _said(("stdout", read_text), ("stderr", read_text)),
        "bash_code_execution_tool_result_error": _failed(),
        "text_editor_code_execution_view_result": _said(("content", read_text)),
        "text_editor_code_execution_create_result": _said(),
        "text_editor_code_execution_str_replace_result": _said(("lines", read_json)),
        "text_editor_code_execution_tool_result_error": _failed(("error_message", read_text)),
        "tool_search_tool_search_result": _said(("tool_references", _read_inside)),
        "tool_search_tool_result_error": _failed(("error_message", read_text)),
        "advisor_result": _said(("text", read_text)),
        "advisor_redacted_result": _said(),
        "advisor_tool_result_error": _failed(),
    }
)

_BLOCKS: Final[Mapping[str, Shape]] = MappingProxyType(
    {
        **_INSIDE,
        "container_upload": _said(),
        # The signature and what is redacted are no text that anyone could count.
        "thinking": Shape(Part.THOUGHT, (("thinking", _read_thought),)),
        "redacted_thinking": Shape(Part.THOUGHT),
        "tool_use": _call(),
        "server_tool_use": _call(),
        "mcp_tool_use": _call(("server_name", read_text)),
        "tool_result": _result(_read_inside),
        "mcp_tool_result": _result(_read_inside),
        "web_search_tool_result": _result(_read_output),
        "web_fetch_tool_result": _result(_read_output),
        "code_execution_tool_result": _result(_read_output),
        "bash_code_execution_tool_result": _result(_read_output),
        "text_editor_code_execution_tool_result": _result(_read_output),
        "tool_search_tool_result": _result(_read_output),
        "advisor_tool_result": _result(_read_output),
        "compaction": Shape(Part.COMPACTION, (("content", read_text),)),
        "mcp_tool_listing": Shape(Part.NOTE, (("tools", read_json),)),
        "tool_addition": Shape(Part.NOTE, (("tool", read_json),)),
        "tool_removal": Shape(Part.NOTE, (("tool", read_json),)),
        "fallback": Shape(Part.NOTE),
    }
)
