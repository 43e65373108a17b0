"""Pure readers of message formats: what is said, what is called, what must stay together.

An item is the caller's own JSON and is stored untouched. Everything else the library needs to know
of it (its role, which tool calls it makes or answers, what a model is charged for) is read here,
without I/O and without changing the item.
"""

from typing import Final

from msgspec.structs import replace

from holdfast.errors import ConfigurationError
from holdfast.formats._facts import JSON, ROLES, Facts, Format, Kind, known_role, unrecognised
from holdfast.formats.anthropic import AnthropicFormat
from holdfast.formats.bedrock import BedrockFormat
from holdfast.formats.chat import ChatFormat, is_message, message_facts
from holdfast.formats.gemini import GeminiFormat
from holdfast.formats.langchain import LangChainFormat
from holdfast.formats.pydantic_ai import PydanticAIFormat
from holdfast.formats.responses import ResponsesFormat

__all__ = ["FORMATS", "JSON", "ROLES", "Facts", "Format", "Kind", "read_facts"]

# In the order in which they are asked. The last two know a message by little more than its role, so
# those that have marks of their own come before them; a message without `type` is the same to both.
FORMATS: Final[tuple[Format, ...]] = (
    AnthropicFormat(),
    BedrockFormat(),
    GeminiFormat(),
    PydanticAIFormat(),
    LangChainFormat(),
    ChatFormat(),
    ResponsesFormat(),
)
# Where the other formats have their marks, unless in a list of parts.
_MARKED: Final = frozenset({"type", "kind", "parts"})


def read_facts(
    item: JSON,
    format: str | None = None,
    role: str | None = None,
) -> Facts:
    """Read what there is to know about an item.

    Args:
        item: any JSON value. It is not changed.
        format: name of the format to read it as; None finds the format by the item's shape.
        role: one of `ROLES`, in place of the item's own; the other facts stay.

    Returns:
        The facts. An item that no format knows is of kind `OTHER`, is charged by its compact JSON
        text, and says `recognised=False`.

    Raises:
        ConfigurationError: no format or no role of that name.
        MessageInvalid: something that had to be read as JSON is no JSON value.
    """
    facts = _by_shape(item) if format is None else _named(format).facts(item)
    if role is None:
        return facts
    known = known_role(role)
    if not known:
        raise ConfigurationError(f"{role!r} is no role; use one of {', '.join(sorted(ROLES))}")
    return replace(facts, role=known)


def _by_shape(item: JSON) -> Facts:
    # Most messages are plain text, which only `chat` can claim: that is seen at one look.
    if _is_plain(item):
        return message_facts(item)
    for candidate in FORMATS:
        if candidate.matches(item):
            return candidate.facts(item)
    return unrecognised(item)


def _is_plain(item: JSON) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("content"), str)
        and _MARKED.isdisjoint(item)
        and is_message(item)
    )


def _named(name: str) -> Format:
    for candidate in FORMATS:
        if candidate.name == name:
            return candidate
    names = ", ".join(sorted(candidate.name for candidate in FORMATS))
    raise ConfigurationError(f"{name!r} is no message format; use one of {names}")
