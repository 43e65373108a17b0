"""Waking what waits for its next look."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping

from holdfast_operator.storage.mirror import Key, Kind


class Wakers:
    """A bell for every object that is being kept.

    A bell that rings while nobody waits is heard by the next wait.
    """

    def __init__(self) -> None:
        self._bells: dict[Key, asyncio.Event] = {}

    def wake(self, *keys: Key) -> None:
        """Ring for objects; those nobody keeps do not mind."""
        self.wake_all(keys)

    def wake_all(self, keys: Iterable[Key]) -> None:
        """Ring for each of these objects."""
        for key in keys:
            bell = self._bells.get(key)
            if bell is not None:
                bell.set()

    async def wait(self, key: Key, seconds: float) -> None:
        """Return when the bell rings, or after so many seconds."""
        bell = self._bells.setdefault(key, asyncio.Event())
        try:
            async with asyncio.timeout(seconds):
                await bell.wait()
        except TimeoutError:
            pass
        bell.clear()

    def expect(self, key: Key) -> None:
        """Hear from now on what rings for an object."""
        self._bells.setdefault(key, asyncio.Event())

    def waiting(self) -> Mapping[Kind, int]:
        """Return how many objects of each kind wait for a look that is due; from any thread."""
        bells = list(self._bells.items())
        rung = Counter(key.kind for key, bell in bells if bell.is_set())
        return {kind: rung[kind] for kind in Kind}

    def forget(self, key: Key) -> None:
        """Take the bell of an object down that is gone."""
        self._bells.pop(key, None)
