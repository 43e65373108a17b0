"""What the OpenAPI document says of a request."""

import re
from collections.abc import Mapping
from typing import Any


class Document:
    """The document, as the sidecar gives it out."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._paths = [
            (re.compile(re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(path))), item)
            for path, item in document["paths"].items()
        ]

    def statuses(self, method: str, path: str) -> set[int]:
        """The statuses that a request may be answered with."""
        for pattern, item in self._paths:
            if pattern.fullmatch(path) and method.lower() in item:
                return set(map(int, item[method.lower()]["responses"]))
        raise LookupError(f"the document has no {method} {path}")
