"""Whether the watches bring back what this process wrote.

A quiet cluster sends nothing, and neither does a dead watch: silence alone does not tell them apart. But what
was written a moment ago has to come back.
"""

import time
from collections.abc import Callable
from typing import Final

from holdfast_operator.services.ports import Body
from holdfast_operator.storage.mirror import Key, version_of

OVERDUE: Final = 120.0
"""Seconds after which a write that did not come back means a dead watch: Kopf renews a silent one by itself
after 70."""


class Echoes:
    """Writes whose event has not come yet.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._awaited: dict[Key, tuple[int, float]] = {}

    def wrote(self, key: Key, written: Body) -> None:
        """Expect the event of a write."""
        _, since = self._awaited.get(key, (0, self._clock()))
        self._awaited[key] = version_of(written), since

    def heard(self, key: Key, body: Body) -> None:
        """Take in an event."""
        awaited = self._awaited.get(key)
        if awaited is not None and version_of(body) >= awaited[0]:
            del self._awaited[key]

    def forget(self, key: Key) -> None:
        """Expect nothing of an object that is gone."""
        self._awaited.pop(key, None)

    def overdue(self) -> float | None:
        """Return for how long the oldest write is overdue, if one is; from any thread."""
        waits = [self._clock() - since for _, since in list(self._awaited.values())]
        longest = max(waits, default=0.0)
        return longest if longest > OVERDUE else None
