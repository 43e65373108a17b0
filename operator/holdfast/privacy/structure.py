"""Which strings of an item hold a conversation together, in any of the known formats.

They are ids, roles and types, by position: the same key inside a tool's arguments is content.
"""

from typing import Any, Final, TypeAlias

Members: TypeAlias = dict[str, Any]

FIXED: Final = frozenset(
    {
        *("type", "role", "kind", "part_kind"),
        *("id", "call_id", "tool_call_id", "tool_use_id", "toolUseId", "approval_request_id"),
    }
)
"""Keys whose values are never altered where an item, a part of it or a tool call has them."""

ARGUMENTS: Final = frozenset({"arguments", "args", "input"})
"""Keys of a tool call's arguments, which may be JSON text."""

_LISTS: Final = frozenset({"content", "output", "parts"})
_CALLS: Final = frozenset({"tool_calls", "invalid_tool_calls", "tool_call_chunks"})
_NAMED: Final = frozenset(
    {"function_call", "function_response", "functionCall", "functionResponse"}
)
_OTHERS: Final = frozenset(
    {
        *("toolUse", "toolResult", "additional_kwargs"),
        *("tool_call", "tool_response", "executable_code", "code_execution_result"),
        *("toolCall", "toolResponse", "executableCode", "codeExecutionResult"),
    }
)
_FUNCTIONS: Final = ("function", "FunctionMessageChunk")
_OF_TOOLS: Final = _NAMED | _OTHERS | {"call_id", "tool_call_id", "tool_use_id"}


def is_fixed(owner: Members, key: str, under: str) -> bool:
    """Tell whether the member of an object with structure is itself structure.

    Args:
        owner: the object.
        key: of the member.
        under: the key of the object itself.
    """
    if key in FIXED:
        return True
    # Calls without an id are matched with their results by the function's name.
    return key == "name" and (
        under in _NAMED
        or owner.get("role") == "function"
        or (owner.get("type") in _FUNCTIONS and "content" in owner)
    )


def goes_on(key: str, value: Any) -> bool:
    """Tell whether the value below this key of an object with structure has structure as well."""
    if isinstance(value, list):
        return key in _LISTS or key in _CALLS
    if not isinstance(value, dict):
        return False
    if key in _NAMED or key in _OTHERS:
        return True
    # A message, or a provider's own part of one, that a framework has wrapped.
    return (key == "data" and "content" in value) or (key == "value" and "type" in value)


def holds_call(part: Members) -> bool:
    """Tell whether a part of a message is a tool call or a result."""
    kind = part.get("type", part.get("part_kind"))
    return not _OF_TOOLS.isdisjoint(part) or (isinstance(kind, str) and "tool" in kind)
