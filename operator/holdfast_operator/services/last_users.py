"""Which memories a backend waits for when its namespace is deleted and takes them along."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from holdfast_operator.services.objects import mapping
from holdfast_operator.services.ports import Body, Clock

STALLED: Final = timedelta(minutes=2).total_seconds()
"""Seconds without progress after which a backend goes, whatever is left."""


class LastUsers:
    """The memories that backends in terminating namespaces wait for.

    A namespace is emptied in no particular order. The memories in it with `deletionPolicy: Delete`, and
    those that are being deleted elsewhere, still need the backend. It waits as long as they make progress;
    that ends, since there are only so many sessions to delete.

    Args:
        clock: for the time without progress.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._progress: dict[str, tuple[float, object]] = {}

    def waited_for(self, uid: str, namespace: str, users: Sequence[Body]) -> list[Body]:
        """Return the memories to wait for; none when they make no progress.

        Args:
            uid: of the backend.
            namespace: of the backend.
            users: the memories that are kept on it.
        """
        leaving = [body for body in users if _is_leaving(body, namespace)]
        state = [_state(body) for body in leaving]
        now = self._clock.monotonic()
        since, before = self._progress.get(uid, (now, None))
        if state != before:
            since = now
        self._progress[uid] = (since, state)
        return leaving if now - since < STALLED else []

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a backend that is gone."""
        self._progress.pop(uid, None)


def _is_leaving(body: Body, namespace: str) -> bool:
    metadata = mapping(body.get("metadata"))
    if mapping(body.get("spec")).get("deletionPolicy") != "Delete":
        return False
    return metadata.get("namespace") == namespace or bool(metadata.get("deletionTimestamp"))


def _state(body: Body) -> tuple[object, ...]:
    metadata = mapping(body.get("metadata"))
    rollout = mapping(mapping(body.get("status")).get("rollout"))
    return (metadata.get("uid"), metadata.get("deletionTimestamp"), rollout.get("done"))
