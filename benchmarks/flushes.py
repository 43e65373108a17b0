"""Flushes: what one costs the server, and what writers feel of a summary that takes its time."""

import asyncio
import random
import statistics
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from measure import Call, Figure, alternating, figure, microseconds, ratio
from scene import MESSAGE, TOKENS, Scene, Servers, work_of

import holdfast
from holdfast.summaries import SummaryRequest

MODEL = 10.0  # seconds in which the summary is written
DUE = 300  # messages that are more than a tenth of what a session may hold
ROOMY = {"limits": {"maxTokens": 10 * DUE * TOKENS}, "retention": {"ttl": "24h"}}
SUMMARISED = {
    **ROOMY,
    "flushing": {
        "strategy": "HybridSummary",
        "thresholdPercent": 10,
        "targetPercent": 5,
        "summary": {"oldestPercent": 30, "maxTokens": 500},
    },
}


def bench(servers: Servers, scale: int) -> list[Figure]:
    """Measure both."""
    figures = asyncio.run(beside_a_summary(servers.valkey, scale))
    for product, url in servers.named().items():
        figures += asyncio.run(by_size(url, product, scale))
    return figures


class Model:
    """A model that takes ten seconds for its answer.

    Attributes:
        busy: set while it writes.
        seconds: that its last answer took.
    """

    name = "ten-seconds"

    def __init__(self) -> None:
        self.busy = asyncio.Event()
        self.seconds = 0.0

    async def summarize(self, request: SummaryRequest) -> str:
        """Take the time of a large model."""
        begin = time.monotonic()
        self.busy.set()
        await asyncio.sleep(MODEL)
        self.busy.clear()
        self.seconds = time.monotonic() - begin
        return f"{len(request.messages)} messages about an order that did not arrive."


async def beside_a_summary(url: str, scale: int) -> list[Figure]:
    """Append to a session that is being summarised and, op by op, to one that is not.

    Everything measured happens within the one summary: where the machine is too slow for that, the run
    fails instead of telling something else.
    """
    model = Model()
    async with (
        Scene(url, ROOMY) as scene,
        holdfast.connect(url, policy=SUMMARISED, summarizer=model) as client,
    ):
        summarised = client.memory("summarised").session("one")
        calm = scene.client.memory("bench").session("one")
        await calm.append_many([MESSAGE] * DUE)
        await summarised.append_many([MESSAGE] * DUE)
        async with asyncio.timeout(30):
            await model.busy.wait()
        calls: dict[str, Call] = {
            "calm": lambda: calm.append(MESSAGE),
            "summarised": lambda: summarised.append(MESSAGE),
        }
        each = 10 * scale
        work = {name: await work_of(scene.raw, [call] * each) for name, call in calls.items()}
        rounds = await alternating(calls, rounds=7, each=20 * scale)
        assert model.busy.is_set(), "the summary ended before the appends did"
        async with asyncio.timeout(30):
            while not await summarised.summaries():  # noqa: ASYNC110 - nobody tells when it is stored
                await asyncio.sleep(0.1)
    mine, theirs = work["summarised"], work["calm"]
    names = mine.calls.keys() | theirs.calls.keys()
    other = sum(abs(mine.calls.get(name, 0) - theirs.calls.get(name, 0)) for name in names)
    name = f"append while a summary of {MODEL:.0f} s is written"
    return [
        figure(
            f"{name}: commands more or fewer than without",
            other,
            "calls",
            "<= 0",
            f"commandstats, {each} appends of {sum(mine.calls.values()) / each:.1f} calls each",
        ),
        figure(
            f"{name}: round trips beside without",
            mine.reads / theirs.reads,
            "x",
            "<= 1",
            f"reads from sockets; {mine.reads} for {each} appends",
        ),
        figure(
            f"{name}: p50 beside without",
            ratio(rounds, "summarised", "calm"),
            "x",
            "<= 1.15",
            f"op by op; without, p50 {microseconds(rounds, 'calm'):.0f} us; it took {model.seconds:.1f} s",
        ),
    ]


def _keeping(messages: int, percent: int) -> Mapping[str, Any]:
    return {
        "limits": {"maxMessages": messages},
        "retention": {"ttl": "24h"},
        "flushing": {"strategy": "FIFO", "thresholdPercent": 100, "targetPercent": percent},
    }


async def by_size(url: str, product: str, scale: int) -> list[Figure]:
    """Flush 200 of 1,000 messages, 200 of 10,000 and 400 of 10,000, in a new order each time."""
    sizes = {"few": (1_000, 80), "many": (10_000, 98), "more": (10_000, 96)}
    took: dict[str, list[float]] = {name: [] for name in sizes}
    async with AsyncExitStack() as stack:
        scenes = {
            name: await stack.enter_async_context(Scene(url, _keeping(messages, percent)))
            for name, (messages, percent) in sizes.items()
        }
        for name, (messages, percent) in sizes.items():
            await scenes[name].fill(name, messages * percent // 100)
        for _ in range(max(3, scale)):
            for name in random.sample(list(sizes), len(sizes)):
                scene, (messages, percent) = scenes[name], sizes[name]
                await scene.fill(name, messages * (100 - percent) // 100)
                session = scene.client.memory("bench").session(name)
                work = await work_of(scene.raw, [session.flush])
                assert await session.length() == messages * percent // 100
                took[name].append(work.microseconds["evalsha"])
    few, many, more = (statistics.median(took[name]) for name in sizes)
    note = f"server time of the script; 200 of 1,000 takes {few:.0f} us"
    beside = "flush (FIFO) of 200 of 10,000 beside 200 of 1,000"
    return [
        figure(f"{beside}, {product}", many / few, "x", "<= 1.25", note),
        figure(f"flush (FIFO) of 400 beside 200 of 10,000, {product}", more / many, "x", "<= 2.5"),
    ]
