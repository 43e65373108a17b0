"""A limit on the time that something takes, for what nearly always ends long before.

`asyncio.timeout` sets a timer for each use and takes it back, which is a good part of what an exchange
costs in this process. Here one timer serves all: it stays as it is, and when it fires it looks who is late.
"""

import asyncio
from types import TracebackType


class Alarm:
    """Ends what takes too long: `with alarm.after(5.0):` is what `async with asyncio.timeout(5.0):` is."""

    def __init__(self) -> None:
        self._limits: set[Limit] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def after(self, seconds: float) -> "Limit":
        """Return what raises `TimeoutError` out of its block after so many seconds."""
        return Limit(self, seconds)

    def begin(self, limit: "Limit", loop: asyncio.AbstractEventLoop) -> None:
        """Watch a limit from now on."""
        if loop is not self._loop:  # one that has ended fires no timer
            self._loop, self._timer = loop, None
        self._limits.add(limit)
        if self._timer is None or limit.end < self._timer.when():
            self._set(limit.end, loop)

    def end(self, limit: "Limit") -> None:
        """Watch it no longer."""
        self._limits.discard(limit)

    def _set(self, when: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(when, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        """Interrupt who is late, and look again when the next one could be."""
        self._timer = None
        now = loop.time()
        for limit in [limit for limit in self._limits if limit.end <= now]:
            self._limits.discard(limit)
            limit.interrupt()
        if self._limits:
            self._set(min(limit.end for limit in self._limits), loop)


class Limit:
    """One use of an alarm; made by `Alarm.after`."""

    __slots__ = ("_alarm", "_cancelling", "_interrupted", "_seconds", "_task", "end")

    def __init__(self, alarm: Alarm, seconds: float) -> None:
        self._alarm = alarm
        self._seconds = seconds
        self._interrupted = False

    def __enter__(self) -> None:
        """The time begins to run."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self.end = loop.time() + self._seconds
        self._alarm.begin(self, loop)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Raise `TimeoutError` in place of a cancellation that nobody else asked for."""
        if not self._interrupted:
            self._alarm.end(self)
        elif self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def interrupt(self) -> None:
        """The time is up."""
        self._interrupted = True
        self._task.cancel()
