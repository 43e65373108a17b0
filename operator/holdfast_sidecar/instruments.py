"""Metrics of the HTTP side; `docs/metrics.md` has them, the library's own are `holdfast.metrics`.

python -m holdfast_sidecar.instruments write     writes their part of `docs/metrics.md`
python -m holdfast_sidecar.instruments check     says whether it differs from what is defined here, and fails
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdfast.metrics import SECONDS, SIDECAR_PART, Metric

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Histogram

REQUESTS: Final = Metric(
    "holdfast_http_request_seconds",
    "Seconds until a request was answered, or its stream had ended; 499 is a client that went away.",
)
CONNECTIONS: Final = Metric("holdfast_http_connections", "Open connections of the data listeners.")
ACTIVE: Final = Metric("holdfast_http_requests", "Requests in work, streams included.")
HELD: Final = Metric("holdfast_http_turns", "Turns that clients hold.")
WAITING: Final = Metric("holdfast_http_turns_waiting", "Clients that wait for a turn.")
GAUGES: Final = (CONNECTIONS, ACTIVE, HELD, WAITING)


class HttpInstruments:
    """Keeps the metrics of requests.

    Args:
        registry: where they are shown.
    """

    def __init__(self, registry: "CollectorRegistry") -> None:
        import prometheus_client  # noqa: PLC0415 - with the first registry

        self._registry = registry
        self._requests = prometheus_client.Histogram(
            REQUESTS.name,
            REQUESTS.meaning,
            ["operation", "status"],
            registry=registry,
            buckets=SECONDS,
        )
        self._known: dict[tuple[str, int], Histogram] = {}

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """Observe a request."""
        one = self._known.get((operation, status))
        if one is None:
            one = self._known[operation, status] = self._requests.labels(operation, str(status))
        one.observe(seconds)

    def watch(self, metric: Metric, level: Callable[[], float]) -> None:
        """Show a level, which is asked for with each look at the metrics."""
        import prometheus_client  # noqa: PLC0415 - with the first registry

        prometheus_client.Gauge(metric.name, metric.meaning, registry=self._registry).set_function(
            level
        )


def document() -> str:
    """Return the sidecar's part of `docs/metrics.md`."""
    rows = [
        f"| `{REQUESTS.name}` | histogram | `operation`, `status` | {REQUESTS.meaning} |",
        *(f"| `{metric.name}` | gauge | | {metric.meaning} |" for metric in GAUGES),
    ]
    return "\n".join(
        [
            "\n## The sidecar's metrics\n",
            "The status listener of a sidecar serves the library's metrics, and these. `operation` is",
            "an `operationId` of the OpenAPI document, `mcp`, or `other`; `status` is the HTTP status.\n",
            "| metric | type | labels | meaning |\n|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 1 when `check` finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m holdfast_sidecar.instruments")
    parser.add_argument("command", choices=("write", "check"))
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="default: docs")
    options = parser.parse_args(arguments)
    path: Path = options.docs / "metrics.md"
    before, mark, found = path.read_text(encoding="utf-8").partition(SIDECAR_PART)
    if options.command == "write":
        path.write_text(before + SIDECAR_PART + document(), encoding="utf-8")
        return 0
    if mark and found == document():
        return 0
    sys.stdout.write(f"{path} lacks what is defined; run: {parser.prog} write\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
