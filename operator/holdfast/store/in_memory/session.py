"""One session in memory: what it holds."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec

from holdfast.planning import Grouping, group_records, plan_backstop
from holdfast.store import refusals
from holdfast.store.in_memory.flushes import Flushes
from holdfast.store.in_memory.leases import Leases
from holdfast.store.in_memory.rewrites import Rewrites
from holdfast.store.in_memory.state import SessionState, given
from holdfast.values import (
    Appended,
    Archive,
    Batch,
    Caller,
    Changed,
    Flag,
    Newest,
    Refresh,
    Remembered,
    Section,
    Status,
    Stored,
    Terms,
    Window,
)


class _Write(NamedTuple):
    """What an append writes and what leaves for it, at one moment."""

    now: int
    grouping: Grouping
    records: Sequence[Stored]
    evict: Sequence[Stored]
    over: bool


class InMemorySession(Leases, Flushes, Rewrites):
    """A handle on one session; see `SessionStore`."""

    async def append(self, terms: Terms, batch: Batch, caller: Caller) -> Appended:
        """Store a batch; see `SessionStore.append`."""
        session = self._find()
        known = session.known(batch.key) if session and batch.key else None
        if session and known:
            return _answer_known(session, known, batch)
        self._check(session, terms, caller)
        fresh = session is None
        if session is None:
            self._admit(terms)
            session = self._begin(terms)
        write = self._plan(session, terms, batch)
        if fresh:
            self._sessions[self._address] = session
        session.labels |= self._labels
        return self._put(
            session, terms, batch, write, renew=fresh or bool(terms.refresh & Refresh.WRITE)
        )

    async def replace(self, terms: Terms, batch: Batch, caller: Caller) -> Appended:
        """Store a batch instead of all records; see `SessionStore.replace`."""
        session = self._find()
        if session is None or (batch.key and session.known(batch.key)):
            return await self.append(terms, batch, caller)
        self._check(session, terms, caller)
        emptied = dataclasses.replace(session, records=[], sizes={}, calls={}, accessed={})
        write = self._plan(emptied, terms, batch)
        if session.records:
            self._note(session, "replace", session.records)
        session.empty(self._clock())
        return self._put(session, terms, batch, write, renew=True)

    async def known(self, batch: Batch) -> Appended | None:
        """Answer a batch whose id is known; see `SessionStore.known`."""
        session = self._find()
        known = session.known(batch.key) if session else None
        return _answer_known(session, known, batch) if session and known else None

    async def newest(self, terms: Terms, count: int) -> Newest:
        """Return the newest records, in append order."""
        session = self._find()
        self._read(session, terms)
        return Newest(given(session.records[-count:]) if session else ())

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
        self._note(session, "pop", [newest])
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
        if removed:
            self._note(session, "clear", session.records)
        session.empty(self._clock())
        session.version += 1
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
                raise self._lost(caller.token)
            if session is not None:
                self._check(session, terms, caller)
            raise refusals.no_record()
        self._check(session, terms, caller)
        members = [record for record in session.records if record.group == group]
        moved = 0
        if pinned and not session.is_protected(group):
            moved = session.set_pinned(group, pinned=True)
        elif not pinned and not any(
            record.flags & (Flag.SYSTEM | Flag.SUMMARY) for record in members
        ):
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
        return Window(self._status(session), given(session.records if session else ()), True)

    async def archive(self, terms: Terms) -> Archive:
        """Return all that an export holds."""
        window, session = await self.everything(terms), self._find()
        if session is None:
            return Archive(window, (), ())
        return Archive(window, tuple(session.ids.values()), tuple(session.history))

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
        return Window(self._status(session), given(window), len(taken) == len(evictable))

    async def page(self, terms: Terms, *, after: int, limit: int) -> Section:
        """Return a page of records; see `SessionStore.page`."""
        session = self._find()
        self._read(session, terms)
        status = self._status(session)
        if session is None:
            return Section(status, (), frozenset(), 0)
        found = [record for record in session.records if record.seq > after]
        records = found[:limit]
        newest = session.records[-1].group if session.records else 0
        following = records[-1].seq if len(found) > limit else None
        waiting = frozenset(session.calls.values())
        return Section(status, given(records), waiting, newest, following)

    async def status(self) -> Status:
        """Return the counters."""
        return self._status(self._find())

    def _put(
        self, session: SessionState, terms: Terms, batch: Batch, write: _Write, *, renew: bool
    ) -> Appended:
        """Carry out what was decided."""
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
        if renew:
            self._refresh(session, terms, now=write.now)
        if batch.key:
            session.remember(Remembered.of(batch.key, first, batch.digest), terms.max_ids)
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
                record.notes,
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
        return _Write(now, grouping, records, [evictable[at] for at in plan.evict], plan.over)


def _exceeds(terms: Terms, tokens: int, messages: int) -> bool:
    over_tokens = terms.max_tokens > 0 and tokens > terms.max_tokens
    return over_tokens or (terms.max_messages > 0 and messages > terms.max_messages)


def _answer_known(session: SessionState, known: Remembered, batch: Batch) -> Appended:
    if known.digest and batch.digest and known.digest != batch.digest:
        raise refusals.conflict(known.seq)
    length = len(session.records)
    return Appended(
        known.seq, True, session.tokens, length, 0, session.epoch, over=False, torn=False
    )
