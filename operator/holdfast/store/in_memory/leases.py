"""One session in memory: its turns."""

import asyncio
import time

from holdfast.store import refusals
from holdfast.store.in_memory.handle import Handle
from holdfast.store.in_memory.state import SessionState, TurnState
from holdfast.store.protocol import token_wait
from holdfast.values import Granted, Queued, Refresh, Terms

_GONE = 60_000  # ms in which an acquire may come in that its own release has overtaken


class Leases(Handle):
    """The turn of a session, and who waits for it."""

    async def acquire(
        self, terms: Terms, token: str, holder: str, *, interrupt: bool = False
    ) -> Granted | Queued:
        """Take the turn or a place in line; see `SessionStore.acquire`."""
        if token in self._turn().gone:
            return Queued(0.0, None, 0, queued=False)
        session = self._find()
        if session is not None:
            self._check_revision(session, terms)
        else:
            self._admit(terms)
        turn = self._turn()
        live = turn.until > self._now() and turn.token != ""
        if interrupt:
            live = self._interrupt(turn, token)
        elif not live:
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
        return self._granted(session, turn, terms.lease)

    async def sleep(self, token: str, seconds: float) -> Granted | None:
        """Wait for the turn; see `SessionStore.sleep`."""
        turn = self._turn()
        event = turn.woken.setdefault(token, asyncio.Event())
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            turn.woken.pop(token, None)
        granted = turn.granted.pop(token, None)
        return granted if self._holds(turn, token) else None

    async def renew(self, terms: Terms, token: str, epoch: int, holder: str = "") -> int:
        """Lengthen the lease; see `SessionStore.renew`."""
        session, turn = self._find(), self._turn()
        if session is None or not self._holds(turn, token) or session.epoch != epoch:
            raise self._lost(token)
        turn.until = self._now() + terms.lease
        turn.holder = holder or turn.holder
        if terms.revision >= session.revision and terms.refresh & Refresh.WRITE:
            self._refresh(session, terms)
        self._keep_alive(session, turn, terms)
        return session.revision

    async def release(self, terms: Terms, token: str, *, doubt: bool = False) -> None:
        """End the lease or leave the line; see `SessionStore.release`."""
        turn, now = self._turn(), self._now()
        for left in (turn.waiting, turn.woken, turn.granted):
            left.pop(token, None)
        turn.gone = {gone: at for gone, at in turn.gone.items() if at + _GONE > now}
        if doubt:
            turn.gone[token] = now
        if turn.token == token:
            self._hand_over(self._find(), turn, terms)

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
            turn.granted[turn.token] = self._granted(session, turn, terms.grant)
        turn.woken.setdefault(turn.token, asyncio.Event()).set()

    def _interrupt(self, turn: TurnState, token: str) -> bool:
        """Take the turn from whoever holds it; return whether it is this token's own."""
        now = self._now()
        if turn.until <= now or turn.token in ("", token):
            return self._holds(turn, token)
        told = {other: until for other, until in turn.interrupted.items() if until > now}
        if token in told:
            raise refusals.turn_interrupted()
        turn.interrupted = {**told, turn.token: turn.until}
        turn.granted.pop(turn.token, None)
        return False

    def _granted(self, session: SessionState, turn: TurnState, life: int) -> Granted:
        """The turn as it is told to its holder, for so many milliseconds from now."""
        until = time.monotonic() + life / 1000
        return Granted(turn.fence, session.epoch, session.following - 1, until)
