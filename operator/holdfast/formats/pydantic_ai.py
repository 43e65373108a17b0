"""Messages of Pydantic AI, as its `ModelMessagesTypeAdapter` writes them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from holdfast.formats._facts import JSON, Facts, Reader, read_json, read_text, unrecognised
from holdfast.formats._parts import Part, Reading, Shape, read_any, read_string

_KINDS: Final = ("request", "response")
_MEDIA: Final = frozenset(
    {"audio-url", "binary", "document-url", "image-url", "uploaded-file", "video-url"}
)


class PydanticAIFormat:
    """Reader of `{"kind": "response", "parts": [{"part_kind": "tool-call", ...}, ...]}`."""

    __slots__ = ()
    name = "pydantic_ai"

    def matches(self, item: JSON) -> bool:
        """Tell whether it is a request or a response with parts."""
        return (
            isinstance(item, dict)
            and item.get("kind") in _KINDS
            and isinstance(item.get("parts"), (list, tuple))
        )

    def facts(self, item: JSON) -> Facts:
        """Read the item as a request or a response."""
        if not isinstance(item, dict) or item.get("kind") not in _KINDS or "parts" not in item:
            return unrecognised(item)
        parts = item["parts"]
        reading = Reading()
        system = False
        if isinstance(parts, (list, tuple)):
            for part in parts:
                _take(part, reading)
                system = system or _is_system(part)
        else:
            reading.require(False)
        if item["kind"] == "response":
            return reading.facts(item, "assistant")
        if not reading.seen:
            # A request's instructions are sent with that request alone and are made anew for the
            # next: counting them in each would count them many times over.
            reading.require(read_text(item.get("instructions"), reading.texts))
        # Results must stay behind their calls; system records may be moved to the front.
        role = "system" if system and Part.RESULT not in reading.seen else "user"
        return reading.facts(item, role)


def _take(part: JSON, reading: Reading) -> None:
    kind = part.get("part_kind") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str):
        reading.require(False)
        return
    if kind == "retry-prompt" and part.get("tool_name") is None:
        kind = "retry-feedback"  # its id is generated and belongs to no call
    shape = _PARTS.get(kind)
    if shape is None:
        reading.require(False)
    else:
        reading.take(shape, part)


def _is_system(part: JSON) -> bool:
    """Tell whether the part is a system prompt for the rest of the conversation."""
    return (
        isinstance(part, dict)
        and part.get("part_kind") == "system-prompt"
        and part.get("scope") != "request"
    )


def _read_prompt(value: JSON, texts: list[str]) -> bool:
    """Read what a user says: a string, or strings, tagged texts, media and cache points."""
    if not isinstance(value, (list, tuple)):
        return read_string(value, texts)
    return all(_read_piece(piece, texts) for piece in value)


def _read_piece(value: JSON, texts: list[str]) -> bool:
    if not isinstance(value, dict):
        return read_string(value, texts)
    kind = value.get("kind")
    if kind in ("text-content", "structured-content"):
        return read_string(value.get("content"), texts)
    return kind == "cache-point" or _is_media(value)


def _is_media(value: JSON) -> bool:
    kind = value.get("kind") if isinstance(value, dict) else None
    return isinstance(kind, str) and kind in _MEDIA


def _read_return(value: JSON, texts: list[str]) -> bool:
    """Read what a tool returned: any value, in which media are not charged by their text."""
    if isinstance(value, (list, tuple)) and any(map(_is_media, value)):
        return all(_read_return(entry, texts) for entry in value if not _is_media(entry))
    return _is_media(value) or read_any(value, texts)


def _said(read: Reader, key: str = "content") -> Shape:
    return Shape(Part.SAID, ((key, read),))


_NAME: Final = ("tool_name", read_text)
_CALL: Final = Shape(Part.CALL, (_NAME, ("args", read_json)), id="tool_call_id")
_RETURN: Final = Shape(Part.RESULT, (_NAME, ("content", _read_return)), id="tool_call_id")

_PARTS: Final[Mapping[str, Shape]] = MappingProxyType(
    {
        # Of a request.
        "system-prompt": _said(read_string),
        "user-prompt": _said(_read_prompt),
        "tool-return": _RETURN,
        "retry-prompt": _RETURN,
        "retry-feedback": _said(read_json),
        "instruction-delta": Shape(Part.NOTE, (("content", read_text),)),
        "tool-availability-delta": Shape(Part.NOTE, (("tools_added", read_json),)),
        # Never sent to a model.
        "instruction-baseline": Shape(Part.NOTE),
        "capability-load-delta": Shape(Part.NOTE),
        "model-settings-delta": Shape(Part.NOTE),
        # Of a response. The signature of a thought is no text.
        "text": _said(read_string),
        "thinking": Shape(Part.THOUGHT, (("content", read_string),)),
        "tool-call": _CALL,
        # Tools that the model's server runs: call and return are parts of one response.
        "builtin-tool-call": _CALL,
        "builtin-tool-return": _RETURN,
        "file": Shape(Part.SAID),
        # Of both.
        "speech": _said(read_text, "transcript"),
        "compaction": Shape(Part.COMPACTION, (("content", read_text),)),
    }
)
