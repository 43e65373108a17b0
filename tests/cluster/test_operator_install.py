"""Starting the operator: definitions that are late or old, and one that serves some namespaces only."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness import kubernetes_binaries, parts
from tests.harness.control_plane import ControlPlane, ControlPlaneUnavailable
from tests.harness.operator_process import ACCOUNT, CRDS, HOME, RBAC, OperatorProcess
from tests.harness.servers import Server
from tests.harness.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

OBJECTS = """
apiVersion: holdfast.dev/v1alpha1
kind: MemoryBackend
metadata: {name: shared}
spec: {endpoints: ["127.0.0.1:%d"]}
---
apiVersion: holdfast.dev/v1alpha1
kind: MemoryResource
metadata: {name: support}
spec: {backendRef: {name: shared}, retention: {ttl: 24h}}
---
apiVersion: holdfast.dev/v1alpha1
kind: MemoryResource
metadata: {name: elsewhere}
spec: {backendRef: {name: shared, namespace: default}, retention: {ttl: 24h}}
"""


@pytest.fixture(scope="module")
def bare_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane without our definitions, where the operator may serve one namespace: `served`."""
    try:
        programs = kubernetes_binaries.ensure()
    except ControlPlaneUnavailable as error:
        parts.missing("Kubernetes control plane", str(error))
    directory = tmp_path_factory.mktemp("bare-plane")
    with ControlPlane.start(directory, binaries=programs) as plane:
        for name in (HOME, "served"):
            plane.kubectl("create", "namespace", name)
        for name in ("serviceaccount", "discovery"):
            plane.apply(RBAC / f"{name}.yaml")
        plane.apply(RBAC / "namespaced.yaml", namespace="served")
        yield plane


def reason(plane: ControlPlane, namespace: str, what: str) -> str:
    body = json.loads(plane.kubectl("get", what, f"--namespace={namespace}", "-o", "json"))
    [ready] = [item for item in body["status"]["conditions"] if item["type"] == "Ready"]
    return ready["reason"]


@pytest.mark.asyncio
async def test_late_definitions_are_waited_for_and_one_namespace_is_served(
    bare_plane: ControlPlane, tmp_path: Path, valkey_server: Server
):
    arguments = ["--namespace=served", "--log-format=json", "--interval=2"]
    bare_plane.kubectl("delete", "crd", "--all", "--timeout=60s")
    operator = OperatorProcess(bare_plane, tmp_path, arguments=arguments)
    operator.start()
    try:
        await until(lambda: "Waiting for at most 60 s" in operator.log, "waits")
        bare_plane.apply(CRDS)
        bare_plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        for namespace in ("served", "default"):
            bare_plane.apply(OBJECTS % valkey_server.port, namespace=namespace)
        await until(lambda: reason(bare_plane, "served", "memres/support") == "Available", "Ready")
        await until(
            lambda: reason(bare_plane, "served", "memres/elsewhere") == "BackendNotVisible",
            "the backend is not visible",
        )
        assert reason(bare_plane, "default", "membackend/shared") == "Pending"
        for line in operator.log.splitlines():
            assert json.loads(line)["message"], "a log of JSON lines"
        operator.terminate()
    finally:
        operator.stop()


@pytest.mark.asyncio
async def test_older_definitions_are_refused_with_one_sentence(
    bare_plane: ControlPlane, tmp_path: Path
):
    bare_plane.apply(CRDS)
    path = CRDS / "holdfast.dev_memoryresources.yaml"
    old: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    schema = old["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del schema["properties"]["spec"]["properties"]["retention"]["properties"]["refreshOn"]
    bare_plane.apply(json.dumps(old))
    operator = OperatorProcess(bare_plane, tmp_path)
    operator.start()
    try:
        operator.wait_until_ended()
        assert "older than this operator: it does not know spec.retention.refreshOn" in operator.log
        assert "Traceback" not in operator.log
    finally:
        operator.stop()
        bare_plane.apply(CRDS)


def test_the_roles_hold_no_more_than_the_code_uses():
    verbs: dict[tuple[str, str], set[str]] = {}
    for name in (
        *("discovery", "operator", "backend-secrets", "binding-secrets", "namespaced", "leader"),
        "certificates",
    ):
        documents = yaml.safe_load_all((RBAC / f"{name}.yaml").read_text(encoding="utf-8"))
        for document in documents:
            assert document["metadata"]["name"].startswith(ACCOUNT)
            for rule in document.get("rules", ()):
                assert "*" not in (*rule["verbs"], *rule["resources"], *rule["apiGroups"])
                for resource in rule["resources"]:
                    key = (rule["apiGroups"][0], resource)
                    verbs.setdefault(key, set()).update(rule["verbs"])
    ours = {"list", "watch", "patch"}
    assert verbs == {
        ("holdfast.dev", "memorybackends"): ours,
        ("holdfast.dev", "memorybindings"): ours,
        ("holdfast.dev", "memoryresources"): ours,
        ("holdfast.dev", "memorybackends/status"): {"patch"},
        ("holdfast.dev", "memorybindings/status"): {"patch"},
        ("holdfast.dev", "memoryresources/status"): {"patch"},
        ("holdfast.dev", "memoryerasures"): ours | {"delete"},
        ("holdfast.dev", "memoryerasures/status"): {"patch"},
        ("", "namespaces"): {"get", "list", "watch"},
        ("", "events"): {"create"},
        ("", "secrets"): {"get", "create", "update", "delete"},
        ("", "configmaps"): {"get"},
        ("apiextensions.k8s.io", "customresourcedefinitions"): {"get"},
        ("coordination.k8s.io", "leases"): {"get", "create", "update"},
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"): {"get", "patch"},
    }
