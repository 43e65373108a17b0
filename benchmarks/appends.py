"""Appends beside bare commands of redis-py, beside a lock of the naive kind, and in the server's own time."""

import asyncio
import itertools
import random
import statistics
from collections.abc import Mapping

import uvloop
from measure import (
    Call,
    Figure,
    Loop,
    alternating,
    concurrent,
    figure,
    microseconds,
    ratio,
    run_on,
    together,
)
from msgspec.structs import replace
from redis.asyncio import Redis
from scene import BODY, FULL, MEMORY, MESSAGE, ONE, TOKENS, Scene, Servers, work_of

from holdfast.messages import id_key
from holdfast.policies import terms_of
from holdfast.policy import Policy
from holdfast.values import Batch, Caller

LOOPS: Mapping[str, Loop] = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
ROOMY = {"limits": {"maxTokens": 10_000_000}, "retention": {"ttl": "24h"}}
_PATIENCE = 0.05  # seconds at most between two tries of the naive lock
_TARGETS = {1: ("<= 1.55", "<= 1.75"), 16: ("<= 1.3", "<= 1.6"), 64: ("<= 1.3", "<= 1.6")}


def bench(servers: Servers, scale: int) -> list[Figure]:
    """Measure all appends."""
    figures: list[Figure] = []
    for name, loop in LOOPS.items():
        figures += run_on(loop, beside_rpush(servers.valkey, name, scale))
        figures += run_on(loop, batches(servers.valkey, name, scale))
    figures += asyncio.run(beside_a_lock(servers.valkey, scale))
    for product, url in servers.named().items():
        figures += asyncio.run(server_time(url, product, scale))
    return figures


async def beside_rpush(url: str, loop: str, scale: int) -> list[Figure]:
    """Append at 1, 16 and 64 tasks."""
    figures: list[Figure] = []
    async with Scene(url) as scene:
        for tasks, (prepared, whole) in _TARGETS.items():
            calls = [await scene.appends(f"{tasks}-{at}") for at in range(tasks)]
            if tasks == 1:
                rounds = await alternating(calls[0], rounds=7, each=60 * scale)
            else:
                by_name = {name: [each[name] for each in calls] for name in calls[0]}
                rounds = await concurrent(by_name, rounds=9, each=max(4, 160 * scale // tasks))
            how = "op by op" if tasks == 1 else "task latencies"
            note = f"{how}; RPUSH p50 {microseconds(rounds, 'rpush'):.0f} us"
            for kind, name, target in (
                ("counted and encoded before", "prepared", prepared),
                ("counting and encoding included", "whole", whole),
            ):
                value = ratio(rounds, name, "rpush")
                figures.append(
                    figure(f"append, {kind}, {tasks} tasks, {loop}", value, "x", target, note)
                )
    return figures


async def batches(url: str, loop: str, scale: int) -> list[Figure]:
    """Append ten messages in one call, into a session that is full."""
    async with Scene(url) as scene:
        calls = await scene.appends("many")
        prepared = scene.store.session(MEMORY, "many-prepared")
        session = scene.client.memory("bench").session("many-session")
        ten = Batch((ONE,) * 10)
        rounds = await alternating(
            {
                "rpush": calls["rpush"],
                "prepared": lambda: prepared.append(scene.terms, ten, Caller()),
                "whole": lambda: session.append_many([MESSAGE] * 10),
            },
            rounds=7,
            each=30 * scale,
        )
    note = "1 task; messages per second beside those of RPUSH, one message each"
    return [
        figure(
            f"append_many(10), {kind}, {loop}", 10 * ratio(rounds, "rpush", name), "x", target, note
        )
        for kind, name, target in (
            ("counted and encoded before", "prepared", ">= 4"),
            ("counting and encoding included", "whole", None),
        )
    ]


async def beside_a_lock(url: str, scale: int) -> list[Figure]:
    """Append beside SET NX, read, write, DEL: sixteen tasks on sessions of their own, and on one."""
    async with Scene(url) as scene:
        figures: list[Figure] = []
        for how, names, target in (
            ("distinct sessions", [f"own-{at}" for at in range(16)], ">= 3.5"),
            ("one contended session", ["shared"] * 16, ">= 10"),
        ):
            for name in sorted(set(names)):
                await scene.fill(name)
                await _fill_naive(scene.raw, name)
            handles = [scene.store.session(MEMORY, name) for name in names]
            calls: dict[str, list[Call]] = {
                "naive": [_naive(scene.raw, name) for name in names],
                "prepared": [
                    lambda handle=handle: handle.append(scene.terms, scene.batch, Caller())
                    for handle in handles
                ],
            }
            rounds = await together(calls, rounds=5, each=max(2, scale))
            rate = 16 * max(2, scale) / statistics.median(spans["naive"] for spans in rounds)
            figures.append(
                figure(
                    f"append beside a naive lock, 16 tasks, {how}",
                    ratio(rounds, "naive", "prepared"),
                    "x",
                    target,
                    f"throughput; the lock takes {rate:.0f} messages/s. Both counted before",
                )
            )
    return figures


async def _fill_naive(raw: Redis, name: str) -> None:
    await raw.rpush(f"naive:{name}:log", *[BODY] * FULL)
    await raw.hset(f"naive:{name}:meta", mapping={"count": FULL, "tokens": FULL * TOKENS})


def _naive(raw: Redis, name: str) -> Call:
    """Return an append as it is usually written by hand: a lock, the counters, a transaction."""
    lock, log, meta = (f"naive:{name}:{part}" for part in ("lock", "log", "meta"))

    async def append() -> None:
        while not await raw.set(lock, b"1", nx=True, px=10_000):  # noqa: ASYNC110 - so it is written
            await asyncio.sleep(random.uniform(0.001, _PATIENCE))
        try:
            count, tokens = map(int, await raw.hmget(meta, "count", "tokens"))
            async with raw.pipeline(transaction=True) as pipe:
                pipe.rpush(log, BODY)
                pipe.ltrim(log, -FULL, -1)
                after = {"count": min(FULL, count + 1), "tokens": min(FULL * TOKENS, tokens + 60)}
                pipe.hset(meta, mapping=after)
                pipe.expire(log, 86_400)
                pipe.expire(meta, 86_400)
                await pipe.execute()
        finally:
            await raw.delete(lock)

    return append


async def server_time(url: str, product: str, scale: int) -> list[Figure]:
    """Ask the server how long it works on an append while it is kept busy."""
    async with Scene(url) as scene:
        roomy = terms_of(Policy.model_validate(ROOMY), 0)
        under, full = (scene.store.session(MEMORY, name) for name in ("under", "full"))
        await scene.fill("full")
        numbers = itertools.count()

        def with_id() -> Call:
            name = f"request-{next(numbers)}"
            batch = Batch((replace(ONE, id=name),), id_key(name), 1)
            return lambda: full.append(scene.terms, batch, Caller())

        def plain() -> Call:
            return lambda: under.append(roomy, scene.batch, Caller())

        kinds = {"under": plain, "full": with_id}
        took: dict[str, list[float]] = {name: [] for name in kinds}
        await plain()()
        for _ in range(300):  # more than it remembers, so that each new id drops an old one
            await with_id()()
        for _ in range(9):
            for name in random.sample(list(kinds), len(kinds)):
                calls = [kinds[name]() for _ in range(80 * scale)]
                took[name].append((await work_of(scene.raw, calls, tasks=16)).per_call("evalsha"))
    note = "commandstats of EVALSHA, 16 tasks"
    return [
        figure(
            f"server time of an append, {kind}, {product}",
            statistics.median(took[name]),
            "us",
            target,
            note,
        )
        for kind, name, target in (
            ("under the limits", "under", "<= 32"),
            ("with trim and id", "full", "<= 52"),
        )
    ]
