"""Starting the operator: definitions that are late or old, and one that serves some namespaces only."""

import json
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdfast.client import Client
from holdfast.store.redis import RedisStore
from tests.harness import kubernetes_binaries, parts
from tests.harness.control_plane import ControlPlane, ControlPlaneUnavailable
from tests.harness.operator_process import ACCOUNT, CRDS, HOME, RBAC, OperatorProcess
from tests.harness.servers import Server
from tests.harness.space import Space, condition, delete_namespace
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

BINDING = """
apiVersion: holdfast.dev/v1alpha1
kind: MemoryBinding
metadata: {name: agent}
spec:
  serviceAccountName: agent
  memories: [{name: people, memoryRef: {name: people}, access: ReadWrite}]
"""


@pytest.fixture
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
        for name in ("serviceaccount", "discovery", "leader"):
            plane.apply(RBAC / f"{name}.yaml")
        plane.apply(RBAC / "namespaced.yaml", namespace="served")
        yield plane


def reason(plane: ControlPlane, namespace: str, what: str) -> str:
    body = plane.administrator.get(namespace, what)
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
        bare_plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=120s")
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
async def test_bindings_and_erasures_in_an_installation_of_one_namespace(
    bare_plane: ControlPlane, tmp_path: Path, valkey_server: Server
):
    """With Roles alone, as a chart with `watchNamespaces` gives them."""
    bare_plane.apply(CRDS)
    bare_plane.apply(RBAC / "binding-secrets.yaml", namespace="served")
    space = Space(bare_plane, "served", valkey_server)
    space.backend()
    space.resource("people", keyTemplate="tenant:{tenant}:user:{user_id}")
    arguments = ["--namespace=served", "--interval=1"]
    operator = OperatorProcess(bare_plane, tmp_path, arguments=arguments, elected=True)
    operator.start()
    try:
        for namespace in ("served", "default"):
            bare_plane.apply(BINDING, namespace=namespace)
        await space.ready("membind/agent")
        entries = space.get("secret/agent-holdfast")["data"]
        name, password = (b64decode(entries[key]).decode() for key in ("username", "password"))
        async with (
            valkey_server.client(username=name, password=password) as tenant,
            Client(RedisStore.from_client(tenant), namespace="served") as client,
        ):
            for user in ("a", "b"):
                session = client.memory("people").session(tenant="t", user_id=user)
                await session.append({"role": "user", "content": "hello"})
            # Its own index is what a tenant may edit: nothing hides from an erasure.
            await tenant.zrem("mem:{served/people}:sessions", "tenant:t:user:a")
            fields = [{"name": "user_id", "value": "a"}]
            space.erasure(memoryRef={"name": "people"}, fields=fields, ttlAfterFinished="1h")
            receipt = (await space.ready("memerase/order", "Erased"))["status"]["receipt"]
            assert (receipt["sessions"], receipt["messages"]) == (1, 1)
            assert await client.memory("people").session(tenant="t", user_id="a").length() == 0
            assert await client.memory("people").session(tenant="t", user_id="b").length() == 1
        space.erasure("short", memoryRef={"name": "people"}, fields=fields, ttlAfterFinished="1s")
        await space.gone("memerase/short")
        space.annotate("membind/agent", "holdfast.dev/rotate-requested-at=now")
        await space.until(
            "secret/agent-holdfast",
            lambda secret: b64decode(secret["data"]["password"]).decode() != password,
            "another password",
        )
        space.delete("membind/agent")
        await space.gone("secret/agent-holdfast")
        async with valkey_server.client() as administrator:
            assert name.encode() not in b" ".join(
                await administrator.execute_command("ACL", "USERS")
            )
        assert reason(bare_plane, "default", "membind/agent") == "Pending"
        # Its name is given to somebody else, before the operator would ask for it again.
        space.delete("memerase/order")
        delete_namespace(space)
        bare_plane.kubectl("create", "namespace", "served")
        space.backend()
        space.resource("people", keyTemplate="tenant:{tenant}:user:{user_id}")
        await space.until(
            "memres/people",
            lambda body: condition(body, "Ready")["reason"] != "Pending",
            "looked at",
        )
        assert reason(bare_plane, "served", "memres/people") == "KeysOwnedByOther"
        operator.terminate()
        # An event may meet a namespace of which this operator cannot know yet that it goes away.
        assert not [line for line in operator.errors() if "being terminated" not in line]
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
