"""One session of a run, taken apart: what the rules ask of its calls and of what is stored."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from tests.verify.history import CANCELLED, CUT_OFF, Call, Fault, Op, Summarised
from tests.verify.images import Entry, Image

SLOT_MOVED = "slot moved"
"""A fault in which keys move to another node."""
IN_DOUBT = frozenset({CUT_OFF, CANCELLED, "AmbiguousWrite"})
"""Outcomes of calls that may have happened."""
OVER = frozenset({"LeaseLost", "TurnInterrupted"})
"""Outcomes that say that a turn is over."""
REMOVES = frozenset({Op.CLEAR, Op.ERASE})
UNDER_LEASE = frozenset({Op.APPEND, Op.CHECK, Op.CLEAR, Op.PIN, Op.POP})
"""Calls that a turn may make only while it is held."""


class Kind(StrEnum):
    """What can be wrong."""

    LOST = "lost"
    DUPLICATED = "duplicated"
    REORDERED = "reordered"
    UNSENT = "refused or never sent, and stored"
    LOST_LEASE = "written under a lost lease"
    TWO_HOLDERS = "two holders"
    WAITERS = "waiters out of order"
    CAME_BACK = "erased content came back"
    VANISHED = "unsummarised content vanished"
    COUNTERS = "counters differ from a recount"
    NO_EXPIRY = "key without its expiry"
    UNEXPECTED = "unexpected error"


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be.

    Attributes:
        kind: which promise it breaks.
        session: where.
        sentence: what happened.
        events: the calls and faults that show it, as few as do.
    """

    kind: Kind
    session: str
    sentence: str
    events: tuple[Call | Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds in a kind of sessions; see `Profile`."""

    keeps: bool = False
    in_order: bool = False
    spacious: bool = False


@dataclass(frozen=True)
class Case:
    """One session: its calls, its summaries, and what is stored in the end.

    Attributes:
        session: its name.
        rules: of its kind.
        calls: in the order in which they began.
        image: what is stored once all is over.
        probes: what was stored at moments in between.
        summaries: of the whole run, by marker.
        faults: of the whole run.
    """

    session: str
    rules: Rules = Rules()
    calls: Sequence[Call] = ()
    image: Image | None = None
    probes: Sequence[Image] = ()
    summaries: Mapping[str, Summarised] = field(default_factory=dict[str, Summarised])
    faults: Sequence[Fault] = ()

    @cached_property
    def appends(self) -> list[Call]:
        """Every append, in the order in which they began."""
        return [call for call in self.calls if call.begun.op is Op.APPEND]

    @cached_property
    def removals(self) -> list[Call]:
        """The clears and erasures that were carried out, in the order in which they began."""
        return [call for call in self.calls if call.begun.op in REMOVES and call.ok]

    @cached_property
    def by_marker(self) -> Mapping[str, Sequence[Call]]:
        """The appends that sent a marker."""
        found: defaultdict[str, list[Call]] = defaultdict(list)
        for call in self.appends:
            for marker in call.begun.markers:
                found[marker].append(call)
        return found

    @cached_property
    def live(self) -> list[Entry]:
        """The records that are there in the end."""
        return self.image.entries if self.image is not None else []

    @cached_property
    def acknowledged(self) -> dict[str, tuple[int, Call]]:
        """Marker -> its number, and the first call that was told so."""
        found: dict[str, tuple[int, Call]] = {}
        for call in self.appends:
            if call.ok and call.result.seq:
                for at, marker in enumerate(call.begun.markers):
                    found.setdefault(marker, (call.result.seq + at, call))
        return found

    @cached_property
    def lossy(self) -> int | None:
        """When the first fault began that may lose what was acknowledged; None: there was none."""
        return min((fault.begin for fault in self.faults if fault.loses), default=None)

    @cached_property
    def _losses(self) -> list[Fault]:
        return [fault for fault in self.faults if fault.loses]

    def within_loss(self, call: Call) -> bool:
        """Whether it was acknowledged in a failover. What was before that, the replica had."""
        return any(
            (call.end is None or call.end >= fault.begin) and call.begin <= fault.end
            for fault in self._losses
        )

    @cached_property
    def excused(self) -> frozenset[str]:
        """Markers that a failover has lost: acknowledged while it went on, and not there."""
        if self.lossy is None:
            return frozenset()
        return frozenset(
            marker
            for marker, (_, call) in self.acknowledged.items()
            if marker not in self.places and self.within_loss(call)
        )

    @cached_property
    def erased(self) -> bool:
        """Whether somebody tried to erase the session: then numbers begin again and ids are forgotten."""
        return any(call.begun.op is Op.ERASE for call in self.calls)

    @cached_property
    def places(self) -> dict[str, int]:
        """Marker -> the number under which it is stored."""
        return {entry.marker: entry.seq for entry in self.live if not entry.summary}

    def undone(self, call: Call) -> bool:
        """Whether a failover took an acknowledged append back, or another number was given to it."""
        if call.begun.op is not Op.APPEND or not self.within_loss(call):
            return False
        return any(
            self.places.get(marker) != call.result.seq + at or self._stored_later(marker, call)
            for at, marker in enumerate(call.begun.markers)
        )

    def _stored_later(self, marker: str, call: Call) -> bool:
        """Whether it was stored once more after this: also a number that was lost may be the next again."""
        later = (other for other in self.by_marker[marker] if other.begin > call.begin)
        return any(other.ok and not other.result.duplicate for other in later)

    @cached_property
    def shown(self) -> list[tuple[str, Call | None]]:
        """Markers that are stored or were read, with the read."""
        found: list[tuple[str, Call | None]] = [
            (entry.marker, None) for entry in self.live if not entry.summary
        ]
        for call in self.calls:
            if call.ok:
                found += [
                    (marker, call)
                    for _, marker in call.result.seen
                    if marker and not marker.startswith("s:")
                ]
        return found

    def covered(self, marker: str) -> set[str]:
        """Markers of the messages that a summary stands for, with those folded into it."""
        found: set[str] = set()
        ahead, known = [marker], {marker}
        while ahead:
            summary = self.summaries.get(ahead.pop())
            if summary is not None:
                found.update(summary.markers)
                ahead += [fold for fold in summary.folds if fold not in known]
                known.update(summary.folds)
        return found
