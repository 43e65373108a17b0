"""A session as `holdfast.planning` specifies it, to compare a store with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from holdfast.planning import Backstop, group_records, plan_backstop
from holdfast.values import Flag, Prepared, Stored, Terms


class Seen(NamedTuple):
    """What of a record is the store's decision."""

    seq: int
    group: int
    tokens: int
    protected: bool
    orphan: bool
    opens: int
    closes: int
    item: Any


def seen(records: Sequence[Stored]) -> list[Seen]:
    """Return what can be compared of records."""
    return [
        Seen(
            seq=record.seq,
            group=record.group,
            tokens=record.tokens,
            protected=record.protected,
            orphan=bool(record.flags & Flag.ORPHAN),
            opens=record.opens,
            closes=record.closes,
            item=record.item,
        )
        for record in records
    ]


@dataclass(slots=True)
class Model:
    """The records of a session and its open tool calls.

    Attributes:
        terms: limits; their lease must be long, for the model has no clock.
        records: in append order; their time is always 0.
        waiting: open tool calls, digest -> group.
        last: highest sequence number so far.
        dropped: records evicted so far.
    """

    terms: Terms
    records: list[Stored] = field(default_factory=list[Stored])
    waiting: dict[str, int] = field(default_factory=dict[str, int])
    last: int = 0
    dropped: int = 0

    def append(self, batch: Sequence[Prepared]) -> Backstop:
        """Append a batch, and return what the backstop decides; a hopeless one changes nothing."""
        first = self.last + 1
        grouping = group_records(
            batch,
            first=first,
            waiting=self.waiting,
            group_of=lambda seq: next((r.group for r in self.records if r.seq == seq), None),
            is_protected=lambda group: any(r.protected for r in self.records if r.group == group),
        )
        new = [
            Stored(
                tokens=record.tokens,
                flags=flags,
                seq=first + at,
                ts=0,
                group=group,
                id=record.id,
                item=msgspec.json.decode(record.body),
            )
            for at, (record, group, flags) in enumerate(
                zip(batch, grouping.groups, grouping.flags, strict=True)
            )
        ]
        merged = _protect([*self.records, *new], grouping.protected)
        evictable = [record for record in merged if not record.protected]
        plan = plan_backstop(
            evictable,
            tokens=sum(record.tokens for record in merged),
            messages=len(merged),
            terms=self.terms,
            keep=set(grouping.groups),
            now=0,
        )
        if plan.hopeless:
            return plan
        gone = {evictable[at].seq for at in plan.evict}
        self.records = [record for record in merged if record.seq not in gone]
        self.waiting = {
            call: group for call, group in self.waiting.items() if call not in grouping.answered
        } | grouping.opened
        self.last += len(batch)
        self.dropped += len(gone)
        return plan

    def pin(self, seq: int, *, pinned: bool) -> None:
        """Protect the group of a record, or stop doing so unless a system message is in it."""
        group = next(record.group for record in self.records if record.seq == seq)
        if pinned:
            self.records = _protect(self.records, {group})
        elif not any(r.flags & Flag.SYSTEM for r in self.records if r.group == group):
            self.records = [
                msgspec.structs.replace(record, flags=record.flags & ~Flag.PINNED.value)
                if record.group == group
                else record
                for record in self.records
            ]

    def pop(self, *, opens: Sequence[str], reopens: Sequence[str]) -> None:
        """Take the newest record out, forget its calls, and open again those it answered."""
        newest = self.records.pop()
        for call in opens:
            self.waiting.pop(call, None)
        for call in reopens:
            self.waiting[call] = newest.group


def _protect(records: Sequence[Stored], groups: set[int]) -> list[Stored]:
    return [
        msgspec.structs.replace(record, flags=record.flags | Flag.PINNED)
        if record.group in groups and not record.protected
        else record
        for record in records
    ]
