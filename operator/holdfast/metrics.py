"""Metrics for Prometheus; `pip install 'holdfast[metrics]'`.

python -m holdfast.metrics write     writes `docs/metrics.md`
python -m holdfast.metrics check     says whether it differs from what is defined here, and fails
"""

import argparse
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from holdfast.breaker import BreakerState
from holdfast.errors import ConfigurationError
from holdfast.telemetry import (
    OUTCOMES,
    Call,
    Counted,
    Loss,
    Measured,
    Quota,
    Retry,
    Rule,
)
from holdfast.tracing import ATTRIBUTES, EVENTS, Attribute
from holdfast.values import MemoryAddress

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

    Instrument: TypeAlias = Counter | Gauge | Histogram

SECONDS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 120.0),
)
"""Bounds of the buckets of every histogram: from a round trip to a model's summary."""


class Metric(NamedTuple):
    """A metric.

    Attributes:
        name: as Prometheus shows it; a counter's ends in `_total`.
        meaning: a sentence for people.
        label: its own label beside `memory`; empty without one.
        per_memory: whether it has the label `memory`.
    """

    name: str
    meaning: str
    label: str = ""
    per_memory: bool = True


CALLS: Final = Metric("holdfast_call_seconds", "Seconds that calls of the library took.", "outcome")
TURNS: Final = {
    Call.WAIT: Metric(
        "holdfast_turn_wait_seconds",
        "Seconds until a turn was granted, or was given up waiting for.",
        "outcome",
    ),
    Call.HOLD: Metric(
        "holdfast_turn_hold_seconds",
        "Seconds for which turns were held, seen when they are left.",
        "outcome",
    ),
}
COUNTERS: Final = {
    Counted.MESSAGES: Metric("holdfast_messages_appended_total", "Messages that were stored."),
    Counted.TOKENS: Metric("holdfast_tokens_appended_total", "Tokens of the messages stored."),
    Counted.DUPLICATES: Metric(
        "holdfast_duplicate_appends_total",
        "Appends whose id was known, so that nothing was stored again.",
    ),
    Counted.EVICTED: Metric(
        "holdfast_messages_evicted_total",
        "Messages that left a session, by the rule that took them.",
        "rule",
    ),
    Counted.SUMMARIES: Metric(
        "holdfast_summaries_total", "Summaries that took the place of messages."
    ),
    Counted.REDACTED: Metric(
        "holdfast_values_redacted_total",
        "Values and parts of texts that were replaced before anything was sent.",
    ),
    Counted.WITHHELD: Metric(
        "holdfast_messages_withheld_total", "Messages whose content was not stored."
    ),
    Counted.UNRECOGNISED: Metric(
        "holdfast_messages_unrecognised_total",
        "Messages stored that no format could read; their tokens are those of their JSON text.",
    ),
    Counted.UNCONFIRMED: Metric(
        "holdfast_appends_unconfirmed_total",
        "Appends that fewer replicas confirmed in time than were asked for.",
    ),
    Counted.REBUILT: Metric(
        "holdfast_sessions_rebuilt_total",
        "Times that records had vanished from the store and the session's counters were rebuilt.",
    ),
    Counted.CORRUPT: Metric(
        "holdfast_records_corrupt_total",
        "Records met by reads that could not be read, again at each read.",
    ),
    Counted.TURNS_LOST: Metric(
        "holdfast_turns_lost_total", "Turns that were lost while they were held.", "reason"
    ),
    Counted.RETRIES: Metric(
        "holdfast_retries_total",
        "Commands that were sent to the store again.",
        "reason",
        per_memory=False,
    ),
}
GAUGES: Final = {
    Measured.REVISION: Metric(
        "holdfast_policy_revision",
        "Revision of the policy in force; 0 for one that was given as an argument.",
    ),
    Measured.QUOTA_USED: Metric(
        "holdfast_quota_used",
        "How much of a quota is used, as far as this process knows; not there while unknown.",
        "quota",
    ),
    Measured.QUOTA_SOFT: Metric("holdfast_quota_soft", "The quota's soft bound, if any.", "quota"),
    Measured.QUOTA_HARD: Metric("holdfast_quota_hard", "The quota's hard bound, if any.", "quota"),
    Measured.BREAKERS: Metric(
        "holdfast_breakers",
        "Circuit breakers by state, one for each server; of the client whose breakers changed last.",
        "state",
        per_memory=False,
    ),
}
LABELS: Final[tuple[tuple[type[StrEnum], tuple[Metric, ...]], ...]] = (
    (Rule, (COUNTERS[Counted.EVICTED],)),
    (Loss, (COUNTERS[Counted.TURNS_LOST],)),
    (Retry, (COUNTERS[Counted.RETRIES],)),
    (
        Quota,
        (
            GAUGES[Measured.QUOTA_USED],
            GAUGES[Measured.QUOTA_SOFT],
            GAUGES[Measured.QUOTA_HARD],
        ),
    ),
    (BreakerState, (GAUGES[Measured.BREAKERS],)),
)
"""The closed values of the labels that a metric has of its own, and which metrics those are."""


class PrometheusObserver:
    """Keeps the metrics of `docs/metrics.md`. One is enough for all clients of a process.

    Args:
        registry: where the metrics are shown; None is the default one of `prometheus_client`.

    Raises:
        ConfigurationError: `prometheus_client` is not installed, or the registry shows these metrics for
            another observer.
    """

    def __init__(self, registry: "CollectorRegistry | None" = None) -> None:
        try:
            import prometheus_client  # noqa: PLC0415 - only who asks needs it
        except ImportError:
            raise ConfigurationError(
                "metrics need prometheus_client: pip install 'holdfast[metrics]'"
            ) from None
        where = prometheus_client.REGISTRY if registry is None else registry

        def histogram(metric: Metric, labels: Sequence[str]) -> "Histogram":
            return prometheus_client.Histogram(
                metric.name, metric.meaning, labels, registry=where, buckets=SECONDS
            )

        try:
            self._calls = histogram(CALLS, ["memory", "call", "outcome"])
            self._turns = {
                call: histogram(metric, labels_of(metric)) for call, metric in TURNS.items()
            }
            self._counters = {
                what: prometheus_client.Counter(
                    metric.name, metric.meaning, labels_of(metric), registry=where
                )
                for what, metric in COUNTERS.items()
            }
            self._gauges = {
                what: prometheus_client.Gauge(
                    metric.name, metric.meaning, labels_of(metric), registry=where
                )
                for what, metric in GAUGES.items()
            }
            # Looking a series up by its labels takes longer than counting.
            self._series: dict[tuple[Call, MemoryAddress, str], Histogram] = {}
            self._counts: dict[tuple[Counted, MemoryAddress | None, str], Counter] = {}
        except ValueError:
            raise ConfigurationError(
                "the registry has these metrics already: make one PrometheusObserver and give it to all "
                "clients"
            ) from None

    def begun(self, call: Call, memory: MemoryAddress, /) -> object:
        """Nothing: calls are counted when they end."""

    def ended(
        self,
        call: Call,
        memory: MemoryAddress,
        outcome: str,
        seconds: float,
        begun: object,  # noqa: ARG002 - the protocol's
        /,
    ) -> None:
        """Observe how long a call took."""
        key = (call, memory, outcome)
        series = self._series.get(key)
        if series is None:
            turns = self._turns.get(call)
            series = self._series[key] = (
                turns.labels(str(memory), outcome)
                if turns is not None
                else self._calls.labels(str(memory), call.value, outcome)
            )
        series.observe(seconds)

    def counted(
        self, what: Counted, memory: MemoryAddress | None, amount: int, label: str, /
    ) -> None:
        """Raise a counter."""
        key = (what, memory, label)
        counter = self._counts.get(key)
        if counter is None:
            counter, values = self._counters[what], _values(memory, label)
            counter = self._counts[key] = counter.labels(*values) if values else counter
        counter.inc(amount)

    def measured(
        self, what: Measured, memory: MemoryAddress | None, value: float | None, label: str, /
    ) -> None:
        """Set a gauge, or take its series away."""
        gauge, values = self._gauges[what], _values(memory, label)
        if value is not None:
            gauge.labels(*values).set(value)
        else:
            gauge.labels(*values)  # so that there is one to take away
            gauge.remove(*values)


def labels_of(metric: Metric) -> list[str]:
    """Return the names of a metric's labels, but for `call`."""
    return [*(["memory"] if metric.per_memory else []), *([metric.label] if metric.label else [])]


def _values(memory: MemoryAddress | None, label: str) -> list[str]:
    return [*([] if memory is None else [str(memory)]), *([str(label)] if label else [])]


PART: Final = "\n<!-- What follows is the operator's: this program leaves it as it is. -->\n"
"""Where the library's part of the document ends."""
SIDECAR_PART: Final = (
    "\n<!-- What follows is the sidecar's: other programs leave it as it is. -->\n"
)
"""Where the operator's part ends."""

_HEAD: Final = """\
# Metrics and spans

<!-- Written by `python -m holdfast.metrics write`; do not edit. -->

The library reports nothing unless you pass observers:

```python
import holdfast
from holdfast.metrics import PrometheusObserver  # pip install '.[metrics]'
from holdfast.tracing import OpenTelemetryObserver  # pip install '.[tracing]'

observers = [PrometheusObserver(), OpenTelemetryObserver()]
client = holdfast.connect(observers=observers)
```

Otherwise neither package is imported. `PrometheusObserver(registry)` and
`OpenTelemetryObserver(tracer_provider)` take your own; one of each serves all clients of a process. To
write an observer yourself, implement `holdfast.telemetry.Observer`.

No metric and no span contains a session, a person, content, an id, or the message of an error. The label
`memory` is the namespace and the name of the MemoryResource with a slash between them. All other labels
take only the values below.
"""


def document() -> str:
    """Return `docs/metrics.md`, but for the operator's part."""
    counted = [item for item in Call if item not in TURNS]
    parts = [
        _HEAD,
        "## Metrics\n",
        "| metric | type | labels | meaning |\n|---|---|---|---|",
        _row(CALLS, "histogram", ["memory", "call", "outcome"]),
        *(_row(metric, "histogram", labels_of(metric)) for metric in TURNS.values()),
        *(_row(metric, "counter", labels_of(metric)) for metric in COUNTERS.values()),
        *(_row(metric, "gauge", labels_of(metric)) for metric in GAUGES.values()),
        f"\nThe buckets of the histograms end at {', '.join(f'{s:g}' for s in SECONDS)} seconds.\n",
        "## Labels\n",
        "| label | of | values |\n|---|---|---|",
        f"| `call` | `{CALLS.name}` | {_list(counted)} |",
        f"| `outcome` | all histograms | {_list(OUTCOMES)} |",
        *(
            f"| `{of[0].label}` | {_list([metric.name for metric in of])} | {_list(tuple(values))} |"
            for values, of in LABELS
        ),
        _NOTES,
        _spans(),
    ]
    return "\n".join(parts)


_NOTES: Final = """
`ok` is a call that returned, `Cancelled` one whose task was cancelled, and `Error` one that raised an
exception that is not the library's; the others are the `code` of the error. A read in a turn that somebody
else took counts as `LeaseLost`, even if it then raises `TurnInterrupted`. A call that is refused because of
its arguments is not counted.

`flush` also counts flushes that an append starts in the background. `rule` is `Limit` for what an append
dropped to stay within the limit; the other values come from flushes. `reason` of a retry: the reply was
`lost`; the server was `unreachable`; the `scripts` were not loaded; the `server` could not serve for a
moment (it was loading, moving a slot, or no primary). What a client reads on its own, such as the policy,
does not count as a call, but its retries count.
"""

_SPANS: Final = """\
## Spans

Each call makes one span of kind CLIENT, named by the call and the memory with a space between them;
`hold`, `flush` and `summarize` are of kind INTERNAL. `wait` is the time waiting for a turn. `hold` is made
when a turn is left, and covers all of it; the calls within are its siblings. The status is ERROR for
everything but `ok`. Names follow OpenTelemetry's semantic conventions where these have one.
"""


def _spans() -> str:
    lines = [
        _SPANS,
        "| attribute | meaning | values |\n|---|---|---|",
        *(_attribute(item) for item in ATTRIBUTES),
        "",
        "| event | attribute | meaning | values |\n|---|---|---|---|",
        *(
            f"| `{event}` {_attribute(item)}"
            for event, attributes in EVENTS.items()
            for item in attributes
        ),
    ]
    return "\n".join(lines) + "\n"


def _attribute(item: Attribute) -> str:
    return f"| `{item.name}` | {item.meaning} | {_list(item.values)} |"


def _row(metric: Metric, kind: str, labels: Sequence[str]) -> str:
    return f"| `{metric.name}` | {kind} | {_list(labels)} | {metric.meaning} |"


def _list(values: Sequence[str]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 1 when `check` finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m holdfast.metrics")
    parser.add_argument("command", choices=("write", "check"))
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="default: docs")
    options = parser.parse_args(arguments)
    path: Path = options.docs / "metrics.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found, mark, rest = text.partition(PART)
    if options.command == "write":
        path.write_text(document() + mark + rest, encoding="utf-8")
        return 0
    if found == document():
        return 0
    sys.stdout.write(f"{path} is not what is defined; run: python -m holdfast.metrics write\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
