"""Fields that a caller calls sensitive, by their dotted paths."""

from typing import Any, cast

import msgspec

from holdfast.privacy.texts import is_json_text


def replace_field(item: Any, path: str, text: str) -> tuple[Any, int]:
    """Replace the value of a field wherever the path leads, in place.

    Lists on the way are walked through, and so is JSON text, such as a tool call's arguments.

    Args:
        item: a JSON value of our own.
        path: keys joined by dots.
        text: stands there instead.

    Returns:
        The item, and how many fields the path led to.
    """
    return _replace(item, path.split("."), 0, text)


def _replace(value: Any, steps: list[str], at: int, text: str) -> tuple[Any, int]:
    if at == len(steps):
        return text, 1
    found = 0
    if isinstance(value, list):
        entries = cast("list[Any]", value)
        for place, entry in enumerate(entries):
            entries[place], more = _replace(entry, steps, at, text)
            found += more
    elif isinstance(value, dict) and steps[at] in value:
        members = cast("dict[str, Any]", value)
        members[steps[at]], found = _replace(members[steps[at]], steps, at + 1, text)
    elif isinstance(value, str) and is_json_text(value):
        inner, found = _replace(msgspec.json.decode(value), steps, at, text)
        if found:
            return msgspec.json.encode(inner).decode(), found
    return cast("Any", value), found
