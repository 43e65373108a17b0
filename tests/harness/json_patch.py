"""Applying a JSON Patch (RFC 6902) of additions, as an API server does."""

import copy
from collections.abc import Iterable
from typing import Any


def applied(body: dict[str, Any], operations: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return what becomes of a document. A path into what is not there is an error."""
    result: Any = copy.deepcopy(body)
    for operation in operations:
        assert operation["op"] == "add", operation
        *parents, last = [
            part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
        ]
        place = result
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        value = copy.deepcopy(operation["value"])
        if isinstance(place, dict):
            place[last] = value
        elif last == "-":
            place.append(value)
        else:
            assert int(last) <= len(place), operation
            place.insert(int(last), value)
    return result
