"""What the operator's metrics are called and mean. Values only."""

from enum import StrEnum
from typing import Final, NamedTuple


class Type(StrEnum):
    """Types of metrics in Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Instrument(NamedTuple):
    """A metric.

    Attributes:
        name: as Prometheus shows it; a counter's ends in `_total`.
        type: of the metric.
        meaning: a sentence for people.
        labels: their names.
    """

    name: str
    type: Type
    meaning: str
    labels: tuple[str, ...] = ()


_MEMORY: Final = ("namespace", "memory")
_BACKEND: Final = ("namespace", "backend")
_BINDING: Final = ("namespace", "binding")

LEADER: Final = Instrument(
    "holdfast_leader", Type.GAUGE, "1 on the operator that acts, 0 on one that waits."
)
EPOCH: Final = Instrument(
    "holdfast_operator_leader_epoch",
    Type.GAUGE,
    "The epoch under which this process leads, or that it saw last.",
)
LOOKS: Final = Instrument(
    "holdfast_operator_reconcile_seconds",
    Type.HISTOGRAM,
    "Seconds that looks at objects took, the write of their status included.",
    ("kind", "step"),
)
FAILURES: Final = Instrument(
    "holdfast_operator_reconcile_failures_total",
    Type.COUNTER,
    "Looks that came to nothing and are repeated.",
    ("kind", "step", "fault"),
)
OBJECTS: Final = Instrument(
    "holdfast_operator_objects",
    Type.GAUGE,
    "Objects by what their conditions say.",
    ("kind", "condition", "status", "reason"),
)
WAITING: Final = Instrument(
    "holdfast_operator_queue_objects",
    Type.GAUGE,
    "Objects that something changed for and that wait for their look.",
    ("kind",),
)
WRITES: Final = Instrument(
    "holdfast_operator_status_writes_total",
    Type.COUNTER,
    "Writes of a status to the API server.",
    ("kind",),
)
API_WRITES: Final = Instrument(
    "holdfast_operator_api_writes_total",
    Type.COUNTER,
    "Requests to the API server that may change something: status, finalizers, events; not the lease.",
    ("method",),
)
SESSIONS: Final = Instrument(
    "holdfast_operator_memory_sessions", Type.GAUGE, "Live sessions of a memory.", _MEMORY
)
MESSAGES: Final = Instrument(
    "holdfast_operator_memory_messages", Type.GAUGE, "Messages in those sessions.", _MEMORY
)
TOKENS: Final = Instrument(
    "holdfast_operator_memory_tokens", Type.GAUGE, "Tokens of those messages.", _MEMORY
)
BYTES: Final = Instrument(
    "holdfast_operator_memory_bytes", Type.GAUGE, "Bytes of those messages.", _MEMORY
)
ROLLOUTS: Final = Instrument(
    "holdfast_operator_rollouts",
    Type.GAUGE,
    "Memories whose live sessions are being brought under an edited policy.",
)
ROLLOUT_LEFT: Final = Instrument(
    "holdfast_operator_rollout_sessions_left",
    Type.GAUGE,
    "Sessions that such a rollout has still to look at; not there without one.",
    _MEMORY,
)
FENCED: Final = Instrument(
    "holdfast_operator_fenced_writes_total",
    Type.COUNTER,
    "Writes that a server refused because a leader with a higher epoch was there.",
    _MEMORY,
)
REPAIRED: Final = Instrument(
    "holdfast_operator_repaired_keys_total",
    Type.COUNTER,
    "Keys that had no expiry or a wrong one, and have the right one now.",
    _MEMORY,
)
ORPHANS: Final = Instrument(
    "holdfast_operator_orphans",
    Type.GAUGE,
    "Key namespaces on a backend whose memory does not exist; never deleted on their own.",
    _BACKEND,
)
SURVEYS_FAILED: Final = Instrument(
    "holdfast_operator_survey_failures_total",
    Type.COUNTER,
    "Steps of looks at all keys of a backend that failed; they are repeated.",
    _BACKEND,
)
ACL_REPAIRS: Final = Instrument(
    "holdfast_operator_acl_repairs_total",
    Type.COUNTER,
    "Users of a server that were not as their bindings say, and are again.",
    _BACKEND,
)
ROTATED: Final = Instrument(
    "holdfast_operator_rotation_timestamp_seconds",
    Type.GAUGE,
    "When the password of a binding was made, in seconds since 1970; its age is `time()` less this.",
    _BINDING,
)
UP: Final = Instrument(
    "holdfast_operator_backend_up",
    Type.GAUGE,
    "1 if the server of a backend answered when it was asked last.",
    _BACKEND,
)
LATENCY: Final = Instrument(
    "holdfast_operator_backend_latency_seconds",
    Type.GAUGE,
    "How long that answer took, in one round trip.",
    _BACKEND,
)
USED: Final = Instrument(
    "holdfast_operator_backend_used_bytes",
    Type.GAUGE,
    "Memory that the server of a backend uses, also for what is not ours.",
    _BACKEND,
)
MOST: Final = Instrument(
    "holdfast_operator_backend_limit_bytes",
    Type.GAUGE,
    "The most that it may use (`maxmemory`); 0 without a limit.",
    _BACKEND,
)

INSTRUMENTS: Final = (
    *(LEADER, EPOCH, LOOKS, FAILURES, OBJECTS, WAITING, WRITES, API_WRITES),
    *(SESSIONS, MESSAGES, TOKENS, BYTES, ROLLOUTS, ROLLOUT_LEFT),
    *(FENCED, REPAIRED, ORPHANS, SURVEYS_FAILED, ACL_REPAIRS, ROTATED),
    *(UP, LATENCY, USED, MOST),
)

HEAD: Final = """
## The operator

<!-- This part is written by `python -m holdfast_operator.metrics write`; do not edit. -->

The operator shows these at `/metrics` of its health server (see [operator.md](operator.md)), and the usual
`process_*` of its process. Those of objects are shown by the replica that leads; a standby shows
`holdfast_leader 0` and no objects.

| metric | type | labels | meaning |
|---|---|---|---|"""

NOTES: Final = """
`kind` is the plural name of the resource; `step` is `reconcile` or `finalize`; `fault` is `Conflict` (the
object changed meanwhile), `APIServer` (it did not answer, or refused) or `Unexpected` (a bug: see the log).
`condition` and `reason` are those of [reasons.md](reasons.md). `memory`, `backend` and `binding` are the
namespace and the name of the object with a slash between them, as in the library's metrics; `namespace` is
the namespace alone, to sum by. Prometheus renames that one to `exported_namespace` unless it scrapes with
`honor_labels: true`.

What a memory holds is as of its last measurement, at most about five minutes ago; after a start it is as
its status says, until it was measured.
"""
