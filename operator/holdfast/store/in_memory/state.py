"""What is kept of a session and of its turn."""

import asyncio
import time
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import msgspec

from holdfast.planning.expiry import Rule
from holdfast.values import (
    Departed,
    Flag,
    Granted,
    Lease,
    Remembered,
    Status,
    Stored,
    known_part,
)

HISTORY = 256
"""Entries that a session's history keeps."""
Clock = Callable[[], int]


def wall_clock() -> int:
    """Return microseconds since 1970."""
    return time.time_ns() // 1000


@dataclass(slots=True)
class TurnState:
    """Who holds the turn, and who waits for it.

    By token: when each waiter came, in microseconds; what wakes it; what it was granted; when it was
    released while it might still be asking, in milliseconds; and how long one will be told that its turn
    was taken from it. `past` is the epoch of the session that was erased last.
    """

    token: str = ""
    until: int = 0
    fence: int = 0
    holder: str = ""
    waiting: dict[str, int] = field(default_factory=dict[str, int])
    woken: dict[str, asyncio.Event] = field(default_factory=dict[str, asyncio.Event])
    granted: dict[str, Granted] = field(default_factory=dict[str, Granted])
    gone: dict[str, int] = field(default_factory=dict[str, int])
    interrupted: dict[str, int] = field(default_factory=dict[str, int])
    past: int = 0


@dataclass(slots=True)
class SessionState:
    """All that is kept of one session; times in milliseconds."""

    epoch: int
    created: int
    touched: int
    expires_at: int = 0
    rule: Rule = "ttl"
    following: int = 1
    version: int = 0
    dropped: int = 0
    revision: int = 0
    records: list[Stored] = field(default_factory=list[Stored])
    sizes: dict[int, int] = field(default_factory=dict[int, int])
    calls: dict[str, int] = field(default_factory=dict[str, int])
    ids: OrderedDict[str, Remembered] = field(default_factory=OrderedDict[str, Remembered])
    flusher: tuple[str, int] = ("", 0)
    history: list[Departed] = field(default_factory=list[Departed])
    accessed: dict[int, int] = field(default_factory=dict[int, int])
    labels: set[str] = field(default_factory=set[str])

    @property
    def tokens(self) -> int:
        """Of all records."""
        return sum(record.tokens for record in self.records)

    def is_protected(self, group: int) -> bool:
        """Whether eviction must not take the group."""
        return any(record.group == group and record.protected for record in self.records)

    def group_of(self, seq: int) -> int | None:
        """The group of a record; None when it has left."""
        return next((record.group for record in self.records if record.seq == seq), None)

    def forget_calls(self) -> None:
        """Forget calls that wait in a group that has left: a group goes as a whole, its first too."""
        groups = {record.group for record in self.records}
        self.calls = {call: group for call, group in self.calls.items() if group in groups}

    def remove(self, records: Collection[Stored]) -> None:
        """Take records out."""
        gone = {record.seq for record in records}
        self.records = [record for record in self.records if record.seq not in gone]
        for seq in gone:
            del self.sizes[seq]

    def add(self, records: Sequence[Stored]) -> None:
        """Put records at the tail."""
        self.records += records
        for record in records:
            self.sizes[record.seq] = len(record.encoded())
        self.following += len(records)

    def insert(self, record: Stored) -> None:
        """Put a record where its sequence number belongs."""
        insort(self.records, record, key=lambda one: one.seq)
        self.sizes[record.seq] = len(record.encoded())

    def empty(self, epoch: int) -> None:
        """Take all records out and begin an epoch; ids and history stay."""
        for left in (self.records, self.accessed, self.sizes, self.calls):
            left.clear()
        self.epoch = max(epoch, self.epoch + 1)

    def note(self, departed: Departed) -> None:
        """Remember what left; beyond a number of entries the two oldest become one."""
        self.history.append(departed)
        if len(self.history) > HISTORY:
            self.history[:2] = [self.history[0].joined(self.history[1])]

    def set_pinned(self, group: int, *, pinned: bool) -> int:
        """Pin a group or undo it; return how many records that protects, or no longer does."""
        before = sum(record.protected for record in self.records)
        for at, record in enumerate(self.records):
            if record.group == group and not record.flags & (Flag.SYSTEM | Flag.SUMMARY):
                pin = int(Flag.PINNED)
                flags = record.flags | pin if pinned else record.flags & ~pin
                self.sizes[record.seq] += len(str(flags)) - len(str(record.flags))
                self.records[at] = msgspec.structs.replace(record, flags=flags)
        return abs(sum(record.protected for record in self.records) - before)

    def known(self, key: str) -> Remembered | None:
        """Return what is known of the id with this key."""
        return self.ids.get(known_part(key))

    def remember(self, one: Remembered, most: int) -> None:
        """Keep an id, in its place where it is known; forget the oldest ones."""
        if most:
            self.ids[known_part(one.key)] = one
            while len(self.ids) > most:
                self.ids.popitem(last=False)


def given(records: Collection[Stored]) -> list[Stored]:
    """Return records for a caller, who may change the items: what is kept stays as it is."""
    return [
        msgspec.structs.replace(one, item=msgspec.json.decode(msgspec.json.encode(one.item)))
        for one in records
    ]


def status_of(session: SessionState | None, turn: TurnState, now: int) -> Status:
    """Return the counters of a session, or of one that does not exist; `now` in milliseconds."""
    held = turn.token != "" and turn.until > now
    lease = Lease(turn.holder or None, (turn.until - now) / 1000, turn.fence) if held else None
    protected = [record for record in session.records if record.protected] if session else []
    return Status(
        exists=session is not None,
        epoch=session.epoch if session else 0,
        last_seq=session.following - 1 if session else 0,
        tokens=session.tokens if session else 0,
        messages=len(session.records) if session else 0,
        bytes=sum(session.sizes.values()) if session else 0,
        version=session.version if session else 0,
        dropped=session.dropped if session else 0,
        pinned=len(protected),
        pinned_tokens=sum(record.tokens for record in protected),
        revision=session.revision if session else 0,
        expires_at=session.expires_at if session else 0,
        expiry_rule=session.rule if session else "",
        lease=lease,
        lease_token=turn.token if held else "",
        waiting=len(turn.waiting),
    )
