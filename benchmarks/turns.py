"""Turns: how long waiters in several processes wait, and how fast one hands over to the next."""

import asyncio
import json
import statistics
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from measure import Figure, figure
from scene import Servers

WORKER = Path(__file__).parent / "waiters.py"
Turn = tuple[int, float, float, float]  # its fence; when it was asked for, begun, and given back


def bench(servers: Servers, scale: int) -> list[Figure]:
    """Measure 8 waiters in two processes and 32 in four, with turns of 1 ms on one session."""
    return asyncio.run(turns(servers.valkey, scale))


async def turns(url: str, scale: int) -> list[Figure]:
    """Let the waiters take their turns."""
    few = await take_turns(url, processes=2, tasks=4, count=12 * scale)
    many = await take_turns(url, processes=4, tasks=8, count=3 * scale)
    waits = sorted((began - asked) * 1000 for _, asked, began, _ in few)
    seconds = max(ended for *_, ended in few) - min(asked for _, asked, _, _ in few)
    figures = [
        figure(
            "turn, 8 waiters in 2 processes, 1 ms section: wait p99",
            waits[int(len(waits) * 0.99)],
            "ms",
            "<= 15",
            f"{len(waits)} turns",
        ),
        figure("the same: wait p50", statistics.median(waits), "ms"),
        figure("the same: per turn", seconds / len(few) * 1000, "ms"),
    ]
    for waiters, taken, target in ((8, few, "<= 2"), (32, many, "<= 4")):
        took = hand_overs(taken)
        note = f"release called to next body running; p50 {statistics.median(took):.2f} ms"
        name = f"turn, {waiters} waiters: hand-over p99"
        figures.append(figure(name, took[int(len(took) * 0.99)], "ms", target, note))
    return figures


def hand_overs(turns: Sequence[Turn]) -> list[float]:
    """Milliseconds from each turn's end to the next one's begin, where that one waited; sorted."""
    return sorted(
        (began - ended) * 1000
        for (*_, ended), (_, asked, began, _) in pairwise(turns)
        if asked < ended
    )


async def take_turns(url: str, *, processes: int, tasks: int, count: int) -> list[Turn]:
    """Run the workers and return all turns in the order they were granted."""
    worker = (str(WORKER), url, f"turns-{processes}", str(tasks), str(count))
    workers = [
        await asyncio.create_subprocess_exec(
            sys.executable, *worker, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(processes)
    ]
    for each in workers:
        assert each.stdout is not None
        assert await each.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(each.communicate(b"go\n") for each in workers))
    return sorted(tuple(turn) for out, _ in outputs for turn in json.loads(out))
