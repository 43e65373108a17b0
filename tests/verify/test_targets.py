"""A failover is over once the sentinels and the server itself agree."""

from pathlib import Path

import pytest

from tests.harness.sentinels import Sentinels

pytestmark = [pytest.mark.asyncio, pytest.mark.redis]


async def test_sentinels_that_name_a_replica_have_not_agreed(tmp_path: Path) -> None:
    async with Sentinels(tmp_path) as own:
        primary, replica = await own.primary(), await own.replica()
        await own.agreed(primary)
        with pytest.raises(
            AssertionError, match=f"{replica.port} should be the primary"
        ) as unnamed:
            await own.agreed(replica, deadline=0.2)
        assert f"sentinel-2 names {primary.port}" in str(unnamed.value)
        async with primary.client() as raw:
            await raw.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(AssertionError, match=f"{primary.port} is slave"):
            await own.agreed(primary, deadline=0.2)
