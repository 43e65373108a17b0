"""The kinds of value a manifest's fields have, each with its bounds and unit."""

from typing import Annotated, Any

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import Strict

from holdfast.policy.faults import Cause
from holdfast.policy.rules import Pattern, Rule, Unique, Unit, between, sized
from holdfast.policy.units import Duration, Quantity


def is_regular_expression(pattern: str) -> bool:
    """Tell whether RE2, the engine of the API server and of the library, takes the pattern."""
    import re2  # noqa: PLC0415 - a C++ library: loaded by the first policy that redacts

    engine: Any = re2
    options = engine.Options()
    options.log_errors = False
    try:
        engine.compile(pattern, options)
    except engine.error:
        return False
    return True


Flag = Annotated[bool, Strict()]
Integer = Annotated[int, Strict()]
Text = Annotated[str, Strict()]

Tokens = Annotated[Integer, Ge(1), Le(100_000_000), Unit("tokens")]
Messages = Annotated[Integer, Ge(1), Le(1_000_000), Unit("messages")]
Percent = Annotated[Integer, Ge(1), Le(100), Unit("percent")]
Share = Annotated[Integer, Ge(0), Le(100), Unit("percent")]
Count = Annotated[Integer, Ge(1), Le(1_000_000_000_000), Unit("number")]

Lifetime = Annotated[Duration, between("1s", "3650d"), Unit("duration such as 24h")]
LeaseTime = Annotated[Duration, between("3s", "1h"), Unit("duration such as 30s")]
WaitTime = Annotated[Duration, between("1ms", "1h"), Unit("duration such as 30s")]
Size = Annotated[Quantity, sized("1", "1024Ti"), Unit("quantity of bytes such as 512Mi")]
MessageSize = Annotated[Quantity, sized("1Ki", "4Mi"), Unit("quantity of bytes such as 256Ki")]

Label = Annotated[
    Text, MinLen(1), MaxLen(63), Pattern("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), Unit("DNS label")
]
ObjectName = Annotated[
    Text,
    MinLen(1),
    MaxLen(253),
    Pattern("^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"),
    Unit("name of an object"),
]
Keyword = Annotated[Text, MinLen(1), MaxLen(64)]
Keywords = Annotated[tuple[Keyword, ...], MaxLen(64), Unique()]
Kinds = Annotated[tuple[Keyword, ...], MaxLen(16), Unique()]
RegularExpression = Annotated[
    Text,
    MinLen(1),
    MaxLen(512),
    Rule[str](
        path="",
        reason=Cause.INVALID,
        message="must be an RE2 regular expression",
        check=is_regular_expression,
        expression="'x'.matches(self) in [true, false]",
    ),
]
RegularExpressions = Annotated[tuple[RegularExpression, ...], MaxLen(32), Unique()]
Address = Annotated[
    Text,
    MaxLen(2048),
    Pattern(r"^https?://[A-Za-z0-9.:\[\]-]+([/?][!-~]*)?$"),
    Unit("URL with http or https, without user and password"),
]
