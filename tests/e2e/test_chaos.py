"""Eight agents share a memory while pods, the server and the operator are killed: nothing is lost."""

import time

import pytest

from tests.e2e import manifests
from tests.e2e.load import Load, check_history
from tests.e2e.product import Product

KILL_EVERY = 6


def test_what_was_acknowledged_is_there_once_and_in_order(
    product: Product, pytestconfig: pytest.Config
):
    seconds = pytestconfig.getoption("--story-seconds")
    team = product.team()
    team.apply([manifests.memory(limits={"maxMessages": 100_000})])
    team.apply(manifests.binding("agent", "support"))
    load = Load(product, team, "left", "right", replicas=4)
    load.goes_on()

    begun = time.monotonic()
    killed: list[str] = []
    disturbances = [(0.3, product.restart_redis), (0.6, product.kill_operators)]
    # On a slow machine a disturbance takes its time, and the next one comes all the same.
    while (passed := time.monotonic() - begun) < seconds or disturbances:
        if disturbances and passed > disturbances[0][0] * seconds:
            disturbances.pop(0)[1]()
        killed.append(load.kill_one())
        time.sleep(KILL_EVERY)
    assert killed
    for name in ("left", "right"):
        team.rolled_out(f"deploy/{name}")
    load.goes_on()
    load.stop()

    acknowledged = load.acknowledgements()
    assert len(acknowledged) > 8 * 10
    check_history(acknowledged, product.records(team, "support", "shared"))
    product.platform.ready("membackend/shared")
    team.ready("memres/support")
