"""What the asynchronous library can do and a thread cannot."""

from holdfast.errors import ConfigurationError


def refuse_cancelling(on_interrupt: str | None) -> None:
    """Refuse to cancel the body of a turn.

    Raises:
        ConfigurationError: somebody asks for it.
    """
    if on_interrupt == "cancel":
        raise ConfigurationError(
            "on_interrupt='cancel' cannot be had here: nothing can cancel a thread. Look at "
            "turn.interrupted, or call turn.check()"
        )
