"""Busy polling: the event loop stays awake for the moment that a near server takes to answer.

An event loop with nothing to do lets its thread sleep, and a processor with nothing to do goes to sleep as
well. On a virtual machine it takes longer to wake both than a server on the same machine takes to answer.
So for a moment after a caller's commands were sent the loop is kept turning, and looks for the answer in
each turn. Whatever else is ready has its turn as always; nothing is read behind the loop's back.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

_NEAR: Final = 0.00025  # seconds; for a server that takes longer the loop goes to sleep
_MOST_SKIPPED: Final = 256  # answers


class Polling:
    """Keeps the event loop awake until an answer is there or should have been.

    It ends by itself where it is of no use: after an answer that took longer, the next one is waited for
    asleep; after another such, the next two, then four, and so on, until one comes in time.

    Args:
        clock: monotonic seconds.
    """

    __slots__ = ("_awake", "_clock", "_late", "_skip", "_until")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = 0.0  # when it should have been there; 0: it is
        self._awake = False
        self._late = self._skip = 0

    def begin(self, now: float) -> None:
        """Be told that commands are being sent, and what the clock says."""
        if self._skip:
            self._skip -= 1
            return
        self._until = now + _NEAR
        if not self._awake:
            self._awake = True
            asyncio.get_running_loop().call_soon(self._turn)

    def end(self) -> None:
        """Be told that the answer is there, or will not be."""
        if self._awake:
            self._until, self._late = 0.0, 0

    def _turn(self) -> None:
        if self._clock() < self._until:
            asyncio.get_running_loop().call_soon(self._turn)
            return
        self._awake = False
        if self._until:
            self._late = self._skip = min(max(1, 2 * self._late), _MOST_SKIPPED)
