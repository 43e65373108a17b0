"""Busy polling: the event loop stays awake for the moment that a near server takes to answer.

An event loop with nothing to do lets its thread sleep, and a processor with nothing to do goes to sleep as
well. To wake both takes longer, on a virtual machine, than a server on the same machine takes to answer.
So for a moment after a caller's commands were sent the loop is kept turning, and looks for the answer in
each turn. Whatever else is ready has its turn as always, in this process and in others; nothing is read
behind the loop's back.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from typing import Final

_NEAR: Final = 0.00025  # seconds; for a server that takes longer the loop goes to sleep
_LONGEST_PAUSE: Final = 256  # answers


class Polling:
    """Keeps the event loop awake until an answer is there or should have been.

    It leaves off where it is of no use: after an answer that took longer, the next one is waited for
    asleep; after another such, the next two, then four, and so on. One that comes in time halves that. The
    first call of a client is late as a rule, since it connects.

    Args:
        clock: monotonic seconds.
    """

    __slots__ = ("_awake", "_clock", "_pause", "_skip", "_until")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = 0.0  # when the loop may sleep again; 0: at once
        self._awake = False  # whether a turn is to come; one may be left after the answer
        self._pause = 0  # answers that were left out after the last late one
        self._skip = 0  # answers that are still to be left out

    def begin(self) -> float:
        """Be told that commands are being sent; return until when to look, 0 where nobody looks."""
        if self._skip:
            self._skip -= 1
            return 0.0
        self._until = until = self._clock() + _NEAR
        if not self._awake:
            self._awake = True
            asyncio.get_running_loop().call_soon(self._turn)
        return until

    def end(self, until: float) -> None:
        """Be told that the answer is there, or will not be.

        Args:
            until: what `begin` returned. Each caller has its own, so that what is late for one is not taken
                for another's in time.
        """
        if not until:
            return
        if self._clock() >= until:
            self._pause = self._skip = min(max(1, 2 * self._pause), _LONGEST_PAUSE)
            return
        self._pause //= 2
        if until == self._until:  # nobody began after it
            self._until = 0.0

    def _turn(self) -> None:
        if self._clock() < self._until:
            if sys.platform != "win32":
                os.sched_yield()  # to the server, or to whoever was answered, where processors are few
            asyncio.get_running_loop().call_soon(self._turn)
        else:
            self._awake = False
