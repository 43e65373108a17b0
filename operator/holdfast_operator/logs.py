"""Logs: for people as text, for machines as one JSON object a line.

A record about an object carries `k8s_ref`, as Kopf's own do, and perhaps `revision`; see `about`.
"""

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast

from holdfast_operator.services.objects import mapping

_SEVERITIES: Final = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warn",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}
_REFERENCE: Final = ("kind", "namespace", "name")


def about(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `extra` of a record about an object: which it is, and the policy revision it shows."""
    metadata = mapping(body.get("metadata"))
    reference = {
        "apiVersion": body.get("apiVersion"),
        "kind": body.get("kind"),
        "namespace": metadata.get("namespace"),
        "name": metadata.get("name"),
        "uid": metadata.get("uid"),
    }
    extra: dict[str, Any] = {"k8s_ref": reference}
    revision = mapping(body.get("status")).get("policyRevision")
    if revision is not None:
        extra["revision"] = revision
    return extra


class JsonLines(logging.Formatter):
    """Formats a record as a JSON object on one line.

    Fields: `timestamp`, `severity`, `logger`, `message`; of a record about an object also `object` (its
    reference), `kind`, `namespace`, `name`, and `revision` where it has one; `exception` with a traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "severity": _SEVERITIES.get(record.levelno, record.levelname.lower()),
            "logger": record.name,
            "message": record.getMessage(),
        }
        reference: object = getattr(record, "k8s_ref", None)
        if isinstance(reference, dict):
            named = cast("dict[str, Any]", reference)
            fields["object"] = {key: value for key, value in named.items() if value is not None}
            fields |= {key: named[key] for key in _REFERENCE if named.get(key) is not None}
        revision: object = getattr(record, "revision", None)
        if revision is not None:
            fields["revision"] = revision
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)


def say_last(message: str) -> None:
    """Write an error as the logs would, past their locks: the thread that holds one may be stuck."""
    record = logging.LogRecord("holdfast.operator", logging.ERROR, "", 0, message, None, None)
    handlers = logging.getLogger().handlers
    text = handlers[0].format(record) if handlers else message
    os.write(2, f"{text}\n".encode())
