"""Faults that are planted in the library are found, each by the rule that is there for it."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.harness.servers import Server
from tests.verify.__main__ import findings
from tests.verify.case import Kind, Violation
from tests.verify.history import Call
from tests.verify.mutants import MUTANTS, Mutant
from tests.verify.run import Plan, run
from tests.verify.targets import TargetName

pytestmark = [pytest.mark.redis, pytest.mark.slow]

ATTEMPTS = (2.0, 6.0, 12.0)
"""Seconds: two find each of them, but on a machine that has much else to do they may not be enough."""


def plan(name: str, seconds: float) -> Plan:
    """Return the short run in which a mutant shows."""
    mutant = MUTANTS[name]
    options = {"generation": 600.0, "pace": 0.002, "summarizing": 0.3, **mutant.options}
    return Plan(
        TargetName.STANDALONE,
        seconds,
        workers=3,
        profiles=mutant.profiles,
        faults=mutant.faults,
        pause=0.1,
        options={**options, "mutant": name},
    )


def _shows(violation: Violation, mutant: Mutant) -> bool:
    calls = {event.begun.op for event in violation.events if isinstance(event, Call)}
    return mutant.witness is None or mutant.witness in calls


def test_each_promise_has_a_fault_that_breaks_it() -> None:
    broken = {kind for mutant in MUTANTS.values() for kind in mutant.found_as}
    assert set(Kind) - broken == {Kind.UNEXPECTED}


@pytest.mark.asyncio
@pytest.mark.parametrize("name", list(MUTANTS))
async def test_it_is_found(valkey_server: Server, tmp_path: Path, name: str) -> None:
    missing = set(MUTANTS[name].found_as)
    for attempt, seconds in enumerate(ATTEMPTS):
        report = await run(replace(plan(name, seconds), seed=attempt), tmp_path / str(attempt))
        missing -= {one.kind for one in report.violations if _shows(one, MUTANTS[name])}
        if not missing:
            break
    else:
        pytest.fail(f"{MUTANTS[name].what}: it was not found as {missing}")


@pytest.mark.asyncio
async def test_without_them_nothing_is_found(valkey_server: Server, tmp_path: Path) -> None:
    """What the mutants are found with: all of their sessions, and all of their faults."""
    everything = replace(
        plan("client retries", 6.0),
        profiles={name: 1 for mutant in MUTANTS.values() for name in mutant.profiles},
        options={"pace": 0.002, "summarizing": 0.3, "generation": 600.0, "sessions": 1},
    )
    report = await run(everything, tmp_path)
    assert not report.violations, findings([report])
    assert report.faults
