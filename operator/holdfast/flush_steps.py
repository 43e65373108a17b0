"""The steps of a flush that need neither the store nor a model: plan, splice, and what is said of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from holdfast.errors import ConfigurationError
from holdfast.planning import FlushPlan, Limit, plan_backstop, plan_flush
from holdfast.planning.flushing import LEAST_SUMMARY
from holdfast.policy import EvictionPolicy, FlushingStrategy, Policy
from holdfast.policy import Summary as SummaryPolicy
from holdfast.summaries import summary_item
from holdfast.values import (
    Covered,
    FlushResult,
    Prepared,
    Snapshot,
    Splice,
    Spliced,
    Stored,
    Terms,
    Trimmed,
)

LIMIT: Final = "limit"
"""The rule of what left because the session was full."""


def strategy_of(name: str | None) -> FlushingStrategy | None:
    """Return the strategy of that name; None for None.

    Raises:
        ConfigurationError: there is none, or it is `Disabled`.
    """
    if name is None:
        return None
    names = [one.value for one in FlushingStrategy if one is not FlushingStrategy.DISABLED]
    if name not in names:
        raise ConfigurationError(
            f"{name!r} is no strategy of a flush; use one of {', '.join(names)}"
        )
    return FlushingStrategy(name)


def is_plain(policy: Policy, strategy: FlushingStrategy | None) -> bool:
    """Whether the oldest leave and nothing else matters, so that the store can decide alone."""
    chosen = strategy or policy.flushing.strategy
    return (
        chosen is FlushingStrategy.FIFO
        and policy.eviction.policy is EvictionPolicy.FIFO
        and policy.eviction.keep_last == 0
        and policy.token_allocation is None
    )


def plan_of(
    snapshot: Snapshot, policy: Policy, strategy: FlushingStrategy | None, format: str | None
) -> FlushPlan:
    """Plan a flush of a session as it was.

    Raises:
        ConfigurationError: the strategy cannot be asked for under this policy.
    """
    try:
        return plan_flush(
            snapshot.records,
            policy,
            now=snapshot.now,
            strategy=strategy,
            accessed=snapshot.accessed,
            format=format,
        )
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def splice_of(
    plan: FlushPlan, snapshot: Snapshot, *, token: str, summary: Prepared | None
) -> Splice:
    """Make the splice that carries a plan out."""
    rules = {seq: departure.rule for departure in plan.reasons for seq in departure.seqs}
    return Splice(
        token=token,
        epoch=snapshot.status.epoch,
        rules=sorted(rules.items()),
        records=[
            (record.seq, encoded)
            for record, encoded in zip(snapshot.records, snapshot.encoded, strict=True)
            if record.seq in rules
        ],
        summary=summary,
    )


def room_of(plan: FlushPlan, frame: int) -> int:
    """Tokens that a summary's text may have, so that all of it is as long as was planned."""
    return max(LEAST_SUMMARY, plan.summary_tokens - frame)


def is_smaller(plan: FlushPlan, records: Sequence[Stored], frame: int) -> bool:
    """Whether a summary cannot be longer than what it stands for."""
    return room_of(plan, frame) + frame < sum(record.tokens for record in records)


def plan_nothing(plan: FlushPlan, snapshot: Snapshot) -> FlushPlan:
    """The plan that leaves everything where it is, instead of one that is not worth it."""
    return replace(
        plan,
        drop=(),
        summarise=(),
        keep=tuple(record.seq for record in snapshot.records),
        reasons=(),
        summary_tokens=0,
        tokens_after=snapshot.status.tokens,
        messages_after=snapshot.status.messages,
        reached=False,
    )


def item_of(
    text: str, policy: Policy, records: Sequence[Stored], covers: Covered
) -> dict[str, str]:
    """Return a summary as the policy wants it to be read."""
    settings = policy.flushing.summary or SummaryPolicy()
    return summary_item(
        text,
        role=settings.role.value,
        messages=covers.messages,
        first_ts=records[0].ts,
        last_ts=max(record.ts for record in records),
    )


def covers_of(records: Sequence[Stored], model: str) -> Covered:
    """Say what a summary stands for, those of the summaries folded into it included."""
    first, last, messages, tokens = records[0].seq, 0, 0, 0
    for record in records:
        folded = record.notes.covers if record.notes is not None else None
        first = min(first, folded.first if folded else record.seq)
        last = max(last, record.seq)
        messages += folded.messages if folded else 1
        tokens += folded.tokens if folded else record.tokens
    return Covered(first, last, messages, tokens, model)


def would_trim(snapshot: Snapshot, terms: Terms) -> Trimmed:
    """Say what the store's trim would do; the limits of the terms are its target."""
    records = snapshot.records
    evictable = [record for record in records if not record.protected]
    plan = plan_backstop(
        evictable,
        tokens=snapshot.status.tokens,
        messages=len(records),
        terms=terms,
        keep={records[-1].group} if records else set(),
        now=snapshot.now,
    )
    freed = sum(evictable[at].tokens for at in plan.evict)
    gone = len(plan.evict)
    return Trimmed(gone, snapshot.status.tokens - freed, len(records) - gone)


def result_of(
    plan: FlushPlan,
    snapshot: Snapshot,
    done: Spliced | None = None,
    limit: Limit | None = None,
    *,
    dry_run: bool = False,
) -> FlushResult:
    """Say what a plan did, or would do.

    Args:
        plan: the plan.
        snapshot: what it was made of.
        done: what came of it; None: nothing was done.
        limit: tells whether a session that filled up meanwhile is at its target; None asks the plan.
        dry_run: it was to be nothing.
    """
    rules: dict[str, int] = {}
    for departure in plan.reasons:
        rules[departure.rule] = rules.get(departure.rule, 0) + len(departure.seqs)
    evicted = done.evicted if done is not None else 0
    if evicted:
        rules[LIMIT] = evicted
    reached = plan.reached
    if done is not None and limit is not None:
        by_age = plan.strategy is FlushingStrategy.TIME_BASED
        reached = by_age or limit.reached(done.tokens, done.length)
    return FlushResult(
        strategy=plan.strategy.value,
        dropped=len(plan.drop) + evicted,
        summarised=len(plan.summarise),
        summary=done.summary or None if done is not None else None,
        tokens_before=snapshot.status.tokens,
        tokens=plan.tokens_after if done is None else done.tokens,
        length=plan.messages_after if done is None else done.length,
        rules=rules,
        reached=reached,
        overshoot=dict(plan.overshoot),
        dry_run=dry_run,
    )
