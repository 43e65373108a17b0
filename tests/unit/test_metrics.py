"""The metrics: each moves when it should, under closed labels, and the document says what there is."""

import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from holdfast import metrics
from holdfast.breaker import BreakerState
from holdfast.errors import ConfigurationError
from holdfast.metrics import (
    CALLS,
    COUNTERS,
    GAUGES,
    LABELS,
    TURNS,
    Metric,
    PrometheusObserver,
    labels_of,
)
from holdfast.telemetry import OUTCOMES, Call, Counted, Measured, Observer, Retry, Telemetry
from tests.harness.observed_work import (
    MARKERS,
    MEMORY,
    NAME,
    SESSION,
    call_everything,
    client_of,
    fail_in_every_way,
    interrupt,
    store_what_is_screened,
    user,
)

ROOT = Path(__file__).parents[2]
ALL = [CALLS, *TURNS.values(), *COUNTERS.values(), *GAUGES.values()]
WHERE = {"memory": "team-a/support"}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, {**WHERE, **labels})


async def work(observer: Observer) -> None:
    """Make everything happen that can in one process without a server."""
    quotas = {"tokens": {"soft": 90_000, "hard": 100_000}}
    async with client_of(observer, locking={"onBusy": "Interrupt"}) as client:
        await interrupt(client, lambda turn: turn.append(user()))
    async with client_of(observer, quotas=quotas) as client:
        session = client.memory(NAME).session(SESSION)
        await call_everything(session)
        await fail_in_every_way(session)
        await session.clear()
        await store_what_is_screened(session)
    Telemetry([observer]).retried(Retry.LOST)
    Telemetry([observer]).breakers(BreakerState.OPEN, 1)


@pytest.mark.asyncio
async def test_each_metric_moves_when_it_should(registry: CollectorRegistry) -> None:
    await work(PrometheusObserver(registry))

    def calls(call: Call, outcome: str) -> float | None:
        return value(registry, "holdfast_call_seconds_count", call=call, outcome=outcome)

    assert calls(Call.APPEND_MANY, "ok") == 2
    assert calls(Call.HEALTH, "ok") == 1
    assert calls(Call.PIN, "RecordNotFound") == 1
    assert calls(Call.APPEND, "IdempotencyConflict") == 1
    assert calls(Call.APPEND, "TurnInterrupted") == 1
    assert calls(Call.WAIT, "ok") is None
    assert value(registry, "holdfast_turn_wait_seconds_count", outcome="SessionBusy") == 1
    assert value(registry, "holdfast_turn_wait_seconds_count", outcome="Cancelled") == 1
    assert value(registry, "holdfast_turn_hold_seconds_count", outcome="LeaseLost") == 1
    assert value(registry, "holdfast_turn_hold_seconds_count", outcome="TurnInterrupted") == 1
    assert value(registry, "holdfast_turns_lost_total", reason="lost") == 1
    assert value(registry, "holdfast_turns_lost_total", reason="interrupted") == 1
    assert value(registry, "holdfast_messages_appended_total") == 13
    assert (value(registry, "holdfast_tokens_appended_total") or 0) > 13
    assert (value(registry, "holdfast_messages_evicted_total", rule="Limit") or 0) >= 2
    assert value(registry, "holdfast_duplicate_appends_total") == 1
    assert value(registry, "holdfast_values_redacted_total") == 1
    assert value(registry, "holdfast_messages_withheld_total") == 1
    assert value(registry, "holdfast_messages_unrecognised_total") == 1
    assert value(registry, "holdfast_policy_revision") == 7
    assert (value(registry, "holdfast_quota_used", quota="tokens") or 0) >= 30
    assert value(registry, "holdfast_quota_soft", quota="tokens") == 90_000
    assert value(registry, "holdfast_quota_hard", quota="tokens") == 100_000
    assert value(registry, "holdfast_quota_used", quota="bytes") is None
    assert registry.get_sample_value("holdfast_retries_total", {"reason": "lost"}) == 1
    assert registry.get_sample_value("holdfast_breakers", {"state": "open"}) == 1


@pytest.mark.asyncio
async def test_labels_are_closed_and_name_no_person(registry: CollectorRegistry) -> None:
    await work(PrometheusObserver(registry))
    own = {metric.label: set(values) for values, of in LABELS for metric in of}
    closed: dict[str, set[str]] = {
        **own,
        "memory": set(WHERE.values()),
        "call": set(Call),
        "outcome": set(OUTCOMES),
        "reason": {"lost", "interrupted", "unreachable", "scripts", "server"},
    }
    for family in registry.collect():
        for sample in family.samples:
            for label, found in sample.labels.items():
                if label != "le":
                    assert found in closed[label], (sample.name, label)
    shown = generate_latest(registry).decode()
    assert 'memory="team-a/support"' in shown
    for marker in MARKERS:
        assert marker not in shown


def test_every_count_and_every_level_has_a_metric_with_the_labels_it_comes_with(
    registry: CollectorRegistry,
) -> None:
    observer = PrometheusObserver(registry)
    label = {metric: next(iter(values)) for values, of in LABELS for metric in of}
    assert set(COUNTERS) == set(Counted)
    assert set(GAUGES) == set(Measured)
    for what, metric in COUNTERS.items():
        observer.counted(what, MEMORY if metric.per_memory else None, 3, label.get(metric, ""))
        assert sample(registry, metric, label) == 3
    for what, metric in GAUGES.items():
        observer.measured(what, MEMORY if metric.per_memory else None, 4, label.get(metric, ""))
        assert sample(registry, metric, label) == 4


def sample(registry: CollectorRegistry, metric: Metric, label: dict[Metric, str]) -> float | None:
    labels = {**(WHERE if metric.per_memory else {})}
    if metric.label:
        labels[metric.label] = label[metric]
    return registry.get_sample_value(metric.name, labels)


def test_a_level_that_is_gone_is_no_longer_shown(registry: CollectorRegistry) -> None:
    observer = PrometheusObserver(registry)
    telemetry = Telemetry([observer], MEMORY)
    telemetry.agreed(1, [("bytes", 10, None, 20)])
    assert value(registry, "holdfast_quota_used", quota="bytes") == 10
    assert value(registry, "holdfast_quota_soft", quota="bytes") is None
    telemetry.agreed(2, [])
    assert value(registry, "holdfast_quota_used", quota="bytes") is None
    assert value(registry, "holdfast_quota_hard", quota="bytes") is None
    assert value(registry, "holdfast_policy_revision") == 2


def test_a_registry_shows_the_metrics_of_one_observer(registry: CollectorRegistry) -> None:
    PrometheusObserver(registry)
    with pytest.raises(ConfigurationError, match=r"make one PrometheusObserver .* all clients$"):
        PrometheusObserver(registry)


def test_a_package_that_is_missing_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'holdfast\[metrics\]'$"):
        PrometheusObserver()


# --- names, and the document


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_names_are_those_that_people_expect(metric: Metric) -> None:
    assert metric.name.startswith("holdfast_")
    assert metric.name.endswith("_total") == (metric in COUNTERS.values())
    assert metric.name.endswith("_seconds") == (metric is CALLS or metric in TURNS.values())
    assert metric.meaning.endswith(".")
    assert not {"session", "user", "id", "le"} & set(labels_of(metric))


def test_every_label_of_its_own_has_values() -> None:
    named = {metric for _, of in LABELS for metric in of}
    assert named == {metric for metric in ALL if metric.label and metric.label != "outcome"}


def test_the_document_is_what_is_defined(capsys: pytest.CaptureFixture[str]) -> None:
    assert metrics.main(["check", "--docs", str(ROOT / "docs")]) == 0, capsys.readouterr().out


def test_a_document_that_differs_is_noticed_and_written_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert metrics.main(["check", "--docs", str(tmp_path)]) == 1
    assert metrics.main(["write", "--docs", str(tmp_path)]) == 0
    assert metrics.main(["check", "--docs", str(tmp_path)]) == 0
    (tmp_path / "metrics.md").write_text("old")
    assert metrics.main(["check", "--docs", str(tmp_path)]) == 1
    assert "run: python -m holdfast.metrics write" in capsys.readouterr().out


def test_the_document_names_every_metric_and_every_value_of_a_label() -> None:
    text = metrics.document()
    values = {str(value) for values, _ in LABELS for value in values}
    for name in {metric.name for metric in ALL} | values | set(Call) | set(OUTCOMES):
        assert f"`{name}`" in text
