"""Content: what was cleared stays away, and what left is accounted for."""

from collections.abc import Collection, Iterable, Iterator

from tests.verify.case import IN_DOUBT, Case, Kind, Violation
from tests.verify.history import Call

_NOT_DROPPED = frozenset({"pop", "clear", "erase", "HybridSummary", "fold"})

"""Rules of the history under which nothing is counted as dropped."""


def what_came_back(case: Case) -> Iterator[Violation]:
    """What was acknowledged before a clear is not shown to reads after it, nor in any summary.

    A failover may lose a clear, and the id of an append; a read in it may be of a primary that is none.
    """
    clears = [call for call in case.removals if not case.within_loss(call)]
    if not clears:
        return
    accused: set[str] = set()
    for marker, read in [*case.shown, *_shown_in_summaries(case)]:
        if marker in accused or marker not in case.acknowledged:
            continue
        if any(map(case.within_loss, [*case.by_marker[marker], *([read] if read else [])])):
            continue
        moment = read.begin if read is not None else None
        clear = _cleared(case, marker, clears, moment)
        if clear is not None:
            accused.add(marker)
            events = (case.acknowledged[marker][1], clear, *([read] if read is not None else []))
            yield Violation(
                Kind.CAME_BACK,
                case.session,
                f"{marker} was there before the session was cleared, and is there again",
                events,
            )


def _shown_in_summaries(case: Case) -> Iterator[tuple[str, Call | None]]:
    """What the summaries stand for that are stored or were read, with the read."""
    for entry in case.live:
        if entry.summary:
            yield from ((marker, None) for marker in case.covered(entry.marker))
    for call in case.calls:
        for _, marker in call.result.seen if call.ok else ():
            if marker.startswith("s:"):
                yield from ((inner, call) for inner in case.covered(marker.removeprefix("s:")))


def _cleared(case: Case, marker: str, clears: Iterable[Call], moment: int | None) -> Call | None:
    """The call that removed an acknowledged message for good before a moment; None: none did."""
    told = case.acknowledged[marker][1].end or 0
    for clear in clears:
        between = told < clear.begin and (moment is None or (clear.end or 0) < moment)
        # A clear keeps the ids, unless the session is erased as well.
        for_good = not case.erased or _was_over(case.by_marker[marker], clear.begin)
        if between and for_good:
            return clear
    return None


def _was_over(calls: Iterable[Call], moment: int) -> bool:
    """Whether nothing of an append can come in any more: after an erasure ids are not known."""
    return all(call.outcome not in IN_DOUBT and (call.end or 0) < moment for call in calls)


def what_vanished(case: Case) -> Iterator[Violation]:
    """What left is in a summary that is there, or was taken out on purpose, or is counted as dropped."""
    image = case.image
    if image is None or image.meta is None or case.rules.keeps or case.lossy is not None:
        return
    if case.erased:
        return  # there is no account of what there was
    live = {entry.seq for entry in case.live}
    gone = set(range(1, image.meta.next)) - live
    left: set[int] = set()
    summarised: set[int] = set()
    dropped: set[int] = set()
    exact = all(past.seqs is not None for past in image.past)
    for past in image.past:
        seqs = set(past.seqs if past.seqs is not None else range(past.first, past.last + 1))
        left |= seqs
        if past.rule == "HybridSummary":
            summarised |= seqs
        elif past.rule not in _NOT_DROPPED:
            dropped |= seqs
    dropped -= summarised
    by_limit = gone - left
    counted = image.meta.dropped
    if exact and counted < len(by_limit) + len(dropped):
        yield Violation(
            Kind.VANISHED,
            case.session,
            f"{len(by_limit)} left by no rule and {len(dropped)} by a flush, and {counted} are counted "
            f"as dropped; without a rule: {sorted(by_limit)[:10]}",
            _writers(case, sorted(by_limit)[:3]),
        )
    if exact and counted > len(by_limit) + len(dropped):
        yield Violation(
            Kind.COUNTERS,
            case.session,
            f"{counted} are counted as dropped, and {len(by_limit) + len(dropped)} were",
        )
    if case.rules.spacious and counted:
        yield Violation(
            Kind.VANISHED,
            case.session,
            f"{counted} are counted as dropped in a session that has room for all",
            _writers(case, sorted(by_limit)[:3]),
        )
    yield from _out_of_order(case, (by_limit | dropped) if exact else set())
    yield from _not_in_the_summary(case, summarised & gone)


def _out_of_order(case: Case, dropped: Collection[int]) -> Iterator[Violation]:
    """Where the oldest leave first, nothing that may be evicted is older than what was."""
    assert case.image is not None
    oldest = min((entry.seq for entry in case.image.log), default=None)
    if not case.rules.in_order or oldest is None:
        return
    younger = sorted(seq for seq in dropped if seq > oldest)
    if younger:
        yield Violation(
            Kind.LOST,
            case.session,
            f"{younger[:5]} left although {oldest} is older and stays",
            _writers(case, younger[:1]),
        )


def _not_in_the_summary(case: Case, summarised: Collection[int]) -> Iterator[Violation]:
    """What is said to be in a summary is in one that is there, unless the session was cleared since."""
    covered: set[str] = set()
    for entry in case.live:
        if entry.summary:
            covered |= case.covered(entry.marker)
    assert case.image is not None
    cleared = max((past.last for past in case.image.past if past.rule == "clear"), default=0)
    for marker, (seq, call) in case.acknowledged.items():
        if seq > cleared and seq in summarised and marker not in covered:
            yield Violation(
                Kind.VANISHED,
                case.session,
                f"{marker} ({seq}) is said to be in a summary, and is in none",
                (call,),
            )


def _writers(case: Case, seqs: Collection[int]) -> tuple[Call, ...]:
    return tuple(call for seq, call in case.acknowledged.values() if seq in seqs)
