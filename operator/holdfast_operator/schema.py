"""From models to the structural schemas of CRDs.

The API server is particular, hence these rules: the default of an object is spelled out with the
defaults of its fields; every text, list and map is bounded, because the cost of a CEL rule is
estimated from the bounds; each rule has a fixed message, the field it blames and a reason; every
list says how appliers merge it. What a description must tell beyond its sentence, since
`kubectl explain` shows neither bounds nor defaults, is added to it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, TypeVar, Union, cast, get_args, get_origin

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic.fields import FieldInfo

from holdfast.policy import Duration, Part, Quantity, Rule, TransitionRule
from holdfast.policy.rules import BoundRule, Pattern, Unique, Unit
from holdfast.policy.units import (
    DURATION_LENGTH,
    DURATION_PATTERN,
    QUANTITY_LENGTH,
    QUANTITY_PATTERN,
)
from holdfast_operator.status import Format

Schema = dict[str, Any]

T = TypeVar("T")

_LENGTHS: Final = {
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties"),
}


class SchemaError(Exception):
    """A model that no CRD can be made of; it is found while the CRDs are written."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """The annotation of a field taken apart."""

    bare: Any
    metadata: tuple[Any, ...]

    @classmethod
    def of(cls, annotation: object, metadata: tuple[Any, ...] = ()) -> "_Kind":
        """Unwrap `Annotated` and `| None`."""
        origin = get_origin(annotation)
        if origin is Annotated:
            inner, *extra = get_args(annotation)
            return cls.of(inner, (*extra, *metadata))
        if origin in {Union, UnionType}:
            members = [item for item in get_args(annotation) if item is not NoneType]
            if len(members) != 1:
                raise SchemaError(f"a union of several types: {annotation}")
            return cls.of(members[0], metadata)
        return cls(annotation, metadata)

    def is_a(self, base: type) -> bool:
        """Tell whether the bare annotation is a class derived from `base`."""
        return isinstance(self.bare, type) and issubclass(self.bare, base)

    def find(self, what: type[T]) -> T | None:
        """Return the last metadata of a class, or None."""
        return next((item for item in reversed(self.metadata) if isinstance(item, what)), None)


def object_schema(model: type[Part]) -> Schema:
    """Return the schema of a model: properties in the order of its fields, then its rules.

    Raises:
        SchemaError: a field without bounds or description, or of a type no CRD has.
    """
    schema: Schema = {"type": "object"}
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    schema["properties"] = {name: _property(name, field) for name, field in fields.items()}
    required = [name for name, field in fields.items() if field.is_required()]
    if required:
        schema["required"] = required
    if model.atomic:
        schema["x-kubernetes-map-type"] = "atomic"
    validations = rule_schemas((*model.rules, *model.transitions))
    if validations:
        schema["x-kubernetes-validations"] = validations
    return schema


def rule_schemas(rules: tuple[Rule[Any] | TransitionRule[Any], ...]) -> list[Schema]:
    """Return the validations of rules, in their order."""
    return [
        {
            "rule": rule.expression,
            "message": rule.message,
            "reason": rule.reason.value,
            **({"fieldPath": rule.path} if rule.path else {}),
        }
        for rule in rules
    ]


def _property(name: str, field: FieldInfo) -> Schema:
    kind = _Kind.of(field.annotation, tuple(field.metadata))
    schema = _value(kind)
    if field.description is None:
        raise SchemaError(f"{name} has no description")
    default = _default(field, schema)
    schema = {"description": f"{field.description} {_ending(kind, field, schema)}", **schema}
    if default is not None:
        schema["default"] = default
    return schema


def _value(kind: _Kind) -> Schema:
    schema = _base(kind)
    for item in kind.metadata:
        match item:
            case Ge(ge=low):
                schema["minimum"] = low
            case Le(le=high):
                schema["maximum"] = high
            case MinLen(min_length=length):
                schema[_LENGTHS[schema["type"]][0]] = length
            case MaxLen(max_length=length):
                schema[_LENGTHS[schema["type"]][1]] = length
            case Pattern(regex=regex):
                schema["pattern"] = regex
            case Format(name=name):
                schema["format"] = name
            case _:
                pass
    rules = [cast("Rule[Any]", item) for item in kind.metadata if isinstance(item, Rule)]
    validations = rule_schemas(tuple(rules))
    if validations:
        schema["x-kubernetes-validations"] = validations
    _require_bounds(schema)
    return schema


def _base(kind: _Kind) -> Schema:
    origin = get_origin(kind.bare)
    if origin is tuple:
        return _array(kind)
    if origin is Mapping:
        _, values = get_args(kind.bare)
        return {"type": "object", "additionalProperties": _value(_Kind.of(values))}
    if origin is Literal:
        return {"type": "string", "enum": list(get_args(kind.bare))}
    if kind.is_a(Part):
        return object_schema(kind.bare)
    if kind.is_a(StrEnum):
        return {"type": "string", "enum": [member.value for member in kind.bare]}
    if kind.bare is Duration:
        return {
            "type": "string",
            "format": "duration",
            "maxLength": DURATION_LENGTH,
            "pattern": DURATION_PATTERN,
        }
    if kind.bare is Quantity:
        return {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": QUANTITY_LENGTH,
            "pattern": QUANTITY_PATTERN,
        }
    names: dict[object, str] = {bool: "boolean", int: "integer", str: "string"}
    if kind.bare not in names:
        raise SchemaError(f"no schema for {kind.bare}")
    return {"type": names[kind.bare]}


def _array(kind: _Kind) -> Schema:
    items, _ = get_args(kind.bare)
    schema: Schema = {"type": "array", "items": _value(_Kind.of(items))}
    match kind.find(Unique):
        case None:
            schema["x-kubernetes-list-type"] = "atomic"
        case Unique(key=None):
            schema["x-kubernetes-list-type"] = "set"
        case Unique(key=key):
            schema["x-kubernetes-list-type"] = "map"
            schema["x-kubernetes-list-map-keys"] = [key]
    return schema


def _require_bounds(schema: Schema) -> None:
    unbounded = (
        (schema.get("type") == "string" and not {"enum", "maxLength"} & schema.keys())
        or (schema.get("type") == "array" and "maxItems" not in schema)
        or ("additionalProperties" in schema and "maxProperties" not in schema)
    )
    if unbounded:
        raise SchemaError(f"without an upper bound: {json.dumps(schema)}")


def _default(field: FieldInfo, schema: Schema) -> object:
    """Return what the schema fills in; an object's default is that of each of its fields."""
    value: object = None if field.is_required() else field.default
    if isinstance(value, Part):
        properties = cast("dict[str, Schema]", schema["properties"])
        return {name: item["default"] for name, item in properties.items() if "default" in item}
    if isinstance(value, tuple):
        items = [_plain(item) for item in cast("tuple[object, ...]", value)]
        return items or None
    return _plain(value) if value is None or not field.default_factory else None


def _plain(value: object) -> object:
    match value:
        case Part():
            return value.model_dump(mode="json", exclude_none=True)
        case StrEnum():
            return value.value
        case Duration() | Quantity():
            return value.text
        case None | bool() | int() | str():
            return value
        case _:
            return None


def _ending(kind: _Kind, field: FieldInfo, schema: Schema) -> str:
    """Return what follows the sentence: unit, bounds and default."""
    parts = [text for text in (_unit(kind, schema), _bounds(kind, schema)) if text]
    if field.is_required():
        parts.append("required")
    elif isinstance(field.default, Part):
        parts.append("default: that of each field")
    else:
        default = _default(field, schema)
        parts.append("no default" if default is None else f"default {_shown(default)}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _unit(kind: _Kind, schema: Schema) -> str:
    unit = kind.find(Unit)
    if unit is not None:
        return unit.text
    match schema.get("type"):
        case "boolean":
            return "true or false"
        case "string" if "enum" not in schema:
            return "text"
        case "array":
            return "list"
        case "object":
            return "object"
        case _:
            return "" if "enum" in schema else "quantity of bytes"


def _bounds(kind: _Kind, schema: Schema) -> str:
    rule = cast("BoundRule[Any] | None", kind.find(BoundRule))
    if rule is not None:
        return rule.bounds
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    if schema.get("type") == "integer":
        low, high = schema.get("minimum"), schema.get("maximum")
        return f"{low} or more" if high is None else f"{low} to {high}"
    for low, high, things in (
        ("minLength", "maxLength", "characters"),
        ("minItems", "maxItems", "items"),
        ("minProperties", "maxProperties", "entries"),
    ):
        if high in schema:
            return f"{schema.get(low, 0)} to {schema[high]} {things}"
    return ""


def _shown(default: object) -> str:
    return default if isinstance(default, str) else json.dumps(default)
