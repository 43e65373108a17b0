"""Small tools of the benchmarks: ratios against a floor of the same run, and their report."""

import argparse
import asyncio
import json
import random
import re
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

Call = Callable[[], Awaitable[object]]
Loop = Callable[[], asyncio.AbstractEventLoop]
Rounds = Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a report; `target` is text such as `<= 1.65`, or None where none is set."""

    name: str
    value: float
    unit: str
    target: str | None
    ok: bool
    note: str


def figure(name: str, value: float, unit: str, target: str | None = None, note: str = "") -> Figure:
    """Make a figure and compare it with its target."""
    ok = True
    if target is not None:
        match = re.fullmatch(r"(<=|>=) ([0-9.]+)", target)
        assert match is not None, target
        limit = float(match[2])
        ok = value <= limit if match[1] == "<=" else value >= limit
    return Figure(name, round(value, 3), unit, target, ok, note)


async def timed(call: Call) -> float:
    """Return the seconds one call takes."""
    begin = time.perf_counter()
    await call()
    return time.perf_counter() - begin


async def alternating(
    calls: Mapping[str, Call], *, rounds: int, each: int
) -> list[dict[str, float]]:
    """Time calls op by op, in a new order for every op; return each round's medians in seconds."""
    names = list(calls)
    result: list[dict[str, float]] = []
    for _ in range(rounds):
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(each):
            random.shuffle(names)
            for name in names:
                times[name].append(await timed(calls[name]))
        result.append({name: statistics.median(values) for name, values in times.items()})
    return result


async def concurrent(
    calls: Mapping[str, Sequence[Call]], *, rounds: int, each: int
) -> list[dict[str, float]]:
    """Time calls of many tasks at once; return each round's median latency in seconds.

    Args:
        calls: for each name one call per task.
        rounds: how often; the names take turns within a round, in a new order each time.
        each: calls of every task per round.
    """
    names = list(calls)
    result: list[dict[str, float]] = []

    async def task(call: Call, times: list[float]) -> None:
        times.extend([await timed(call) for _ in range(each)])

    for _ in range(rounds):
        random.shuffle(names)
        medians: dict[str, float] = {}
        for name in names:
            times: list[float] = []
            await asyncio.gather(*(task(call, times) for call in calls[name]))
            medians[name] = statistics.median(times)
        result.append(medians)
    return result


async def together(
    calls: Mapping[str, Sequence[Call]], *, rounds: int, each: int
) -> list[dict[str, float]]:
    """Let many tasks make their calls at once; return the seconds until the last is done, by round.

    For what is unfair to its callers: the median latency of a lock that its last holder wins again
    says nothing of those who starve.
    """
    names = list(calls)
    result: list[dict[str, float]] = []

    async def task(call: Call) -> None:
        for _ in range(each):
            await call()

    for _ in range(rounds):
        random.shuffle(names)
        spans: dict[str, float] = {}
        for name in names:
            begin = time.perf_counter()
            await asyncio.gather(*(task(call) for call in calls[name]))
            spans[name] = time.perf_counter() - begin
        result.append(spans)
    return result


def ratio(rounds: Rounds, name: str, floor: str) -> float:
    """Return the median of a name's ratios to the floor, round by round."""
    return statistics.median(medians[name] / medians[floor] for medians in rounds)


def microseconds(rounds: Rounds, name: str) -> float:
    """Return the median of a name's medians in microseconds."""
    return statistics.median(medians[name] for medians in rounds) * 1e6


def seconds_until(
    holds: Callable[[], bool], *, deadline: float = 60.0, every: float = 0.02
) -> float:
    """Wait until something holds, and return how long that took.

    Raises:
        TimeoutError: it did not within the deadline.
    """
    begin = time.perf_counter()
    while not holds():
        if time.perf_counter() - begin > deadline:
            raise TimeoutError("what was waited for did not come in time")
        time.sleep(every)
    return time.perf_counter() - begin


def run_on(loop: Loop, bench: Coroutine[Any, Any, list[Figure]]) -> list[Figure]:
    """Run a benchmark on an event loop of its own."""
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(bench)


def run_topics(
    about: str | None, topics: Mapping[str, Callable[[int], list[Figure]]], file: Path
) -> NoReturn:
    """Be the program of some topics: measure them or those chosen, and say how they stand to their targets.

    The exit code is 1 when one was missed.

    Args:
        about: what `--help` says.
        topics: each is given the scale.
        file: for the figures; written when all topics were measured in full.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--scale", type=int, default=10, help="10 for the figures; 1 for a try")
    parser.add_argument(
        "--only", choices=list(topics), action="append", help="a topic; the file stays as it is"
    )
    arguments = parser.parse_args()
    figures: list[Figure] = []
    for topic in arguments.only or topics:
        began = time.monotonic()
        figures += topics[topic](arguments.scale)
        print(f"{topic}: {time.monotonic() - began:.0f} s", flush=True)
    complete = arguments.only is None and arguments.scale >= 10
    report(figures, file if complete else None)
    sys.exit(0 if all(line.ok for line in figures) else 1)


def report(figures: Sequence[Figure], file: Path | None) -> None:
    """Print the figures as a table, and write them to a file."""
    width = max(len(line.name) for line in figures)
    for line in figures:
        verdict = "" if line.target is None else ("ok" if line.ok else "MISSED")
        target = line.target or ""
        print(
            f"{line.name:<{width}}  {line.value:>10.3f} {line.unit:<6} {target:<10} {verdict:<7} {line.note}"
        )
    missed = sum(not line.ok for line in figures)
    print(f"\n{len(figures)} figures, {missed} missed their target")
    if file is not None:
        file.write_text(json.dumps([asdict(line) for line in figures], indent=2) + "\n")
        print(f"written to {file}")
