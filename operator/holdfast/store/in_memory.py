"""The store in this process: for tests, for examples, and as the plain statement of what a store does.

It decides with `holdfast.planning` alone, where Redis decides in Lua; one conformance suite holds both.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import msgspec

from holdfast.planning import group_records, plan_backstop, plan_expiry
from holdfast.planning.expiry import Rule
from holdfast.store import refusals
from holdfast.store.protocol import StalePolicy, token_wait
from holdfast.values import (
    Appended,
    Batch,
    Caller,
    Changed,
    Flag,
    Granted,
    Lease,
    MemoryAddress,
    PolicyDocument,
    Queued,
    Refresh,
    Section,
    Status,
    Stored,
    Terms,
    Window,
)

Clock = Callable[[], int]


def wall_clock() -> int:
    """Return microseconds since 1970."""
    return time.time_ns() // 1000


@dataclass(slots=True)
class _Turn:
    """Who holds the turn, and who waits for it: token -> arrival in microseconds."""

    token: str = ""
    until: int = 0
    fence: int = 0
    holder: str = ""
    waiting: dict[str, int] = field(default_factory=dict[str, int])
    woken: dict[str, asyncio.Event] = field(default_factory=dict[str, asyncio.Event])


@dataclass(slots=True)
class _Session:
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
    ids: OrderedDict[str, tuple[int, int]] = field(
        default_factory=OrderedDict[str, tuple[int, int]]
    )

    @property
    def tokens(self) -> int:
        return sum(record.tokens for record in self.records)

    def is_protected(self, group: int) -> bool:
        return any(record.group == group and record.protected for record in self.records)

    def group_of(self, seq: int) -> int | None:
        return next((record.group for record in self.records if record.seq == seq), None)

    def forget_calls(self) -> None:
        """Forget calls that wait in a group that has left: a group goes as a whole, its first too."""
        groups = {record.group for record in self.records}
        self.calls = {call: group for call, group in self.calls.items() if group in groups}


class InMemoryStore:
    """Sessions in the memory of this process; lost with it.

    Safe for any number of tasks of one event loop: no call is interrupted while it changes something.

    Args:
        clock: returns microseconds since 1970; tests pass one that they move.
    """

    def __init__(self, *, clock: Clock = wall_clock) -> None:
        self._clock = clock
        self._sessions: dict[tuple[MemoryAddress, str], _Session] = {}
        self._turns: dict[tuple[MemoryAddress, str], _Turn] = {}
        self._policies: dict[MemoryAddress, PolicyDocument] = {}

    def session(self, memory: MemoryAddress, key: str) -> "InMemorySession":
        """Return a handle on a session."""
        return InMemorySession((memory, key), self._sessions, self._turns, self._clock)

    async def policy(self, memory: MemoryAddress) -> PolicyDocument | None:
        """Return the policy document that was put, if any."""
        return self._policies.get(memory)

    def put_policy(self, memory: MemoryAddress, document: PolicyDocument) -> None:
        """Put a policy document, as an operator does."""
        self._policies[memory] = document

    async def aclose(self) -> None:
        """Nothing to close: what is stored stays with the object."""


class InMemorySession:
    """A handle on one session; see `SessionStore`."""

    def __init__(
        self,
        address: tuple[MemoryAddress, str],
        sessions: dict[tuple[MemoryAddress, str], _Session],
        turns: dict[tuple[MemoryAddress, str], _Turn],
        clock: Clock,
    ) -> None:
        self._address = address
        self._sessions = sessions
        self._turns = turns
        self._clock = clock

    async def append(self, terms: Terms, batch: Batch, caller: Caller) -> Appended:
        """Store a batch; see `SessionStore.append`."""
        session = self._find()
        known = session.ids.get(batch.key) if session and batch.key else None
        if session and known:
            return _answer_known(session, known, batch)
        self._check(session, terms, caller)
        fresh = session is None
        if session is None:
            session = self._begin(terms)
        first = session.following
        grouping = group_records(
            batch.records,
            first=first,
            waiting=session.calls,
            group_of=session.group_of,
            is_protected=session.is_protected,
        )
        items = [
            Stored(
                record.tokens,
                grouping.flags[at],
                first + at,
                self._now(),
                grouping.groups[at],
                record.id,
                msgspec.json.decode(record.body),
            )
            for at, record in enumerate(batch.records)
        ]
        tokens = session.tokens + sum(item.tokens for item in items)
        messages = len(session.records) + len(items)
        if terms.refuse and _exceeds(terms, tokens, messages):
            raise refusals.full(len(session.records), session.tokens)
        evictable = [record for record in session.records if not record.protected]
        plan = plan_backstop(
            evictable,
            tokens=tokens,
            messages=messages,
            terms=terms,
            keep=grouping.groups,
            now=self._now(),
        )
        if plan.hopeless:
            raise refusals.no_room()

        if fresh:
            self._sessions[self._address] = session
        self._remove(session, [evictable[at] for at in plan.evict])
        session.dropped += len(plan.evict)
        for digest in grouping.answered:
            session.calls.pop(digest, None)
        session.forget_calls()
        session.calls |= grouping.opened
        for group in grouping.protected:
            _protect(session, group)
        session.records += items
        for item in items:
            session.sizes[item.seq] = len(msgspec.json.encode(item))
        session.following += len(items)
        session.version += 1
        session.revision = max(session.revision, terms.revision)
        if terms.refresh & Refresh.WRITE or fresh:
            self._refresh(session, terms)
        self._remember(session, terms, batch, first)
        return Appended(
            seq=first,
            duplicate=False,
            tokens=session.tokens,
            length=len(session.records),
            evicted=len(plan.evict),
            epoch=session.epoch,
            over=plan.over,
            torn=False,
        )

    async def newest(self, terms: Terms, count: int) -> Sequence[Stored]:
        """Return the newest records, in append order."""
        session = self._find()
        self._read(session, terms)
        return session.records[-count:] if session else []

    async def pop(
        self,
        terms: Terms,
        caller: Caller,
        *,
        expected: int,
        opens: Collection[str],
        closes: Collection[str],
    ) -> Changed:
        """Take the newest record out; see `SessionStore.pop`."""
        session = self._find()
        if session is None:
            return self._nothing(caller)
        self._check(session, terms, caller)
        if not session.records or session.records[-1].seq != expected:
            return Changed(0, session.epoch)
        newest = session.records[-1]
        self._remove(session, [newest])
        for digest in opens:
            session.calls.pop(digest, None)
        if newest.closes:
            session.calls.update({call.removeprefix("?"): newest.group for call in closes})
        session.forget_calls()
        self._changed(session, terms)
        return Changed(1, session.epoch)

    async def clear(self, terms: Terms, caller: Caller, *, force: bool) -> Changed:
        """Remove all records; see `SessionStore.clear`."""
        session = self._find()
        if session is None:
            return self._nothing(caller)
        self._check(session, terms, caller, force=force)
        removed = len(session.records)
        session.records.clear()
        session.sizes.clear()
        session.calls.clear()
        session.version += 1
        session.epoch = max(self._clock(), session.epoch + 1)
        session.revision = max(session.revision, terms.revision)
        if terms.after_clear:
            self._refresh(session, terms, terms.after_clear, "afterClear")
        else:
            self._refresh(session, terms)
        return Changed(removed, session.epoch)

    async def pin(self, terms: Terms, caller: Caller, *, seq: int, pinned: bool) -> Changed:
        """Pin or unpin a group; see `SessionStore.pin`."""
        session = self._find()
        group = session.group_of(seq) if session else None
        if session is None or group is None:
            if session is None and caller.token:
                raise refusals.lease_lost()
            if session is not None:
                self._check(session, terms, caller)
            raise refusals.no_record()
        self._check(session, terms, caller)
        members = [record for record in session.records if record.group == group]
        moved = 0
        if pinned and not session.is_protected(group):
            moved = _protect(session, group)
        elif not pinned and not any(record.flags & Flag.SYSTEM for record in members):
            moved = sum(record.protected for record in members)
            _set_pinned(session, group, pinned=False)
        session.revision = max(session.revision, terms.revision)
        session.version += bool(moved)
        if terms.refresh & Refresh.WRITE:
            self._refresh(session, terms)
        return Changed(moved, session.epoch)

    async def everything(self, terms: Terms) -> Window:
        """Return all records."""
        session = self._find()
        self._read(session, terms)
        return Window(self._status(session), list(session.records if session else ()), True)

    async def tail(self, terms: Terms, *, tokens: int) -> Window:
        """Return the protected and the newest records; see `SessionStore.tail`."""
        session = self._find()
        self._read(session, terms)
        records = session.records if session else []
        taken: list[Stored] = []
        used = 0
        evictable = [record for record in records if not record.protected]
        for record in reversed(evictable):
            if used > tokens:
                break
            used += record.tokens
            taken.append(record)
        protected = [record for record in records if record.protected]
        window = sorted([*protected, *taken], key=lambda record: record.seq)
        return Window(self._status(session), window, len(taken) == len(evictable))

    async def page(self, terms: Terms, *, after: int, limit: int) -> Section:
        """Return a page of records; see `SessionStore.page`."""
        session = self._find()
        self._read(session, terms)
        status = self._status(session)
        if session is None:
            return Section(status, (), frozenset(), 0)
        records = [record for record in session.records if record.seq > after][:limit]
        newest = session.records[-1].group if session.records else 0
        return Section(status, records, frozenset(session.calls.values()), newest)

    async def status(self) -> Status:
        """Return the counters."""
        return self._status(self._find())

    async def acquire(self, terms: Terms, token: str, holder: str) -> Granted | Queued:
        """Take the turn or a place in line; see `SessionStore.acquire`."""
        session = self._find()
        if session is not None:
            self._check_revision(session, terms)
        turn = self._turn()
        live = turn.until > self._now() and turn.token != ""
        if not live:
            self._drop_dead(turn)
            ahead = next(iter(turn.waiting), token)
            if ahead != token:
                self._hand_over(session, turn, terms)
                live = True
        if live and turn.token != token:
            if token_wait(token):
                turn.waiting.setdefault(token, self._clock())
            line = list(turn.waiting)
            place = line.index(token) if token in line else len(line)
            remaining = (turn.until - self._now()) / 1000
            return Queued(remaining, turn.holder or None, place, queued=token in turn.waiting)
        if session is None:
            session = self._sessions[self._address] = self._begin(terms)
        if not live:
            turn.fence = max(turn.fence + 1, self._clock())
        turn.token, turn.until, turn.holder = token, self._now() + terms.lease, holder
        turn.waiting.pop(token, None)
        self._keep_alive(session, turn, terms)
        return Granted(turn.fence, session.epoch, session.following - 1)

    async def sleep(self, token: str, seconds: float) -> None:
        """Wait to be woken; see `SessionStore.sleep`."""
        event = self._turn().woken.setdefault(token, asyncio.Event())
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            self._turn().woken.pop(token, None)

    async def renew(self, terms: Terms, token: str, epoch: int) -> int:
        """Lengthen the lease; see `SessionStore.renew`."""
        session, turn = self._find(), self._turn()
        if session is None or not self._holds(turn, token) or session.epoch != epoch:
            raise refusals.lease_lost()
        turn.until = self._now() + terms.lease
        if terms.revision >= session.revision and terms.refresh & Refresh.WRITE:
            self._refresh(session, terms)
        self._keep_alive(session, turn, terms)
        return session.revision

    async def release(self, terms: Terms, token: str) -> None:
        """End the lease or leave the line; see `SessionStore.release`."""
        turn = self._turn()
        turn.waiting.pop(token, None)
        turn.woken.pop(token, None)
        if turn.token == token:
            self._hand_over(self._find(), turn, terms)

    # What the operations share.

    def _now(self) -> int:
        return self._clock() // 1000

    def _turn(self) -> _Turn:
        return self._turns.setdefault(self._address, _Turn())

    def _holds(self, turn: _Turn, token: str) -> bool:
        return turn.token == token and turn.until > self._now()

    def _find(self) -> _Session | None:
        session = self._sessions.get(self._address)
        if session is None:
            return None
        now = self._now()
        if session.expires_at <= now:
            del self._sessions[self._address]
            turn = self._turn()
            turn.token, turn.until = "", 0
            return None
        return session

    def _begin(self, terms: Terms) -> _Session:
        now = self._clock()
        return _Session(
            epoch=now, created=now // 1000, touched=now // 1000, revision=terms.revision
        )

    def _check_revision(self, session: _Session, terms: Terms) -> None:
        if terms.revision < session.revision:
            raise StalePolicy(session.revision)

    def _check(
        self, session: _Session | None, terms: Terms, caller: Caller, *, force: bool = False
    ) -> None:
        turn = self._turn()
        epoch = session.epoch if session else 0
        if caller.token:
            if caller.epoch != epoch or not self._holds(turn, caller.token):
                raise refusals.lease_lost()
        elif terms.enforced and not force and turn.token and turn.until > self._now():
            raise refusals.busy(turn.holder or None, (turn.until - self._now()) / 1000)
        if session is None:
            return
        self._check_revision(session, terms)
        if caller.epoch == epoch and caller.seen >= session.following:
            raise refusals.acknowledged_lost(session.following, caller.seen)

    def _nothing(self, caller: Caller) -> Changed:
        if caller.token:
            raise refusals.lease_lost()
        return Changed(0, 0)

    def _remove(self, session: _Session, records: Collection[Stored]) -> None:
        gone = {record.seq for record in records}
        session.records = [record for record in session.records if record.seq not in gone]
        for seq in gone:
            del session.sizes[seq]

    def _remember(self, session: _Session, terms: Terms, batch: Batch, first: int) -> None:
        if batch.key and terms.max_ids:
            session.ids[batch.key] = (first, batch.digest)
            while len(session.ids) > terms.max_ids + 16:
                session.ids.popitem(last=False)

    def _changed(self, session: _Session, terms: Terms) -> None:
        session.version += 1
        session.revision = max(session.revision, terms.revision)
        if terms.refresh & Refresh.WRITE:
            self._refresh(session, terms)

    def _read(self, session: _Session | None, terms: Terms) -> None:
        if session and terms.refresh & Refresh.READ and terms.revision >= session.revision:
            self._refresh(session, terms)

    def _refresh(
        self, session: _Session, terms: Terms, idle: int | None = None, rule: Rule = "ttl"
    ) -> None:
        turn = self._turn()
        now = self._now()
        session.touched = now
        session.expires_at, session.rule = plan_expiry(
            terms,
            now=now,
            created=session.created,
            lease_until=turn.until if turn.token else 0,
            idle=idle,
            rule=rule,
            current=session.expires_at,
        )

    def _keep_alive(self, session: _Session, turn: _Turn, terms: Terms) -> None:
        if session.expires_at >= turn.until:
            return
        now = self._now()
        session.expires_at, session.rule = plan_expiry(
            terms,
            now=now,
            created=session.created,
            lease_until=turn.until,
            idle=session.expires_at - now,
            rule=session.rule,
            current=session.expires_at,
        )

    def _drop_dead(self, turn: _Turn) -> None:
        now = self._clock()
        for token, arrived in list(turn.waiting.items()):
            if arrived + token_wait(token) * 1000 <= now:
                del turn.waiting[token]

    def _hand_over(self, session: _Session | None, turn: _Turn, terms: Terms) -> None:
        self._drop_dead(turn)
        turn.holder = ""
        turn.token = next(iter(turn.waiting), "")
        if not turn.token:
            turn.until = 0
            return
        del turn.waiting[turn.token]
        turn.until = self._now() + terms.grant
        turn.fence = max(turn.fence + 1, self._clock())
        if session is not None:
            self._keep_alive(session, turn, terms)
        turn.woken.setdefault(turn.token, asyncio.Event()).set()

    def _status(self, session: _Session | None) -> Status:
        turn, now = self._turn(), self._now()
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


def _exceeds(terms: Terms, tokens: int, messages: int) -> bool:
    over_tokens = terms.max_tokens > 0 and tokens > terms.max_tokens
    return over_tokens or (terms.max_messages > 0 and messages > terms.max_messages)


def _answer_known(session: _Session, known: tuple[int, int], batch: Batch) -> Appended:
    seq, digest = known
    if digest != batch.digest:
        raise refusals.conflict(seq)
    length = len(session.records)
    return Appended(seq, True, session.tokens, length, 0, session.epoch, over=False, torn=False)


def _protect(session: _Session, group: int) -> int:
    before = sum(record.protected for record in session.records)
    _set_pinned(session, group, pinned=True)
    return sum(record.protected for record in session.records) - before


def _set_pinned(session: _Session, group: int, *, pinned: bool) -> None:
    for at, record in enumerate(session.records):
        if record.group == group and not record.flags & Flag.SYSTEM:
            flags = record.flags | int(Flag.PINNED) if pinned else record.flags & ~int(Flag.PINNED)
            session.sizes[record.seq] += len(str(int(flags))) - len(str(record.flags))
            session.records[at] = msgspec.structs.replace(record, flags=int(flags))
