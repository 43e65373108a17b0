"""A real API server accepts what the chart renders, field by field; and what is said afterwards."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.harness.control_plane import ControlPlane, KubectlError
from tests.harness.helm import CHART, Helm

pytestmark = pytest.mark.cluster

HOME = "accepted"
"""A namespace apart: the ServiceAccounts that pods need here were not made by a release."""
ELSEWHERE = {"Certificate", "Issuer", "PodMonitor", "PrometheusRule", "ServiceMonitor"}
"""Kinds of others, whose definitions are not on this server."""
PLACED = {
    "podLabels": {"tier": "system"},
    "podAnnotations": {"note": "kept"},
    "priorityClassName": "system-cluster-critical",
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "affinity": {"nodeAffinity": {}},
    "tolerations": [{"key": "infra", "operator": "Exists"}],
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    ],
    "podDisruptionBudget": {"maxUnavailable": "50%"},
}
SETS: dict[str, dict[str, Any]] = {
    "default": {},
    "everything": {
        "tenantNamespaces": ["team-a"],
        "backendNamespaces": ["platform"],
        "tryout": {"enabled": True, "existingSecret": "valkey"},
        "test": {"namespace": "team-a"},
        "monitoring": {
            part: {"enabled": True}
            for part in ("serviceMonitor", "podMonitor", "prometheusRule", "dashboard")
        },
        "networkPolicy": {
            "enabled": True,
            "backends": [{"ipBlock": {"cidr": "10.0.0.0/8"}}, {"podSelector": {}}],
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"a": "b"}}}],
        },
        "commonLabels": {"team": "platform"},
        "commonAnnotations": {"owner": "platform"},
        "imagePullSecrets": [{"name": "login"}],
        "operator": {**PLACED, "extraEnv": [{"name": "TZ", "value": "UTC"}]},
        "injection": {"webhook": PLACED, "sidecar": {"imagePullSecrets": [{"name": "login"}]}},
    },
    "some namespaces": {"watchNamespaces": ["team-a", "platform"], "tenantNamespaces": ["team-a"]},
    "secrets of the cluster": {
        "rbac": {"secrets": "cluster", "aggregate": {"users": False, "backends": True}}
    },
    "certificates given": {
        "injection": {
            "webhook": {
                "certificates": {"mode": "given", "existingSecret": "own", "caBundle": "QUJD"}
            }
        }
    },
    "cert-manager": {"injection": {"webhook": {"certificates": {"mode": "certManager"}}}},
    "test with a sidecar of its own": {"tryout": {"enabled": True}},
    "nothing that can be left out": {
        "crds": {"install": False},
        "rbac": {"create": False},
        "admission": {"policies": False},
        "injection": {"mode": "none"},
        "operator": {"replicas": 1, "serviceAccount": {"create": False, "name": "holdfast-test"}},
    },
}


@pytest.fixture(scope="module")
def accepts(chart_plane: ControlPlane) -> Callable[[list[dict[str, Any]]], str]:
    """Ask the server about objects without storing them; a field that it does not know is refused."""
    for namespace in (HOME, "team-a", "platform"):
        chart_plane.apply(f"{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}")
        for account in ("holdfast-test", "holdfast-operator"):
            # A pod is accepted only with its ServiceAccount there.
            metadata = f"{{name: {account}, namespace: {namespace}}}"
            chart_plane.apply(f"{{apiVersion: v1, kind: ServiceAccount, metadata: {metadata}}}")

    def ask(objects: list[dict[str, Any]]) -> str:
        body = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        return chart_plane.kubectl(
            *("apply", "--server-side", "--force-conflicts", "--dry-run=server"),
            *("--validate=strict", "-f", "-"),
            input=body,
        )

    return ask


@pytest.mark.parametrize("name", SETS)
def test_the_api_server_accepts_it(
    helm: Helm, accepts: Callable[[list[dict[str, Any]]], str], name: str
):
    objects = [
        each for each in helm.template(SETS[name], namespace=HOME) if each["kind"] not in ELSEWHERE
    ]
    assert len(accepts(objects).splitlines()) == len(objects)


def test_a_field_that_the_server_does_not_know_would_be_refused(
    helm: Helm, accepts: Callable[[list[dict[str, Any]]], str]
):
    """What the tests above rest on."""
    [deployment] = [
        each
        for each in helm.template(namespace=HOME)
        if each["kind"] == "Deployment" and each["metadata"]["name"] == "holdfast-operator"
    ]
    deployment["spec"]["template"]["spec"]["containers"][0]["reedinessProbe"] = {}
    with pytest.raises(KubectlError, match="reedinessProbe"):
        accepts([deployment])


def notes(plane: ControlPlane, *settings: str) -> str:
    said = Helm(plane.admin_kubeconfig).run(
        *("install", "holdfast", str(CHART), "--namespace=noted", "--dry-run=client"),
        *(f"--set={setting}" for setting in settings),
    )
    return said.partition("NOTES:\n")[2]


def test_notes_say_what_next(chart_plane: ControlPlane):
    said = notes(chart_plane)
    assert "helm --namespace noted test holdfast" in said
    assert "no namespace so far" in said
    assert 'holdfast.dev/inject: "true"' in said
    block = said.partition("<<EOF\n")[2].partition("\nEOF\n")[0]
    kinds = [each["kind"] for each in yaml.safe_load_all(block)]
    assert kinds == ["MemoryBackend", "MemoryResource", "MemoryBinding"]


def test_notes_say_what_is_off(chart_plane: ControlPlane):
    said = notes(chart_plane, "watchNamespaces={team-a}", "tryout.enabled=true")
    assert "Injection and admission policies are off" in said
    assert 'holdfast.dev/inject: "true"' not in said
    assert "It is not for production." in said
    assert "holdfast-tryout.noted.svc:6379" in said
    assert "no namespace so far" not in notes(chart_plane, "rbac.secrets=cluster")
    assert "definitions are not part of this release" in notes(chart_plane, "crds.install=false")
