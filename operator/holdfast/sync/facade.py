"""The synchronous library; see `holdfast.sync`."""
# Written by `python -m holdfast.sync.generate write`; do not edit.

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import holdfast.client
import holdfast.connecting
import holdfast.log
import holdfast.session
import holdfast.turn
from holdfast.breaker import Breaker
from holdfast.formats import JSON
from holdfast.policy import PolicySource
from holdfast.sync.portal import Portal, feed
from holdfast.sync.refusals import refuse_cancelling
from holdfast.sync.signals import Signal
from holdfast.telemetry import Observer
from holdfast.tokens import TokenCounter
from holdfast.values import (
    AppendResult,
    Durability,
    FlushResult,
    Health,
    HistoryEntry,
    ImportResult,
    Lines,
    MemoryAddress,
    Messages,
    Page,
    Privacy,
    Receipt,
    Status,
    Summary,
)

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.cluster import RedisCluster

    from holdfast.summaries import SummarizerLike


class MessageLog:
    """Messages of one session, in order. A `Session` is one, and so is a `Turn`.

    Every call is atomic, and one round trip unless it says otherwise.
    """

    def __init__(self, portal: Portal, log: holdfast.log.MessageLog) -> None:
        self._portal = portal
        self._log = log

    def append(
        self,
        message: JSON,
        *,
        id: str | None = None,
        role: str | None = None,
        pin: bool = False,
        group: int | None = None,
        share: str | None = None,
        privacy: Privacy | None = None,
    ) -> AppendResult:
        """Store one message.

        Args:
            message: any JSON value; usually a message of the framework in use.
            id: makes a retry harmless: an id that is known stores nothing and returns the first
                result. 1..512 characters.
            role: instead of the one the message names.
            pin: never evict it, nor what belongs to it.
            group: seq of an earlier record that it belongs to, where the message does not say so.
            share: name of a share of the policy's `tokenAllocation.userDefined` that it counts in.
            privacy: what may not be stored of it, beside what the policy says.

        Raises:
            MessageInvalid, MessageTooLarge, BudgetExceeded, ConfigurationError: nothing was sent.
            IdempotencyConflict, SessionBusy, LeaseLost, AcknowledgedLost, QuotaExceeded,
            PolicyNotFound, StoreUnavailable, AccessDenied: nothing was written.
            AmbiguousWrite: the connection broke before the answer, and no id was given or the server
                stayed away. With an id the call may simply be repeated.
        """
        return self._portal.run(
            self._log.append,
            message,
            id=id,
            role=role,
            pin=pin,
            group=group,
            share=share,
            privacy=privacy,
        )

    def append_many(
        self,
        messages: Sequence[JSON],
        *,
        id: str | None = None,
        role: str | None = None,
        pin: bool = False,
        group: int | None = None,
        share: str | None = None,
        privacy: Privacy | None = None,
    ) -> AppendResult:
        """Store messages together or not at all, with nothing between them.

        Args:
            messages: at most 1,000 and 8 MiB of JSON; none at all does nothing.
            id: of the whole call; the records carry `id#0`, `id#1`, ...
            role: of all of them, instead of the one each names.
            pin: never evict them.
            group: seq of an earlier record that they belong to.
            share: name of a share of the policy's `tokenAllocation.userDefined` that they count in.
            privacy: what may not be stored of any of them, beside what the policy says.

        Raises:
            What `append` raises.
        """
        return self._portal.run(
            self._log.append_many,
            messages,
            id=id,
            role=role,
            pin=pin,
            group=group,
            share=share,
            privacy=privacy,
        )

    def pop(self) -> Any | None:
        """Take the newest message out and return it; None when there is none. Two round trips.

        A tool result that is taken out leaves its call unanswered again.

        Raises:
            CorruptRecord: the newest one cannot be read; nothing was taken out.
            What `append` raises of the session and the turn.
        """
        return self._portal.run(self._log.pop)

    def clear(self, *, force: bool = False) -> int:
        """Remove all messages and return how many; ids stay known. Ends the turn of anybody else.

        Args:
            force: even while somebody else holds a turn that the policy enforces.
        """
        return self._portal.run(self._log.clear, force=force)

    def pin(self, seq: int, pinned: bool = True) -> None:
        """Never evict a message and what belongs to it, or allow it again.

        Args:
            seq: sequence number of any message of the group.
            pinned: False undoes it; system messages stay protected.

        Raises:
            ConfigurationError: `seq` is no whole number, 0..2^31.
            RecordNotFound: the session holds no such message.
        """
        self._portal.run(self._log.pin, seq, pinned)

    def read(
        self, *, limit: int | None = None, max_tokens: int | None = None, after: int | None = None
    ) -> Messages:
        """Return messages as they were appended, oldest first.

        Without `limit` that is what a model accepts: no tool result without its call, no call that
        still waits for its result unless it is the newest or this turn's own. System messages come
        first once the oldest part has left. With `limit` it is exactly what is stored.

        Args:
            limit: the newest so many.
            max_tokens: the newest whole groups that fit, together with the protected messages.
            after: only those with a higher sequence number.

        Raises:
            ConfigurationError: both `limit` and `max_tokens`, or one that is no whole number, 0..2^31.
            BudgetTooSmall: the protected messages and the newest group do not fit.
            StoreUnavailable: no answer; a session of which the policy says so (`failureMode`) answers with
                a copy of what it read last, or with nothing, and `stale` is set.
            PolicyNotFound, AccessDenied, LeaseLost.
        """
        return self._portal.run(self._log.read, limit=limit, max_tokens=max_tokens, after=after)

    def read_page(self, *, after: int | None = None, limit: int = 100, used: bool = True) -> Page:
        """Return a part of exactly what is stored, oldest first.

        Args:
            after: the page before's `next`.
            limit: 1..1,000.
            used: False only looks through it: where the policy keeps what is used, this is no use, and
                no copy is kept for when the store does not answer, nor is one given.

        Raises:
            ConfigurationError: `limit` or `after` is no such number.
            What `read` raises of the store and the turn.
        """
        return self._portal.run(self._log.read_page, after=after, limit=limit, used=used)

    def length(self) -> int:
        """Return the number of messages."""
        return self._portal.run(self._log.length)

    def token_count(self) -> int:
        """Return the tokens of all messages, counted when they were appended."""
        return self._portal.run(self._log.token_count)

    def health(self) -> Health:
        """Return the state of the session. Two round trips."""
        return self._portal.run(self._log.health)

    def status(self) -> Status:
        """Return the store's counters of the session."""
        return self._portal.run(self._log.status)

    def flush(self, strategy: str | None = None, *, dry_run: bool = False) -> FlushResult:
        """Take the session down to its target now, as its policy does by itself at the threshold.

        Writers go on meanwhile, and whatever they append stays. A summary that could not be written
        changes nothing. Two round trips, four and a model's answer with a summary.

        Args:
            strategy: instead of the policy's: `FIFO`, `LRU`, `TokenAwareLRU`, `HybridSummary` or
                `TimeBased`. A policy with `Disabled` flushes like `FIFO` when asked.
            dry_run: say what would leave, and change nothing.

        Raises:
            ConfigurationError: there is no such strategy.
            SessionBusy: somebody else flushes the session, or changes it faster than this can.
            SummaryFailed, PolicyNotFound, StoreUnavailable, AccessDenied: nothing was changed.
        """
        return self._portal.run(self._log.flush, strategy, dry_run=dry_run)

    def summaries(self) -> list[Summary]:
        """Return the summaries that stand for what left, oldest first. One round trip."""
        return self._portal.run(self._log.summaries)

    def history(self) -> list[HistoryEntry]:
        """Return what left the session, when and by which rule; never what it said. Two round trips.

        What the hard limits dropped, one by one as the session went on, has no time.
        """
        return self._portal.run(self._log.history)

    def explain(self, *, id: str | None = None, seq: int | None = None) -> str:
        """Say in one sentence what became of a message. Up to four round trips.

        Args:
            id: that it was appended with; of several together `id#0`, `id#1` and so on. A session
                remembers when a batch began, not which of it were stored: the sentence says so of
                one that left.
            seq: its sequence number, instead.

        Raises:
            ConfigurationError: neither is given, or both, or one that is none.
        """
        return self._portal.run(self._log.explain, id=id, seq=seq)

    def replace(
        self,
        messages: Sequence[JSON],
        *,
        id: str | None = None,
        role: str | None = None,
        pin: bool = False,
        share: str | None = None,
        privacy: Privacy | None = None,
    ) -> AppendResult:
        """Remove all messages and store others in their place, as one change.

        Nobody ever reads the session without either. Ids stay known, numbers go on, and the turn of
        anybody else ends, as with `clear`. Whatever refuses the new messages leaves the old ones.

        Args:
            messages: at most 1,000 and 8 MiB of JSON; none at all leave the session empty.
            id: makes a retry harmless; see `append_many`.
            role: of all of them, instead of the one each names.
            pin: never evict them.
            share: name of a share of the policy's `tokenAllocation.userDefined` that they count in.
            privacy: what may not be stored of any of them, beside what the policy says.

        Raises:
            What `append` raises.
        """
        return self._portal.run(
            self._log.replace, messages, id=id, role=role, pin=pin, share=share, privacy=privacy
        )


class Turn(MessageLog):
    """The right to answer in a session, held by one caller at a time; `with session.turn()`.

    The lease is renewed while it is held, and every write is checked against it inside the store. Once
    it is lost, every call raises `LeaseLost`, which means that the call wrote nothing; `TurnInterrupted`
    where somebody else took it, as the policy may allow.
    """

    def __init__(self, portal: Portal, turn: holdfast.turn.Turn) -> None:
        super().__init__(portal, turn)
        self._turn = turn

    @property
    def fence(self) -> int:
        """The fencing token: an integer that grows with every turn of the session."""
        return self._turn.fence

    @property
    def interrupted(self) -> Signal:
        """True once somebody else took the turn; `wait` waits for that. Implies `lost`."""
        return Signal(self._portal, self._turn.interrupted)

    @property
    def lost(self) -> Signal:
        """True once the turn is lost; `wait` waits for that."""
        return Signal(self._portal, self._turn.lost)

    def __enter__(self) -> Self:
        """Wait for the turn.

        Raises:
            SessionBusy: somebody else held it all the time.
            TurnInterrupted: it was taken away again before this call knew that it had it.
            QuotaExceeded: the session would begin with it, and the memory has as many as it may.
            StoreUnavailable, AccessDenied, PolicyNotFound.
        """
        self._portal.enter(self._turn)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the turn to the next in line. Never hides the body's exception."""
        self._portal.leave(self._turn, kind, error, trace)

    def check(self) -> None:
        """Ask the store whether the turn is still held; call it before a side effect.

        Raises:
            LeaseLost: it is not.
            StoreUnavailable: nobody knows.
        """
        self._portal.run(self._turn.check)


class Session(MessageLog):
    """One conversation. Cheap: it holds no connection and needs no closing."""

    def __init__(self, portal: Portal, session: holdfast.session.Session) -> None:
        super().__init__(portal, session)
        self._session = session

    def turn(
        self,
        *,
        wait: str | timedelta | None = None,
        ttl: str | timedelta | None = None,
        on_interrupt: Literal["cancel"] | None = None,
    ) -> Turn:
        """Ask for the turn: `with session.turn() as turn`.

        Args:
            wait: how long to wait in line, such as `"30s"`, at most `"24h"`; `timedelta(0)` does not wait;
                None is the policy's `locking.waitTimeout`.
            ttl: how long the turn stays reserved should this process fall silent, 3 s to 1 h; None
                is the policy's `locking.leaseTTL`.
            on_interrupt: what becomes of the body where the policy lets others take the turn
                (`locking.onBusy: Interrupt`; then nobody waits) and somebody did: nothing can
                cancel a thread, so `"cancel"` is refused, and None leaves it to the next call, which
                raises `TurnInterrupted`, and to `turn.interrupted`.
        """
        refuse_cancelling(on_interrupt)
        turn = self._portal.direct(
            self._session.turn, wait=wait, ttl=ttl, on_interrupt=on_interrupt
        )
        return Turn(self._portal, turn)

    def erase(self, *, force: bool = False) -> Receipt:
        """Remove all that is kept of the session: messages, ids, history, waiters, index entries.

        Turns and summaries that are under way write nothing afterwards: they get `LeaseLost`, or are
        dropped. Whatever others append later is a new conversation. Four round trips.

        For a minute one key remains, which says no more than that the session was erased: it keeps
        appends that the library repeats after a lost answer from putting a message back. They raise
        `AmbiguousWrite`. Still open: an append that was sent before and comes in only now, or that its
        caller repeats by itself, begins a new conversation with that message. Replicas follow within
        their lag: with `durability` they are waited for, and the receipt says whether they were in time.
        Backups, append-only files and snapshots of the server are beyond this call.

        Args:
            force: even while somebody holds a turn that the policy enforces.

        Raises:
            SessionBusy: somebody holds such a turn; nothing was removed.
            PolicyNotFound, StoreUnavailable, AccessDenied: call again to be sure.
        """
        return self._portal.run(self._session.erase, force=force)

    def export(self, *, name: bool = False) -> Iterator[str]:
        """Give the session as lines of JSON, without line ends: a header, then each record.

        All lines are of one moment, taken with the first: one round trip. A session that does not exist
        gives a header alone. The header has the history, and what is remembered of ids: digests of the
        latest, and 20 bits of a digest of what came under each, also of what has left since.

        Args:
            name: the header says the session's key.

        Raises:
            CorruptRecord: a record cannot be read, so the export would lack it.
            PolicyNotFound, StoreUnavailable, AccessDenied.
        """
        return self._portal.iterate(self._session.export, name=name)

    def import_(self, lines: Lines) -> ImportResult:
        """Take in what `export` gave: the session then exports the same lines.

        Sequence numbers, times, groups, protection, ids, tokens and history are kept as they are, and tool
        calls that wait still do. The policy's privacy applies as to what is appended: where it replaces
        something, a record differs from its line, and the result counts it. The lifetime begins anew.

        Retries are answered as they were where the export is from: those of messages that have left too,
        as many as the policy remembers; what an emptied session knew itself is forgotten. Where the policy
        redacts or withholds anything, a retry is not compared with what came first, since digests may be
        of what may not be stored here. Exports of earlier versions have neither: of them, the ids of the
        records are known, whatever the content, and what has left is said to have left before.

        Written in parts of at most 1,000 records and 8 MiB, one round trip each, ids and history with the
        first. An import that stopped goes on when it is called again with the same lines, unless the
        session was changed since. Others see the parts; take care that nobody appends meanwhile, or the
        rest is refused.

        Args:
            lines: of an export, one by one; blank ones are left out.

        Raises:
            ImportRefused: with the number of the line that is no part of an export, or that the session
                holds otherwise; or the policy's privacy was changed meanwhile. Nothing of this part was
                written.
            BudgetExceeded: the export is larger than the policy lets a session be: nothing was written,
                since the next append would drop what is too much.
            SessionBusy: somebody holds a turn that the policy enforces.
            QuotaExceeded, PolicyNotFound, StoreUnavailable, AccessDenied: this part was not written.
            AmbiguousWrite: perhaps it was: call again.
        """
        return self._portal.run(self._session.import_, feed(lines))


class Memory:
    """One kind of memory under one policy; made by `Client.memory`."""

    def __init__(self, portal: Portal, memory: holdfast.client.Memory) -> None:
        self._portal = portal
        self._memory = memory

    @property
    def address(self) -> MemoryAddress:
        """Where it is: namespace and name."""
        return self._memory.address

    @property
    def format(self) -> str | None:
        """The format of its messages by name; None finds it by each message's shape."""
        return self._memory.format

    def erase(
        self, *, labels: Mapping[str, str], dry_run: bool = False, force: bool = False
    ) -> Receipt:
        """Erase all sessions that carry all these labels; see `Session.erase`.

        Looks a second time for what began meanwhile. A label is known for twice the policy's longest idle
        time and a day after the last write that noted it: a session that was only read since is not
        found by it.

        Args:
            labels: 1..16 of those given to `session`, or fields of the key template.
            dry_run: say what would go, and remove nothing.
            force: even sessions in which somebody holds a turn that the policy enforces.

        Raises:
            ConfigurationError: these are no labels.
            SessionBusy: somebody holds such a turn; all others are erased.
            PolicyNotFound, StoreUnavailable, AccessDenied: call again for the rest.
        """
        return self._portal.run(self._memory.erase, labels=labels, dry_run=dry_run, force=force)

    def session(
        self, id: str | None = None, /, *, labels: Mapping[str, str] | None = None, **fields: str
    ) -> Session:
        """Return a session, by its id or by the fields of the key template. No I/O.

        Args:
            id: 1..512 bytes of UTF-8, for a memory without a key template.
            labels: noted with what is written, for `erase(labels=...)`; at most 16, fields included,
                which are labels by themselves.
            fields: exactly the template's fields, each 1..512 bytes of UTF-8. Those that a binding
                fixes may be left out.

        Raises:
            SessionKeyError: empty, too long, not what the template takes, or fixed otherwise.
            ConfigurationError: the labels cannot be.
        """
        session = self._portal.direct(self._memory.session, id, labels=labels, **fields)
        return Session(self._portal, session)


class Client:
    """A connection to a place that keeps memories; `with holdfast.sync.connect() as client`."""

    def __init__(self, client: holdfast.client.Client) -> None:
        self._client = client
        self._portal = Portal(client.aclose)

    @property
    def breakers(self) -> Sequence[Breaker]:
        """What is known of the servers: one for each that this client talks to, none without servers."""
        return self._client.breakers

    def memory(self, name: str | None = None, *, format: str | None = None) -> Memory:
        """Return a memory by its name. No I/O.

        Args:
            name: may be left out where the client was given the manifest of exactly one, or its
                binding has exactly one.
            format: the format of its messages by name; None finds it by each message's shape.

        Raises:
            MemoryNotFound: the client was given another memory's manifest, or its binding has no such
                memory; names those it has.
        """
        memory = self._portal.direct(self._client.memory, name, format=format)
        return Memory(self._portal, memory)

    def drain(self, seconds: float) -> None:
        """Start no more flushes, and let those that run end; before `aclose`, where time is short.

        Args:
            seconds: that a flush has to end; one that is cut off then has changed nothing.
        """
        self._portal.run(self._client.drain, seconds)

    def close(self) -> None:
        """End turns that are still open, cancel calls that still run, and close connections.

        The end of the program does so too.

        A flush that runs has ten seconds to end; one that is cut off then has changed nothing.
        """
        self._portal.close()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the client."""
        self.close()


def connect(
    url: str | None = None,
    *,
    namespace: str | None = None,
    policy: PolicySource | None = None,
    client: "Redis | RedisCluster | None" = None,
    durability: Durability | None = None,
    counter: TokenCounter | None = None,
    summarizer: "SummarizerLike | None" = None,
    observers: Sequence[Observer] = (),
    holder: str | None = None,
) -> Client:
    """Make a client. No I/O happens and no thread starts before the first call.

    Args:
        url: `redis://host:port/0?namespace=team-a&prefix=mem`, `redis+cluster://host:port,host:port`,
            `redis+sentinel://host:port,host:port/primary`, each with TLS as `rediss` instead of
            `redis` (options ca, cert, key, server-name), `unix:///path/of/socket`, `memory://` for a
            store in this process; or a sidecar's `http+unix:///path/of/socket` or
            `http://127.0.0.1:7070`, which alone decides: then only `observers` may be given besides.
            None takes the variable `HOLDFAST_URL`, or else the one binding
            under `SERVICE_BINDING_ROOT`, whose memories have their names there.
        namespace: of the memories; instead of the URL's, else `local`.
        policy: what holds where no operator wrote a policy: the path of a MemoryResource manifest, a
            mapping in its form, or a `Policy`.
        client: your own redis-py client, of a server, of a Cluster, or made by a `Sentinel`; it is
            never closed. For the last two, connections of our own are made with its settings.
            It is one of `redis.asyncio`, for this client alone.
        durability: how many replicas confirm appends, turns and erasures; instead of the URL's
            `replicas=1&wait=100ms`, else none is asked.
        counter: your own token counter, for all memories and whatever their policies say. It is asked
            on a thread of its own, 30 s for each message.
        summarizer: writes summaries, whatever the policies say: an object with `summarize`, or a
            function of a `SummaryRequest` that returns the text, `async` or not.
        observers: are told of calls, counts and levels, such as `holdfast.metrics.PrometheusObserver()`
            and `holdfast.tracing.OpenTelemetryObserver()`.
        holder: how turns name themselves to others; None is the host and the process.

    Raises:
        ConfigurationError: nothing says where to connect to, or it cannot be used.
        PolicyInvalid: the policy breaks a rule; names file, line, field and reason.
    """
    made = holdfast.connecting.connect(
        url,
        namespace=namespace,
        policy=policy,
        client=client,
        durability=durability,
        counter=counter,
        summarizer=summarizer,
        observers=observers,
        holder=holder,
    )
    return Client(made)
