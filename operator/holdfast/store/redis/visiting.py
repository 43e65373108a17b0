"""Running a command for each session of a part of a walk, and what the sessions answered.

The index is read in large parts, since each costs a round trip and a look at which run of the server this
is. The sessions are visited in small ones, one behind the other: the server deals with all that it has
read of a connection before it turns to the next, so the size of a part is how long others wait.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from holdfast.errors import CorruptRecord, UnknownKeys
from holdfast.store.maintenance import Step
from holdfast.store.redis.carrier import Command, Reply
from holdfast.store.redis.index import CHUNK, Entry, Index
from holdfast.store.redis.layout import SessionKeys
from holdfast.store.redis.replies import read_expiry, read_holdings, text
from holdfast.store.redis.runner import evalsha
from holdfast.store.redis.script import script

CHANGED: Final = 10
"""Sessions in a part where a script changes each: a few tenths of a millisecond of the server's time."""
LOOKED: Final = 25
"""Likewise where it only looks."""
COUNTED: Final = 50
"""Likewise where no script runs."""

Each: TypeAlias = Callable[
    [Sequence[SessionKeys], Callable[[SessionKeys], Command]], Awaitable[Sequence[Reply]]
]
"""Runs a command for each of some sessions, and returns their answers in order."""


class Visit(NamedTuple):
    """Entries of the index with what their sessions answered, by the first word of it."""

    cursor: int
    total: int
    answers: dict[str, list[tuple[Entry, Reply]]]
    restarted: bool

    def replies(self, word: str) -> list[Reply]:
        """Return the answers that begin with this word."""
        return [reply for _, reply in self.answers.get(word, ())]

    def entries(self, *words: str) -> list[Entry]:
        """Return the entries whose answers begin with one of these words."""
        return [entry for word in words for entry, _ in self.answers.get(word, ())]

    def step(self, *, changed: int, unsatisfied: int = 0, dropped: int = 0) -> Step:
        """Return what the walk's caller is told."""
        broken = len(self.entries("BROKEN", "LAYOUT"))
        return Step(
            cursor=self.cursor,
            seen=sum(map(len, self.answers.values())),
            changed=changed,
            unsatisfied=unsatisfied + broken,
            total=max(0, self.total - dropped),
            broken=broken,
            restarted=self.restarted,
        )


async def visit_part(
    index: Index,
    cursor: int,
    limit: int,
    command: Callable[[SessionKeys], Command],
    *,
    each: Each,
    part: int,
    read: Callable[[Reply], Sequence[Any]] = list,
) -> Visit:
    """Run a command for each session of a part of the walk.

    Ends after `limit` places of the index were looked at, so that a step is bounded also where most of
    them are empty. A round trip for every `CHUNK` of them, and what `each` takes for every `part`.

    Args:
        index: of the memory.
        cursor: 0 to begin, else of the visit before.
        limit: places of the index.
        command: what to run.
        each: runs it.
        part: sessions at a time.
        read: makes of an answer a sequence, a word first.
    """
    answers: dict[str, list[tuple[Entry, Reply]]] = {}
    looked, restarted = 0, False
    while True:
        count = max(1, min(CHUNK, limit - looked))
        leg = await index.leg(cursor, count)
        if leg.restarted:
            restarted = True
            answers.clear()
        for first in range(0, len(leg.entries), part):
            entries = leg.entries[first : first + part]
            keys = [index.keys_of(entry) for entry in entries]
            replies = iter(await each([one for one in keys if one], command))
            for entry, one in zip(entries, keys, strict=True):
                word, reply = answered(next(replies), read) if one else ("GONE", None)
                answers.setdefault(word, []).append((entry, reply))
        cursor, looked = leg.cursor, looked + count
        if cursor == 0 or looked >= limit:
            return Visit(cursor, leg.total, answers, restarted)


def answered(reply: Reply, read: Callable[[Reply], Sequence[Any]]) -> tuple[str, Reply]:
    """Return the first word of what a session answered, and the answer as `read` understands it."""
    if isinstance(reply, Exception):
        return "BROKEN", reply
    try:
        answer = read(reply)
    except (ValueError, CorruptRecord, UnknownKeys) as error:
        return "BROKEN", error
    return text(answer[0]), answer


def read_rolled(reply: Reply) -> Sequence[Any]:
    """Read an answer of `roll_out`; of a plain session it is a word, a table would cost the server more."""
    return [b"DONE", 0, 0] if reply == b"DONE" else reply


def holdings(keys: SessionKeys) -> Command:
    """Return the command that asks what a session holds and how long it lives."""
    return evalsha(script("holdings"), keys[:1], [])


def read_counted(reply: Reply) -> Sequence[Any]:
    """Read an answer of `holdings` as a word and what the session holds."""
    return ["OK", read_holdings(reply[1])] if reply[0] == b"OK" else reply


def read_lasting(reply: Reply) -> Sequence[Any]:
    """Read an answer of `holdings` as a word, when the session ends, and how long it lives untouched."""
    return ["OK", *read_expiry(reply[2])] if reply[0] == b"OK" else reply
