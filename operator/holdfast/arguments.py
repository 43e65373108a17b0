"""What callers give to methods, checked before any store is asked: so it is refused alike on all of them."""

from collections.abc import Sequence
from typing import Final

from holdfast.errors import ConfigurationError, MessageInvalid
from holdfast.values import Privacy

_MAX_ID: Final = 512

MOST: Final = 2**31
"""Largest sequence number, limit or budget: more than any session holds, and exact in every store."""


def is_whole(value: object, least: int = 0, most: int = MOST) -> bool:
    """Whether this is a whole number in a range, both ends included. `True` and `1.0` are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def require_whole(least: int = 0, most: int = MOST, /, **given: object) -> None:
    """Accept whole numbers in a range, both ends included, and None.

    Args:
        least: the lower end.
        most: the upper end.
        given: values by the names of their arguments.

    Raises:
        ConfigurationError: one is something else.
    """
    for name, value in given.items():
        if value is not None and not is_whole(value, least, most):
            raise ConfigurationError(f"{name} is a whole number, {least}..{most}")


def require_text(**given: object) -> None:
    """Accept text, and None.

    Args:
        given: values by the names of their arguments.

    Raises:
        ConfigurationError: one is something else.
    """
    for name, value in given.items():
        if value is not None and not isinstance(value, str):
            raise ConfigurationError(f"{name} is text, not {type(value).__name__}")


def require_messages(items: object) -> None:
    """Accept messages in an order: a list, a tuple, or another sequence.

    One message alone is none: it would be taken apart, and its keys or characters stored as messages.

    Raises:
        MessageInvalid: it is something else.
    """
    kind = type(items).__name__
    if isinstance(items, str | bytes | bytearray | memoryview) or not isinstance(items, Sequence):
        raise MessageInvalid(
            f"messages is a list of messages, not {kind}: put one message in a list, [message], and what "
            "gives one after the other through list()"
        )


def require_privacy(privacy: object) -> None:
    """Accept a `Privacy`, and None.

    Raises:
        ConfigurationError: it is something else, which would protect nothing.
    """
    if privacy is not None and not isinstance(privacy, Privacy):
        raise ConfigurationError(
            f"privacy is a holdfast.Privacy, such as Privacy(persist=False), not {type(privacy).__name__}"
        )


def require_id(id: object) -> None:
    """Accept the id of a call.

    Raises:
        MessageInvalid: it is no text of 1 to 512 characters.
    """
    if not isinstance(id, str) or not 0 < len(id) <= _MAX_ID:
        raise MessageInvalid(f"an id is text of 1 to {_MAX_ID} characters")
    try:
        id.encode()
    except UnicodeEncodeError:
        raise MessageInvalid("an id must be valid Unicode text") from None
