"""The operator's walks over many live sessions: a rollout under writers, a sweep, a deletion."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from api import reason
from measure import Figure, figure, seconds_until
from objects import Stage, until_idle
from redis.asyncio import Redis

import holdfast

WORKER = Path(__file__).parent / "appending.py"
MEMORY = "walked"
_DEADLINE = 300.0
_MESSAGE = {"role": "user", "content": "where is my order? " * 10}


def bench(stage: Stage, namespace: str) -> list[Figure]:
    """Fill a memory and walk over it; each part is bounded by a deadline."""
    number = 10_000 * stage.scale
    spec = {**stage.resource(), "deletionPolicy": "Delete"}
    stage.api.create("memoryresources", MEMORY, spec)
    seconds_until(lambda: _told(stage, lambda one: reason(one) == "Available"))
    asyncio.run(_fill(stage.server.url, namespace, number))
    found: list[Figure] = []
    for name, part in (
        ("rollout", lambda: _rollout(stage, namespace, number)),
        ("sweep", lambda: _sweep(stage, number)),
        ("deletion", lambda: _delete(stage, number)),
    ):
        began = time.perf_counter()
        found += part()
        print(f"  {name}: {time.perf_counter() - began:.0f} s", flush=True)
    return found


def _told(stage: Stage, holds: Callable[[dict[str, Any]], bool]) -> bool:
    body = stage.api.get("memoryresources", MEMORY)
    return body is not None and holds(body)


async def _fill(url: str, namespace: str, number: int) -> None:
    async with holdfast.connect(url, namespace=namespace) as client:
        memory = client.memory(MEMORY)

        async def fill(task: int) -> None:
            for at in range(task, number, 64):
                await memory.session(f"user-{at}").append_many([_MESSAGE] * 3)

        await asyncio.gather(*(fill(task) for task in range(64)))


def _rollout(stage: Stage, namespace: str, number: int) -> list[Figure]:
    """Edit the TTL of live sessions while sixteen writers append."""
    command = [sys.executable, str(WORKER), stage.server.url, namespace, MEMORY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writers:
        _since(writers)
        time.sleep(2)
        _since(writers)
        time.sleep(max(2, stage.scale))
        before = _since(writers)
        stage.api.patch("memoryresources", MEMORY, {"spec": {"retention": {"ttl": "12h"}}})
        seconds_until(
            lambda: _told(
                stage,
                lambda one: (
                    one["status"]["rollout"]["revision"] == 2
                    and one["status"]["rollout"]["done"] > 0
                ),
            ),
            deadline=_DEADLINE,
        )
        _since(writers)
        begun = _done(stage)
        took = seconds_until(
            lambda: _told(stage, lambda one: reason(one, "PolicyApplied") == "Applied"),
            deadline=_DEADLINE,
            every=0.1,  # asking more often would be load of its own
        )
        during = _since(writers)
        assert writers.stdin is not None
        writers.stdin.close()
    slower = during["p99"] / before["p99"]
    note = f"{number} live sessions, 16 writers; both passes"
    return [
        figure("rollout of a TTL edit", (number - begun) / took, "1/s", ">= 5000", note),
        figure(
            "writers' p99 during the rollout, beside before",
            slower,
            "x",
            "<= 2",
            f"{before['p99']:.2f} ms before, {during['p99']:.2f} ms during",
        ),
    ]


def _done(stage: Stage) -> int:
    body = stage.api.get("memoryresources", MEMORY)
    assert body is not None
    return body["status"]["rollout"]["done"]


def _since(writers: subprocess.Popen[bytes]) -> dict[str, float]:
    """Ask the writers what they did since they were asked last."""
    assert writers.stdin is not None
    assert writers.stdout is not None
    writers.stdin.write(b"\n")
    writers.stdin.flush()
    return json.loads(writers.stdout.readline())


def _sweep(stage: Stage, number: int) -> list[Figure]:
    """Sweep sessions that have nothing wrong."""
    until_idle(stage.operator.pid)  # a sweep follows a rollout by itself
    before, begin = asyncio.run(_cpu(stage.server.url)), time.perf_counter()
    annotation = {"metadata": {"annotations": {"holdfast.dev/sweep": "now"}}}
    stage.api.patch("memoryresources", MEMORY, annotation)
    seconds_until(
        lambda: _told(
            stage, lambda one: one["status"].get("lastSweep", {}).get("request") == "now"
        ),
        deadline=_DEADLINE,
    )
    took, after = time.perf_counter() - begin, asyncio.run(_cpu(stage.server.url))
    note = f"{number} sessions, in {took:.1f} s; everything that the server did meanwhile"
    name = "sweep with nothing wrong: CPU time of the server for 100,000 sessions"
    return [figure(name, (after - before) * 100_000 / number, "s", "<= 3", note)]


async def _cpu(url: str) -> float:
    async with Redis.from_url(url) as raw:
        told: dict[str, Any] = await raw.info("cpu")
    return told["used_cpu_sys"] + told["used_cpu_user"]


def _delete(stage: Stage, number: int) -> list[Figure]:
    """Delete a memory with its sessions; another one is made meanwhile."""
    begin = time.perf_counter()
    stage.api.delete("memoryresources", MEMORY)
    seconds_until(
        lambda: _told(stage, lambda one: one["status"]["rollout"]["done"] > 0), deadline=_DEADLINE
    )
    stage.api.create("memoryresources", "meanwhile", stage.resource())
    ready = seconds_until(lambda: stage.all_ready("meanwhile", 1), deadline=_DEADLINE)
    seconds_until(
        lambda: stage.api.get("memoryresources", MEMORY) is None, deadline=_DEADLINE, every=0.1
    )
    took = time.perf_counter() - begin
    note = "10 s of it are waiting for writers that have not heard"
    return [
        figure(f"deletion of {number} sessions", took, "s", None, note),
        figure("apply to Ready, one memory, meanwhile", ready, "s", "<= 1"),
    ]
