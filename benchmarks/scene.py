"""What the benchmarks have in common: the message, the policy, and a server's clients."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from measure import Call
from redis.asyncio import Redis

import holdfast
from holdfast.policies import terms_of
from holdfast.policy import Policy
from holdfast.store.redis import RedisStore
from holdfast.values import Batch, Caller, MemoryAddress, Prepared, Terms

MEMORY = MemoryAddress("local", "bench")
FULL = 200  # messages in a session of 12,000 tokens
TOKENS = 60
POLICY = {"limits": {"maxTokens": FULL * TOKENS}, "retention": {"ttl": "24h"}}
TEXT = (
    "The order left the warehouse on Tuesday and reached the carrier the same evening. Its tracking "
    "number has not moved since, so I have opened an inquiry and will write to you as soon as the "
    "carrier answers. If it is not found by Friday we send it all again at once."
)
MESSAGE = {"role": "assistant", "content": TEXT}
BODY = json.dumps({**MESSAGE, "metadata": {"trace": "0123456789abcdef" * 8}}).encode()
ONE = Prepared(BODY, TOKENS)


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the servers are; `redis` is None where there is no Redis 7 on PATH."""

    valkey: str
    redis: str | None

    def named(self) -> Mapping[str, str]:
        """Return the addresses of those there are, by product."""
        found = {"Valkey": self.valkey}
        return found if self.redis is None else {**found, "Redis": self.redis}


class Scene:
    """A server's clients, and sessions that are exactly full, so that every append evicts one."""

    def __init__(self, url: str, policy: Mapping[str, Any] = POLICY) -> None:
        self.url = url
        self.raw = Redis.from_url(url)
        self.store = RedisStore.from_url(url)
        self.client = holdfast.connect(url, policy=dict(policy))
        self.terms: Terms = terms_of(Policy.model_validate(policy), 0)
        self.batch = Batch((ONE,))

    async def fill(self, name: str, messages: int = FULL) -> None:
        """Put messages into a session, of 60 tokens and about 450 bytes each."""
        session = self.store.session(MEMORY, name)
        for at in range(0, messages, FULL):
            batch = Batch((ONE,) * min(FULL, messages - at))
            await session.append(self.terms, batch, Caller())

    async def appends(self, name: str) -> dict[str, Call]:
        """Return the three calls that are compared, each on keys of its own."""
        await self.fill(f"{name}-prepared")
        prepared = self.store.session(MEMORY, f"{name}-prepared")
        session = self.client.memory("bench").session(f"{name}-session")
        filled = await session.append_many([MESSAGE] * FULL)
        assert filled.tokens == FULL * TOKENS
        floor = f"floor:{name}"
        await self.raw.rpush(floor, *[BODY] * FULL)
        return {
            "rpush": lambda: self.raw.rpush(floor, BODY),
            "prepared": lambda: prepared.append(self.terms, self.batch, Caller()),
            "whole": lambda: session.append(MESSAGE),
        }

    async def __aenter__(self) -> Self:
        """Return the scene itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the clients and empty the server."""
        await self.raw.flushall()
        await self.client.aclose()
        await self.store.aclose()
        await self.raw.aclose()


@dataclass(frozen=True, slots=True)
class Work:
    """What a server did: calls of each command, those within scripts included, and reads from sockets."""

    calls: Mapping[str, int]
    microseconds: Mapping[str, float]
    reads: int

    def per_call(self, command: str) -> float:
        """Return the microseconds that one call of a command took, what a script calls included."""
        return self.microseconds[command] / self.calls[command]


async def work_of(raw: Redis, calls: Sequence[Call], *, tasks: int = 1) -> Work:
    """Make calls, one after the other in each of some tasks, and return what the server did for them."""

    async def task(own: Sequence[Call]) -> None:
        for call in own:
            await call()

    await raw.config_resetstat()
    await asyncio.gather(*(task(calls[at::tasks]) for at in range(tasks)))
    # One reply with both, so that asking is a single read that can be left out again.
    told: dict[str, Any] = await raw.info("all")
    commands = {
        name.removeprefix("cmdstat_").lower(): one
        for name, one in told.items()
        if name.startswith("cmdstat_")
    }
    for own in ("config|resetstat", "info"):
        commands.pop(own, None)
    return Work(
        calls={name: one["calls"] for name, one in commands.items()},
        microseconds={name: float(one["usec"]) for name, one in commands.items()},
        reads=told["total_reads_processed"] - 1,
    )
