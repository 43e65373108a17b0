"""Leaving a memory's keys to their expiry, a step at a time."""

from dataclasses import dataclass, field
from typing import Final

from holdfast.store.maintenance import Lasting
from holdfast_operator.services.pacing import Paces
from holdfast_operator.services.ports import Clock
from holdfast_operator.services.targets import Target

_BUDGET: Final = 0.8
_COST: Final = 0.1


@dataclass(slots=True)
class _Walk:
    cursor: int = 0
    size: int = 0  # as far as known: the first call of all tells
    lasting: Lasting = field(default_factory=Lasting)


class Leavings:
    """The walks that see how long the sessions of memories live that are let go.

    Args:
        clock: for the budget.
        paces: how fast to go.
    """

    def __init__(self, clock: Clock, paces: Paces) -> None:
        self._clock = clock
        self._paces = paces
        self._walks: dict[str, _Walk] = {}

    async def advance(self, uid: str, target: Target) -> bool:
        """Go on leaving a memory's keys to their expiry; True when that is done.

        Args:
            uid: of the MemoryResource.
            target: where they are.

        Raises:
            HoldfastError: of the server; the next step goes on where this one stopped.
        """
        walk, began = self._walks.setdefault(uid, _Walk()), self._clock.monotonic()
        pace = self._paces.of(target.backend_uid)
        async with pace.place() as place:
            if not place:
                return False
            while True:
                step, found = await pace.call(
                    lambda limit: target.hands.lasting(
                        target.memory, cursor=walk.cursor, limit=limit
                    ),
                    cost=_COST,
                    expected=walk.size,
                )
                walk.size = step.total
                walk.cursor, walk.lasting = step.cursor, walk.lasting.joined(found)
                if step.cursor == 0:
                    break
                if self._clock.monotonic() - began >= _BUDGET:
                    return False
        await target.hands.release(target.memory, target.owner, walk.lasting)
        return True

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a memory that is gone."""
        self._walks.pop(uid, None)
