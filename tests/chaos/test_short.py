"""A minute of what `make verify-operator` does: some points of every phase, one fault of each server."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.__main__ import findings, table
from tests.chaos.doom import Side
from tests.chaos.ground import ground
from tests.chaos.life import Ground
from tests.chaos.trials import Deaths, Row, redis_replies_lost, refusals
from tests.harness.control_plane import ControlPlane

POINTS = ((1, Side.BEFORE), (4, Side.AFTER), (7, Side.BEFORE), (11, Side.AFTER))


@pytest.mark.cluster
@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.asyncio
async def test_what_dies_or_is_refused_converges(control_plane: ControlPlane, tmp_path: Path):
    async with ground(control_plane, tmp_path, watched=1.0) as shared:
        deaths = [partial(_death, shared, number, side) for number, side in POINTS]
        faults = (
            partial(refusals, shared, tmp_path, lives=1),
            partial(redis_replies_lost, shared, tmp_path),
        )
        tried = await asyncio.gather(*(one() for one in deaths), *(one() for one in faults))
    rows = [row for one in tried for row in (one if isinstance(one, list) else [one])]
    print(table(rows))
    assert not any(row.violations for row in rows), findings(rows)
    # Every phase has more points than the first ones that are tried here.
    assert sum(row.deaths for row in rows) >= 3 * len({row.name for row in rows[: len(tried[0])]})
    assert all(row.faults for row in rows[-len(faults) :])


async def _death(shared: Ground, number: int, side: Side) -> list[Row]:
    deaths = Deaths(shared, side)
    await deaths.try_one(number)
    return deaths.rows
