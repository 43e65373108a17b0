"""One session in memory: what leaves it between appends, and what is remembered of that."""

from collections.abc import Collection
from dataclasses import replace

import msgspec

from holdfast.planning import plan_backstop
from holdfast.store.in_memory.handle import Handle
from holdfast.store.in_memory.state import SessionState, given
from holdfast.values import Departed, Flag, Snapshot, Splice, Spliced, Stored, Terms, Trimmed


class Flushes(Handle):
    """The flusher of a session, its splices, and its history."""

    async def claim_flush(self, token: str, milliseconds: int) -> bool:
        """Be the session's flusher; see `SessionStore.claim_flush`."""
        session = self._find()
        if session is None:
            return False
        owner, until = session.flusher
        if milliseconds == 0:
            if owner == token:
                session.flusher = ("", 0)
            return False
        if until > self._now() and owner != token:
            return False
        session.flusher = (token, self._now() + milliseconds)
        return True

    async def snapshot(self) -> Snapshot:
        """Return all records as they are stored; see `SessionStore.snapshot`."""
        session = self._find()
        records = given(session.records if session else ())
        accessed = dict(session.accessed) if session else {}
        encoded = [record.encoded() for record in records]
        return Snapshot(self._status(session), self._now(), records, encoded, accessed)

    async def trim(self, terms: Terms, *, tokens: int, messages: int) -> Trimmed:
        """Drop the oldest groups; see `SessionStore.trim`."""
        session = self._find()
        if session is None:
            return Trimmed(0, 0, 0)
        self._check_revision(session, terms)
        target = replace(terms, max_tokens=tokens, max_messages=messages)
        dropped = self._backstop(session, target)
        if dropped:
            self._note(session, "FIFO", dropped)
            self._flushed(session, terms)
        return Trimmed(len(dropped), session.tokens, len(session.records))

    async def splice(self, terms: Terms, splice: Splice) -> Spliced:
        """Take planned records out; see `SessionStore.splice`."""
        session = self._find()
        if session is None or session.epoch != splice.epoch:
            return Spliced(done=False)
        owner, until = session.flusher
        if owner != splice.token or until <= self._now():
            return Spliced(done=False)
        self._check_revision(session, terms)
        planned, expected = dict(splice.rules), dict(splice.records)
        there = [
            record
            for record in session.records
            if record.seq in planned and (not record.protected or record.flags & Flag.SUMMARY)
        ]
        if any(record.encoded() != expected.get(record.seq) for record in there):
            return Spliced(done=False)
        session.flusher = ("", 0)
        # Where a result joined a group since the plan was made, the call stays with it.
        joined = {
            record.group
            for record in session.records
            if record.seq not in planned and not record.protected
        }
        there = [record for record in there if record.protected or record.group not in joined]
        leaving = {record.seq for record in there}
        kept = {record.seq for record in session.records if record.seq not in leaving}
        gone = [seq for seq in sorted(planned) if seq not in kept]
        if not gone or (splice.summary is None and not there):
            return Spliced(True, 0, session.tokens, len(session.records))
        session.remove(there)
        session.forget_calls()
        summary = 0
        if splice.summary is None:
            session.dropped += len(there)
            for rule in sorted({planned[record.seq] for record in there}):
                self._note(session, rule, [one for one in there if planned[one.seq] == rule])
        else:
            summary = gone[-1]
            session.insert(self._summary(splice, summary))
            session.dropped = max(0, session.dropped - (len(gone) - len(there)))
            tokens = sum(one.tokens for one in there)
            session.note(Departed.of(self._now(), "HybridSummary", gone, tokens, summary))
        evicted = [] if terms.refuse else self._backstop(session, terms)
        session.accessed = {
            group: at
            for group, at in session.accessed.items()
            if any(record.group == group for record in session.records)
        }
        self._flushed(session, terms)
        return Spliced(
            True, len(there), session.tokens, len(session.records), summary, len(evicted)
        )

    async def departed(self) -> tuple[Departed, ...]:
        """Return the history; see `SessionStore.departed`."""
        session = self._find()
        return tuple(session.history) if session else ()

    async def touch(self, terms: Terms, groups: Collection[int]) -> None:
        """Note an access; see `SessionStore.touch`."""
        session = self._find()
        if session is None:
            return
        self._read(session, terms)
        session.accessed |= dict.fromkeys(groups, self._now())
        oldest = next(
            (one.group for one in session.records if not one.protected), session.following
        )
        session.accessed = {group: at for group, at in session.accessed.items() if group >= oldest}

    def _backstop(self, session: SessionState, terms: Terms) -> list[Stored]:
        """Evict down to limits; the newest group stays."""
        evictable = [record for record in session.records if not record.protected]
        if not session.records:
            return []
        plan = plan_backstop(
            evictable,
            tokens=session.tokens,
            messages=len(session.records),
            terms=terms,
            keep={session.records[-1].group},
            now=self._now(),
        )
        gone = [evictable[at] for at in plan.evict]
        session.remove(gone)
        session.forget_calls()
        session.dropped += len(gone)
        return gone

    def _note(self, session: SessionState, rule: str, records: list[Stored]) -> None:
        tokens = sum(record.tokens for record in records)
        session.note(Departed.of(self._now(), rule, [record.seq for record in records], tokens))

    def _summary(self, splice: Splice, seq: int) -> Stored:
        assert splice.summary is not None
        made = splice.summary
        item = msgspec.json.decode(made.body)
        return Stored(made.tokens, made.flags, seq, self._now(), seq, made.id, item, made.notes)

    def _flushed(self, session: SessionState, terms: Terms) -> None:
        session.revision = max(session.revision, terms.revision)
        if terms.after_flush:
            self._refresh(session, terms, terms.after_flush, "afterFlush")
