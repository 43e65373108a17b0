"""What a look at an object came to."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from holdfast_operator.reasons import Reason
from holdfast_operator.status import Status

S = TypeVar("S", bound=Status)


class EventType(StrEnum):
    """Kinds of Events in Kubernetes."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class Event:
    """Something people may want to read in `kubectl describe`.

    Attributes:
        type: whether it is good news.
        reason: one word.
        message: a sentence, without secrets, ids of sessions, or words of a server.
    """

    type: EventType
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a reconcile or one step of a deletion came to.

    Attributes:
        status: the whole status the object should have; None where nothing changes.
        again: seconds until the next look unless something wakes it; 0 goes on at once. None: of a
            reconcile, whenever it is due; of a deletion, that it is done.
        events: what to tell people.
        blocked: a deletion waits for something outside.
        suspect: namespace and name of a backend that should be looked at, since its server failed us.
        remove: the object has had its time: delete it.
        restarted: the backend's servers are not those that ran before: whoever keeps something there
            should look, for users and scripts do not outlive a server.
    """

    status: Status | None = None
    again: float | None = None
    events: tuple[Event, ...] = ()
    blocked: bool = False
    suspect: tuple[str, str] | None = None
    remove: bool = False
    restarted: bool = False


def changed(before: S, after: S) -> S | None:
    """Return the status to write: None where it would say what it says already."""
    return None if after == before else after


class Obstacle(Exception):
    """Why an object cannot be Ready now.

    Args:
        reason: from the closed list.
        message: a sentence people can act on.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
