"""Sweeps that are asked for, and deletions over a restart, on a real API server and a real server."""

from typing import Any

import pytest
from redis.asyncio import Redis

from holdfast.store.redis.layout import memory_keys, session_keys
from tests.harness.operator_process import OperatorProcess
from tests.harness.space import Space, client_of, condition, write_sessions

pytestmark = [pytest.mark.cluster, pytest.mark.redis, pytest.mark.asyncio]

HOUR = 3_600_000


def swept(body: dict[str, Any], request: str) -> bool:
    return body["status"].get("lastSweep", {}).get("request") == request


async def test_a_sweep_runs_when_an_annotation_asks_and_only_looks_when_it_says_so(
    space: Space, redis: Redis
):
    space.backend()
    space.resource()
    await space.ready("memres/support")
    async with client_of(space.server, space.namespace) as client:
        await write_sessions(client, "support", 30)
    keys = [session_keys(space.address(), f"s{number}", "mem") for number in range(30)]
    index = memory_keys(space.address(), "mem").sessions
    stray = session_keys(space.address("gone"), "s", "mem").log
    await redis.persist(keys[0].log)
    await redis.persist(keys[1].meta)
    await redis.pexpire(keys[2].log, 90 * HOUR)
    await redis.zrem(index, "s27", "s28", "s29")
    await redis.rpush(stray, "record")

    space.annotate("memres/support", "holdfast.dev/sweep=dry-run")
    body = await space.until(
        "memres/support", lambda body: swept(body, "dry-run"), "the dry run is done"
    )
    assert (body["status"]["lastSweep"]["repaired"], body["status"]["lastSweep"]["dryRun"]) == (
        3,
        True,
    )
    assert await redis.pttl(keys[0].log) == -1

    space.annotate("memres/support", "holdfast.dev/sweep=now")
    body = await space.until("memres/support", lambda body: swept(body, "now"), "it is swept")
    assert body["status"]["lastSweep"]["repaired"] == 3
    assert "dryRun" not in body["status"]["lastSweep"]
    for one in keys[:3]:
        [at] = {await redis.pexpiretime(one.meta), await redis.pexpiretime(one.log)}
        assert at > 0
    assert await redis.zcard(index) == 27

    space.annotate("membackend/shared", "holdfast.dev/sweep=now")
    body = await space.until("membackend/shared", lambda body: swept(body, "now"), "surveyed")
    assert body["status"]["lastSweep"]["repaired"] == 3
    assert body["status"]["lastSweep"]["orphans"] >= 1
    assert await redis.zcard(index) == 30
    assert await redis.pttl(stray) == -1
    for reason in ("SweepDryRun", "ExpiryRepaired", "KeysRepaired", "OrphansFound"):
        await space.told(reason)
    shown = space.kubectl("get", "events,memres,membackend", "-o", "json")
    assert "s27" not in shown
    await redis.delete(stray)


async def test_a_killed_operator_finishes_the_deletion_after_its_restart(
    space: Space, redis: Redis, operator: OperatorProcess
):
    space.backend()
    space.resource(deletionPolicy="Delete")
    await space.ready("memres/support")
    async with client_of(space.server, space.namespace) as client:
        await write_sessions(client, "support", 1500)
    space.delete("memres/support")
    await space.until(
        "memres/support",
        lambda body: condition(body, "Ready")["reason"] == "Deleting",
        "the deletion is under way",
    )
    operator.kill()
    operator.start()
    space.resource("fresh")
    await space.ready("memres/fresh")
    await space.gone("memres/support")
    left = [key async for key in redis.scan_iter(f"mem:{{{space.address()}/*", count=1000)]
    assert {key.rpartition(b":")[2] for key in left} == {b"meta"}
    assert max([await redis.pttl(key) for key in left[:100]]) <= 60_000
    assert not await redis.exists(memory_keys(space.address(), "mem").sessions)
