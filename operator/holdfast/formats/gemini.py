"""Contents of the Gemini API, in the names of its Python library or of its wire format."""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from holdfast.formats._facts import JSON, Facts, read_json, read_text, unrecognised
from holdfast.formats._parts import Part, Reading, Shape, read_string

# A content without a role is the user's. Some give results the role `function`.
_ROLES: Final[Mapping[JSON, str]] = MappingProxyType(
    {None: "user", "user": "user", "function": "user", "model": "assistant", "system": "system"}
)


class GeminiFormat:
    """Reader of `{"role": "model", "parts": [{"functionCall": {...}}, ...]}`."""

    __slots__ = ()
    name = "gemini"

    def matches(self, item: JSON) -> bool:
        """Tell whether there is a list of parts, none of which names its type, and one is known."""
        if not isinstance(item, dict) or not _NOT_OURS.isdisjoint(item):
            return False
        role, parts = item.get("role"), item.get("parts")
        if not isinstance(role, str | None) or role not in _ROLES:
            return False
        if not parts and role == "model":
            return "parts" in item and (parts is None or isinstance(parts, (list, tuple)))
        return (
            isinstance(parts, (list, tuple))
            and all(isinstance(part, dict) and _NOT_OURS.isdisjoint(part) for part in parts)
            and any(isinstance(part, dict) and not _KNOWN.isdisjoint(part) for part in parts)
        )

    def facts(self, item: JSON) -> Facts:
        """Read the item as a content."""
        if not isinstance(item, dict) or "parts" not in item:
            return unrecognised(item)
        role, parts = item.get("role"), item["parts"]
        reading = Reading()
        calls, results = Counter[str](), Counter[str]()
        if isinstance(parts, (list, tuple)):
            for part in parts:
                _take(part, reading, calls, results)
        else:
            reading.require(parts is None)
        return reading.facts(item, _ROLES.get(role, "") if isinstance(role, str | None) else "")


def _take(part: JSON, reading: Reading, calls: Counter[str], results: Counter[str]) -> None:
    if not isinstance(part, dict) or _KNOWN.isdisjoint(part):
        reading.require(False)
        return
    text = part.get("text")
    if text is not None:
        reading.seen.add(Part.THOUGHT if part.get("thought") is True else Part.SAID)
        reading.require(read_string(text, reading.texts))
    for key, value in part.items():
        shape = _PARTS.get(key)
        if shape is None or value is None:
            continue
        reading.take(shape, value)
        if not isinstance(value, dict):
            continue
        if key in _FUNCTION_CALLS:
            reading.call(_function_key(value, calls))
        elif key in _FUNCTION_RESPONSES:
            answered = _function_key(value, results)
            reading.result(answered)
            if value.get("will_continue", value.get("willContinue")) is True:
                reading.leave_open(answered)
        elif shape.part is Part.CALL and value.get("id"):
            reading.call(value["id"])
        elif shape.part is Part.RESULT and value.get("id"):
            reading.result(value["id"])


def _function_key(value: dict[str, JSON], seen: Counter[str]) -> JSON:
    """Return by what a call and its response find each other: the name, and which of that name.

    Ids cannot be relied on. Older models give none; the automatic calls of Google's own library answer
    a call that has one without it; other clients make one up for the response alone. But the name is
    required on both sides, and the API wants all responses to a content in one content and in the
    order of the calls.
    """
    name = value.get("name")
    if not isinstance(name, str) or not name:
        return value.get("id")
    seen[name] += 1
    return f"function:{name}" if seen[name] == 1 else f"function:{name}#{seen[name]}"


def _both(*names: tuple[str, str, Shape]) -> dict[str, Shape]:
    return {name: shape for snake, camel, shape in names for name in (snake, camel)}


_NAME: Final = ("name", read_text)
_MEDIA: Final = Shape(Part.SAID)

_PARTS: Final[Mapping[str, Shape]] = MappingProxyType(
    _both(
        ("inline_data", "inlineData", _MEDIA),
        ("file_data", "fileData", _MEDIA),
        (
            "function_call",
            "functionCall",
            Shape(
                Part.CALL,
                (
                    _NAME,
                    ("args", read_json),
                    ("partial_args", read_json),
                    ("partialArgs", read_json),
                ),
            ),
        ),
        (
            "function_response",
            "functionResponse",
            Shape(Part.RESULT, (_NAME, ("response", read_json))),
        ),
        # What the model's server runs. An id, where there is one, pairs the two across contents.
        ("executable_code", "executableCode", Shape(Part.CALL, (("code", read_text),))),
        (
            "code_execution_result",
            "codeExecutionResult",
            Shape(Part.RESULT, (("output", read_text),)),
        ),
        ("tool_call", "toolCall", Shape(Part.CALL, (("args", read_json),))),
        ("tool_response", "toolResponse", Shape(Part.RESULT, (("response", read_json),))),
    )
)
_FUNCTION_CALLS: Final = ("function_call", "functionCall")
_FUNCTION_RESPONSES: Final = ("function_response", "functionResponse")
# Other formats have parts as well and say by these what they are.
_NOT_OURS: Final = frozenset({"type", "kind"})
# A part may hold nothing but the signature of the thought before it, which is no text.
_KNOWN: Final = frozenset({*_PARTS, "text", "thought_signature", "thoughtSignature"})
