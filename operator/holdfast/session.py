"""A session: one conversation of a memory."""

import asyncio
from datetime import timedelta
from typing import Any

from holdfast.errors import ConfigurationError
from holdfast.log import MessageLog
from holdfast.place import Place
from holdfast.policy import Duration
from holdfast.turn import Turn
from holdfast.values import Caller

_SHORTEST_LEASE = 3000  # ms


class Session(MessageLog):
    """One conversation. Cheap: it holds no connection and needs no closing.

    Args:
        place: where it reads and writes.
        holder: how its turns name themselves to others.
        background: tasks that the client waits for when it closes.
    """

    def __init__(self, place: Place, *, holder: str, background: set[asyncio.Task[Any]]) -> None:
        super().__init__(place)
        self._holder = holder
        self._background = background

    def turn(
        self, *, wait: str | timedelta | None = None, ttl: str | timedelta | None = None
    ) -> Turn:
        """Ask for the turn: `async with session.turn() as turn`.

        Args:
            wait: how long to wait in line, such as `"30s"`; `timedelta(0)` does not wait; None is the
                policy's `locking.waitTimeout`.
            ttl: how long the turn stays reserved should this process fall silent, at least 3 s; None
                is the policy's `locking.leaseTTL`.
        """
        life = None if ttl is None else _milliseconds(ttl)
        if life is not None and life < _SHORTEST_LEASE:
            raise ConfigurationError("a turn's ttl is at least 3s")
        return Turn(
            self._place.again(),
            wait=None if wait is None else _milliseconds(wait),
            ttl=life,
            holder=self._holder,
            background=self._background,
        )

    def _caller(self) -> Caller:
        return Caller("", self._place.epoch, self._place.seen)


def _milliseconds(value: str | timedelta) -> int:
    if isinstance(value, timedelta):
        if value < timedelta(0):
            raise ConfigurationError("a duration is not negative")
        return int(value / timedelta(milliseconds=1))
    try:
        return Duration.of(value).milliseconds
    except ValueError as error:
        raise ConfigurationError(f"{value!r} is no duration: {error}") from None
