"""What is wrong with a manifest, in the words an API server uses for the same fault.

pydantic finds the faults of structure; the validators of this package raise `PydanticCustomError`
with a cause. `first_fault` turns either into one `Fault`. Texts of values are quoted only where the
API server quotes them too: a manifest holds no secrets.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from holdfast.errors import PolicyInvalid

Step = str | int
"""One step into a document: a key or an index."""


class Cause(StrEnum):
    """The Kubernetes causes of an invalid field that this package uses."""

    DUPLICATE = "FieldValueDuplicate"
    FORBIDDEN = "FieldValueForbidden"
    INVALID = "FieldValueInvalid"
    NOT_SUPPORTED = "FieldValueNotSupported"
    REQUIRED = "FieldValueRequired"
    TOO_LONG = "FieldValueTooLong"
    TOO_MANY = "FieldValueTooMany"
    TYPE_INVALID = "FieldValueTypeInvalid"


_TYPE_NAMES: Final[Mapping[str, str]] = {
    "bool_type": "boolean",
    "dict_type": "object",
    "int_type": "integer",
    "model_attributes_type": "object",
    "model_type": "object",
    "string_type": "string",
    "tuple_type": "array",
}

_SENTENCES: Final[Mapping[str, tuple[Cause, str]]] = {
    "extra_forbidden": (Cause.FORBIDDEN, "unknown field"),
    "greater_than_equal": (Cause.INVALID, "should be greater than or equal to {ge}"),
    "less_than_equal": (Cause.INVALID, "should be less than or equal to {le}"),
    "missing": (Cause.REQUIRED, "Required value"),
    "string_too_long": (Cause.TOO_LONG, "may not be more than {max_length} bytes"),
    "string_too_short": (Cause.INVALID, "should be at least {min_length} chars long"),
    "too_long": (Cause.TOO_MANY, "must have at most {max_length} items"),
    "too_short": (Cause.INVALID, "should have at least {min_length} items"),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: where, of which kind, and the sentence about it."""

    steps: tuple[Step, ...]
    cause: Cause
    message: str

    @property
    def path(self) -> str:
        """The field as a Kubernetes path, such as `spec.endpoints[1]`; `document` for the whole."""
        return path_of(self.steps) or "document"

    def error(self, file: str | None = None, line: int | None = None) -> PolicyInvalid:
        """Return the exception for this fault."""
        return PolicyInvalid(
            self.message, path=self.path, reason=self.cause.value, file=file, line=line
        )


def path_of(steps: Sequence[Step]) -> str:
    """Write steps as a Kubernetes path: keys joined by dots, indexes in brackets."""
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def json_type(value: object) -> str:
    """Name the JSON type of a value."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list() | tuple():
            return "array"
        case _:
            return "object"


def fault(
    cause: Cause, message: str, below: tuple[Step, ...] = (), *, rule: bool = False
) -> PydanticCustomError:
    """Return the error a validator raises.

    Args:
        cause: the kind of fault.
        message: the sentence about it.
        below: steps from the validated value to the field to blame.
        rule: True for a broken rule, False for a fault of structure.
    """
    return PydanticCustomError(
        "rule" if rule else "fault",
        "{message}",
        {"message": message, "cause": cause, "below": below},
    )


def wrong_type(value: object, expected: str) -> PydanticCustomError:
    """Return the error for a value of another JSON type."""
    return fault(Cause.TYPE_INVALID, _must_be(value, expected))


def mismatch(pattern: str) -> PydanticCustomError:
    """Return the error for a text that does not match."""
    return fault(Cause.INVALID, f"should match '{pattern}'")


def duplicate(value: object, index: int) -> PydanticCustomError:
    """Return the error for the item of a list, at `index`, whose value is there already."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return fault(Cause.DUPLICATE, f"Duplicate value: {text}", (index,))


def first_fault(error: ValidationError, prefix: tuple[Step, ...] = ()) -> Fault:
    """Return the first fault of structure, or else the first broken rule.

    So does an API server: first the fields it does not know, then the rest of the structure, and
    the rules only when that is right.

    Args:
        error: what pydantic raised; its locations use the manifest's names.
        prefix: steps in front of every location, such as `("spec",)`.
    """
    details = error.errors(include_url=False)
    chosen = min(details, key=_urgency)
    cause, message, below = _read(chosen)
    return Fault((*prefix, *chosen["loc"], *below), cause, message)


def _urgency(details: ErrorDetails) -> int:
    return {"extra_forbidden": 0, "rule": 2}.get(details["type"], 1)


def _must_be(value: object, expected: str) -> str:
    return f'must be of type {expected}: "{json_type(value)}"'


def _read(details: ErrorDetails) -> tuple[Cause, str, tuple[Step, ...]]:
    context: dict[str, Any] = details.get("ctx", {})
    value, kind = details["input"], details["type"]
    if kind in {"fault", "rule"}:
        return context["cause"], context["message"], context["below"]
    if kind in _TYPE_NAMES:
        return Cause.TYPE_INVALID, _must_be(value, _TYPE_NAMES[kind]), ()
    if kind in {"enum", "literal_error"}:
        if not isinstance(value, str):
            return Cause.TYPE_INVALID, _must_be(value, "string"), ()
        return Cause.NOT_SUPPORTED, f"supported values: {_quoted(context['expected'])}", ()
    if kind in _SENTENCES:
        cause, sentence = _SENTENCES[kind]
        return cause, sentence.format_map(context), ()
    return Cause.INVALID, details["msg"], ()


def _quoted(expected: str) -> str:
    """Turn pydantic's `'A', 'B' or 'C'` into `"A", "B", "C"`."""
    return ", ".join(f'"{value}"' for value in expected.split("'")[1::2])
