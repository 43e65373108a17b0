"""The alerts and the dashboard: Prometheus can read them, and they name what is really shown.

Every expression is taken apart by a parser of PromQL, which also knows which functions there are and what
they take. Then it is followed from the metrics up: labels that are selected, grouped by or shown are on the
series that arrive there.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from holdfast_operator.instruments import INSTRUMENTS, Type
from holdfast_webhook.metrics import WebhookMetrics
from holdfast_webhook.reviews import Verdict

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "charts/holdfast/files/monitoring"
TARGET: Final = {"namespace", "pod", "service", "instance", "job", "endpoint", "container"}
"""What Prometheus adds to each series of a pod that a monitor found."""
OPERATOR: Final = {item.name for item in INSTRUMENTS}

Labels = frozenset[str]


def samples_of_the_webhook() -> dict[str, Labels]:
    """Every series that a webhook shows, its process included, and its own labels."""
    shown = WebhookMetrics()
    shown.reviewed(Verdict.INJECTED, 0.001)
    shown.usable("certificate", usable=True)
    return {
        sample.name: frozenset(sample.labels)
        for family in text_string_to_metric_families(shown.page().decode())
        for sample in family.samples
    }


def samples_of_the_operator() -> dict[str, Labels]:
    found: dict[str, Labels] = {}
    for item in INSTRUMENTS:
        labels = frozenset(item.labels)
        if item.type is Type.HISTOGRAM:
            found[f"{item.name}_bucket"] = labels | {"le"}
            found |= {f"{item.name}_sum": labels, f"{item.name}_count": labels}
        else:
            found[item.name] = labels
    return found


SAMPLES: Final = samples_of_the_webhook() | samples_of_the_operator()


class Unfit(Exception):
    """An expression names what is not there."""


def labels_of(expression: promql_parser.Expr) -> Labels:
    """Return the labels that the result may have.

    Raises:
        Unfit: a metric or a label in it does not exist.
    """
    match expression:
        case promql_parser.VectorSelector():
            return _selected(expression)
        case promql_parser.MatrixSelector():
            return _selected(expression.vector_selector)
        case promql_parser.AggregateExpr():
            return _grouped(expression)
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr():
            return labels_of(expression.expr)
        case promql_parser.BinaryExpr():
            return _joined(expression)
        case promql_parser.Call():
            taken = [labels_of(argument) for argument in expression.args]
            found = frozenset[str]().union(*taken)
            if expression.func.name == "histogram_quantile":
                _need({"le"}, found, expression)
                return found - {"le"}
            return found
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            return frozenset()
        case _:
            raise Unfit(f"{type(expression).__name__} is not followed by this test: {expression}")


def _need(labels: set[str], there: Labels, expression: promql_parser.Expr) -> None:
    if not labels <= there:
        raise Unfit(f"there is no label {sorted(labels - there)} in {expression}")


def _selected(selector: promql_parser.VectorSelector) -> Labels:
    if selector.name not in SAMPLES:
        raise Unfit(f"there is no metric {selector.name}")
    labels = SAMPLES[selector.name] | TARGET
    _need({matcher.name for matcher in selector.matchers.matchers}, labels, selector)
    return labels


def _grouped(expression: promql_parser.AggregateExpr) -> Labels:
    there = labels_of(expression.expr)
    modifier = expression.modifier
    if modifier is None:
        # The largest of all stay as they are; what is summed has no labels left.
        return there if str(expression.op) in ("topk", "bottomk") else frozenset()
    _need(set(modifier.labels), there, expression)
    if modifier.type == promql_parser.AggModifierType.By:
        return frozenset(modifier.labels)
    return there - set(modifier.labels)


def _joined(expression: promql_parser.BinaryExpr) -> Labels:
    left, right = labels_of(expression.lhs), labels_of(expression.rhs)
    modifier = expression.modifier
    matching = modifier.matching if modifier is not None else None
    if matching is None:
        return left | right
    _need(set(matching.labels), left & right, expression)
    return left | set(modifier.group_labels or ()) if modifier is not None else left


def alerts() -> list[dict[str, Any]]:
    rule = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))
    assert (rule["apiVersion"], rule["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    return [alert for group in rule["spec"]["groups"] for alert in group["rules"]]


def board() -> dict[str, Any]:
    return json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))


def shown_beside() -> Iterator[tuple[str, set[str]]]:
    """Every expression, and the labels that its legend or its sentences name."""
    for panel in board()["panels"]:
        for target in panel["targets"]:
            yield target["expr"], set(re.findall(r"\{\{\s*(\w+)\s*\}\}", target["legendFormat"]))
    for alert in alerts():
        said = " ".join(alert["annotations"].values())
        yield alert["expr"], set(re.findall(r"\$labels\.(\w+)", said))


def metrics_of(expression: str) -> set[str]:
    """The metrics that an expression reads, a histogram under its own name."""
    found: set[str] = set()

    def note(part: promql_parser.Expr) -> None:
        if isinstance(part, promql_parser.VectorSelector):
            found.add(re.sub(r"_(bucket|sum|count)$", "", str(part.name)))

    promql_parser.walk(promql_parser.parse(expression), note)
    return found


EXPRESSIONS = list(shown_beside())


@pytest.mark.parametrize(("expression", "said"), EXPRESSIONS, ids=[each for each, _ in EXPRESSIONS])
def test_every_expression_reads_metrics_and_labels_that_exist(expression: str, said: set[str]):
    labels = labels_of(promql_parser.parse(expression))
    assert metrics_of(expression), "it reads none"
    assert said <= labels, "what is shown beside it"


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("sum(holdfast_leaders)", "no metric holdfast_leaders"),
        ("sum(holdfast_operator_reconcile_seconds)", "no metric"),
        ("sum by (memory) (holdfast_operator_backend_up)", r"no label \['memory'\]"),
        ('holdfast_operator_orphans{kind="x"}', r"no label \['kind'\]"),
        (
            "histogram_quantile(0.5, sum by (kind) (rate(holdfast_operator_reconcile_seconds_bucket[5m])))",
            r"no label \['le'\]",
        ),
        ("holdfast_operator_orphans * on (kind) holdfast_leader", r"no label \['kind'\]"),
        (
            "sum by (kind) (sum by (memory) (holdfast_operator_memory_bytes))",
            r"no label \['kind'\]",
        ),
    ],
)
def test_what_does_not_exist_is_noticed(expression: str, fault: str):
    with pytest.raises(Unfit, match=fault):
        labels_of(promql_parser.parse(expression))


@pytest.mark.parametrize("expression", ["sum(", "rate(holdfast_leader)", "sums(holdfast_leader)"])
def test_what_prometheus_could_not_read_is_noticed(expression: str):
    with pytest.raises(ValueError, match=r"\w"):
        promql_parser.parse(expression)


def test_times_of_the_alerts_are_durations():
    for alert in alerts():
        if "for" in alert:
            assert promql_parser.parse_duration(alert["for"]).total_seconds() > 0


def test_every_metric_of_the_operator_is_on_the_dashboard():
    assert set[str]().union(*(metrics_of(each) for each, _ in EXPRESSIONS)) >= OPERATOR


def test_the_panels_do_not_overlap():
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (column, row)
            for column in range(place["x"], place["x"] + place["w"])
            for row in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(column for column, _ in cells) < 24
        taken |= cells


def test_the_end_of_the_webhooks_certificate_is_announced():
    by_name = {alert["alert"]: alert for alert in alerts()}
    for name in ("HoldfastWebhookCertificateEndsSoon", "HoldfastWebhookCertificateUnusable"):
        named = metrics_of(by_name[name]["expr"])
        assert named == {"holdfast_webhook_certificate_expiry_timestamp_seconds"}


def test_each_alert_has_a_runbook_that_names_it():
    found = alerts()
    assert len(found) == 7
    listed = (ROOT / "docs/operator.md").read_text(encoding="utf-8")
    known = {re.sub(r"_(bucket|sum|count)$", "", name) for name in SAMPLES}
    for alert in found:
        assert {"severity"} == set(alert["labels"])
        path = ROOT / alert["annotations"]["runbook_url"]
        text = path.read_text(encoding="utf-8")
        assert f"`{alert['alert']}`" in text
        assert f"`{alert['alert']}`" in listed
        assert set(re.findall(r"\bholdfast_(?:leader|operator_\w+|webhook_\w+)", text)) <= known
    pages = {path.name for path in (ROOT / "docs/runbooks").glob("*.md")}
    assert pages == {Path(alert["annotations"]["runbook_url"]).name for alert in found}
