"""Durations and sizes as a manifest writes them: one number and one unit, kept as given."""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from holdfast.policy.faults import Cause, fault, mismatch, wrong_type

DURATION_PATTERN: Final = r"^[1-9][0-9]{0,6}(ms|s|m|h|d)$"
DURATION_LENGTH: Final = 9
QUANTITY_PATTERN: Final = r"^[1-9][0-9]{0,14}(k|M|G|T|Ki|Mi|Gi|Ti)?$"
QUANTITY_LENGTH: Final = 17

_MILLISECONDS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_BYTES: Final = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_NUMBER_UNIT: Final = re.compile(r"([0-9]+)([A-Za-z]*)")


def _split(text: str) -> tuple[int, str]:
    match = _NUMBER_UNIT.fullmatch(text)
    assert match is not None, "the text was matched against the pattern before"
    return int(match[1]), match[2]


@dataclass(frozen=True, slots=True)
class Duration:
    """A span of time, never zero: a whole number and `ms`, `s`, `m`, `h` or `d`, such as `24h`.

    Two durations are equal when their texts are; compare `milliseconds` for the length.

    Args:
        text: 1 to 7 digits without a leading zero, then the unit.

    Raises:
        ValueError: the text has another form.
    """

    text: str

    def __post_init__(self) -> None:
        if not re.fullmatch(DURATION_PATTERN[1:-1], self.text, re.ASCII):
            raise ValueError(f"a duration should match '{DURATION_PATTERN}', such as 30s or 24h")

    @classmethod
    def of(cls, value: "Duration | timedelta | str") -> Self:
        """Return the duration of a text in the manifest's form or of a `timedelta`.

        A `timedelta` becomes the largest unit that divides it; it must be a whole number of
        milliseconds, above zero.

        Raises:
            ValueError: no such text, or a `timedelta` that has no such text.
            TypeError: neither a text nor a `timedelta`; a bare number has no unit.
        """
        return cls._of(value)

    @classmethod
    def _of(cls, value: object) -> Self:
        match value:
            case Duration():
                return cls(value.text)
            case str():
                return cls(value)
            case timedelta():
                return cls._of_timedelta(value)
            case _:
                raise TypeError(
                    "a duration is text such as '30s' or a timedelta, not "
                    f"{type(value).__name__}: a bare number has no unit"
                )

    @classmethod
    def _of_timedelta(cls, value: timedelta) -> Self:
        milliseconds, rest = divmod(value, timedelta(milliseconds=1))
        if rest or milliseconds <= 0:
            raise ValueError("a duration is a whole number of milliseconds above zero")
        for unit, factor in reversed(_MILLISECONDS.items()):
            if milliseconds % factor == 0:
                return cls(f"{milliseconds // factor}{unit}")
        raise AssertionError("every whole number of milliseconds has a unit")

    @property
    def milliseconds(self) -> int:
        """The length in milliseconds."""
        number, unit = _split(self.text)
        return number * _MILLISECONDS[unit]

    @property
    def seconds(self) -> float:
        """The length in seconds."""
        return self.milliseconds / 1_000

    def __str__(self) -> str:
        return self.text

    @classmethod
    def _validate(cls, value: object) -> Self:
        match value:
            case Duration() | str() | timedelta():
                try:
                    return cls._of(value)
                except ValueError:
                    raise mismatch(DURATION_PATTERN) from None
            case _:
                raise fault(Cause.TYPE_INVALID, "must be of type duration")

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Let pydantic read a text, a `timedelta` or a `Duration`, and write the text."""
        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.to_string_ser_schema()
        )


@dataclass(frozen=True, slots=True)
class Quantity:
    """A size in bytes, never zero: a whole number and no unit, `k`, `M`, `G`, `T` or `Ki` ... `Ti`.

    Two quantities are equal when their texts are; compare `bytes` for the size.

    Args:
        text: 1 to 15 digits without a leading zero, then the unit.

    Raises:
        ValueError: the text has another form.
    """

    text: str

    def __post_init__(self) -> None:
        if not re.fullmatch(QUANTITY_PATTERN[1:-1], self.text, re.ASCII):
            raise ValueError(f"a size should match '{QUANTITY_PATTERN}', such as 256Ki")

    @property
    def bytes(self) -> int:
        """The size in bytes."""
        number, unit = _split(self.text)
        return number * _BYTES[unit]

    def __str__(self) -> str:
        return self.text

    @classmethod
    def _validate(cls, value: object) -> Self:
        match value:
            case Quantity():
                return cls(value.text)
            case bool():
                raise wrong_type(value, "integer,string")
            case int() | str():
                try:
                    return cls(str(value))
                except ValueError:
                    raise mismatch(QUANTITY_PATTERN) from None
            case _:
                raise wrong_type(value, "integer,string")

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Let pydantic read a text, a number of bytes or a `Quantity`, and write the text."""
        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.to_string_ser_schema()
        )
