"""The commands of docs/plain-files.md, in its order, on a cluster that has seen nothing else."""

import asyncio
import base64
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import holdfast
from holdfast.values import Health
from tests.harness.control_plane import ControlPlane
from tests.harness.installation import ROOT, Installation
from tests.harness.markdown import Claim, Document, claims, claims_of
from tests.harness.servers import Product, Server, running_server
from tests.harness.tied_processes import TiedProcesses
from tests.harness.waiting import until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.redis,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
]

INSTALL = Claim(
    "The operator",
    0,
    """\
kubectl apply -f crds/
kubectl create namespace holdfast-system
kubectl apply -n holdfast-system -f charts/holdfast/files/rbac/serviceaccount.yaml
kubectl apply -f charts/holdfast/files/rbac/discovery.yaml -f charts/holdfast/files/rbac/operator.yaml
kubectl apply -f charts/holdfast/files/rbac/leader.yaml -f charts/holdfast/files/rbac/users.yaml
kubectl apply -f charts/holdfast/files/admission/
pip install '.[operator]'
holdfast-operator
""",
)
MEMORY = Claim(
    "The operator",
    1,
    """\
apiVersion: holdfast.dev/v1alpha1
kind: MemoryBackend
metadata: {name: shared}
spec:
  endpoints: ["redis.default.svc:6379"]
---
apiVersion: holdfast.dev/v1alpha1
kind: MemoryResource
metadata: {name: support}
spec:
  backendRef: {name: shared}
  limits: {maxTokens: 12000}
  retention: {ttl: 24h}
""",
)
GET = Claim("The operator", 2, "kubectl get memoryresources\n")
BINDING = Claim(
    "A login for each workload",
    0,
    """\
apiVersion: holdfast.dev/v1alpha1
kind: MemoryBinding
metadata: {name: support-agent}
spec:
  serviceAccountName: support-agent
  memories:
  - {name: support, memoryRef: {name: support}, access: ReadWrite}
""",
)
ACCESS = Claim(
    "A login for each workload",
    1,
    """\
kubectl create serviceaccount support-agent
kubectl apply -f charts/holdfast/files/rbac/binding-secrets.yaml
kubectl wait --for=condition=Ready memorybindings support-agent
""",
)
POD = Claim(
    "A login for each workload",
    2,
    """\
apiVersion: v1
kind: Pod
metadata: {name: support-agent}
spec:
  serviceAccountName: support-agent
  containers:
  - name: agent
    image: registry.example/support-agent
    env: [{name: SERVICE_BINDING_ROOT, value: /bindings}]
    volumeMounts: [{name: memory, mountPath: /bindings/memory, readOnly: true}]
  volumes:
  - name: memory
    secret: {secretName: support-agent-holdfast}
""",
)

ENDPOINT = "redis.default.svc:6379"
ADDRESS = f"redis://{ENDPOINT}/0?namespace=default"
SECRETS = "charts/holdfast/files/rbac/backend-secrets.yaml"
PASSWORD = "correct-horse-battery-staple"


@dataclass(frozen=True)
class Cluster:
    """A cluster on which the document's first block was carried out, and somebody's shell."""

    plane: ControlPlane
    installation: Installation
    operator: TiedProcesses

    def shell(self, command: str) -> str:
        """Run a command in the repository's root, as the cluster's administrator."""
        assert self.operator.ended() is None, self.operator.log_tail("operator", 40)
        return _administrator(self.plane, self.installation, command)

    def apply(self, manifest: str, directory: Path, *, namespace: str = "default") -> None:
        """Apply a text as it is."""
        file = directory / "manifest.yaml"
        file.write_text(manifest, encoding="utf-8")
        self.shell(f"kubectl apply -n {namespace} -f {shlex.quote(str(file))}")

    def row(self, name: str, *, namespace: str = "default") -> dict[str, str]:
        """Return what `kubectl get memoryresources` shows of one, by column."""
        command = GET.text.strip()
        if namespace != "default":
            command += f" -n {namespace}"
        header, *rows = (line.split() for line in self.shell(command).splitlines())
        return next(dict(zip(header, row, strict=False)) for row in rows if row and row[0] == name)

    def wait_for(
        self, name: str, ready: str, reason: str | None = None, *, namespace: str = "default"
    ) -> None:
        """Wait until the table shows this."""

        def shown() -> bool:
            row = self.row(name, namespace=namespace)
            return row.get("READY") == ready and reason in (None, row.get("REASON"))

        asyncio.run(until(shown, f"{name}: {ready} {reason or ''}"))


def _administrator(plane: ControlPlane, installation: Installation, command: str) -> str:
    path = f"{plane.kubectl_path.parent}:{installation.environ['PATH']}"
    return installation.shell(
        command,
        cwd=ROOT,
        variables={
            "PATH": path,
            "KUBECONFIG": str(plane.admin_kubeconfig),
            "HOME": str(plane.admin_kubeconfig.parent),  # for kubectl's cache
        },
    )


@pytest.fixture(scope="module")
def document() -> Document:
    """What is followed."""
    return Document.read(ROOT / "docs/plain-files.md")


@pytest.fixture(scope="module")
def cluster(
    control_plane: ControlPlane, document: Document, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Carry out the first block, with the operator in the rights of the ServiceAccount it makes.

    Its cluster is not the one that other tests share: the commands are for one in which nothing is
    installed, and the operator serves all namespaces.
    """
    del control_plane  # the programs are there once it is
    directory = tmp_path_factory.mktemp("plain-files")
    installation = Installation(directory / "installation")
    *prepare, install, run = INSTALL.check(document).splitlines()
    with ControlPlane.start(directory / "cluster") as plane:
        for command in prepare:
            _administrator(plane, installation, command)
        installation.install(install)
        kubeconfig = plane.kubeconfig_for("holdfast-system", "holdfast-operator")
        variables = [f"KUBECONFIG={kubeconfig}", f"PATH={installation.environ['PATH']}"]
        operator = TiedProcesses(directory, {"operator": ["/usr/bin/env", *variables, run]})
        operator.start("operator")
        try:
            yield Cluster(plane, installation, operator)
        finally:
            operator.stop()


@pytest.fixture
def server(valkey_server: Server, tmp_path: Path) -> Iterator[Server]:
    """A server that holds nothing: the shared one may know this memory from another cluster."""
    del valkey_server  # where it is missing, so is this one
    with running_server(Product.VALKEY, tmp_path / "valkey") as running:
        yield running


def test_every_block_is_run_by_one_test(document: Document):
    claimed = claims_of(sys.modules[__name__])
    assert sorted((claim.heading, claim.index) for claim in claimed) == sorted(
        (block.heading, block.index) for block in document.blocks
    )


@claims(INSTALL, MEMORY, GET)
def test_a_backend_and_eight_lines_are_a_memory(
    document: Document, cluster: Cluster, server: Server, tmp_path: Path
):
    assert GET.check(document).strip() == "kubectl get memoryresources"
    text = MEMORY.check(document)
    assert text.count(ENDPOINT) == 1
    cluster.apply(text.replace(ENDPOINT, f"127.0.0.1:{server.port}"), tmp_path)
    cluster.wait_for("support", "True", "Available")

    assert any(span.text == ADDRESS for span in document.code_spans())
    url = ADDRESS.replace(ENDPOINT, f"127.0.0.1:{server.port}")
    health = asyncio.run(_talk(url))
    assert health.managed
    assert (health.revision, health.messages) == (1, 1)


def test_a_memory_that_is_not_ready_says_why(cluster: Cluster, tmp_path: Path):
    support = list(yaml.safe_load_all(MEMORY.text))[1]
    support["metadata"]["name"] = "lost"
    support["spec"]["backendRef"]["name"] = "nowhere"
    cluster.apply(yaml.safe_dump(support), tmp_path)
    cluster.wait_for("lost", "False", "BackendNotFound")


def test_a_server_with_a_password_takes_a_secret(
    document: Document, cluster: Cluster, tmp_path: Path
):
    assert any(span.text == SECRETS for span in document.code_spans())
    cluster.shell(
        "kubectl create namespace team\n"
        "kubectl create secret generic credentials -n team"
        f" --from-literal=username=default --from-literal=password={PASSWORD}\n"
        'kubectl label secret credentials -n team holdfast.dev/credentials="backend"\n'
    )
    options = ["--requirepass", PASSWORD]
    with running_server(Product.VALKEY, tmp_path / "valkey", arguments=options) as server:
        backend, support = yaml.safe_load_all(MEMORY.text)
        backend["spec"] = {
            "endpoints": [f"127.0.0.1:{server.port}"],
            "authRef": {"name": "credentials"},
        }
        cluster.apply(yaml.safe_dump_all([backend, support]), tmp_path, namespace="team")
        cluster.wait_for("support", "False", namespace="team")
        cluster.shell(f"kubectl apply -n team -f {SECRETS}")
        cluster.wait_for("support", "True", "Available", namespace="team")
        url = f"redis://default:{PASSWORD}@127.0.0.1:{server.port}/0?namespace=team"
        assert asyncio.run(_talk(url)).managed


@claims(BINDING, ACCESS, POD)
def test_a_workload_gets_a_login_of_its_own(
    document: Document,
    cluster: Cluster,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    cluster.shell("kubectl create namespace bound")
    backend, support = yaml.safe_load_all(MEMORY.text)
    backend["spec"]["endpoints"] = [f"127.0.0.1:{server.port}"]
    manifest = yaml.safe_dump_all([backend, support]) + "---\n" + BINDING.check(document)
    cluster.apply(manifest, tmp_path, namespace="bound")
    for command in ACCESS.check(document).splitlines():
        cluster.shell(f"{command} -n bound")

    pod = yaml.safe_load(POD.check(document))
    [container], [volume] = pod["spec"]["containers"], pod["spec"]["volumes"]
    [mount], [variable] = container["volumeMounts"], container["env"]
    assert mount["name"] == volume["name"]
    assert Path(mount["mountPath"]).parent == Path(variable["value"])
    cluster.apply(POD.text, tmp_path, namespace="bound")
    cluster.shell("kubectl create serviceaccount somebody -n bound")
    pod["metadata"]["name"] = pod["spec"]["serviceAccountName"] = "somebody"
    with pytest.raises(AssertionError, match="for pods of the ServiceAccount support-agent"):
        cluster.apply(yaml.safe_dump(pod), tmp_path, namespace="bound")

    # What kubelet would do.
    name = volume["secret"]["secretName"]
    secret = json.loads(cluster.shell(f"kubectl get secret {name} -n bound -o json"))
    files = tmp_path / Path(mount["mountPath"]).relative_to("/")
    files.mkdir(parents=True)
    for entry, content in secret["data"].items():
        (files / entry).write_bytes(base64.b64decode(content))
    monkeypatch.setenv(variable["name"], str(files.parent))
    assert any(span.text == "holdfast.connect()" for span in document.code_spans())
    assert asyncio.run(_talk(None)).managed


async def _talk(url: str | None) -> Health:
    """Write as an agent does that has no policy of its own."""
    async with holdfast.connect(url) as client:
        session = client.memory("support").session("first")
        await session.append({"role": "user", "content": "hi"})
        return await session.health()
