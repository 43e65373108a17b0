"""Every fault of a document at once: whoever corrects a file wants the whole list."""

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from holdfast.policy.faults import Fault, Step, first_fault
from holdfast.policy.rules import Part, Reading

P = TypeVar("P", bound=Part)

_RULE: Final = "rule"
_OWN: Final = (_RULE, "fault")
"""Types of error that this project raises itself; the others are pydantic's."""


def validate(model: type[P], document: object) -> P | list[Fault]:
    """Read a document as an API server does, or return all that is wrong with it.

    The rules are tried only where the structure is right, so those come alone.
    """
    try:
        return model.model_validate(
            document, context=Reading.MANIFEST, by_alias=True, by_name=False
        )
    except ValidationError as error:
        return list(_faults(error))


def _faults(error: ValidationError) -> Iterator[Fault]:
    details = error.errors(include_url=False)
    structure = [each for each in details if each["type"] != _RULE]
    for each in structure or details:
        if any(_is_below(other["loc"], each["loc"]) for other in structure):
            continue  # a list that is too short only because its items cannot be read
        one = ValidationError.from_exception_data(error.title, [_again(each)])
        yield first_fault(one)


def _is_below(inner: Sequence[Step], outer: Sequence[Step]) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _again(details: ErrorDetails) -> InitErrorDetails:
    """Return what makes the same error anew: the words for it are given for one at a time."""
    kind, context = details["type"], details.get("ctx", {})
    own = {name: PydanticCustomError(name, "{message}", context) for name in _OWN}
    return InitErrorDetails(
        type=own.get(kind, kind),
        loc=details["loc"],
        input=details["input"],
        ctx=context,
    )
