"""Turns between processes: who comes first is served first, whoever is stopped, killed or cancelled."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast.client import Client
from holdfast.errors import HoldfastError
from holdfast.session import Session
from tests.harness.processes import Child, Worker, Workers
from tests.harness.proxy import CuttingProxy
from tests.harness.servers import Server
from tests.harness.waiting import until
from tests.integration import workers as work

pytestmark = [pytest.mark.asyncio, pytest.mark.redis]

WAITERS = 32
SPEC = work.policy(locking={"leaseTTL": "3s"})
INTERRUPT = work.policy(locking={"onBusy": "Interrupt"})


def open_client(server: Server, namespace: str, spec: dict[str, Any]) -> Client:
    return holdfast.connect(server.url, namespace=namespace, policy=spec)


def shared(client: Client) -> Session:
    return client.memory(work.MEMORY).session(work.SHARED)


async def take_one_turn(
    child: Child, *, url: str, namespace: str, spec: dict[str, Any], on_interrupt: str | None = None
) -> str:
    """Wait for the turn, say so, and write when told; return what became of it."""
    cancels: Any = on_interrupt
    async with holdfast.connect(url, namespace=namespace, policy=spec) as client:
        await shared(client).length()
        await child.barrier()
        try:
            async with shared(client).turn(wait="60s", on_interrupt=cancels) as turn:
                child.report(turn.fence)
                await child.receive()
                await turn.append({"number": child.index, "fence": turn.fence})
        except HoldfastError as error:
            return error.code
        return "written"


def in_line(session: Session, count: int) -> Callable[[], Awaitable[bool]]:
    async def reached() -> bool:
        return (await session.health()).waiting == count

    return reached


def free(session: Session) -> Callable[[], Awaitable[bool]]:
    async def reached() -> bool:
        return (await session.health()).lease is None

    return reached


async def line_up(processes: Workers, session: Session) -> None:
    """Let the workers come one after the other, so that their index is their place."""
    for number, process in enumerate(processes):
        process.go()
        await until(in_line(session, number + 1), f"{number + 1} wait")


async def written(session: Session) -> list[int]:
    """Return who wrote, in order; later turns must have higher fences."""
    items = await session.read()
    fences = [item["fence"] for item in items]
    assert fences == sorted(set(fences))
    return [item["number"] for item in items]


async def test_32_waiters_of_four_processes_are_served_in_the_order_they_came(
    each_server: Server, namespace: str, tmp_path: Path
) -> None:
    arguments = {"url": each_server.url, "namespace": namespace, "spec": work.policy()}
    places = [(number * 7 + number // 4) % 4 for number in range(WAITERS)]
    assert {places.count(place) for place in range(4)} == {WAITERS // 4}
    async with (
        open_client(each_server, namespace, work.policy()) as client,
        Workers(work.wait_in_line, 4, tmp_path, arguments=arguments) as processes,
    ):
        session = shared(client)
        async with session.turn(ttl="2m"):
            for number, place in enumerate(places):
                processes[place].send(number)
                await until(in_line(session, number + 1), f"{number + 1} wait")
        for process in processes:
            process.send(None)
        await processes.wait()
        assert await written(session) == list(range(WAITERS))
        health = await session.health()
        assert (health.lease, health.waiting) == (None, 0)


@pytest.mark.slow
async def test_a_stopped_waiter_costs_the_grant_time_and_does_not_believe_its_wake_up(
    each_server: Server, namespace: str, tmp_path: Path
) -> None:
    arguments = {"url": each_server.url, "namespace": namespace, "spec": SPEC}
    async with (
        open_client(each_server, namespace, SPEC) as client,
        Workers(take_one_turn, 2, tmp_path, arguments=arguments) as processes,
    ):
        session = shared(client)
        first, second = processes
        for process in processes:
            await process.at_barrier()
        async with session.turn(ttl="2m"):
            await line_up(processes, session)
            first.stop()
        granted = await second.next_report()
        second.send(None)
        assert await second.wait() == "written"
        assert first.reports == []
        first.cont()
        assert await first.next_report() > granted
        first.send(None)
        assert await first.wait() == "written"
        assert await written(session) == [1, 0]


@pytest.mark.slow
async def test_a_holder_that_stopped_before_its_first_renewal_writes_nothing(
    each_server: Server, namespace: str, tmp_path: Path
) -> None:
    arguments = {"url": each_server.url, "namespace": namespace, "spec": SPEC}
    async with (
        open_client(each_server, namespace, SPEC) as client,
        Workers(take_one_turn, 1, tmp_path, arguments=arguments) as [process],
    ):
        session = shared(client)
        await process.at_barrier()
        async with session.turn(ttl="2m"):
            process.go()
            await until(in_line(session, 1), "it waits")
        await process.next_report()
        process.stop()
        await until(free(session), "its lease has ended")
        async with session.turn(wait=timedelta(0)) as turn:
            process.send(None)
            process.cont()
            assert await process.wait() == "LeaseLost"
            await turn.append({"number": -1, "fence": turn.fence})
        assert await written(session) == [-1]


@pytest.mark.slow
@pytest.mark.parametrize("end", [Worker.kill, Worker.stop], ids=["killed", "stopped"])
async def test_after_a_dead_holder_the_line_goes_on_in_order(
    each_server: Server, namespace: str, tmp_path: Path, end: Callable[[Worker], None]
) -> None:
    arguments = {"url": each_server.url, "namespace": namespace, "spec": SPEC}
    async with (
        open_client(each_server, namespace, SPEC) as client,
        Workers(take_one_turn, 4, tmp_path, arguments=arguments) as processes,
    ):
        session = shared(client)
        for process in processes:
            await process.at_barrier()
        holder, *others = processes
        holder.go()
        await holder.next_report()
        for number, process in enumerate(others):
            process.go()
            await until(in_line(session, number + 1), f"{number + 1} wait")
            process.send(None)
        end(holder)
        assert [await process.wait() for process in others] == ["written"] * 3
        assert await written(session) == [1, 2, 3]


async def test_an_interrupted_body_of_another_process_is_cancelled(
    each_server: Server, namespace: str, tmp_path: Path
) -> None:
    options = {"spec": INTERRUPT, "on_interrupt": "cancel"}
    arguments = {"url": each_server.url, "namespace": namespace, **options}
    async with (
        open_client(each_server, namespace, INTERRUPT) as client,
        Workers(take_one_turn, 1, tmp_path, arguments=arguments) as [process],
    ):
        session = shared(client)
        await process.at_barrier()
        process.go()
        fence = await process.next_report()
        async with session.turn() as turn:
            assert turn.fence > fence
            assert await process.wait() == "TurnInterrupted"
            await turn.append({"number": -1, "fence": turn.fence})
        assert await written(session) == [-1]


async def test_an_acquire_overtaken_by_its_own_release_leaves_no_lease(
    valkey_server: Server, namespace: str
) -> None:
    """On a slow network, a cancelled caller's release may arrive before what it takes back."""
    async with (
        CuttingProxy(valkey_server.port) as proxy,
        open_client(valkey_server, namespace, SPEC) as direct,
        holdfast.connect(proxy.url, namespace=namespace, policy=SPEC) as client,
        valkey_server.client() as raw,
    ):
        async with shared(client).turn():
            await shared(client).append(work.user("the scripts are there, and a connection"))

        async def calls() -> int:
            stats = await raw.info("commandstats")
            return stats["cmdstat_evalsha"]["calls"]

        proxy.delay(3.0)
        held, before = proxy.delayed, await calls()
        entering = asyncio.create_task(shared(client).turn(wait=timedelta(0)).__aenter__())
        await until(lambda: proxy.delayed > held, "the acquire is on its way")
        proxy.delay(0.0)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert await calls() == before + 1, "the release has overtaken it"

        async def all_three() -> bool:
            return await calls() == before + 3

        await until(all_three, "the acquire was carried out after all, and the index before it")
        assert await free(shared(direct))()
        async with shared(direct).turn(wait=timedelta(0)):
            pass
