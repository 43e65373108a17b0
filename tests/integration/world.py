"""A memory on a real server, with its operator and its agents."""

import asyncio
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis

from holdfast.client import Client
from holdfast.policies import terms_of
from holdfast.policy import load_policy
from holdfast.session import Session
from holdfast.store.maintenance import Lasting, Owner, Ownership, Step
from holdfast.store.redis import RedisStore
from holdfast.store.redis.layout import memory_keys, session_keys
from holdfast.store.redis.maintenance import RedisMaintenance
from holdfast.values import Batch, Caller, MemoryAddress, Prepared, Terms
from tests.harness.meta import Meta
from tests.harness.servers import Server
from tests.integration.workers import user

HOUR = 3_600_000
FREE = Caller()
"""Somebody who writes without a turn and knows nothing of the session."""
FIRST = Owner("cluster-1", "namespace-1", "team", "support", "uid-1", 1)
AGAIN = FIRST._replace(uid="uid-2")
REUSED = FIRST._replace(namespace_uid="namespace-2", uid="uid-3")
FOREIGN = FIRST._replace(cluster="cluster-2", uid="uid-4")


def spec(**parts: Any) -> dict[str, Any]:
    """A policy in manifest form with room for all a test writes, but for the given parts."""
    ample = {
        "model": {"tokenizer": "approximate"},
        "limits": {"maxTokens": 100_000},
        "retention": {"ttl": "1h"},
    }
    return ample | parts


def call(id: str) -> dict[str, Any]:
    function = {"name": "weather", "arguments": "{}"}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": id, "type": "function", "function": function}],
    }


def result(id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": "rain"}


class World:
    """A memory of the test's own on one server: the operator's hands, agents, and a plain client."""

    def __init__(self, server: Server, raw: Redis) -> None:
        self.memory = MemoryAddress(f"team-{uuid.uuid4().hex[:12]}", "support")
        self.keys = memory_keys(self.memory, "mem")
        self.hands = RedisMaintenance.connect("127.0.0.1", server.port)
        self.raw = raw
        self.server = server
        self._url = server.url
        self._open: list[Client | RedisStore] = []

    def client(self, policy: dict[str, Any] | None = None) -> Client:
        """An agent's client that has seen nothing yet."""
        store = RedisStore.from_url(self._url)
        client = Client(store, namespace=self.memory.namespace, policy=policy)
        self._open.append(client)
        return client

    def store(self) -> RedisStore:
        """A store of its own connections, for calls with terms of the test's choice."""
        store = RedisStore.from_url(self._url)
        self._open.append(store)
        return store

    def session(self, name: str, policy: dict[str, Any] | None = None) -> Session:
        return self.client(policy).memory("support").session(name)

    async def apply(self, owner: Owner = FIRST, **parts: Any) -> Terms:
        """Claim the memory, write a policy, and return its terms."""
        assert await self.hands.claim(self.memory, owner) in (Ownership.OURS, Ownership.TAKEN_OVER)
        _, policy = load_policy(spec(**parts))
        revision = await self.hands.put_policy(
            self.memory, owner, policy.document(), policy.sha256()
        )
        assert revision is not None
        return terms_of(policy, revision)

    async def fill(self, count: int, messages: int = 3) -> list[str]:
        """Write sessions as an agent does and return their names."""
        memory = self.client().memory("support")
        names = [f"s-{number}" for number in range(count)]
        for first in range(0, count, 50):
            await asyncio.gather(
                *(
                    memory.session(name).append_many([user(f"{name} {n}") for n in range(messages)])
                    for name in names[first : first + 50]
                )
            )
        return names

    async def roll_out(
        self, terms: Terms, *, grace: int = 0, limit: int = 100, again: bool = False
    ) -> list[Step]:
        """Walk once over all sessions."""
        return await walk(
            lambda cursor: self.hands.roll_out(
                self.memory, terms, cursor=cursor, limit=limit, grace=grace, again=again
            )
        )

    async def bury(self, revision: int, *, limit: int = 100) -> list[Step]:
        return await walk(
            lambda cursor: self.hands.bury(self.memory, revision, cursor=cursor, limit=limit)
        )

    async def release(self, owner: Owner, *, limit: int = 100) -> None:
        """Leave all to its expiry."""
        cursor, lasting = 0, Lasting()
        while True:
            step, found = await self.hands.lasting(self.memory, cursor=cursor, limit=limit)
            cursor, lasting = step.cursor, lasting.joined(found)
            if cursor == 0:
                break
        await self.hands.release(self.memory, owner, lasting)

    async def names(self) -> list[str]:
        """All keys of this memory and its sessions."""
        found = [key async for key in self.raw.scan_iter(f"mem:{{{self.memory}*", count=1000)]
        return sorted(key.decode() for key in found)

    async def expiries(self, name: str) -> set[int]:
        """The expiry of each state key that the session has, and the one that its meta says."""
        keys = session_keys(self.memory, name, "mem")
        times = [await self.raw.pexpiretime(key) for key in keys[:5]]
        said = (await self.meta(name)).expires_at if await self.raw.exists(keys.meta) else 0
        return {time for time in times if time != -2} | {said}

    async def meta(self, name: str) -> Meta:
        return Meta.read(await self.raw.hgetall(session_keys(self.memory, name, "mem").meta))

    async def revision(self, name: str) -> int:
        return (await self.meta(name)).revision

    async def changes(self) -> int:
        """Writes the server counted so far."""
        return int((await self.raw.info("persistence"))["rdb_changes_since_last_save"])

    async def aclose(self) -> None:
        for one in self._open:
            await one.aclose()
        await self.hands.aclose()


async def walk(step: Callable[[int], Any]) -> list[Step]:
    steps = [await step(0)]
    while steps[-1].cursor != 0:
        steps.append(await step(steps[-1].cursor))
        assert len(steps) < 1000
    return steps


def total(steps: list[Step], field: str) -> int:
    return sum(getattr(step, field) for step in steps)


async def take(session: Session) -> int:
    async with session.turn(wait=timedelta(seconds=30)):
        return await session.length()


def late() -> Batch:
    """What a process writes that slept over an edit of the policy."""
    return Batch((Prepared(b'"late"', 1),))
