"""Something that happens once, for threads that wait for it."""

import asyncio
from datetime import timedelta

from holdfast.policy import Duration
from holdfast.sync.portal import Portal
from holdfast.turn import Signal as AsyncSignal


class Signal:
    """Something that happens once: false until then, and `wait` returns when it has happened."""

    def __init__(self, portal: Portal, signal: AsyncSignal) -> None:
        self._portal = portal
        self._signal = signal

    def __bool__(self) -> bool:
        """Whether it happened."""
        return bool(self._signal)

    def wait(self, timeout: str | timedelta | None = None) -> bool:
        """Wait until it happened, and return whether it did.

        Args:
            timeout: how long at most, such as `"5s"`; `timedelta(0)` only looks; None is for ever.

        Raises:
            ValueError: no duration.
            TypeError: a bare number, which has no unit.
        """
        seconds = None if timeout is None else _seconds(timeout)
        return bool(self) or self._portal.run(self._happened, seconds)

    async def _happened(self, seconds: float | None) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._signal
        except TimeoutError:
            pass
        return bool(self._signal)


def _seconds(value: str | timedelta) -> float:
    if value == timedelta(0):
        return 0.0
    return Duration.of(value).milliseconds / 1000
