"""A new version of the definitions changes no policy that is in force.

The API server fills in defaults when it reads an object, also one that was stored long ago: so a default
that changes would change live memories, with nobody having edited anything.
"""

import pytest

from tests.fixtures.effective import effective_policies, fields, snapshot

ACCEPT = "if that is meant to be so: python -m tests.fixtures.effective write"
NOW, BEFORE = effective_policies(), snapshot()


def test_every_valid_memory_is_in_the_snapshot() -> None:
    assert NOW.keys() == BEFORE.keys(), ACCEPT


@pytest.mark.parametrize("name", sorted(BEFORE))
def test_no_field_that_was_in_force_has_another_value(name: str) -> None:
    now, before = fields(NOW[name]["document"]), fields(BEFORE[name]["document"])
    changed = {path: (old, now.get(path)) for path, old in before.items() if now.get(path) != old}
    assert not changed, (
        f"{name}.yaml would have another effective policy: {changed} (before, now). Live memories would "
        "change with an upgrade of the definitions, edited by nobody. Defaults are part of the API: keep "
        "the old value, or change it in a new version of the API"
    )


@pytest.mark.parametrize("name", sorted(BEFORE))
def test_no_effective_policy_has_a_new_digest(name: str) -> None:
    new = fields(NOW[name]["document"]).keys() - fields(BEFORE[name]["document"]).keys()
    assert NOW[name]["sha256"] == BEFORE[name]["sha256"], (
        f"{name}.yaml has another digest: every live memory gets a new revision and a rollout after an "
        f"upgrade. New fields: {sorted(new)}. The default of each must be the behaviour of before; {ACCEPT}"
    )


def test_a_changed_default_is_seen() -> None:
    before = fields({"limits": {"maxTokens": 2000}, "flushing": {"a": [1]}})
    assert before == {"limits.maxTokens": 2000, "flushing.a": [1]}
