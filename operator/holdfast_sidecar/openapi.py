"""The OpenAPI document, made from the table of routes and from the types that go over the wire.

python -m holdfast_sidecar.openapi write     writes `openapi.json`
python -m holdfast_sidecar.openapi check     says whether it differs from what is defined, and fails
"""

import argparse
import inspect
import json
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import msgspec

from holdfast import values, wire
from holdfast.problems import HTTP_KINDS, KINDS, PROBLEM_JSON, Problem
from holdfast.wire import EVENT_STREAM, IDEMPOTENCY_HEADER, JSON, JSON_LINES, TURN_HEADER
from holdfast_sidecar.requests import Query
from holdfast_sidecar.routes import ROUTES, Route

FILE: Final = Path(__file__).with_name("openapi.json")
Schema: TypeAlias = dict[str, Any]

_REF: Final = "#/components/schemas/{name}"
_TYPES: Final[Mapping[type[object], str]] = {int: "integer", bool: "boolean", str: "string"}
_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_ATTRIBUTE: Final = re.compile(r"^(\w+): (.*)$")

_PATH_PARAMETERS: Final[Mapping[str, Schema]] = {
    "memory": {
        "description": "What this place calls the memory.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 253},
        "example": "support",
    },
    "session": {
        "description": "The session's id; of a memory with a key template its fields, as "
        "`field=value,field=value` with each value percent-encoded on its own, or `-` where the binding "
        "fixes all of them. As a segment of the path it is percent-encoded once more.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 8192},
        "example": "user-42",
    },
    "seq": {
        "description": "A record's sequence number.",
        "schema": {"type": "integer", "minimum": 0, "maximum": 2**31},
        "example": 1,
    },
    "token": {
        "description": "A turn's token.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 128},
        "example": "3q2-7wEBAQEBAQEBAQEBAQEBAQEBAQEB",
    },
}
_TURN: Final[Schema] = {
    "name": TURN_HEADER,
    "in": "header",
    "description": "Make the call under this turn: its token. One that is over: 423.",
    "schema": {"type": "string", "maxLength": 128},
}
_IDEMPOTENCY: Final[Schema] = {
    "name": IDEMPOTENCY_HEADER,
    "in": "header",
    "description": "The record id, which makes a retry harmless: UTF-8, 1 to 512 characters. The body's "
    "`id` says the same, and can hold any character.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 512},
    "example": "req-7",
}
_RETRY: Final[Schema] = {
    "Retry-After": {
        "description": "Seconds after which to try again.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
_HERE: Final = {"memory": "$request.path.memory", "session": "$request.path.session"}
_TOKEN: Final = "$response.body#/token"  # noqa: S105 - a place in an answer
_SEQ: Final = "$response.body#/seq"

# From an answer to the calls that it makes possible: operation -> (name of the link, operation, parameters).
_LINKS: Final[Mapping[str, Sequence[tuple[str, str, Mapping[str, str]]]]] = {
    "listMemories": (
        ("getSession", "getSession", {"memory": "$response.body#/memories/0/name"}),
        ("appendMessages", "appendMessages", {"memory": "$response.body#/memories/0/name"}),
    ),
    "appendMessages": (
        ("readMessages", "readMessages", _HERE),
        ("readRecords", "readRecords", _HERE),
        ("popMessage", "popMessage", _HERE),
        ("pinRecord", "pinRecord", {**_HERE, "seq": _SEQ}),
        ("unpinRecord", "unpinRecord", {**_HERE, "seq": _SEQ}),
        ("explainMessage", "explainMessage", {**_HERE, "seq": _SEQ}),
        ("exportSession", "exportSession", _HERE),
        ("flushSession", "flushSession", _HERE),
        ("eraseSession", "eraseSession", _HERE),
    ),
    "acquireTurn": (
        ("renewTurn", "renewTurn", {**_HERE, "token": _TOKEN}),
        ("releaseTurn", "releaseTurn", {**_HERE, "token": _TOKEN}),
        ("appendUnderTurn", "appendMessages", {**_HERE, f"header.{TURN_HEADER}": _TOKEN}),
        ("readUnderTurn", "readMessages", {**_HERE, f"header.{TURN_HEADER}": _TOKEN}),
        ("clearUnderTurn", "clearMessages", {**_HERE, f"header.{TURN_HEADER}": _TOKEN}),
    ),
    "exportSession": (("importSession", "importSession", {"memory": "$request.path.memory"}),),
}
_EXAMPLES: Final[Mapping[str, Any]] = {
    "AppendResult": {
        "seq": 1,
        "count": 1,
        "duplicate": False,
        "tokens": 5,
        "length": 1,
        "evicted": 0,
        "warnings": [],
        "redacted": 0,
        "withheld": 0,
        "durable": True,
    },
    "ReadAnswer": {"messages": [{"role": "user", "content": "hi"}], "stale": False},
    "TurnGrant": {
        "fence": 1789000000000000,
        "ttl": 30.0,
        "token": "3q2-7wEBAQEBAQEBAQEBAQEBAQEBAQEB",
    },
    "Problem": {
        "type": "urn:holdfast:problem:SessionBusy",
        "title": "Somebody else holds the turn",
        "status": 409,
        "detail": "'team-a/agent-1' holds the turn of this session for another 12.4 s, with 0 in line: "
        "wait longer, or try again",
        "code": "SessionBusy",
        "retryable": True,
        "memory": "team-a/support",
        "session": "user:42",
        "holder": "team-a/agent-1",
        "remaining": 12.4,
        "place": 0,
    },
}
_EVENTS: Final = (
    "event: granted\n"
    'data: {"fence":1789000000000000,"ttl":30.0,"token":"3q2-7wEBAQEBAQEBAQEBAQEBAQEBAQEB"}\n\n:\n\n'
)


def document() -> Schema:
    """Return the document."""
    types = _types()
    _, components = msgspec.json.schema_components(types, ref_template=_REF)
    known = [*vars(wire).values(), *vars(values).values(), Problem]
    by_name = {kind.__name__: kind for kind in known if isinstance(kind, type)}
    parts = {
        name: _tidy(schema, by_name[name], asked="additionalProperties" in schema)
        for name, schema in sorted(components.items())
    }
    for name, example in _EXAMPLES.items():
        parts[name]["examples"] = [example]
    paths: dict[str, Schema] = defaultdict(dict)
    for route in ROUTES:
        paths[route.path][route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Holdfast sidecar",
            "version": "1",
            "description": "Conversation memory for the containers of one pod. Errors are problem "
            "documents (RFC 9457) whose `code` says which one it is; `retryable` says whether a plain "
            "retry may help.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:7070", "description": "In the pod"}],
        "tags": [
            {"name": "messages", "description": "What a conversation holds"},
            {"name": "turns", "description": "The right to answer, held by one at a time"},
            {"name": "sessions", "description": "Whole conversations"},
            {"name": "service", "description": "What is served"},
        ],
        "paths": dict(paths),
        "components": {"schemas": parts},
    }


def _types() -> list[type]:
    found: dict[str, type] = {"Problem": Problem}
    for route in ROUTES:
        for kind in (route.body, route.answer):
            if isinstance(kind, type) and kind not in (str, dict):
                found[kind.__name__] = kind
    return list(found.values())


def _operation(route: Route) -> Schema:
    operation: Schema = {
        "operationId": route.operation,
        "summary": route.summary,
        "tags": [_tag(route)],
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, **_PATH_PARAMETERS[name]}
                for name in _PARAMETER.findall(route.path)
            ),
            *map(_query, route.query),
            *([_TURN] if route.under else []),
            *([_IDEMPOTENCY] if route.keyed else []),
        ],
        "responses": _responses(route),
    }
    if route.body is not None:
        kind = JSON_LINES if route.body is str else JSON
        content: Schema = {"schema": _schema(route.body)}
        if route.example is not None:
            content["example"] = route.example
        operation["requestBody"] = {"required": not route.optional, "content": {kind: content}}
    return operation


def _tag(route: Route) -> str:
    if "/sessions" not in route.path:
        return "service"
    if "/turns" in route.path:
        return "turns"
    part = route.path.partition("{session}")[2]
    return "sessions" if part in ("", "/export", "/import", "/flush") else "messages"


def _query(query: Query) -> Schema:
    schema: Schema = {"type": _TYPES[query.kind]}
    if query.kind is int:
        schema |= {"minimum": query.least, "maximum": query.most}
    elif query.choices:
        schema["enum"] = list(query.choices)
    elif query.kind is str:
        schema |= {"minLength": query.least, "maxLength": query.most}
    if query.many:
        if query.name == "label":
            schema["pattern"] = "^[^:]+:"
        schema = {"type": "array", "items": schema, "maxItems": 16}
    found: Schema = {
        "name": query.name,
        "in": "query",
        "description": query.meaning,
        "schema": schema,
    }
    if query.many:
        found |= {"style": "form", "explode": True}
    if query.example is not None:
        found["example"] = [query.example] if query.many else query.example
    return found


def _responses(route: Route) -> Schema:
    found: Schema = {}
    for kind in route.kinds or (JSON,):
        status = 200 if kind == EVENT_STREAM else route.status
        answer: Schema = {"description": "Done." if route.answer is None else "The answer."}
        if route.answer is not None:
            answer["content"] = {kind: _content(route, kind)}
        if status == 201:
            answer["headers"] = {
                "Location": {"description": "The turn.", "schema": {"type": "string"}}
            }
        links = _LINKS.get(route.operation) if kind != EVENT_STREAM else None
        if links:
            answer["links"] = {
                name: {"operationId": operation, "parameters": dict(parameters)}
                for name, operation, parameters in links
            }
        found[str(status)] = answer
    for status, codes in sorted(_by_status(route.problems).items()):
        answer = {
            "description": ", ".join(f"`{code}`" for code in codes),
            "content": {PROBLEM_JSON: {"schema": _schema(Problem)}},
        }
        if status in (409, 429, 503):
            answer["headers"] = _RETRY
        found[str(status)] = answer
    return found


def _content(route: Route, kind: str) -> Schema:
    if kind == EVENT_STREAM:
        return {"schema": {"type": "string"}, "example": _EVENTS}
    if route.answer is dict:
        return {"schema": {"type": "object"}}
    return {"schema": _schema(route.answer)}


def _by_status(codes: Sequence[str]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for code in sorted(set(codes)):
        found[(KINDS.get(code) or HTTP_KINDS[code]).status].append(code)
    return found


def _schema(kind: Any) -> Schema:
    if kind is str:
        return {"type": "string"}
    return {"$ref": _REF.format(name=kind.__name__)}


def _tidy(schema: Schema, kind: type, *, asked: bool) -> Schema:
    """Describe properties by the attributes of the docstring, and write what may be null shortly.

    Args:
        schema: as msgspec makes it.
        kind: the type.
        asked: it is a part of what clients send, which refuses what it does not know. An answer has
            all of its properties, but for a problem.
    """
    about, attributes = "", dict[str, str]()
    for one in reversed(kind.__mro__[:-1]):
        if one.__doc__ and one.__module__.startswith("holdfast"):
            about, more = _read_docstring(inspect.cleandoc(one.__doc__))
            attributes |= more
    given = cast("dict[str, Schema]", schema.get("properties", {}))
    properties = {name: _short(member) for name, member in given.items()}
    for name, member in properties.items():
        if name in attributes and "$ref" not in member:
            properties[name] = {"description": attributes[name]} | member
        if not asked:
            properties[name].pop("default", None)
    required = schema.get("required", []) if asked or kind is Problem else list(properties)
    rest = {name: value for name, value in schema.items() if name not in ("required", "title")}
    return {**rest, "description": about, "properties": properties, "required": required}


def _short(schema: Schema) -> Schema:
    """Write `anyOf` a type and null as the type with null. In a request null is as good as nothing."""
    choices = cast("list[Schema] | None", schema.get("anyOf"))
    if choices is None or {"type": "null"} not in choices or len(choices) != 2:
        return schema
    other = next(choice for choice in choices if choice != {"type": "null"})
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    if rest.get("default", 0) is None:
        del rest["default"]
    if isinstance(other.get("type"), str):
        return rest | other | {"type": [other["type"], "null"]}
    return rest | {"anyOf": choices}


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Divide a docstring into what it is about and its attributes."""
    about, _, rest = text.partition("\nAttributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in rest.splitlines():
        match = _ATTRIBUTE.match(line.removeprefix("    "))
        if match is not None:
            name = match[1]
            found[name] = match[2]
        elif name and line.strip():
            found[name] += " " + line.strip()
    found = {name: words[:1].upper() + words[1:] for name, words in found.items()}
    return " ".join(about.split()), found


def text() -> str:
    """Return the document as it is committed."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 1 when `check` finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m holdfast_sidecar.openapi")
    parser.add_argument("command", choices=("write", "check"))
    parser.add_argument("--file", type=Path, default=FILE)
    options = parser.parse_args(arguments)
    if options.command == "write":
        options.file.write_text(text(), encoding="utf-8")
        return 0
    if options.file.read_text(encoding="utf-8") == text():
        return 0
    sys.stdout.write(f"{options.file} is not what is defined; run: {parser.prog} write\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
