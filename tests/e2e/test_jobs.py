"""Pods that end: a Job and a CronJob complete, sidecar and all, and what they said is kept."""

from tests.e2e import manifests
from tests.e2e.product import Product


def test_a_job_and_a_cron_job_complete_and_their_last_append_is_kept(product: Product):
    team = product.team()
    images = product.cluster.images
    turn = manifests.agent(images, "one_turn", account="agent")
    team.apply([manifests.memory(), *manifests.binding("agent", "support")])
    team.apply([manifests.job("once", turn, injected=True)])
    team.apply([manifests.cron_job("daily", turn, injected=True)])
    team.kubectl("create", "job", "--from=cronjob/daily", "today")
    for name in ("job/once", "job/today"):
        team.completed(name)
    pods = team.get("pods")["items"]
    assert len(pods) == 2
    for pod in pods:
        (sidecar,) = pod["status"]["initContainerStatuses"]
        assert sidecar["state"]["terminated"]["exitCode"] == 0, sidecar
    said = [record.item["content"] for record in product.records(team, "support", "shared")]
    assert sorted(said) == sorted(f"hello from {pod['metadata']['name']}" for pod in pods)
