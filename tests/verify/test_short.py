"""A minute of what `make verify` does for a quarter of an hour: every target, every fault, every rule."""

from pathlib import Path

import pytest

from tests.harness.servers import Server
from tests.verify.__main__ import findings, table
from tests.verify.run import Plan, run
from tests.verify.targets import TargetName

pytestmark = [pytest.mark.asyncio, pytest.mark.redis, pytest.mark.slow]


async def verify(plan: Plan, directory: Path) -> None:
    """Run, and show what is wrong."""
    report = await run(plan, directory)
    print(table([report]))
    assert not report.violations, findings([report])
    assert report.faults
    assert report.evidence["appends acknowledged"] > 100


async def test_standalone(valkey_server: Server, tmp_path: Path) -> None:
    await verify(Plan(TargetName.STANDALONE, 20.0, pause=0.7), tmp_path)


async def test_sentinel(valkey_server: Server, tmp_path: Path) -> None:
    await verify(Plan(TargetName.SENTINEL, 7.0, pause=0.7), tmp_path)


async def test_cluster(valkey_server: Server, tmp_path: Path) -> None:
    await verify(Plan(TargetName.CLUSTER, 7.0, pause=0.7), tmp_path)
