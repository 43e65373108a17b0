"""What injection adds to the creation of a pod, on a real API server: by the webhook, and by the policy."""

import asyncio
import base64
import contextlib
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import yaml
from measure import Call, Figure, alternating, figure

from tests.harness.api_client import ApiClient
from tests.harness.certificates import CertificateAuthority
from tests.harness.control_plane import ControlPlane
from tests.harness.kubernetes_binaries import ControlPlaneUnavailable
from tests.harness.operator_process import HOME
from tests.harness.pods import pod
from tests.harness.waiting import until
from tests.harness.webhook_process import INJECTION, WebhookProcess, configuration

WEBHOOK, POLICY = "by-webhook", "by-policy"
"""Labels of namespaces, and their names."""
_TARGET = "<= 20"


def bench(scale: int) -> list[Figure]:
    """Measure; nothing where no control plane can be had.

    Args:
        scale: 10 for the figures, 1 for a try.
    """
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            plane = stack.enter_context(ControlPlane.start(directory / "cluster"))
        except ControlPlaneUnavailable as error:
            print(f"injection is not measured: {error}")
            return []
        webhook = WebhookProcess(directory / "webhook")
        stack.callback(webhook.stop)
        _prepare(plane, webhook, directory)
        return asyncio.run(_measure(plane, directory, scale))


def _prepare(plane: ControlPlane, webhook: WebhookProcess, directory: Path) -> None:
    authority = CertificateAuthority(directory, "bench")
    pair = authority.server("webhook-serving", hosts=["127.0.0.1"])
    for name, source in (("tls.crt", pair.certificate), ("tls.key", pair.key)):
        (webhook.certificates / name).write_bytes(source.read_bytes())
    port, _ = webhook.start()
    bundle = base64.b64encode(authority.certificate.read_bytes()).decode()
    plane.apply(json.dumps(configuration(port, bundle, label=WEBHOOK)))
    for name in (HOME, WEBHOOK, POLICY):
        plane.kubectl("create", "namespace", name)
    for name in (WEBHOOK, POLICY):
        plane.kubectl("label", "namespace", name, f"{name}=yes")
        plane.kubectl(f"--namespace={name}", "create", "serviceaccount", "support-agent")
    plane.apply(INJECTION / "settings.yaml")
    documents: list[Any] = list(
        yaml.safe_load_all((INJECTION / "policy.yaml").read_text(encoding="utf-8"))
    )
    for document in documents:
        if "matchConstraints" in document["spec"]:
            selector = document["spec"]["matchConstraints"]["namespaceSelector"]
            selector["matchExpressions"].append({"key": POLICY, "operator": "Exists"})
    plane.apply(yaml.safe_dump_all(documents))


async def _measure(plane: ControlPlane, directory: Path, scale: int) -> list[Figure]:
    async with ApiClient(plane, directory) as api:
        for namespace in (WEBHOOK, POLICY):
            await until(lambda where=namespace: _injects(api, where), namespace)

        def creating(namespace: str, *, labelled: bool) -> Call:
            body = pod(labelled=labelled)

            async def call() -> None:
                response = await api.create_pod(namespace, body)
                assert ("initContainers" in response.json()["spec"]) == labelled, response.text

            return call

        calls = {
            "plain": creating(WEBHOOK, labelled=False),
            WEBHOOK: creating(WEBHOOK, labelled=True),
            POLICY: creating(POLICY, labelled=True),
        }
        rounds = await alternating(calls, rounds=5, each=20 * scale)
    plain = statistics.median(medians["plain"] for medians in rounds) * 1e3
    note = f"beside {plain:.1f} ms for a pod without the label; nothing is stored"
    added = {
        name: statistics.median(medians[name] - medians["plain"] for medians in rounds) * 1e3
        for name in (WEBHOOK, POLICY)
    }
    return [
        figure(
            "injection: added to a pod by the webhook, p50", added[WEBHOOK], "ms", _TARGET, note
        ),
        figure("injection: added to a pod by the policy, p50", added[POLICY], "ms", None, note),
    ]


async def _injects(api: ApiClient, namespace: str) -> bool:
    response = await api.create_pod(namespace, pod())
    return response.status_code == 201 and "initContainers" in response.json()["spec"]
