"""Redaction inside one text, which may be JSON that must stay JSON."""

import json
import re
from typing import Final

import msgspec

from holdfast.privacy.patterns import Search, Span

# Of valid JSON text: each string, with the colon that makes it a key, and each number or word.
_TOKEN: Final = re.compile(r'("(?:[^"\\]++|\\.)*+")(\s*+:)?|[-+.\w]++', re.DOTALL)


class TextRedactor:
    """Replaces what a search finds in texts, and counts the places.

    Args:
        search: finds it.
        replacement: what stands there instead.

    Attributes:
        places: how many were replaced so far.
    """

    def __init__(self, search: Search, replacement: str) -> None:
        self._search = search
        self._replacement = replacement
        self.places = 0

    def redact(self, text: str, *, keep_keys: bool = False) -> str:
        """Return the text with each match replaced.

        In JSON text (an object or array) the strings are also searched as they read once decoded, and
        it is JSON afterwards: a match that reaches beyond one value takes all the values it touches.

        Args:
            text: any.
            keep_keys: the keys of JSON text stay, as those of a real object do.
        """
        if not text:
            return text
        spans = self._search.spans(text)
        if is_json_text(text):
            return self._redact_json(text, spans, keep_keys=keep_keys)
        if not spans:
            return text
        pieces: list[str] = []
        at = 0
        for start, end in spans:
            pieces += (text[at:start], self._replacement)
            at = end
        self.places += len(spans)
        return "".join((*pieces, text[at:]))

    def redact_number(self, number: int | float) -> int | float | str:  # noqa: PYI041 - both are meant
        """Return the number, or the replacement where its JSON text has a match."""
        if not self._search.spans(json.dumps(number)):
            return number
        self.places += 1
        return self._replacement

    def _redact_json(self, text: str, spans: list[Span], *, keep_keys: bool) -> str:
        pieces: list[str] = []
        at, next_span = 0, 0
        for token in _TOKEN.finditer(text):
            string, colon = token[1], token[2]
            start, end = token.span(1) if string else token.span()
            if token[0] == "null" or (colon and keep_keys):
                continue
            while next_span < len(spans) and spans[next_span][1] <= start:
                next_span += 1
            if string:
                hit, reaches = _overlap(spans, next_span, start + 1, end - 1)
                old = json.loads(string)
                new = self._redact_value(old, keep_keys=keep_keys, hit=hit, reaches=reaches)
            else:
                hit, _ = _overlap(spans, next_span, start, end)
                old, new = None, self._replacement if hit else None
                self.places += hit
            if new != old:
                pieces += (text[at:start], json.dumps(new, ensure_ascii=False))
                at = end
        return "".join((*pieces, text[at:])) if pieces else text

    def _redact_value(self, value: str, *, keep_keys: bool, hit: bool, reaches: bool) -> str:
        before = self.places
        redacted = self.redact(value, keep_keys=keep_keys)
        if reaches or (hit and self.places == before):
            # What matched goes beyond this value, or is there only in its written form.
            self.places = before + 1
            return self._replacement
        return redacted


def is_json_text(text: str) -> bool:
    """Tell whether the text is a JSON object or array."""
    if text.lstrip(" \t\r\n")[:1] not in ("{", "["):
        return False
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return True


def _overlap(spans: list[Span], first: int, start: int, end: int) -> tuple[bool, bool]:
    """Tell whether a span overlaps the range, and whether one that does reaches beyond it."""
    hit = reaches = False
    for at in range(first, len(spans)):
        begin, until = spans[at]
        if begin >= end:
            break
        if until > start:
            hit = True
            reaches = reaches or begin < start or until > end
    return hit, reaches
