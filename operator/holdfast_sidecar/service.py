"""What handlers work with: the memories, the turns, and how a call finds its session."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from holdfast.errors import MemoryNotFound, StoreUnavailable
from holdfast.log import MessageLog
from holdfast.session import Session
from holdfast.turn import Turn
from holdfast.wire import NAMED_BY, TURN_HEADER
from holdfast_sidecar.answers import Refusal
from holdfast_sidecar.limits import Limits
from holdfast_sidecar.memories import Found, Memories, Offer
from holdfast_sidecar.requests import Request
from holdfast_sidecar.turns import Turns

T = TypeVar("T")

_TURN: Final = TURN_HEADER.lower().encode()


class Service:
    """The parts that answer requests.

    Args:
        memories: that are served.
        limits: how much of everything.

    Attributes:
        turns: that clients hold.
    """

    def __init__(self, memories: Memories, limits: Limits) -> None:
        self.memories = memories
        self.limits = limits
        self.turns = Turns(limits.turns)

    async def found(self, request: Request) -> Found:
        """Return the session that the path names.

        Raises:
            What `Memories.find` raises.
        """
        query = request.query
        return await self.memories.find(
            request.text(0), request.text(1), query.get("label", ()), query.get(NAMED_BY)
        )

    async def session(self, request: Request) -> Session:
        """Return the session, for a call that is not made under a turn.

        Raises:
            Refusal: the request names a turn.
        """
        found = await self.found(request)
        if _TURN in request.headers:
            raise Refusal(
                "RequestInvalid", f"this call is not made under a turn: leave {TURN_HEADER} out"
            )
        return found.session

    async def under(self, request: Request, call: Callable[[MessageLog], Awaitable[T]]) -> T:
        """Make a call on the session, or under the turn that the request names.

        Raises:
            LeaseLost: the request names a turn that is none, or is over.
            What the call raises.
        """
        found = await self.found(request)
        token = request.headers.get(_TURN)
        if token is None:
            return await call(found.session)
        with self.turns.using(token.decode("ascii", "replace"), found.where) as held:
            return await call(held.turn)


class Conversations:
    """The same memories and turns for callers of another protocol than HTTP's.

    Args:
        service: the parts that answer.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def offered(self) -> Sequence[Offer]:
        """Return the memories that are served; none while they are not known yet."""
        try:
            return self._service.memories.offers()
        except Refusal:
            return ()

    async def open(self, memory: str | None, session: str, turn: str | None) -> Session | Turn:
        """Return a session, or a turn of it.

        Args:
            memory: its name; None for the only one.
            session: as in a path, decoded.
            turn: its token, if any.

        Raises:
            HoldfastError: there is none of these.
        """
        try:
            name = memory if memory is not None else self._only()
            found = await self._service.memories.find(name, session)
        except Refusal as refusal:
            raise StoreUnavailable(refusal.problem.detail, retry_after=1) from None
        if turn is None:
            return found.session
        with self._service.turns.using(turn, found.where) as held:
            return held.turn

    def _only(self) -> str:
        offers = self._service.memories.offers()
        if len(offers) != 1:
            there = ", ".join(offer.name for offer in offers) or "none"
            raise MemoryNotFound(f"name the memory: there are {there}")
        return offers[0].name
