"""A real API server accepts what the chart renders, field by field; and what is said afterwards."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.harness.control_plane import ControlPlane, KubectlError
from tests.harness.helm import CHART, Helm
from tests.harness.markdown import Document

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
    "a policy injects": {"injection": {"mode": "policy"}},
    "test with a sidecar of its own": {"tryout": {"enabled": True}},
    "names and quantities that are numbers": {
        "nameOverride": "123",
        "commonLabels": {"team": "1e3"},
        "tryout": {"enabled": True, "existingSecret": "456"},
        "operator": {"serviceAccount": {"create": False, "name": "789"}},
        "injection": {
            "sidecar": {"resources": {"limits": {"cpu": 1, "memory": 268435456}}},
            "webhook": {
                "certificates": {"mode": "given", "existingSecret": "10", "caBundle": "QUJD"}
            },
        },
    },
    "nothing that can be left out": {
        "crds": {"install": False},
        "rbac": {"create": False},
        "admission": {"policies": False},
        "injection": {"mode": "none"},
        "operator": {"replicas": 1, "serviceAccount": {"create": False, "name": "holdfast-test"}},
    },
}


@pytest.fixture(scope="module")
def accepts(control_plane: ControlPlane) -> Callable[[list[dict[str, Any]]], str]:
    """Ask the server about objects without storing them; a field that it does not know is refused."""
    for namespace in (HOME, "team-a", "platform"):
        labels = "{pod-security.kubernetes.io/enforce: restricted}"
        metadata = f"{{name: {namespace}, labels: {labels}}}"
        control_plane.apply(f"{{apiVersion: v1, kind: Namespace, metadata: {metadata}}}")
        for account in ("holdfast-test", "holdfast-operator"):
            # A pod is accepted only with its ServiceAccount there.
            metadata = f"{{name: {account}, namespace: {namespace}}}"
            control_plane.apply(f"{{apiVersion: v1, kind: ServiceAccount, metadata: {metadata}}}")

    def ask(objects: list[dict[str, Any]]) -> str:
        body = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        return control_plane.kubectl(
            *("apply", "--server-side", "--force-conflicts", "--dry-run=server"),
            *("--validate=strict", "-f", "-"),
            input=body,
        )

    return ask


@pytest.mark.parametrize("name", SETS)
def test_the_api_server_accepts_it(
    helm: Helm,
    chart_plane: ControlPlane,
    accepts: Callable[[list[dict[str, Any]]], str],
    name: str,
):
    if name == "a policy injects" and int(chart_plane.version().split(".")[1]) < 36:
        pytest.skip("MutatingAdmissionPolicy came later than this API server")
    objects = [
        each
        for each in helm.template(SETS[name], "--kube-version=1.36.3", namespace=HOME)
        if each["kind"] not in ELSEWHERE
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


def test_every_pod_is_let_into_a_restricted_namespace(
    helm: Helm, accepts: Callable[[list[dict[str, Any]]], str]
):
    """Of a Deployment's template the server only warns: its pods are asked about as they would come."""
    pods = [
        each for each in helm.template(SETS["everything"], namespace=HOME) if each["kind"] == "Pod"
    ]
    for each in helm.template(SETS["everything"], namespace=HOME):
        if each["kind"] == "Deployment":
            spec = {**each["spec"]["template"]["spec"], "serviceAccountName": "holdfast-operator"}
            spec.pop("priorityClassName", None)  # that of the system wants a quota
            metadata = {"name": each["metadata"]["name"], "namespace": HOME}
            pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    assert len(pods) == 7
    assert len(accepts(pods).splitlines()) == 7
    [one, *_] = pods
    one["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(KubectlError, match="violates PodSecurity"):
        accepts([one])


def test_what_the_document_shows_is_accepted_and_names_what_is_rendered(
    helm: Helm, accepts: Callable[[list[dict[str, Any]]], str]
):
    document = Document.read(CHART.parents[1] / "docs/install.md")
    shown = {
        each["kind"]: each
        for block in document.blocks
        if block.language == "yaml"
        for each in yaml.safe_load_all(block.text)
    }
    assert set(shown) == {"Application", "NetworkPolicy"}
    assert accepts([shown["NetworkPolicy"]])
    [ignored] = shown["Application"]["spec"]["ignoreDifferences"]
    [configuration] = [
        each["metadata"]["name"] for each in helm.template() if each["kind"] == ignored["kind"]
    ]
    assert ignored["name"] == configuration


def notes(plane: ControlPlane, *settings: str) -> str:
    said = Helm(plane.admin_kubeconfig).run(
        *(
            "install",
            "holdfast",
            str(CHART),
            "--namespace=noted",
            "--dry-run=client",
            "--take-ownership",
        ),
        *(f"--set={setting}" for setting in settings),
    )
    return said.partition("NOTES:\n")[2]


def test_notes_say_what_next(control_plane: ControlPlane):
    said = notes(control_plane)
    assert "helm --namespace noted test holdfast" in said
    assert "no namespace so far" in said
    assert 'holdfast.dev/inject: "true"' in said
    block = said.partition("<<EOF\n")[2].partition("\nEOF\n")[0]
    kinds = [each["kind"] for each in yaml.safe_load_all(block)]
    assert kinds == ["MemoryBackend", "MemoryResource", "MemoryBinding"]


def test_notes_say_what_is_off(control_plane: ControlPlane):
    said = notes(control_plane, "watchNamespaces={team-a}", "tryout.enabled=true")
    assert "Injection and admission policies are off" in said
    assert 'holdfast.dev/inject: "true"' not in said
    assert "Do not use it in production." in said
    assert "holdfast-tryout.noted.svc:6379" in said
    assert "no namespace so far" not in notes(control_plane, "rbac.secrets=cluster")
    assert "definitions are not part of this release" in notes(control_plane, "crds.install=false")


@pytest.mark.parametrize(
    ("settings", "tenant", "home", "added"),
    [
        ((), "default", "noted", "{default}"),
        (("tenantNamespaces={team-a}",), "default", "noted", "{team-a,default}"),
        # Every namespace once: the schema refuses one that is there twice.
        (("tenantNamespaces={team-a,default}",), "default", "noted", "{team-a,default,NAMESPACE}"),
        # Where the operator does not look nothing would ever become Ready.
        (("watchNamespaces={team-a,team-b}",), "team-a", "team-a", "{team-a}"),
        (
            (
                "watchNamespaces={team-a,team-b,noted}",
                "tenantNamespaces={team-b}",
                "backendNamespaces={noted}",
            ),
            "team-b",
            "noted",
            "{team-b,NAMESPACE}",
        ),
    ],
)
def test_notes_name_namespaces_that_are_served(
    control_plane: ControlPlane, settings: tuple[str, ...], tenant: str, home: str, added: str
):
    said = notes(control_plane, *settings)
    block = said.partition("<<EOF\n")[2].partition("\nEOF\n")[0]
    backend, resource, binding = yaml.safe_load_all(block)
    assert backend["metadata"]["namespace"] == home
    assert resource["spec"]["backendRef"]["namespace"] == home
    assert resource["metadata"]["namespace"] == binding["metadata"]["namespace"] == tenant
    assert f"memorybindings --namespace {tenant}\n" in said
    assert f"--set 'tenantNamespaces={added}'" in said
