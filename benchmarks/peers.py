"""`make bench-peers`: the same payload in other libraries' chat histories, same server and same run.

It runs in an environment of its own, since the libraries are no dependency of anything here. What they
do not do is said in docs/benchmarks.md; where they have an expiry, it is set.
"""

import argparse
import asyncio
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

from agents.extensions.memory import RedisSession
from langchain_community.chat_message_histories import RedisChatMessageHistory
from langchain_core.messages import AIMessage
from llama_index.core.llms import ChatMessage
from llama_index.storage.chat_store.redis import RedisChatStore
from measure import Call, Figure, concurrent, figure, microseconds, ratio, report, together

import holdfast
from holdfast.embedded import EmbeddedServer

HERE = Path(__file__).parent
SENTENCE = "The order left the warehouse on Tuesday and reached the carrier the same evening. "
TEXT = (SENTENCE * 5)[:405]  # about 450 bytes as a JSON message
TTL = 86_400  # seconds
WRITERS = 8
POLICY = {"limits": {"maxTokens": 10_000_000}, "retention": {"ttl": "24h"}}


class Writer(ABC):
    """One writer on one session of one library, with a client of its own.

    Args:
        url: of the server.
        session: its name.
    """

    name: ClassVar[str]
    packages: ClassVar[Sequence[str]]

    @abstractmethod
    def __init__(self, url: str, session: str) -> None: ...

    @abstractmethod
    async def append(self) -> None:
        """Store one message."""

    @abstractmethod
    async def read(self) -> Sequence[Any]:
        """Return all messages, decoded as the library's users get them."""

    async def aclose(self) -> None:
        """Close the client."""

    async def run(self, count: int) -> None:
        """Store so many messages one after the other."""
        for _ in range(count):
            await self.append()


class Holdfast(Writer):
    """Ours: with counted tokens, checked limits and an expiry."""

    name = "holdfast"
    packages = ("redis", "hiredis")

    def __init__(self, url: str, session: str) -> None:
        self._client = holdfast.connect(url, policy=POLICY)
        self._session = self._client.memory("bench").session(session)

    async def append(self) -> None:
        await self._session.append({"role": "assistant", "content": TEXT})

    async def read(self) -> Sequence[Any]:
        return await self._session.read()

    async def aclose(self) -> None:
        await self._client.aclose()


class OpenAIAgents(Writer):
    """The session of the OpenAI Agents SDK, with an expiry."""

    name = "openai-agents"
    packages = ("openai-agents",)

    def __init__(self, url: str, session: str) -> None:
        self._session = RedisSession.from_url(session, url=url, ttl=TTL)

    async def append(self) -> None:
        await self._session.add_items([{"role": "assistant", "content": TEXT}])

    async def read(self) -> Sequence[Any]:
        return await self._session.get_items()

    async def aclose(self) -> None:
        await self._session.close()


class LangChainCommunity(Writer):
    """LangChain's history, with an expiry. It is synchronous; several writers are threads."""

    name = "langchain-community"
    packages = ("langchain-community", "langchain-core")

    def __init__(self, url: str, session: str) -> None:
        self._history = RedisChatMessageHistory(session, url=url, ttl=TTL)

    async def append(self) -> None:
        self._history.add_message(AIMessage(TEXT))

    async def read(self) -> Sequence[Any]:
        return self._history.messages

    async def aclose(self) -> None:
        self._history.redis_client.close()

    async def run(self, count: int) -> None:
        def work() -> None:
            for _ in range(count):
                self._history.add_message(AIMessage(TEXT))

        await asyncio.to_thread(work)


class LlamaIndex(Writer):
    """LlamaIndex' asynchronous chat store, with an expiry."""

    name = "llama-index"
    packages = ("llama-index-storage-chat-store-redis", "llama-index-core")

    def __init__(self, url: str, session: str) -> None:
        self._store = RedisChatStore(redis_url=url, ttl=TTL)
        self._session = session

    async def append(self) -> None:
        await self._store.async_add_message(
            self._session, ChatMessage(role="assistant", content=TEXT)
        )

    async def read(self) -> Sequence[Any]:
        return await self._store.aget_messages(self._session)

    async def aclose(self) -> None:
        await self._store._aredis_client.aclose()  # noqa: SLF001 - it has no close of its own
        self._store._redis_client.close()  # noqa: SLF001


LIBRARIES: Sequence[type[Writer]] = (Holdfast, OpenAIAgents, LangChainCommunity, LlamaIndex)
_APPEND = {"openai-agents": ">= 5"}
_READ = {"langchain-community": ">= 5"}
_WRITERS = {"openai-agents": ">= 15"}


async def one_caller(url: str, scale: int) -> list[Figure]:
    """Append, and read sessions of exactly 200 messages: some of each library in a row, in a new order.

    In a row, because a process uses one of them: what takes turns with three others finds its code
    and tables out of the processor's caches.
    """
    appending = {kind.name: kind(url, f"append-{kind.name}") for kind in LIBRARIES}
    reading = {kind.name: kind(url, f"read-{kind.name}") for kind in LIBRARIES}
    for name, one in reading.items():
        await one.run(200)
        assert len(await one.read()) == 200, name
    for one in appending.values():
        await one.run(20)
    appends: Mapping[str, Sequence[Call]] = {name: [one.append] for name, one in appending.items()}
    reads: Mapping[str, Sequence[Call]] = {name: [one.read] for name, one in reading.items()}
    appended = await concurrent(appends, rounds=9, each=20 * scale)
    read = await concurrent(reads, rounds=9, each=5 * scale)
    for one in (*appending.values(), *reading.values()):
        await one.aclose()
    figures: list[Figure] = []
    for what, rounds, targets in (("append", appended, _APPEND), ("read of 200", read, _READ)):
        ours = microseconds(rounds, Holdfast.name)
        figures += [
            figure(
                f"{what}: {name} takes, beside holdfast",
                ratio(rounds, name, Holdfast.name),
                "x",
                targets.get(name),
                f"1 task, p50 {microseconds(rounds, name):.0f} us; holdfast {ours:.0f} us",
            )
            for name in appends
            if name != Holdfast.name
        ]
    return figures


async def many_writers(url: str, scale: int) -> list[Figure]:
    """Let eight writers, each with a client of its own, append to one session."""
    count = max(4, 5 * scale)
    session = f"writers-{uuid4().hex}"
    writers = {
        kind.name: [kind(url, f"{session}-{kind.name}") for _ in range(WRITERS)]
        for kind in LIBRARIES
    }
    for ours in writers.values():
        for one in ours:
            await one.run(2)
    calls: Mapping[str, Sequence[Call]] = {
        name: [lambda one=one: one.run(count) for one in ours] for name, ours in writers.items()
    }
    rounds = await together(calls, rounds=5, each=1)
    figures: list[Figure] = []
    for name, ours in writers.items():
        expected = WRITERS * (2 + 5 * count)
        assert len(await ours[0].read()) == expected, f"{name} lost messages"
        if name != Holdfast.name:
            rate = WRITERS * count * 1e6 / microseconds(rounds, name)
            figures.append(
                figure(
                    f"{WRITERS} writers on one session: {name} takes, beside holdfast",
                    ratio(rounds, name, Holdfast.name),
                    "x",
                    _WRITERS.get(name),
                    f"{rate:.0f} messages/s, none lost",
                )
            )
        for one in ours:
            await one.aclose()
    return figures


async def run(scale: int) -> list[Figure]:
    """Run everything on one server, and say which versions there were."""
    async with EmbeddedServer(None, persist=False) as server:
        figures = [*await one_caller(server.url, scale), *await many_writers(server.url, scale)]
    packages = sorted({package for kind in LIBRARIES for package in kind.packages})
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return [*figures, figure("libraries compared", len(LIBRARIES) - 1, "", None, versions)]


def main() -> None:
    """Run the comparison; exit code 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=10, help="how many operations; 1 for a try")
    figures = asyncio.run(run(parser.parse_args().scale))
    report(figures, HERE / "peers.json")
    sys.exit(0 if all(line.ok for line in figures) else 1)


if __name__ == "__main__":
    main()
