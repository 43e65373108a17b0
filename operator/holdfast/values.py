"""The values that travel between the layers: what callers get, and what a store keeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, NamedTuple

import msgspec


class Flag(IntFlag):
    """What a record's flags say; bits 0..7 of `Stored.flags`.

    Above them: bits 8..11 the share of a token allocation, 12..19 how many tool calls the record
    opens, 20..27 how many it closes, each at most 255 (which then means "255 or more").
    """

    SYSTEM = 1
    PINNED = 2
    ORPHAN = 4
    INEXACT = 8
    UNRECOGNISED = 16


OPENS_SHIFT = 12
CLOSES_SHIFT = 20
PROTECTED = Flag.SYSTEM | Flag.PINNED


class Stored(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One record as a store keeps it: a positional JSON array, integers first.

    The order is a contract with the scripts: they read the integers with a pattern before any free
    text. `group` is the sequence number of the first record of the group.
    """

    tokens: int
    flags: int
    seq: int
    ts: int
    group: int
    id: str | None
    item: Any

    @property
    def protected(self) -> bool:
        """Whether eviction must not take the record."""
        return bool(self.flags & PROTECTED)

    @property
    def opens(self) -> int:
        """How many tool calls the record makes."""
        return (self.flags >> OPENS_SHIFT) & 0xFF

    @property
    def closes(self) -> int:
        """How many tool results the record carries."""
        return (self.flags >> CLOSES_SHIFT) & 0xFF


@dataclass(frozen=True, slots=True)
class Record:
    """One message as it is stored.

    Attributes:
        seq: sequence number within the session; grows, is never reused.
        ts: time of the append in the store, milliseconds since 1970.
        tokens: counted once, at the append.
        group: seq of the first record of the group that is kept or evicted as a whole.
        id: the caller's id, if one was given.
        pinned: never evicted: a system message, or pinned by the caller.
        item: the JSON value that was appended.
    """

    seq: int
    ts: int
    tokens: int
    group: int
    id: str | None
    pinned: bool
    item: Any


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a session in append order.

    Attributes:
        records: at most `limit`, oldest first.
        total: records in the session now.
        next: pass it as `after=` for the next page; None at the end.
        omitted: how many of these records `read()` would leave out: orphan results, and tool calls
            that wait for their result.
        stale: read from a copy because the store did not answer.
    """

    records: tuple[Record, ...]
    total: int
    next: int | None
    omitted: int
    stale: bool = False


@dataclass(frozen=True, slots=True)
class AppendResult:
    """What an append did.

    Attributes:
        seq: sequence number of the first record.
        count: how many records, in consecutive sequence numbers.
        duplicate: the id was known: nothing was written, `seq` is that of the first time.
        tokens: of the whole session afterwards.
        length: records of the whole session afterwards.
        evicted: records that left to keep the limits.
        warnings: sentences about what the caller should know.
    """

    seq: int
    count: int
    duplicate: bool
    tokens: int
    length: int
    evicted: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds a turn.

    Attributes:
        holder: as the holder named itself; None when unknown.
        remaining: seconds until it ends unless renewed.
        fence: the fencing token: an integer that only grows.
    """

    holder: str | None
    remaining: float
    fence: int


@dataclass(frozen=True, slots=True)
class Health:
    """The state of one session.

    Attributes:
        tokens: of all records.
        messages: number of records.
        pinned: how many of them are never evicted.
        bytes: size of the records in the store.
        version: raised by every append, pop, pin and clear.
        expires_at: milliseconds since 1970; None when the session does not exist.
        expiry_rule: the rule behind it: `ttl`, `afterClear`, `maxLifetime` or `lease`.
        revision: revision of the policy last applied to the session; 0 without an operator.
        revision_behind: how many revisions the session lags the policy at hand.
        managed: the policy comes from an operator.
        lease: the turn that is held now.
        waiting: callers waiting for the turn.
        dropped: records that were evicted so far.
        unrecognised: items that no known format could read, in this process.
        warnings: sentences about what a person should look at.
    """

    tokens: int
    messages: int
    pinned: int
    bytes: int
    version: int
    expires_at: int | None
    expiry_rule: str | None
    revision: int
    revision_behind: int
    managed: bool
    lease: Lease | None
    waiting: int
    dropped: int
    unrecognised: int
    warnings: tuple[str, ...] = ()


class MemoryAddress(NamedTuple):
    """Which memory: the Kubernetes namespace and the MemoryResource's name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """Return `namespace/name`."""
        return f"{self.namespace}/{self.name}"


class Refresh(IntFlag):
    """Which calls renew a session's expiry."""

    WRITE = 1
    READ = 2


@dataclass(frozen=True, slots=True)
class Terms:
    """The numbers of a policy that a store enforces. Times in milliseconds; 0 means "none".

    Attributes:
        revision: of the policy document; 0 for a policy given as an argument.
        max_tokens: hard limit of the session.
        max_messages: hard limit of the session.
        refuse: a full session refuses instead of evicting.
        ttl: idle life.
        after_clear: idle life after a clear, until the next refresh.
        after_flush: idle life after a flush, until the next refresh.
        max_lifetime: life from the first write.
        refresh: which calls renew the expiry.
        lease: life of a turn's lease between renewals.
        grant: how long a lease that was handed over waits for its new holder.
        enforced: writes without the lease are refused while somebody holds it.
        max_ids: how many recent ids are remembered.
    """

    revision: int
    max_tokens: int
    max_messages: int
    refuse: bool
    ttl: int
    after_clear: int
    after_flush: int
    max_lifetime: int
    refresh: Refresh
    lease: int
    grant: int
    enforced: bool
    max_ids: int


class PolicyDocument(NamedTuple):
    """A policy as the operator wrote it.

    Attributes:
        revision: raised whenever the effective policy changes.
        active: False while the memory is being deleted.
        document: the effective policy in manifest form, as JSON text.
    """

    revision: int
    active: bool
    document: bytes


class Caller(NamedTuple):
    """What a caller knows of the session it writes to.

    Attributes:
        token: of the lease, for calls within a turn; empty otherwise.
        epoch: of the session as last seen; 0 when never seen.
        seen: highest sequence number acknowledged to this caller in that epoch.
    """

    token: str = ""
    epoch: int = 0
    seen: int = 0


class Prepared(NamedTuple):
    """A message, encoded and counted, ready for a store.

    Attributes:
        body: the item as compact JSON text.
        tokens: its count.
        flags: as in `Stored.flags`.
        group: seq of a record whose group this one joins; 0 for its own.
        opens: digests of the tool calls it makes.
        closes: digests of the tool calls whose results it carries; one that starts with `?` need
            not be open.
        id: the caller's id.
    """

    body: bytes
    tokens: int
    flags: int = 0
    group: int = 0
    opens: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    id: str | None = None


class Batch(NamedTuple):
    """Records that are stored together or not at all.

    Attributes:
        records: in order.
        key: digest of the caller's id, empty without one.
        digest: of all bodies, 20 bits: tells a retry from another message under the same id.
    """

    records: tuple[Prepared, ...]
    key: str = ""
    digest: int = 0


class Appended(NamedTuple):
    """A store's answer to an append.

    `over` says that open tool calls keep the session above its limit for now; `torn` that records
    had vanished from the store behind our back and the counters were rebuilt.
    """

    seq: int
    duplicate: bool
    tokens: int
    length: int
    evicted: int
    epoch: int
    over: bool
    torn: bool


class Changed(NamedTuple):
    """A store's answer to a clear, pin or pop: how many records it touched, and the epoch."""

    records: int
    epoch: int


class Status(NamedTuple):
    """The counters of one session; `exists` is False for one that was never written or expired."""

    exists: bool
    epoch: int
    last_seq: int
    tokens: int
    messages: int
    bytes: int
    version: int
    dropped: int
    pinned: int
    pinned_tokens: int
    revision: int
    expires_at: int
    expiry_rule: str
    lease: Lease | None
    lease_token: str
    waiting: int


class Window(NamedTuple):
    """Records of one session at one moment, in append order, and the counters of that moment.

    `complete` is True when nothing older than the first evictable record was left out; `corrupt` is
    how many records could not be read and were left out.
    """

    status: Status
    records: Sequence[Stored]
    complete: bool
    corrupt: int = 0


class Section(NamedTuple):
    """A part of one session at one moment, in append order, and the counters of that moment.

    `waiting` are the groups of the session in which a tool call waits for its result, `newest` the
    group of its newest record, 0 without one.
    """

    status: Status
    records: Sequence[Stored]
    waiting: frozenset[int]
    newest: int


class Granted(NamedTuple):
    """The turn is ours: the lease's fence, the session's epoch and highest sequence number."""

    fence: int
    epoch: int
    seen: int


class Queued(NamedTuple):
    """The turn is somebody else's.

    Seconds it has left, who holds it, how many are in line before us, and whether we are in line.
    """

    remaining: float
    holder: str | None
    place: int
    queued: bool
