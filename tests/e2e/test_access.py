"""Who may: a pod has what its binding grants, and a pod without one waits and says why."""

import json
from typing import Any

import pytest

from tests.e2e import manifests
from tests.e2e.product import Product
from tests.harness.node.cluster import Namespace
from tests.harness.waiting import wait

ASK = """
import json, sys
sys.path.insert(0, "/programs")
from sidecar_client import Refused, Session
memory, what, *rest = sys.argv[1:]
session = Session(memory, "shared")
try:
    print(json.dumps({"answer": getattr(session, what)(*rest)}))
except Refused as refused:
    print(json.dumps({"refused": refused.status, "code": refused.problem["type"].rpartition(":")[2]}))
"""


def ask(team: Namespace, pod: str, memory: str, *what: str) -> dict[str, Any]:
    """Let an agent's pod use its sidecar."""
    said = team.exec(f"pod/{pod}", "python", "-c", ASK, memory, *what, container="agent")
    return json.loads(said)


def test_a_read_only_pod_reads_and_cannot_write(product: Product):
    team = product.team()
    images = product.cluster.images
    team.apply([manifests.memory(), *manifests.binding("writer", "support")])
    team.apply(manifests.binding("reader", "support", access="ReadOnly"))
    for name in ("writer", "reader"):
        spec = manifests.agent(images, "idle", account=name)
        team.apply(manifests.pod(name, spec, injected=True))
    for name in ("writer", "reader"):
        team.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=180s")

    assert "answer" in ask(team, "writer", "support", "append", "kept")
    assert ask(team, "reader", "support", "read") == {"answer": ["kept"]}
    refused = ask(team, "reader", "support", "append", "mine")
    assert refused["refused"] == 403, refused
    # Nor with the credentials in hand: it is the server that says no.
    key = f"mem:{{{team.name}/support/shared}}:log"
    reader = product.credentials(team, "reader")
    assert "kept" in product.redis("LRANGE", key, "0", "-1", login=reader)
    for command in (["RPUSH", key, "mine"], ["DEL", key], ["EXPIRE", key, "1"]):
        with pytest.raises(Exception, match=r"(?i)no ?perm"):
            product.redis(*command, login=reader)
    assert ask(team, "writer", "support", "read") == {"answer": ["kept"]}


def test_a_pod_of_another_namespace_reaches_nothing(product: Product):
    images = product.cluster.images
    teams = [product.team(), product.team("others")]
    for team in teams:
        team.apply([manifests.memory(), *manifests.binding("agent", "support")])
        spec = manifests.agent(images, "idle", account="agent")
        team.apply(manifests.pod("agent", spec, injected=True))
    for team in teams:
        team.kubectl("wait", "--for=condition=Ready", "pod/agent", "--timeout=180s")
    ours, others = teams

    assert "answer" in ask(ours, "agent", "support", "append", "ours")
    # The same name is another memory there, and no name leads out.
    assert ask(others, "agent", "support", "read") == {"answer": []}
    for name in (f"{ours.name}/support", "another"):
        assert ask(others, "agent", name, "read")["refused"] == 404
    login = product.credentials(others, "agent")
    for suffix in (":log", ":meta"):
        with pytest.raises(Exception, match=r"(?i)no ?perm"):
            product.redis("TYPE", f"mem:{{{ours.name}/support/shared}}{suffix}", login=login)
    with pytest.raises(Exception, match=r"(?i)no ?perm"):
        product.redis("KEYS", "*", login=login)


def test_a_pod_that_comes_before_its_binding_waits_says_why_and_starts(product: Product):
    team = product.team()
    spec = manifests.agent(product.cluster.images, "idle", account="early")
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "early"}}
    team.apply([account, manifests.pod("early", spec, injected=True)])

    def said() -> str:
        events = team.get("events", "--field-selector=involvedObject.name=early")["items"]
        return "\n".join(event["message"] for event in events)

    wait(
        lambda: 'secret "early-holdfast" not found' in said(), lambda: f"the pod says why: {said()}"
    )
    assert team.get("pod/early")["status"]["phase"] == "Pending"
    team.apply([manifests.memory(), *manifests.binding("early", "support")])
    # Kubelet tries again after at most two minutes.
    team.kubectl("wait", "--for=condition=Ready", "pod/early", "--timeout=240s", timeout=300)
    assert "answer" in ask(team, "early", "support", "append", "here at last")
