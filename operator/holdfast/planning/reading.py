"""What a reader gets: only what a model accepts, whole groups, within a token budget."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from holdfast.values import CALLS, Flag, Stored

_CALLS = int(Flag.ORPHAN) | CALLS


@dataclass(frozen=True, slots=True)
class Fit:
    """The newest whole groups within a budget, or what the least would have cost.

    Attributes:
        records: in append order; empty when the budget is too small.
        needed: tokens of the least that must be returned; at least so many where `starved`.
        cut: something presentable was left out.
        starved: what fits hangs on records that are not here: give more of them.
    """

    records: tuple[Stored, ...]
    needed: int
    cut: bool
    starved: bool = False


def presentable(
    records: Sequence[Stored], *, own: Collection[int] = (), turn_elsewhere: bool = False
) -> list[Stored]:
    """Leave out what a model would refuse, keeping the order.

    Left out are results whose call is gone, and groups with an unanswered tool call, unless it is
    the newest group or the reader's own. While somebody else holds the turn, their newest group is
    left out as well while it is open.

    Args:
        records: of the whole session or of its newest part, in append order.
        own: sequence numbers of the records that the reader's own turn wrote.
        turn_elsewhere: another caller holds the turn now.
    """
    calls = [record for record in records if record.flags & _CALLS]
    if not calls:
        return list(records)
    unanswered: dict[int, int] = {}
    for record in calls:
        unanswered[record.group] = unanswered.get(record.group, 0) + record.opens - record.closes
    newest = records[-1].group
    mine = {record.group for record in calls if record.seq in own}
    hidden = {
        group
        for group, missing in unanswered.items()
        if missing > 0 and group not in mine and (group != newest or turn_elsewhere)
    }
    return [
        record
        for record in records
        if not record.flags & Flag.ORPHAN and record.group not in hidden
    ]


_SYSTEM, _SUMMARY = int(Flag.SYSTEM), int(Flag.SUMMARY)
_FIRST = _SYSTEM | _SUMMARY


def order_for_model(records: Sequence[Stored], *, oldest_left: bool) -> list[Stored]:
    """Put system records and summaries first once the oldest part has left; else keep the append order.

    A conversation whose beginning is gone would otherwise start with whatever came next.

    Args:
        records: in append order.
        oldest_left: something older was evicted or did not fit.
    """
    summaries = [record for record in records if record.flags & _SUMMARY]
    if not oldest_left and not summaries:
        return list(records)
    system = [record for record in records if record.flags & _SYSTEM]
    rest = [record for record in records if not record.flags & _FIRST]
    return system + summaries + rest


def fit_budget(records: Sequence[Stored], budget: int, *, complete: bool) -> Fit:
    """Take every protected record, then the newest whole groups that fit.

    Stops at the first group that does not fit, so that what is returned has no hole.

    Args:
        records: presentable records in append order: all protected ones, and the newest part of
            the others.
        budget: tokens.
        complete: the newest part is all there is. Otherwise a group whose first record is not here
            is incomplete and is never taken.
    """
    protected = [record for record in records if record.protected]
    groups: dict[int, list[Stored]] = {}
    for record in records:
        if not record.protected:
            groups.setdefault(record.group, []).append(record)
    used = sum(record.tokens for record in protected)
    newest_first = sorted(groups.values(), key=lambda group: -group[-1].seq)
    if not complete and not (newest_first and _begins_here(newest_first[0])):
        return Fit((), used, cut=True, starved=True)
    needed = used + (sum(record.tokens for record in newest_first[0]) if newest_first else 0)
    if needed > budget:
        return Fit((), needed, cut=True)
    taken = protected
    for group in newest_first:
        cost = sum(record.tokens for record in group)
        cut = used + cost > budget
        # Too large or not: what is here of it cannot show whether a call of it still waits, which
        # would hide it and let those before it in.
        starved = not complete and not _begins_here(group)
        if cut or starved:
            break
        taken += group
        used += cost
    else:
        cut = starved = not complete
    newest = tuple(sorted(taken, key=lambda record: record.seq))
    return Fit(newest, needed, cut or starved, starved)


def _begins_here(group: Sequence[Stored]) -> bool:
    return group[0].seq == group[0].group
