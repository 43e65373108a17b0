"""What the formats share whose items are made of parts: blocks of content, each of a known shape.

A part says something, calls a tool, carries a result, and so on. What the item is follows from what
its parts are, in the same way for every format.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from holdfast.formats._facts import JSON, Facts, Kind, Reader, compact_json, read_text


class Part(Enum):
    """What one part of an item is."""

    SAID = auto()
    THOUGHT = auto()
    CALL = auto()
    RESULT = auto()
    COMPACTION = auto()
    NOTE = auto()  # for the server or the framework, such as a cache point


@dataclass(frozen=True, slots=True)
class Shape:
    """How to read the parts of one type.

    Args:
        part: what they are.
        fields: the fields that are charged, each with its reader.
        id: the field with the id of the call, of calls and results.
    """

    part: Part
    fields: tuple[tuple[str, Reader], ...] = ()
    id: str = ""


# What an item is, by the first of these that it has; one of nothing but notes is a message.
_KINDS: Final = (
    (Part.CALL, Kind.TOOL_CALL),
    (Part.RESULT, Kind.TOOL_RESULT),
    (Part.SAID, Kind.MESSAGE),
    (Part.THOUGHT, Kind.REASONING),
    (Part.COMPACTION, Kind.COMPACTION),
)

_SPEAKERS: Final = frozenset({"system", "user", "assistant"})
# With one of these the calls are beside the content, whatever blocks it has borrowed.
_BESIDE: Final = ("tool_calls", "tool_call_id", "function_call")


@dataclass(slots=True)
class Reading:
    """What has been read of an item so far.

    Attributes:
        texts: everything charged.
        opens: ids of calls that nothing in the item has answered.
        closes: ids of calls of earlier items that it answers.
        answered: ids of calls that were made and answered in it: nobody else has to know of them.
        seen: what its parts are.
        understood: False once something could not be read.
    """

    texts: list[str] = field(default_factory=list[str])
    opens: dict[str, None] = field(default_factory=dict[str, None])
    closes: dict[str, None] = field(default_factory=dict[str, None])
    answered: set[str] = field(default_factory=set[str])
    seen: set[Part] = field(default_factory=set[Part])
    understood: bool = True

    def require(self, done: bool) -> None:
        """Note that something had to be readable."""
        self.understood = self.understood and done

    def take(self, shape: Shape, part: JSON) -> None:
        """Read one part, by the shape of its type."""
        self.seen.add(shape.part)
        if not isinstance(part, dict):
            self.understood = False
            return
        for key, read in shape.fields:
            self.require(read(part.get(key), self.texts))
        if shape.id and shape.part is Part.CALL:
            self.call(part.get(shape.id))
        elif shape.id:
            self.result(part.get(shape.id))

    def call(self, call_id: JSON) -> None:
        """Note a call. Without a usable id nothing could keep it and its result together."""
        self.seen.add(Part.CALL)
        if isinstance(call_id, str) and call_id:
            self.opens[call_id] = None
        else:
            self.understood = False

    def result(self, call_id: JSON) -> None:
        """Note the result of a call, of this item or of an earlier one."""
        self.seen.add(Part.RESULT)
        if not isinstance(call_id, str) or not call_id:
            self.understood = False
        elif call_id in self.opens:
            del self.opens[call_id]
            self.answered.add(call_id)
        elif call_id not in self.answered:
            self.closes[call_id] = None

    def leave_open(self, call_id: JSON) -> None:
        """Note that more is to come of a result just noted."""
        if isinstance(call_id, str) and call_id:
            self.opens[call_id] = None

    def facts(self, item: JSON, role: str, *, names: int = 0) -> Facts:
        """Return the facts of the item.

        Args:
            item: what was read.
            role: whose it is; what a user sends is a tool's when it is nothing but results.
            names: how many names are among the texts.
        """
        understood = self.understood and role != ""
        kind = next((kind for part, kind in _KINDS if part in self.seen), Kind.MESSAGE)
        if role == "user" and Part.RESULT in self.seen and Part.SAID not in self.seen:
            role = "tool"
        return Facts(
            role,
            kind,
            tuple(self.opens),
            tuple(self.closes),
            tuple(self.texts) if understood else (compact_json(item),),
            names if understood else 0,
            leads=kind is Kind.REASONING and role == "assistant",
            follows=role == "assistant",
            recognised=understood,
        )


def speaker(item: dict[str, JSON]) -> str:
    """Return the role of a message whose calls and results are in its content, "" if it is none."""
    role = item.get("role")
    return role if isinstance(role, str) and role in _SPEAKERS else ""


def content_blocks(item: dict[str, JSON]) -> Sequence[JSON]:
    """Return the blocks by which a message's shape can be told, none where it must be another format."""
    content = item.get("content")
    if not isinstance(content, (list, tuple)) or not speaker(item):
        return ()
    return () if any(item.get(key) for key in _BESIDE) else content


def read_string(value: JSON, texts: list[str]) -> bool:
    """Read a string that must be there."""
    return isinstance(value, str) and read_text(value, texts)


def read_any(value: JSON, texts: list[str]) -> bool:
    """Read a string as it is, null for none, and anything else by its JSON text."""
    if isinstance(value, str) or value is None:
        return read_text(value, texts)
    texts.append(compact_json(value))
    return True


def parts_of(shapes: Mapping[str, Shape]) -> Reader:
    """Make a reader of a string, null, one part or an array of parts, whose `type` says what it is.

    What the parts are does not count, only their texts.
    """

    def read_one(value: JSON, texts: list[str]) -> bool:
        if not isinstance(value, dict):
            return False
        kind = value.get("type")
        shape = shapes.get(kind) if isinstance(kind, str) else None
        return shape is not None and all(read(value.get(key), texts) for key, read in shape.fields)

    def read(value: JSON, texts: list[str]) -> bool:
        if isinstance(value, (list, tuple)):
            return all(read_one(part, texts) for part in value)
        return read_text(value, texts) or read_one(value, texts)

    return read


def members_of(members: Mapping[str, Reader]) -> Reader:
    """Make a reader of an object, or an array of them, each of whose fields says what it holds.

    A field that is none of these cannot be read. Null for none.
    """

    def read(value: JSON, texts: list[str]) -> bool:
        if value is None:
            return True
        entries = value if isinstance(value, (list, tuple)) else (value,)
        return all(
            isinstance(entry, dict)
            and all(
                inner is None or (key in members and members[key](inner, texts))
                for key, inner in entry.items()
            )
            for entry in entries
        )

    return read


def fields_of(*fields: tuple[str, Reader]) -> Reader:
    """Make a reader of an object of which only these fields are charged; null for none."""

    def read(value: JSON, texts: list[str]) -> bool:
        if value is None:
            return True
        return isinstance(value, dict) and all(
            reader(value.get(key), texts) for key, reader in fields
        )

    return read
