"""Flushes: what leaves a session at its threshold, in which order, and by which rule."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import holdfast.planning
from holdfast.errors import ConfigurationError
from holdfast.planning import (
    FlushPlan,
    Limit,
    is_due,
    left_by,
    limits_of,
    next_time_due,
    plan_backstop,
    plan_flush,
)
from holdfast.planning.priorities import group_priorities, importance
from holdfast.planning.shares import share_of, share_parts, token_capacity
from holdfast.policies import terms_of
from holdfast.policy import EvictionPolicy, FlushingStrategy, Policy
from holdfast.values import PROTECTED, Flag, Notes, Stored, call_flags

NOW = 10_000_000
LEASE = 30_000
HOUR = 3_600_000
SUMMARY = Flag.SUMMARY | Flag.SYSTEM
FIFO, LRU, TOKENS, HYBRID, TIME, DISABLED = (
    FlushingStrategy.FIFO,
    FlushingStrategy.LRU,
    FlushingStrategy.TOKEN_AWARE_LRU,
    FlushingStrategy.HYBRID_SUMMARY,
    FlushingStrategy.TIME_BASED,
    FlushingStrategy.DISABLED,
)


def policy(
    *,
    tokens: int | None = 100,
    messages: int | None = None,
    flushing: Mapping[str, Any] | None = None,
    eviction: Mapping[str, Any] | None = None,
    shares: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
) -> Policy:
    limits = {"maxTokens": tokens, "maxMessages": messages}
    spec: dict[str, Any] = {
        "limits": {name: value for name, value in limits.items() if value is not None},
        "flushing": flushing or {"strategy": "FIFO"},
        "eviction": eviction or {},
        "retention": {"ttl": "24h"},
    }
    if shares is not None:
        spec["tokenAllocation"] = shares
    if model is not None:
        spec["model"] = model
    return Policy.from_document(spec)


def record(
    seq: int,
    tokens: int = 10,
    *,
    group: int | None = None,
    flags: int = 0,
    opens: int = 0,
    closes: int = 0,
    age: int = HOUR,
    share: str | None = None,
    item: Any = None,
) -> Stored:
    flags = int(flags) | call_flags(opens, closes)
    notes = Notes(share=share) if share is not None else None
    body = item if item is not None else {"role": "user", "content": f"message {seq}"}
    return Stored(tokens, flags, seq, NOW - age, group or seq, None, body, notes)


def several(count: int, tokens: int = 10) -> list[Stored]:
    return [record(seq, tokens) for seq in range(1, count + 1)]


def rules(plan: FlushPlan) -> list[tuple[int, str]]:
    return [(one.group, one.rule) for one in plan.reasons]


def after(records: Iterable[Stored], plan: FlushPlan) -> list[Stored]:
    """What is left when the plan is carried out, without the summary."""
    gone = {*plan.drop, *plan.summarise}
    return [one for one in records if one.seq not in gone]


# --- when a flush is due


@pytest.mark.parametrize(
    ("given_policy", "limit"),
    [
        pytest.param(policy(), Limit(100, 0, 80, 0, 50, 0), id="tokens"),
        pytest.param(policy(tokens=None, messages=10), Limit(0, 10, 0, 8, 0, 5), id="messages"),
        pytest.param(
            policy(messages=3), Limit(100, 3, 80, 3, 50, 1), id="threshold up, target down"
        ),
        pytest.param(
            policy(flushing={"strategy": "LRU", "thresholdPercent": 91, "targetPercent": 33}),
            Limit(100, 0, 91, 0, 33, 0),
            id="percent as given",
        ),
        pytest.param(
            policy(tokens=3, flushing={"strategy": "LRU", "thresholdPercent": 100}),
            Limit(3, 0, 3, 0, 1, 0),
            id="a threshold that is the limit",
        ),
        pytest.param(
            policy(flushing={"strategy": "Disabled"}), Limit(100, 0, 0, 0, 50, 0), id="disabled"
        ),
        pytest.param(
            policy(flushing={"strategy": "TimeBased", "maxAge": "1h"}),
            Limit(100, 0, 0, 0, 50, 0),
            id="by age",
        ),
        pytest.param(policy(tokens=None), Limit(2000, 0, 1600, 0, 1000, 0), id="no limit at all"),
    ],
)
def test_limits(given_policy: Policy, limit: Limit) -> None:
    assert limits_of(given_policy) == limit


@pytest.mark.parametrize(
    ("given_policy", "tokens", "messages", "due"),
    [
        pytest.param(policy(), 79, 10_000, False, id="one token below"),
        pytest.param(policy(), 80, 1, True, id="the last token"),
        pytest.param(policy(messages=10), 1, 7, False, id="one message below"),
        pytest.param(policy(messages=10), 1, 8, True, id="either limit is enough"),
        pytest.param(policy(tokens=None, messages=10), 10**6, 7, False, id="tokens are free"),
        pytest.param(policy(flushing={"strategy": "Disabled"}), 100, 1, False, id="disabled"),
        pytest.param(
            policy(flushing={"strategy": "TimeBased", "maxAge": "1h"}), 100, 1, False, id="by age"
        ),
        pytest.param(
            policy(flushing={"strategy": "HybridSummary"}), 80, 1, True, id="with a summary"
        ),
    ],
)
def test_due_from_the_counters(given_policy: Policy, tokens: int, messages: int, due: bool) -> None:
    assert is_due(limits_of(given_policy), tokens=tokens, messages=messages) is due


@pytest.mark.parametrize(
    ("left", "gave", "size", "came", "due"),
    [
        pytest.param(50, True, 80, (30, 3), True, id="at the target: as if there were none"),
        pytest.param(51, True, 79, (29, 2), False, id="never below the threshold"),
        pytest.param(60, True, 80, (20, 2), True, id="half of the room"),
        pytest.param(70, True, 84, (14, 2), False, id="less than half of the room"),
        pytest.param(70, True, 85, (15, 1), False, id="not with the next message"),
        pytest.param(70, True, 85, (15, 2), True, id="but with the one after it"),
        pytest.param(60, True, 90, (30, 1), True, id="or where it alone is large"),
        pytest.param(70, True, 85, (7, 2), True, id="others append as well"),
        pytest.param(98, True, 100, (2, 2), False, id="less than an eighth"),
        pytest.param(98, True, 98, (3, 2), True, id="full: what came counts"),
        pytest.param(120, True, 120, (3, 2), True, id="more than full"),
        pytest.param(98, False, 99, (29, 9), False, id="nothing left: not soon"),
        pytest.param(98, False, 99, (30, 9), True, id="nothing left: but again"),
    ],
)
def test_a_target_that_was_missed_puts_the_next_flush_off(
    left: int, gave: bool, size: int, came: tuple[int, int], due: bool
) -> None:
    limit = limits_of(policy())
    found = left_by(limit, tokens=left, messages=0, gave=gave)
    if found is not None:
        found = found.then(tokens=size, messages=0, came_tokens=came[0], came_messages=came[1])
    assert is_due(limit, tokens=size, messages=0, left=found) is due


@pytest.mark.parametrize(
    ("left", "came", "due"),
    [(5, 3, True), (6, 2, True), (6, 1, False), (9, 2, True), (9, 1, False), (10, 2, True)],
)
def test_so_do_messages_that_cannot_leave(left: int, came: int, due: bool) -> None:
    limit = limits_of(policy(messages=10))
    found, size = left_by(limit, tokens=1, messages=left, gave=True), min(10, left + came)
    if found is not None:
        found = found.then(tokens=1, messages=size, came_tokens=0, came_messages=came)
    assert is_due(limit, tokens=1, messages=size, left=found) is due


def test_what_was_in_the_way_may_leave_otherwise() -> None:
    """Then the policy's threshold holds again, however little came through this process."""
    limit = limits_of(policy())
    found = left_by(limit, tokens=95, messages=0, gave=False)
    assert found is not None
    for size, due in ((20, False), (79, False), (80, True)):
        found = found.then(tokens=size, messages=0, came_tokens=0, came_messages=0)
        assert is_due(limit, tokens=size, messages=0, left=found) is due


def test_nothing_becomes_due_that_was_not() -> None:
    limit = limits_of(policy(flushing={"strategy": "Disabled"}))
    found = left_by(limit, tokens=90, messages=9, gave=True)
    assert found is not None
    found = found.then(tokens=100, messages=9, came_tokens=99, came_messages=9)
    assert not is_due(limit, tokens=100, messages=9, left=found)


# --- every strategy, with every order of eviction

MIXED = [
    record(1, 10, age=50_000, item={"role": "user", "content": "an ERROR: 17"}),
    record(2, 30, age=50_000, item={"role": "assistant", "content": "no words"}),
    record(3, 20, age=50_000, item={"role": "user", "content": "errors are other words"}),
    record(4, 10, age=50_000, item={"role": "assistant", "content": "nothing"}),
    record(5, 10, age=50_000, item={"role": "user", "content": "the newest"}),
]
ACCESSED = {1: NOW - 40_000, 2: NOW - 20_000, 3: NOW - 50_000, 4: NOW - 45_000}
BY_PRIORITY = {
    "policy": "Priority",
    "priorityKeywords": ["error"],
    "priorityBlocks": [{"priority": 3, "contentTypes": ["assistant"]}],
}


@pytest.mark.parametrize(
    ("strategy", "eviction", "leave", "rule"),
    [
        pytest.param("FIFO", {}, [1, 2], "FIFO", id="FIFO, FIFO"),
        pytest.param("FIFO", {"policy": "LRU"}, [3, 4], "LRU", id="FIFO, LRU"),
        pytest.param("FIFO", BY_PRIORITY, [2], "Priority", id="FIFO, Priority"),
        pytest.param("LRU", {}, [3, 4], "LRU", id="LRU, FIFO"),
        pytest.param("LRU", {"policy": "LRU"}, [3, 4], "LRU", id="LRU, LRU"),
        pytest.param("LRU", BY_PRIORITY, [4, 2], "Priority", id="LRU, Priority"),
        pytest.param("TokenAwareLRU", {}, [3, 2], "TokenAwareLRU", id="token-aware, FIFO"),
        pytest.param(
            "TokenAwareLRU", {"policy": "LRU"}, [3, 2], "TokenAwareLRU", id="token-aware, LRU"
        ),
        pytest.param("TokenAwareLRU", BY_PRIORITY, [2], "Priority", id="token-aware, Priority"),
        pytest.param("Disabled", {}, [1, 2], "FIFO", id="disabled, but asked for"),
        pytest.param("Disabled", {"policy": "LRU"}, [3, 4], "LRU", id="disabled, LRU"),
    ],
)
def test_who_leaves(strategy: str, eviction: dict[str, Any], leave: list[int], rule: str) -> None:
    plan = plan_flush(
        MIXED,
        policy(flushing={"strategy": strategy}, eviction=eviction),
        now=NOW,
        accessed=ACCESSED,
    )
    assert rules(plan) == [(group, rule) for group in leave]
    assert plan.drop == tuple(sorted(leave))
    assert plan.summarise == ()
    assert plan.keep == tuple(sorted({1, 2, 3, 4, 5} - set(leave)))
    assert plan.reached
    assert plan.tokens_after == sum(one.tokens for one in after(MIXED, plan))
    assert plan.messages_after == len(plan.keep)


@pytest.mark.parametrize(
    ("eviction", "leave"),
    [
        pytest.param({}, [1, 2], id="FIFO"),
        pytest.param({"policy": "LRU"}, [3, 4, 1], id="LRU"),
        pytest.param(BY_PRIORITY, [2, 4], id="Priority"),
    ],
)
def test_a_summary_takes_what_is_to_leave_first(eviction: dict[str, Any], leave: list[int]) -> None:
    session = [Stored(one.tokens * 10, one.flags, *one_tail(one)) for one in MIXED]
    flushing = {"strategy": "HybridSummary", "summary": {"oldestPercent": 30, "maxTokens": 16}}
    plan = plan_flush(
        session,
        policy(tokens=1000, flushing=flushing, eviction=eviction),
        now=NOW,
        accessed=ACCESSED,
    )
    assert rules(plan) == [(group, "HybridSummary") for group in leave]
    assert plan.summarise == tuple(sorted(leave))


def test_the_order_of_all_tiers() -> None:
    kinds = {"tool_call": 0, "tool": 1, "assistant": 2, "user": 9}
    blocks = [{"priority": it, "contentTypes": [kind]} for kind, it in kinds.items()]
    calling = {"role": "user", "tool_calls": [{"id": "a", "function": {"name": "f"}}]}
    session = [
        record(1, item={"role": "tool", "content": "1", "tool_call_id": "x"}, flags=Flag.ORPHAN),
        record(2, item={"neither": "kind nor role"}),
        record(3, item={"role": "assistant", "content": "2"}),
        record(4, item=calling),
        record(5, item={"role": "user", "content": "9"}),
        record(6, item={"role": "assistant", "content": "2"}),
        record(7, item={"neither": "kind nor role"}),
    ]
    order = policy(
        tokens=10,
        flushing={"strategy": "FIFO", "targetPercent": 1},
        eviction={"policy": "Priority", "priorityBlocks": blocks},
    )
    plan = plan_flush(session, order, now=NOW)
    assert [one.group for one in plan.reasons] == [5, 3, 6, 2, 1]
    assert plan.keep == (4, 7)
    assert not plan.reached


def test_a_strategy_for_one_call() -> None:
    every = policy(flushing={"strategy": "LRU"})
    assert rules(plan_flush(MIXED, every, now=NOW, accessed=ACCESSED, strategy=FIFO)) == [
        (1, "FIFO"),
        (2, "FIFO"),
    ]
    assert plan_flush(MIXED, every, now=NOW, strategy=FIFO).strategy is FIFO
    assert plan_flush(MIXED, policy(flushing={"strategy": "Disabled"}), now=NOW).strategy is FIFO


@pytest.mark.parametrize(
    ("strategy", "says"),
    [(DISABLED, "with strategy Disabled"), (TIME, "needs flushing.maxAge")],
)
def test_a_strategy_that_cannot_be_asked_for(strategy: FlushingStrategy, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        plan_flush(MIXED, policy(), now=NOW, strategy=strategy)


def test_nothing_leaves_a_session_at_its_target() -> None:
    session = several(5)
    for strategy in (FIFO, LRU, TOKENS, HYBRID):
        plan = plan_flush(session, policy(), now=NOW, strategy=strategy)
        assert plan.empty
        assert plan.reached
        assert plan.keep == (1, 2, 3, 4, 5)


def test_an_empty_session() -> None:
    for strategy in (FIFO, LRU, TOKENS, HYBRID):
        plan = plan_flush([], policy(tokens=None, messages=2), now=NOW, strategy=strategy)
        assert (plan.empty, plan.reached, plan.keep) == (True, True, ())


def test_messages_alone() -> None:
    plan = plan_flush(several(8, 1000), policy(tokens=None, messages=8), now=NOW)
    assert plan.drop == (1, 2, 3, 4)


def test_both_limits_hold() -> None:
    plan = plan_flush(several(8), policy(messages=8), now=NOW)
    assert plan.drop == (1, 2, 3, 4)
    plan = plan_flush(several(8), policy(messages=100), now=NOW)
    assert plan.drop == (1, 2, 3)


def test_results_without_their_call_leave_first() -> None:
    session = [*several(7), record(8, flags=Flag.ORPHAN), record(9)]
    plan = plan_flush(session, policy(), now=NOW)
    assert rules(plan) == [(8, "orphan"), (1, "FIFO"), (2, "FIFO"), (3, "FIFO")]


def test_use_is_the_last_access_or_the_last_append() -> None:
    session = [record(1, 30, age=9), record(2, 30, age=5), record(3, 30, age=1), record(4, 1)]
    lru = policy(flushing={"strategy": "LRU"})
    assert plan_flush(session, lru, now=NOW).drop == (1, 2)
    assert plan_flush(session, lru, now=NOW, accessed={1: NOW - 2}).drop == (1, 2)
    assert rules(plan_flush(session, lru, now=NOW, accessed={1: NOW - 2}))[0] == (2, "LRU")
    assert plan_flush(session, lru, now=NOW, accessed={1: NOW}).drop == (2, 3)
    # a stamp from before the group grew says less than its growth
    assert plan_flush(session, lru, now=NOW, accessed={3: NOW - 9}).drop == (1, 2)


# --- what never leaves


@pytest.mark.parametrize(
    ("session", "keep"),
    [
        pytest.param([record(1, flags=Flag.SYSTEM), record(2), record(3)], {1, 3}, id="system"),
        pytest.param([record(1, flags=Flag.PINNED), record(2), record(3)], {1, 3}, id="pinned"),
        pytest.param([record(1, flags=Flag.SUMMARY), record(2), record(3)], {1, 3}, id="summary"),
        pytest.param(
            [record(1, group=1), record(2), record(3, group=1, flags=Flag.PINNED), record(4)],
            {1, 3, 4},
            id="a pin of one holds for its group",
        ),
        pytest.param(
            [record(1), record(2), record(3, group=1)], {1, 3}, id="the newest group, lying apart"
        ),
        pytest.param(
            [record(1), record(2), record(3), record(4, flags=SUMMARY)],
            {3, 4},
            id="a summary is not the newest message",
        ),
        pytest.param(
            [record(1, opens=1, age=LEASE - 1), record(2), record(3)],
            {1, 3},
            id="a call that may still be answered",
        ),
        pytest.param(
            [record(1, opens=1, age=LEASE), record(2), record(3)], {3}, id="a call given up"
        ),
        pytest.param(
            [record(1, opens=1, age=9), record(2, group=1, closes=1, age=9), record(3)],
            {3},
            id="an answered call",
        ),
    ],
)
@pytest.mark.parametrize("strategy", [FIFO, LRU, TOKENS])
def test_what_stays(session: list[Stored], keep: set[int], strategy: FlushingStrategy) -> None:
    small = policy(tokens=10, flushing={"strategy": "FIFO", "targetPercent": 1})
    plan = plan_flush(session, small, now=NOW, strategy=strategy)
    assert set(plan.keep) == keep
    assert not plan.reached


@pytest.mark.parametrize(
    ("keep_last", "keep"),
    [(0, (4, 5)), (1, (4, 5)), (2, (4, 5)), (3, (1, 3, 4, 5)), (4, (1, 2, 3, 4, 5))],
)
def test_the_newest_messages_stay_with_their_groups(keep_last: int, keep: tuple[int, ...]) -> None:
    session = [record(1), record(2), record(3, group=1), record(4), record(5, group=4)]
    small = policy(tokens=10, eviction={"keepLast": keep_last})
    assert plan_flush(session, small, now=NOW).keep == keep


def test_groups_that_the_caller_keeps() -> None:
    plan = plan_flush(several(8), policy(), now=NOW, keep_groups={1, 3})
    assert plan.drop == (2, 4, 5)


def test_priority_zero_stays_under_every_strategy() -> None:
    critical = {"policy": "Priority", "priorityBlocks": [{"priority": 0, "contentTypes": ["user"]}]}
    session = [
        record(1, 40),
        record(2, 40, item={"role": "assistant", "content": "x"}),
        record(3, 40),
    ]
    rule = policy(flushing={"strategy": "TimeBased", "maxAge": "1s"}, eviction=critical)
    for strategy in (FIFO, LRU, TOKENS, HYBRID, TIME):
        plan = plan_flush(session, rule, now=NOW, strategy=strategy)
        assert plan.keep == (1, 3), strategy


# --- priorities


@pytest.mark.parametrize(
    ("item", "priority"),
    [
        pytest.param({"role": "user", "content": "hello"}, None, id="nothing applies"),
        pytest.param({"role": "tool", "content": "", "tool_call_id": "a"}, 4, id="its kind"),
        pytest.param({"role": "developer", "content": "hello"}, 2, id="its role"),
        pytest.param({"role": "user", "content": "an Incident!"}, 1, id="a keyword"),
        pytest.param({"role": "user", "content": "incidental"}, None, id="only whole words"),
        pytest.param({"role": "user", "content": "in C++ (really)"}, 1, id="no letters at its end"),
        pytest.param({"role": "user", "content": "wörld-wide"}, 1, id="a hyphen ends a word"),
        pytest.param({"role": "user", "content": "ÄRGER"}, 1, id="letters of all languages"),
        pytest.param({"role": "user", "content": "a.b"}, 1, id="a literal, not a pattern"),
        pytest.param({"role": "user", "content": "axb"}, None, id="a dot is a dot"),
        pytest.param(
            {"role": "developer", "content": [{"type": "text", "text": "incident"}]},
            1,
            id="a keyword is more than a block",
        ),
        pytest.param(
            {"role": "assistant", "content": "incident", "refusal": ""}, 0, id="never less than 0"
        ),
        pytest.param({"strange": "an incident"}, 1, id="in what no format reads"),
    ],
)
def test_the_priority_of_a_message(item: Any, priority: int | None) -> None:
    blocks = [
        {"priority": 4, "contentTypes": ["tool_result"]},
        {"priority": 5, "contentTypes": ["tool", "message"]},
        {"priority": 2, "contentTypes": ["developer"]},
        {"priority": 0, "contentTypes": ["assistant"]},
        {"priority": 3},
    ]
    words = ["incident", "c++", "wörld", "ärger", "a.b"]
    eviction = {"policy": "Priority", "priorityBlocks": blocks, "priorityKeywords": words}
    if priority is None:
        eviction["priorityBlocks"] = [block for block in blocks if block["priority"] != 5]
    found = group_priorities([record(1, item=item)], policy(eviction=eviction).eviction)
    assert found == {1: priority}


def test_a_group_is_as_important_as_its_most_important_member() -> None:
    blocks = [
        {"priority": 0, "contentTypes": ["assistant"]},
        {"priority": 1, "contentTypes": ["developer"]},
        {"priority": 2, "contentTypes": ["user"]},
        {"priority": 9, "contentTypes": ["system"]},
    ]
    eviction = policy(eviction={"policy": "Priority", "priorityBlocks": blocks}).eviction
    said = {0: "assistant", 1: "developer", 2: "user", 9: "system"}

    def group_of(*priorities: int | None) -> int | None:
        members = [
            record(
                seq,
                group=1,
                item={"x": 1} if it is None else {"role": said[it], "content": "word"},
            )
            for seq, it in enumerate(priorities, 1)
        ]
        return group_priorities(members, eviction)[1]

    assert group_of(9, 2) == 2
    assert group_of(2, 9) == 2
    assert group_of(2, None) is None
    assert group_of(None, 1) == 1
    assert group_of(1, 0, 9) == 0
    assert sorted([None, *range(10)], key=importance) == [0, 1, None, *range(2, 10)]


def test_other_policies_know_no_priorities() -> None:
    item = {"role": "user", "content": "hi"}
    for eviction in ({}, {"policy": "LRU"}, {"policy": "Priority"}):
        assert group_priorities([record(1, item=item)], policy(eviction=eviction).eviction) == {
            1: None
        }


def test_a_summary_has_no_priority() -> None:
    eviction = policy(eviction={"policy": "Priority", "priorityKeywords": ["budget"]}).eviction
    item = {"role": "system", "content": "the budget was spent"}
    assert group_priorities([record(1, flags=SUMMARY, item=item)], eviction) == {1: None}


def test_messages_are_read_in_the_format_that_is_given() -> None:
    by_kind = policy(eviction=BY_PRIORITY)
    with pytest.raises(ConfigurationError, match="no message format"):
        plan_flush(MIXED, by_kind, now=NOW, format="smoke signals")


# --- shares

SHARES = {
    "systemPercent": 10,
    "shortTermPercent": 40,
    "longTermPercent": 30,
    "userDefined": [{"name": "tools", "percent": 20}],
}


@pytest.mark.parametrize(
    ("amount", "gives"),
    [
        pytest.param(0, 0, id="empty"),
        pytest.param(19, 0, id="under"),
        pytest.param(20, 0, id="at"),
        pytest.param(21, 1, id="over by one"),
        pytest.param(30, 10, id="over"),
    ],
)
@pytest.mark.parametrize("share", ["tools", "shortTerm"])
def test_a_share_over_its_part_gives_first(share: str, amount: int, gives: int) -> None:
    """Messages of one token each, far below the target: only what is over leaves, oldest first."""
    named = "tools" if share == "tools" else "unheard-of"
    session = [record(seq, 1, share=named) for seq in range(1, amount + 1)] + [record(99, 0)]
    part = {"tools": SHARES, "shortTerm": {"shortTermPercent": 20, "longTermPercent": 80}}[share]
    plan = plan_flush(session, policy(shares=part), now=NOW)
    assert rules(plan) == [(seq, f"share:{share}") for seq in range(1, gives + 1)]
    assert plan.overshoot == {}


@pytest.mark.parametrize(
    ("flags", "share"),
    [(Flag.SYSTEM, "system"), (Flag.PINNED, "longTerm"), (SUMMARY, "longTerm")],
)
@pytest.mark.parametrize("excess", [-1, 0, 1])
def test_what_is_protected_cannot_give(flags: Flag, share: str, excess: int) -> None:
    part = {"system": 10, "longTerm": 30}[share]
    session = [record(1, part + excess, flags=flags), record(2)]
    plan = plan_flush(session, policy(shares=SHARES), now=NOW)
    assert plan.empty
    assert plan.overshoot == ({f"share:{share}": excess} if excess > 0 else {})


@pytest.mark.parametrize(("pinned", "leave"), [(9, []), (10, []), (11, [1]), (31, [1, 2])])
def test_what_is_important_gives_to_what_is_protected(pinned: int, leave: list[int]) -> None:
    important = {
        "policy": "Priority",
        "priorityBlocks": [{"priority": 1, "contentTypes": ["user"]}],
    }
    session = [record(1), record(2), record(3, pinned, flags=Flag.PINNED), record(4, 0)]
    plan = plan_flush(session, policy(shares=SHARES, eviction=important), now=NOW)
    assert rules(plan) == [(group, "share:longTerm") for group in leave]
    assert plan.overshoot == ({"share:longTerm": 1} if pinned == 31 else {})


def test_shares_come_before_the_rest() -> None:
    """The session is over its target: the share gives, then the oldest of all."""
    session = [
        *several(3),
        *(record(seq, share="tools") for seq in (4, 5, 6)),
        record(7),
        record(8),
    ]
    plan = plan_flush(session, policy(shares=SHARES), now=NOW)
    assert rules(plan) == [(1, "share:shortTerm"), (4, "share:tools"), (2, "FIFO")]
    assert plan.tokens_after == 50


def test_a_group_counts_to_each_share_of_its_records() -> None:
    """What a share gives takes the rest of the group along, which the other share need not give."""
    session = [
        record(1, 15, opens=1, share="tools"),
        record(2, 15, group=1, closes=1),
        record(3, 15, share="tools"),
        record(4, 20),
    ]
    plan = plan_flush(session, policy(tokens=100, shares=SHARES), now=NOW)
    assert rules(plan) == [(1, "share:tools")]
    assert plan.drop == (1, 2)


def test_shares_give_in_the_order_of_eviction() -> None:
    session = [record(seq, share="tools") for seq in (1, 2, 3)] + [record(9, 0)]
    lru = policy(shares=SHARES, flushing={"strategy": "LRU"})
    assert plan_flush(session, lru, now=NOW, accessed={1: NOW}).drop == (2,)


def test_a_named_share_may_be_called_like_a_fixed_one() -> None:
    allocation = policy(
        shares={
            "systemPercent": 10,
            "longTermPercent": 70,
            "userDefined": [{"name": "system", "percent": 20}],
        }
    ).token_allocation
    assert allocation is not None
    assert share_parts(allocation, 200) == {"system": 60, "shortTerm": 0, "longTerm": 140}


def test_parts_without_a_token_limit() -> None:
    by_count = policy(tokens=None, messages=20, shares=SHARES)
    assert token_capacity(by_count, tokens=100, messages=10) == 200
    assert token_capacity(by_count, tokens=0, messages=0) == 0
    session = [record(seq, share="tools") for seq in range(1, 6)] + several(10)[5:]
    assert plan_flush(session, by_count, now=NOW).drop == (1,)


@pytest.mark.parametrize(
    ("most", "leave"),
    [(31, []), (30, []), (29, [(1, "block:3")]), (10, [(1, "block:3"), (2, "block:3")])],
)
def test_a_block_over_its_tokens_gives(most: int, leave: list[tuple[int, str]]) -> None:
    blocks = [{"priority": 3, "contentTypes": ["user"], "maxTokens": most}]
    by_block = policy(eviction={"policy": "Priority", "priorityBlocks": blocks})
    plan = plan_flush(several(3), by_block, now=NOW)
    assert rules(plan) == leave
    assert plan.overshoot == {}


@pytest.mark.parametrize(
    ("percent", "most", "leave"),
    [
        pytest.param(20, 30, [(1, "share:shortTerm")], id="the share is lower"),
        pytest.param(30, 20, [(1, "block:3")], id="the block is lower"),
        pytest.param(20, 10, [(1, "share:shortTerm"), (2, "block:3")], id="both give"),
    ],
)
def test_the_lower_of_share_and_block_holds(
    percent: int, most: int, leave: list[tuple[int, str]]
) -> None:
    blocks = [{"priority": 3, "contentTypes": ["user"], "maxTokens": most}]
    both = policy(
        eviction={"policy": "Priority", "priorityBlocks": blocks},
        shares={"shortTermPercent": percent, "longTermPercent": 100 - percent},
    )
    assert rules(plan_flush(several(3), both, now=NOW)) == leave


def test_a_block_of_what_is_never_evicted_cannot_give() -> None:
    blocks = [{"priority": 0, "contentTypes": ["user"], "maxTokens": 25}]
    plan = plan_flush(
        several(3), policy(eviction={"policy": "Priority", "priorityBlocks": blocks}), now=NOW
    )
    assert plan.empty
    assert plan.overshoot == {"block:0": 5}


# --- by age


def by_age(**eviction: Any) -> Policy:
    return policy(flushing={"strategy": "TimeBased", "maxAge": "10m"}, eviction=eviction)


def test_what_is_too_old_leaves_and_nothing_else() -> None:
    session = [
        record(1, 1, age=600_000),
        record(2, 1, age=600_001),
        record(3, 1, group=2, age=599_999),
        record(4, 90, age=599_999),
        record(5, 1, age=9_000_000, flags=Flag.PINNED),
        record(6, 1, age=600_000),
        record(7, 1, age=600_000),
    ]
    plan = plan_flush(session, by_age(), now=NOW)
    assert rules(plan) == [(1, "TimeBased"), (6, "TimeBased")]
    assert plan.reached
    assert plan_flush(session, by_age(keepLast=2), now=NOW).drop == (1,)


@pytest.mark.parametrize(
    ("session", "due"),
    [
        pytest.param([], None, id="empty"),
        pytest.param([record(1)], None, id="only the newest"),
        pytest.param([record(1, flags=Flag.PINNED), record(2)], None, id="only what is protected"),
        pytest.param(
            [record(1, age=5), record(2, age=3), record(3)], NOW - 5 + 600_000, id="oldest"
        ),
        pytest.param(
            [record(1, age=5), record(2, age=4), record(3, group=1, age=3), record(4)],
            NOW - 4 + 600_000,
            id="a group is as old as its newest record",
        ),
    ],
)
def test_when_a_flush_by_age_is_due(session: list[Stored], due: int | None) -> None:
    assert next_time_due(session, by_age()) == due


def test_an_open_call_is_due_when_it_is_given_up() -> None:
    soon = policy(flushing={"strategy": "TimeBased", "maxAge": "1s"})
    session = [record(1, opens=1, age=0), record(2)]
    assert next_time_due(session, soon) == NOW + LEASE


def test_nothing_is_due_by_age_elsewhere() -> None:
    assert next_time_due(several(5), policy()) is None


# --- into a summary


def summarising(
    *,
    tokens: int | None = 1000,
    messages: int | None = None,
    oldest: int = 30,
    most: int = 100,
    shares: Mapping[str, Any] | None = None,
    keep_last: int = 0,
) -> Policy:
    summary = {"oldestPercent": oldest, "maxTokens": most}
    return policy(
        tokens=tokens,
        messages=messages,
        flushing={"strategy": "HybridSummary", "summary": summary},
        eviction={"keepLast": keep_last},
        shares=shares,
    )


@pytest.mark.parametrize(
    ("by_summary", "leave"),
    [
        # 800 - 400 + 100 is the target
        pytest.param(summarising(), 4, id="down to the target, the summary included"),
        pytest.param(summarising(most=16), 4, id="a short summary"),
        pytest.param(summarising(most=200), 5, id="a long summary"),
        pytest.param(summarising(oldest=51), 5, id="at least the oldest part"),
        pytest.param(summarising(oldest=100), 7, id="never the newest"),
        pytest.param(summarising(oldest=100, keep_last=3), 5, id="nor those to be kept"),
        pytest.param(summarising(tokens=None, messages=10), 4, id="messages, the summary included"),
        pytest.param(summarising(messages=6), 6, id="both limits"),
    ],
)
def test_the_oldest_go_into_a_summary(by_summary: Policy, leave: int) -> None:
    plan = plan_flush(several(8, 100), by_summary, now=NOW)
    most = by_summary.flushing.summary
    assert most is not None
    assert plan.summarise == tuple(range(1, leave + 1))
    assert plan.drop == ()
    assert rules(plan) == [(seq, "HybridSummary") for seq in range(1, leave + 1)]
    assert plan.summary_tokens == most.max_tokens
    assert plan.tokens_after == 800 - 100 * leave + plan.summary_tokens
    assert plan.messages_after == 8 - leave + 1


def test_a_summary_is_at_most_half_of_what_it_stands_for() -> None:
    plan = plan_flush(several(8, 100), summarising(most=500), now=NOW)
    assert plan.summarise == (1, 2, 3, 4, 5, 6)
    assert plan.summary_tokens == 300
    assert plan.tokens_after == 500


@pytest.mark.parametrize(("tokens", "empty"), [(31, True), (32, False)])
def test_too_little_is_not_worth_a_summary(tokens: int, empty: bool) -> None:
    session = [record(1, 900, flags=Flag.PINNED), record(2, tokens), record(3)]
    plan = plan_flush(session, summarising(), now=NOW)
    assert plan.empty is empty
    assert not plan.reached
    assert plan.summary_tokens == (0 if empty else 16)
    assert plan.tokens_after == sum(one.tokens for one in session) - (0 if empty else 16)


def test_as_much_is_taken_as_makes_a_summary() -> None:
    """The target alone would take six of five tokens: nothing that is worth a summary."""
    plan = plan_flush(several(10, 5), summarising(tokens=None, messages=10, oldest=1), now=NOW)
    assert plan.summarise == (1, 2, 3, 4, 5, 6, 7)
    assert plan.summary_tokens == 17


def test_one_message_is_not_replaced_by_one_summary() -> None:
    """Where only messages count, that would go on for ever."""
    pins = [record(seq, flags=Flag.PINNED) for seq in range(1, 8)]
    by_count = summarising(tokens=None, messages=10)
    assert plan_flush([*pins, record(8, 900), record(9)], by_count, now=NOW).empty
    plan = plan_flush([*pins, record(8, 900), record(9), record(10)], by_count, now=NOW)
    assert plan.summarise == (8, 9)


def test_what_shares_force_out_goes_into_the_summary() -> None:
    """At its target a session gives nothing else, not even its oldest part."""
    session = [
        record(1, 50),
        record(2, 50, share="tools"),
        record(3, 170, share="tools"),
        record(4),
    ]
    plan = plan_flush(session, summarising(shares=SHARES), now=NOW)
    assert rules(plan) == [(2, "share:tools")]
    assert (plan.summarise, plan.drop, plan.summary_tokens) == ((2,), (), 25)


def test_what_is_too_little_for_a_summary_is_still_too_much_for_its_share() -> None:
    session = [record(1, 20), record(2, 390)]
    plan = plan_flush(session, summarising(shares=SHARES), now=NOW)
    assert plan.empty
    assert plan.overshoot == {"share:shortTerm": 10}


def test_what_shares_force_out_counts_for_the_oldest_part() -> None:
    session = [record(1, 200), record(2, 200, share="tools"), record(3, 200, share="tools")]
    session += [record(4, 190), record(5, 10)]
    plan = plan_flush(session, summarising(shares=SHARES, oldest=20), now=NOW)
    assert rules(plan) == [(2, "share:tools"), (1, "HybridSummary")]


def test_the_summary_counts_to_the_long_term_share() -> None:
    shares = {"longTermPercent": 10, "shortTermPercent": 90}
    session = [record(1, 50, flags=Flag.PINNED), *[record(seq, 100) for seq in range(2, 10)]]
    plan = plan_flush(session, summarising(shares=shares), now=NOW)
    assert plan.overshoot == {"share:longTerm": 50}


@pytest.mark.parametrize(
    ("by_summary", "room"),
    [
        pytest.param(summarising(), 150, id="half of the target"),
        pytest.param(
            summarising(shares={"longTermPercent": 20, "shortTermPercent": 80}),
            100,
            id="the long-term share",
        ),
    ],
)
@pytest.mark.parametrize("excess", [-1, 0, 1])
def test_earlier_summaries_are_folded_when_there_is_no_room(
    by_summary: Policy, room: int, excess: int
) -> None:
    session = [record(1, 100, flags=SUMMARY), record(2, room - 100 + excess, flags=SUMMARY)]
    session += [record(seq, 100) for seq in range(3, 11)]
    plan = plan_flush(session, by_summary, now=NOW)
    folded = [one.group for one in plan.reasons if one.rule == "fold"]
    assert folded == ([1, 2] if excess > 0 else [])
    assert plan.reached
    assert plan.summarise == (*folded, *(one.group for one in plan.reasons if one.rule != "fold"))


def test_folding_leaves_less_to_be_taken() -> None:
    session = [record(1, 300, flags=SUMMARY), *[record(seq, 100) for seq in range(2, 8)]]
    plan = plan_flush(session, summarising(), now=NOW)
    # 900 - 300 - 200 + 100 is the target, but 30 % are three of the others
    assert plan.summarise == (1, 2, 3, 4)


def test_many_short_summaries_are_folded_where_messages_count() -> None:
    session = [record(seq, 20, flags=SUMMARY) for seq in (1, 2, 3)]
    session += [record(seq, 20) for seq in range(4, 15)]
    by_count = summarising(tokens=None, messages=12)
    assert plan_flush(session, by_count, now=NOW).summarise[:3] == (1, 2, 3)
    by_count = summarising(tokens=None, messages=16)
    assert plan_flush(session, by_count, now=NOW).summarise[0] == 4


def test_a_lone_summary_is_not_summarised_again() -> None:
    session = [record(1, 800, flags=SUMMARY), record(2)]
    assert plan_flush(session, summarising(), now=NOW).empty
    both = [record(1, 400, flags=SUMMARY), record(2, 400, flags=SUMMARY), record(3)]
    assert plan_flush(both, summarising(), now=NOW).summarise == (1, 2)


@pytest.mark.parametrize(
    ("session", "folds"),
    [
        pytest.param(
            [record(1, 300, flags=SUMMARY), record(2, 1, group=1, flags=Flag.PINNED)],
            False,
            id="a summary that something joined",
        ),
        pytest.param([record(1, 300, flags=SUMMARY)], True, id="a summary"),
    ],
)
def test_only_summaries_are_folded(session: list[Stored], folds: bool) -> None:
    session = [*session, *[record(seq, 100) for seq in range(3, 10)]]
    plan = plan_flush(session, summarising(), now=NOW)
    assert (1 in plan.summarise) is folds
    assert 1 not in plan_flush(session, summarising(), now=NOW, keep_groups={1}).summarise


def test_only_summaries_fold_into_summaries() -> None:
    """Any other strategy leaves them alone."""
    session = [record(1, 400, flags=SUMMARY), record(2, 400, flags=SUMMARY), *several(4)[2:]]
    for strategy in (FIFO, LRU, TOKENS):
        plan = plan_flush(session, summarising(), now=NOW, strategy=strategy)
        assert {1, 2} <= set(plan.keep)


def test_a_summary_on_demand_has_the_usual_size() -> None:
    plan = plan_flush(several(8, 1000), policy(tokens=8000), now=NOW, strategy=HYBRID)
    assert plan.summary_tokens == 500
    assert plan.summarise == (1, 2, 3, 4, 5)


# --- for any session and any policy


class Drawn(NamedTuple):
    """What a record is like; `back` points to an earlier one whose group it joins."""

    tokens: int
    back: int
    calls: int
    flags: int
    ago: int
    share: str | None
    said: str


ROLES = ["user", "assistant", "developer"]


@st.composite
def sessions(draw: st.DrawFn, *, plain: bool = False) -> list[Stored]:
    """Sessions in which groups lie apart, calls wait, and results have lost their call."""
    flags = [0, 0, 0, 0, 0, 0, Flag.ORPHAN, Flag.SYSTEM, Flag.PINNED, SUMMARY]
    shapes = st.builds(
        Drawn,
        tokens=st.integers(0, 60),
        back=st.just(0) if plain else st.sampled_from([0, 0, 0, 1, 2, 5]),
        calls=st.just(0) if plain else st.sampled_from([0, 0, 0, 1, 2]),
        flags=st.just(0) if plain else st.sampled_from([int(flag) for flag in flags]),
        ago=st.integers(0, LEASE // 4),
        share=st.sampled_from([None, "tools", "other"]),
        said=st.sampled_from(ROLES),
    )
    drawn = draw(st.lists(shapes, max_size=30))
    age = sum(shape.ago for shape in drawn)
    records: list[Stored] = []
    for seq, shape in enumerate(drawn, 1):
        age -= shape.ago
        joins = 0 < shape.back < seq
        group = records[-shape.back].group if joins else seq
        records.append(
            record(
                seq,
                shape.tokens,
                group=group,
                flags=shape.flags,
                opens=0 if joins else shape.calls,
                closes=shape.calls if joins else 0,
                age=age,
                share=shape.share,
                item={"role": shape.said, "content": "urgent" if shape.tokens % 5 == 0 else "text"},
            )
        )
    guarded = {one.group for one in records if one.flags & PROTECTED}
    return [
        Stored(one.tokens, one.flags | Flag.PINNED, *one_tail(one)) if one.group in guarded else one
        for one in records
    ]


def one_tail(one: Stored) -> tuple[int, int, int, str | None, Any, Notes | None]:
    return one.seq, one.ts, one.group, one.id, one.item, one.notes


BLOCKS = st.lists(
    st.fixed_dictionaries(
        {
            "priority": st.integers(0, 9),
            "contentTypes": st.lists(st.sampled_from(ROLES), max_size=2, unique=True),
        },
        optional={"maxTokens": st.integers(1, 300)},
    ),
    max_size=4,
    unique_by=lambda block: block["priority"],
)
EVICTIONS = st.one_of(
    st.sampled_from([{"policy": "FIFO"}, {"policy": "LRU"}]),
    st.fixed_dictionaries(
        {
            "policy": st.just("Priority"),
            "priorityBlocks": BLOCKS,
            "priorityKeywords": st.sampled_from([[], ["urgent"]]),
        }
    ),
)
DROPPING = ["FIFO", "LRU", "TokenAwareLRU", "Disabled"]


@st.composite
def policies(
    draw: st.DrawFn, *, plain: bool = False, summaries: bool = True, least: int = 1
) -> Policy:
    strategy = draw(st.sampled_from([*DROPPING, "HybridSummary"] if summaries else DROPPING))
    threshold = draw(st.integers(2, 100))
    flushing: dict[str, Any] = {
        "strategy": strategy,
        "thresholdPercent": threshold,
        "targetPercent": draw(st.integers(1, threshold - 1)),
    }
    if strategy == "HybridSummary":
        flushing["summary"] = {
            "oldestPercent": draw(st.integers(1, 100)),
            "maxTokens": draw(st.integers(16, 200)),
        }
    tokens, messages = draw(st.sampled_from([(True, False), (False, True), (True, True)]))
    shares = None if plain else draw(st.sampled_from([None, None, SHARES]))
    eviction = {} if plain else draw(EVICTIONS)
    return policy(
        tokens=draw(st.integers(least, 900)) if tokens else None,
        messages=draw(st.integers(least, least + 40)) if messages else None,
        flushing=flushing,
        eviction={**eviction, "keepLast": draw(st.sampled_from([0, 0, 1, 3, 10]))},
        shares=shares,
    )


STAMPS = st.dictionaries(st.integers(1, 30), st.integers(NOW - HOUR, NOW), max_size=10)
KEPT = st.frozensets(st.integers(1, 30), max_size=3)


def may_leave(
    session: Sequence[Stored], the_policy: Policy, keep_groups: Collection[int] = ()
) -> set[int]:
    """The groups that a flush may take, said in another way than the planner does."""
    messages = [one for one in session if not one.flags & Flag.SUMMARY]
    priorities = group_priorities(session, the_policy.eviction)
    stay = {one.group for one in session if one.flags & (PROTECTED | Flag.SUMMARY)}
    newest = max(1, the_policy.eviction.keep_last)
    stay |= {one.group for one in messages[::-1][:newest]}
    stay |= {group for group, priority in priorities.items() if priority == 0} | set(keep_groups)
    for group in {one.group for one in session}:
        members = [one for one in session if one.group == group]
        if sum(one.opens - one.closes for one in members) > 0 and members[-1].ts > NOW - LEASE:
            stay.add(group)
    return {one.group for one in session} - stay


@given(sessions(), policies(), STAMPS, KEPT)
def test_every_record_is_accounted_for(
    session: list[Stored], the_policy: Policy, stamps: dict[int, int], kept: frozenset[int]
) -> None:
    plan = plan_flush(session, the_policy, now=NOW, accessed=stamps, keep_groups=kept)
    assert sorted([*plan.drop, *plan.summarise, *plan.keep]) == [one.seq for one in session]
    assert all(list(part) == sorted(part) for part in (plan.drop, plan.summarise, plan.keep))
    assert not (plan.drop and plan.summarise)
    gone = {*plan.drop, *plan.summarise}
    assert gone == {seq for one in plan.reasons for seq in one.seqs}
    for one in plan.reasons:
        members = [it for it in session if it.group == one.group]
        assert one.seqs == tuple(it.seq for it in members), "groups leave whole"
        assert one.tokens == sum(it.tokens for it in members)
    left = after(session, plan)
    assert plan.tokens_after == sum(one.tokens for one in left) + plan.summary_tokens
    assert plan.messages_after == len(left) + (1 if plan.summarise else 0)
    assert plan.tokens_after <= sum(one.tokens for one in session)
    assert plan.strategy is (
        FIFO if the_policy.flushing.strategy is DISABLED else the_policy.flushing.strategy
    )


@given(sessions(), policies(), STAMPS, KEPT)
def test_only_what_may_leave_leaves(
    session: list[Stored], the_policy: Policy, stamps: dict[int, int], kept: frozenset[int]
) -> None:
    plan = plan_flush(session, the_policy, now=NOW, accessed=stamps, keep_groups=kept)
    folded = {one.group for one in plan.reasons if one.rule == "fold"}
    summaries = {one.group for one in session if one.flags & Flag.SUMMARY}
    assert folded <= summaries - kept
    leaving = {one.group for one in plan.reasons} - folded
    assert leaving <= may_leave(session, the_policy, kept)


@given(sessions(), policies(), STAMPS)
def test_the_target_is_reached_or_nothing_is_left_to_take(
    session: list[Stored], the_policy: Policy, stamps: dict[int, int]
) -> None:
    plan = plan_flush(session, the_policy, now=NOW, accessed=stamps)
    limit = limits_of(the_policy)
    assert plan.reached == limit.reached(plan.tokens_after, plan.messages_after)
    left = may_leave(session, the_policy) - {one.group for one in plan.reasons}
    if plan.strategy is HYBRID and plan.empty:
        free = sum(one.tokens for one in session if one.group in left)
        messages = sum(one.group in left for one in session)
        small = free < 32 or messages <= 1
        assert plan.reached or small or not left
    else:
        assert plan.reached or not left


@given(sessions(), policies(summaries=False), STAMPS)
def test_no_more_leaves_than_needed(
    session: list[Stored], the_policy: Policy, stamps: dict[int, int]
) -> None:
    """With the last group back, the session is over its target or the group's share over its part."""
    plan = plan_flush(session, the_policy, now=NOW, accessed=stamps)
    for last in plan.reasons[-1:]:
        if not last.rule.startswith(("share:", "block:")):
            assert not limits_of(the_policy).reached(
                plan.tokens_after + last.tokens, plan.messages_after + len(last.seqs)
            )
        elif the_policy.max_tokens is not None:  # otherwise the parts are of another whole
            others = {one.group for one in plan.reasons[:-1]}
            back = [one for one in session if one.group not in others]
            again = plan_flush(back, the_policy, now=NOW, keep_groups={one.group for one in back})
            assert again.overshoot.get(last.rule, 0) > plan.overshoot.get(last.rule, 0)


@given(sessions(), policies(), STAMPS)
def test_shares_and_blocks_are_within_their_parts_or_cannot_give(
    session: list[Stored], the_policy: Policy, stamps: dict[int, int]
) -> None:
    plan = plan_flush(session, the_policy, now=NOW, accessed=stamps)
    left = may_leave(session, the_policy) - {one.group for one in plan.reasons}
    priorities = group_priorities(session, the_policy.eviction)
    giving = [one for one in session if one.group in left and one.tokens]
    could = {f"block:{priorities[one.group]}" for one in giving}
    could |= {f"share:{share_of(one, priorities[one.group], {'tools': 0})}" for one in giving}
    if plan.strategy is HYBRID:
        could.discard("share:longTerm")  # the summary came after the shares had given
        could = could if plan.summarise else set()  # what there was may not be worth one
    assert not could & plan.overshoot.keys()


@given(sessions(), policies(), st.integers(0, 60))
def test_a_flush_is_not_due_again_with_the_next_message(
    session: list[Stored], the_policy: Policy, tokens: int
) -> None:
    """A small message is one that is smaller than what lies between target and threshold."""
    plan = plan_flush(session, the_policy, now=NOW)
    limit = limits_of(the_policy)
    size = {
        "tokens": plan.tokens_after
        + max(0, min(tokens, limit.threshold_tokens - limit.target_tokens - 1)),
        "messages": plan.messages_after
        + (1 if limit.threshold_messages - limit.target_messages > 1 else 0),
    }
    if plan.reached:
        assert not is_due(limit, **size)
    left = left_by(
        limit, tokens=plan.tokens_after, messages=plan.messages_after, gave=not plan.empty
    )
    if left is not None:
        left = left.then(
            **size,
            came_tokens=size["tokens"] - left.tokens,
            came_messages=size["messages"] - left.messages,
        )
        assert not is_due(limit, **size, left=left)


@given(sessions(), policies(), st.integers(1, 40))
def test_it_is_due_again_before_much_was_dropped(
    session: list[Stored], the_policy: Policy, tokens: int
) -> None:
    """However little a flush could take, and though the limits keep the session from growing."""
    plan = plan_flush(session, the_policy, now=NOW)
    limit = limits_of(the_policy)
    left = left_by(
        limit, tokens=plan.tokens_after, messages=plan.messages_after, gave=not plan.empty
    )
    size = {"tokens": plan.tokens_after, "messages": plan.messages_after}
    most = {
        "tokens": max(limit.max_tokens or 10**6, size["tokens"]),
        "messages": max(limit.max_messages or 10**6, size["messages"]),
    }
    dropped = {"tokens": 0, "messages": 0}
    while not is_due(limit, **size, left=left):
        for what, came in (("tokens", tokens), ("messages", 1)):
            dropped[what] += max(0, size[what] + came - most[what])
            size[what] = min(size[what] + came, most[what])
        if left is not None:
            left = left.then(**size, came_tokens=tokens, came_messages=1)
        if limit.threshold_tokens:
            assert dropped["tokens"] < limit.threshold_tokens - limit.target_tokens + tokens
        elif limit.threshold_messages:
            assert dropped["messages"] <= limit.threshold_messages - limit.target_messages
        else:
            break  # filling starts none


@given(sessions(), policies(), STAMPS)
def test_the_same_session_gives_the_same_plan(
    session: list[Stored], the_policy: Policy, stamps: dict[int, int]
) -> None:
    backwards = dict(reversed(stamps.items()))
    one = plan_flush(session, the_policy, now=NOW, accessed=stamps)
    assert one == plan_flush(tuple(session), the_policy, now=NOW, accessed=backwards)


def keeping(the_policy: Policy, last: int) -> Policy:
    eviction = the_policy.eviction.model_copy(update={"keep_last": last})
    return the_policy.model_copy(update={"eviction": eviction})


@given(sessions(), policies(summaries=False), st.integers(0, 10), STAMPS)
def test_the_more_is_kept_the_less_can_leave(
    session: list[Stored], the_policy: Policy, last: int, stamps: dict[int, int]
) -> None:
    fewer = plan_flush(session, keeping(the_policy, last), now=NOW, accessed=stamps)
    more = plan_flush(session, keeping(the_policy, last + 1), now=NOW, accessed=stamps)
    assert fewer.reached or not more.reached
    newest = [one for one in session if not one.flags & Flag.SUMMARY][-last - 1 :]
    assert {one.seq for one in newest} <= set(more.keep)


@given(sessions(plain=True), policies(plain=True), st.integers(0, 10))
def test_the_more_is_kept_the_less_leaves_from_the_old_end(
    session: list[Stored], the_policy: Policy, last: int
) -> None:
    fewer = plan_flush(session, keeping(the_policy, last), now=NOW, strategy=FIFO)
    more = plan_flush(session, keeping(the_policy, last + 1), now=NOW, strategy=FIFO)
    assert set(more.drop) <= set(fewer.drop)


@given(sessions(), policies(plain=True, least=100))
def test_fifo_is_the_backstop_with_lower_limits(session: list[Stored], the_policy: Policy) -> None:
    """Where nothing is newest, kept or orphaned, a flush takes what the backstop would."""
    session = [
        Stored(one.tokens, one.flags & ~(Flag.ORPHAN | Flag.SUMMARY), *one_tail(one))
        for one in session
    ]
    session.append(record(99, 0, flags=Flag.PINNED))
    the_policy, limit = keeping(the_policy, 0), limits_of(the_policy)
    log = [one for one in session if not one.protected]
    backstop = plan_backstop(
        log,
        tokens=sum(one.tokens for one in session),
        messages=len(session),
        terms=replace(
            terms_of(the_policy, 0),
            max_tokens=limit.target_tokens if limit.max_tokens else 0,
            max_messages=limit.target_messages if limit.max_messages else 0,
        ),
        keep=(),
        now=NOW,
    )
    plan = plan_flush(session, the_policy, now=NOW, strategy=FIFO)
    assert plan.drop == tuple(log[at].seq for at in backstop.evict)


@given(sessions(), st.integers(1, 60))
def test_a_flush_by_age_is_due_exactly_when_it_says(session: list[Stored], age: int) -> None:
    by_time = policy(flushing={"strategy": "TimeBased", "maxAge": f"{age}s"})
    due = next_time_due(session, by_time)
    if due is None:
        assert plan_flush(session, by_time, now=NOW + 10 * HOUR).empty
    else:
        assert plan_flush(session, by_time, now=due - 1).empty
        assert not plan_flush(session, by_time, now=due).empty


# --- the names


def test_the_planner_is_found_where_the_other_plans_are() -> None:
    assert {"plan_flush", "is_due", "limits_of"} <= set(holdfast.planning.__all__)
    for name in holdfast.planning.__all__:
        assert getattr(holdfast.planning, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'plan_nothing'"):
        getattr(holdfast.planning, "plan_nothing")  # noqa: B009 - a type checker would see it


def test_every_strategy_and_policy_is_planned_for() -> None:
    """A new one must be thought about here."""
    assert set(FlushingStrategy) == {FIFO, LRU, TOKENS, HYBRID, TIME, DISABLED}
    assert {it.value for it in EvictionPolicy} == {"FIFO", "LRU", "Priority"}
