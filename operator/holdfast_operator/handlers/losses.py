"""Connections that a server ended: it may have restarted, and then it lacks scripts and users."""

from collections.abc import Callable
from typing import Final

from holdfast_operator.handlers.wakers import Wakers
from holdfast_operator.storage.mirror import Mirror

PAUSE: Final = 10.0
"""Seconds between two such looks at a backend, as many as between its looks at rest: a server that ends idle
connections, as it may, is looked at twice as often at most."""


class Losses:
    """Wakes the backend whose server ended a connection, so that nobody finds it as it came up.

    Args:
        mirror: knows the backends.
        wakers: rung.
        clock: seconds that only grow.
    """

    def __init__(self, mirror: Mirror, wakers: Wakers, *, clock: Callable[[], float]) -> None:
        self._mirror = mirror
        self._wakers = wakers
        self._clock = clock
        self._heard: dict[str, float] = {}

    def lost(self, backend: str) -> None:
        """Hear that a server ended a connection.

        Args:
            backend: uid of its backend.
        """
        now = self._clock()
        self._heard = {uid: at for uid, at in self._heard.items() if now - at < PAUSE}
        if backend in self._heard:
            return
        self._heard[backend] = now
        key = self._mirror.backend_of(backend)
        if key is not None:
            self._wakers.wake(key)
