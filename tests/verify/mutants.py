"""Faults planted in the library of a worker process, to see that each is found.

A change of a script is a change of its text as it is sent to the server, made in the cached object that
everybody in the process uses. Each says exactly once what it replaces, so one that no longer fits the
script fails instead of planting nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any, Final

from holdfast.errors import AmbiguousWrite, StoreUnavailable
from holdfast.store.redis.migrating import MigratingSession
from holdfast.store.redis.runner import Runner
from holdfast.store.redis.script import script
from holdfast.values import Appended, Batch, Caller, Terms
from tests.verify.case import Kind
from tests.verify.history import Op


@dataclass(frozen=True, slots=True)
class Mutant:
    """A fault.

    Attributes:
        what: in a few words.
        found_as: what the checker has to call it, all of it.
        profiles: sessions in which it shows.
        faults: what has to be done to processes and connections for it to show, by how often.
        scripts: script -> what is replaced -> by what.
        patch: a change of the library's Python, where it is no change of a script.
        options: of the worker.
        witness: a call of this kind has to be among the events that accuse it; None: any will do.
    """

    what: str
    found_as: frozenset[Kind]
    profiles: Mapping[str, int]
    faults: Mapping[str, int] = field(default_factory=dict[str, int])
    scripts: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    patch: Callable[[], None] | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    witness: Op | None = None

    def plant(self) -> None:
        """Change the library of this process.

        Raises:
            AssertionError: a script no longer reads as expected.
        """
        for name, changes in self.scripts.items():
            known = script(name)
            text = known.body.decode()
            for old, new in changes.items():
                assert text.count(old) == 1, f"{name}: {old!r} is there {text.count(old)} times"
                text = text.replace(old, new)
            known.body = text.encode()
            known.sha = sha1(known.body, usedforsecurity=False).hexdigest().encode()
        if self.patch is not None:
            self.patch()


def _repeat_everything() -> None:
    """What redis-py does unless it is told not to: send again whatever got no answer."""
    patient = Runner._repeat

    async def repeat(self: Runner, commands: Any, **options: Any) -> Any:
        return await patient(self, commands, **{**options, "repeatable": True})

    setattr(Runner, "_repeat", repeat)  # noqa: B010 - a type checker would rightly refuse it


def _deny_doubt() -> None:
    """What a client does that takes a connection which broke for a server that was never reached."""
    honest = Runner._repeat

    async def repeat(self: Runner, commands: Any, **options: Any) -> Any:
        try:
            return await honest(self, commands, **options)
        except AmbiguousWrite as error:
            raise StoreUnavailable("the server does not answer in time") from error

    setattr(Runner, "_repeat", repeat)  # noqa: B010 - as above


def _trim_from_outside() -> None:
    """What most do: append, look how long the list is, and cut it."""
    inside = MigratingSession.append

    async def append(
        self: MigratingSession, terms: Terms, batch: Batch, caller: Caller
    ) -> Appended:
        done = await inside(self, terms, batch, caller)
        if done.length > _LONGEST:
            surplus = done.length - _LONGEST
            await self._runner.read([(b"LPOP", self._keys.log, surplus)])
        return done

    setattr(MigratingSession, "append", append)  # noqa: B010 - as above


_LONGEST: Final = 30

_HELD: Final = """    if not held and interrupted(caller.token) then
      return { 'INTERRUPTED' }
    end
    if not known then
      return { 'EPOCH', state.epoch }
    end
    if not held then
      return { 'LEASELOST' }
    end
"""
_EPOCH: Final = """    if not known then
      return { 'EPOCH', state.epoch }
    end
"""
_SPLICE_EPOCH: Final = "if not state.exists or tonumber(ARGV[3]) ~= state.epoch then"
_SPLICE_FLUSHER: Final = "if owner ~= ARGV[2] or tonumber(till) <= now then"
_FIRST_IN_LINE: Final = "call('ZRANGE', QUEUE, 0, 0, 'WITHSCORES')"
_LAST_IN_LINE: Final = "call('ZREVRANGE', QUEUE, 0, 0, 'WITHSCORES')"
_COVERED: Final = """    if not covered[record.seq] then
      joined[record.group] = true
    else
"""
_DIGEST: Final = "if redis.sha1hex(table.concat(values)) ~= ARGV[6] then"

MUTANTS: Final = {
    "no lease check": Mutant(
        "an append does not ask whether its turn is still held",
        frozenset({Kind.LOST_LEASE, Kind.TWO_HOLDERS}),
        {"interrupt": 1},
        scripts={"append": {_HELD: _EPOCH}},
        options={"sessions": 1},
    ),
    "no id check": Mutant(
        "an append does not ask whether its id is known",
        frozenset({Kind.DUPLICATED}),
        {"plain": 1},
        faults={"reply lost": 1},
        scripts={"append": {"if id ~= '' and not state.wipe then": "if false then"}},
    ),
    "no epoch check": Mutant(
        "a summary is put into a session that was cleared meanwhile, and turns go on over a clear",
        frozenset({Kind.CAME_BACK, Kind.LOST_LEASE}),
        {"forgetting": 3, "clearing": 1},
        scripts={"append": {_EPOCH: ""}, "splice": {_SPLICE_EPOCH: "if not state.exists then"}},
        options={"sessions": 1},
    ),
    "no epoch check of summaries": Mutant(
        "a summary is put into a session that was cleared meanwhile",
        frozenset({Kind.CAME_BACK}),
        {"withdrawing": 1},
        scripts={"splice": {_SPLICE_EPOCH: "if not state.exists then"}},
        options={"sessions": 1},
        witness=Op.CLEAR,
    ),
    "summaries outlive erasures": Mutant(
        "a summary asks for neither epoch nor flusher, and is put into what follows an erased session",
        frozenset({Kind.CAME_BACK}),
        {"withdrawing": 1},
        scripts={
            "splice": {_SPLICE_EPOCH: "if not state.exists then", _SPLICE_FLUSHER: "if false then"}
        },
        options={"sessions": 1},
        witness=Op.ERASE,
    ),
    "head instead of digest": Mutant(
        "a splice compares the oldest record only, and takes as many as were summarised",
        frozenset({Kind.VANISHED}),
        {"summary": 1},
        scripts={
            "splice": {
                _DIGEST: "if found[1] and found[1].seq ~= seqs[1] then",
                _COVERED: """    if #found < #seqs then
      covered[record.seq] = covered[record.seq] or rules[1]
""",
            }
        },
        options={"sessions": 1},
    ),
    "trim outside": Mutant(
        "sessions are cut to their length by a second call",
        frozenset({Kind.COUNTERS, Kind.VANISHED, Kind.LOST}),
        {"fifo": 1, "plain": 1},
        patch=_trim_from_outside,
    ),
    "expiry forgotten": Mutant(
        "an append sets the expiry of a session only when it begins",
        frozenset({Kind.NO_EXPIRY}),
        {"clearing": 1},
        scripts={
            "append": {
                "expire_all(state, fresh or torn)\n": "if fresh or torn then expire_all(state, true) end\n"
            }
        },
        options={"sessions": 1},
    ),
    "client retries": Mutant(
        "what got no answer is sent again, whatever it is",
        frozenset({Kind.DUPLICATED}),
        {"plain": 1},
        faults={"reply lost": 1},
        patch=_repeat_everything,
    ),
    "newest at the head": Mutant(
        "an append puts its records in front of the others",
        frozenset({Kind.REORDERED}),
        {"plain": 1},
        scripts={"append": {"call('RPUSH', LOG, unpack": "call('LPUSH', LOG, unpack"}},
        options={"sessions": 1},
    ),
    "last come, first served": Mutant(
        "a turn is handed to whoever stands in line for the shortest time",
        frozenset({Kind.WAITERS}),
        {"enforced": 1},
        scripts={name: {_FIRST_IN_LINE: _LAST_IN_LINE} for name in ("acquire", "release")},
        options={"sessions": 1, "actors": 3},
    ),
    "doubt is denied": Mutant(
        "a call whose reply was lost says that nothing was written",
        frozenset({Kind.UNSENT}),
        {"plain": 1},
        faults={"reply lost": 1},
        patch=_deny_doubt,
    ),
}
"""By name."""
