"""When sweeps happen: at an interval, and when somebody asks by an annotation."""

from typing import Final, NamedTuple

from holdfast_operator.resources import ObjectMeta

INTERVAL: Final = 3600.0
"""Seconds between sweeps of one memory, and between surveys of one backend."""
REQUEST: Final = "holdfast.dev/sweep"
"""The annotation that asks for one: `now`, or `dry-run`, with anything behind it to ask again."""
_LONGEST: Final = 64


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
