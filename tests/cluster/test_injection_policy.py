"""Injection by the API server itself: the policies give the same pods as the webhook."""

import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml
from hypothesis import HealthCheck, given, settings

from holdfast_webhook.injection import Refusal, inject
from holdfast_webhook.pods import Pod
from holdfast_webhook.settings import Settings
from tests.harness.api_client import ApiClient
from tests.harness.control_plane import ControlPlane
from tests.harness.json_patch import applied
from tests.harness.operator_process import HOME, install
from tests.harness.pods import container, pod
from tests.harness.random_pods import pods
from tests.harness.refused_pods import REFUSALS
from tests.harness.waiting import until
from tests.harness.webhook_process import INJECTION, SETTINGS

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]

LABEL = "policy-tests"
MINE = Settings.model_validate(SETTINGS)
OWN_WORDS = 'Pod "agent" is invalid'
"""Of the API server, which looks at the pod before our sentences are reached."""


@dataclass(frozen=True)
class Places:
    """A namespace where the policies inject, and one where nobody does."""

    api: ApiClient
    injecting: str
    plain: str

    async def create(self, body: dict[str, Any]) -> httpx.Response:
        return await self.api.create_pod(self.injecting, body)

    async def expected(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return what the API server makes of the pod that the webhook would answer with."""
        decision = inject(Pod.read(body), self.plain, MINE)
        assert not isinstance(decision, Refusal), decision
        response = await self.api.create_pod(self.plain, applied(body, decision.operations))
        assert response.status_code == 201, response.text
        return response.json()


@pytest.fixture(scope="module")
def policies(control_plane: ControlPlane) -> Iterator[None]:
    """The policies, for namespaces with the label of these tests."""
    install(control_plane)
    config = yaml.safe_load((INJECTION / "settings.yaml").read_text(encoding="utf-8"))
    config["data"] |= {"image": SETTINGS["image"], "imagePullSecrets": "registry"}
    documents = list(yaml.safe_load_all((INJECTION / "policy.yaml").read_text(encoding="utf-8")))
    for document in documents:
        if "matchConstraints" in document["spec"]:
            selector = document["spec"]["matchConstraints"]["namespaceSelector"]
            selector["matchExpressions"].append({"key": LABEL, "operator": "Exists"})
    text = yaml.safe_dump_all([config, *documents])
    control_plane.kubectl("apply", "--validate=strict", "-f", "-", input=text)
    yield
    control_plane.kubectl("delete", "--wait=false", "-f", "-", input=text)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def places(
    control_plane: ControlPlane, policies: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Places]:
    names = [control_plane.namespace() for _ in range(2)]
    for name in names:
        control_plane.administrator.create_accounts(name, "default", "support-agent", "a" * 64)
    control_plane.kubectl("label", "namespace", names[0], f"{LABEL}=yes")
    async with ApiClient(control_plane, tmp_path_factory.mktemp("api")) as api:
        found = Places(api, *names)

        async def in_force() -> bool:
            good = await found.create(pod())
            bad = await found.create(pod({"holdfast.dev/listen": "no"}))
            injected = good.status_code == 201 and "initContainers" in good.json()["spec"]
            return injected and bad.status_code == 422

        await until(in_force, "the policies are in force")
        yield found


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["spec"] == other["spec"]
    assert one["metadata"].get("annotations") == other["metadata"].get("annotations")
    assert one["metadata"].get("labels") == other["metadata"].get("labels")


SETUP = container("setup", env=[{"name": "A", "value": "b"}])
PROXY = container("proxy", restartPolicy="Always")
TAKEN = {"name": "data", "mountPath": "/var/run/holdfast"}
PLAIN: dict[str, dict[str, Any]] = {
    "plain": pod(),
    "two containers": pod(containers=[container("agent"), container("other", env=[])]),
    "binding": pod({"holdfast.dev/binding": "shared.reader"}),
    "memories": pod({"holdfast.dev/memories": "support, notes"}),
    "first": pod({"holdfast.dev/position": "first"}, initContainers=[PROXY, SETUP]),
    "last": pod(initContainers=[PROXY, SETUP]),
    "chosen": pod({"holdfast.dev/containers": "agent,proxy"}, initContainers=[PROXY]),
    "unix": pod(
        {"holdfast.dev/listen": "unix", "holdfast.dev/status-port": "17071"}, hostNetwork=True
    ),
    "key": pod({"holdfast.dev/summarizer-key": "models/openai"}),
    "grace": pod(terminationGracePeriodSeconds=5),
    "own url": pod(containers=[container("agent", env=[{"name": "HOLDFAST_URL", "value": "x"}])]),
    "pull secrets": pod(imagePullSecrets=[{"name": "own"}]),
    "mesh": pod({"traffic.sidecar.istio.io/excludeInboundPorts": "80, 7071", "a.example/b": ""}),
    "volumes": pod(volumes=[{"name": "data", "emptyDir": {}}]),
    "a container that is left alone has the sidecar's place for itself": pod(
        initContainers=[container("proxy", restartPolicy="Always", volumeMounts=[TAKEN])],
        volumes=[{"name": "data", "emptyDir": {}}],
    ),
}


@pytest.mark.parametrize("case", PLAIN)
async def test_the_policy_gives_the_same_pod_as_the_webhook(places: Places, case: str):
    response = await places.create(PLAIN[case])
    assert response.status_code == 201, response.text
    same(response.json(), await places.expected(PLAIN[case]))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=pods())
async def test_it_agrees_with_the_webhook_about_any_pod(places: Places, body: dict[str, Any]):
    response = await places.create(body)
    if isinstance(inject(Pod.read(body), "team", MINE), Refusal):
        assert response.status_code == 422
    elif response.status_code == 201:
        same(response.json(), await places.expected(body))
    else:
        alone = {**body, "metadata": {**body["metadata"], "labels": {}}}
        assert (await places.create(alone)).status_code != 201, response.text


@pytest.mark.parametrize("case", REFUSALS)
async def test_it_refuses_what_the_webhook_refuses(places: Places, case: str):
    body, _ = REFUSALS[case]
    response = await places.create(body)
    assert response.status_code == 422, response.text
    message = response.json()["message"]
    assert (
        message.startswith(OWN_WORDS) or "ValidatingAdmissionPolicy 'holdfast-injection'" in message
    )


async def test_an_injected_pod_and_one_without_the_label_are_left_alone(places: Places):
    once = (await places.create(pod())).json()
    again = {**pod(name="again"), "spec": once["spec"]}
    again["metadata"]["annotations"] = once["metadata"]["annotations"]
    response = await places.create(again)
    assert response.status_code == 201, response.text
    same(response.json(), once)
    plain = (await places.create(pod(labelled=False))).json()
    assert "initContainers" not in plain["spec"]
    mirror = await places.create(pod({"kubernetes.io/config.mirror": "x"}))
    assert "initContainers" not in json.dumps(mirror.json())


async def test_without_settings_only_labelled_pods_wait(
    places: Places, control_plane: ControlPlane
):
    config = ("configmap", "holdfast-injection", f"--namespace={HOME}")
    saved = control_plane.kubectl("get", *config, "-o", "json")
    control_plane.kubectl("delete", *config)
    try:

        async def refused() -> bool:
            return (await places.create(pod())).status_code >= 400

        await until(refused, "there is nothing to inject")
        assert (await places.create(pod(labelled=False))).status_code == 201
    finally:
        control_plane.kubectl("apply", "-f", "-", input=saved)

    async def back() -> bool:
        return (await places.create(pod())).status_code == 201

    await until(back, "there is again")
