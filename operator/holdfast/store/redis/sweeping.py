"""Setting expiries right, where a walk found that they are not."""

from collections.abc import Sequence
from typing import Any

from holdfast.errors import CorruptRecord
from holdfast.store.maintenance import Step, Swept, Totals
from holdfast.store.redis.carrier import Command, Reply
from holdfast.store.redis.index import CHUNK, Entry, Index
from holdfast.store.redis.layout import SessionKeys
from holdfast.store.redis.replies import milliseconds, read_holdings
from holdfast.store.redis.runner import Runner, evalsha
from holdfast.store.redis.script import script
from holdfast.store.redis.visiting import Visit

ABANDONED = 600_000
"""Milliseconds after which an index entry without a session is dropped: a writer notes it first."""
OVERDUE = 3_600_000
"""Milliseconds that a session has left which should have ended already: as after an edit that shortens."""


def check(keys: SessionKeys) -> Command:
    """Return the command that looks at a session's expiries."""
    return evalsha(script("check"), keys[:5], [])


def expire(keys: SessionKeys, ttl: int) -> Command:
    """Return the command that sets a session's expiries right.

    Args:
        keys: the session's.
        ttl: milliseconds for keys without an expiry where the session does not say one.
    """
    return evalsha(script("expire"), keys[:5], [OVERDUE, ttl])


class Sweeper:
    """Deals with what a walk of `check` found in one memory.

    Args:
        runner: runs scripts.
        index: of the memory.
    """

    def __init__(self, runner: Runner, index: Index) -> None:
        self._runner = runner
        self._index = index

    async def settle(self, visit: Visit, *, ttl: int, mend: bool) -> tuple[Step, Swept]:
        """Set right what is wrong, or with `mend=False` count it; see `Maintenance.sweep`."""
        found = [
            _held(reply)
            for word in ("OK", "WRONG")
            for reply in visit.replies(word)
            if isinstance(reply[-1], bytes) and len(reply) > 1
        ]
        held = [one for one in found if one is not None]
        doubtful = [*visit.answers.get("STRAY", ()), *visit.answers.get("BROKEN", ())]
        immortal = [
            entry for entry, reply in doubtful if not isinstance(reply, Exception) and reply[1] > 0
        ]
        if mend:
            wrong = [*visit.entries("WRONG"), *immortal]
            repaired = await self._expire(wrong, ttl)
            dropped = await self._index.forget(visit.entries("GONE"), idle=ABANDONED)
        else:
            repaired = sum(reply[1] for reply in visit.replies("WRONG"))
            repaired += sum(reply[1] for _, reply in doubtful if not isinstance(reply, Exception))
            dropped = await self._abandoned(visit.entries("GONE"))
        sums = (sum(column) for column in zip(*held, strict=True)) if held else (0, 0, 0)
        swept = Swept(
            totals=Totals(len(held), *sums),
            repaired=repaired,
            dropped=dropped,
            strays=sum(reply[2] for reply in visit.replies("STRAY")),
        )
        step = visit.step(changed=repaired, dropped=dropped if mend else 0)
        broken = len(found) - len(held)
        return step._replace(
            unsatisfied=step.unsatisfied + broken, broken=step.broken + broken
        ), swept

    async def _expire(self, entries: Sequence[Entry], ttl: int) -> int:
        repaired = 0
        for first in range(0, len(entries), CHUNK):
            keys = map(self._index.keys_of, entries[first : first + CHUNK])
            repaired += await run_expire(self._runner, [one for one in keys if one], ttl)
        return repaired

    async def _abandoned(self, entries: Sequence[Entry]) -> int:
        if not entries:
            return 0
        [clock] = await self._runner.read([(b"TIME",)])
        before = milliseconds(clock) - ABANDONED
        return sum(float(entry.score) <= before for entry in entries)


def _held(reply: Reply) -> tuple[int, int, int] | None:
    """Return what a session holds; None where its counters are no counters."""
    try:
        return read_holdings(reply[-1])
    except CorruptRecord:
        return None


async def run_expire(runner: Runner, sessions: Sequence[SessionKeys], ttl: int) -> int:
    """Set the expiries of some sessions right; return how many keys were wrong. One round trip."""
    replies: list[Any] = await runner.each([expire(keys, ttl) for keys in sessions])
    return sum(
        reply[1] for reply in replies if not isinstance(reply, Exception) and reply[0] == b"OK"
    )
