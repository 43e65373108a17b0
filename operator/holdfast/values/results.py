"""What callers get."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec


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
        item: the JSON value that was appended, but for what was redacted.
        privacy: the level that its writer gave it, if any.
    """

    seq: int
    ts: int
    tokens: int
    group: int
    id: str | None
    pinned: bool
    item: Any
    privacy: str | None = None


class Messages(list[Any]):
    """What `read` returns: a list of JSON values, equal to any other list of the same.

    Attributes:
        stale: they are not what the store holds now, which did not answer: what this process read last,
            or nothing, as the policy's `failureMode` says.
    """

    __slots__ = ("stale",)

    def __init__(self, items: Iterable[Any] = (), *, stale: bool = False) -> None:
        super().__init__(items)
        self.stale = stale


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a session in append order.

    Attributes:
        records: at most `limit`, oldest first.
        total: records in the session now.
        next: pass it as `after=` for the next page; None at the end.
        omitted: how many of these records `read()` would leave out: orphan results, and tool calls
            that wait for their result.
        stale: not what the store holds now, which did not answer: what this process read last, or
            nothing, as the policy's `failureMode` says.
    """

    records: tuple[Record, ...]
    total: int
    next: int | None
    omitted: int
    stale: bool = False


class AppendResult(msgspec.Struct, frozen=True, gc=False):
    """What an append did.

    Attributes:
        seq: sequence number of the first record; 0 when all messages were withheld.
        count: how many records, in consecutive sequence numbers.
        duplicate: the id was known: nothing was written, `seq` is that of the first time.
        tokens: of the whole session afterwards.
        length: records of the whole session afterwards.
        evicted: records that left to keep the limits.
        warnings: sentences about what the caller should know.
        redacted: values or parts of texts that were replaced before anything was sent.
        withheld: messages whose content was not stored: left out, or kept as a stub that holds a tool
            call and its result together. Those left out are not in `count`.
        durable: as many replicas have it as were asked for; False says that it is written, not
            confirmed. Nobody was asked without a `Durability`.
    """

    seq: int
    count: int
    duplicate: bool
    tokens: int
    length: int
    evicted: int
    warnings: tuple[str, ...] = ()
    redacted: int = 0
    withheld: int = 0
    durable: bool = True


@dataclass(frozen=True, slots=True)
class FlushResult:
    """What a flush did, or with `dry_run` would do.

    Attributes:
        strategy: that it went by.
        dropped: records that left and are in no summary.
        summarised: records that left into the summary, earlier summaries included.
        summary: sequence number of the summary; None without one.
        tokens_before: of the session when it began.
        tokens: of the session afterwards.
        length: records of the session afterwards.
        rules: how many records left by which rule.
        reached: the session is at its target. When not, nothing more could be taken.
        overshoot: shares and blocks that still hold more than their part, with the tokens too many:
            what is protected cannot give.
        dry_run: nothing was changed.
    """

    strategy: str
    dropped: int
    summarised: int
    summary: int | None
    tokens_before: int
    tokens: int
    length: int
    rules: Mapping[str, int]
    reached: bool
    overshoot: Mapping[str, int] = field(default_factory=dict[str, int])
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an erasure removed, or with `dry_run` would. No content, no session and no id.

    Attributes:
        sessions: how many.
        messages: that they held.
        bytes: size of those in the store.
        digest: SHA-256, in hexadecimal, over key, epoch, last sequence number, messages and bytes of every
            session in order: two receipts over the same have the same.
        completed_at: milliseconds since 1970, by this process's clock.
        dry_run: nothing was removed.
        durable: as many replicas know of it as were asked to; False says that a failover may bring the
            sessions back, so erase them again. True where nobody asked.
    """

    sessions: int
    messages: int
    bytes: int
    digest: str
    completed_at: int
    dry_run: bool = False
    durable: bool = True


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an import did.

    Attributes:
        records: that the session holds of the export now, those of a stopped import included.
        seq: highest sequence number of the session.
        complete: the session holds as many records as the export's first line says; without it the lines
            ended too early.
        redacted: values and parts of texts that the policy replaced.
        withheld: records whose content the policy does not let be stored.
        resumed: records that were there already, from an import that stopped.
    """

    records: int
    seq: int
    complete: bool
    redacted: int = 0
    withheld: int = 0
    resumed: int = 0


@dataclass(frozen=True, slots=True)
class Summary:
    """What stands for messages that left.

    Attributes:
        seq: its own sequence number, that of the newest message it covers.
        text: the summary.
        first: lowest sequence number it covers.
        last: highest one.
        messages: how many it covers.
        covered_tokens: how many those had.
        tokens: its own.
        model: who wrote it.
        ts: when, milliseconds since 1970.
    """

    seq: int
    text: str
    first: int
    last: int
    messages: int
    covered_tokens: int
    tokens: int
    model: str
    ts: int


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """Messages that left a session together. Never what they said.

    Attributes:
        rule: such as `FIFO`, `HybridSummary`, `share:longTerm`, `pop`, `clear`; `limit` for what left
            because the session was full; `several` where old entries were joined; `import` for what had
            left before an import, where the export did not say how; `withheld` for what an import left
            out, since the policy does not let it be stored.
        first: lowest sequence number.
        last: highest one.
        messages: how many.
        at: when, milliseconds since 1970; None where it was one by one, or is not known.
        tokens: of all of them, but for those that the limits had dropped while their summary was written;
            None where nobody counted.
        summary: sequence number of the summary that stands for them; None when they were dropped.
    """

    rule: str
    first: int
    last: int
    messages: int
    at: int | None
    tokens: int | None
    summary: int | None


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
        expiry_rule: the rule behind it: `ttl`, `afterClear`, `afterFlush`, `maxLifetime` or `lease`.
        revision: revision of the policy last applied to the session; 0 without an operator.
        revision_behind: how many revisions the session lags the policy at hand.
        managed: the policy comes from an operator.
        lease: the turn that is held now.
        waiting: callers waiting for the turn.
        dropped: records that were evicted so far.
        unrecognised: items that no known format could read, in this process.
        warnings: sentences about what a person should look at.
        redacted: values and parts of texts that this process replaced before storing them.
        withheld: messages whose content this process did not store.
        strategy: by which the policy flushes the session.
        last_flush: when a flush last took something out, milliseconds since 1970; None: never, or before
            what the history remembers one by one.
        flush_due: it is as full as the policy's threshold says; always False where no filling starts a
            flush.
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
    redacted: int = 0
    withheld: int = 0
    strategy: str = "Disabled"
    last_flush: int | None = None
    flush_due: bool = False
