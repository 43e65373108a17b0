"""What a session is, as simply as it can be said: a list of records, some numbers, a line of waiters.

Nothing expires here, and there are no tool calls: how those make groups is compared record by record
elsewhere. Everything else that stores decide, this decides a second time, from the promises alone.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from holdfast.values import Flag

PROTECTED = int(Flag.SYSTEM | Flag.PINNED)


class Refused(Exception):
    """The model refuses a call, with the code of the error that a store must raise."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class New:
    """A message to be appended; `group` is the number of a record that it joins, 0 for none."""

    body: str
    tokens: int
    flags: int = 0
    group: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the model."""

    seq: int
    tokens: int
    flags: int
    group: int
    body: str

    @property
    def protected(self) -> bool:
        return bool(self.flags & PROTECTED)

    @property
    def summary(self) -> bool:
        return bool(self.flags & Flag.SUMMARY)


@dataclass(frozen=True, slots=True)
class Left:
    """An entry of the history."""

    rule: str
    seqs: tuple[int, ...]
    tokens: int
    summary: int = 0


@dataclass(slots=True)
class Model:
    """One session.

    Attributes:
        max_tokens: hard limit; 0: none.
        max_messages: hard limit; 0: none.
        refuse: full sessions refuse.
        enforced: while somebody holds the turn nobody else writes.
    """

    max_tokens: int = 0
    max_messages: int = 0
    refuse: bool = False
    enforced: bool = False
    exists: bool = False
    records: list[Record] = field(default_factory=list[Record])
    following: int = 1
    version: int = 0
    dropped: int = 0
    ids: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    past: list[Left] = field(default_factory=list[Left])
    epochs: int = 0
    """How often a new epoch began; stores count by the clock."""
    holder: str = ""
    known_epoch: dict[str, int] = field(default_factory=dict[str, int])
    line: list[str] = field(default_factory=list[str])
    flusher: str = ""

    @property
    def tokens(self) -> int:
        return sum(record.tokens for record in self.records)

    def begin(self) -> None:
        """The session is there from now on."""
        if not self.exists:
            self.exists = True
            self.epochs += 1

    def check(self, token: str, *, force: bool = False) -> None:
        """Refuse a write.

        Args:
            token: of the caller's turn; empty without one.
            force: a turn of somebody else does not matter.
        """
        if token:
            if self.holder != token or self.known_epoch.get(token) != self.epochs:
                raise Refused("LeaseLost")
        elif self.enforced and self.holder and not force:
            raise Refused("SessionBusy")

    def append(
        self, batch: Sequence[New], token: str, key: str, digest: int
    ) -> tuple[int, bool, int]:
        """Store a batch; return its first number, whether its id was known, and how many left for it."""
        known = self.ids.get(key) if key and self.exists else None
        if known is not None:
            if known[1] != digest:
                raise Refused("IdempotencyConflict")
            return known[0], True, 0
        self.check(token)
        first = self.following
        records, guarded = self._grouped(batch, first)
        held = [
            replace(record, flags=record.flags | Flag.PINNED)
            if record.group in guarded and not record.protected
            else record
            for record in self.records
        ]
        tokens = self.tokens + sum(record.tokens for record in records)
        messages = len(self.records) + len(records)
        if self.refuse and self._exceeded(tokens, messages):
            raise Refused("BudgetExceeded")
        keep = {record.group for record in records}
        gone = _oldest(
            [record for record in self.records if not record.protected],
            tokens - self.max_tokens if self.max_tokens else 0,
            messages - self.max_messages if self.max_messages else 0,
            keep,
        )
        if gone is None:
            raise Refused("BudgetExceeded")
        self.begin()
        self.records = [record for record in held if record.seq not in gone] + records
        self.dropped += len(gone)
        self.following += len(records)
        self.version += 1
        if key:
            self.ids[key] = (first, digest)
        return first, False, len(gone)

    def _exceeded(self, tokens: int, messages: int) -> bool:
        too_many = 0 < self.max_messages < messages
        return too_many or 0 < self.max_tokens < tokens

    def _grouped(self, batch: Sequence[New], first: int) -> tuple[list[Record], set[int]]:
        """The records to be, and the groups that are protected with them in it."""
        groups: dict[int, int] = {record.seq: record.group for record in self.records}
        made: list[Record] = []
        for seq, new in enumerate(batch, first):
            group = groups.get(new.group, seq) if 0 < new.group < seq else seq
            groups[seq] = group
            made.append(Record(seq, new.tokens, new.flags, group, new.body))
        guarded = {one.group for one in [*self.records, *made] if one.protected}
        return [
            replace(one, flags=one.flags | Flag.PINNED)
            if one.group in guarded and not one.protected
            else one
            for one in made
        ], guarded

    def pop(self, token: str) -> int:
        """Take the newest out; return how many were."""
        if not self.exists and token:
            raise Refused("LeaseLost")
        if not self.exists:
            return 0
        self.check(token)
        if not self.records:
            return 0
        newest = self.records.pop()
        self.version += 1
        self.past.append(Left("pop", (newest.seq,), newest.tokens))
        return 1

    def clear(self, token: str, *, force: bool) -> int:
        """Remove everything; return how many there were."""
        if not self.exists and token:
            raise Refused("LeaseLost")
        if not self.exists:
            return 0
        self.check(token, force=force)
        removed, self.records = self.records, []
        if removed:
            seqs = tuple(record.seq for record in removed)
            self.past.append(Left("clear", seqs, sum(record.tokens for record in removed)))
        self.version += 1
        self.epochs += 1
        return len(removed)

    def pin(self, seq: int, token: str, *, pinned: bool) -> int:
        """Protect a group or not; return how many records moved."""
        group = next((record.group for record in self.records if record.seq == seq), None)
        if not self.exists:
            raise Refused("LeaseLost" if token else "RecordNotFound")
        self.check(token)
        if group is None:
            raise Refused("RecordNotFound")
        members = [record for record in self.records if record.group == group]
        stays = any(record.flags & (Flag.SYSTEM | Flag.SUMMARY) for record in members)
        if pinned == any(record.protected for record in members) or (stays and not pinned):
            return 0
        self.records = [
            replace(record, flags=record.flags ^ Flag.PINNED) if record.group == group else record
            for record in self.records
        ]
        self.version += 1
        return len(members)

    def trim(self, tokens: int, messages: int) -> int:
        """Drop the oldest groups down to a target; return how many records."""
        if not self.records:
            return 0
        gone = self._drop(tokens, messages, {self.records[-1].group})
        if gone:
            sum_ = sum(record.tokens for record in gone)
            self.past.append(Left("FIFO", tuple(record.seq for record in gone), sum_))
        return len(gone)

    def _drop(self, tokens: int, messages: int, keep: Collection[int]) -> list[Record]:
        seqs = _oldest(
            [record for record in self.records if not record.protected],
            self.tokens - tokens if tokens else 0,
            len(self.records) - messages if messages else 0,
            keep,
            as_far_as_possible=True,
        )
        assert seqs is not None
        gone = [record for record in self.records if record.seq in seqs]
        self.records = [record for record in self.records if record.seq not in seqs]
        self.dropped += len(gone)
        return gone

    def claim(self, token: str) -> bool:
        """Be the one who flushes."""
        if not self.exists or self.flusher not in ("", token):
            return False
        self.flusher = token
        return True

    def splice(
        self, planned: Collection[int], epoch: int, token: str, summary: New | None
    ) -> tuple[bool, int]:
        """Take planned records out; return whether that was done, and the number of the summary."""
        if not self.exists or epoch != self.epochs or self.flusher != token:
            return False, 0
        self.flusher = ""
        joined = {
            record.group
            for record in self.records
            if record.seq not in planned and not record.protected
        }
        there = [
            record
            for record in self.records
            if record.seq in planned
            and (record.summary if record.protected else record.group not in joined)
        ]
        kept = {record.seq for record in self.records if record.seq in planned} - {
            record.seq for record in there
        }
        gone = sorted(set(planned) - kept)
        if not gone or (summary is None and not there):
            return True, 0
        seqs = {record.seq for record in there}
        self.records = [record for record in self.records if record.seq not in seqs]
        number = 0
        if summary is None:
            self.dropped += len(there)
            sum_ = sum(record.tokens for record in there)
            self.past.append(Left("LRU", tuple(sorted(seqs)), sum_))
        else:
            number = gone[-1]
            made = Record(number, summary.tokens, summary.flags, number, summary.body)
            self.records = sorted([*self.records, made], key=lambda record: record.seq)
            self.dropped = max(0, self.dropped - (len(gone) - len(there)))
            sum_ = sum(record.tokens for record in there)
            self.past.append(Left("HybridSummary", tuple(gone), sum_, number))
        if self.records and not self.refuse:
            self._drop(self.max_tokens, self.max_messages, {self.records[-1].group})
        return True, number

    def acquire(self, token: str, *, waits: bool) -> int:
        """Take the turn: -1; or a place in line: how many are in front."""
        if self.holder in ("", token):
            self.begin()
            self.holder = token
            self.known_epoch[token] = self.epochs
            return -1
        if waits and token not in self.line:
            self.line.append(token)
        return self.line.index(token) if token in self.line else len(self.line)

    def renew(self, token: str) -> None:
        """Lengthen the lease."""
        if self.holder != token or self.known_epoch.get(token) != self.epochs:
            raise Refused("LeaseLost")

    def release(self, token: str) -> None:
        """End the turn, or leave the line."""
        if token in self.line:
            self.line.remove(token)
        if self.holder == token:
            self.holder = self.line.pop(0) if self.line else ""
            if self.holder:
                self.known_epoch[self.holder] = self.epochs


def _oldest(
    evictable: Iterable[Record],
    over_tokens: int,
    over_messages: int,
    keep: Collection[int],
    *,
    as_far_as_possible: bool = False,
) -> set[int] | None:
    """Numbers of the oldest whole groups that make room; None where there is too little to take."""
    groups: dict[int, list[Record]] = {}
    for record in evictable:
        groups.setdefault(record.group, []).append(record)
    gone: set[int] = set()
    for group, members in groups.items():
        if over_tokens <= 0 and over_messages <= 0:
            break
        if group not in keep:
            gone |= {record.seq for record in members}
            over_tokens -= sum(record.tokens for record in members)
            over_messages -= len(members)
    short = over_tokens > 0 or over_messages > 0
    return None if short and not as_far_as_possible else gone
