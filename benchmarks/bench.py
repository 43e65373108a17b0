"""`make bench`: the library beside bare redis-py commands on the same server in the same run.

Every figure is a ratio of medians, or a distribution, measured here and now: absolute times of shared
machines say little. The server is the embedded Valkey on loopback, without persistence.
"""

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import uvloop
from measure import Call, Figure, alternating, concurrent, figure, ratio, report
from reaction import bench_reaction
from redis.asyncio import Redis

import holdfast
from holdfast.embedded import EmbeddedServer
from holdfast.policies import terms_of
from holdfast.policy import Policy
from holdfast.store.redis import RedisStore
from holdfast.values import Batch, Caller, MemoryAddress, Prepared

HERE = Path(__file__).parent
POLICY = {"limits": {"maxTokens": 12000}, "retention": {"ttl": "24h"}}
MEMORY = MemoryAddress("local", "bench")
TOKENS = 60
TEXT = (
    "The order left the warehouse on Tuesday and reached the carrier the same evening. Its tracking "
    "number has not moved since, so I have opened an inquiry and will write to you as soon as the "
    "carrier answers. If it is not found by Friday we send it all again."
)
MESSAGE = {"role": "assistant", "content": TEXT}
BODY = json.dumps({**MESSAGE, "metadata": {"trace": "0123456789abcdef" * 8}}).encode()
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


class Scene:
    """A server's clients, and sessions that are exactly full, so that every append evicts one."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.raw = Redis.from_url(url)
        self.store = RedisStore.from_url(url)
        self.client = holdfast.connect(url, policy=POLICY)
        self.terms = terms_of(Policy.model_validate(POLICY), 0)
        self.batch = Batch((Prepared(BODY, TOKENS),))

    async def appends(self, name: str) -> dict[str, Call]:
        """Return the three calls that are compared, each on keys of its own."""
        prepared = self.store.session(MEMORY, f"{name}-prepared")
        session = self.client.memory("bench").session(f"{name}-session")
        full = Batch(tuple(Prepared(BODY, TOKENS) for _ in range(200)))
        await prepared.append(self.terms, full, Caller())
        await session.append_many([MESSAGE] * 200)
        floor = f"floor:{name}"
        await self.raw.rpush(floor, *[BODY] * 200)
        return {
            "rpush": lambda: self.raw.rpush(floor, BODY),
            "prepared": lambda: prepared.append(self.terms, self.batch, Caller()),
            "whole": lambda: session.append(MESSAGE),
        }

    async def aclose(self) -> None:
        """Close the clients and empty the server."""
        await self.raw.flushall()
        await self.client.aclose()
        await self.store.aclose()
        await self.raw.aclose()


async def bench_append(url: str, loop: str, scale: int) -> list[Figure]:
    """Append at 1, 16 and 64 tasks."""
    scene = Scene(url)
    figures: list[Figure] = []
    for tasks in (1, 16, 64):
        calls = [await scene.appends(f"{tasks}-{at}") for at in range(tasks)]
        if tasks == 1:
            rounds = await alternating(calls[0], rounds=7, each=60 * scale)
        else:
            by_name = {name: [each[name] for each in calls] for name in calls[0]}
            rounds = await concurrent(by_name, rounds=9, each=max(4, 160 * scale // tasks))
        floor = statistics.median(medians["rpush"] for medians in rounds) * 1e6
        how = "op by op" if tasks == 1 else "task latencies"
        target = "<= 1.65" if tasks == 1 else "<= 1.4"
        note = f"{how}; RPUSH p50 {floor:.0f} us"
        figures += [
            figure(
                f"append, counted and encoded before, {tasks} tasks, {loop}",
                ratio(rounds, "prepared", "rpush"),
                "x",
                target,
                note,
            ),
            figure(
                f"append, counting and encoding included, {tasks} tasks, {loop}",
                ratio(rounds, "whole", "rpush"),
                "x",
                None,
                note,
            ),
        ]
    await scene.aclose()
    return figures


async def bench_read(url: str, loop: str, scale: int) -> list[Figure]:
    """Read 200 messages, decoded, beside a raw LRANGE of the same list."""
    scene = Scene(url)
    session = scene.client.memory("bench").session("read")
    prepared = scene.store.session(MEMORY, "read")
    await prepared.append(
        scene.terms, Batch(tuple(Prepared(BODY, TOKENS) for _ in range(200))), Caller()
    )
    key = "mem:{local/bench/read}:log"
    assert len(await session.read()) == await scene.raw.llen(key) == 200
    calls: dict[str, Call] = {
        "lrange": lambda: scene.raw.lrange(key, 0, -1),
        "read": session.read,
    }
    rounds = await alternating(calls, rounds=7, each=40 * scale)
    floor = statistics.median(medians["lrange"] for medians in rounds) * 1e6
    await scene.aclose()
    return [
        figure(
            f"read of 200, decoded, {loop}",
            ratio(rounds, "read", "lrange"),
            "x",
            "<= 2.2",
            f"beside raw LRANGE, p50 {floor:.0f} us",
        )
    ]


async def bench_turns(url: str, scale: int) -> list[Figure]:
    """Eight waiters in two processes take turns of 1 ms on one session."""
    workers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, str(HERE / "waiters.py"), url, "turns", "4", str(12 * scale)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert await worker.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(worker.communicate(b"go\n") for worker in workers))
    results = [json.loads(out) for out, _ in outputs]
    waits = sorted(wait * 1000 for result in results for wait in result["waits"])
    seconds = max(result["seconds"] for result in results)
    return [
        figure(
            "turn, 8 waiters in 2 processes, 1 ms section: wait p99",
            waits[int(len(waits) * 0.99)],
            "ms",
            "<= 15",
            f"{len(waits)} turns",
        ),
        figure("the same: wait p50", statistics.median(waits), "ms"),
        figure("the same: per turn", seconds / len(waits) * 1000, "ms"),
    ]


async def serve(scale: int) -> list[Figure]:
    """Run everything on one server."""
    figures: list[Figure] = []
    async with EmbeddedServer(None, persist=False) as server:
        for loop, factory in LOOPS.items():
            for bench in (bench_append, bench_read):
                figures += await asyncio.to_thread(_run, factory, bench, server.url, loop, scale)
        figures += await bench_turns(server.url, scale)
    return figures


def _run(
    factory: Callable[[], asyncio.AbstractEventLoop],
    bench: Callable[..., "asyncio.Future[list[Figure]]"],
    url: str,
    loop: str,
    scale: int,
) -> list[Figure]:
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(bench(url, loop, scale))


def main() -> None:
    """Run the benchmarks; exit code 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=10, help="how many operations; 1 for a try")
    arguments = parser.parse_args()
    figures = asyncio.run(serve(arguments.scale))
    figures += bench_reaction()
    report(figures, HERE / "results.json")
    sys.exit(0 if all(line.ok for line in figures) else 1)


if __name__ == "__main__":
    main()
