"""What handlers work with: the memories, the turns, and how a call finds its session."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from holdfast.log import MessageLog
from holdfast.session import Session
from holdfast.wire import MESSAGE_FORMAT, NAMED_BY, TURN_HEADER
from holdfast_sidecar.answers import Refusal
from holdfast_sidecar.limits import Limits
from holdfast_sidecar.memories import Found, Memories
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
            request.text(0),
            request.text(1),
            query.get("label", ()),
            by=query.get(NAMED_BY),
            format=query.get(MESSAGE_FORMAT),
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
