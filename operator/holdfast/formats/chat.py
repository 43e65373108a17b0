"""Messages of the Chat Completions API, and of the many servers that speak it."""

from typing import Final

from holdfast.formats._facts import (
    JSON,
    Facts,
    Kind,
    compact_json,
    known_role,
    read_json,
    read_parts,
    read_text,
    unrecognised,
)

# Any one of these beside a role makes an object a message.
_FIELDS: Final = frozenset(
    {"audio", "content", "function_call", "reasoning", "reasoning_content", "refusal", "tool_calls"}
)
# Of these a model's answer may have some beside its content.
_OF_ANSWERS: Final = frozenset({"audio", "reasoning", "reasoning_content", "refusal"})


class ChatFormat:
    """Reader of `{"role", "content", "tool_calls", "tool_call_id", ...}`."""

    __slots__ = ()
    name = "chat"

    def matches(self, item: JSON) -> bool:
        """Tell whether the item has a known role, a field of a message, and no `type`."""
        return isinstance(item, dict) and item.get("type") is None and is_message(item)

    def facts(self, item: JSON) -> Facts:
        """Read the item as a message; a `type` is not looked at."""
        return message_facts(item)


def is_message(item: dict[str, JSON]) -> bool:
    """Tell whether the object has a known role and a field of a message."""
    return known_role(item.get("role")) != "" and not _FIELDS.isdisjoint(item)


def message_facts(item: JSON) -> Facts:
    """Read a message.

    A call or result without a usable id leaves the item unrecognised: nothing can keep the two
    together, and that should be seen.
    """
    if not isinstance(item, dict) or _FIELDS.isdisjoint(item):
        return unrecognised(item)
    role = known_role(item.get("role"))
    name = item.get("name")
    calls = item.get("tool_calls")
    legacy_call = item.get("function_call")
    texts: list[str] = []
    opens: list[str] = []
    closes: tuple[str, ...] = ()
    understood = role != "" and read_text(name, texts) and read_parts(item.get("content"), texts)
    if not _OF_ANSWERS.isdisjoint(item):
        understood = _read_answer(item, texts) and understood
    if calls:
        understood = read_calls(calls, texts, opens) and understood
    if legacy_call is not None:
        understood = read_legacy_call(legacy_call, texts, opens) and understood
    if role == "tool":
        closes = _answered_call(item)
        understood = understood and closes != ()
        kind = Kind.TOOL_RESULT
    else:
        kind = Kind.TOOL_CALL if calls or legacy_call is not None else Kind.MESSAGE
    return Facts(
        role,
        kind,
        tuple(dict.fromkeys(opens)) if opens else (),
        closes,
        tuple(texts) if understood else (compact_json(item),),
        1 if name and understood else 0,
        follows=role == "assistant",
        recognised=understood,
    )


def _read_answer(item: dict[str, JSON], texts: list[str]) -> bool:
    """Read what only a model's answer has beside its content."""
    # Servers that keep the reasoning name it one way or the other, and some give it twice.
    reasoning = item.get("reasoning_content")
    if reasoning is None:
        reasoning = item.get("reasoning")
    audio = item.get("audio")
    if audio is not None:
        if not isinstance(audio, dict):
            return False
        audio = audio.get("transcript")
    return (
        read_text(item.get("refusal"), texts)
        and read_text(reasoning, texts)
        and read_text(audio, texts)
    )


def read_calls(calls: JSON, texts: list[str], opens: list[str]) -> bool:
    """Read `tool_calls`."""
    if not isinstance(calls, (list, tuple)):
        return False
    understood = True
    for call in calls:
        # Every id counts, also after something unreadable: a lost one would orphan its result.
        understood = _read_call(call, texts, opens) and understood
    return understood


def _read_call(call: JSON, texts: list[str], opens: list[str]) -> bool:
    if not isinstance(call, dict):
        return False
    call_id = call.get("id")
    if not isinstance(call_id, str) or not call_id:
        return False
    opens.append(call_id)
    body = call.get("function")
    if body is None:
        body = call.get("custom")
    return (
        isinstance(body, dict)
        and read_text(body.get("name"), texts)
        and read_json(body.get("arguments"), texts)
        and read_json(body.get("input"), texts)
    )


def read_legacy_call(call: JSON, texts: list[str], opens: list[str]) -> bool:
    """Read `function_call`, which has no id: its result names the function again."""
    if not isinstance(call, dict):
        return False
    name = call.get("name")
    if not isinstance(name, str) or not name:
        return False
    opens.append(f"function:{name}")
    texts.append(name)
    return read_json(call.get("arguments"), texts)


def _answered_call(item: dict[str, JSON]) -> tuple[str, ...]:
    if item.get("role") == "function":
        name = item.get("name")
        return (f"function:{name}",) if isinstance(name, str) and name else ()
    call_id = item.get("tool_call_id")
    return (call_id,) if isinstance(call_id, str) and call_id else ()
