"""The release: it is upgraded, taken away and brought back while agents write, and memories stay."""

from tests.e2e import manifests
from tests.e2e.load import Load, check_history
from tests.e2e.product import Product, values
from tests.harness.node.cluster import Namespace, condition


def team_with_memory(product: Product) -> Namespace:
    team = product.team()
    team.apply([manifests.memory(limits={"maxMessages": 100_000})])
    team.apply(manifests.binding("agent", "support"))
    return team


def uids(team: Namespace) -> dict[str, str]:
    """Who our objects of a team are."""
    items = team.get("memres,membind")["items"]
    return {f"{each['kind']}/{each['metadata']['name']}": each["metadata"]["uid"] for each in items}


def test_an_upgrade_with_a_policy_change_stops_nobody(product: Product):
    team = team_with_memory(product)
    load = Load(product, team, "writers", replicas=2)
    load.goes_on(more=30)
    before, operators = uids(team), set(product.operators())

    changed = values(product.cluster)
    changed["operator"] = {**changed["operator"], "podAnnotations": {"example.org/upgrade": "1"}}
    changed["injection"] = {"sidecar": {"drain": "10s"}}
    product.helm.upgrade(changed, "--wait", "--timeout=5m")
    team.patch("memres/support", {"limits": {"maxMessages": 25}})
    # Retroactive: what is there already follows the policy, and so does whatever comes.
    team.until(
        "memres/support",
        lambda body: (
            body["status"].get("effective", {}).get("maxMessages") == 25
            and condition(body, "PolicyApplied")["status"] == "True"
        ),
        "the policy is applied to every session",
    )
    load.goes_on()
    assert not operators & set(product.operators()), "the operator's pods are still the old ones"
    assert uids(team) == before
    assert len(product.records(team, "support", "shared")) <= 25
    load.stop()
    assert not load.failures()
    product.helm.upgrade(values(product.cluster), "--wait", "--timeout=5m")


def test_what_is_uninstalled_and_installed_again_finds_everything(product: Product):
    team = team_with_memory(product)
    load = Load(product, team, "writers", replicas=2)
    load.goes_on()
    before, login = uids(team), product.credentials(team, "agent")

    product.helm.uninstall("--wait", "--timeout=5m")
    assert not product.home.pods("app.kubernetes.io/name=holdfast")
    # The sidecars go on: they need nobody but the server.
    load.goes_on()
    assert uids(team) == before
    product.helm.install(values(product.cluster), "--wait", "--timeout=5m")
    # From this moment on, pods that ask for a sidecar get one.
    spec = manifests.agent(product.cluster.images, "idle", account="agent")
    team.apply(manifests.pod("asks", spec, injected=True))
    (injected,) = team.get("pod/asks")["spec"]["initContainers"]
    assert injected["name"] == "holdfast"
    product.platform.ready("membackend/shared")
    team.patch("memres/support", {"limits": {"maxMessages": 90_000}})
    team.until(
        "memres/support",
        lambda body: body["status"].get("effective", {}).get("maxMessages") == 90_000,
        "the operator acts again",
    )
    load.goes_on()
    load.stop()
    assert uids(team) == before
    assert product.credentials(team, "agent") == login
    assert not load.failures()
    check_history(load.acknowledgements(), product.records(team, "support", "shared"))
