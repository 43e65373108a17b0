"""The flush: what leaves a session at its threshold, or on demand, and by which rule.

The backstop keeps the hard limits inside each append. This is the other level of eviction: it runs
before a session is full, knows the whole policy, and takes the session down to its target at once,
so that it does not run again with the next append.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from holdfast.planning.holdings import Departure, Group, Holdings
from holdfast.planning.priorities import importance
from holdfast.policy.enums import EvictionPolicy, FlushingStrategy
from holdfast.policy.model import Policy
from holdfast.policy.parts import Summary
from holdfast.values import Stored

LEAST_SUMMARY: Final = 16
"""Tokens below which a summary says nothing; also the least that a policy can ask for."""


@dataclass(frozen=True, slots=True)
class FlushPlan:
    """What a flush takes out. `drop`, `summarise` and `keep` hold each record of the session once.

    Attributes:
        strategy: the one that was planned by.
        drop: sequence numbers of the records that leave and are counted as dropped, ascending.
        summarise: of those that leave into one summary, ascending.
        keep: of those that stay, ascending.
        reasons: one for each group that leaves, in the order in which they were taken.
        summary_tokens: most tokens that the summary may have; 0 when there is none. It is at most
            half of what it stands for, so a flush always makes a session smaller.
        tokens_after: of the session afterwards, with a summary of `summary_tokens`.
        messages_after: likewise, with the summary.
        reached: the session is at its target afterwards; always with `TimeBased`, which has none.
            When not, nothing more could be taken, or too little to be worth a summary.
        overshoot: shares and blocks that still hold more than their part, as in `Departure.rule`,
            each with the tokens too many: protected and kept groups cannot give.
    """

    strategy: FlushingStrategy
    drop: tuple[int, ...]
    summarise: tuple[int, ...]
    keep: tuple[int, ...]
    reasons: tuple[Departure, ...]
    summary_tokens: int
    tokens_after: int
    messages_after: int
    reached: bool
    overshoot: Mapping[str, int]

    @property
    def empty(self) -> bool:
        """Whether nothing leaves."""
        return not self.reasons


def next_time_due(
    records: Sequence[Stored],
    policy: Policy,
    *,
    format: str | None = None,
    keep_groups: Collection[int] = (),
) -> int | None:
    """Return when a flush by age is due, in milliseconds since 1970.

    None for other strategies, and while nothing may leave: an append changes that, so ask again then.

    Args:
        records: as for `plan_flush`, likewise the others.
        policy: likewise.
        format: likewise.
        keep_groups: likewise.

    Raises:
        ConfigurationError: no format of that name.
    """
    if policy.flushing.strategy is not FlushingStrategy.TIME_BASED:
        return None
    age, lease = _max_age(policy), policy.locking.lease_ttl.milliseconds
    held = Holdings(records, policy, format=format, keep_groups=keep_groups, accessed={})
    return min(
        (
            group.newest + (max(age, lease) if group.unanswered > 0 else age)
            for group in held.groups
            if not group.protected
        ),
        default=None,
    )


def plan_flush(
    records: Sequence[Stored],
    policy: Policy,
    *,
    now: int,
    strategy: FlushingStrategy | None = None,
    accessed: Mapping[int, int] | None = None,
    format: str | None = None,
    keep_groups: Collection[int] = (),
) -> FlushPlan:
    """Decide what leaves a session.

    Whole groups only. Never taken: protected groups, those of priority 0, the newest group, those of
    the newest `eviction.keepLast` messages, those with a tool call that may still be answered, and
    `keep_groups`. Summaries are nobody's newest message.

    Shares above their part give first, then priorities above their block's `maxTokens`, both also
    when the session is at its target already; then the rest down to the target, least important
    first, and no group more than it takes. `TimeBased` takes what is too old, and only that.
    `HybridSummary` drops nothing: what leaves goes into a summary, and so do the earlier summaries
    when there is no room for one more.

    Args:
        records: all of the session, in append order.
        policy: of the session.
        now: milliseconds since 1970.
        strategy: in place of the policy's. A policy with `Disabled` flushes like `FIFO` when asked.
        accessed: group -> last access in milliseconds since 1970; a group that is not there was last
            accessed when its newest record was appended.
        format: message format by name; None finds it by each message's shape.
        keep_groups: groups that stay.

    Raises:
        ValueError: the given strategy is `Disabled`, or is `TimeBased` where the policy has no
            `flushing.maxAge`.
        ConfigurationError: no format of that name.

    Cost: O(n log n) of the records.
    """
    chosen = _chosen(policy, strategy)
    held = Holdings(
        records, policy, format=format, keep_groups=keep_groups, accessed=accessed or {}
    )
    answered_by = now - policy.locking.lease_ttl.milliseconds
    free = [
        group
        for group in held.groups
        if not group.protected and (group.unanswered <= 0 or group.newest <= answered_by)
    ]
    order = _eviction_order(free, policy, chosen, now)
    match chosen:
        case FlushingStrategy.TIME_BASED:
            oldest = now - _max_age(policy)
            held.take_all((group for group in free if group.newest <= oldest), chosen.value)
        case FlushingStrategy.HYBRID_SUMMARY:
            _take_into_summary(held, policy.flushing.summary or Summary(), order)
        case _:
            held.take_excess(order)
            held.take_to_target(order, _rule(policy, chosen))
    leaving = tuple(held.taken.values())
    gone = tuple(sorted(seq for one in leaving for seq in one.seqs))
    return FlushPlan(
        strategy=chosen,
        drop=() if held.longest_summary else gone,
        summarise=gone if held.longest_summary else (),
        keep=tuple(sorted(one.seq for one in records if one.group not in held.taken)),
        reasons=leaving,
        summary_tokens=held.summary_tokens,
        tokens_after=held.tokens_after,
        messages_after=held.messages_after,
        reached=chosen is FlushingStrategy.TIME_BASED or held.reached,
        overshoot=held.overshoot,
    )


def _chosen(policy: Policy, strategy: FlushingStrategy | None) -> FlushingStrategy:
    if strategy is FlushingStrategy.DISABLED:
        raise ValueError(
            "a flush cannot be asked for with strategy Disabled: name another, or none"
        )
    if strategy is FlushingStrategy.TIME_BASED:
        _max_age(policy)
    chosen = strategy or policy.flushing.strategy
    return FlushingStrategy.FIFO if chosen is FlushingStrategy.DISABLED else chosen


def _max_age(policy: Policy) -> int:
    age = policy.flushing.max_age
    if age is None:
        raise ValueError("a flush with strategy TimeBased needs flushing.maxAge in the policy")
    return age.milliseconds


def _eviction_order(
    free: Iterable[Group], policy: Policy, strategy: FlushingStrategy, now: int
) -> list[Group]:
    """Sort the groups that may leave: those that leave first come first.

    Results whose call is gone lead their tier: no reader is given them.
    """
    by_priority = policy.eviction.policy is EvictionPolicy.PRIORITY
    recency = _recency(policy, strategy)

    def place(group: Group) -> tuple[int, bool, int, int]:
        tier = -importance(group.priority) if by_priority else 0
        match recency:
            case FlushingStrategy.TOKEN_AWARE_LRU:
                rank = -group.tokens * max(0, now - group.accessed)
            case FlushingStrategy.LRU:
                rank = group.accessed
            case _:
                rank = 0
        return tier, not group.orphans, rank, group.records[0].seq

    return sorted(free, key=place)


def _recency(policy: Policy, strategy: FlushingStrategy) -> FlushingStrategy:
    """Return what decides within a tier: the flushing strategy, else the eviction policy."""
    if strategy in (FlushingStrategy.TOKEN_AWARE_LRU, FlushingStrategy.LRU):
        return strategy
    if policy.eviction.policy is EvictionPolicy.LRU:
        return FlushingStrategy.LRU
    return FlushingStrategy.FIFO


def _rule(policy: Policy, strategy: FlushingStrategy) -> str:
    if policy.eviction.policy is EvictionPolicy.PRIORITY:
        return EvictionPolicy.PRIORITY.value
    return _recency(policy, strategy).value


def _take_into_summary(held: Holdings, summary: Summary, order: Sequence[Group]) -> None:
    """Take what is to leave first into a summary, and what shares and blocks hold too much."""
    at_target = held.reached
    if at_target and not held.overshoot:
        return
    held.longest_summary = summary.max_tokens
    folded = held.foldable(summary.max_tokens)
    held.take_all(folded, "fold")
    held.take_excess(order)
    least = -(-held.tokens * summary.oldest_percent // 100)
    fresh = sum(one.tokens for one in held.taken.values() if one.rule != "fold")
    for group in () if at_target else order:
        if fresh >= least and held.reached and held.summary_tokens >= LEAST_SUMMARY:
            break
        if group.group not in held.taken:
            held.take(group, FlushingStrategy.HYBRID_SUMMARY.value)
            fresh += group.tokens
    if not _is_worth_it(held, len(folded)):
        held.take_nothing()


def _is_worth_it(held: Holdings, folded: int) -> bool:
    """Tell whether a summary makes the session smaller, and is more than the old one again."""
    something_new = len(held.taken) > folded or folded > 1
    smaller = held.limit.max_tokens > 0 or held.messages_after < len(held.records)
    return something_new and smaller and held.summary_tokens >= LEAST_SUMMARY
