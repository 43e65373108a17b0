"""Bugs that are planted in the operator are found, each by the rule that is there for it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.ground import ground
from tests.chaos.life import Ground, Life
from tests.chaos.operators import Fate
from tests.chaos.phases import all_phases
from tests.chaos.plants import PLANTS
from tests.harness.control_plane import ControlPlane

FOUND = {
    "rollout-is-only-claimed": "update: a session has revision 1, not 2",
    "rollout-stops-half-way": "update: a session has revision 1, not 2",
    "rollout-drops-too-much": "update: a session holds 7 messages, not the last 8",
    "log-shows-passwords": "create: the operator's log shows a password",
    "status-is-written-for-ever": "create: no rest",
    "secret-comes-before-the-user": "create: the binding is Ready, and the login in its Secret is refused",
    "rotation-takes-the-old-password": "rotation: the old password is refused during grace",
    "deletion-forgets-the-sessions": "delete: a key :log is left",
}


@pytest.mark.cluster
@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.asyncio
async def test_each_is_found(control_plane: ControlPlane, tmp_path: Path):
    assert FOUND.keys() == PLANTS.keys()
    async with ground(control_plane, tmp_path, watched=1.0) as shared:
        found = await asyncio.gather(*(_found(shared, name) for name in FOUND))
    for (name, sentence), violations in zip(FOUND.items(), found, strict=True):
        assert any(one.startswith(sentence) for one in violations), (name, violations)


async def _found(shared: Ground, name: str) -> list[str]:
    """Live as far as the phase in which the bug shows."""
    names = [phase.name for phase in all_phases()]
    last = names.index(FOUND[name].partition(":")[0])
    # Nothing between an update and the deletion is needed to see a deletion go wrong.
    phases = [all_phases()[0], all_phases()[last]] if last else all_phases()[:1]
    if FOUND[name].endswith("no rest"):
        shared = replace(shared, rest=10.0)  # what goes on for ever need not go on for a minute
    found = await Life(shared, Fate(plant=name)).live(phases)
    return found.violations
