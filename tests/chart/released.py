"""A release of the chart on a control plane: what it left there, and a chart as it was before."""

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.harness.control_plane import ControlPlane
from tests.harness.helm import CHART, Helm
from tests.harness.operator_process import OperatorProcess

HOME = "holdfast-system"
RESOURCES = "memoryresources.holdfast.dev"
WEBHOOK_OPTIONS = (
    "--webhook-certificate-secret=holdfast-webhook-certificate",
    "--webhook-configuration=holdfast-injection",
    "--webhook-service=holdfast-webhook",
)
CLUSTER_WIDE = (
    "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,"
    "mutatingwebhookconfigurations"
)


def previous_chart(directory: Path, helm: Helm) -> Path:
    """Package a chart of before: a definition and a role that know less, and an object that went since."""
    folder = directory / "previous"
    shutil.copytree(CHART, folder)
    chart = yaml.safe_load((folder / "Chart.yaml").read_text(encoding="utf-8"))
    chart.update(version="0.0.9", appVersion="0.0.9")
    (folder / "Chart.yaml").write_text(yaml.safe_dump(chart), encoding="utf-8")
    path = folder / "files/crds/holdfast.dev_memoryresources.yaml"
    definition = yaml.safe_load(path.read_text(encoding="utf-8"))
    columns = definition["spec"]["versions"][0]["additionalPrinterColumns"]
    columns[:] = [column for column in columns if column["name"] != "Tokens"]
    path.write_text(yaml.safe_dump(definition), encoding="utf-8")
    path = folder / "files/rbac/users.yaml"
    path.write_text(
        path.read_text(encoding="utf-8").replace("verbs: [bind, bindreadonly]", "verbs: [bind]"),
        encoding="utf-8",
    )
    (folder / "templates/gone.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: holdfast-gone}\n", encoding="utf-8"
    )
    return helm.package(directory, chart=folder)


class Place:
    """What can be seen of a release and of the objects of a tenant."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane = plane
        self.namespace = namespace
        self.helm = Helm(plane.admin_kubeconfig)

    def kubectl(self, *arguments: str) -> str:
        return self.plane.kubectl(f"--namespace={self.namespace}", *arguments)

    def get(self, what: str, namespace: str = "") -> dict[str, Any]:
        """Return an object: `memres/support`."""
        return self.plane.administrator.get(namespace or self.namespace, what)

    def is_ready(self, what: str) -> bool:
        conditions = self.get(what).get("status", {}).get("conditions", ())
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def exists(self, what: str, namespace: str = "") -> bool:
        return self.plane.administrator.find(namespace or self.namespace, what) is not None

    def uids(self) -> dict[str, str]:
        """Our objects of the tenant and the definitions, each with its uid."""
        found = json.loads(self.kubectl("get", "holdfast,crds", "-o", "json"))["items"]
        return {
            f"{each['kind']}/{each['metadata']['name']}": each["metadata"]["uid"] for each in found
        }

    def columns(self) -> list[str]:
        definition = self.get(f"crd/{RESOURCES}")
        return [
            each["name"] for each in definition["spec"]["versions"][0]["additionalPrinterColumns"]
        ]

    def authority(self) -> str:
        """By what the API server believes the webhook."""
        [webhook] = self.get("mutatingwebhookconfiguration/holdfast-injection")["webhooks"]
        return webhook["clientConfig"].get("caBundle", "")

    def of_release(self) -> list[str]:
        """Everything outside of namespaces, and in the release's own, that the release made."""
        selector = "--selector=app.kubernetes.io/instance=holdfast"
        found: list[str] = []
        for kinds, where in (
            (CLUSTER_WIDE, []),
            ("all,roles,rolebindings,serviceaccounts,configmaps,pdb", [f"--namespace={HOME}"]),
            ("roles,rolebindings", [f"--namespace={self.namespace}"]),
        ):
            found += self.plane.kubectl("get", kinds, *where, selector, "-o", "name").split()
        return found

    def operator(self, directory: Path, *arguments: str) -> OperatorProcess:
        """The operator, as the ServiceAccount that the release made and with what it may do."""
        self.plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=120s")
        directory.mkdir(parents=True)
        options = ["--interval=2", *WEBHOOK_OPTIONS, *arguments]
        return OperatorProcess(self.plane, directory, arguments=options, elected=True, forked=True)


def objects(namespace: str, port: int) -> str:
    """A backend, a memory on it, and a binding."""
    return f"""
apiVersion: holdfast.dev/v1alpha1
kind: MemoryBackend
metadata: {{name: shared, namespace: {namespace}}}
spec: {{endpoints: ["127.0.0.1:{port}"], keyPrefix: {namespace}}}
---
apiVersion: holdfast.dev/v1alpha1
kind: MemoryResource
metadata: {{name: support, namespace: {namespace}}}
spec: {{backendRef: {{name: shared}}, retention: {{ttl: 24h}}}}
---
apiVersion: holdfast.dev/v1alpha1
kind: MemoryBinding
metadata: {{name: agent, namespace: {namespace}}}
spec:
  serviceAccountName: agent
  memories: [{{name: support, memoryRef: {{name: support}}, access: ReadWrite}}]
"""


OBJECTS = ("membackend/shared", "memres/support", "membind/agent")
