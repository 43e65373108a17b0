"""From `helm install` to a conversation, by the words of the README, the documentation and the chart."""

import ast
import contextlib
import os
import re
import shlex
import subprocess
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from tests.e2e import manifests
from tests.e2e.product import HOME, Product, values
from tests.harness.helm import CHART
from tests.harness.markdown import Claim, Document, claims
from tests.harness.node.cluster import Namespace
from tests.harness.waiting import wait

ROOT = Path(__file__).parents[2]
IMAGE = "registry.example/holdfast"
"""What every reader has to put an image of their own for."""
INSTALL = Claim(
    "On Kubernetes",
    0,
    """\
helm install holdfast charts/holdfast --namespace holdfast-system --create-namespace --set image.repository=registry.example/holdfast --set 'tenantNamespaces={default}' --set tryout.enabled=true --wait
""",  # noqa: E501 - as it is to be pasted
)
APPLY = Claim(
    "On Kubernetes",
    1,
    """\
kubectl apply -f - <<'EOF'
apiVersion: holdfast.dev/v1alpha1
kind: MemoryBackend
metadata: {name: shared}
spec:
  endpoints: ["holdfast-tryout.holdfast-system.svc:6379"]
---
apiVersion: holdfast.dev/v1alpha1
kind: MemoryResource
metadata: {name: support}
spec:
  backendRef: {name: shared}
  limits: {maxTokens: 12000}
  retention: {ttl: 24h}
---
apiVersion: holdfast.dev/v1alpha1
kind: MemoryBinding
metadata: {name: support-agent}
spec:
  serviceAccountName: support-agent
  memories:
  - {name: support, memoryRef: {name: support}, access: ReadWrite}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: support-agent}
---
apiVersion: v1
kind: Pod
metadata:
  name: support-agent
  labels: {holdfast.dev/inject: "true"}
spec:
  serviceAccountName: support-agent
  containers:
  - name: agent
    image: registry.example/holdfast:0.1.0
    command: [python, -c, "import signal; signal.signal(signal.SIGTERM, lambda *_: exit()); signal.pause()"]
EOF
kubectl wait --for=condition=Ready memoryresources support --timeout=5m
kubectl wait --for=condition=Ready pod support-agent --timeout=5m
""",
)
TALK = Claim(
    "On Kubernetes",
    2,
    """\
kubectl exec -i support-agent --container=agent -- python - <<'EOF'
import holdfast.sync as holdfast

with holdfast.connect() as client:  # at HOLDFAST_URL: the socket of the sidecar
    session = client.memory("support").session("user-42")
    session.append({"role": "user", "content": "Where is my order?"}, id="request-1")
    print(session.read(), session.token_count())
EOF
""",
)
SAY = """
import sys
sys.path.insert(0, "/programs")
from sidecar_client import Session
session = Session("support", "customer 42")
session.append({"role": "user", "content": "Where is my order?"})
session.append({"role": "assistant", "content": "On its way."})
print([message["content"] for message in session.read()])
"""


class Terminal:
    """A shell in the root of the checkout, with helm and kubectl on its path as the cluster wants them."""

    def __init__(self, product: Product, directory: Path) -> None:
        cluster = product.cluster
        self._environ = {
            **os.environ,
            "PATH": f"{directory}:{os.environ.get('PATH', os.defpath)}",
            "KUBECONFIG": str(cluster.kubeconfig),
            "HOME": str(directory),
        }
        for name, command in (("kubectl", cluster.kubectl_command), ("helm", product.helm_command)):
            script = directory / name
            script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
            script.chmod(0o755)

    def run(self, text: str) -> str:
        done = subprocess.run(
            ["sh", "-exc", text],
            cwd=ROOT,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout


def documented_commands() -> tuple[str, str]:
    """The first block of docs/install.md: to install, and to test."""
    text = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    found = re.search(r"```sh\n(helm install .*)\n(helm test .*)\n```", text)
    assert found is not None
    return found[1], found[2]


@pytest.fixture
def default(product: Product) -> Namespace:
    return Namespace(product.cluster, "default")


@pytest.fixture(scope="module")
def bare(product: Product) -> Iterator[Product]:
    """A cluster without the release; it is there again for the tests after these."""
    product.helm.uninstall("--wait")
    yield product
    product.helm.upgrade(values(product.cluster), "--install", "--wait", "--timeout=5m")
    product.platform.ready("membackend/shared")


@contextlib.contextmanager
def installed(
    product: Product, terminal: Terminal, command: str, cleared: Sequence[tuple[Namespace, str]]
) -> Generator[None]:
    """Run a documented installation; at the end let the operator clear objects, and uninstall it."""
    repository, _, tag = product.cluster.images.holdfast.rpartition(":")
    # What every reader has to put in: an image of their own; and here one of a server, too.
    ours = f"--set image.tag={tag} --set tryout.enabled=true"
    ours += f" --set tryout.image={product.cluster.images.valkey} --wait --timeout 5m"
    try:
        terminal.run(f"{command.strip().replace(IMAGE, repository)} {ours}")
        yield
    finally:
        for namespace, what in cleared:
            namespace.delete(what, "--ignore-not-found")
        for namespace, what in cleared:
            gone = f"{what} is gone"
            wait(lambda namespace=namespace, what=what: not namespace.exists(what), gone)
        product.helm.uninstall("--wait")


OBJECTS = ("membind/support-agent", "memres/support", "sa/support-agent")


@claims(INSTALL, APPLY, TALK)
def test_the_readme_leads_from_helm_install_to_an_agent_with_memory(
    bare: Product, default: Namespace, tmp_path: Path
):
    readme = Document.read(ROOT / "README.md")
    terminal = Terminal(bare, tmp_path)
    cleared = [(default, each) for each in ("pod/support-agent", *OBJECTS, "membackend/shared")]
    with installed(bare, terminal, INSTALL.check(readme), cleared):
        ours = f"{IMAGE}:{_chart_version()}"
        assert ours in APPLY.text, "the tag is the one that the chart asks for by itself"
        terminal.run(APPLY.check(readme).replace(ours, bare.cluster.images.holdfast))
        said = terminal.run(TALK.check(readme)).strip()
        message, _, tokens = said.rpartition(" ")
        assert ast.literal_eval(message) == [{"role": "user", "content": "Where is my order?"}]
        assert int(tokens) > 0
        # As its id says: the second time nothing is stored again.
        assert terminal.run(TALK.text).strip() == said
        rows = terminal.run("kubectl get memoryresources,memorybindings --no-headers").splitlines()
        assert [row.split()[1] for row in rows if row.strip()] == ["True", "True"], rows


def _chart_version() -> str:
    return yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"]


def test_the_documentation_leads_from_helm_install_to_a_conversation(
    bare: Product, default: Namespace, tmp_path: Path
):
    terminal = Terminal(bare, tmp_path)
    install, test = documented_commands()
    bare.cluster.make_namespace("team-a")
    cleared = [(default, each) for each in ("pod/agent", *OBJECTS)]
    with installed(bare, terminal, install, [*cleared, (bare.home, "membackend/shared")]):
        terminal.run(test)
        notes = terminal.run(f"helm --namespace {HOME} get notes holdfast")
        upgrade = re.search(r"^ *(helm .*upgrade (?:.*\\\n)*.*)$", notes, flags=re.MULTILINE)
        assert upgrade is not None, notes
        terminal.run(f"{upgrade[1].replace('CHART', str(CHART))} --wait")
        apply = re.search(
            r"^kubectl apply -f - <<EOF\n.*?^EOF$", notes, flags=re.MULTILINE | re.DOTALL
        )
        assert apply is not None, notes
        terminal.run(apply[0])

        default.ready("memres/support")
        account = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "support-agent"},
        }
        agent = manifests.agent(bare.cluster.images, "idle", account="support-agent")
        default.apply([account, manifests.programs(), manifests.pod("agent", agent, injected=True)])
        default.kubectl("wait", "--for=condition=Ready", "pod/agent", "--timeout=240s")
        said = default.exec("pod/agent", "python", "-c", SAY, container="agent")
        assert said.strip() == "['Where is my order?', 'On its way.']"
