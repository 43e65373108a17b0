"""Burying the sessions that no index names: one walk over a backend's keys, for all memories being deleted.

Whoever may write to a memory may also edit its index, and so hide sessions from a walk over the index. A walk
over all keys finds them. It costs as much for one memory as for a thousand, so they share it.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from holdfast.values import MemoryAddress
from holdfast_operator.services.pacing import Pace
from holdfast_operator.services.targets import Target

_COST: Final = 0.05
"""What looking at one key costs, where changing a session costs 1; it allows for the few that are buried."""


@dataclass(slots=True)
class _Walk:
    waiting: dict[MemoryAddress, int] = field(default_factory=dict[MemoryAddress, int])
    under_way: dict[MemoryAddress, int] = field(default_factory=dict[MemoryAddress, int])
    done: set[MemoryAddress] = field(default_factory=set[MemoryAddress])
    cursor: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class HiddenSessions:
    """The walks over the keys of all backends, as far as memories are deleted there."""

    def __init__(self) -> None:
        self._walks: dict[str, _Walk] = {}

    async def advance(self, target: Target, revision: int, pace: Pace) -> bool:
        """Go on burying the hidden sessions of a memory, and of others with it; True when all are.

        Args:
            target: the memory, whose deletion has begun.
            revision: of its deletion.
            pace: of the backend.

        Raises:
            HoldfastError: of the server; the next step goes on where this one stopped.
        """
        walk = self._walks.setdefault(target.backend_uid, _Walk())
        memory = target.memory
        if walk.under_way.get(memory) != revision and memory not in walk.done:
            # A walk that began before may have passed by already: the next one is this memory's.
            walk.under_way.pop(memory, None)
            walk.waiting[memory] = revision
        async with walk.lock:
            if memory not in walk.done:
                await self._step(walk, target, pace)
            return memory in walk.done

    async def _step(self, walk: _Walk, target: Target, pace: Pace) -> None:
        if not walk.under_way:
            walk.under_way, walk.waiting, walk.cursor = walk.waiting, {}, 0
        revisions = dict(walk.under_way)
        step = await pace.call(
            lambda limit: target.hands.bury_hidden(revisions, cursor=walk.cursor, limit=limit),
            cost=_COST,
        )
        walk.cursor = step.cursor
        if step.cursor == 0:
            walk.done |= walk.under_way.keys()
            walk.under_way = {}

    def forget(self, backend: str, memory: MemoryAddress) -> None:
        """Bury nothing of a memory any more: it is gone, or its sessions are to stay."""
        walk = self._walks.get(backend)
        if walk is not None:
            for held in (walk.waiting, walk.under_way):
                held.pop(memory, None)
            walk.done.discard(memory)
