"""Passwords change while agents write, and no agent notices."""

import hashlib

from tests.e2e import manifests
from tests.e2e.load import Load, check_history
from tests.e2e.product import Product
from tests.harness.waiting import wait

ASKED = "holdfast.dev/rotate-requested-at"
PASSWORD = "/bindings/agent/password"
READ = f"print(open('{PASSWORD}').read(), end='')"


def test_a_password_is_rotated_under_load_without_a_failed_request(product: Product):
    team = product.team()
    rotation = {"interval": "24h", "grace": "2m"}
    team.apply([manifests.memory(limits={"maxMessages": 100_000})])
    team.apply(manifests.binding("agent", "support", rotation=rotation))
    load = Load(product, team, "writers", replicas=2)
    load.goes_on()
    user, old = product.credentials(team, "agent")

    team.kubectl("annotate", "membind/agent", f"{ASKED}=now")
    team.until(
        "membind/agent",
        lambda body: body["status"]["rotation"].get("lastHandledRequest") == "now",
        "rotated",
    )
    _, new = product.credentials(team, "agent")
    assert new != old

    def everywhere() -> bool:
        names = [pod["metadata"]["name"] for pod in load.pods()]
        said = [
            team.exec(f"pod/{name}", "python", "-c", READ, container="holdfast") for name in names
        ]
        return said == [new] * len(names)

    wait(everywhere, "every sidecar has the new password", deadline=240)
    load.goes_on()
    # The end of the grace period, early: the old password goes, and who is logged in with it has to log
    # in again.
    product.redis("ACL", "SETUSER", user, f"!{hashlib.sha256(old.encode()).hexdigest()}")
    load.goes_on()
    product.redis("CLIENT", "KILL", "USER", user)
    load.goes_on(more=20)
    load.stop()
    assert not load.failures()
    check_history(load.acknowledgements(), product.records(team, "support", "shared"))
