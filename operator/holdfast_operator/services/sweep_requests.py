"""When sweeps happen: at an interval, and when somebody asks by an annotation."""

from typing import Final, NamedTuple

from holdfast_operator.resources import ObjectMeta
from holdfast_operator.services.pacing import spread
from holdfast_operator.services.ports import Clock

INTERVAL: Final = 3600.0
"""Seconds between sweeps of one memory, and between surveys of one backend."""
REQUEST: Final = "holdfast.dev/sweep"
"""The annotation that asks for one: `now`, or `dry-run`, with anything behind it to ask again."""
_LONGEST: Final = 64


def first_due(uid: str, clock: Clock) -> float:
    """Return when an object is swept for the first time by this process, as `Clock.monotonic` counts.

    Each object has its moment in every hour of the day, whoever leads then: an operator that is started
    anew more often than once an hour would otherwise put most sweeps off for ever.
    """
    left = (spread(uid, INTERVAL) - clock.now().timestamp()) % INTERVAL
    return clock.monotonic() + left


class Request(NamedTuple):
    """What somebody asked for: the annotation's text, and whether only to look."""

    text: str
    dry: bool


def requested(metadata: ObjectMeta, handled: str | None) -> Request | None:
    """Return what an object's annotation asks for, unless that is done.

    Args:
        metadata: of the object.
        handled: the text that was handled last.
    """
    text = metadata.annotations.get(REQUEST, "").strip()[:_LONGEST]
    if text == handled or not text.startswith(("now", "dry-run")):
        return None
    return Request(text, dry=text.startswith("dry-run"))
