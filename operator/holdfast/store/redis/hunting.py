"""Finding the sessions of memories by the keys there are, and not by their indexes.

Whoever may write to a memory may edit its index, and so hide a session from every walk over that. What is
to be gone is therefore looked for here as well: SCAN, on one primary after the other. Unlike a survey this
leaves nobody out, since what is found here is what a receipt is about.
"""

import asyncio
import re
import zlib
from collections.abc import Collection, Sequence
from typing import Final

from holdfast.store.redis.carrier import Carrier, Command, Reply
from holdfast.store.redis.index import LONGEST, run_of
from holdfast.store.redis.replies import raise_for, text
from holdfast.store.redis.runner import Runner, evalsha
from holdfast.store.redis.script import script
from holdfast.values import MemoryAddress

_RUN_BITS: Final = 32
_NODE_BITS: Final = 12
_INFO: Final[Command] = (b"INFO", b"server")


class Hunt:
    """Walks over the keys under one prefix.

    Args:
        carrier: knows the servers.
        prefix: first part of every key.
        patience: seconds a call is repeated while one cannot serve.
    """

    def __init__(self, carrier: Carrier, prefix: str, *, patience: float) -> None:
        self._carrier = carrier
        self._prefix = prefix
        self._patience = patience
        self._form = re.compile(
            rb"%b:\{([-.a-z0-9]+)/([-.a-z0-9]+)/([-A-Za-z0-9_.:%%]+)\}:.+"
            % re.escape(prefix.encode()),
            re.DOTALL,
        )

    async def step(
        self, memories: Collection[MemoryAddress], cursor: int, limit: int
    ) -> tuple[int, Sequence[tuple[MemoryAddress, str]]]:
        """Look at about `limit` keys; return where the walk goes on, and sessions with their memory.

        Each session once. A cursor names the run of every primary: where another one answers, keys may be
        anywhere, and the walk begins again.
        """
        primaries = await self._carrier.primaries()
        if len(memories) == 1:
            pattern = f"{self._prefix}:{{{next(iter(memories))}/*"
        else:
            pattern = f"{self._prefix}:{{*"
        while True:
            run, place = cursor & (1 << _RUN_BITS) - 1, cursor >> _RUN_BITS
            at, place = place & (1 << _NODE_BITS) - 1, place >> _NODE_BITS
            at = at if at < len(primaries) else 0
            scan = evalsha(script("scan"), [], [place, pattern, limit, LONGEST])
            found, *said = await self._ask(primaries, at, scan)
            now = zlib.crc32(b"/".join(map(run_of, said)))
            if cursor == 0 or run == now:
                break
            cursor = 0
        place, keys = int(found[0]), found[1]
        at += place == 0
        following = (place << _NODE_BITS | at) << _RUN_BITS | now if at < len(primaries) else 0
        return following, self._sessions(keys, frozenset(memories))

    async def _ask(self, primaries: Sequence[Carrier], at: int, scan: Command) -> list[Reply]:
        """Return the reply of one to the scan, and what all say of their runs."""
        runners = [Runner(node, patience=self._patience) for node in primaries]
        answers = await asyncio.gather(
            *(runner.ask([scan, _INFO] if n == at else [_INFO]) for n, runner in enumerate(runners))
        )
        found = answers[at][0]
        if isinstance(found, Exception):
            raise_for(found)
        return [found, *(answer[-1] for answer in answers)]

    def _sessions(
        self, keys: Sequence[bytes], memories: frozenset[MemoryAddress]
    ) -> Sequence[tuple[MemoryAddress, str]]:
        found: dict[tuple[MemoryAddress, str], None] = {}
        for parts in filter(None, map(self._form.fullmatch, keys)):
            memory = MemoryAddress(text(parts[1]), text(parts[2]))
            if memory in memories:
                found[memory, text(parts[3])] = None
        return list(found)
