"""What the chart renders for a version of Kubernetes is there in that version, field by field.

The API servers of the tests are of one version. The others have published what they know.
"""

import json
from typing import Final

import pytest
import yaml

from holdfast_webhook.injection import Patch, inject
from holdfast_webhook.pods import Pod
from holdfast_webhook.settings import Settings
from tests.chart.kubernetes_schemas import faults
from tests.chart.rendered import Object
from tests.chart.test_accepted import ELSEWHERE, SETS
from tests.harness import oldest_api_server
from tests.harness.helm import CHART, Helm
from tests.harness.json_patch import applied
from tests.harness.kubernetes_binaries import kubernetes_version
from tests.harness.pods import pod

OLDEST: Final = 30
POLICY: Final = 36
"""The first with MutatingAdmissionPolicy in the version that is rendered."""
TRIED: Final = int(kubernetes_version().split(".")[1])
MINORS: Final = range(OLDEST, TRIED + 1)
OURS: Final = "holdfast.dev/"


def unknown(objects: list[Object], minor: int) -> list[str]:
    """What that version would not know of objects of Kubernetes."""
    return [
        f"{each['kind']} {each['metadata'].get('name')}: {fault}"
        for each in objects
        if each["kind"] not in ELSEWHERE and not each["apiVersion"].startswith(OURS)
        for fault in faults(each, f"1.{minor}")
    ]


@pytest.fixture(scope="module")
def rendered(helm: Helm) -> list[Object]:
    """Every object of all sets of values, once, as the oldest cluster gets it."""
    found: dict[str, Object] = {}
    for name, values in SETS.items():
        if name != "a policy injects":
            for each in helm.template(values, f"--kube-version=1.{OLDEST}.0"):
                found[json.dumps(each, sort_keys=True)] = each
    return list(found.values())


@pytest.fixture(scope="module")
def injecting(helm: Helm) -> list[Object]:
    """What is rendered where a policy injects."""
    return helm.template(SETS["a policy injects"], f"--kube-version=1.{POLICY}.0")


def test_the_chart_asks_for_the_oldest_version_that_is_looked_at():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["kubeVersion"] == f">=1.{OLDEST}.0-0"
    assert oldest_api_server.version().startswith(f"v1.{OLDEST}.")


def test_no_version_is_given_something_of_its_own(helm: Helm):
    """So it is enough to look at one rendering."""
    for values in (SETS["default"], SETS["everything"]):
        oldest = helm.template(values, f"--kube-version=1.{OLDEST}.0")
        assert oldest == helm.template(values, f"--kube-version=1.{TRIED}.0")


@pytest.mark.parametrize("minor", MINORS)
def test_everything_that_is_rendered_is_there(
    rendered: list[Object], injecting: list[Object], minor: int
):
    kinds = {each["kind"] for each in rendered}
    assert {"ValidatingAdmissionPolicy", "CustomResourceDefinition", "Deployment"} <= kinds
    assert unknown(rendered, minor) == []
    if minor >= POLICY:
        assert unknown(injecting, minor) == []


@pytest.mark.parametrize("minor", MINORS)
def test_what_is_put_into_a_pod_is_there(minor: int):
    body = pod()
    patch = inject(Pod.read(body), "team", Settings(image="registry.example/holdfast:1"))
    assert isinstance(patch, Patch)
    result = applied(body, patch.operations)
    assert result["spec"]["initContainers"][0]["restartPolicy"] == "Always"
    assert unknown([result], minor) == []


@pytest.mark.parametrize("minor", MINORS)
def test_the_plain_files_are_there(minor: int):
    files = [
        file
        for folder in ("rbac", "admission", "crds", "injection")
        for file in sorted((CHART / "files" / folder).glob("*.yaml"))
        if file.name != "policy.yaml" or minor >= POLICY
    ]
    objects = [
        each
        for file in files
        for each in yaml.safe_load_all(file.read_text(encoding="utf-8"))
        if each
    ]
    assert len(objects) >= len(files) > 10
    assert unknown(objects, minor) == []


def test_what_is_not_there_is_noticed(helm: Helm):
    """What the tests above rest on: these came with versions that are told apart."""
    values = {**SETS["test with a sidecar of its own"], "injection": {"mode": "policy"}}
    objects = helm.template(values, f"--kube-version=1.{POLICY}.0")
    before = "\n".join(unknown(objects, POLICY - 1))
    assert "there is no MutatingAdmissionPolicy of admissionregistration.k8s.io/v1" in before
    assert "restartPolicy" not in before
    old = "\n".join(unknown(objects, 27))
    assert "there is no ValidatingAdmissionPolicy of admissionregistration.k8s.io/v1" in old
    assert "'restartPolicy' was unexpected" in old, "sidecars came with 1.28"
