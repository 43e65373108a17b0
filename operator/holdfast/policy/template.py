"""Key templates: how named fields make the key of a session."""

import re
from typing import Annotated, Final

from annotated_types import MaxLen, MinLen

from holdfast.policy.faults import Cause
from holdfast.policy.fields import Text
from holdfast.policy.rules import Pattern, Rule, Unit

FIELD: Final = re.compile(r"\{([a-z][a-z0-9_]*)\}")


def template_fields(template: str) -> tuple[str, ...]:
    """Return the names of a template's fields in their order."""
    return tuple(FIELD.findall(template))


def _are_separated(template: str) -> bool:
    """Between two fields stands a colon: the encoding of a field never holds one."""
    return all(":" in literal for literal in FIELD.split(template)[2:-1:2])


def _are_distinct(template: str) -> bool:
    names = template_fields(template)
    return len(set(names)) == len(names)


KeyTemplate = Annotated[
    Text,
    MinLen(3),
    MaxLen(256),
    Pattern(r"^[a-z0-9_.:-]*(\{[a-z][a-z0-9_]{0,30}\}[a-z0-9_.:-]*){1,8}$"),
    Rule[str](
        path="",
        reason=Cause.INVALID,
        message="two fields must be separated by a literal with a colon",
        check=_are_separated,
        expression="!self.matches('[}][^:{]*[{]')",
    ),
    Rule[str](
        path="",
        reason=Cause.INVALID,
        message="no field may stand twice",
        check=_are_distinct,
        expression=(
            "self.findAll('[{][a-z0-9_]+[}]').all(f, self.indexOf(f) == self.lastIndexOf(f))"
        ),
    ),
    Unit("literals of a-z 0-9 - _ . : and 1 to 8 fields such as {user_id}"),
]
