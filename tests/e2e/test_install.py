"""From `helm install` to a conversation, by the words of the documentation and of the chart itself."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.e2e import manifests
from tests.e2e.product import HOME, Product, values
from tests.harness.helm import CHART
from tests.harness.node.cluster import Namespace, wait

ROOT = Path(__file__).parents[2]
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


def test_the_documentation_leads_from_helm_install_to_a_conversation(
    product: Product, default: Namespace, tmp_path: Path
):
    terminal = Terminal(product, tmp_path)
    repository, _, tag = product.cluster.images.holdfast.rpartition(":")
    install, test = documented_commands()
    product.helm.uninstall("--wait")
    product.cluster.make_namespace("team-a")
    try:
        # What every reader has to put in: an image of their own; and a server for trying out.
        ours = f"--set image.tag={tag} --set tryout.enabled=true"
        ours += f" --set tryout.image={product.cluster.images.valkey} --wait --timeout 5m"
        terminal.run(f"{install.replace('registry.example/holdfast', repository)} {ours}")
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
        agent = manifests.agent(product.cluster.images, "idle", account="support-agent")
        default.apply([account, manifests.programs(), manifests.pod("agent", agent, injected=True)])
        default.kubectl("wait", "--for=condition=Ready", "pod/agent", "--timeout=240s")
        said = default.exec("pod/agent", "python", "-c", SAY, container="agent")
        assert said.strip() == "['Where is my order?', 'On its way.']"
    finally:
        for what in ("pod/agent", "membind/support-agent", "memres/support", "sa/support-agent"):
            default.delete(what, "--ignore-not-found")
        product.home.delete("membackend/shared", "--ignore-not-found")
        for what in ("membind/support-agent", "memres/support"):
            wait(lambda what=what: not default.exists(what), f"{what} is gone")
        wait(lambda: not product.home.exists("membackend/shared"), "the backend is gone")
        product.helm.upgrade(values(product.cluster), "--install", "--wait", "--timeout=5m")
    product.platform.ready("membackend/shared")
