"""A minute of what `make verify` does for a quarter of an hour: every target, rule and family of faults.

Which faults of a family there is time for depends on the machine.
"""

from collections.abc import Collection
from pathlib import Path

import pytest

from tests.harness.servers import Server
from tests.verify.__main__ import findings, table
from tests.verify.case import SLOT_MOVED
from tests.verify.faults import NETWORK, WORKERS
from tests.verify.run import Plan, run
from tests.verify.targets import TargetName

pytestmark = [pytest.mark.asyncio, pytest.mark.redis, pytest.mark.slow]


SERVERS = {
    TargetName.STANDALONE: {"server stopped", "server restarted", "server killed"},
    TargetName.SENTINEL: {"failover by kill", "failover by command", "replica stopped"},
    TargetName.CLUSTER: {SLOT_MOVED, "node stopped", "node killed"},
}


async def verify(plan: Plan, directory: Path, *more: Collection[str]) -> None:
    """Run, and show what is wrong; of workers, servers and what is in `more` each has to be struck."""
    report = await run(plan, directory)
    print(table([report]))
    assert not report.violations, findings([report])
    for family in (WORKERS, SERVERS[plan.target], *more):
        assert report.faults.keys() & set(family), f"nothing of {sorted(family)}"
    assert report.evidence["appends acknowledged"] > 100


async def test_standalone(valkey_server: Server, tmp_path: Path) -> None:
    await verify(Plan(TargetName.STANDALONE, 20.0, pause=0.7), tmp_path, NETWORK)


async def test_sentinel(valkey_server: Server, tmp_path: Path) -> None:
    await verify(Plan(TargetName.SENTINEL, 7.0, pause=0.7), tmp_path)


async def test_cluster(valkey_server: Server, tmp_path: Path) -> None:
    await verify(Plan(TargetName.CLUSTER, 7.0, pause=0.7), tmp_path)
