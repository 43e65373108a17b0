"""Every value is documented, has a schema, and is one of a closed set."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.chart import documented
from tests.harness.helm import CHART, Helm, HelmError

FREE = {"strings", "quantities", "free"}
"""Definitions of maps whose keys are the user's."""


def schema() -> dict[str, Any]:
    return json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))


def values() -> dict[str, Any]:
    return yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))


def resolved(node: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref")
    return whole["$defs"][reference.rpartition("/")[2]] if reference else node


def parts(node: dict[str, Any], whole: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Give every value that the schema knows, with what it says of it."""
    for name, each in node.get("properties", {}).items():
        where = f"{path}.{name}" if path else name
        if where == "global":
            continue
        yield where, each
        yield from parts(resolved(each, whole), whole, where)


def test_the_schema_is_closed_everywhere():
    whole = schema()

    def check(node: Any, where: str) -> None:
        if isinstance(node, dict):
            if "properties" in node:
                assert node["additionalProperties"] is False, where
            for name, each in node.items():
                check(each, f"{where}/{name}")

    check(whole, "")
    open_maps = {
        name
        for name, each in whole["$defs"].items()
        if each.get("type") == "object" and "properties" not in each
    }
    assert open_maps == FREE


def test_schema_and_values_know_the_same_names():
    whole, known = schema(), values()
    said = {path for path, each in parts(whole, whole)}

    def present(node: Any, path: str = "") -> Iterator[str]:
        if isinstance(node, dict):
            for name, each in node.items():
                where = f"{path}.{name}" if path else name
                if where in said:
                    yield where
                    yield from present(each, where)
                elif path in said:
                    assert isinstance(node, dict), where  # a map of the user's own keys

    optional = {
        *(
            f"injection.webhook.certificates.certManager.issuerRef.{key}"
            for key in ("name", "kind", "group")
        ),
    }
    missing = said - set(present(known)) - optional
    # A container that has no limit on its processors has no value for it.
    assert not [path for path in missing if not path.endswith((".requests", ".limits"))]
    undeclared = {name for name in known if name not in said}
    assert not undeclared


@pytest.mark.parametrize(
    "setting",
    [
        "operater.replicas=2",
        "operator.replica=2",
        "operator.replicas=0",
        "operator.replicas=two",
        "operator.logFormat=xml",
        "operator.interval=0",
        "operator.healthPort=80",
        "operator.resources.limit.memory=1Gi",
        "operator.podLabels.tier=1",
        "operator.leaderElection.lease=3",
        "image.digest=latest",
        "image.pullPolicy=Sometimes",
        "imagePullSecrets[0].nam=x",
        "rbac.secrets=all",
        "rbac.aggregate.stores=true",
        "watchNamespaces={a,a}",
        "watchNamespaces={*}",
        "injection.mode=sometimes",
        "injection.sidecar.drain=1m",
        "injection.sidecar.image.name=x",
        "injection.webhook.timeoutSeconds=30",
        "injection.webhook.failurePolicy=Ignore",
        "injection.webhook.certificates.mode=self",
        "injection.webhook.certificates.caBundle=-----BEGIN",
        "monitoring.serviceMonitor.interval=soon",
        "networkPolicy.apiServerPorts={0}",
        "tryout.password=secret",
        "tryout.resources.requests.cpu=much",
        "test.timeoutSeconds=0",
    ],
)
def test_what_the_schema_does_not_know_is_refused(helm: Helm, setting: str):
    with pytest.raises(HelmError, match="don't meet the specifications of the schema") as refused:
        helm.template(None, f"--set={setting}")
    path = re.split(r"[.\[=]", setting)[0]
    assert path in refused.value.stderr


def test_values_of_a_chart_around_it_are_accepted(helm: Helm):
    assert helm.template({"global": {"anything": {"at": "all"}}})


def test_every_value_is_documented():
    documented_values = {each.path for each in documented.read(CHART / "values.yaml")}
    whole = schema()
    for path, each in parts(whole, whole):
        node = resolved(each, whole)
        covered = path in documented_values or any(
            path.startswith(f"{one}.") for one in documented_values
        )
        group = "properties" in node and not covered
        assert covered or group, f"{path} has no comment"


def test_the_readme_has_the_table_of_the_values():
    text = (CHART / "README.md").read_text(encoding="utf-8")
    assert text == documented.with_table(text, documented.read(CHART / "values.yaml")), (
        "run: python -m tests.chart.documented write"
    )
