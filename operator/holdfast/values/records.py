"""What a store keeps of a message."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec


class Flag(IntEnum):
    """What a record's flags say; bits 0..7 of `Stored.flags`.

    Above them how many tool calls the record opens and closes: see `call_flags`. Plain integers, since
    every record that is read is asked.
    """

    SYSTEM = 1
    PINNED = 2
    ORPHAN = 4
    INEXACT = 8
    UNRECOGNISED = 16
    SUMMARY = 32


_OPENS, _CLOSES, _MORE_OPENS, _MORE_CLOSES = 12, 20, 28, 40
_BYTE, _MORE = 0xFF, 0xFFF

CALLS = _BYTE << _OPENS | _BYTE << _CLOSES | _MORE << _MORE_OPENS | _MORE << _MORE_CLOSES
"""The bits of `Stored.flags` that `call_flags` gives."""


def call_flags(opens: int, closes: int) -> int:
    """Return the bits of `Stored.flags` that say how many tool calls a record opens and closes.

    Bits 12..19 and 20..27 are the low eight of each, 28..39 and 40..51 the rest: flags stay short where
    there are few calls, and exact in a double, which is how they travel. Twenty bits are more calls than
    a message of 4 MiB can name.
    """
    return (
        (opens & _BYTE) << _OPENS
        | (closes & _BYTE) << _CLOSES
        | (opens >> 8) << _MORE_OPENS
        | (closes >> 8) << _MORE_CLOSES
    )


PROTECTED = Flag.SYSTEM | Flag.PINNED


class Covered(msgspec.Struct, frozen=True, gc=False):
    """What a summary stands for.

    Attributes:
        first: lowest sequence number of the records it covers, those of folded summaries included.
        last: highest one.
        messages: how many there were.
        tokens: how many those had.
        model: who wrote it.
    """

    first: int
    last: int
    messages: int
    tokens: int
    model: str


class Notes(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What is kept beside an item because the item does not say it.

    Attributes:
        share: the named share of the token allocation it belongs to.
        privacy: `public`, `private` or `confidential`, as its writer said; None: nothing said.
        redacted: how many places were replaced before it was stored.
        covers: on a summary only.
    """

    share: str | None = None
    privacy: str | None = None
    redacted: int = 0
    covers: Covered | None = None


class Stored(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One record as a store keeps it: a positional JSON array, integers first.

    The order is a contract with the scripts: they read the integers with a pattern before any free
    text. `group` is the sequence number of the first record of the group. `notes` is there only where
    there are some.
    """

    tokens: int
    flags: int
    seq: int
    ts: int
    group: int
    id: str | None
    item: Any
    notes: Notes | None = None

    def encoded(self) -> bytes:
        """Return the record as it stands in the store."""
        text = msgspec.json.encode(self)
        return text if self.notes is not None else text[: -len(",null]")] + b"]"

    @property
    def protected(self) -> bool:
        """Whether eviction must not take the record."""
        return bool(self.flags & PROTECTED)

    @property
    def opens(self) -> int:
        """How many tool calls the record makes."""
        return self.flags >> _OPENS & _BYTE | (self.flags >> _MORE_OPENS & _MORE) << 8

    @property
    def closes(self) -> int:
        """How many tool results the record carries."""
        return self.flags >> _CLOSES & _BYTE | (self.flags >> _MORE_CLOSES & _MORE) << 8


class Remembered(NamedTuple):
    """A message id that a session knows: enough to answer a retry, and nothing to tell the id from.

    Attributes:
        key: what stores keep of an id's key, as of a `Batch`: its first 18 digits, then its last two, or
            only the first of these.
        seq: sequence number of the first message that came under the id.
        digest: of the content; 0 where a retry is not to be compared with it.
    """

    key: str
    seq: int
    digest: int = 0

    @classmethod
    def of(cls, key: str, seq: int, digest: int = 0) -> "Remembered":
        """Make one from an id's key in full."""
        return cls(known_part(key) + key[-2:], seq, digest)


def known_part(key: str) -> str:
    """Return the part of an id's key by which it is known again."""
    return key[:18]


class Departed(NamedTuple):
    """An entry of a session's history: records that left together, by one rule. No content.

    Attributes:
        at: when, milliseconds since 1970; 0 where nobody knows.
        rule: such as `FIFO`, `HybridSummary`, `pop`, `clear`; `several` where entries were joined; `import`
            for what had left before an import, where the export did not say how; `withheld` for what the
            policy kept from an import.
        first: lowest sequence number.
        last: highest one.
        messages: how many.
        tokens: of all of them, but for those that the limits had dropped while their summary was written.
        summary: sequence number of the summary that stands for them; 0 when they were dropped.
        ranges: first and last of each run of sequence numbers; empty where only the outer ones are
            known.
    """

    at: int
    rule: str
    first: int
    last: int
    messages: int
    tokens: int
    summary: int = 0
    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(
        cls, at: int, rule: str, seqs: Sequence[int], tokens: int, summary: int = 0
    ) -> "Departed":
        """Make an entry from sequence numbers, ascending and not empty."""
        ranges: list[tuple[int, int]] = []
        for seq in seqs:
            if ranges and ranges[-1][1] == seq - 1:
                ranges[-1] = (ranges[-1][0], seq)
            else:
                ranges.append((seq, seq))
        shown = tuple(ranges) if len(range_text(ranges)) <= 512 else ()
        return cls(at, rule, seqs[0], seqs[-1], len(seqs), tokens, summary, shown)

    def joined(self, later: "Departed") -> "Departed":
        """Return one entry for two."""
        return Departed(
            later.at,
            self.rule if self.rule == later.rule else "several",
            min(self.first, later.first),
            max(self.last, later.last),
            self.messages + later.messages,
            self.tokens + later.tokens,
        )


def range_text(ranges: Sequence[tuple[int, int]]) -> str:
    """Return runs of sequence numbers as a history's entry holds them."""
    return ",".join(f"{low}" if low == high else f"{low}-{high}" for low, high in ranges)
