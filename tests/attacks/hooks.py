"""What schemathesis is told of the API that its document cannot say; loaded by its command line."""

import json
import re
from typing import Any

import schemathesis


@schemathesis.serializer("application/jsonl")
def lines(context: schemathesis.SerializationContext, value: Any) -> Any:
    """Send a text as it is, and everything else as lines of JSON."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    rows = value if isinstance(value, list) else [value]
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]
) -> None:
    """Wait for no turn longer than a moment: somebody may hold it for ever here."""
    body = case.body
    wait = body.get("wait") if isinstance(body, dict) else None
    if isinstance(wait, str) and re.fullmatch(r"[1-9][0-9]*(ms|s|m|h|d)", wait):
        case.body = body | {"wait": "20ms"}
