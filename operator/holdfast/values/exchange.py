"""What travels between the library and a store.

What each append makes anew is a Struct: a tuple with names takes three times as long to make.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple

import msgspec

from holdfast.values.records import Departed, Notes, Remembered, Stored
from holdfast.values.results import Lease


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
        max_sessions: hard limit of the memory's sessions, checked where one begins.
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
    max_sessions: int = 0


class Usage(NamedTuple):
    """What all sessions of a memory held when the operator measured it last.

    Attributes:
        sessions: how many there were.
        messages: how many they held.
        tokens: of all messages.
        bytes: size of all records in the store.
        at: time of the measurement in the store, milliseconds since 1970.
        age: milliseconds between then and this reading, both by the store's clock.
    """

    sessions: int
    messages: int
    tokens: int
    bytes: int
    at: int
    age: int


class PolicyDocument(NamedTuple):
    """A policy as the operator wrote it, and what it measured.

    Attributes:
        revision: raised whenever the effective policy changes.
        active: False while the memory is being deleted.
        document: the effective policy in manifest form, as JSON text.
        usage: None before the first measurement.
    """

    revision: int
    active: bool
    document: bytes
    usage: Usage | None = None


class Caller(msgspec.Struct, frozen=True, gc=False):
    """What a caller knows of the session it writes to.

    Attributes:
        token: of the lease, for calls within a turn; empty otherwise.
        epoch: of the session as last seen; 0 when never seen.
        seen: highest sequence number acknowledged to this caller in that epoch.
        sure: since then the session cannot have ended by itself.
    """

    token: str = ""
    epoch: int = 0
    seen: int = 0
    sure: bool = False


class Prepared(msgspec.Struct, frozen=True, gc=False):
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
        notes: kept beside the item.
    """

    body: bytes
    tokens: int
    flags: int = 0
    group: int = 0
    opens: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    id: str | None = None
    notes: Notes | None = None


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Records that are stored together or not at all.

    Attributes:
        records: in order.
        key: digest of the caller's id, 32 hexadecimal digits; empty without one.
        digest: of all bodies, 20 bits: tells a retry from another message under the same id. 0 where
            something was redacted or withheld: then the two are not compared. A digest of the original
            would help to guess a short secret, and one of the rest would differ after the policy's
            next edit.
    """

    records: tuple[Prepared, ...]
    key: str = ""
    digest: int = 0


class Appended(msgspec.Struct, frozen=True, gc=False):
    """A store's answer to an append.

    `over` says that open tool calls keep the session above its limit for now; `torn` that records
    had vanished from the store behind our back and the counters were rebuilt. `durable` says that as
    many replicas have it as were asked for; where they do not, `strict` asks for an error.
    """

    seq: int
    duplicate: bool
    tokens: int
    length: int
    evicted: int
    epoch: int
    over: bool
    torn: bool
    durable: bool = True
    strict: bool = False


class Changed(NamedTuple):
    """A store's answer to a clear, pin or pop: how many records it touched, and the epoch."""

    records: int
    epoch: int


class Erased(NamedTuple):
    """A store's answer to an erasure: whether there was a session, and what its counters said.

    `durable` says that as many replicas know of it as were asked to.
    """

    existed: bool
    epoch: int = 0
    last_seq: int = 0
    messages: int = 0
    bytes: int = 0
    durable: bool = True


class Part(NamedTuple):
    """A part of an import.

    Attributes:
        records: with the sequence numbers, times and groups they had, ascending.
        ids: to be remembered, oldest first.
        opened: digests of tool calls that wait after this part, and their groups.
        answered: digests of those that no longer wait.
        epoch: of the session as last seen; 0 where there is none.
        version: of the session as last seen.
        messages: of the session as last seen; 0 begins the import.
        last_seq: highest sequence number of the whole export.
        dropped: records that had left the exported session.
        history: entries to be added, oldest first.
        anew: the ids are all that the session knows from here on; else they come to those it knows.
    """

    records: Sequence[Stored]
    ids: Sequence[Remembered]
    opened: Mapping[str, int]
    answered: Collection[str]
    epoch: int
    version: int
    messages: int
    last_seq: int
    dropped: int
    history: Sequence[Departed] = ()
    anew: bool = False


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


class Archive(NamedTuple):
    """All that an export holds, of one moment.

    Attributes:
        window: all records.
        ids: those that are known, oldest first.
        history: as of `SessionStore.departed`.
    """

    window: Window
    ids: Sequence[Remembered]
    history: Sequence[Departed]


class Newest(list[Stored]):
    """The newest records of one session, in append order.

    Attributes:
        corrupt: how many among them could not be read and were left out.
    """

    def __init__(self, records: Iterable[Stored] = (), corrupt: int = 0) -> None:
        super().__init__(records)
        self.corrupt = corrupt


class Section(NamedTuple):
    """A part of one session at one moment, in append order, and the counters of that moment.

    `waiting` are the groups of the session in which a tool call waits for its result, `newest` the
    group of its newest record, 0 without one. `next` is the sequence number that the part behind this one
    comes after, None where nothing follows; `corrupt` is how many records could not be read and were
    left out.
    """

    status: Status
    records: Sequence[Stored]
    waiting: frozenset[int]
    newest: int
    next: int | None = None
    corrupt: int = 0


class Snapshot(NamedTuple):
    """All records of a session, as a plan needs them.

    Attributes:
        status: the counters.
        now: the store's time, milliseconds since 1970.
        records: in append order.
        encoded: each record as it is stored.
        accessed: group -> when it was last read, milliseconds since 1970; only what was noted.
    """

    status: Status
    now: int
    records: Sequence[Stored]
    encoded: Sequence[bytes]
    accessed: Mapping[int, int]


class Splice(NamedTuple):
    """What a flush takes out of a session, and what it puts in.

    Attributes:
        token: of the flusher.
        epoch: of the session when the plan was made.
        rules: sequence number and rule of every record it covers, ascending.
        records: those of them that were there, as stored, ascending.
        summary: takes the place of what it covers; without one that is dropped.
    """

    token: str
    epoch: int
    rules: Sequence[tuple[int, str]]
    records: Sequence[tuple[int, bytes]]
    summary: Prepared | None = None


class Spliced(NamedTuple):
    """A store's answer to a splice.

    Attributes:
        done: False: nothing was written, for the session is another one by now, its records are, or
            somebody else flushes it.
        removed: records that were taken out.
        tokens: of the session afterwards.
        length: records of the session afterwards.
        summary: sequence number of the summary; 0 without one.
        evicted: further records that left to keep the limits.
    """

    done: bool
    removed: int = 0
    tokens: int = 0
    length: int = 0
    summary: int = 0
    evicted: int = 0


class Trimmed(NamedTuple):
    """A store's answer to a trim.

    Attributes:
        evicted: records that the answer knows of.
        tokens: of the session afterwards.
        length: records of the session afterwards.
        repeated: an answer was lost before, and may have known of more.
    """

    evicted: int
    tokens: int
    length: int
    repeated: bool = False


class Granted(NamedTuple):
    """The turn is ours.

    Attributes:
        fence: of the lease.
        epoch: of the session.
        seen: the session's highest sequence number at the grant.
        until: the lease lasts at least until then, by this process's monotonic clock in seconds.
    """

    fence: int
    epoch: int
    seen: int
    until: float


class Queued(NamedTuple):
    """The turn is somebody else's.

    Seconds it has left, who holds it, how many are in line before us, and whether we are in line.
    """

    remaining: float
    holder: str | None
    place: int
    queued: bool
