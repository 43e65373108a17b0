"""What the tools are called with: one model for the check and for the schema that a model is shown."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from holdfast_sidecar.answers import Refusal

_Memory: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=253, description="Name of the memory.")
]
_Session: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=8192,
        description="The conversation: its id, or field=value,field=value where the memory names "
        "conversations by fields.",
    ),
]


class Where(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which conversation; what the address fixes is not asked for."""

    memory: _Memory | None = None
    session: _Session | None = None


class Remember(Where, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `remember`."""

    text: Annotated[str, Meta(min_length=1, description="What to keep, word for word.")]
    role: Annotated[Literal["user", "assistant"], Meta(description="Who said it.")] = "user"
    id: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=512,
                description="Makes repeating the call harmless: what was kept under this id before is "
                "not kept again.",
            ),
        ]
        | None
    ) = None


class Recall(Where, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `recall`."""

    max_tokens: Annotated[
        int,
        Meta(ge=1, le=200_000, description="Most tokens of all messages together."),
    ] = 4_000


class Search(Where, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `search`."""

    text: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=256,
            description="The piece of text to find, as it was written.",
        ),
    ]
    exact: Annotated[bool, Meta(description="Upper and lower case differ.")] = False
    limit: Annotated[int, Meta(ge=1, le=50, description="Most matches.")] = 10
    before: (
        Annotated[int, Meta(ge=1, description="Go on where an earlier answer's `before` says.")]
        | None
    ) = None


MODELS: Final[Mapping[str, type[Where]]] = {
    "remember": Remember,
    "recall": Recall,
    "search": Search,
}


def schema_of(tool: str, *, memories: list[str] | None, session: bool) -> dict[str, Any]:
    """Return the JSON Schema of a tool's arguments.

    Args:
        tool: its name.
        memories: to choose from, [] for any; None when there is nothing to choose.
        session: it is to be named.
    """
    _, parts = msgspec.json.schema_components([MODELS[tool]])
    schema: dict[str, Any] = parts[MODELS[tool].__name__]
    properties: dict[str, Any] = {
        name: _without_null(what) for name, what in schema["properties"].items()
    }
    required: list[str] = list(schema.get("required", ()))
    if memories is None:
        del properties["memory"]
    else:
        required.insert(0, "memory")
        if memories:
            properties["memory"] |= {"enum": memories}
    if session:
        required.insert(0, "session")
    else:
        del properties["session"]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _without_null(part: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of what may be left out, without the null that leaving out means to us."""
    choices = [choice for choice in part.get("anyOf", ()) if choice != {"type": "null"}]
    return (
        dict(choices[0]) if len(choices) == 1 else {k: v for k, v in part.items() if k != "anyOf"}
    )


def read_arguments(tool: str, given: Mapping[str, Any] | None) -> Where:
    """Check what a tool was called with.

    Raises:
        Refusal: it is not what the schema says; names the argument.
    """
    try:
        return msgspec.convert(given or {}, MODELS[tool])
    except msgspec.ValidationError as error:
        raise Refusal(
            "RequestInvalid", f"the arguments of {tool!r} cannot be used: {error}"
        ) from None
