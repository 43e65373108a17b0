"""Items of the Responses API: one object for each message, call, result and thought."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from holdfast.formats._facts import (
    JSON,
    Facts,
    Kind,
    Reader,
    compact_json,
    each,
    read_json,
    read_part,
    read_parts,
    read_text,
    unrecognised,
)
from holdfast.formats.chat import is_message, message_facts


@dataclass(frozen=True, slots=True)
class _Shape:
    """How to read the items of one `type`.

    Args:
        kind: what they are.
        role: whose they are; "" when nobody says them.
        fields: the fields that are charged, each with its reader.
        opens: fields that may hold the id of the call, the first usable one counts.
        closes: the same for the call that is answered.
        unpaired: the id may be null, for what the model's server did by itself.
        leads: they must stay with what follows.
    """

    kind: Kind
    role: str
    fields: tuple[tuple[str, Reader], ...] = ()
    opens: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    unpaired: bool = False
    leads: bool = False


class ResponsesFormat:
    """Reader of `{"type": "function_call", ...}` and its relatives."""

    __slots__ = ()
    name = "responses"

    def matches(self, item: JSON) -> bool:
        """Tell whether `type` is one of the API's, or a message has none."""
        if not isinstance(item, dict):
            return False
        item_type = item.get("type")
        if item_type is None or item_type == "message":
            return is_message(item)
        return isinstance(item_type, str) and item_type in _SHAPES

    def facts(self, item: JSON) -> Facts:
        """Read the item by its `type`; without one it is a message, or a reference by id."""
        if not isinstance(item, dict):
            return unrecognised(item)
        item_type = item.get("type")
        if item_type is None and "role" not in item and "id" in item:
            item_type = "item_reference"
        if item_type is None or item_type == "message":
            return message_facts(item)
        shape = _SHAPES.get(item_type) if isinstance(item_type, str) else None
        return unrecognised(item) if shape is None else _read(item, shape)


def _read(item: dict[str, JSON], shape: _Shape) -> Facts:
    texts: list[str] = []
    understood = all(read(item.get(key), texts) for key, read in shape.fields)
    opens, opens_understood = _ids(item, shape.opens, shape.unpaired)
    closes, closes_understood = _ids(item, shape.closes, shape.unpaired)
    understood = understood and opens_understood and closes_understood
    return Facts(
        shape.role,
        shape.kind,
        opens,
        closes,
        tuple(texts) if understood else (compact_json(item),),
        leads=shape.leads,
        follows=shape.role == "assistant",
        recognised=understood,
    )


def _ids(
    item: dict[str, JSON], keys: tuple[str, ...], unpaired: bool
) -> tuple[tuple[str, ...], bool]:
    """Return the first usable id under `keys`, and whether its absence is in order."""
    absent = True
    for key in keys:
        value = item.get(key)
        if isinstance(value, str) and value:
            return (value,), True
        absent = absent and value is None
    return (), not keys or (unpaired and absent)


def _call(*fields: tuple[str, Reader], unpaired: bool = False) -> _Shape:
    return _Shape(Kind.TOOL_CALL, "assistant", fields, opens=("call_id",), unpaired=unpaired)


def _result(*fields: tuple[str, Reader], unpaired: bool = False) -> _Shape:
    return _Shape(Kind.TOOL_RESULT, "tool", fields, closes=("call_id",), unpaired=unpaired)


def _hosted_call(*fields: tuple[str, Reader]) -> _Shape:
    """Describe a tool that the model's server runs: call and result in one item."""
    return _Shape(Kind.TOOL_CALL, "assistant", fields)


_NAME: Final = (("namespace", read_text), ("name", read_text))

_SHAPES: Final[Mapping[str, _Shape]] = MappingProxyType(
    {
        # Calls that the caller answers, each above its result.
        "function_call": _call(*_NAME, ("arguments", read_json)),
        "function_call_output": _result(*_NAME, ("output", read_parts), unpaired=True),
        "custom_tool_call": _call(*_NAME, ("input", read_json)),
        "custom_tool_call_output": _result(("output", read_parts)),
        "computer_call": _call(("action", read_json), ("actions", read_json)),
        "computer_call_output": _result(("output", read_part)),
        "local_shell_call": _call(("action", read_json)),
        # Its `id` is the call's `call_id`, though many send a `call_id` as everywhere else.
        "local_shell_call_output": _Shape(
            Kind.TOOL_RESULT, "tool", (("output", read_parts),), closes=("call_id", "id")
        ),
        "shell_call": _call(("action", read_json)),
        "shell_call_output": _result(("output", each("stdout", "stderr"))),
        "apply_patch_call": _call(("operation", read_json)),
        "apply_patch_call_output": _result(("output", read_text)),
        "tool_search_call": _call(("arguments", read_json), unpaired=True),
        "tool_search_output": _result(("tools", read_json), unpaired=True),
        "program": _call(("code", read_text)),
        "program_output": _result(("result", read_text)),
        "mcp_approval_request": _Shape(
            Kind.TOOL_CALL,
            "assistant",
            (("name", read_text), ("arguments", read_json)),
            opens=("id",),
        ),
        "mcp_approval_response": _Shape(
            Kind.TOOL_RESULT, "tool", (("reason", read_text),), closes=("approval_request_id",)
        ),
        # Calls that the model's server answers itself.
        "mcp_call": _hosted_call(
            ("name", read_text),
            ("arguments", read_json),
            ("output", read_text),
            ("error", read_json),
        ),
        "web_search_call": _hosted_call(("action", read_json)),
        "file_search_call": _hosted_call(("queries", read_json), ("results", each("text"))),
        "code_interpreter_call": _hosted_call(("code", read_text), ("outputs", each("logs"))),
        # `result` is the picture itself in base64.
        "image_generation_call": _hosted_call(("revised_prompt", read_text)),
        # What is neither said nor called. `encrypted_content` is no text that anyone could count.
        "reasoning": _Shape(
            Kind.REASONING,
            "assistant",
            (("summary", each("text")), ("content", each("text"))),
            leads=True,
        ),
        "compaction": _Shape(Kind.COMPACTION, ""),
        "compaction_trigger": _Shape(Kind.OTHER, ""),
        "configuration_update": _Shape(Kind.OTHER, ""),
        "item_reference": _Shape(Kind.OTHER, ""),
        "mcp_list_tools": _Shape(Kind.OTHER, "", (("tools", read_json), ("error", read_json))),
        "additional_tools": _Shape(Kind.OTHER, "developer", (("tools", read_json),)),
    }
)
