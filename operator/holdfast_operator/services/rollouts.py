"""Bringing live sessions under an edited policy, a bounded step at a time.

What is remembered here only saves work: a walk that is lost with the process begins again, and costs
a look at each session that is done already.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from holdfast.planning import GRACE
from holdfast.store.maintenance import Maintenance
from holdfast.values import MemoryAddress, Terms
from holdfast_operator.services.ports import Clock

SETTLE: Final = 5.0
"""Seconds after which every library that is in use has fetched a new document."""
BUDGET: Final = 0.8
"""Seconds of work in one step."""
CHECK: Final = 300.0
"""Seconds between walks over sessions that could not be brought under a limit."""
LIMIT: Final = 200
"""Sessions in one call."""


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

    def progress(self, *, finished: bool = False, again: float = 0.0) -> Progress:
        done = self.total if finished or self.second else min(self.done, self.total)
        return Progress(done, self.total, finished, self.unsatisfied, self.broken, again)


class Rollouts:
    """The walks of all memories.

    A walk begins `SETTLE` seconds after the document was written, so that nobody makes sessions under
    the old one any more; the second pass finds those that were made behind the cursor.

    Args:
        clock: for the wait and the budget.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._walks: dict[str, _Walk] = {}
        self._checks: dict[str, float] = {}

    async def advance(
        self, uid: str, hands: Maintenance, memory: MemoryAddress, terms: Terms
    ) -> Progress:
        """Do the next step of a memory's rollout.

        Args:
            uid: of the MemoryResource.
            hands: in its server.
            memory: whose sessions.
            terms: the policy's numbers, with the revision.

        Raises:
            HoldfastError: of the server; the next step goes on where this one stopped.
        """
        now = self._clock.monotonic()
        walk = self._walks.get(uid)
        if walk is None or walk.revision != terms.revision:
            # Before the first document nobody can have had an older one.
            walk = _Walk(terms.revision, now if terms.revision == 1 else now + SETTLE)
            step, _ = await hands.measure(memory, cursor=0, limit=1)  # for the size of the index
            walk.total = step.total
            self._walks[uid] = walk
        if now < walk.begins:
            return walk.progress(again=walk.begins - now)
        while True:
            step = await hands.roll_out(memory, terms, cursor=walk.cursor, limit=LIMIT, grace=GRACE)
            walk.cursor = step.cursor
            walk.total = step.total
            walk.done += step.seen
            walk.unsatisfied += step.unsatisfied
            walk.broken += step.broken
            if step.cursor == 0:
                if walk.second or step.total == 0:
                    del self._walks[uid]
                    return walk.progress(finished=True)
                walk.second, walk.unsatisfied, walk.broken = True, 0, 0
            if self._clock.monotonic() - now >= BUDGET:
                return walk.progress()

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
