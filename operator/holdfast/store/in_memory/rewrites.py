"""One session in memory: what takes the place of all of it."""

from holdfast.store import refusals
from holdfast.store.in_memory.handle import Handle
from holdfast.store.in_memory.state import SessionState, TurnState
from holdfast.values import Caller, Erased, Part, Terms


class Rewrites(Handle):
    """Erase and import."""

    async def erase(self, terms: Terms, *, force: bool = False) -> Erased:
        """Remove everything; see `SessionStore.erase`."""
        session = self._find()
        if session is not None:
            self._check(session, terms, Caller(), force=force)
        self._sessions.pop(self._address, None)
        turn = self._turn()
        past = session.epoch if session is not None else turn.past
        # Tasks that wait for the turn ask again, and find another one.
        self._turns[self._address] = TurnState(fence=turn.fence, gone=turn.gone, past=past)
        for event in turn.woken.values():
            event.set()
        if session is None:
            return Erased(existed=False)
        held = len(session.records), sum(session.sizes.values())
        return Erased(True, session.epoch, session.following - 1, *held)

    async def import_part(self, terms: Terms, part: Part) -> tuple[int, int]:
        """Store a part of an export; see `SessionStore.import_part`."""
        session = self._find()
        self._check(session, terms, Caller())
        if not _is_as_seen(session, part):
            raise refusals.import_overtaken()
        fresh = session is None
        if session is None:
            self._admit(terms)
            session = self._begin(terms)
        if not part.messages:
            session.empty(self._clock())
            session.history.clear()
            session.following, session.dropped = part.last_seq + 1, part.dropped
        if fresh:
            self._sessions[self._address] = session
        following = session.following
        session.add(part.records)
        session.following = following
        for call in part.answered:
            session.calls.pop(call, None)
        session.calls |= part.opened
        session.labels |= self._labels
        if part.anew:
            session.ids.clear()
        for one in part.ids:
            session.remember(one, terms.max_ids)
        for entry in part.history:
            session.note(entry)
        session.version += 1
        session.revision = max(session.revision, terms.revision)
        self._refresh(session, terms)
        return session.epoch, session.version


def _is_as_seen(session: SessionState | None, part: Part) -> bool:
    if session is None:
        return (part.epoch, part.version, part.messages) == (0, 0, 0)
    found = session.epoch, session.version, len(session.records)
    if found != (part.epoch, part.version, part.messages):
        return False
    return not part.messages or session.following - 1 == part.last_seq
