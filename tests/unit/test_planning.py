"""The pure decisions: what leaves, what belongs together, what a reader gets, when a session ends."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.planning import (
    Backstop,
    Expiry,
    Grouping,
    fit_budget,
    group_records,
    order_for_model,
    plan_backstop,
    plan_expiry,
    plan_shortened,
    presentable,
)
from holdfast.planning.expiry import GRACE as TIME_LEFT
from holdfast.values import PROTECTED, Flag, Prepared, Refresh, Stored, call_flags
from holdfast.values import Terms as AllTerms

LEASE = 30_000
NOW = 1_000_000


def terms(
    *, tokens: int = 0, messages: int = 0, ttl: int = 1000, lifetime: int = 0, lease: int = LEASE
) -> AllTerms:
    return AllTerms(
        revision=0,
        max_tokens=tokens,
        max_messages=messages,
        refuse=False,
        ttl=ttl,
        after_clear=0,
        after_flush=0,
        max_lifetime=lifetime,
        refresh=Refresh.WRITE,
        lease=lease,
        grant=2000,
        enforced=False,
        max_ids=256,
    )


def record(
    seq: int,
    tokens: int = 1,
    *,
    group: int | None = None,
    opens: int = 0,
    closes: int = 0,
    flags: int = 0,
    ts: int = 0,
) -> Stored:
    flags |= call_flags(opens, closes)
    return Stored(tokens, flags, seq, ts, group or seq, None, f"item {seq}")


def seqs(records: Iterable[Stored]) -> list[int]:
    return [one.seq for one in records]


def by_group(records: Iterable[Stored]) -> dict[int, list[Stored]]:
    groups: dict[int, list[Stored]] = {}
    for one in records:
        groups.setdefault(one.group, []).append(one)
    return groups


def missing(group: Iterable[Stored]) -> int:
    return sum(one.opens - one.closes for one in group)


class Drawn(NamedTuple):
    """What a record of a drawn session is like; `back` points to an earlier one that it joins."""

    tokens: int
    back: int
    opens: int
    closes: int
    flags: int
    ts: int


@st.composite
def sessions(draw: st.DrawFn, *, protected: bool = True, most: int = 24) -> list[Stored]:
    """Sessions in which groups lie apart, calls wait, and results have lost their call."""
    flags = [0, 0, 0, Flag.ORPHAN, Flag.INEXACT]
    if protected:
        flags += [Flag.SYSTEM, Flag.PINNED]
    shapes = st.builds(
        Drawn,
        tokens=st.integers(0, 12),
        back=st.sampled_from([0, 0, 0, 1, 2, 3, 7]),
        opens=st.sampled_from([0, 0, 0, 1, 2]),
        closes=st.sampled_from([0, 0, 0, 1, 2]),
        flags=st.sampled_from([int(flag) for flag in flags]),
        ts=st.integers(0, LEASE),
    )
    gaps = st.sampled_from([1, 1, 1, 2, 5])
    records: list[Stored] = []
    seq, ts = 0, NOW - 2 * LEASE
    for shape in draw(st.lists(shapes, max_size=most)):
        seq, ts = seq + draw(gaps), ts + shape.ts // 8
        group = records[-shape.back].group if 0 < shape.back <= len(records) else seq
        records.append(
            record(
                seq,
                shape.tokens,
                group=group,
                opens=shape.opens,
                closes=shape.closes if group != seq else 0,
                flags=shape.flags,
                ts=ts,
            )
        )
    guarded = {one.group for one in records if one.protected}
    return [
        one
        if one.protected or one.group not in guarded
        else Stored(one.tokens, one.flags | Flag.PINNED, one.seq, one.ts, one.group, None, one.item)
        for one in records
    ]


# --- the backstop


def backstop(
    log: Sequence[Stored],
    limits: AllTerms,
    *,
    keep: Iterable[int] = (),
    more_tokens: int = 0,
    more_messages: int = 0,
) -> Backstop:
    return plan_backstop(
        log,
        tokens=sum(one.tokens for one in log) + more_tokens,
        messages=len(log) + more_messages,
        terms=limits,
        keep=set(keep),
        now=NOW,
    )


CALL = record(1, 5, opens=2, ts=NOW - LEASE + 1)
SPREAD = [
    record(1, 5, opens=1),
    record(2, 10),
    record(3, 5, group=1, closes=1),
    record(4, 10),
]


@pytest.mark.parametrize(
    ("log", "limits", "evict", "left"),
    [
        pytest.param([], terms(tokens=1), (), (0, 0), id="an empty log"),
        pytest.param([record(1, 9), record(2, 9)], terms(), (), (0, 0), id="no limits"),
        pytest.param(
            [record(1, 5), record(2, 5)],
            terms(tokens=10, messages=2),
            (),
            (0, 0),
            id="exactly full",
        ),
        pytest.param(
            [record(1, 5), record(2, 5), record(3, 1)], terms(tokens=10), (0,), (0, 0), id="oldest"
        ),
        pytest.param(
            [record(1, 1), record(2, 1), record(3, 9)],
            terms(tokens=9),
            (0, 1),
            (0, 0),
            id="as many as it takes",
        ),
        pytest.param(
            [record(1, 0), record(2, 5), record(3, 5)],
            terms(tokens=5),
            (0, 1),
            (0, 0),
            id="one without tokens is in the way like any other",
        ),
        pytest.param(
            [record(1), record(2), record(3)], terms(messages=1), (0, 1), (0, 0), id="messages"
        ),
        pytest.param(
            [record(1, 9), record(2, 1), record(3, 1)],
            terms(tokens=2, messages=1),
            (0, 1),
            (0, 0),
            id="both limits hold",
        ),
        pytest.param(SPREAD, terms(tokens=29), (0, 2), (0, 0), id="a group that lies apart"),
        pytest.param(SPREAD, terms(messages=1), (0, 1, 2), (0, 0), id="whole groups by messages"),
        pytest.param(
            [CALL, record(2, 5), record(3, 5)],
            terms(tokens=10),
            (1,),
            (0, 0),
            id="a young open call stays",
        ),
        pytest.param(
            [record(1, 5, opens=2, ts=NOW - LEASE), record(2, 5), record(3, 5)],
            terms(tokens=10),
            (0,),
            (0, 0),
            id="an open call of a holder that fell silent leaves",
        ),
        pytest.param(
            [record(1, 5, opens=2), record(2, 5), record(3, 5, group=1, closes=1, ts=NOW)],
            terms(tokens=10),
            (1,),
            (0, 0),
            id="the last record says how young a group is",
        ),
        pytest.param(
            [record(1, 5, opens=1, ts=NOW), record(2, 5, group=1, closes=2, ts=NOW)],
            terms(tokens=1),
            (0, 1),
            (0, 0),
            id="more results than calls leave nothing open",
        ),
        pytest.param(
            [CALL, record(2, 5)], terms(tokens=3), (1,), (2, 0), id="open calls keep it above"
        ),
    ],
)
def test_what_leaves(
    log: list[Stored], limits: AllTerms, evict: tuple[int, ...], left: tuple[int, int]
) -> None:
    plan = backstop(log, limits)
    assert plan.evict == evict
    assert (plan.tokens, plan.messages) == left
    assert plan.over == (left != (0, 0))


def test_groups_that_are_being_written_stay() -> None:
    log = [record(1, 5, opens=1), record(2, 5), record(3, 5)]
    plan = backstop(log, terms(tokens=10), keep={1, 4}, more_tokens=5, more_messages=1)
    assert plan.evict == (1, 2)
    assert not plan.over


@pytest.mark.parametrize(
    ("log", "more", "over", "hopeless"),
    [
        pytest.param([record(1, 5)], 10, False, False, id="room when all has left"),
        pytest.param([record(1, 5)], 11, True, True, id="what is written is too much by itself"),
        pytest.param([CALL], 10, True, False, id="room once the calls are answered"),
        pytest.param([CALL], 11, True, True, id="not even then"),
        pytest.param([CALL, record(2, 5)], 6, True, False, id="one leaves, one waits"),
    ],
)
def test_over_for_now_or_for_good(log: list[Stored], more: int, over: bool, hopeless: bool) -> None:
    plan = backstop(log, terms(tokens=10), more_tokens=more, more_messages=1)
    assert (plan.over, plan.hopeless) == (over, hopeless)


def test_hopeless_by_messages_as_well() -> None:
    log = [CALL, record(2, group=1, closes=1, ts=NOW)]
    assert backstop(log, terms(messages=1), more_messages=1).over
    assert not backstop(log, terms(messages=1), more_messages=1).hopeless
    assert backstop(log, terms(messages=1), more_messages=2).hopeless


LIMITS = st.builds(
    terms,
    tokens=st.integers(0, 120),
    messages=st.integers(0, 24),
    lease=st.sampled_from([0, LEASE, 2 * LEASE]),
)


@given(
    log=sessions(protected=False),
    limits=LIMITS,
    keep=st.sets(st.integers(1, 60), max_size=6),
    more=st.tuples(st.integers(0, 40), st.integers(0, 6)),
)
def test_the_backstop_keeps_its_promises(
    log: list[Stored], limits: AllTerms, keep: set[int], more: tuple[int, int]
) -> None:
    plan = backstop(log, limits, keep=keep, more_tokens=more[0], more_messages=more[1])
    groups = by_group(log)
    waiting = {
        group
        for group, members in groups.items()
        if group not in keep and missing(members) > 0 and members[-1].ts + limits.lease > NOW
    }
    free = [group for group in groups if group not in keep and group not in waiting]
    gone = [log[at] for at in plan.evict]
    left = list(dict.fromkeys(one.group for one in gone))

    # Whole groups, the oldest ones, never one that is kept or waits.
    assert sorted(set(plan.evict)) == list(plan.evict)
    assert seqs(gone) == seqs(one for one in log if one.group in left)
    assert left == free[: len(left)]

    # The accounting adds up.
    def excess(without: Sequence[Stored]) -> tuple[int, int]:
        tokens = sum(one.tokens for one in log) + more[0] - sum(one.tokens for one in without)
        messages = len(log) + more[1] - len(without)
        return (
            max(0, tokens - limits.max_tokens) if limits.max_tokens else 0,
            max(0, messages - limits.max_messages) if limits.max_messages else 0,
        )

    assert (plan.tokens, plan.messages) == excess(gone)
    assert plan.over == (excess(gone) != (0, 0))

    # Not one group more than it takes.
    if left:
        assert excess([one for one in gone if one.group != left[-1]]) != (0, 0)
    if plan.over:
        assert left == free
        held = [one for one in log if one.group in waiting]
        assert plan.waiting_tokens == sum(one.tokens for one in held)
        assert plan.waiting_messages == len(held)
    taken = [one for one in log if one.group not in keep]
    assert plan.hopeless == (excess(taken) != (0, 0))


# --- groups


def message(
    *,
    opens: Iterable[str] = (),
    closes: Iterable[str] = (),
    flags: int = 0,
    group: int = 0,
) -> Prepared:
    return Prepared(b"{}", 1, flags, group, tuple(opens), tuple(closes))


def grouped(
    *batch: Prepared,
    first: int = 10,
    waiting: dict[str, int] | None = None,
    stored: dict[int, int] | None = None,
    protected: Iterable[int] = (),
) -> Grouping:
    known, guarded = stored or {}, set(protected)
    return group_records(
        batch,
        first=first,
        waiting=waiting or {},
        group_of=known.get,
        is_protected=guarded.__contains__,
    )


def calls(flags: int) -> tuple[int, int]:
    """How many calls a record's flags say it opens and closes."""
    found = record(1, flags=flags)
    return found.opens, found.closes


def test_messages_are_groups_of_their_own() -> None:
    found = grouped(message(), message(flags=Flag.INEXACT))
    assert (found.groups, found.flags) == ([10, 11], [0, Flag.INEXACT])
    assert (found.opened, found.answered, found.protected, found.joined) == (
        {},
        set(),
        set(),
        False,
    )


def test_a_call_and_its_results_are_one_group_in_a_batch() -> None:
    found = grouped(
        message(opens=["a", "b"]), message(), message(closes=["b"]), message(closes=["a"])
    )
    assert found.groups == [10, 11, 10, 10]
    assert list(map(calls, found.flags)) == [(2, 0), (0, 0), (0, 1), (0, 1)]
    assert (found.opened, found.answered) == ({}, {"a", "b"})


def test_a_result_joins_the_call_that_waits_in_the_session() -> None:
    found = grouped(message(closes=["a"]), message(opens=["c"]), waiting={"a": 4, "b": 5})
    assert (found.groups, found.opened, found.answered) == ([4, 11], {"c": 11}, {"a"})
    assert calls(found.flags[0]) == (0, 1)


def test_a_result_without_a_call_is_an_orphan() -> None:
    found = grouped(message(closes=["a"]), waiting={"b": 5})
    assert found.groups == [10]
    assert found.flags[0] & Flag.ORPHAN
    assert found.answered == set()


def test_a_result_is_given_once() -> None:
    found = grouped(message(closes=["a"]), message(closes=["a"]), waiting={"a": 4})
    assert found.groups == [4, 11]
    assert [bool(flags & Flag.ORPHAN) for flags in found.flags] == [False, True]


def test_what_may_follow_joins_only_if_something_waits() -> None:
    free = grouped(message(closes=["?a"]))
    assert (free.groups, free.flags) == ([10], [0])
    joined = grouped(message(closes=["?a"]), waiting={"a": 7})
    assert (joined.groups, joined.answered) == ([7], {"a"})
    assert calls(joined.flags[0]) == (0, 1)


def test_leaders_in_a_row_stay_together() -> None:
    found = grouped(
        message(opens=["l"], closes=["?l"]),
        message(opens=["l"], closes=["?l"]),
        message(opens=["x"], closes=["?l"]),
    )
    assert found.groups == [10, 10, 10]
    assert (found.opened, found.answered) == ({"x": 10}, {"l"})


def test_a_call_may_be_asked_again_under_the_same_id() -> None:
    found = grouped(message(opens=["a"]), message(closes=["a"]), message(opens=["a"]))
    assert found.groups == [10, 10, 12]
    assert (found.opened, found.answered) == ({"a": 12}, set())


def test_results_of_two_calls_join_the_first_one_named() -> None:
    found = grouped(message(closes=["b", "a"]), waiting={"a": 3, "b": 5})
    assert (found.groups, found.answered) == ([5], {"a", "b"})
    assert calls(found.flags[0]) == (0, 1)


def test_the_callers_word_is_taken_for_a_group() -> None:
    found = grouped(
        message(group=3),
        message(group=10),
        message(group=99),
        message(group=13),
        stored={3: 2},
    )
    assert found.groups == [2, 2, 12, 13]
    assert found.joined


def test_a_group_that_has_left_is_no_group() -> None:
    found = grouped(message(group=3))
    assert (found.groups, found.joined) == ([10], False)


def test_the_callers_word_beats_the_call() -> None:
    found = grouped(message(group=3, closes=["a"]), stored={3: 3}, waiting={"a": 5})
    assert (found.groups, found.answered) == ([3], {"a"})
    assert calls(found.flags[0]) == (0, 0), "it closes nothing within its own group"


@pytest.mark.parametrize("flag", [Flag.SYSTEM, Flag.PINNED])
def test_protection_covers_the_whole_group(flag: Flag) -> None:
    found = grouped(
        message(opens=["a"]), message(closes=["a"], flags=flag), message(), waiting={"b": 4}
    )
    assert found.protected == {10}
    assert [flags & PROTECTED for flags in found.flags] == [Flag.PINNED, flag, 0]


def test_what_joins_a_protected_group_is_protected() -> None:
    found = grouped(message(closes=["a"]), waiting={"a": 4}, protected=[4])
    assert found.protected == {4}
    assert found.flags[0] & PROTECTED == Flag.PINNED
    free = grouped(message(closes=["a"]), waiting={"a": 4}, protected=[5])
    assert (free.protected, free.flags[0] & PROTECTED) == (set(), 0)


def test_what_protects_an_older_group_says_so() -> None:
    found = grouped(message(closes=["a"], flags=Flag.PINNED), waiting={"a": 4})
    assert found.protected == {4}


@pytest.mark.parametrize("number", [254, 255, 256, 1000, 70_000])
def test_every_call_is_counted_however_many_there_are(number: int) -> None:
    names = [f"c{index}" for index in range(number)]
    found = grouped(message(opens=names, flags=Flag.INEXACT), message(closes=names[1:]))
    assert list(map(calls, found.flags)) == [(number, 0), (0, number - 1)]
    assert found.flags[0] & 0xFFF == Flag.INEXACT


@given(opens=st.integers(0, 2**20 - 1), closes=st.integers(0, 2**20 - 1))
def test_flags_hold_both_numbers_and_travel_as_a_double(opens: int, closes: int) -> None:
    flags = call_flags(opens, closes)
    assert calls(flags | 0xFFF) == (opens, closes)
    assert int(float(flags | 0xFFF)) == flags | 0xFFF


def test_few_calls_have_short_flags() -> None:
    # As every record has them that was stored while more calls than 255 were not told apart.
    assert call_flags(1, 0) == 1 << 12
    assert call_flags(255, 255) == 255 << 12 | 255 << 20


def test_a_group_with_one_of_many_calls_unanswered_is_not_shown() -> None:
    given_ = [record(1, opens=300), record(2, group=1, closes=299), record(3)]
    assert seqs(presentable(given_)) == [3]
    answered = [*given_[:2], record(3, group=1, closes=1), record(4)]
    assert seqs(presentable(answered)) == [1, 2, 3, 4]


NAMES = st.sampled_from("abcd")
MESSAGES = st.builds(
    message,
    opens=st.lists(NAMES, max_size=2, unique=True),
    closes=st.lists(NAMES | NAMES.map("?".__add__), max_size=2, unique=True),
    flags=st.sampled_from([0, 0, 0, int(Flag.SYSTEM), int(Flag.PINNED)]),
    group=st.sampled_from([0, 0, 0, 3, 9, 10, 11, 12, 40]),
)


@given(
    batch=st.lists(MESSAGES, max_size=8),
    waiting=st.dictionaries(NAMES, st.integers(1, 9), max_size=4),
    protected=st.sets(st.integers(1, 9), max_size=4),
)
def test_grouping_adds_up(
    batch: list[Prepared], waiting: dict[str, int], protected: set[int]
) -> None:
    stored = {seq: max(1, seq - 1) for seq in range(1, 10)}
    found = grouped(*batch, waiting=waiting, stored=stored, protected=protected)
    assert len(found.groups) == len(found.flags) == len(batch)
    older = set(waiting.values()) | set(stored.values())
    for at, (group, flags, given_) in enumerate(zip(found.groups, found.flags, batch, strict=True)):
        seq = 10 + at
        assert group == seq or group in found.groups[:at] or group in older
        assert bool(flags & PROTECTED) == (group in found.protected)
        assert flags & given_.flags == given_.flags
        assert calls(flags)[0] == len(given_.opens)
        assert calls(flags)[1] <= len(given_.closes)
        if flags & Flag.ORPHAN:
            assert calls(flags)[1] == 0
            assert any(not call.startswith("?") for call in given_.closes)
    assert not found.opened.keys() & found.answered
    assert set(found.opened.values()) <= set(found.groups)
    assert found.answered <= set(waiting) | {call for one in batch for call in one.opens}
    # What waits afterwards is what was opened last and not answered since.
    expected = dict(waiting)
    for group, given_ in zip(found.groups, batch, strict=True):
        for call in given_.closes:
            expected.pop(call.removeprefix("?"), None)
        expected |= dict.fromkeys(given_.opens, group)
    before = {call: group for call, group in waiting.items() if call not in found.answered}
    assert before | found.opened == expected


# --- what a model accepts


PARALLEL = [
    record(1),
    record(2, opens=2),
    record(3, group=2, closes=1),
    record(4),
]


@pytest.mark.parametrize(
    ("records", "shown"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([record(1), record(2)], [1, 2], id="no calls at all"),
        pytest.param([record(1), record(2, flags=Flag.ORPHAN)], [1], id="an orphan"),
        pytest.param(PARALLEL, [1, 4], id="one of two results is missing"),
        pytest.param([*PARALLEL, record(5, group=2, closes=1)], [1, 2, 3, 4, 5], id="answered"),
        pytest.param(PARALLEL[:3], [1, 2, 3], id="the newest group may be open"),
        pytest.param(
            [*PARALLEL[:3], record(4, flags=Flag.ORPHAN)],
            [1],
            id="an orphan behind it is a newer group",
        ),
        pytest.param([record(1, opens=1), record(2, opens=1)], [2], id="only the newest one"),
        pytest.param(
            [record(1, flags=Flag.SYSTEM | Flag.INEXACT), record(2, flags=Flag.PINNED)],
            [1, 2],
            id="other flags hide nothing",
        ),
    ],
)
def test_what_is_shown(records: list[Stored], shown: list[int]) -> None:
    assert seqs(presentable(records)) == shown


def test_while_somebody_else_answers_the_newest_open_group_is_hidden() -> None:
    assert seqs(presentable(PARALLEL[:3], turn_elsewhere=True)) == [1]
    assert seqs(presentable(PARALLEL, turn_elsewhere=True)) == [1, 4]
    closed = [record(1, opens=1), record(2, group=1, closes=1)]
    assert seqs(presentable(closed, turn_elsewhere=True)) == [1, 2]


def test_a_turn_sees_the_calls_it_made_itself() -> None:
    records = [record(1, opens=1), record(2), record(3, opens=1), record(4)]
    assert seqs(presentable(records, own={3})) == [2, 3, 4]
    assert seqs(presentable(records, own={1, 3})) == [1, 2, 3, 4]
    assert seqs(presentable(records, own={2, 4})) == [2, 4], "its other messages open nothing"


def test_a_turn_sees_the_call_of_another_that_it_began_to_answer() -> None:
    assert seqs(presentable(PARALLEL, own={3})) == [1, 2, 3, 4]


@given(records=sessions(), own=st.sets(st.integers(1, 60), max_size=8), elsewhere=st.booleans())
def test_what_is_shown_is_whole_and_in_order(
    records: list[Stored], own: set[int], elsewhere: bool
) -> None:
    shown = presentable(records, own=own, turn_elsewhere=elsewhere)
    kept = {one.seq for one in shown}
    assert shown == [one for one in records if one.seq in kept]
    assert not any(one.flags & Flag.ORPHAN for one in shown)
    groups = by_group(records)
    newest = records[-1].group if records else 0
    for group, members in groups.items():
        whole = [one.seq for one in members if not one.flags & Flag.ORPHAN]
        assert set(whole) <= kept or not set(whole) & kept
        mine = any(
            one.seq in own and (one.opens or one.closes or one.flags & Flag.ORPHAN)
            for one in members
        )
        accepted = missing(members) <= 0 or mine or (group == newest and not elsewhere)
        assert set(whole) <= kept if accepted else not set(whole) & kept


# --- the order a model gets


def test_nothing_moves_while_the_beginning_is_there() -> None:
    records = [record(1), record(2, flags=Flag.SYSTEM), record(3)]
    assert seqs(order_for_model(records, oldest_left=False)) == [1, 2, 3]


def test_system_messages_come_first_once_the_beginning_has_left() -> None:
    records = [
        record(1, flags=Flag.PINNED),
        record(2, flags=Flag.SYSTEM),
        record(3),
        record(4, flags=Flag.SYSTEM | Flag.PINNED),
    ]
    assert seqs(order_for_model(records, oldest_left=True)) == [2, 4, 1, 3]
    assert seqs(records) == [1, 2, 3, 4]


@given(records=sessions(), left=st.booleans())
def test_the_order_only_moves_system_messages(records: list[Stored], left: bool) -> None:
    ordered = order_for_model(records, oldest_left=left)
    assert sorted(ordered, key=lambda one: one.seq) == records
    for system in (True, False):
        part = [one.seq for one in ordered if bool(one.flags & Flag.SYSTEM) == system]
        assert part == sorted(part)
    if left:
        marks = [not one.flags & Flag.SYSTEM for one in ordered]
        assert marks == sorted(marks)
    else:
        assert ordered == records


# --- a budget of tokens


@pytest.mark.parametrize(
    ("records", "budget", "taken", "cut"),
    [
        pytest.param([], 0, [], False, id="nothing to read"),
        pytest.param([record(1, 5), record(2, 5)], 10, [1, 2], False, id="all fits"),
        pytest.param([record(1, 5), record(2, 5)], 9, [2], True, id="the newest"),
        pytest.param(
            [record(1, 1), record(2, 9), record(3, 5)],
            6,
            [3],
            True,
            id="no hole for the sake of one",
        ),
        pytest.param(
            [record(1, 2, flags=Flag.SYSTEM), record(2, 5), record(3, 5)],
            7,
            [1, 3],
            True,
            id="protected ones come first",
        ),
        pytest.param([record(1, 7, flags=Flag.PINNED)], 7, [1], False, id="only protected ones"),
        pytest.param(
            [record(1, 2, opens=1), record(2, 3), record(3, 2, group=1, closes=1), record(4, 3)],
            7,
            [1, 3, 4],
            True,
            id="a group is as new as its newest record",
        ),
        pytest.param([record(1, 0), record(2, 0)], 0, [1, 2], False, id="what costs nothing fits"),
    ],
)
def test_what_fits(records: list[Stored], budget: int, taken: list[int], cut: bool) -> None:
    fit = fit_budget(records, budget, complete=True)
    assert (seqs(fit.records), fit.cut) == (taken, cut)


@pytest.mark.parametrize(
    ("records", "needed"),
    [
        ([record(1, 5), record(2, 6)], 6),
        ([record(1, 5, flags=Flag.SYSTEM), record(2, 6), record(3, 7)], 12),
        ([record(1, 3, opens=1), record(2, 9), record(3, 4, group=1, closes=1)], 7),
        ([record(1, 3, flags=Flag.SYSTEM), record(2, 4, flags=Flag.PINNED)], 7),
    ],
)
def test_a_budget_too_small_returns_nothing_and_says_what_would_do(
    records: list[Stored], needed: int
) -> None:
    fit = fit_budget(records, needed - 1, complete=True)
    assert (fit.records, fit.needed) == ((), needed)
    assert fit_budget(records, needed, complete=True).records


@given(records=sessions(), budget=st.integers(0, 150))
def test_a_budget_keeps_its_promises(records: list[Stored], budget: int) -> None:
    fit = fit_budget(records, budget, complete=True)
    protected = [one for one in records if one.protected]
    free = by_group(one for one in records if not one.protected)
    newest_first = sorted(free.values(), key=lambda group: -group[-1].seq)
    assert fit.needed == sum(
        one.tokens for one in [*protected, *(newest_first[0] if newest_first else [])]
    )
    if fit.needed > budget:
        assert fit.records == ()
        return
    kept = {one.seq for one in fit.records}
    assert [one for one in records if one.seq in kept] == list(fit.records)
    assert sum(one.tokens for one in fit.records) <= budget
    assert {one.seq for one in protected} <= kept
    whole = [kept.issuperset(seqs(group)) for group in newest_first]
    assert whole == sorted(whole, reverse=True), "a hole"
    assert len(kept) == len(protected) + sum(map(len, newest_first[: sum(whole)])), "half a group"
    assert whole[:1] != [False], "the newest group is missing"
    assert fit.cut == (len(kept) < len(records))
    if fit.cut:
        next_one = sum(one.tokens for one in newest_first[sum(whole)])
        assert sum(one.tokens for one in fit.records) + next_one > budget


def newest_part(records: list[Stored], count: int) -> list[Stored]:
    """All protected records, and the newest `count` of the others, as a store returns them."""
    free = [one for one in records if not one.protected]
    chosen = seqs(free[len(free) - count :])
    return [one for one in records if one.protected or one.seq in chosen]


@given(records=sessions(), budget=st.integers(0, 150), count=st.integers(0, 24))
@example(
    records=[
        record(1, 5, opens=1),
        record(2, 10),
        record(3, 10),
        record(4, 5, group=1, closes=1),
    ],
    budget=20,
    count=2,
)
@example(
    records=[
        record(1, 5, opens=2),
        record(2, 9, group=1, closes=1),
        record(3, 9, group=1, closes=1),
    ],
    budget=8,
    count=1,
)
def test_a_part_gives_what_the_whole_gives_or_asks_for_more(
    records: list[Stored], budget: int, count: int
) -> None:
    free = sum(not one.protected for one in records)
    whole = fit_budget(records, budget, complete=True)
    part = newest_part(records, min(count, free))
    fit = fit_budget(part, budget, complete=count >= free)
    if fit.starved:
        assert count < free, "there is no more"
        return
    if whole.needed > budget:
        assert (fit.records, fit.needed) == ((), whole.needed)
    else:
        assert fit.records == whole.records
        assert fit.cut == whole.cut


@given(records=sessions(), budget=st.integers(0, 150), count=st.integers(0, 24))
@example(
    records=[
        record(1, 5),
        record(2, 5, opens=2),
        record(3, 50, group=2, closes=1),
        record(4, 5),
    ],
    budget=10,
    count=2,
)
def test_what_is_hidden_ends_nothing_though_only_its_end_was_read(
    records: list[Stored], budget: int, count: int
) -> None:
    free = sum(not one.protected for one in records)
    whole = fit_budget(presentable(records), budget, complete=True)
    part = newest_part(records, min(count, free))
    fit = fit_budget(presentable(part), budget, complete=count >= free)
    if not fit.starved:
        assert (fit.records, fit.needed) == (whole.records, whole.needed)


# --- when a session ends


@pytest.mark.parametrize(
    ("limits", "created", "lease_until", "expected"),
    [
        (terms(ttl=1000), NOW, 0, Expiry(NOW + 1000, "ttl")),
        (terms(ttl=1000), NOW, NOW + 999, Expiry(NOW + 1000, "ttl")),
        (terms(ttl=1000), NOW, NOW + 1000, Expiry(NOW + 1000, "ttl")),
        (terms(ttl=1000), NOW, NOW + 1001, Expiry(NOW + 1001, "lease")),
        (terms(ttl=1000, lifetime=5000), NOW - 4000, 0, Expiry(NOW + 1000, "ttl")),
        (terms(ttl=1000, lifetime=5000), NOW - 4001, 0, Expiry(NOW + 999, "maxLifetime")),
        (terms(ttl=1000, lifetime=5000), NOW, NOW + 9000, Expiry(NOW + 5000, "maxLifetime")),
        (terms(ttl=1000, lifetime=5000), NOW - 9000, 0, Expiry(NOW - 4000, "maxLifetime")),
    ],
)
def test_when_a_session_ends(
    limits: AllTerms, created: int, lease_until: int, expected: Expiry
) -> None:
    assert plan_expiry(limits, now=NOW, created=created, lease_until=lease_until) == expected


@pytest.mark.parametrize(
    ("lease_until", "lifetime", "expected"),
    [
        (0, 0, Expiry(NOW + 70, "afterClear")),
        (NOW + 71, 0, Expiry(NOW + 71, "lease")),
        (NOW + 71, 60, Expiry(NOW + 60, "maxLifetime")),
    ],
)
def test_another_idle_time_under_another_name(
    lease_until: int, lifetime: int, expected: Expiry
) -> None:
    limits = terms(ttl=1000, lifetime=lifetime)
    found = plan_expiry(
        limits, now=NOW, created=NOW, lease_until=lease_until, idle=70, rule="afterClear"
    )
    assert found == expected


TIMES = st.integers(0, 10_000)
POSITIVE = st.integers(1, 10_000)


@given(ttl=POSITIVE, lifetime=TIMES, age=TIMES, lease=TIMES)
def test_an_expiry_is_the_least_that_its_rules_allow(
    ttl: int, lifetime: int, age: int, lease: int
) -> None:
    limits = terms(ttl=ttl, lifetime=lifetime)
    created, until = NOW - age, NOW + lease
    at, rule = plan_expiry(limits, now=NOW, created=created, lease_until=until)
    bounds: dict[str, int] = {"ttl": NOW + ttl, "lease": until, "maxLifetime": created + lifetime}
    assert at == bounds[rule]
    unbounded = max(NOW + ttl, until)
    assert at == (min(unbounded, created + lifetime) if lifetime else unbounded)


GRACE = 600


@pytest.mark.parametrize(
    ("ttl", "lifetime", "current", "expected"),
    [
        pytest.param(5000, 0, NOW + 900, Expiry(NOW + 4900, "ttl"), id="longer"),
        pytest.param(1000, 0, NOW + 900, Expiry(NOW + 900, "ttl"), id="the same"),
        pytest.param(750, 0, NOW + 900, Expiry(NOW + 650, "ttl"), id="a little shorter"),
        pytest.param(200, 0, NOW + 900, Expiry(NOW + GRACE, "ttl"), id="not on the spot"),
        pytest.param(200, 0, NOW + 300, Expiry(NOW + 300, "ttl"), id="where it ends sooner anyway"),
        pytest.param(
            5000, 10, NOW + 900, Expiry(NOW + GRACE, "maxLifetime"), id="a shorter longest life"
        ),
    ],
)
def test_an_edited_policy_moves_the_end(
    ttl: int, lifetime: int, current: int, expected: Expiry
) -> None:
    found = plan_shortened(
        terms(ttl=ttl, lifetime=lifetime),
        now=NOW,
        created=NOW - 5000,
        lease_until=0,
        touched=NOW - 100,
        current=current,
        grace=GRACE,
    )
    assert found == expected


@given(
    ttl=POSITIVE,
    lifetime=TIMES,
    idle=TIMES,
    age=TIMES,
    lease=TIMES,
    remaining=TIMES,
    grace=TIMES,
)
def test_an_edit_never_deletes_on_the_spot(
    *, ttl: int, lifetime: int, idle: int, age: int, lease: int, remaining: int, grace: int
) -> None:
    limits = terms(ttl=ttl, lifetime=lifetime)
    touched, created = NOW - idle, NOW - idle - age
    moment: Callable[[int], Expiry] = lambda now: plan_expiry(  # noqa: E731
        limits, now=now, created=created, lease_until=NOW + lease
    )
    found = plan_shortened(
        limits,
        now=NOW,
        created=created,
        lease_until=NOW + lease,
        touched=touched,
        current=NOW + remaining,
        grace=grace,
    )
    floor = min(NOW + remaining, NOW + grace)
    assert found.at == max(floor, moment(touched).at)
    assert found.rule == moment(touched).rule


def test_the_drawn_sessions_are_worth_drawing() -> None:
    """The properties above would hold of nothing; see that there is something."""
    found: set[str] = set()

    @settings(derandomize=True, max_examples=200)  # always the same draws
    @given(sessions())
    def look(records: list[Stored]) -> None:
        groups = by_group(records)
        for members in groups.values():
            if any(after.seq - before.seq > 6 for before, after in pairwise(members)):
                found.add("a group that lies apart")
            if missing(members) > 0:
                found.add("an open call")
            if len(members) > 1 and missing(members) == 0 and any(one.opens for one in members):
                found.add("an answered call")
        found.update("protected" for one in records if one.protected)
        found.update("orphan" for one in records if one.flags & Flag.ORPHAN)

    look()
    assert found == {
        "a group that lies apart",
        "an open call",
        "an answered call",
        "protected",
        "orphan",
    }


def test_an_edit_that_makes_a_session_too_old_leaves_it_the_expiry_it_has():
    limits = terms(ttl=1000, lifetime=5000)
    too_old = plan_expiry(limits, now=NOW, created=NOW - 9000, lease_until=0, current=NOW + 300)
    assert too_old == Expiry(NOW + 300, "maxLifetime")
    held = plan_expiry(
        limits, now=NOW, created=NOW - 9000, lease_until=NOW + 800, current=NOW + 300
    )
    assert held == Expiry(NOW + 300, "maxLifetime")
    late = plan_expiry(
        terms(ttl=9_000_000, lifetime=5000),
        now=NOW,
        created=NOW - 9000,
        lease_until=0,
        current=NOW + 8_000_000,
    )
    assert late == Expiry(NOW + TIME_LEFT, "maxLifetime")
    young = plan_expiry(limits, now=NOW, created=NOW - 4500, lease_until=0, current=NOW + 300)
    assert young == Expiry(NOW + 500, "maxLifetime")
