"""The lines of an export: what they hold, and which of them an import takes for what they are."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from holdfast.errors import ImportRefused
from holdfast.policy.enums import EvictionPolicy, FlushingStrategy
from holdfast.values import Departed, Notes, Remembered, Status, Stored, known_part

FORMAT: Final = "holdfast.dev/session"
IMPORT: Final = "import"
"""The rule of what left before an import, where the export does not say how."""
WITHHELD: Final = "withheld"
"""The rule of what an import left out, since the policy does not let it be stored."""
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Seq = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
_Small = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
_Flags = Annotated[int, msgspec.Meta(ge=0, lt=2**52)]
_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
_Key = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{19,20}\Z", max_length=20)]
_Digest = Annotated[int, msgspec.Meta(ge=0, lt=2**20)]
_Moment = Annotated[int, msgspec.Meta(ge=0, lt=253_402_300_800_000)]  # the year 10000
_Sum = Annotated[int, msgspec.Meta(ge=0, le=2**40)]  # 256 of them are still a number
_Rule = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
_RULES: Final = frozenset(
    {"pop", "clear", "replace", "fold", "orphan", "several", IMPORT, WITHHELD}
    | {one.value for one in FlushingStrategy}
    | {one.value for one in EvictionPolicy}
)
_PART: Final = re.compile(r"share:[A-Za-z0-9][A-Za-z0-9._-]{0,62}|block:[0-9]")
_MOST_IDS, _MOST_ENTRIES, _MOST_RANGES = 10_000, 256, 256


class _Entry(msgspec.Struct, omit_defaults=True):
    """An entry of the history; see `Departed`."""

    at: _Moment
    rule: _Rule
    first: _Seq
    last: _Seq
    messages: _Sum
    tokens: _Sum
    summary: _Small = 0
    ranges: Annotated[list[tuple[_Seq, _Seq]], msgspec.Meta(max_length=_MOST_RANGES)] = []


class Header(msgspec.Struct, rename="camel", omit_defaults=True):
    """The first line. Exports of earlier versions have neither ids nor a history."""

    format: Literal["holdfast.dev/session"]
    version: Literal[1]
    memory: str
    revision: _Number
    messages: _Small
    tokens: _Number
    last_seq: _Small
    dropped: _Small
    session: str | None = None
    ids: Annotated[list[tuple[_Key, _Seq, _Digest]], msgspec.Meta(max_length=_MOST_IDS)] | None = (
        None
    )
    history: Annotated[list[_Entry], msgspec.Meta(max_length=_MOST_ENTRIES)] | None = None

    def remembered(self, *, compared: bool) -> Sequence[Remembered]:
        """Return the ids that the session knew, oldest first.

        Args:
            compared: a retry is to be compared with what came first.
        """
        return [Remembered(key, seq, digest * compared) for key, seq, digest in self.ids or ()]

    def departed(self) -> Sequence[Departed]:
        """Return the history; where the export has none, an entry for all that is not in it."""
        if self.history is not None:
            return [
                Departed(
                    one.at,
                    one.rule,
                    one.first,
                    one.last,
                    one.messages,
                    one.tokens,
                    one.summary,
                    tuple(one.ranges),
                )
                for one in self.history
            ]
        left = self.last_seq - self.messages
        return [Departed(0, IMPORT, 1, self.last_seq, left, 0)] if left > 0 else []


class Line(msgspec.Struct, omit_defaults=True):
    """A record."""

    seq: _Seq
    ts: _Number
    tokens: _Small
    flags: _Flags
    group: _Seq
    item: Any
    id: _Id | None = None
    notes: Notes | None = None


_HEADER: Final = msgspec.json.Decoder(Header)
_LINE: Final = msgspec.json.Decoder(Line)
_ENCODER: Final = msgspec.json.Encoder()


def header_line(
    status: Status,
    ids: Sequence[Remembered],
    history: Sequence[Departed],
    *,
    memory: str,
    session: str | None,
) -> str:
    """Return the first line of an export.

    What is numbered higher than the session ever went is left out: something took its counters away. So is
    an entry of the history that none of ours wrote.
    """
    last = status.last_seq
    header = Header(
        FORMAT,
        1,
        memory,
        status.revision,
        status.messages,
        status.tokens,
        last,
        status.dropped,
        session,
        [(one.key, one.seq, one.digest) for one in ids if 1 <= one.seq <= last + 1],
        [
            _Entry(*one[:-1], ranges=list(one.ranges))
            for one in history
            if not _fault_of_entry(one, last)
        ],
    )
    return _ENCODER.encode(header).decode()


def record_line(one: Stored) -> str:
    """Return the line of a record."""
    line = Line(one.seq, one.ts, one.tokens, one.flags, one.group, one.item, one.id, one.notes)
    return _ENCODER.encode(line).decode()


def read_header(number: int, line: str) -> Header:
    """Read the first line.

    Raises:
        ImportRefused: it is none.
    """
    try:
        header = _HEADER.decode(line)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise refused(number, f"is no header of an export ({_kind(error)})") from None
    fault = _fault_of_ids(header) or _fault_of_history(header)
    if fault:
        raise refused(number, f"is no header of an export ({fault})")
    return header


def read_record(number: int, line: str) -> Line:
    """Read another line.

    Raises:
        ImportRefused: it is no record.
    """
    try:
        return _LINE.decode(line)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise refused(number, f"is no record of an export ({_kind(error)})") from None


def refused(number: int, what: str) -> ImportRefused:
    """Say what is wrong with a line."""
    return ImportRefused(f"line {number} {what}; nothing of this part was written", line=number)


def _fault_of_ids(header: Header) -> str:
    """Say what is wrong with ids, if anything is. That of an empty batch stands before what comes next."""
    ids = header.ids or ()
    if any(seq > header.last_seq + 1 for _, seq, _ in ids):
        return "an id is of a message above `lastSeq` - at `$.ids[...]`"
    if len({known_part(key) for key, _, _ in ids}) < len(ids):
        return "an id stands there twice - at `$.ids[...]`"
    return ""


def _fault_of_history(header: Header) -> str:
    faults = (_fault_of_entry(one, header.last_seq) for one in header.history or ())
    return next((f"{fault} - at `$.history[...]`" for fault in faults if fault), "")


def _fault_of_entry(one: "_Entry | Departed", last_seq: int) -> str:
    if one.rule not in _RULES and not _PART.fullmatch(one.rule):
        return "a rule that nothing leaves by"
    if not 1 <= one.first <= one.last <= last_seq or not 0 <= one.summary <= last_seq:
        return "a message above `lastSeq`, or the last before the first"
    before = one.first - 1
    for low, high in one.ranges:
        if not before < low <= high <= one.last:
            return "ranges out of order"
        before = high
    return ""


def _kind(error: Exception) -> str:
    """Say what is wrong with JSON: types and places, which are ours, and no value."""
    if not isinstance(error, msgspec.ValidationError):
        return type(error).__name__
    what, at, place = str(error).rpartition(" - at ")
    if (what or place).startswith("Invalid"):  # goes on with the value
        return f"Unexpected value{at}{place if at else ''}"
    return str(error)
