"""What must hold of a history and of what it left in the store; each rule is one function.

A call that ended with `ok` happened, once. One that ended with an error which says that nothing was
written did not. One in doubt (its process was killed, its connection broke) may have happened at any
time after it began, at most once.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from tests.verify.append_rules import (
    duplicated_appends,
    lost_appends,
    lost_to_readers,
    reordered_appends,
    unsent_records,
)
from tests.verify.case import IN_DOUBT, OVER, REMOVES, UNDER_LEASE, Case, Rules, Violation
from tests.verify.content_rules import what_came_back, what_vanished
from tests.verify.history import Call, History, Op
from tests.verify.images import Image
from tests.verify.state_rules import missing_expiries, unexpected_errors, untrue_counters
from tests.verify.turn_rules import lost_leases, two_holders, waiters_out_of_order

RULES = (
    lost_appends,
    lost_to_readers,
    duplicated_appends,
    reordered_appends,
    unsent_records,
    lost_leases,
    two_holders,
    waiters_out_of_order,
    what_came_back,
    what_vanished,
    untrue_counters,
    missing_expiries,
    unexpected_errors,
)

"""Every rule."""


def check(
    history: History,
    images: Mapping[str, Image],
    rules: Callable[[str], Rules],
    probes: Iterable[Image] = (),
) -> tuple[list[Violation], int]:
    """Apply every rule to every session.

    Args:
        history: of the run.
        images: by session, what is stored in the end.
        rules: of a session by its name.
        probes: what was stored at moments before.

    Returns:
        What is wrong, and how many acknowledged messages a failover has lost.
    """
    calls: defaultdict[str, list[Call]] = defaultdict(list)
    for call in history.calls:
        calls[call.begun.session].append(call)
    taken: defaultdict[str, list[Image]] = defaultdict(list)
    for probe in probes:
        taken[probe.session].append(probe)
    found: list[Violation] = []
    lost = 0
    for session in sorted(calls.keys() | taken.keys() | images.keys()):
        case = Case(
            session,
            rules(session),
            calls.get(session, ()),
            images.get(session),
            taken.get(session, ()),
            history.summaries,
            history.faults,
        )
        for rule in RULES:
            found += rule(case)
        if case.rules.keeps:  # elsewhere it may be gone for other reasons
            lost += len(case.excused)
    return found, lost


def evidence(history: History, images: Iterable[Image]) -> Counter[str]:
    """Count what the rules had to go by: where there is nothing, they say nothing."""
    seen: Counter[str] = Counter()
    for call in history.calls:
        op = call.begun.op
        if op is Op.APPEND:
            seen["appends acknowledged"] += call.ok
            seen["appends in doubt"] += call.outcome in IN_DOUBT
            seen["appends answered as duplicates"] += call.ok and call.result.duplicate
        elif op is Op.ENTER and call.ok:
            seen["turns"] += 1
            seen["turns waited for in line"] += call.result.queued > 0
        elif op in REMOVES and call.ok:
            seen["clears and erasures"] += 1
        seen["writes refused to lost turns"] += op in UNDER_LEASE and call.outcome in OVER
        seen["messages shown to readers"] += len(call.result.seen) if call.ok else 0
    for image in images:
        seen["states recounted"] += 1
        seen["records recounted"] += len(image.log) + len(image.pin)
        seen["summaries that stand"] += sum(entry.summary for entry in image.pin)
    seen["summaries written"] = len(history.summaries)
    return seen
