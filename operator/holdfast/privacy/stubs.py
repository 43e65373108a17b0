"""What stays of a message whose content may not be stored: enough to keep calls and results together."""

from typing import Any, Final, cast

from holdfast.privacy.structure import ARGUMENTS, Members, goes_on, holds_call, is_fixed
from holdfast.privacy.texts import is_json_text

_KEPT: Final = frozenset(
    {
        *("name", "namespace", "tool_name", "status", "is_error", "outcome"),
        *("timestamp", "finish_reason", "usage", "usage_metadata"),
    }
)
_SPEAKERS: Final = frozenset({"system", "developer", "user", "assistant"})
_WRAPPERS: Final = frozenset({"function", "custom"})


def stub(item: Members, text: str, under: str = "") -> Members:
    """Return an item, a part or a call with its ids, roles, types and tool names, and nothing else.

    Texts become `text`, arguments an empty object, other objects and lists empty ones; numbers go. What
    frameworks insist on and no person wrote stays: times, states, counts of tokens.

    Args:
        item: a JSON object.
        text: the redaction text.
        under: the key that the object has within another one.
    """
    found: Members = {}
    for key, value in item.items():
        if is_fixed(item, key, under) or (key in _KEPT and item.get("role") not in _SPEAKERS):
            found[key] = value
        elif isinstance(value, dict) and (key in _WRAPPERS or goes_on(key, value)):
            found[key] = stub(cast("Members", value), text, key)
        elif isinstance(value, list) and goes_on(key, value):
            found[key] = _stub_list(cast("list[Any]", value), text)
        elif isinstance(value, str) and value:
            found[key] = "{}" if key in ARGUMENTS and is_json_text(value) else text
        elif isinstance(value, dict | list):
            found[key] = {} if isinstance(value, dict) else []
        elif value is None or isinstance(value, bool) or value == "":
            found[key] = value
        elif key in ("content", "output"):
            found[key] = text
    return found


def stub_part(part: Members, text: str) -> Members:
    """Return a part of a message with nothing to read in it: a stub of a call, else a text."""
    if holds_call(part):
        return stub(part, text)
    if isinstance(part.get("part_kind"), str):
        return {"part_kind": part["part_kind"], "content": text}
    kind = part.get("type")
    if not isinstance(kind, str):
        return {"text": text}
    ours = next((side for side in ("input_", "output_") if kind.startswith(side)), "")
    return {"type": f"{ours}text", "text": text}


def _stub_list(parts: list[Any], text: str) -> list[Any]:
    """Return the calls and results among the parts as stubs, and the rest as one text."""
    found: list[Any] = []
    told = False
    for part in parts:
        members = cast("Members", part) if isinstance(part, dict) else None
        if members and ("function" in members or "id" in members or holds_call(members)):
            found.append(stub(members, text))
        elif not told:
            found.append(text if members is None else stub_part(members, text))
            told = True
    return found
