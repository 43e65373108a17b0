"""What callers choose for a call or a client."""

from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, TypeAlias, cast, get_args

from holdfast.errors import ConfigurationError

Lines: TypeAlias = Iterable[str] | AsyncIterable[str]


PrivacyLevel: TypeAlias = Literal["public", "private", "confidential"]


_LEVELS: Final = get_args(PrivacyLevel)


@dataclass(frozen=True, slots=True)
class Privacy:
    """What a caller says of the messages of one append, beside what the policy says.

    Attributes:
        persist: False stores nothing at all, not even an id; the result says so. A call whose result
            is not stored stays unanswered, and reads leave the two out.
        level: kept beside the messages and returned with them. What is `confidential` is never
            shown to a summariser that runs elsewhere.
        sensitive: fields whose values are replaced by the policy's redaction text, as dotted paths from
            the top of a message such as `tool_calls.function.arguments.card`. Lists are walked
            through, and so is JSON text. A path that leads nowhere is a warning of the result.
        redacted: the caller has applied redaction itself, so the policy's patterns are skipped.

    Raises:
        ConfigurationError: no such level, or something that is no path.
    """

    persist: bool = True
    level: PrivacyLevel | None = None
    sensitive: tuple[str, ...] = ()
    redacted: bool = False

    def __post_init__(self) -> None:
        """Refuse what would protect nothing."""
        if self.level is not None and self.level not in _LEVELS:
            raise ConfigurationError(f"a privacy level is one of {', '.join(_LEVELS)}")
        if not _are_paths(self.sensitive):
            raise ConfigurationError(
                "sensitive is a tuple of paths, each of keys joined by dots, such as ('arguments.card',)"
            )


def _are_paths(value: object) -> bool:
    if not isinstance(value, tuple):
        return False
    paths = cast("tuple[object, ...]", value)
    return all(isinstance(path, str) and all(path.split(".")) for path in paths)


@dataclass(frozen=True, slots=True)
class Durability:
    """How many replicas confirm an append, a turn or an erasure before it counts as done.

    It makes the loss in a failover smaller, and does not exclude it: what is confirmed may be lost where
    another replica takes over.

    Attributes:
        replicas: how many, 1..100.
        timeout: how long to wait for them: text such as `100ms`, or a `timedelta`; at most 10 s.
        strict: an append that is not confirmed in time raises `NotDurable`, instead of saying so. The
            receipt of an erasure always says so.
    """

    replicas: int = 1
    timeout: str | timedelta = "100ms"
    strict: bool = False
