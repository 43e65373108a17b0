"""What a session holds while a flush is planned: its groups, its shares, and what was taken so far."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from holdfast.planning.limits import limits_of
from holdfast.planning.priorities import NEVER_EVICTED, group_priorities
from holdfast.planning.shares import (
    LONG_TERM,
    block_limits,
    share_of,
    share_parts,
    token_capacity,
)
from holdfast.policy.model import Policy
from holdfast.values import PROTECTED, Flag, Stored

_SHARE: Final = "share:"
_BLOCK: Final = "block:"
_LONG_TERM: Final = f"{_SHARE}{LONG_TERM}"


@dataclass(frozen=True, slots=True)
class Departure:
    """A group that leaves, and why.

    Attributes:
        group: the group.
        seqs: its records, ascending.
        tokens: what they have together.
        rule: `share:<name>` or `block:<priority>` for one that held more than its part; `fold` for
            an earlier summary that goes into the new one; `orphan` for tool results whose call is
            gone; else what put the group in its place in the order: `Priority`, or the strategy.
    """

    group: int
    seqs: tuple[int, ...]
    tokens: int
    rule: str


@dataclass(slots=True)
class Group:
    """The records of a group, and what they count to.

    Attributes:
        group: its sequence number.
        priority: 0 to 9, or None without one.
        accessed: last access, milliseconds since 1970; never before its newest record.
        records: in append order.
        loads: tokens by share and by block, named as in `Departure.rule`.
        tokens: of all its records.
        unanswered: tool calls without a result.
        protected: nothing may take it, except that summaries are folded.
        summaries: it holds earlier summaries only, and they may be folded.
        orphans: it holds only results whose call is gone.
    """

    group: int
    priority: int | None
    accessed: int
    records: list[Stored] = field(default_factory=list[Stored])
    loads: dict[str, int] = field(default_factory=dict[str, int])
    tokens: int = 0
    unanswered: int = 0
    protected: bool = False
    summaries: bool = True
    orphans: bool = True

    def add(self, record: Stored) -> None:
        """Add a record of the group."""
        self.records.append(record)
        self.tokens += record.tokens
        self.unanswered += record.opens - record.closes
        self.accessed = max(self.accessed, record.ts)
        self.protected |= bool(record.flags & (PROTECTED | Flag.SUMMARY))
        self.summaries &= bool(record.flags & Flag.SUMMARY)
        self.orphans &= bool(record.flags & Flag.ORPHAN)

    def load(self, key: str, tokens: int) -> None:
        """Count tokens to a share or block."""
        self.loads[key] = self.loads.get(key, 0) + tokens

    @property
    def newest(self) -> int:
        """When its newest record was appended."""
        return self.records[-1].ts


class Holdings:
    """A session while a flush is planned.

    Args:
        records: all of the session, in append order.
        policy: of the session.
        format: message format by name; None finds it by each message's shape.
        keep_groups: groups that stay.
        accessed: group -> last access, milliseconds since 1970.

    Attributes:
        longest_summary: what is taken goes into a summary of at most so many tokens; 0: it is
            dropped.
        taken: group -> its departure, in the order in which they were taken.
        bounds: share or block -> most tokens it may hold.
        used: share or block -> tokens that it holds.

    Raises:
        ConfigurationError: no format of that name.
    """

    def __init__(
        self,
        records: Sequence[Stored],
        policy: Policy,
        *,
        format: str | None,
        keep_groups: Collection[int],
        accessed: Mapping[int, int],
    ) -> None:
        self.records = records
        self.limit = limits_of(policy)
        self.tokens = sum(record.tokens for record in records)
        self.longest_summary = 0
        self.taken: dict[int, Departure] = {}
        self.bounds: dict[str, int] = {}
        self.used: dict[str, int] = {}
        self._taken_tokens = self._taken_messages = 0
        priorities = group_priorities(records, policy.eviction, format)
        groups: dict[int, Group] = {}
        for record in records:
            found = groups.get(record.group)
            if found is None:
                stamp = accessed.get(record.group, 0)
                found = Group(record.group, priorities[record.group], stamp)
                groups[record.group] = found
            found.add(record)
        self.groups = list(groups.values())
        self._protect(policy.eviction.keep_last, keep_groups)
        self._count(policy)

    def _protect(self, keep_last: int, keep_groups: Collection[int]) -> None:
        messages = [record for record in self.records if not record.flags & Flag.SUMMARY]
        newest = {record.group for record in messages[-max(1, keep_last) :]}
        for group in self.groups:
            asked = group.group in keep_groups
            never = group.priority == NEVER_EVICTED
            group.protected |= never or asked or group.group in newest
            group.summaries &= not asked

    def _count(self, policy: Policy) -> None:
        """Count each group's tokens to its shares and to the block of its priority."""
        parts: dict[str, int] = {}
        if policy.token_allocation is not None:
            capacity = token_capacity(policy, tokens=self.tokens, messages=len(self.records))
            parts = share_parts(policy.token_allocation, capacity)
        blocks = block_limits(policy)
        self.bounds = {f"{_SHARE}{name}": part for name, part in parts.items()}
        self.bounds |= {f"{_BLOCK}{priority}": most for priority, most in blocks.items()}
        self.used = dict.fromkeys(self.bounds, 0)
        for group in self.groups:
            if group.priority in blocks:
                group.load(f"{_BLOCK}{group.priority}", group.tokens)
            for record in group.records if parts else ():
                group.load(f"{_SHARE}{share_of(record, group.priority, parts)}", record.tokens)
            for key, tokens in group.loads.items():
                self.used[key] += tokens

    @property
    def summary_tokens(self) -> int:
        """Most tokens of the summary of what was taken so far; 0 without one."""
        return min(self.longest_summary, self._taken_tokens // 2)

    @property
    def tokens_after(self) -> int:
        """Tokens of the session without what was taken, and with its summary."""
        return self.tokens - self._taken_tokens + self.summary_tokens

    @property
    def messages_after(self) -> int:
        """Messages of the session without what was taken, and with its summary."""
        summaries = 1 if self.longest_summary and self.taken else 0
        return len(self.records) - self._taken_messages + summaries

    @property
    def reached(self) -> bool:
        """Whether the session is at its target then."""
        return self.limit.reached(self.tokens_after, self.messages_after)

    @property
    def overshoot(self) -> dict[str, int]:
        """Shares and blocks that hold more than their part then, with the tokens too many."""
        used = dict(self.used)
        if _LONG_TERM in used:
            used[_LONG_TERM] += self.summary_tokens
        return {key: used[key] - part for key, part in self.bounds.items() if used[key] > part}

    def take(self, group: Group, rule: str) -> None:
        """Let a group leave."""
        seqs = tuple(sorted(record.seq for record in group.records))
        self.taken[group.group] = Departure(group.group, seqs, group.tokens, rule)
        self._taken_tokens += group.tokens
        self._taken_messages += len(seqs)
        for key, tokens in group.loads.items():
            self.used[key] -= tokens

    def take_all(self, groups: Iterable[Group], rule: str) -> None:
        """Let groups leave."""
        for group in groups:
            self.take(group, rule)

    def take_excess(self, order: Iterable[Group]) -> None:
        """Let shares, then priorities, give down to their parts.

        Once through the order is enough: what one holds only shrinks, so a group that need not give
        when its turn comes need not give later.

        Args:
            order: the groups that may leave, those that leave first at its beginning.
        """
        for kind in (_SHARE, _BLOCK):
            bounds = {key: part for key, part in self.bounds.items() if key.startswith(kind)}
            for group in order if bounds else ():
                if group.group in self.taken:
                    continue
                for key, part in bounds.items():
                    if group.loads.get(key) and self.used[key] > part:
                        self.take(group, key)
                        break

    def take_to_target(self, order: Iterable[Group], rule: str) -> None:
        """Let groups leave until the session is at its target."""
        for group in order:
            if self.reached:
                break
            if group.group not in self.taken:
                self.take(group, "orphan" if group.orphans else rule)

    def take_nothing(self) -> None:
        """Put everything back, the summary too."""
        self.longest_summary = 0
        for group in self.groups:
            if self.taken.pop(group.group, None) is not None:
                for key, tokens in group.loads.items():
                    self.used[key] += tokens
        self._taken_tokens = self._taken_messages = 0

    def foldable(self, room: int) -> list[Group]:
        """Return the earlier summaries when there is no room for one more beside them.

        Their room is the long-term share; without an allocation it is half of the target, so that
        at least as much is left for the messages themselves. To be asked before anything is taken.

        Args:
            room: tokens that one more may need.
        """
        summaries = [group for group in self.groups if group.summaries]
        if _LONG_TERM in self.bounds:
            full = self.used[_LONG_TERM] + room > self.bounds[_LONG_TERM]
        else:
            limit, held = self.limit, sum(group.tokens for group in summaries)
            full = bool(limit.max_tokens) and held + room > limit.target_tokens // 2
            full |= bool(limit.max_messages) and len(summaries) >= limit.target_messages // 2
        return summaries if full else []
