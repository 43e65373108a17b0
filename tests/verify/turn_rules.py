"""Turns: one holder at a time, who writes while it is one, and waiters who are served in order."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from tests.verify.case import UNDER_LEASE, Case, Kind, Violation
from tests.verify.history import Call, Op


def lost_leases(case: Case) -> Iterator[Violation]:
    """Numbers and fences grow together, and a turn is over once others cleared the session."""
    entered = _turns(case)
    written = (
        []
        if case.erased
        else sorted(
            (
                (call.result.seq, entered[call.turn], call)
                for call in case.appends
                if call.turn in entered and call.ok and not call.result.duplicate
                if not case.undone(call)
            ),
            key=lambda one: one[0],
        )
    )
    newest: tuple[Call, Call] | None = None
    for _, turn, call in written:
        if newest is not None and turn.result.fence < newest[0].result.fence:
            yield Violation(
                Kind.LOST_LEASE,
                case.session,
                f"fence {turn.result.fence} wrote {call.result.seq} after fence "
                f"{newest[0].result.fence} had written",
                (turn, newest[0], newest[1], call),
            )
        elif newest is None or turn.result.fence > newest[0].result.fence:
            newest = turn, call
    clears = [call for call in case.removals if not case.within_loss(call)]
    for call in case.calls:
        turn = entered.get(call.turn) if call.begun.op in UNDER_LEASE and call.ok else None
        if turn is None or call.result.duplicate:
            continue
        for clear in clears:
            between = (turn.end or 0) < clear.begin and (clear.end or 0) < call.begin
            if between and clear.turn != call.turn:
                yield Violation(
                    Kind.LOST_LEASE,
                    case.session,
                    "a turn goes on although somebody else cleared the session",
                    (turn, clear, call),
                )
                break


def _turns(case: Case) -> Mapping[tuple[str, int] | None, Call]:
    """The calls that were granted a turn."""
    return {call.turn: call for call in case.calls if call.begun.op is Op.ENTER and call.ok}


def two_holders(case: Case) -> Iterator[Violation]:
    """Once a turn is known to be granted, no older one does anything; fences grow with time."""
    entered = _turns(case)
    turns = sorted(entered.values(), key=lambda turn: turn.result.fence)
    for one, other in pairwise(turns):
        if one.result.fence == other.result.fence:
            yield Violation(
                Kind.TWO_HOLDERS, case.session, "two turns have one fence", (one, other)
            )
    later = _known_later(case, turns)
    for turn in turns:
        known = later.get(turn.result.fence)
        if known is not None and (known.end or 0) < turn.begin:
            yield Violation(Kind.TWO_HOLDERS, case.session, "a fence went back", (known, turn))
    for call in case.calls:
        turn = entered.get(call.turn) if call.begun.op in UNDER_LEASE and call.ok else None
        if turn is None or call.result.duplicate or case.undone(call):
            continue
        if case.lossy is not None and call.begun.op is not Op.APPEND:
            continue  # a primary that does not know yet that it is none
        known = later.get(turn.result.fence)
        if known is not None and (known.end or 0) < call.begin:
            yield Violation(
                Kind.TWO_HOLDERS,
                case.session,
                f"fence {turn.result.fence} goes on after fence {known.result.fence} was granted",
                (turn, known, call),
            )


def _known_later(case: Case, turns: Sequence[Call]) -> dict[int, Call]:
    """For a fence, of the turns with a higher one that which was known first."""
    later: dict[int, Call] = {}
    earliest: Call | None = None
    for turn in reversed(turns):
        if earliest is not None:
            later[turn.result.fence] = earliest
        if case.within_loss(turn):
            continue  # a failover may lose a turn as it may lose a message
        if earliest is None or (turn.end or 0) < (earliest.end or 0):
            earliest = turn
    return later


def waiters_out_of_order(case: Case, grant: float = 2.0) -> Iterator[Violation]:
    """Who stood in line before another came is served before it.

    A waiter that is handed the turn and does not take it within the grant time may be passed over, so
    one that waited as long as that is no witness. An erasure ends the line as well.
    """
    if case.erased:
        return
    waited = sorted(
        (turn for turn in _turns(case).values() if turn.result.queued),
        key=lambda turn: turn.result.queued,
    )
    witnesses = [turn for turn in waited if not _may_be_passed_over(case, turn, grant)]
    others = sorted(waited, key=lambda turn: turn.begin)
    # Of those who were in line by then, whoever got the highest fence.
    at, best = 0, None
    for other in others:
        while at < len(witnesses) and witnesses[at].result.queued < other.begin:
            if best is None or witnesses[at].result.fence > best.result.fence:
                best = witnesses[at]
            at += 1
        if best is not None and best.result.fence > other.result.fence:
            yield Violation(
                Kind.WAITERS,
                case.session,
                f"{best.begun.actor} was in line before {other.begun.actor} came, and was served after it",
                (best, other),
            )


def _may_be_passed_over(case: Case, turn: Call, grant: float) -> bool:
    end = turn.end or 0
    if any(fault.loses and fault.begin < end and fault.end > turn.begin for fault in case.faults):
        return True
    # Counted from its begin: its process may have been stopped before it heard of its place. Whoever
    # has waited as long as it meant to is not in line any more, even if it asks once more and is lucky.
    patience = _patience(turn)
    longest = grant if patience is None else min(grant, patience)
    return (end - turn.begin) / 1e9 >= longest


def _patience(turn: Call) -> float | None:
    """Seconds that a caller meant to wait, as its detail says: `wait=200ms`."""
    found = re.fullmatch(r"wait=(\d+)(ms|s)", turn.begun.detail)
    return None if found is None else int(found[1]) / (1000 if found[2] == "ms" else 1)
