"""A leader whose writes are refused time after time, because the server holds a higher epoch."""

from typing import Final

from holdfast_operator.reasons import ReadyReason
from holdfast_operator.services.outcome import Obstacle

LOOKS: Final = 12
"""Refusals in a row that cannot be explained by a change of leaders: a leader that lost the lease is ended by
its watchdog sooner, however long it slept. Counted in looks, since a process that sleeps makes none."""


class Fences:
    """Counts the looks at each object that a higher epoch refused."""

    def __init__(self) -> None:
        self._refused: dict[str, int] = {}

    def lasts(self, uid: str) -> bool:
        """Note a refusal; True when there have been too many for a change of leaders."""
        self._refused[uid] = self._refused.get(uid, 0) + 1
        return self._refused[uid] >= LOOKS

    def passed(self, uid: str) -> None:
        """Note that nothing was refused, or that the object is gone."""
        self._refused.pop(uid, None)


def fenced() -> Obstacle:
    """Return the obstacle: what is wrong, and what to do about it."""
    return Obstacle(
        ReadyReason.FENCED,
        "The server holds a higher epoch for this memory than this operator, which leads, has: a clock "
        "was or is wrong, or somebody wrote there. Nothing is written. Restart the operator once its "
        "clock is right; if that is not enough, lower the field epoch in the key :owner of the memory.",
    )
