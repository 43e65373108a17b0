"""Appends: none lost, none twice, none in another order, none that was refused."""

from collections import Counter
from collections.abc import Iterable, Iterator

from tests.verify.case import IN_DOUBT, OVER, Case, Kind, Violation
from tests.verify.history import Call, Op


def lost_appends(case: Case) -> Iterator[Violation]:
    """What was acknowledged is there, in a session that keeps everything."""
    if not case.rules.keeps:
        return
    there = {entry.marker for entry in case.live}
    for marker, (seq, call) in case.acknowledged.items():
        if marker not in there and marker not in case.excused:
            yield Violation(
                Kind.LOST,
                case.session,
                f"{marker} was acknowledged as {seq}, and is not there",
                (call,),
            )
    if case.image is None or case.image.meta is None or case.lossy is not None:
        return
    missing = set(range(1, case.image.meta.next)) - {entry.seq for entry in case.live}
    missing -= {seq for seq, _ in case.acknowledged.values()}
    if missing:
        yield Violation(
            Kind.LOST,
            case.session,
            f"the numbers {sorted(missing)[:5]} were given out, and are gone",
        )


def lost_to_readers(case: Case) -> Iterator[Violation]:
    """A read shows what was acknowledged before it began, in a session that keeps everything."""
    if not case.rules.keeps or case.lossy is not None:
        return
    known = _Newest(call for call in case.appends if call.ok and not call.result.duplicate)
    for call in case.calls:
        if call.begun.op not in (Op.READ, Op.PAGE) or not call.ok:
            continue
        newest = known.before(call.begin)
        if newest is None or (call.begun.op is Op.PAGE and call.result.detail == "more"):
            continue
        top, author = newest
        seqs = [_seq_of(case, seq, marker) for seq, marker in call.result.seen]
        if max(seqs, default=_after(call)) < top:
            yield Violation(
                Kind.LOST,
                case.session,
                f"{top} was acknowledged before a read that does not show it",
                (author, call),
            )
        numbers = [seq for seq, _ in call.result.seen if seq]
        if numbers and numbers[-1] - numbers[0] + 1 != len(numbers):
            yield Violation(
                Kind.LOST,
                case.session,
                "a page of a session that keeps everything has gaps",
                (call,),
            )


def _after(call: Call) -> int:
    """The number above which a page shows messages."""
    name, _, value = call.begun.detail.partition("=")
    return int(value) if name == "after" else 0


def _seq_of(case: Case, seq: int, marker: str) -> int:
    """The number of a message that was read: as it was shown, or as it was acknowledged."""
    if seq:
        return seq
    known = case.acknowledged.get(marker)
    return known[0] if known is not None else 2**53  # in doubt: as new as it could be


class _Newest:
    """The highest number that was acknowledged before a moment."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self._ended = sorted(
            ((call.end or 0, _last(call), call) for call in calls), key=lambda one: one[0]
        )
        best: tuple[int, Call] | None = None
        self._best: list[tuple[int, Call]] = []
        for _, last, call in self._ended:
            best = max(best, (last, call), key=lambda one: one[0]) if best else (last, call)
            self._best.append(best)

    def before(self, moment: int) -> tuple[int, Call] | None:
        """The number, and whose it is."""
        low, high = 0, len(self._ended)
        while low < high:
            middle = (low + high) // 2
            if self._ended[middle][0] < moment:
                low = middle + 1
            else:
                high = middle
        return self._best[low - 1] if low else None


def _last(call: Call) -> int:
    return call.result.seq + len(call.begun.markers) - 1


def duplicated_appends(case: Case) -> Iterator[Violation]:
    """No message is stored twice, shown twice, or acknowledged under two numbers."""
    stored = Counter(entry.marker for entry in case.live if entry.marker and not entry.summary)
    for marker, times in stored.items():
        if times > 1:
            yield Violation(
                Kind.DUPLICATED,
                case.session,
                f"{marker} is stored {times} times",
                tuple(case.by_marker.get(marker, ())),
            )
    for call in case.calls:
        if call.ok and call.result.seen:
            shown = Counter(marker for _, marker in call.result.seen if marker)
            twice = [marker for marker, times in shown.items() if times > 1]
            if twice:
                yield Violation(
                    Kind.DUPLICATED, case.session, f"a read shows {twice[0]} twice", (call,)
                )
    if case.lossy is not None or case.erased:
        return
    for marker, (seq, first) in case.acknowledged.items():
        for call in case.by_marker[marker]:
            if not call.ok:
                continue
            if call.result.seq + call.begun.markers.index(marker) != seq:
                yield Violation(
                    Kind.DUPLICATED,
                    case.session,
                    f"{marker} was acknowledged as {seq} and as {call.result.seq}",
                    (first, call),
                )
    yield from _shared_numbers(case)


def _shared_numbers(case: Case) -> Iterator[Violation]:
    """No number is given to two messages."""
    owners: dict[int, str] = {}
    for marker, (seq, call) in case.acknowledged.items():
        other = owners.setdefault(seq, marker)
        if other != marker:
            yield Violation(
                Kind.DUPLICATED,
                case.session,
                f"{seq} was given to {other} and to {marker}",
                (case.acknowledged[other][1], call),
            )


def reordered_appends(case: Case) -> Iterator[Violation]:
    """What was acknowledged before another append began has the lower number; lists are in order."""
    for image in (*case.probes, *([case.image] if case.image else [])):
        for name, entries in (("log", image.log), ("pin", image.pin)):
            seqs = [entry.seq for entry in entries]
            if seqs != sorted(set(seqs)):
                yield Violation(
                    Kind.REORDERED,
                    case.session,
                    f"the numbers in {name} do not ascend: {seqs[:20]}",
                )
    for call in case.calls:
        numbers = [seq for seq, _ in call.result.seen if seq] if call.ok else []
        if numbers != sorted(set(numbers)):
            yield Violation(Kind.REORDERED, case.session, "a page is not in order", (call,))
    told = [
        call for call in case.appends if call.ok and call.result.seq and not call.result.duplicate
    ]
    told = [call for call in told if not case.undone(call)]
    if case.erased:
        return
    known = _Newest(told)
    for call in told:
        newest = known.before(call.begin)
        if newest is not None and newest[0] >= call.result.seq:
            yield Violation(
                Kind.REORDERED,
                case.session,
                f"{call.result.seq} was given out after {newest[0]} had been acknowledged",
                (newest[1], call),
            )
    yield from _misplaced(case)


def _misplaced(case: Case) -> Iterator[Violation]:
    """What is stored under a number, or shown under it, is what was acknowledged as it."""
    for entry in case.live:
        known = case.acknowledged.get(entry.marker)
        if known is not None and not entry.summary and known[0] != entry.seq:
            if case.lossy is not None:
                continue  # acknowledged, lost, and sent again
            yield Violation(
                Kind.REORDERED,
                case.session,
                f"{entry.marker} was acknowledged as {known[0]} and stands at {entry.seq}",
                (known[1],),
            )


def unsent_records(case: Case) -> Iterator[Violation]:
    """What is stored was sent, and not refused."""
    accused: set[str] = set()
    for marker, read in case.shown:
        calls = case.by_marker.get(marker, ())
        if marker in accused or any(call.ok or call.outcome in IN_DOUBT for call in calls):
            continue
        accused.add(marker)
        lease = any(call.outcome in OVER for call in calls)
        words = f"was refused with {calls[0].outcome}" if calls else "was never sent"
        events = (*calls, read) if read is not None else tuple(calls)
        yield Violation(
            Kind.LOST_LEASE if lease else Kind.UNSENT,
            case.session,
            f"{marker} {words}, and is stored",
            events,
        )
