"""Walking the index of a memory's sessions, `:sessions`, from the operator's side.

ZSCAN, not a range by score or rank: whoever uses a session raises its score meanwhile, and a tenant may
write any score into its own index; ranks shift under a walk. ZSCAN promises that every entry that is
there from the walk's beginning to its end comes at least once, in steps of bounded cost. The price: an
entry may come twice, new ones may be missed (a second walk finds them), and a cursor belongs to one run
of the server, since each run hashes with a seed of its own. So a cursor names the run it belongs to.
"""

import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from holdfast.store.maintenance import Walk
from holdfast.store.redis.carrier import Reply
from holdfast.store.redis.layout import MemoryKeys, SessionKeys, session_keys
from holdfast.store.redis.replies import raise_for, text
from holdfast.store.redis.runner import Runner, evalsha
from holdfast.store.redis.script import script
from holdfast.values import MemoryAddress

CHUNK = 100
"""Entries handled in one round trip: about 5 ms of the server's time, in which others wait."""
LONGEST = 1 << 14
"""Bytes of a name, and of a key: above what any session has. A tenant may make longer ones."""
_RUN_BITS = 32
_NAME = re.compile(rb"[-A-Za-z0-9_.:%]+")
_WALK = re.compile(r"\d+(\|\d+){5}")
_RUN = re.compile(r"^run_id:(\w+)", re.MULTILINE)


class Entry(NamedTuple):
    """An entry as it was seen: the session's name, and the time it was last noted in milliseconds."""

    name: bytes
    score: bytes


class Leg(NamedTuple):
    """A part of a walk: entries, where it goes on (0: nowhere), and the size of the index.

    `restarted`: the cursor was of another run of the server, and the walk begins with this part.
    """

    entries: Sequence[Entry]
    cursor: int
    total: int
    restarted: bool = False


class Index:
    """The index of one memory.

    Args:
        runner: runs scripts.
        memory: whose sessions.
        keys: the memory's own keys.
        prefix: first part of every key.
    """

    def __init__(
        self, runner: Runner, memory: MemoryAddress, keys: MemoryKeys, prefix: str
    ) -> None:
        self._runner = runner
        self._memory = memory
        self._key = keys.sessions
        self._prefix = prefix

    def keys_of(self, entry: Entry) -> SessionKeys | None:
        """Return the keys of an entry's session; None for a name that no session can have."""
        if not _NAME.fullmatch(entry.name):
            return None
        return session_keys(self._memory, entry.name.decode("ascii"), self._prefix)

    async def leg(self, cursor: int, count: int) -> Leg:
        """Return the next part of a walk: about `count` entries, none twice. One round trip."""
        place, run = cursor >> _RUN_BITS, cursor & (1 << _RUN_BITS) - 1
        while True:
            found, info = await self._runner.ask(
                [
                    evalsha(script("entries"), [self._key], [place, count, LONGEST]),
                    (b"INFO", b"server"),
                ]
            )
            if isinstance(found, Exception):
                raise_for(found)
            after, flat, total = found
            said = run_of(info)
            now = zlib.crc32(said) if said else 0
            if place == 0 or run == now:
                break
            place = 0  # another server, or another run of it: there the cursor means nothing
        entries = {
            name: Entry(name, score) for name, score in zip(flat[::2], flat[1::2], strict=True)
        }
        following = int(after)
        return Leg(
            list(entries.values()),
            following << _RUN_BITS | now if following else 0,
            total,
            restarted=cursor != 0 and place == 0,
        )

    async def forget(self, entries: Sequence[Entry], *, idle: int) -> int:
        """Drop entries that nobody noted for `idle` milliseconds; return how many are gone for good.

        Each only if it was not noted since it was seen; and where a session began meanwhile, its
        entry comes back. Two round trips for every `CHUNK`.
        """
        gone = 0
        for first in range(0, len(entries), CHUNK):
            part = entries[first : first + CHUNK]
            arguments = [idle, *(value for entry in part for value in entry)]
            dropped = await self._runner.run(
                script("forget"), [self._key], arguments, repeatable=True
            )
            gone += len(dropped) - await self.restore(part) if dropped else 0
        return gone

    async def restore(self, entries: Sequence[Entry]) -> int:
        """Note those of the sessions that are alive; return how many. Two round trips."""
        named = [(entry, keys) for entry in entries if (keys := self.keys_of(entry)) is not None]
        looks = await self._runner.each(
            [evalsha(script("holdings"), keys[:1], []) for _, keys in named]
        )
        back = [entry.name for (entry, _), look in zip(named, looks, strict=True) if _lives(look)]
        await self._runner.each(
            [evalsha(script("index"), [self._key], [name, 0, 0]) for name in back]
        )
        return len(back)


def run_of(info: Reply) -> bytes:
    """Return which run of itself a server is, by its reply to INFO.

    One that does not say gets the benefit of the doubt: it is always the same.
    """
    said = None if isinstance(info, Exception) else _RUN.search(text(info))
    return said[1].encode() if said else b""


def _lives(look: Reply) -> bool:
    """Whether this is a session, be it one that cannot be read."""
    return not isinstance(look, Exception) and look[0] != b"GONE"


def pack_walk(walk: Walk) -> str:
    """Return a rollout as it is noted."""
    return "|".join(str(int(part)) for part in walk)


def read_walk(noted: str) -> Walk | None:
    """Read what `pack_walk` wrote; None for anything else.

    Also for a cursor of a server that does not say which run it is: who comes later cannot tell whether it
    still means anything.
    """
    if not _WALK.fullmatch(noted):
        return None
    revision, cursor, second, done, unsatisfied, broken = map(int, noted.split("|"))
    if cursor and not cursor & (1 << _RUN_BITS) - 1:
        return None
    return Walk(revision, cursor, bool(second), done, unsatisfied, broken)
