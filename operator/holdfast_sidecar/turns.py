"""Turns that are held for clients: by a token, for as long as the client shows itself."""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Generator, Hashable
from contextlib import contextmanager
from typing import Final

from holdfast.errors import LeaseLost
from holdfast.session import Session
from holdfast.store.refusals import lease_lost, turn_interrupted
from holdfast.turn import Turn
from holdfast_sidecar.answers import Refusal, Vanished

_REMEMBERED: Final = 1024
"""Turns whose end is remembered, so that a late call learns how they ended."""
_WAITING: Final = 5.0
"""Seconds in which giving up a place in line has to be done."""


class Held:
    """A turn that a client holds.

    Args:
        token: that the client names it by.
        where: the session, as the table's users tell sessions apart.
        turn: of the library.
        ttl: seconds within which the client has to show itself.
        bound: to a connection, and then not to time.

    Attributes:
        ended: happens when the table lets go of it.
    """

    __slots__ = ("bound", "deadline", "ended", "timer", "token", "ttl", "turn", "using", "where")

    def __init__(self, token: str, where: Hashable, turn: Turn, ttl: float, *, bound: bool) -> None:
        self.token = token
        self.where = where
        self.turn = turn
        self.ttl = ttl
        self.bound = bound
        self.deadline = 0.0
        self.using = 0
        self.timer: asyncio.TimerHandle | None = None
        self.ended = asyncio.Event()


class Turns:
    """The turns of all clients of this process.

    The library renews a turn as long as it is in the table. One that its client did not use or renew within
    its ttl is given back; so is one that is bound to a connection when that closes, which is its handler's
    to say.

    Args:
        most: how many may be held or waited for.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[str, Held] = {}
        self._waiting = 0
        self._over: OrderedDict[str, tuple[Hashable, bool]] = OrderedDict()
        self._closing = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def held(self) -> int:
        """How many are held."""
        return len(self._held)

    @property
    def waiting(self) -> int:
        """How many are waited for."""
        return self._waiting

    @property
    def closing(self) -> bool:
        """Whether none are granted any more."""
        return self._closing.is_set()

    def refuse_new(self) -> None:
        """Grant none any more; who waits leaves the line."""
        self._closing.set()

    async def acquire(
        self,
        session: Session,
        where: Hashable,
        *,
        ask: Callable[[Session], Turn],
        ttl: float,
        gone: Callable[[], Coroutine[object, object, None]],
        bound: bool,
    ) -> Held:
        """Wait for the turn of a session.

        Args:
            session: whose.
            where: the same session for every request that means it.
            ask: makes the library's turn.
            ttl: seconds within which the client has to show itself.
            gone: returns when the client has gone away; it leaves the line then.
            bound: the caller ends the turn, with `release`, when its connection closes.

        Raises:
            Refusal: there are too many turns, or none are granted any more.
            Vanished: the client went away; nothing is left of it.
            What entering a turn raises.
        """
        if self._closing.is_set():
            raise _ending()
        if len(self._held) + self._waiting >= self._most:
            raise Refusal(
                "TooManyTurns",
                f"{self._most} turns are held or waited for here: try again, or release some",
                retry_after=1,
            )
        turn = ask(session)
        self._waiting += 1
        try:
            await self._wait(turn, gone)
        finally:
            self._waiting -= 1
        held = Held(secrets.token_urlsafe(24), where, turn, ttl, bound=bound)
        self._held[held.token] = held
        if not bound:
            self._keep(held)
            self._arm(held)
        return held

    @contextmanager
    def using(self, token: str, where: Hashable) -> Generator[Held]:
        """Use a turn for a call: it does not end meanwhile, and its time begins anew.

        Raises:
            LeaseLost: the token is not one of this session, or the turn is over.
        """
        held = self._find(token, where)
        held.using += 1
        try:
            yield held
        finally:
            held.using -= 1
            self._keep(held)

    async def release(self, token: str, where: Hashable) -> None:
        """Give a turn back. What is over already is left alone."""
        held = self._held.get(token)
        if held is not None and held.where == where:
            await self._let_go(held)

    async def aclose(self) -> None:
        """Give all turns back."""
        self.refuse_new()
        await asyncio.gather(*(self._let_go(held) for held in list(self._held.values())))
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _wait(self, turn: Turn, gone: Callable[[], Coroutine[object, object, None]]) -> None:
        """Enter the turn, unless the client or this process goes first."""
        entering = asyncio.ensure_future(turn.__aenter__())
        vanished = asyncio.ensure_future(gone())
        closing = asyncio.ensure_future(self._closing.wait())
        granted = False
        try:
            await asyncio.wait({entering, vanished, closing}, return_when=asyncio.FIRST_COMPLETED)
            if entering.done() and not vanished.done():
                entering.result()
                granted = True
                return
        finally:
            closing.cancel()
            vanished.cancel()
            if not granted:
                await self._withdraw(entering, turn)
        if vanished.done() and not vanished.cancelled():
            raise Vanished
        raise _ending()

    async def _withdraw(self, entering: "asyncio.Future[Turn]", turn: Turn) -> None:
        """Leave the line, or give back what was granted at the last moment."""
        entering.cancel()
        await asyncio.wait({entering}, timeout=_WAITING)
        if entering.done() and not entering.cancelled() and entering.exception() is None:
            await turn.__aexit__(None, None, None)

    def _find(self, token: str, where: Hashable) -> Held:
        held = self._held.get(token)
        if held is not None and held.where == where:
            return held
        over = self._over.get(token)
        if over is not None and over[0] == where and over[1]:
            raise turn_interrupted()
        if over is not None and over[0] == where:
            raise lease_lost()
        raise LeaseLost(
            "there is no such turn of this session here: it was released, was not renewed in time, or "
            "the sidecar was restarted. This call wrote nothing; start a new turn and read again"
        )

    def _keep(self, held: Held) -> None:
        if held.turn.lost:
            return  # it is over: nothing keeps it in the table
        held.deadline = asyncio.get_running_loop().time() + held.ttl

    def _arm(self, held: Held) -> None:
        """Look at the deadline when it has come; it may have moved until then."""
        loop = asyncio.get_running_loop()
        held.timer = loop.call_at(max(held.deadline, loop.time()), self._due, held)

    def _due(self, held: Held) -> None:
        now = asyncio.get_running_loop().time()
        if held.using:
            held.deadline = max(held.deadline, now + held.ttl)
        if now < held.deadline:
            self._arm(held)
            return
        task = asyncio.create_task(self._let_go(held))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _let_go(self, held: Held) -> None:
        if self._held.pop(held.token, None) is None:
            return
        if held.timer is not None:
            held.timer.cancel()
        if held.turn.lost:
            self._over[held.token] = (held.where, bool(held.turn.interrupted))
            if len(self._over) > _REMEMBERED:
                self._over.popitem(last=False)
        held.ended.set()
        await held.turn.__aexit__(None, None, None)


def _ending() -> Refusal:
    return Refusal(
        "ShuttingDown", "the sidecar is ending and grants no turns any more", retry_after=1
    )
