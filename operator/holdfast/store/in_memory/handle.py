"""What the operations on one session share."""

from collections.abc import Collection

from holdfast.errors import LeaseLost
from holdfast.planning import plan_expiry
from holdfast.planning.expiry import Rule
from holdfast.store import refusals
from holdfast.store.in_memory.state import Clock, SessionState, TurnState, status_of
from holdfast.store.protocol import StalePolicy
from holdfast.values import Caller, Changed, MemoryAddress, Refresh, Status, Terms


class Handle:
    """A session found anew by each call: it may have expired, or begun again."""

    def __init__(
        self,
        address: tuple[MemoryAddress, str],
        sessions: dict[tuple[MemoryAddress, str], SessionState],
        turns: dict[tuple[MemoryAddress, str], TurnState],
        clock: Clock,
        labels: Collection[str] = (),
    ) -> None:
        self._address = address
        self._sessions = sessions
        self._turns = turns
        self._clock = clock
        self._labels = frozenset(labels)

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

    def _admit(self, terms: Terms) -> None:
        """Refuse one session more than the memory may have."""
        if not terms.max_sessions:
            return
        now, mine = self._now(), self._address[0]
        sessions = sum(
            memory == mine and session.expires_at > now
            for (memory, _), session in self._sessions.items()
        )
        if sessions >= terms.max_sessions:
            raise refusals.too_many_sessions(sessions, terms.max_sessions)

    def _begin(self, terms: Terms) -> SessionState:
        now = self._clock()
        return SessionState(
            epoch=max(now, self._turn().past + 1),
            created=now // 1000,
            touched=now // 1000,
            revision=terms.revision,
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
                raise self._lost(caller.token)
        elif terms.enforced and not force and turn.token and turn.until > self._now():
            raise refusals.busy(turn.holder or None, (turn.until - self._now()) / 1000)
        if session is None:
            return
        self._check_revision(session, terms)
        if caller.epoch == epoch and caller.seen >= session.following:
            raise refusals.acknowledged_lost(session.following, caller.seen)

    def _nothing(self, caller: Caller) -> Changed:
        if caller.token:
            raise self._lost(caller.token)
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
        self,
        session: SessionState,
        terms: Terms,
        idle: int | None = None,
        rule: Rule = "ttl",
        *,
        now: int | None = None,
    ) -> None:
        turn = self._turn()
        now = self._now() if now is None else now
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

    def _lost(self, token: str) -> LeaseLost:
        """What a holder is told whose lease is no longer its own."""
        interrupted = self._turn().interrupted.get(token, 0) > self._now()
        return refusals.turn_interrupted() if interrupted else refusals.lease_lost()

    def _status(self, session: SessionState | None) -> Status:
        return status_of(session, self._turn(), self._now())
