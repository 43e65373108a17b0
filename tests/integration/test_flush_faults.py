"""Flushes on real servers that fail in the middle: nothing is lost, and the next one succeeds."""

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

import holdfast
from holdfast.client import Client
from holdfast.errors import HoldfastError, SessionBusy
from holdfast.metrics import PrometheusObserver
from holdfast.session import Session
from holdfast.store.redis.script import script
from holdfast.summaries import SummaryRequest
from tests.harness.processes import Child, Workers
from tests.harness.proxy import Cut, CuttingProxy
from tests.harness.servers import Server
from tests.harness.waiting import until
from tests.integration import workers as work
from tests.integration.workers import user
from tests.integration.world import FREE, World, late, spec

pytestmark = [pytest.mark.asyncio, pytest.mark.redis]

CLAIM = 30.0
"""Seconds for which a flusher that fell silent keeps others away."""
CLOSING = 10.0
"""Seconds that closing a client waits for a flush."""
LIMITS = {"maxTokens": 1_000}
HYBRID = {"strategy": "HybridSummary", "summary": {"oldestPercent": 30, "maxTokens": 60}}


def policy(**parts: Any) -> dict[str, Any]:
    """A policy that summarises."""
    return work.policy(**({"limits": LIMITS, "flushing": HYBRID} | parts))


class Author:
    """Writes the same summary each time, when it may."""

    name = "author"

    def __init__(self, *, waits: bool = False) -> None:
        self.begun = asyncio.Event()
        self.may = asyncio.Event()
        if not waits:
            self.may.set()

    async def summarize(self, request: SummaryRequest) -> str:
        self.begun.set()
        await self.may.wait()
        return f"{len(request.messages)} messages"


@pytest_asyncio.fixture
async def direct_client(valkey_server: Server, namespace: str) -> AsyncGenerator[Client]:
    """Return a client that no fault touches and that never flushes by itself."""
    plain = work.policy(limits=LIMITS)
    async with holdfast.connect(valkey_server.url, namespace=namespace, policy=plain) as client:
        yield client


@pytest.fixture
def direct(direct_client: Client) -> Session:
    return direct_client.memory(work.MEMORY).session(work.SHARED)


@pytest_asyncio.fixture
async def flushing(proxy: CuttingProxy, namespace: str) -> AsyncGenerator[Session]:
    """Return the same session, of a client whose connections the test can break."""
    async with holdfast.connect(
        proxy.url, namespace=namespace, policy=policy(), summarizer=Author()
    ) as client:
        yield client.memory(work.MEMORY).session(work.SHARED)


async def fill(session: Session, count: int = 55) -> None:
    await session.append_many([user(f"{number} words of small talk") for number in range(count)])


async def accounted(session: Session, written: int) -> None:
    """Check that each message is kept, in one summary, or counted as dropped."""
    summaries = await session.summaries()
    health = await session.health()
    kept = health.messages - len(summaries)
    assert kept + sum(it.messages for it in summaries) + health.dropped == written


async def flush_and_hang(child: Child, *, url: str, namespace: str, spec: dict[str, Any]) -> None:
    """Flush, and say when the model is asked; it never answers."""

    async def hang(_: SummaryRequest) -> str:
        child.report("asked")
        await asyncio.Event().wait()
        return ""

    async with holdfast.connect(url, namespace=namespace, policy=spec, summarizer=hang) as client:
        await client.memory(work.MEMORY).session(work.SHARED).flush()


class TestFlushers:
    @pytest.mark.slow
    async def test_a_killed_one_is_replaced_when_its_time_ends(
        self, direct: Session, valkey_server: Server, namespace: str, tmp_path: Path
    ) -> None:
        await fill(direct)
        before = await direct.read()
        arguments = {"url": valkey_server.url, "namespace": namespace, "spec": policy()}
        async with Workers(flush_and_hang, 1, tmp_path, arguments=arguments) as [flusher]:
            assert await flusher.next_report() == "asked"
            flusher.kill()
            killed = time.monotonic()
            await flusher.exit_code()
        assert await direct.read() == before
        with pytest.raises(SessionBusy):
            await direct.flush("HybridSummary")

        async def replaced() -> bool:
            try:
                return (await direct.flush("HybridSummary")).summary is not None
            except SessionBusy:
                return False

        await until(replaced, "another flushes", deadline=CLAIM + 90)
        assert time.monotonic() - killed < CLAIM + 90
        await accounted(direct, 55)

    @pytest.mark.slow
    async def test_closing_does_not_wait_for_ever(
        self, direct: Session, valkey_server: Server, namespace: str
    ) -> None:
        author = Author(waits=True)
        client = holdfast.connect(
            valkey_server.url, namespace=namespace, policy=policy(), summarizer=author
        )
        await fill(direct, 80)
        before = await direct.read()
        session = client.memory(work.MEMORY).session(work.SHARED)
        await session.append(user("over the threshold"))
        await asyncio.wait_for(author.begun.wait(), 120)
        began = time.monotonic()
        await client.aclose()
        assert time.monotonic() - began < CLOSING + 30
        assert await direct.read() == [*before, user("over the threshold")]
        assert (await direct.flush("HybridSummary")).summary is not None
        await accounted(direct, 81)


class TestCutConnections:
    @pytest.mark.parametrize(
        ("name", "times"), [("flusher", 1), ("flusher", 3), ("splice", 1), ("splice", 3)]
    )
    @pytest.mark.parametrize("cut", list(Cut))
    async def test_a_flush_happens_once_and_says_so(
        self,
        flushing: Session,
        direct: Session,
        proxy: CuttingProxy,
        cut: Cut,
        *,
        name: str,
        times: int,
    ) -> None:
        await fill(direct)
        await flushing.length()
        fault = proxy.arm(cut, script(name).sha, times=times)
        done = await flushing.flush()
        assert fault.fired == times
        assert done.summary is not None
        (summary,) = await direct.summaries()
        assert (summary.seq, summary.messages) == (done.summary, done.summarised)
        assert (done.tokens, done.length) == (await direct.token_count(), await direct.length())
        assert len(await direct.history()) == 1
        await accounted(direct, 55)

    @pytest.mark.parametrize("cut", list(Cut))
    async def test_the_oldest_leave_once(
        self, direct: Session, proxy: CuttingProxy, namespace: str, cut: Cut
    ) -> None:
        await fill(direct)
        plain = work.policy(limits=LIMITS, flushing={"strategy": "FIFO"})
        registry = CollectorRegistry()
        async with holdfast.connect(
            proxy.url, namespace=namespace, policy=plain, observers=[PrometheusObserver(registry)]
        ) as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            await session.length()
            fault = proxy.arm(cut, script("trim").sha)
            done = await session.flush()
        assert fault.fired == 1
        assert done.reached
        assert done.tokens == await direct.token_count()
        (left,) = await direct.history()
        assert (done.dropped, done.rules) == (left.messages, {"FIFO": left.messages})
        labels = {"memory": f"{namespace}/{work.MEMORY}", "rule": "FIFO"}
        told = registry.get_sample_value("holdfast_messages_evicted_total", labels)
        assert told == left.messages
        await accounted(direct, 55)

    async def test_a_server_that_stays_away_changes_nothing(
        self, flushing: Session, direct: Session, proxy: CuttingProxy
    ) -> None:
        await fill(direct)
        before = await direct.read()
        await flushing.length()
        fault = proxy.arm(Cut.BEFORE_REQUEST, script("splice").sha, times=10_000)
        with pytest.raises(HoldfastError):
            await flushing.flush()
        assert fault.fired > 0
        assert await direct.read() == before
        fault.left = 0

        async def again() -> bool:
            try:
                return (await flushing.flush()).summary is not None
            except HoldfastError:
                return False

        await until(again, "the next one succeeds")
        await accounted(direct, 55)


class TestServers:
    async def test_a_restart_while_the_model_writes(
        self, own_server: Server, namespace: str
    ) -> None:
        author = Author(waits=True)
        async with holdfast.connect(
            own_server.url, namespace=namespace, policy=policy(), summarizer=author
        ) as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            await fill(session)
            flush = asyncio.create_task(session.flush())
            await asyncio.wait_for(author.begun.wait(), 120)
            await own_server.restart()
            author.may.set()
            assert (await flush).summary is not None
            assert len(await session.summaries()) == 1
            await accounted(session, 55)

    @pytest.mark.parametrize("strategy", ["FIFO", "LRU", "HybridSummary"])
    async def test_a_full_server_is_flushed(self, own_world: World, strategy: str) -> None:
        session = own_world.session("s", spec(limits=LIMITS))
        await fill(session)
        await own_world.raw.config_set("maxmemory-policy", "noeviction")
        await own_world.raw.config_set("maxmemory", 1)
        try:
            with pytest.raises(HoldfastError):
                await session.append(user("no room"))
            done = await session.flush(strategy)
        finally:
            await own_world.raw.config_set("maxmemory", 0)
        assert done.reached
        assert done.tokens <= 500
        await accounted(session, 55)


class TestKeys:
    async def test_all_keys_keep_one_expiry(self, world: World) -> None:
        terms = await world.apply(
            limits=LIMITS, flushing={"strategy": "LRU"}, retention={"ttl": "1h", "afterFlush": "2h"}
        )
        session = world.session("s")
        await fill(session)
        await session.pin(3)
        store = world.store().session(world.memory, "s")

        async def one_expiry(rule: str) -> None:
            assert len(await world.expiries("s")) == 1
            assert (await session.health()).expiry_rule == rule

        await session.flush("HybridSummary")
        await one_expiry("afterFlush")
        await session.append(user("on it goes"), id="a")
        await one_expiry("ttl")
        await session.read_page(limit=5)
        await session.flush("LRU")
        await store.touch(terms, [1, 2])
        await one_expiry("ttl")
        assert (await store.trim(terms, tokens=100, messages=0)).evicted > 0
        await one_expiry("afterFlush")
        await session.clear()
        await one_expiry("ttl")
        await store.append(terms, late(), FREE)
        await one_expiry("ttl")

    async def test_an_edited_threshold_holds_for_what_was_flushed_before(
        self, world: World
    ) -> None:
        flushing = {"strategy": "FIFO"}
        await world.apply(limits={"maxTokens": 4_000}, flushing=flushing)
        session = world.session("s")
        await fill(session, 50)
        await session.flush()
        await world.apply(limits={"maxTokens": 1_000}, flushing=flushing)

        async def followed() -> bool:
            return (await session.health()).revision_behind > 0

        await until(followed, "the client has seen the edit")
        assert await session.history() == []
        for number in range(60):
            await session.append(user(f"{number} more words"))

        async def flushed() -> bool:
            return any(it.rule == "FIFO" for it in await session.history())

        await until(flushed, "it is flushed at the new threshold")
