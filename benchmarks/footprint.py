"""What memory costs: bytes in Redis beside the payload, and of the process that holds sessions open."""

import asyncio
import statistics
import subprocess
import sys
from pathlib import Path

from measure import Figure, figure
from msgspec.structs import replace
from redis.asyncio import Redis
from scene import BODY, MEMORY, ONE, POLICY, Servers

from holdfast.messages import id_key
from holdfast.policies import terms_of
from holdfast.policy import Policy
from holdfast.store.redis import RedisStore
from holdfast.values import Batch, Caller

WORKER = Path(__file__).parent / "holders.py"
OPEN = 1000  # sessions


def bench(servers: Servers, scale: int) -> list[Figure]:
    """Measure both; the server's part needs Redis, whose allocator is the one that people run."""
    figures: list[Figure] = []
    if servers.redis is None:
        print("bytes in Redis are not measured: there is no redis-server 7 on PATH")
    else:
        figures += asyncio.run(in_redis(servers.redis, scale))
    return figures + in_process(servers.valkey, scale)


async def in_redis(url: str, scale: int) -> list[Figure]:
    """Fill sessions with messages that have ids, and ask what they take."""
    figures: list[Figure] = []
    async with Redis.from_url(url) as raw:
        await write(url, sessions=1, messages=1)  # loads the scripts, which stay
        for messages, target, sessions in ((200, "<= 1.2", 4 * scale), (10, "<= 1.6", 40 * scale)):
            await raw.flushall()
            before = await _used(raw)
            await write(url, sessions=sessions, messages=messages)
            used = await _used(raw) - before
            keys = [key async for key in raw.scan_iter("mem:{local/bench/*", count=1000)]
            each = [await raw.memory_usage(key, samples=0) for key in keys]
            payload = sessions * messages * len(BODY)
            allocator = (await raw.info("memory"))["mem_allocator"]
            note = f"{len(BODY)} B each, {sessions} sessions, {allocator}"
            name = f"bytes in Redis beside payload, {messages} messages with ids"
            figures += [
                figure(f"{name}, MEMORY USAGE", sum(each) / payload, "x", target, note),
                figure(f"{name}, used_memory", used / payload, "x", target, note),
            ]
        await raw.flushall()
    return figures


async def write(url: str, *, sessions: int, messages: int) -> None:
    """Append messages with ids one by one, on connections that are closed afterwards."""
    store = RedisStore.from_url(url)
    terms = terms_of(Policy.model_validate(POLICY), 0)
    for name in map(str, range(sessions)):
        session = store.session(MEMORY, name)
        for at in range(messages):
            own = f"request-{name}-{at}"
            batch = Batch((replace(ONE, id=own),), id_key(own), 1)
            await session.append(terms, batch, Caller())
    await store.aclose()


async def _used(raw: Redis) -> int:
    """Bytes that the allocator gave out, once no connection is left but the one that asks."""
    async with asyncio.timeout(10):
        while (await raw.info("clients"))["connected_clients"] > 1:  # noqa: ASYNC110 - a server's
            await asyncio.sleep(0.01)
    return (await raw.info("memory"))["used_memory"]


def in_process(url: str, scale: int) -> list[Figure]:
    """Compare a process that has used one session with itself once it has used a thousand."""
    resident: list[float] = []
    for _ in range(max(1, scale // 3)):
        one, many = _held(url, "resident")
        resident.append((many - one) / 1e6)
    one, many = _held(url, "allocated")
    note = "a process of its own; each session appended and read once"
    return [
        figure(
            f"resident memory of {OPEN:,} open sessions over one",
            statistics.median(resident),
            "MB",
            "<= 10",
            f"{note}; what was free before is used first",
        ),
        figure(
            f"memory allocated by {OPEN:,} open sessions over one",
            (many - one) / 1e6,
            "MB",
            "<= 10",
            f"{note}; by tracemalloc",
        ),
    ]


def _held(url: str, what: str) -> tuple[int, int]:
    worker = [sys.executable, str(WORKER), url, str(OPEN), what]
    out = subprocess.run(worker, capture_output=True, text=True, check=True).stdout
    one, many = map(int, out.split())
    return one, many
