"""From stored records to what a summariser is asked."""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Final

from holdfast.formats import JSON, Kind, read_facts
from holdfast.summaries.item import summary_text
from holdfast.summaries.protocol import SummaryMessage, SummaryRequest
from holdfast.tokens import TokenCounter
from holdfast.values import Flag, Stored

CONFIDENTIAL: Final = "confidential"
"""What `Notes.privacy` says of a record that only the built-in summariser may see."""

_MARKS: Final = {
    Kind.TOOL_CALL: "[tool call] ",
    Kind.TOOL_RESULT: "[tool result] ",
    Kind.REASONING: "[reasoning] ",
}
# Pictures in base64 and the like, which no summary can use and a model would be charged for.
_DATA: Final = re.compile(r"[A-Za-z0-9+/_=-]{256,}")
_CALLS: Final = frozenset({"tool_calls", "function_call"})
_MEDIA: Final = ("image", "screenshot", "audio", "video", "document", "file")
_PARTS: Final = ("content", "output", "parts", "data")
_MAX_DEPTH: Final = 4
_MAX_FILE_NAME: Final = 80


def request_of(
    records: Sequence[Stored],
    *,
    max_tokens: int,
    counter: TokenCounter,
    remote: bool,
    format: str | None = None,
) -> SummaryRequest:
    """Return the request to summarise records.

    Args:
        records: oldest first. Summaries among them become `previous`.
        max_tokens: most tokens of the summary, 1 or more.
        counter: counts them.
        remote: the summariser is not the built-in one. Confidential records are then replaced, each
            run of them, by a line that says how many were left out.
        format: the memory's message format by name; None finds it by each item's shape.

    Raises:
        ConfigurationError: no format of that name.
    """
    hidden = remote and any(map(_is_confidential, records))
    previous = [record for record in records if record.flags & Flag.SUMMARY]
    others = [record for record in records if not record.flags & Flag.SUMMARY]
    messages: list[SummaryMessage] = []
    for left_out, run in groupby(others, key=_is_confidential):
        if hidden and left_out:
            hidden_ones = tuple(run)
            messages.append(SummaryMessage("system", _left_out(hidden_ones), hidden_ones[0].ts))
        else:
            messages += (_message(record, format) for record in run)
    texts: list[str] = []
    for left_out, run in groupby(previous, key=_is_confidential):
        if hidden and left_out:
            texts.append(_left_out(tuple(run)))
        else:
            texts += (summary_text(record.item) for record in run)
    return SummaryRequest(
        messages=tuple(messages),
        previous="\n".join(texts) or None,
        max_tokens=max_tokens,
        counter=counter,
        confidential=not hidden and any(map(_is_confidential, records)),
    )


def _is_confidential(record: Stored) -> bool:
    return record.notes is not None and record.notes.privacy == CONFIDENTIAL


def _left_out(records: Sequence[Stored]) -> str:
    count = 0
    for record in records:
        covers = record.notes.covers if record.notes else None
        count += covers.messages if covers else 1
    return f"[{count} confidential message{'' if count == 1 else 's'} left out]"


def _message(record: Stored, format: str | None) -> SummaryMessage:
    item: JSON = record.item
    facts = read_facts(item, format)
    texts = facts.texts
    if facts.names and len(texts) > 1:
        texts = (f"{texts[0]}: {texts[1]}", *texts[2:])  # the name comes first
    lines: list[str] = []
    mark = _MARKS.get(facts.kind, "")
    if facts.kind is Kind.TOOL_CALL and facts.recognised:
        said = len(_without_calls(item, format, facts.texts)) - (len(facts.texts) - len(texts))
        lines += texts[:said]
        texts = (" ".join(texts[said:]),) if texts[said:] else ()
    if texts:
        lines.append(mark + "\n".join(texts))
    lines += media_names(item)
    text = _DATA.sub("[data]", "\n".join(lines)).strip()
    return SummaryMessage(facts.role or "other", text or f"[{facts.kind.value}]", record.ts)


def _without_calls(item: JSON, format: str | None, texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the first of the texts: those that stand beside tool calls, in a message with both."""
    if not isinstance(item, Mapping) or _CALLS.isdisjoint(item):
        return ()
    rest = {key: value for key, value in item.items() if key not in _CALLS}
    said = read_facts({"content": None, **rest}, format)
    return said.texts if said.recognised and texts[: len(said.texts)] == said.texts else ()


def media_names(item: JSON, depth: int = 0) -> list[str]:
    """Name the pictures, sounds and files of an item, such as `[image]` or `[file report.pdf]`.

    Looks at the parts of its content, whatever the format calls them; formats count them as nothing.
    """
    names: list[str] = []
    if depth == _MAX_DEPTH or not isinstance(item, Mapping):
        return names
    for key in _PARTS:
        parts = item.get(key)
        for part in parts if isinstance(parts, list | tuple) else (parts,):
            if not isinstance(part, Mapping):
                continue
            name = _media_name(part)
            names += [name] if name else media_names(part, depth + 1)
    return names


def _media_name(part: Mapping[str, JSON]) -> str:
    if isinstance(part.get("text"), str):
        return ""
    inner = [value for value in part.values() if isinstance(value, Mapping)]
    kind = part.get("type", part.get("kind"))
    hints = [kind] if isinstance(kind, str) else list(part)
    # A file may say what is in it, as in `inlineData: {mimeType: "image/png"}`.
    for holder in (part, *inner):
        hints[:0] = [str(holder[key]) for key in ("mimeType", "mime_type") if key in holder]
    found = next((word for hint in hints for word in _MEDIA if word in hint.lower()), None)
    if found is None:
        return ""
    files = [holder.get(key) for holder in (part, *inner) for key in ("filename", "name", "title")]
    file = next((" ".join(file.split()) for file in files if isinstance(file, str)), "")
    return f"[{found} {file[:_MAX_FILE_NAME]}]" if file else f"[{found}]"
