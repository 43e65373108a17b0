"""What a format tells about an item, and the readers that all formats share.

A reader takes one field's value and appends what a model is charged for. It returns False when it
cannot read the value, and never raises: the item is then charged by its JSON text instead, so that
nothing a model has to read is counted as nothing.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, TypeAlias

import msgspec

from holdfast.errors import MessageInvalid

# Covariant, so that a list of dicts of strings is one; at run time arrays are lists or tuples.
JSON: TypeAlias = bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"] | None
Reader: TypeAlias = Callable[[JSON, list[str]], bool]

ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})

_MEDIA_PARTS: Final = frozenset(
    {
        "audio",
        "computer_screenshot",
        "file",
        "image_file",
        "image_url",
        "input_audio",
        "input_file",
        "input_image",
        "input_video",
        "output_audio",
        "output_image",
        "video_url",
    }
)
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class Kind(StrEnum):
    """What an item is in a conversation."""

    MESSAGE = "message"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    REASONING = "reasoning"
    COMPACTION = "compaction"
    OTHER = "other"


class Facts(msgspec.Struct, frozen=True, gc=False):
    """All that the rest of the library knows about one item.

    Args:
        role: one of `ROLES`, or "" when the item does not say.
        kind: what the item is. A tool that the model's server ran itself is one TOOL_CALL that
            opens nothing, its result included; only where the result is in a later item does it
            open a call. An item of several parts is what weighs most: a call before a result before
            what is said before a thought.
        opens: ids of the tool calls the item makes, each once.
        closes: ids of the tool calls whose results the item carries.
        texts: everything a model is charged for, in pieces, none of them empty.
        names: how many `name` fields of a message are among the texts.
        leads: the item must stay with the one that follows it.
        follows: an item of the assistant, which may be the one that a `leads` item waits for. A
            reasoning item both follows and leads, since several may come in a row.
        recognised: False when something in the item could not be read. `texts` is then the JSON
            text of the whole item; the other facts are as far as they could be read.
    """

    role: str
    kind: Kind
    opens: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    names: int = 0
    leads: bool = False
    follows: bool = False
    recognised: bool = True


class Format(Protocol):
    """A pure reader of one family of message shapes."""

    name: str

    def matches(self, item: JSON) -> bool:
        """Tell from its shape alone whether the item is of this format. Never raises."""
        ...

    def facts(self, item: JSON) -> Facts:
        """Read an item as this format, whatever it is. Never raises for a JSON value."""
        ...


def known_role(value: JSON) -> str:
    """Return the role in our own terms, "" for anything that is none."""
    if not isinstance(value, str):
        return ""
    if value in ROLES:
        return value
    return "tool" if value == "function" else ""


def unrecognised(item: JSON) -> Facts:
    """Return what can be said of an item that no format knows.

    Raises:
        MessageInvalid: the item is no JSON value.
    """
    role = known_role(item.get("role")) if isinstance(item, dict) else ""
    return Facts(role, Kind.OTHER, texts=(compact_json(item),), recognised=False)


def read_text(value: JSON, texts: list[str]) -> bool:
    """Read a string, or null for none."""
    if isinstance(value, str):
        if value:
            texts.append(value)
        return True
    return value is None


def read_json(value: JSON, texts: list[str]) -> bool:
    """Read a string, null, or an object or array by its JSON text."""
    if isinstance(value, (dict, list, tuple)):
        texts.append(compact_json(value))
        return True
    return read_text(value, texts)


def read_part(value: JSON, texts: list[str]) -> bool:
    """Read one part of a content.

    Images, sound and files are charged by rules of each model that no text can stand for: they are
    recognised and add nothing.
    """
    if not isinstance(value, dict):
        return isinstance(value, str) and read_text(value, texts)
    text = value.get("text", value.get("refusal"))
    if isinstance(text, str):
        return read_text(text, texts)
    kind = value.get("type")
    return isinstance(kind, str) and kind in _MEDIA_PARTS


def read_parts(value: JSON, texts: list[str]) -> bool:
    """Read a content: a string, null, or an array of parts."""
    if isinstance(value, (list, tuple)):
        return all(read_part(part, texts) for part in value)
    return read_text(value, texts)


def each(*keys: str) -> Reader:
    """Make a reader of an array of objects whose strings under `keys` are charged."""

    def read(value: JSON, texts: list[str]) -> bool:
        if not isinstance(value, (list, tuple)):
            return read_text(value, texts)
        return all(
            isinstance(entry, dict) and all(read_text(entry.get(key), texts) for key in keys)
            for entry in value
        )

    return read


def compact_json(value: JSON) -> str:
    """Return the value as JSON without whitespace, non-ASCII characters as they are.

    Raises:
        MessageInvalid: it is no JSON value.
    """
    try:
        try:
            return _ENCODER.encode(value)
        except RecursionError:
            return _nested_json(value)
    except (TypeError, ValueError) as error:
        raise MessageInvalid(f"the message is no JSON value: {type(error).__name__}") from error


@dataclass(frozen=True, slots=True)
class _Verbatim:
    """Text to write as it is; `leaves` is the identity of the container that it closes."""

    text: str
    leaves: int | None = None


def _nested_json(value: JSON) -> str:
    """Do the same for any depth, with a list in place of the call stack."""
    written: list[str] = []
    todo: list[JSON | _Verbatim] = [value]
    inside: set[int] = set()
    while todo:
        here = todo.pop()
        if isinstance(here, _Verbatim):
            written.append(here.text)
            if here.leaves is not None:
                inside.remove(here.leaves)
        elif isinstance(here, (dict, list, tuple)) and here:
            if id(here) in inside:
                raise ValueError("a container holds itself")
            inside.add(id(here))
            start = len(todo)
            _push(here, todo)
            todo[start:] = reversed(todo[start:])
        else:
            written.append(_ENCODER.encode(here))
    return "".join(written)


def _push(
    container: dict[str, JSON] | list[JSON] | tuple[JSON, ...], todo: list[JSON | _Verbatim]
) -> None:
    """Append the container's pieces in reading order."""
    if isinstance(container, dict):
        before, after = "{", "}"
        for key, child in container.items():
            todo += (_Verbatim(f"{before}{_ENCODER.encode(key)}:"), child)
            before = ","
    else:
        before, after = "[", "]"
        for child in container:
            todo += (_Verbatim(before), child)
            before = ","
    todo.append(_Verbatim(after, leaves=id(container)))
