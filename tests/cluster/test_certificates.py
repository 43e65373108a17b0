"""The webhook's certificate on a real API server: the operator, as its own process and with its own rights,
makes and renews it while pods are created all the time.
"""

import asyncio
import base64
import contextlib
import json
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.administrator import Refused
from tests.harness.api_client import ApiClient
from tests.harness.control_plane import ControlPlane, KubectlError
from tests.harness.mounted_secret import MountedSecret
from tests.harness.operator_process import ACCOUNT, HOME, RBAC, ROOT, OperatorProcess, install
from tests.harness.pods import pod
from tests.harness.waiting import until
from tests.harness.webhook_process import (
    CONFIGURATION,
    WebhookProcess,
    configuration,
    unregister,
)

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio]

SECRET = "holdfast-webhook-certificate"
LABEL = "certificate-tests"
POLICY = ROOT / "charts/holdfast/files/admission/operator-secrets.yaml"
ARGUMENTS = [
    f"--webhook-certificate-secret={SECRET}",
    f"--webhook-configuration={CONFIGURATION}",
    "--webhook-service=holdfast-webhook",
    "--webhook-lifetime=150",  # so that a bundle counts as known after 5 s
    "--interval=1",
]
AT_ONCE = 30
"""Pods created at once: more than the connections that an API server keeps to a webhook, so that it makes
new ones all the time."""


class Stage:
    """A webhook and the operator that keeps its certificate."""

    def __init__(self, plane: ControlPlane, directory: Path) -> None:
        self.plane = plane
        self.webhook = WebhookProcess(directory / "webhook")
        self.operator = OperatorProcess(
            plane, directory / "operator", arguments=ARGUMENTS, forked=True
        )
        self.mounted = MountedSecret(self.webhook.certificates)
        self.port = 0

    def register(self) -> None:
        """Apply the configuration as a chart does: with a field manager of its own, without a bundle."""
        body = configuration(self.port, None, label=LABEL)
        self.plane.kubectl(
            *("apply", "--server-side", "--field-manager=helm", "-f", "-"), input=json.dumps(body)
        )

    def configured(self) -> dict[str, Any]:
        return self.plane.administrator.get("", f"mutatingwebhookconfiguration/{CONFIGURATION}")

    def bundle(self) -> str:
        [webhook] = self.configured()["webhooks"]
        return base64.b64decode(webhook["clientConfig"].get("caBundle", "")).decode()

    def secret(self) -> dict[str, Any]:
        return self.plane.administrator.get(HOME, f"secret/{SECRET}")

    def rotate(self, request: str) -> None:
        note = f"holdfast.dev/rotate-requested-at={request}"
        self.plane.administrator.annotate(HOME, f"secret/{SECRET}", note)

    async def served(self) -> bytes:
        """Return the certificate that is shown to a client who trusts what is registered now."""
        context = ssl.create_default_context(cadata=await asyncio.to_thread(self.bundle))
        _, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        await writer.wait_closed()
        return shown

    async def follow(self) -> None:
        """Be kubelet, for ever."""
        while True:
            await asyncio.to_thread(self.mounted.follow, self.plane, HOME, SECRET)
            await asyncio.sleep(0.5)


@pytest.fixture
def stage(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Stage]:
    install(control_plane)
    control_plane.apply(RBAC / "certificates.yaml")
    control_plane.apply(POLICY)
    for name in ("webhook", "operator"):
        (tmp_path / name).mkdir()
    found = Stage(control_plane, tmp_path)
    yield found
    found.operator.stop()
    found.webhook.stop()
    unregister(control_plane)
    control_plane.kubectl("delete", "-f", str(POLICY), "--wait=false")
    control_plane.kubectl(f"--namespace={HOME}", "delete", "secret", SECRET, "--ignore-not-found")


class Load:
    """Pods that are created all the time, each of which needs the webhook."""

    def __init__(self, api: ApiClient, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self.created = 0
        self.refusals: Counter[str] = Counter()
        self._over = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Create them beside the block; the last ones are waited for.

        Cancelled in the middle of a TLS handshake, httpx leaves the connection open.
        """
        work = asyncio.create_task(self._run())
        try:
            yield
            assert not work.done(), work.result()
        finally:
            self._over = True
            await work

    async def _run(self) -> None:
        while not self._over:
            await asyncio.gather(*(self._create() for _ in range(AT_ONCE)))
            await asyncio.sleep(0.4)

    async def more(self) -> None:
        """Wait until many more were created."""
        enough = self.created + 2 * AT_ONCE
        await until(lambda: self.created > enough, "pods are created")

    async def _create(self) -> None:
        response = await self._api.create_pod(self._namespace, pod())
        if response.status_code == 201 and "initContainers" in response.json()["spec"]:
            self.created += 1
        else:
            self.refusals[response.text[:500]] += 1


async def rotated(stage: Stage, request: str) -> None:
    """Ask for another certificate, and wait until it is served."""
    before = await stage.served()
    stage.rotate(request)

    async def changed() -> bool:
        return await stage.served() != before

    await until(changed, f"{request}: another certificate is served", every=0.1)


@contextlib.asynccontextmanager
async def beside(*work: Any) -> AsyncGenerator[None]:
    """Run something beside the block; what it raises is raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        yield
        for task in tasks:
            assert not task.done(), task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_certificates_change_under_load_and_no_pod_is_refused(stage: Stage, tmp_path: Path):
    plane = stage.plane
    namespace = plane.namespace()
    plane.kubectl("label", "namespace", namespace, f"{LABEL}=yes")
    plane.kubectl(f"--namespace={namespace}", "create", "serviceaccount", "support-agent")
    stage.port, _ = stage.webhook.start()
    stage.register()
    async with ApiClient(plane, tmp_path) as api:
        load = Load(api, namespace)

        async def works() -> bool:
            response = await api.create_pod(namespace, pod())
            return response.status_code == 201 and "initContainers" in response.json()["spec"]

        await until(lambda: not_yet(works), "labelled pods wait for a certificate")
        stage.operator.start()
        async with beside(stage.follow()):
            await until(works, "the certificate is made, delivered and trusted")
            async with load.running():
                for request in ("first", "second"):
                    await rotated(stage, request)
                    await load.more()
        assert load.refusals == Counter()
        assert load.created > 6 * AT_ONCE
        assert stage.bundle().count("BEGIN CERTIFICATE") >= 3, "those of before stay until they end"
        # What somebody else applies or undoes.
        before_apply = stage.bundle()
        stage.register()
        assert stage.bundle() == before_apply
        plane.kubectl("delete", "mutatingwebhookconfiguration", CONFIGURATION)
        stage.register()
        await until(lambda: stage.bundle() == before_apply, "the bundle is registered again")
        await until(works, "pods are created again")
    owned = {
        entry["manager"]: entry["fieldsV1"]
        for entry in stage.configured()["metadata"]["managedFields"]
    }
    [fields] = owned["holdfast-operator-certificates"]["f:webhooks"].values()
    assert set(fields) <= {".", "f:name", "f:clientConfig"}
    assert fields["f:clientConfig"] == {"f:caBundle": {}}
    stored = stage.secret()
    assert stored["type"] == "kubernetes.io/tls"
    assert "PRIVATE KEY" not in base64.b64decode(stored["data"]["ca.crt"]).decode()
    assert not [line for line in stage.operator.errors() if "Traceback" in line]
    stage.operator.terminate()


async def not_yet(works: Any) -> bool:
    return not await works()


async def test_the_operator_may_do_this_and_no_more(stage: Stage):
    account = f"--as=system:serviceaccount:{HOME}:{ACCOUNT}"

    def may(*what: str) -> bool:
        try:
            stage.plane.kubectl("auth", "can-i", *what, account, "--quiet")
        except KubectlError:
            return False
        return True

    assert may("update", f"secrets/{SECRET}", f"--namespace={HOME}")
    assert may("patch", f"mutatingwebhookconfigurations/{CONFIGURATION}")
    assert not may("get", "secrets/other", f"--namespace={HOME}")
    assert not may("list", "secrets", f"--namespace={HOME}")
    assert not may("delete", f"secrets/{SECRET}", f"--namespace={HOME}")
    assert not may("get", f"secrets/{SECRET}", "--namespace=default")
    assert not may("patch", "mutatingwebhookconfigurations/other")
    assert not may("create", "mutatingwebhookconfigurations")
    # Creating cannot be restricted by name with RBAC: the admission policy does.
    other = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other"}}

    def refused() -> bool:
        user = account.removeprefix("--as=")
        try:
            stage.plane.administrator.create(HOME, other, dry_run=True, user=user)
        except Refused as error:
            return "writes no Secret but" in str(error)
        return False

    await until(refused, "the policy is in force", every=0.1)
