"""Bringing live sessions under an edited policy, a bounded step at a time.

How far a walk is stands beside the memory's marker after every step, so that a restart goes on there.
That only saves work: a walk that is lost begins again, and costs a look at each session that is done.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from holdfast.planning import GRACE
from holdfast.store.maintenance import Step, Walk
from holdfast.values import Terms
from holdfast_operator.services.pacing import Pace, Paces
from holdfast_operator.services.ports import Clock
from holdfast_operator.services.targets import Target

SETTLE: Final = 5.0
"""Seconds after which every library that is in use has fetched a new document."""
BUDGET: Final = 0.8
"""Seconds of work in one step."""
CHECK: Final = 300.0
"""Seconds between walks over sessions that could not be brought under a limit."""
_LOOK: Final = 0.3
"""What the second pass costs, which finds nearly all sessions done: the server a fifth, the operator half."""


class Progress(NamedTuple):
    """How far a rollout is.

    Attributes:
        done: sessions that follow the policy.
        total: sessions there are.
        finished: the second pass ended.
        unsatisfied: sessions that stay above a limit because of what is protected.
        broken: sessions that could not be read; counted in `unsatisfied` too.
        again: seconds until the next step.
    """

    done: int
    total: int
    finished: bool
    unsatisfied: int
    broken: int
    again: float


@dataclass(slots=True)
class _Walk:
    revision: int
    begins: float
    second: bool = False
    cursor: int = 0
    done: int = 0
    total: int = 0
    unsatisfied: int = 0
    broken: int = 0
    noted: bool = False

    def progress(self, *, finished: bool = False, again: float = 0.0) -> Progress:
        done = self.total if finished or self.second else min(self.done, self.total)
        return Progress(done, self.total, finished, self.unsatisfied, self.broken, again)

    def take_in(self, step: Step) -> bool:
        """Add what a step did; True when that was the last one."""
        if step.restarted:
            self.done = self.unsatisfied = self.broken = 0
        self.cursor, self.total = step.cursor, step.total
        self.done += step.seen
        self.unsatisfied += step.unsatisfied
        self.broken += step.broken
        if step.cursor != 0:
            return False
        if self.second or step.total == 0:
            return True
        self.second, self.unsatisfied, self.broken = True, 0, 0
        return False

    def note(self) -> Walk:
        return Walk(
            self.revision, self.cursor, self.second, self.done, self.unsatisfied, self.broken
        )


class Rollouts:
    """The walks of all memories.

    A walk begins `SETTLE` seconds after the document was written, so that nobody makes sessions under
    the old one any more; the second pass finds those that were made behind the cursor.

    Args:
        clock: for the wait and the budget.
        paces: how fast to go.
    """

    def __init__(self, clock: Clock, paces: Paces) -> None:
        self._clock = clock
        self._paces = paces
        self._walks: dict[str, _Walk] = {}
        self._checks: dict[str, float] = {}

    async def advance(self, uid: str, target: Target, terms: Terms) -> Progress:
        """Do the next step of a memory's rollout.

        Args:
            uid: of the MemoryResource.
            target: whose sessions.
            terms: the policy's numbers, with the revision.

        Raises:
            HoldfastError: of the server; the next step goes on where this one stopped.
        """
        walk = self._walks.get(uid)
        if walk is None or walk.revision != terms.revision:
            walk = self._walks[uid] = await self._begin(target, terms)
        now = self._clock.monotonic()
        if now < walk.begins:
            return walk.progress(again=walk.begins - now)
        pace = self._paces.of(target.backend_uid)
        async with pace.place() as place:
            if not place:
                return walk.progress()
            finished = await self._walk(walk, target, terms, pace)
        if finished:
            if walk.noted:
                await target.hands.note_walk(target.memory, target.owner, None)
            del self._walks[uid]
        else:
            walk.noted = True
            await target.hands.note_walk(target.memory, target.owner, walk.note())
        return walk.progress(finished=finished)

    async def _begin(self, target: Target, terms: Terms) -> _Walk:
        now, hands, memory = self._clock.monotonic(), target.hands, target.memory
        step, _ = await hands.measure(memory, cursor=0, limit=1)  # for the size of the index
        # Before the first document nobody can have had an older one.
        if terms.revision == 1:
            return _Walk(terms.revision, now, total=step.total)
        noted = await hands.noted_walk(memory)
        if noted is None or noted.revision != terms.revision:
            return _Walk(terms.revision, now + SETTLE, total=step.total)
        return _Walk(
            terms.revision,
            now,
            second=noted.second,
            cursor=noted.cursor,
            done=noted.done,
            total=step.total,
            unsatisfied=noted.unsatisfied,
            broken=noted.broken,
            noted=True,
        )

    async def _walk(self, walk: _Walk, target: Target, terms: Terms, pace: Pace) -> bool:
        """Go on for the length of a step; True at the end of the walk."""
        until = self._clock.monotonic() + BUDGET
        while True:
            step = await pace.call(
                lambda limit: target.hands.roll_out(
                    target.memory,
                    terms,
                    cursor=walk.cursor,
                    limit=limit,
                    grace=GRACE,
                    again=walk.second,
                ),
                cost=_LOOK if walk.second else 1.0,
                expected=walk.total,
            )
            if walk.take_in(step):
                return True
            if self._clock.monotonic() >= until:
                return False

    def check_later(self, uid: str) -> None:
        """Note that a memory has sessions above a limit, which may change without an edit."""
        self._checks[uid] = self._clock.monotonic() + CHECK

    def check_due(self, uid: str) -> bool:
        """Whether it is time to look whether such a memory's sessions fit now."""
        return self._clock.monotonic() >= self._checks.setdefault(
            uid, self._clock.monotonic() + CHECK
        )

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a memory that is gone."""
        self._walks.pop(uid, None)
        self._checks.pop(uid, None)
