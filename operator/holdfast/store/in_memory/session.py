"""One session in memory: the operations."""

import asyncio
from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec

from holdfast.planning import Grouping, group_records, plan_backstop, plan_expiry
from holdfast.planning.expiry import Rule
from holdfast.store import refusals
from holdfast.store.in_memory.state import Clock, SessionState, TurnState, status_of
from holdfast.store.protocol import StalePolicy, token_wait
from holdfast.values import (
    Appended,
    Batch,
    Caller,
    Changed,
    Flag,
    Granted,
    MemoryAddress,
    Queued,
    Refresh,
    Section,
    Status,
    Stored,
    Terms,
    Window,
)


class _Write(NamedTuple):
    """What an append writes and what leaves for it."""

    grouping: Grouping
    records: Sequence[Stored]
    evict: Sequence[Stored]
    over: bool


class InMemorySession:
    """A handle on one session; see `SessionStore`."""

    def __init__(
        self,
        address: tuple[MemoryAddress, str],
        sessions: dict[tuple[MemoryAddress, str], SessionState],
        turns: dict[tuple[MemoryAddress, str], TurnState],
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
        write = self._plan(session, terms, batch)
        if fresh:
            self._sessions[self._address] = session
        first = session.following
        session.remove(write.evict)
        session.dropped += len(write.evict)
        for digest in write.grouping.answered:
            session.calls.pop(digest, None)
        session.forget_calls()
        session.calls |= write.grouping.opened
        for group in write.grouping.protected:
            session.set_pinned(group, pinned=True)
        session.add(write.records)
        session.version += 1
        session.revision = max(session.revision, terms.revision)
        if terms.refresh & Refresh.WRITE or fresh:
            self._refresh(session, terms)
        session.remember(batch, first, terms.max_ids)
        return Appended(
            seq=first,
            duplicate=False,
            tokens=session.tokens,
            length=len(session.records),
            evicted=len(write.evict),
            epoch=session.epoch,
            over=write.over,
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
        session.remove([newest])
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
            moved = session.set_pinned(group, pinned=True)
        elif not pinned and not any(record.flags & Flag.SYSTEM for record in members):
            moved = session.set_pinned(group, pinned=False)
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

    def _plan(self, session: SessionState, terms: Terms, batch: Batch) -> _Write:
        """Decide what an append writes and what leaves; refuse what does not fit."""
        now, first = self._now(), session.following
        grouping = group_records(
            batch.records,
            first=first,
            waiting=session.calls,
            group_of=session.group_of,
            is_protected=session.is_protected,
        )
        facts = zip(batch.records, grouping.flags, grouping.groups, strict=True)
        records = [
            Stored(
                record.tokens,
                flags,
                first + at,
                now,
                group,
                record.id,
                msgspec.json.decode(record.body),
            )
            for at, (record, flags, group) in enumerate(facts)
        ]
        tokens = session.tokens + sum(record.tokens for record in records)
        messages = len(session.records) + len(records)
        if terms.refuse and _exceeds(terms, tokens, messages):
            raise refusals.full(len(session.records), session.tokens)
        evictable = [record for record in session.records if not record.protected]
        plan = plan_backstop(
            evictable,
            tokens=tokens,
            messages=messages,
            terms=terms,
            keep=grouping.groups,
            now=now,
        )
        if plan.hopeless:
            raise refusals.no_room()
        return _Write(grouping, records, [evictable[at] for at in plan.evict], plan.over)

    def _now(self) -> int:
        return self._clock() // 1000

    def _turn(self) -> TurnState:
        return self._turns.setdefault(self._address, TurnState())

    def _holds(self, turn: TurnState, token: str) -> bool:
        return turn.token == token and turn.until > self._now()

    def _find(self) -> SessionState | None:
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

    def _begin(self, terms: Terms) -> SessionState:
        now = self._clock()
        return SessionState(
            epoch=now, created=now // 1000, touched=now // 1000, revision=terms.revision
        )

    def _check_revision(self, session: SessionState, terms: Terms) -> None:
        if terms.revision < session.revision:
            raise StalePolicy(session.revision)

    def _check(
        self, session: SessionState | None, terms: Terms, caller: Caller, *, force: bool = False
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

    def _changed(self, session: SessionState, terms: Terms) -> None:
        session.version += 1
        session.revision = max(session.revision, terms.revision)
        if terms.refresh & Refresh.WRITE:
            self._refresh(session, terms)

    def _read(self, session: SessionState | None, terms: Terms) -> None:
        if session and terms.refresh & Refresh.READ and terms.revision >= session.revision:
            self._refresh(session, terms)

    def _refresh(
        self, session: SessionState, terms: Terms, idle: int | None = None, rule: Rule = "ttl"
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

    def _keep_alive(self, session: SessionState, turn: TurnState, terms: Terms) -> None:
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

    def _drop_dead(self, turn: TurnState) -> None:
        now = self._clock()
        for token, arrived in list(turn.waiting.items()):
            if arrived + token_wait(token) * 1000 <= now:
                del turn.waiting[token]

    def _hand_over(self, session: SessionState | None, turn: TurnState, terms: Terms) -> None:
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

    def _status(self, session: SessionState | None) -> Status:
        return status_of(session, self._turn(), self._now())


def _exceeds(terms: Terms, tokens: int, messages: int) -> bool:
    over_tokens = terms.max_tokens > 0 and tokens > terms.max_tokens
    return over_tokens or (terms.max_messages > 0 and messages > terms.max_messages)


def _answer_known(session: SessionState, known: tuple[int, int], batch: Batch) -> Appended:
    seq, digest = known
    if digest != batch.digest:
        raise refusals.conflict(seq)
    length = len(session.records)
    return Appended(seq, True, session.tokens, length, 0, session.epoch, over=False, torn=False)
