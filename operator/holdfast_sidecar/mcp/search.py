"""Text search in one session: what is stored is looked through, newest first, within fixed bounds.

It finds a piece of text as it was written. It is no index and knows no meaning: no stemming, no
synonyms, no spelling mistakes, no other Unicode form of the same letters. What left the session is not
found, only the summary that stands for it.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

import msgspec

from holdfast.formats import read_facts
from holdfast.values import Page, Record, Status

MOST_RECORDS: Final = 5_000
"""Records that one call looks through."""
MOST_TEXT: Final = 4 * 2**20
"""Characters after which a call begins no further page."""
MOST_PAGES: Final = 60
"""Round trips of one call, besides the first."""
SNIPPET: Final = 200
"""Characters that are shown around a match."""

_PAGE: Final = 500
_HEAVY: Final = (
    4 * 2**20
)  # bytes of a session whose pages are small: they pass through memory whole
_HEAVY_PAGE: Final = 20
_WIDENING: Final = 4


class Looked(Protocol):
    """What is looked through: a session or a turn."""

    async def status(self) -> Status:
        """Return the counters."""
        ...

    async def read_page(
        self, *, after: int | None = None, limit: int = 100, used: bool = True
    ) -> Page:
        """Return a part of what is stored."""
        ...


class Match(msgspec.Struct, frozen=True):
    """A message that holds the text.

    Attributes:
        seq: its sequence number.
        ts: when it was stored, milliseconds since 1970.
        role: as far as its format says, else "".
        snippet: the text around the first place in it, `…` where it goes on.
    """

    seq: int
    ts: int
    role: str
    snippet: str


class Found(msgspec.Struct, frozen=True):
    """What a search found.

    Attributes:
        matches: newest first.
        searched: records that were looked through.
        complete: nothing older is left to look through.
        before: where to go on, when not complete.
    """

    matches: list[Match]
    searched: int
    complete: bool
    before: int | None = None


class Needle:
    """A piece of text to look for.

    Args:
        text: at least one character.
        exact: upper and lower case differ. Otherwise both are folded as Unicode says, also where that
            makes them longer: `STRASSE` finds `Straße`.
    """

    def __init__(self, text: str, *, exact: bool) -> None:
        self._exact = exact
        self._text = text if exact else text.casefold()

    def snippet(self, text: str) -> str | None:
        """Return the text around the first place that matches; None without one."""
        if self._exact:
            at = text.find(self._text)
            return None if at < 0 else _around(text, at, at + len(self._text))
        folded = text.casefold()
        at = folded.find(self._text)
        if at < 0:
            return None
        end = at + len(self._text)
        if len(folded) != len(text):
            at, end = _unfolded(text, at, end)
        return _around(text, at, end)


def _unfolded(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the places in a text that two places in its folded form come from."""
    first, place = None, 0
    for index, letter in enumerate(text):
        place += len(letter.casefold())
        if first is None and place > start:
            first = index
        if place >= end:
            return first or 0, index + 1
    return first or 0, len(text)


def _around(text: str, start: int, end: int) -> str:
    room = max(0, SNIPPET - (end - start)) // 2
    left, right = max(0, start - room), min(len(text), end + room)
    shown = re.sub(r"\s+", " ", text[left:right])
    return f"{'…' if left else ''}{shown}{'…' if right < len(text) else ''}"


async def search(
    session: Looked, needle: Needle, *, limit: int, before: int | None = None
) -> Found:
    """Look for a text in what a session holds now. Bounded in records, text and round trips.

    Args:
        session: whose records.
        needle: what to look for.
        limit: matches at most.
        before: only records with a lower sequence number; None: all.

    Raises:
        What `read_page` raises.
    """
    status = await session.status()
    high = status.last_seq if before is None else min(before - 1, status.last_seq)
    size = _PAGE if status.bytes <= _HEAVY else _HEAVY_PAGE
    matches: list[Match] = []
    searched = text = pages = 0
    width = size
    while status.messages and high > 0:
        if searched >= MOST_RECORDS or text >= MOST_TEXT or pages >= MOST_PAGES:
            return Found(matches, searched, complete=False, before=high + 1)
        low = max(0, high - width)
        page = await session.read_page(after=low, limit=size, used=False)
        pages += 1
        if width > size and page.next is not None and page.next < high:
            width = size  # more than a page is in between: one that wide holds all of it
            continue
        records = [record for record in page.records if record.seq <= high]
        for record, role, texts in _read(reversed(records)):
            searched += 1
            text += sum(map(len, texts))
            snippet = next(filter(None, map(needle.snippet, texts)), None)
            if snippet is not None:
                matches.append(Match(record.seq, record.ts, role, snippet))
                if len(matches) == limit:
                    done = record.seq <= 1
                    return Found(matches, searched, done, None if done else record.seq)
        high = low
        # Where much has left, sequence numbers lie far apart.
        width = width * _WIDENING if len(records) * 2 < size else size
    return Found(matches, searched, complete=True)


def _read(records: Iterable[Record]) -> Iterator[tuple[Record, str, tuple[str, ...]]]:
    for record in records:
        facts = read_facts(record.item)
        yield record, facts.role, facts.texts
