"""What callers give to methods, checked before any store is asked: so it is refused alike on all of them."""

from typing import Final

from holdfast.errors import ConfigurationError

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
