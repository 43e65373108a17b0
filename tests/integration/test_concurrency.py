"""Many real processes on one session: nothing is lost, doubled or reordered, and all counters add up."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast.client import Client
from holdfast.errors import SessionBusy
from holdfast.session import Session
from holdfast.store.in_memory import InMemoryStore
from holdfast.values import Record
from tests.harness.processes import Workers
from tests.harness.servers import Product, Server
from tests.harness.waiting import until
from tests.integration import workers as work

pytestmark = [pytest.mark.asyncio, pytest.mark.redis]

PROCESSES = 8
APPENDS = {Product.VALKEY: 500, Product.REDIS: 100}
"""Of each process. What decides between them is the same text on both: one is kept busy for long."""


def open_client(server: Server, namespace: str, spec: dict[str, Any]) -> Client:
    return holdfast.connect(server.url, namespace=namespace, policy=spec)


async def all_records(session: Session) -> list[Record]:
    """Return everything that is stored, page by page."""
    records: list[Record] = []
    after = None
    while True:
        page = await session.read_page(after=after, limit=1000)
        records += page.records
        if page.next is None:
            return records
        after = page.next


async def assert_counters_true(server: Server, namespace: str, session: Session) -> None:
    """Compare every counter with the records themselves, and every expiry with the session's."""
    counted = await work.recount(server, namespace)
    assert await work.counters(session) == counted
    health = await session.health()
    async with server.client() as raw:
        for name in ("meta", "log", "pin", "ids"):
            at = await raw.pexpiretime(work.key_of(namespace, name))
            assert at in (-2, health.expires_at), f"{name} expires at another time"


def assert_each_once_in_order(records: list[Record], count: int) -> None:
    """Check that each worker's messages are all there, once, in its own order, without a gap in seq."""
    assert [record.seq for record in records] == list(range(1, PROCESSES * count + 1))
    for worker in range(PROCESSES):
        own = [record.item["number"] for record in records if record.item["worker"] == worker]
        assert own == list(range(count))


@pytest.mark.slow
async def test_appends_of_eight_processes(
    each_server: Server, namespace: str, tmp_path: Path
) -> None:
    spec, count = work.policy(), APPENDS[each_server.product]
    arguments = {"url": each_server.url, "namespace": namespace, "spec": spec, "count": count}
    async with Workers(work.append_alone, PROCESSES, tmp_path, arguments=arguments) as processes:
        await processes.release()
        acknowledged = await processes.wait()
    async with open_client(each_server, namespace, spec) as client:
        session = client.memory(work.MEMORY).session(work.SHARED)
        records = await all_records(session)
        assert_each_once_in_order(records, count)
        for worker, seqs in enumerate(acknowledged):
            assert seqs == [record.seq for record in records if record.item["worker"] == worker]
        await assert_counters_true(each_server, namespace, session)
        health = await session.health()
        assert (health.version, health.dropped, health.warnings) == (PROCESSES * count, 0, ())


@pytest.mark.slow
async def test_turns_of_eight_processes(
    each_server: Server, namespace: str, tmp_path: Path
) -> None:
    spec, count = work.policy(locking={"mode": "Enforced"}), APPENDS[each_server.product]
    arguments = {"url": each_server.url, "namespace": namespace, "spec": spec, "count": count}
    async with Workers(work.append_in_turns, PROCESSES, tmp_path, arguments=arguments) as processes:
        await processes.release()
        turns = sorted(turn for turns in await processes.wait() for turn in turns)
    seqs = [seq for _, *numbers in turns for seq in numbers]
    assert seqs == list(range(1, PROCESSES * count + 1)), "a turn's messages are not in one piece"
    assert len({fence for fence, *_ in turns}) == PROCESSES * count // work.PER_TURN
    async with open_client(each_server, namespace, spec) as client:
        session = client.memory(work.MEMORY).session(work.SHARED)
        assert_each_once_in_order(await all_records(session), count)
        await assert_counters_true(each_server, namespace, session)
        health = await session.health()
        assert (health.version, health.dropped) == (PROCESSES * count, 0)
        assert (health.lease, health.waiting) == (None, 0)


@pytest.mark.slow
async def test_what_is_left_is_the_replay_of_what_was_acknowledged(
    each_server: Server, namespace: str, tmp_path: Path
) -> None:
    by_product = {Product.VALKEY: {"maxTokens": 2_000}, Product.REDIS: {"maxMessages": 60}}
    limits = by_product[each_server.product]
    # The lease decides how long an open tool call is spared: long enough for the replay as well.
    spec = work.policy(limits=limits, locking={"leaseTTL": "10m"})
    arguments = {"url": each_server.url, "namespace": namespace, "spec": spec, "count": 70}
    async with Workers(work.append_mixed, PROCESSES, tmp_path, arguments=arguments) as processes:
        await processes.release()
        acknowledged = sorted(
            (seq, worker, number)
            for worker, done in enumerate(await processes.wait())
            for seq, number in done
        )
    assert len(acknowledged) > PROCESSES * 40
    async with (
        open_client(each_server, namespace, spec) as client,
        Client(InMemoryStore(), namespace=namespace, policy=spec) as other,
    ):
        session = client.memory(work.MEMORY).session(work.SHARED)
        replay = other.memory(work.MEMORY).session(work.SHARED)
        operations = [work.mixed_operations(worker, 70) for worker in range(PROCESSES)]
        for seq, worker, number in acknowledged:
            operation = operations[worker][number]
            done = await replay.append_many(operation.items, pin=operation.pin)
            assert done.seq == seq
        assert [_timeless(record) for record in await all_records(session)] == [
            _timeless(record) for record in await all_records(replay)
        ]
        await assert_counters_true(each_server, namespace, session)
        assert await work.counters(session) == await work.counters(replay)
        health, expected = await session.health(), await replay.health()
        assert (health.version, health.dropped) == (expected.version, expected.dropped)
        assert health.dropped > 0


def _timeless(record: Record) -> tuple[Any, ...]:
    return (record.seq, record.tokens, record.group, record.id, record.pinned, record.item)


@pytest.mark.slow
async def test_two_first_writers(each_server: Server, namespace: str, tmp_path: Path) -> None:
    rounds = 25
    spec = work.policy()
    arguments = {"url": each_server.url, "namespace": namespace, "spec": spec, "rounds": rounds}
    async with (
        each_server.client() as raw,
        Workers(work.write_first, 2, tmp_path, arguments=arguments) as processes,
    ):
        for round_ in range(rounds):
            for process in processes:
                await process.at_barrier()
            if round_ % 2:
                await raw.script_flush()
            await processes.release()
        seqs = await processes.wait()
        assert [sorted(pair) for pair in zip(*seqs, strict=True)] == [[1, 2]] * rounds
        indexed = await raw.zrange(f"mem:{{{namespace}/{work.MEMORY}}}:sessions", 0, -1)
        assert sorted(indexed) == sorted(f"new-{round_}".encode() for round_ in range(rounds))
    async with open_client(each_server, namespace, spec) as client:
        for round_ in range(rounds):
            session = client.memory(work.MEMORY).session(f"new-{round_}")
            contents = sorted(item["content"] for item in await session.read())
            assert contents == ["from 0", "from 1"]
            assert (await session.health()).version == 2


async def test_waiters_of_four_processes_are_served_in_order(
    each_server: Server, namespace: str, tmp_path: Path
) -> None:
    spec = work.policy()
    arguments = {"url": each_server.url, "namespace": namespace, "spec": spec}
    places = [0, 1, 2, 3, 3, 1, 2, 0]  # the process of each in the line
    async with (
        open_client(each_server, namespace, spec) as client,
        Workers(work.wait_in_line, 4, tmp_path, arguments=arguments) as processes,
    ):
        session = client.memory(work.MEMORY).session(work.SHARED)

        async def waiting() -> int:
            return (await session.health()).waiting

        async with session.turn():
            for number, place in enumerate(places):
                processes[place].send(number)

                async def lined_up(count: int = number + 1) -> bool:
                    return await waiting() == count

                await until(lined_up, f"{number + 1} wait")
                with pytest.raises(SessionBusy) as refused:
                    await session.turn(wait=timedelta(0)).__aenter__()
                assert refused.value.place == number + 1
        for process in processes:
            process.send(None)
        await processes.wait()
        items = await session.read()
        assert [item["number"] for item in items] == list(range(len(places)))
        fences = [item["fence"] for item in items]
        assert fences == sorted(set(fences))
        assert await waiting() == 0
        assert (await session.health()).lease is None
