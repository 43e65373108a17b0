"""The operator's metrics for Prometheus.

python -m holdfast_operator.metrics write     writes the operator's part of `docs/metrics.md`
python -m holdfast_operator.metrics check     says whether it differs from what is defined here, and fails
"""

import argparse
import sys
from collections import Counter as Tally
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol, cast

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from holdfast.metrics import PART, SIDECAR_PART
from holdfast.store.maintenance import ServerInfo, Totals
from holdfast_operator import instruments as of
from holdfast_operator.instruments import INSTRUMENTS, Instrument, Type
from holdfast_operator.reasons import ConditionType, PolicyReason
from holdfast_operator.services.objects import mapping, mappings
from holdfast_operator.services.observing import Fault, Named, Step
from holdfast_operator.services.ports import Body
from holdfast_operator.storage.mirror import Key, Kind

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bounds of the buckets of the histogram: from a look that finds nothing to one that waits for a server."""

_Series = Iterator[tuple[tuple[str, ...], float]]


class Objects(Protocol):
    """The objects as they were seen last; see `storage.mirror.Mirror`. Asked from another thread."""

    def bodies(self) -> Sequence[tuple[Key, Body]]:
        """Return every object."""
        ...


class Leader(Protocol):
    """See `elector.Elector`."""

    @property
    def leads(self) -> bool:
        """Whether this process leads now."""
        ...

    @property
    def epoch(self) -> int:
        """The epoch of this leader."""
        ...


class OperatorMetrics:
    """Keeps the operator's metrics: an `Observer`, and a page for scrapes.

    Levels are read at each scrape: off the objects that are watched, where they say it, else from what was
    told last. A series goes with its object.

    Args:
        objects: the objects that are watched.
        waiting: how many objects of each kind wait for a look.
        leader: this process.
    """

    def __init__(
        self, objects: Objects, waiting: Callable[[], Mapping[Kind, int]], leader: Leader
    ) -> None:
        self._objects = objects
        self._waiting = waiting
        self._leader = leader
        self._servers: dict[Named, tuple[float, ServerInfo] | None] = {}
        self._totals: dict[Named, Totals] = {}
        self._orphans: dict[Named, int] = {}
        self._rotated: dict[Named, float] = {}
        self._registry = CollectorRegistry()
        self._looks = Histogram(
            of.LOOKS.name,
            of.LOOKS.meaning,
            of.LOOKS.labels,
            registry=self._registry,
            buckets=SECONDS,
        )
        self._failures = self._counter(of.FAILURES)
        self._writes = self._counter(of.WRITES)
        self._api_writes = self._counter(of.API_WRITES)
        self._fenced = self._counter(of.FENCED)
        self._repaired = self._counter(of.REPAIRED)
        self._acl = self._counter(of.ACL_REPAIRS)
        self._surveys_failed = self._counter(of.SURVEYS_FAILED)
        ProcessCollector(registry=self._registry)
        self._registry.register(_Levels(self._levels))

    def page(self) -> bytes:
        """Return the metrics as text; from any thread."""
        return generate_latest(self._registry)

    @property
    def registry(self) -> CollectorRegistry:
        """Where they are shown."""
        return self._registry

    def looked(self, kind: str, step: Step, seconds: float, fault: Fault, /) -> None:
        """Count a look."""
        self._looks.labels(kind, step.value).observe(seconds)
        if fault is not Fault.NONE:
            self._failures.labels(kind, step.value, fault.value).inc()

    def wrote(self, method: str) -> None:
        """Count a request to the API server that may change something; from Kopf's session and ours."""
        self._api_writes.labels(method).inc()

    def status_written(self, kind: str, /) -> None:
        """Count a write of a status."""
        self._writes.labels(kind).inc()

    def server_answered(self, backend: Named, seconds: float, info: ServerInfo, /) -> None:
        """Remember what a server said of itself."""
        self._servers[backend] = (seconds, info)

    def server_failed(self, backend: Named, /) -> None:
        """Remember that a server did not answer."""
        self._servers[backend] = None

    def measured(self, memory: Named, totals: Totals, /) -> None:
        """Remember what a memory holds."""
        self._totals[memory] = totals

    def fenced(self, memory: Named, /) -> None:
        """Count a write that was refused."""
        self._fenced.labels(*_of(memory)).inc()

    def repaired(self, memory: Named, keys: int, /) -> None:
        """Count keys that had a wrong expiry."""
        self._repaired.labels(*_of(memory)).inc(keys)

    def orphans(self, backend: Named, count: int, /) -> None:
        """Remember how many key namespaces have no memory."""
        self._orphans[backend] = count

    def survey_failed(self, backend: Named, /) -> None:
        """Count a step of a survey that failed."""
        self._surveys_failed.labels(*_of(backend)).inc()

    def acl_repaired(self, backend: Named, users: int, /) -> None:
        """Count users that were not as their bindings say."""
        self._acl.labels(*_of(backend)).inc(users)

    def rotated(self, binding: Named, at: datetime | None, /) -> None:
        """Remember since when a password is used."""
        if at is None:
            self._rotated.pop(binding, None)
        else:
            self._rotated[binding] = at.timestamp()

    def _counter(self, instrument: Instrument) -> Counter:
        return Counter(
            instrument.name, instrument.meaning, instrument.labels, registry=self._registry
        )

    def _levels(self) -> Iterator[tuple[Instrument, _Series]]:
        bodies = self._objects.bodies()
        memories = {_named(key): body for key, body in bodies if key.kind is Kind.RESOURCE}
        backends = {_named(key) for key, _ in bodies if key.kind is Kind.BACKEND}
        self._forget(memories.keys(), backends)
        yield of.LEADER, iter([((), float(self._leader.leads))])
        yield of.EPOCH, iter([((), float(self._leader.epoch))])
        yield of.OBJECTS, _conditions(bodies)
        yield of.WAITING, (((kind.value,), count) for kind, count in self._waiting().items())
        usage = {name: self._usage(name, body) for name, body in memories.items()}
        for place, instrument in enumerate((of.SESSIONS, of.MESSAGES, of.TOKENS, of.BYTES)):
            yield instrument, _picked(usage, place)
        left = dict(_rollouts(memories))
        yield of.ROLLOUTS, iter([((), float(len(left)))])
        yield of.ROLLOUT_LEFT, ((_of(name), count) for name, count in left.items())
        servers = dict(self._servers)
        yield of.UP, ((_of(name), float(found is not None)) for name, found in servers.items())
        answers = [(_of(name), *found) for name, found in servers.items() if found is not None]
        yield of.LATENCY, ((labels, seconds) for labels, seconds, _ in answers)
        yield of.USED, ((labels, info.used_memory) for labels, _, info in answers)
        yield of.MOST, ((labels, info.max_memory) for labels, _, info in answers)
        yield of.ORPHANS, ((_of(name), count) for name, count in list(self._orphans.items()))
        yield of.ROTATED, ((_of(name), at) for name, at in list(self._rotated.items()))

    def _forget(self, memories: Collection[Named], backends: Collection[Named]) -> None:
        """Drop what was told of objects that are gone."""
        for told in (self._servers, self._orphans):
            for name in [name for name in list(told) if name not in backends]:
                told.pop(name, None)
        for name in [name for name in list(self._totals) if name not in memories]:
            self._totals.pop(name, None)

    def _usage(self, memory: Named, body: Body) -> Totals | None:
        """Return what a memory holds: as measured by this process, else as status says."""
        measured = self._totals.get(memory)
        if measured is not None:
            return measured
        usage = mapping(mapping(body.get("status")).get("usage"))
        found = [usage.get(name) for name in Totals._fields]
        return Totals(*cast("list[int]", found)) if all(isinstance(n, int) for n in found) else None


class _Levels(Collector):
    """Shows levels that are computed at each scrape."""

    def __init__(self, levels: Callable[[], Iterable[tuple[Instrument, _Series]]]) -> None:
        self._levels = levels

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Name the metrics, without computing any."""
        return [_family(item) for item in INSTRUMENTS if item.type is Type.GAUGE]

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Compute and show them."""
        for instrument, series in self._levels():
            family = _family(instrument)
            for labels, value in series:
                family.add_metric(labels, value)
            yield family


def _family(instrument: Instrument) -> GaugeMetricFamily:
    return GaugeMetricFamily(instrument.name, instrument.meaning, labels=instrument.labels)


def _conditions(bodies: Sequence[tuple[Key, Body]]) -> _Series:
    found: Tally[tuple[str, ...]] = Tally()
    for key, body in bodies:
        for condition in mappings(mapping(body.get("status")).get("conditions")):
            found[
                key.kind.value, *(str(condition.get(of)) for of in ("type", "status", "reason"))
            ] += 1
    return iter(found.items())


def _rollouts(memories: Mapping[Named, Body]) -> Iterator[tuple[Named, float]]:
    """Name the memories whose policy is being rolled out, with the sessions left to do."""
    for name, body in memories.items():
        status = mapping(body.get("status"))
        if any(
            condition.get("type") == ConditionType.POLICY_APPLIED.value
            and condition.get("reason") == PolicyReason.ROLLING_OUT.value
            for condition in mappings(status.get("conditions"))
        ):
            rollout = mapping(status.get("rollout"))
            yield name, float(rollout.get("total") or 0) - float(rollout.get("done") or 0)


def _picked(usage: Mapping[Named, Totals | None], place: int) -> _Series:
    for name, totals in usage.items():
        if totals is not None:
            yield _of(name), float(totals[place])


def _named(key: Key) -> Named:
    return Named(key.namespace, key.name)


def _of(name: Named) -> tuple[str, str]:
    return name.namespace, f"{name.namespace}/{name.name}"


def document() -> str:
    """Return the operator's part of `docs/metrics.md`."""
    rows = [
        f"| `{item.name}` | {item.type.value} | {', '.join(f'`{label}`' for label in item.labels)} "
        f"| {item.meaning} |"
        for item in INSTRUMENTS
    ]
    return "\n".join([of.HEAD, *rows, of.NOTES])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 1 when `check` finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m holdfast_operator.metrics")
    parser.add_argument("command", choices=("write", "check"))
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="default: docs")
    options = parser.parse_args(arguments)
    path: Path = options.docs / "metrics.md"
    library, mark, rest = path.read_text(encoding="utf-8").partition(PART)
    found, *others = rest.partition(SIDECAR_PART)
    if options.command == "write":
        path.write_text(library + PART + document() + "".join(others), encoding="utf-8")
        return 0
    if mark and found == document():
        return 0
    sys.stdout.write(
        f"{path} is not what is defined; run: python -m holdfast_operator.metrics write\n"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
