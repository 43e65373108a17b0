"""Appends, turns and erasures that replicas confirm, or that say that they did not."""

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import holdfast
from holdfast.client import Client
from holdfast.errors import NotDurable, SessionBusy
from holdfast.store.bindings import ROOT
from holdfast.values import Durability, Receipt
from tests.harness.binding_files import BindingFiles, entry
from tests.harness.cluster_of_servers import ClusterOfServers, slot_of
from tests.harness.parts import need_server
from tests.harness.proxy import Cut, CuttingProxy
from tests.harness.servers import Product, Server
from tests.harness.waiting import until
from tests.integration import workers as work
from tests.integration.workers import user

pytestmark = [pytest.mark.asyncio, pytest.mark.redis]

WAIT = "1s"
"""Enough for a replica that is there, on a busy machine, too. One that is not there is waited for in vain."""


@pytest_asyncio.fixture(params=list(Product))
async def pair(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncGenerator[tuple[Server, Server]]:
    """Return a primary and a replica that has all there is."""
    request.getfixturevalue(f"{request.param}_server")  # says so where there is none
    options = ["--repl-diskless-sync-delay", "0"]
    async with Server(request.param, tmp_path / "primary", arguments=options) as primary:
        options += ["--replicaof", "127.0.0.1", str(primary.port)]
        async with Server(request.param, tmp_path / "replica", arguments=options) as replica:
            await in_step(primary)
            yield primary, replica


async def in_step(primary: Server) -> None:
    async with primary.client() as raw:
        await raw.set("in-step", "x")

        async def has_all() -> bool:
            return await raw.wait(1, 100) == 1

        await until(has_all, "the replica has all")


def connect(url: str, namespace: str, **options: Any) -> Client:
    return holdfast.connect(url, namespace=namespace, policy=work.policy(), **options)


def lose_reply(proxy: CuttingProxy, cut: Cut) -> None:
    """Let the next confirmed call be carried out and not be heard of."""
    if cut is Cut.AFTER_REQUEST:
        proxy.cut_after_request(b"WAIT", times=1)
    else:
        proxy.half_reply(b"WAIT", 5, times=1)


class TestAppend:
    async def test_one_that_a_replica_has_is_durable(
        self, pair: tuple[Server, Server], namespace: str
    ) -> None:
        primary, replica = pair
        async with connect(f"{primary.url}?replicas=1&wait=10s", namespace) as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            for number in range(5):
                assert (await session.append(user(str(number)))).durable
                async with replica.client() as raw:
                    assert await raw.llen(work.key_of(namespace, "log")) == number + 1

    async def test_a_binding_says_how_many_are_asked(
        self,
        pair: tuple[Server, Server],
        namespace: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        primary, replica = pair
        memory = entry(work.MEMORY, f"mem:{{{namespace}/{work.MEMORY}")
        place = {"host": "127.0.0.1", "port": str(primary.port)}
        BindingFiles(tmp_path / "bindings" / "memory").write(
            [memory], **place, replicas="1", wait=WAIT
        )
        monkeypatch.setenv(ROOT, str(tmp_path / "bindings"))
        async with holdfast.connect(policy=work.policy()) as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            assert (await session.append(user("first"))).durable
            replica.pause()
            assert not (await session.append(user("second"))).durable
            replica.resume()

    async def test_without_being_asked_nobody_waits(
        self, pair: tuple[Server, Server], namespace: str
    ) -> None:
        primary, replica = pair
        replica.pause()
        async with connect(primary.url, namespace) as client:
            done = await client.memory(work.MEMORY).session(work.SHARED).append(user("x"))
        assert done.durable
        replica.resume()

    async def test_one_that_no_replica_has_is_written_and_says_so(
        self, pair: tuple[Server, Server], namespace: str
    ) -> None:
        primary, replica = pair
        wait = Durability(replicas=1, timeout=WAIT)
        async with connect(primary.url, namespace, durability=wait) as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            await session.append(user("first"))
            replica.pause()
            began = time.monotonic()
            done = await session.append(user("second"), id="r-1")
            assert time.monotonic() - began >= 1
            assert (done.durable, done.seq) == (False, 2)
            # Another connection has written nothing, and must not be told what it did not ask.
            again = await asyncio.gather(
                *(session.append(user("second"), id="r-1") for _ in "1234")
            )
            assert [(each.duplicate, each.durable) for each in again] == [(True, False)] * 4
            replica.resume()
            await in_step(primary)
            confirmed = await session.append(user("second"), id="r-1")
            assert (confirmed.duplicate, confirmed.durable) == (True, True)
            assert await session.read() == [user("first"), user("second")]

    async def test_a_strict_one_raises_and_is_written(
        self, pair: tuple[Server, Server], namespace: str
    ) -> None:
        primary, replica = pair
        wait = Durability(replicas=1, timeout=WAIT, strict=True)
        async with connect(primary.url, namespace, durability=wait) as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            async with session.turn() as turn:
                await turn.append(user("first"))
                replica.pause()
                with pytest.raises(NotDurable) as refusal:
                    await turn.append(user("second"), id="r-1")
                assert refusal.value.seq == 2
                assert refusal.value.session == work.SHARED
                assert await turn.read() == [user("first"), user("second")]
                replica.resume()
                await in_step(primary)
                assert (await turn.append(user("second"), id="r-1")).durable
                assert (await turn.append(user("third"))).seq == 3

    async def test_a_lost_reply_is_asked_for_again(
        self, pair: tuple[Server, Server], namespace: str
    ) -> None:
        primary, _ = pair
        async with CuttingProxy(primary.port) as proxy:
            url = f"{proxy.url}?replicas=1&wait=10s"
            async with connect(url, namespace) as client:
                session = client.memory(work.MEMORY).session(work.SHARED)
                await session.append(user("first"))
                for number, cut in enumerate((Cut.AFTER_REQUEST, Cut.HALF_REPLY)):
                    lose_reply(proxy, cut)
                    done = await session.append(user(str(number)), id=str(number))
                    assert done.durable
                assert await session.length() == 3

    async def test_in_a_cluster_the_node_of_the_session_is_asked(
        self, cluster_of_servers: ClusterOfServers, namespace: str
    ) -> None:
        url = f"{cluster_of_servers.url}?replicas=1&wait=50ms"
        async with connect(url, namespace) as client:
            memory = client.memory(work.MEMORY)
            for number in range(4):  # which have no replicas at all
                assert not (await memory.session(str(number)).append(user("x"))).durable

    async def test_in_a_cluster_with_replicas_the_right_node_is_asked(
        self, namespace: str, tmp_path: Path
    ) -> None:
        """Of two nodes one has a replica: each answers for what is written to it, and for nothing else."""
        need_server(Product.VALKEY)
        async with (
            ClusterOfServers(tmp_path, count=2, replicas=1) as cluster,
            connect(f"{cluster.url}?replicas=1&wait={WAIT}", namespace) as patient,
            connect(f"{cluster.url}?replicas=1&wait=50ms", namespace) as quick,
        ):
            followed, alone = cluster.nodes
            names: dict[Server, list[str]] = {followed: [], alone: []}
            for number in range(30):
                owner = await cluster.owner(slot_of(work.key_of(namespace, "meta", str(number))))
                names[owner].append(str(number))
            here, there = names[followed], names[alone]

            async def append(client: Client, name: str) -> bool:
                return (await client.memory(work.MEMORY).session(name).append(user("x"))).durable

            assert all(await asyncio.gather(*(append(patient, name) for name in here)))
            both = await asyncio.gather(*(append(quick, name) for name in there + here))
            assert not any(both[: len(there)])

            moves, returns = there[0], here[0]
            await cluster.move_slot(slot_of(work.key_of(namespace, "meta", moves)), followed)
            assert await append(patient, moves), "by the node that a MOVED points to"
            assert await append(patient, moves), "by the node that has it now"
            await cluster.move_slot(slot_of(work.key_of(namespace, "meta", returns)), alone)
            assert not await append(quick, returns)
            assert not await append(quick, returns)


class TestTurn:
    async def test_one_that_no_replica_knows_of_is_given_back(
        self, pair: tuple[Server, Server], namespace: str
    ) -> None:
        primary, replica = pair
        wait = Durability(replicas=1, timeout=WAIT)
        async with (
            connect(primary.url, namespace, durability=wait) as client,
            connect(primary.url, namespace) as other,
        ):
            session = client.memory(work.MEMORY).session(work.SHARED)
            async with session.turn() as turn:
                await turn.append(user("first"))
            replica.pause()
            with pytest.raises(SessionBusy, match="too few replicas"):
                await session.turn().__aenter__()
            async with other.memory(work.MEMORY).session(work.SHARED).turn(wait="1ms"):
                pass
            replica.resume()
            await in_step(primary)
            async with session.turn():
                pass


class TestErasure:
    async def test_one_that_a_replica_has_is_durable(
        self, pair: tuple[Server, Server], namespace: str
    ) -> None:
        primary, replica = pair
        async with connect(f"{primary.url}?replicas=1&wait=10s", namespace) as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            await session.append(user("first"))
            receipt = await session.erase()
            assert (receipt.messages, receipt.durable) == (1, True)
            async with replica.client() as raw:
                assert not await raw.exists(work.key_of(namespace, "log"))

    async def test_one_that_no_replica_has_says_so_until_it_is_repeated(
        self, pair: tuple[Server, Server], namespace: str
    ) -> None:
        """Whoever repeats it, and however little is left: the mark of the erasure before, or nothing."""
        primary, replica = pair
        wait = Durability(replicas=1, timeout=WAIT, strict=True)

        async def erase() -> tuple[int, bool]:
            async with connect(primary.url, namespace, durability=wait) as client:
                receipt = await client.memory(work.MEMORY).session(work.SHARED).erase()
            return receipt.messages, receipt.durable

        async with connect(primary.url, namespace, durability=wait) as client:
            await client.memory(work.MEMORY).session(work.SHARED).append(user("first"))
        replica.pause()
        assert await erase() == (1, False)
        assert await erase() == (0, False)
        async with primary.client() as raw:
            await raw.unlink(work.key_of(namespace, "meta"))
        assert await erase() == (0, False)
        replica.resume()
        await in_step(primary)
        assert await erase() == (0, True)
        assert await erase() == (0, True)

    async def test_all_of_a_label_are_asked_for(
        self, pair: tuple[Server, Server], namespace: str
    ) -> None:
        primary, replica = pair
        wait = Durability(replicas=1, timeout=WAIT)
        async with connect(primary.url, namespace, durability=wait) as client:
            memory = client.memory(work.MEMORY)

            async def erased(*, behind: bool) -> Receipt:
                for name in "ab":
                    await memory.session(name, labels={"user": "42"}).append(user("first"))
                if behind:
                    replica.pause()
                receipt = await memory.erase(labels={"user": "42"})
                replica.resume()
                await in_step(primary)
                return receipt

            for behind in (True, False):
                receipt = await erased(behind=behind)
                assert (receipt.sessions, receipt.durable) == (2, not behind)

    @pytest.mark.parametrize("cut", [Cut.AFTER_REQUEST, Cut.HALF_REPLY])
    async def test_a_lost_reply_is_asked_for_again(
        self, pair: tuple[Server, Server], namespace: str, cut: Cut
    ) -> None:
        primary, replica = pair
        async with CuttingProxy(primary.port) as proxy:
            url = f"{proxy.url}?replicas=1&wait={WAIT}"
            async with connect(url, namespace) as client:
                session = client.memory(work.MEMORY).session(work.SHARED)
                await session.append(user("first"))
                replica.pause()
                lose_reply(proxy, cut)
                receipt = await session.erase()
                assert (receipt.messages, receipt.durable) == (1, False)
                replica.resume()
