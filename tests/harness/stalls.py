"""Event loops that stand still now and then, as on a busy machine; for `pytest -p tests.harness.stalls`.

What ends at different times on an idle machine then ends in the same turn of the loop, and what has little
time is late. Only the tests' own processes are slowed down: what depends on the order of things inside them
shows.
"""

import random
import selectors
import time

SHORT, LONG = (1 / 50, 0.04), (1 / 1000, 1.0)
"""How likely a stall is in one turn of a loop, and its longest time in seconds."""

_chance = random.Random()


class StallingSelector(selectors.DefaultSelector):
    """The system's selector, which sleeps before some of its looks."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; see `selectors.BaseSelector`."""
        for likely, longest in (SHORT, LONG):
            if _chance.random() < likely:
                time.sleep(_chance.uniform(0, longest))
        return super().select(timeout)


def pytest_configure() -> None:
    """Have every loop that is made from now on use it: asyncio looks the selector up by its name."""
    selectors.DefaultSelector = StallingSelector
