"""Things that end: a node is drained, a namespace is deleted while its server is away."""

import pytest

from tests.e2e import manifests
from tests.e2e.load import Load, check_history
from tests.e2e.product import Product
from tests.harness.waiting import wait


def test_a_drained_node_loses_nothing_and_the_last_of_us_stays(product: Product):
    node = product.cluster.node
    if node is None:
        pytest.skip("a node of somebody's own cluster is not drained")
    kubectl = product.cluster.kubectl
    team = product.team()
    team.apply([manifests.memory(limits={"maxMessages": 100_000})])
    team.apply(manifests.binding("agent", "support"))
    load = Load(product, team, "writers", replicas=3)
    load.goes_on()
    try:
        # Agents first, as the scheduler would move them elsewhere.
        drain = ("drain", node.name, "--delete-emptydir-data", "--ignore-daemonsets", "--force")
        kubectl(*drain, "--pod-selector=app=writers", "--timeout=240s")
        assert all(pod["status"]["phase"] == "Pending" for pod in load.pods())
        # There is no other node to go to: one of two operators and webhooks leaves, the other one is
        # protected by its disruption budget.
        with pytest.raises(Exception, match="disruption budget"):
            kubectl(*drain, "--pod-selector=app.kubernetes.io/name=holdfast", "--timeout=20s")
        running = [
            pod["metadata"]["labels"]["app.kubernetes.io/component"]
            for pod in product.home.pods("app.kubernetes.io/name=holdfast")
            if pod["status"]["phase"] == "Running"
        ]
        assert sorted(running) == ["operator", "webhook"]
    finally:
        kubectl("uncordon", node.name)
    team.rolled_out("deploy/writers")
    for name in ("operator", "webhook"):
        product.home.rolled_out(f"deploy/holdfast-{name}")
    load.goes_on()
    load.stop()
    check_history(load.acknowledgements(), product.records(team, "support", "shared"))


def test_a_namespace_ends_although_its_server_is_away(product: Product):
    images = product.cluster.images
    place = product.team("doomed")
    place.apply(manifests.valkey(images))
    place.rolled_out("deploy/valkey")
    place.apply([manifests.backend("own", endpoints=[f"valkey.{place.name}.svc:6379"])])
    place.apply([manifests.memory(backendRef={"name": "own"}, deletionPolicy="Delete")])
    place.apply(manifests.binding("agent", "support"))
    place.ready("memres/support")
    place.ready("membind/agent")
    place.kubectl("scale", "deploy/valkey", "--replicas=0")
    place.kubectl("wait", "--for=delete", "pod", "--selector=app=valkey", "--timeout=180s")

    product.cluster.kubectl("delete", "namespace", place.name, "--wait=false")
    wait(
        lambda: not product.cluster.exists("namespace", place.name),
        lambda: product.cluster.kubectl("get", "namespace", place.name, "--output=yaml"),
        deadline=300,
    )
