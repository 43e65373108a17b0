"""What a look at an object came to."""

from dataclasses import dataclass
from enum import StrEnum

from holdfast_operator.reasons import ReadyReason
from holdfast_operator.status import Status


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
        status: the whole status the object should have; None leaves it as it is.
        again: seconds until the next look unless something wakes it; 0 goes on at once. None: of a
            reconcile, whenever it is due; of a deletion, that it is done.
        events: what to tell people.
        blocked: a deletion waits for something outside.
    """

    status: Status | None = None
    again: float | None = None
    events: tuple[Event, ...] = ()
    blocked: bool = False


class Obstacle(Exception):  # noqa: N818 - named for what is in the way
    """Why an object cannot be Ready now.

    Args:
        reason: from the closed list.
        message: a sentence people can act on.
    """

    def __init__(self, reason: ReadyReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
