"""Rules: what the type of a field alone cannot say, stated once for both validators.

A `Rule` has a predicate in Python, which the library runs, and the same condition in CEL, which the
CRDs carry. `Part` is the base of all models and keeps the rules attached to it; a rule can also
stand in the `Annotated` of a field, then it is about that field's value.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from holdfast.policy.faults import (
    Cause,
    Fault,
    Step,
    duplicate,
    fault,
    first_fault,
    mismatch,
)
from holdfast.policy.units import Duration, Quantity

T = TypeVar("T")

_ACRONYMS = {"acl": "ACL", "ai": "AI", "ids": "IDs", "ttl": "TTL"}


# No slots: on Python 3.11 `Rule[X](...)` of a frozen class with slots is a TypeError.
@dataclass(frozen=True)
class Rule(Generic[T]):
    """A condition on one object or value.

    Args:
        path: the field to blame, below the object: `.targetPercent`; empty for the object itself.
        reason: the Kubernetes cause.
        message: the sentence both validators answer with.
        check: the condition in Python.
        expression: the condition in CEL, with the names of the manifest.
    """

    path: str
    reason: Cause
    message: str
    check: Callable[[T], bool]
    expression: str

    def enforce(self, value: T) -> T:
        """Return the value, or raise the error of this rule."""
        if self.check(value):
            return value
        raise self.broken()

    def broken(self) -> PydanticCustomError:
        """Return the error of this rule."""
        return fault(self.reason, self.message, steps_below(self.path), rule=True)

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Run the check after the value was read: for a rule in the `Annotated` of a field."""
        return core_schema.no_info_after_validator_function(self.enforce, handler(source))


@dataclass(frozen=True)
class TransitionRule(Generic[T]):
    """A condition on an object and on the one it replaces. The arguments are those of `Rule`.

    A rule about an optional field stands on the object that holds the field: the API server does
    not try the rules of a field that is being added or removed.
    """

    path: str
    reason: Cause
    message: str
    check: Callable[[T, T], bool]
    expression: str


@dataclass(frozen=True)
class BoundRule(Rule[T]):
    """A rule that bounds a value; `bounds` names both ends, such as `1s to 3650d`."""

    bounds: str


@dataclass(frozen=True, slots=True)
class Unit:
    """What the value of a field counts or looks like; descriptions end with it."""

    text: str


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text matches the whole regular expression, which RE2 and Python read alike."""

    regex: str

    def enforce(self, value: str) -> str:
        """Return the value, or raise the error for one that does not match."""
        if re.fullmatch(self.regex.removeprefix("^").removesuffix("$"), value, re.ASCII):
            return value
        raise mismatch(self.regex)

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Match the text after it was read."""
        return core_schema.no_info_after_validator_function(self.enforce, handler(source))


@dataclass(frozen=True, slots=True)
class Unique:
    """No item of a list is there twice.

    Args:
        key: the field of its items that tells them apart; None for a list of plain values.
    """

    key: str | None = None

    def enforce(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the items, or raise the error for the first one that is there already."""
        seen = set[Any]()
        for index, item in enumerate(items):
            value = item if self.key is None else getattr(item, self.key)
            if value in seen:
                raise duplicate(value if self.key is None else {self.key: value}, index)
            seen.add(value)
        return items

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Compare the items after they were read."""
        return core_schema.no_info_after_validator_function(self.enforce, handler(source))


def between(low: str, high: str) -> BoundRule[Duration]:
    """Bound a duration, both ends included."""
    lower, upper = Duration(low), Duration(high)
    return BoundRule[Duration](
        path="",
        reason=Cause.INVALID,
        message=f"must be between {low} and {high}",
        check=lambda value: lower.milliseconds <= value.milliseconds <= upper.milliseconds,
        expression=f"self >= {_cel_duration(lower)} && self <= {_cel_duration(upper)}",
        bounds=f"{low} to {high}",
    )


@dataclass(frozen=True)
class _SizeRule(BoundRule[Quantity]):
    """Bounds of a size that meet a plain number of bytes before its text is looked at.

    The API server has no pattern for numbers: for `0` only the bounds have something to say.
    """

    low: int
    high: int

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Run the check after the value was read, for a number before."""
        return core_schema.no_info_wrap_validator_function(self._validate, handler(source))

    def _validate(self, value: object, inner: core_schema.ValidatorFunctionWrapHandler) -> Quantity:
        number = value if isinstance(value, int) and not isinstance(value, bool) else self.low
        if not self.low <= number <= self.high:
            raise self.broken()
        return self.enforce(inner(value))


def sized(low: str, high: str) -> BoundRule[Quantity]:
    """Bound a size, both ends included."""
    lower, upper = Quantity(low).bytes, Quantity(high).bytes
    return _SizeRule(
        path="",
        reason=Cause.INVALID,
        message=f"must be between {low} and {high}",
        check=lambda value: lower <= value.bytes <= upper,
        expression=(
            f"quantity(string(self)).compareTo(quantity('{low}')) >= 0"
            f" && quantity(string(self)).compareTo(quantity('{high}')) <= 0"
        ),
        bounds=f"{low} to {high}",
        low=lower,
        high=upper,
    )


def steps_below(path: str) -> tuple[Step, ...]:
    """Read the path of a rule, such as `.limits.maxMessages`."""
    return tuple(key for key in path.split(".") if key)


def manifest_name(name: str) -> str:
    """Turn the name of a field into the manifest's: `lease_ttl` is `leaseTTL`."""
    first, *others = name.split("_")
    return first + "".join(_ACRONYMS.get(word, word.capitalize()) for word in others)


class Reading(Enum):
    """How a document with the names of the manifest is read. Null is absence either way."""

    MANIFEST = auto()
    """As an API server takes a manifest: unknown fields are refused."""

    STORED = auto()
    """As a document that a later version may have written: unknown fields are left out."""


class Part(BaseModel):
    """Base of all models: frozen, closed, `snake_case` in Python and `camelCase` in manifests."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=manifest_name,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        use_enum_values=False,
    )

    atomic: ClassVar[bool] = False
    """Whether appliers replace the whole object instead of merging its fields."""
    rules: ClassVar[tuple[Rule[Any], ...]] = ()
    transitions: ClassVar[tuple[TransitionRule[Any], ...]] = ()

    @classmethod
    def read(
        cls,
        document: Mapping[str, Any],
        *,
        reading: Reading = Reading.MANIFEST,
        prefix: tuple[Step, ...] = (),
    ) -> Self:
        """Read a document with the names of the manifest.

        Args:
            document: parsed JSON or YAML.
            reading: what to do with unknown fields.
            prefix: steps in front of the path of a fault, such as `("spec",)`.

        Raises:
            PolicyInvalid: the first fault of structure, or else the first broken rule.
        """
        try:
            return cls.model_validate(document, context=reading, by_alias=True, by_name=False)
        except ValidationError as error:
            raise first_fault(error, prefix).error() from None

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, data: object, info: ValidationInfo) -> object:
        if not isinstance(data, Mapping):
            return data
        document = dict(cast("Mapping[str, Any]", data))
        if info.context is None:
            return document
        # As on an API server: null is absence.
        document = {name: value for name, value in document.items() if value is not None}
        if info.context is Reading.STORED:
            known = {field.alias or name for name, field in cls.model_fields.items()}
            return {name: value for name, value in document.items() if name in known}
        return document

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        for rule in type(self).rules:
            rule.enforce(self)
        return self


def transition_fault(new: Part, old: Part, steps: tuple[Step, ...] = ()) -> Fault | None:
    """Return the first transition rule that replacing `old` by `new` breaks, if any.

    Args:
        new: the object as it is to be.
        old: the object as it is, of the same model.
        steps: steps in front of the path of a fault.
    """
    for rule in type(new).transitions:
        if not rule.check(new, old):
            return Fault((*steps, *steps_below(rule.path)), rule.reason, rule.message)
    for name, field in type(new).model_fields.items():
        after, before = getattr(new, name), getattr(old, name)
        if isinstance(after, Part) and isinstance(before, Part):
            found = transition_fault(after, before, (*steps, field.alias or name))
            if found is not None:
                return found
    return None


def _cel_duration(duration: Duration) -> str:
    """Write a duration for CEL's `duration()`, which knows no days."""
    text = duration.text
    if text.endswith("d"):
        text = f"{duration.milliseconds // 3_600_000}h"
    return f"duration('{text}')"
