"""Injection on a real API server: the webhook as its own process, asked for every labelled pod."""

import base64
import json
import re
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml
from hypothesis import HealthCheck, given, settings

from holdfast_webhook.injection import Patch, Refusal, inject
from holdfast_webhook.pods import Pod
from holdfast_webhook.settings import Settings
from tests.harness.api_client import ApiClient
from tests.harness.certificates import CertificateAuthority
from tests.harness.control_plane import ControlPlane, KubectlError
from tests.harness.json_patch import applied
from tests.harness.operator_process import ROOT, install
from tests.harness.other_webhook import other_webhook
from tests.harness.pods import container, pod
from tests.harness.random_pods import pods
from tests.harness.waiting import until
from tests.harness.webhook_process import (
    IMAGE,
    SETTINGS,
    WebhookProcess,
    configuration,
    unregister,
)

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]

LABEL = "injection-tests"
RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
MEASURED = {
    "requests": {"cpu": "10m", "memory": "16Mi"},
    "limits": {"cpu": "100m", "memory": "64Mi"},
}


@dataclass(frozen=True)
class Place:
    """A namespace whose labelled pods the webhook is asked for."""

    plane: ControlPlane
    api: ApiClient
    namespace: str

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        return self.plane.kubectl(f"--namespace={self.namespace}", *arguments, input=input)

    def create(self, body: dict[str, Any], *options: str) -> dict[str, Any]:
        text = self.kubectl("create", "-f", "-", "-o", "json", *options, input=json.dumps(body))
        return json.loads(text)

    def refused(self, body: dict[str, Any], *options: str) -> str:
        with pytest.raises(KubectlError) as raised:
            self.create(body, *options)
        return raised.value.stderr


@pytest.fixture(scope="module")
def webhook(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebhookProcess]:
    """The webhook, registered for namespaces with the label of these tests."""
    directory = tmp_path_factory.mktemp("webhook")
    process = WebhookProcess(directory)
    authority = CertificateAuthority(directory, "webhook-tests")
    authority.server("certificates/tls", hosts=["127.0.0.1"])
    port, _ = process.start()
    bundle = base64.b64encode(authority.certificate.read_bytes()).decode()
    body = configuration(port, bundle, label=LABEL)
    control_plane.kubectl("create", "-f", "-", "--validate=strict", input=json.dumps(body))
    yield process
    unregister(control_plane)
    process.stop()
    assert "Traceback" not in process.log


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[ApiClient]:
    async with ApiClient(control_plane, tmp_path_factory.mktemp("api")) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(control_plane: ControlPlane, api: ApiClient, webhook: WebhookProcess) -> Place:
    found = new_place(control_plane, api, f"{LABEL}=yes")
    await until(lambda: is_injected(found), "the API server asks the webhook")
    return found


def new_place(plane: ControlPlane, api: ApiClient, *labels: str) -> Place:
    namespace = plane.namespace()
    if labels:
        plane.kubectl("label", "namespace", namespace, *labels)
    plane.administrator.create_accounts(namespace, "default", "support-agent")
    return Place(plane, api, namespace)


async def is_injected(place: Place) -> bool:
    response = await place.api.create_pod(place.namespace, pod())
    return response.status_code == 201 and "initContainers" in response.json()["spec"]


def sidecar_of(body: dict[str, Any]) -> dict[str, Any]:
    [found] = [each for each in body["spec"]["initContainers"] if each["name"] == "holdfast"]
    return found


async def test_a_labelled_pod_gets_the_sidecar_before_its_binding_exists(place: Place):
    body = place.create(pod(name="early"))
    found = sidecar_of(body)
    assert found["image"] == IMAGE
    assert found["restartPolicy"] == "Always"
    assert {"name": "registry"} in body["spec"]["imagePullSecrets"]
    names = [each["secret"]["secretName"] for each in body["spec"]["volumes"] if "secret" in each]
    assert names == ["support-agent-holdfast"]
    # The API server adds its defaults to ours, and changes nothing.
    decision = inject(
        Pod.read(pod(name="early")), place.namespace, Settings.model_validate(SETTINGS)
    )
    assert isinstance(decision, Patch)
    assert lost(body, applied(pod(name="early"), decision.operations)) == []
    assert place.create(body | {"metadata": {**pod()["metadata"], "name": "again", **kept(body)}})


def kept(body: dict[str, Any]) -> dict[str, Any]:
    return {"annotations": body["metadata"]["annotations"]}


def lost(whole: Any, part: Any, path: str = "") -> list[str]:
    """Return where the whole, which may have more fields, lacks something of a part."""
    if isinstance(part, dict) and isinstance(whole, dict):
        # What is empty is left out where it is stored.
        there = {name: value for name, value in part.items() if value not in ({}, [], None)}
        return [
            each
            for name, value in there.items()
            for each in lost(whole.get(name), value, f"{path}/{name}")
        ]
    if isinstance(part, list) and isinstance(whole, list) and len(whole) == len(part):
        pairs = enumerate(zip(whole, part, strict=True))
        return [each for number, pair in pairs for each in lost(*pair, f"{path}/{number}")]
    return [] if whole == part else [f"{path}: {whole!r} is not {part!r}"]


async def test_a_dry_run_is_answered_alike(place: Place):
    real = place.create(pod(name="real"))
    dry = place.create(pod(name="dry"), "--dry-run=server")
    assert dry["spec"] == real["spec"]
    assert dry["metadata"]["annotations"] == real["metadata"]["annotations"]


async def test_pods_as_controllers_create_them(place: Place):
    """No controller runs here: the pods are created as theirs, by the accounts they have."""
    for kind, controller in (
        ("ReplicaSet", "replicaset-controller"),
        ("Job", "job-controller"),
        ("StatefulSet", "statefulset-controller"),
    ):
        body = pod({"holdfast.dev/memory": "support"})
        del body["metadata"]["name"]
        body["metadata"]["generateName"] = "agent-7d4b9-"
        owner = {
            "apiVersion": "apps/v1",
            "kind": kind,
            "name": "agent-7d4b9",
            "uid": "0-1",
            "controller": True,
        }
        body["metadata"]["ownerReferences"] = [owner]
        account = f"system:serviceaccount:kube-system:{controller}"
        created = place.create(body, f"--as={account}")
        assert "--memories=support" in sidecar_of(created)["args"]
        assert created["metadata"]["name"].startswith("agent-7d4b9-")


async def test_pods_without_the_label_and_other_namespaces_are_not_asked_for(place: Place):
    assert "initContainers" not in place.create(pod(name="plain", labelled=False))["spec"]
    elsewhere = new_place(place.plane, place.api)
    assert "initContainers" not in elsewhere.create(pod())["spec"]


async def test_a_refusal_says_what_to_write(place: Place):
    sentence = place.refused(pod({"holdfast.dev/memorys": "a"}))
    assert (
        'admission webhook "inject.holdfast.dev" denied the request: there is no annotation'
        in sentence
    )
    assert 'holdfast.dev/listen: "unix"' in place.refused(pod(hostNetwork=True))
    assert "call it otherwise" in place.refused(pod(containers=[container("holdfast")]))
    body = place.create(pod({"holdfast.dev/listen": "unix"}, name="host", hostNetwork=True))
    assert "--http=" in sidecar_of(body)["args"]
    # On the node's network the scheduler keeps two of them apart.
    assert sidecar_of(body)["ports"][0]["hostPort"] == 7071


async def test_warnings_reach_who_creates_the_pod(place: Place):
    response = await place.api.create_pod(
        place.namespace, pod(name="warned", serviceAccountName="default")
    )
    assert f"the MemoryBinding {place.namespace}/default" in response.headers["warning"]


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=pods())
async def test_the_api_server_takes_every_pod_that_is_not_refused(
    place: Place, body: dict[str, Any]
):
    plain = {**body, "metadata": {**body["metadata"], "labels": {}}}
    alone = await place.api.create_pod(place.namespace, plain)
    answer = await place.api.create_pod(place.namespace, body)
    decision = inject(Pod.read(body), place.namespace, Settings.model_validate(SETTINGS))
    if isinstance(decision, Refusal):
        assert answer.status_code == 422
        assert decision.sentence in answer.json()["message"]
    elif alone.status_code == 201:
        assert answer.status_code == 201, answer.text
        assert lost(answer.json(), applied(body, decision.operations)) == []


async def test_the_restricted_standard_takes_injected_pods(place: Place):
    strict = new_place(
        place.plane, place.api, f"{LABEL}=yes", "pod-security.kubernetes.io/enforce=restricted"
    )
    body = pod(
        {"holdfast.dev/summarizer-key": "models"},
        containers=[container("agent", securityContext=RESTRICTED)],
    )
    assert sidecar_of(strict.create(body))
    assert "violates PodSecurity" in strict.refused(pod(name="lax"))


async def test_a_quota_on_limits_takes_injected_pods(place: Place, webhook: WebhookProcess):
    narrow = new_place(place.plane, place.api, f"{LABEL}=yes")
    hard = {
        "requests.cpu": "4",
        "requests.memory": "4Gi",
        "limits.cpu": "8",
        "limits.memory": "8Gi",
    }
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "all"},
        "spec": {"hard": hard},
    }
    narrow.kubectl("create", "-f", "-", input=json.dumps(quota))
    # What the quota's controller does, which does not run here.
    status = {"status": {"hard": hard, "used": dict.fromkeys(hard, "0")}}
    narrow.kubectl(
        *("patch", "quota", "all", "--subresource=status", "--type=merge"), "-p", json.dumps(status)
    )
    body = pod(containers=[container("agent", resources=MEASURED)])

    async def counted() -> bool:
        response = await narrow.api.create_pod(narrow.namespace, body)
        return response.status_code == 201

    await until(counted, "the quota is known")
    narrow.create({**body, "metadata": {**body["metadata"], "name": "counted"}})
    used = json.loads(narrow.kubectl("get", "quota", "all", "-o", "json"))["status"]["used"]
    assert used == {
        "requests.cpu": "60m",
        "requests.memory": "112Mi",
        "limits.cpu": "1100m",
        "limits.memory": "320Mi",
    }
    # A sidecar without limits would be refused; the settings are read again without a restart.
    bare = {**SETTINGS, "resources": {"requests": {}, "limits": {}}}
    webhook.settings.write_text(yaml.safe_dump(bare), encoding="utf-8")
    try:
        await until(lambda: refuses(narrow, body, "must specify limits"), "the settings are read")
    finally:
        webhook.settings.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    await until(counted, "the settings are read again")


async def refuses(place: Place, body: dict[str, Any], words: str) -> bool:
    response = await place.api.create_pod(place.namespace, body)
    return response.status_code >= 400 and words in response.json()["message"]


async def test_the_policy_on_secrets_sees_what_was_injected(place: Place):
    install(place.plane)
    policy = ROOT / "charts/holdfast/files/admission/binding-secrets.yaml"
    binding = {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "MemoryBinding",
        "metadata": {"name": "others"},
        "spec": {
            "serviceAccountName": "others",
            "memories": [{"name": "a", "memoryRef": {"name": "a"}, "access": "ReadWrite"}],
        },
    }
    place.kubectl("create", "-f", "-", input=json.dumps(binding))
    place.plane.apply(policy)
    try:
        body = pod({"holdfast.dev/binding": "others"}, name="thief")
        await until(
            lambda: refuses(place, body, "is for pods of the ServiceAccount others"), "the policy"
        )
        assert await is_injected(place)
    finally:
        place.plane.kubectl("delete", "-f", str(policy), "--wait=false")


async def test_it_is_asked_again_when_another_webhook_changed_the_pod(
    place: Place, webhook: WebhookProcess, tmp_path: Path
):
    authority = CertificateAuthority(tmp_path, "other")
    label = {"mesh": "yes"}
    body = pod(name="meshed")
    body["metadata"]["labels"] |= label

    async def count(verdict: str) -> float:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            page = (await client.get(f"http://127.0.0.1:{webhook.ports[1]}/metrics")).text
        [found] = re.findall(rf'reviews_total{{verdict="{verdict}"}} (\S+)', page)
        return float(found)

    with other_webhook(authority.server("other", hosts=["127.0.0.1"])) as port:
        bundle = base64.b64encode(authority.certificate.read_bytes()).decode()
        other = configuration(port, bundle, label=LABEL)
        other["metadata"] = {"name": "mesh"}  # after ours
        other["webhooks"][0] |= {
            "name": "mesh.example.com",
            "objectSelector": {"matchLabels": label},
        }
        place.kubectl("create", "-f", "-", input=json.dumps(other))
        try:

            async def meshed() -> bool:
                response = await place.api.create_pod(place.namespace, body)
                before = response.json()["spec"]["initContainers"]
                return [each["name"] for each in before] == ["proxy", "holdfast"]

            await until(meshed, "the other webhook is asked")
            injected, unchanged = await count("injected"), await count("unchanged")
            assert await meshed()
            assert await count("injected") == injected + 1
            assert await count("unchanged") == unchanged + 1, "the second time"
        finally:
            place.kubectl("delete", "mutatingwebhookconfiguration", "mesh")


async def test_without_the_webhook_only_labelled_pods_wait(
    place: Place, webhook: WebhookProcess, tmp_path: Path
):
    elsewhere = new_place(place.plane, place.api)
    webhook.kill()
    try:
        sentence = place.refused(pod(name="waits"))
        assert 'failed calling webhook "inject.holdfast.dev"' in sentence
        place.create(pod(name="goes-on", labelled=False))
        elsewhere.create(pod())
    finally:
        port, _ = webhook.start()
        client = {"url": f"https://127.0.0.1:{port}/mutate-pods"}
        patch = [{"op": "replace", "path": "/webhooks/0/clientConfig/url", "value": client["url"]}]
        place.plane.kubectl(
            *("patch", "mutatingwebhookconfiguration", "holdfast-injection", "--type=json", "-p"),
            json.dumps(patch),
        )
    await until(lambda: is_injected(place), "the webhook is back")
