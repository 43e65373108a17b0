"""Broken connections, frozen and killed processes, cancelled calls: no wrong answer, nothing left behind."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import pytest
import pytest_asyncio
from redis.asyncio import Redis

import holdfast
from holdfast.client import Client
from holdfast.errors import AmbiguousWrite, LeaseLost, StoreUnavailable
from holdfast.session import Session
from holdfast.store.redis import RedisStore
from holdfast.store.redis.script import script
from tests.harness.processes import Workers
from tests.harness.proxy import Cut, CuttingProxy
from tests.harness.servers import Server
from tests.harness.waiting import until
from tests.integration import workers as work
from tests.integration.workers import user

pytestmark = [pytest.mark.asyncio, pytest.mark.redis]

LEASE = 3.0
"""Seconds: the shortest lease there is."""


@pytest.fixture
def spec() -> dict[str, Any]:
    return work.policy(locking={"leaseTTL": "3s"})


@pytest_asyncio.fixture
async def client(
    proxy: CuttingProxy, namespace: str, spec: dict[str, Any]
) -> AsyncGenerator[Client]:
    """Return a client whose connections the test can break."""
    async with holdfast.connect(proxy.url, namespace=namespace, policy=spec) as client:
        yield client


@pytest_asyncio.fixture
async def direct_client(
    valkey_server: Server, namespace: str, spec: dict[str, Any]
) -> AsyncGenerator[Client]:
    """Return a client that no fault touches."""
    async with holdfast.connect(valkey_server.url, namespace=namespace, policy=spec) as client:
        yield client


@pytest.fixture
def session(client: Client) -> Session:
    return client.memory(work.MEMORY).session(work.SHARED)


@pytest.fixture
def direct(direct_client: Client) -> Session:
    """Return the same session past the proxy."""
    return direct_client.memory(work.MEMORY).session(work.SHARED)


def evalsha(name: str) -> bytes:
    """Return what a call of that script has on the wire."""
    return script(name).sha


def library_tasks() -> list[asyncio.Task[Any]]:
    """Return the tasks that the library started and that still run."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    return [task for task in tasks if "/holdfast/" in task.get_coro().cr_code.co_filename]


async def nobody_holds_or_waits(session: Session) -> bool:
    health = await session.health()
    return health.lease is None and health.waiting == 0


EVERY_CUT = pytest.mark.parametrize("cut", list(Cut))
EXECUTED = pytest.mark.parametrize("cut", [Cut.AFTER_REQUEST, Cut.HALF_REPLY])


class TestCutConnections:
    @EVERY_CUT
    @pytest.mark.parametrize("times", [1, 3])
    @pytest.mark.parametrize("written", [True, False], ids=["known session", "new session"])
    async def test_an_append_with_an_id_is_stored_once(
        self, session: Session, proxy: CuttingProxy, cut: Cut, times: int, written: bool
    ) -> None:
        first = [user("first")] if written else []
        for message in first:
            await session.append(message)
        fault = proxy.arm(cut, evalsha("append"), times=times)
        done = await session.append(user("second"), id="r-1")
        assert (fault.fired, done.seq, done.length) == (times, len(first) + 1, len(first) + 1)
        again = await session.append(user("second"), id="r-1")
        assert (again.duplicate, again.seq) == (True, done.seq)
        assert await session.read() == [*first, user("second")]

    @EVERY_CUT
    async def test_a_batch_with_an_id_is_stored_once(
        self, session: Session, direct: Session, proxy: CuttingProxy, cut: Cut
    ) -> None:
        messages = [user(str(number)) for number in range(20)]
        proxy.arm(cut, evalsha("append"))
        await session.append_many(messages, id="batch")
        assert await direct.read() == messages

    @EXECUTED
    async def test_an_append_without_an_id_says_that_it_does_not_know(
        self, session: Session, direct: Session, proxy: CuttingProxy, cut: Cut
    ) -> None:
        await session.append(user("first"))
        fault = proxy.arm(cut, evalsha("append"))
        with pytest.raises(AmbiguousWrite):
            await session.append(user("second"))
        assert fault.fired == 1
        assert await direct.read() == [user("first"), user("second")]
        await session.append(user("third"))
        assert await direct.length() == 3

    async def test_an_append_without_an_id_that_never_arrived_is_not_stored_twice(
        self, session: Session, direct: Session, proxy: CuttingProxy
    ) -> None:
        await session.append(user("first"))
        proxy.cut_before_request(evalsha("append"))
        stored = 2
        try:
            await session.append(user("second"))
        except AmbiguousWrite:
            stored = 1
        assert await direct.length() == stored

    @EXECUTED
    async def test_other_changes_happen_once(
        self, session: Session, direct: Session, proxy: CuttingProxy, cut: Cut
    ) -> None:
        messages = [user(str(number)) for number in range(4)]
        await session.append_many(messages)
        proxy.arm(cut, evalsha("pop"))
        with pytest.raises(AmbiguousWrite):
            await session.pop()
        assert await direct.read() == messages[:3]
        proxy.arm(cut, evalsha("pin"))
        await session.pin(1)
        assert (await direct.health()).pinned == 1
        proxy.arm(cut, evalsha("clear"))
        with pytest.raises(AmbiguousWrite):
            await session.clear()
        assert await direct.length() == 0

    @EVERY_CUT
    async def test_reads_are_repeated(
        self, session: Session, proxy: CuttingProxy, cut: Cut
    ) -> None:
        message = user("only")
        await session.append(message)
        proxy.arm(cut, b"LRANGE")
        assert await session.read() == [message]
        proxy.arm(cut, b"LRANGE")
        assert await session.read(limit=5) == [message]
        proxy.arm(cut, evalsha("tail"))
        assert await session.read(max_tokens=100) == [message]
        proxy.arm(cut, evalsha("page"))
        assert (await session.read_page()).total == 1
        proxy.arm(cut, b"HMGET")
        assert (await session.health()).messages == 1

    @EVERY_CUT
    @pytest.mark.parametrize("name", ["acquire", "release"])
    async def test_a_turn_leaves_nothing_behind(
        self, session: Session, direct: Session, proxy: CuttingProxy, cut: Cut, name: str
    ) -> None:
        fault = proxy.arm(cut, evalsha(name), times=2)
        async with session.turn() as turn:
            await turn.append(user("in turn"))
        assert fault.fired == 2
        assert await nobody_holds_or_waits(direct)
        assert await direct.read() == [user("in turn")]

    @EVERY_CUT
    @pytest.mark.parametrize("match", [evalsha("acquire"), b"BLPOP"], ids=["asking", "sleeping"])
    async def test_a_waiter_keeps_its_place(
        self, session: Session, direct: Session, proxy: CuttingProxy, cut: Cut, match: bytes
    ) -> None:
        async def wait() -> None:
            async with session.turn(wait="30s") as turn:
                await turn.append(user("waited"))

        async def queued() -> bool:
            return (await direct.health()).waiting == 1

        fault = proxy.arm(cut, match)
        async with direct.turn():
            waiter = asyncio.create_task(wait())
            await until(queued, "the waiter is in line")
            if cut is Cut.BEFORE_REQUEST or match != b"BLPOP":
                await until(lambda: fault.fired == 1, "the connection was cut")
        await waiter
        await until(lambda: fault.fired == 1, "the connection was cut")
        assert await direct.read() == [user("waited")]
        assert await nobody_holds_or_waits(direct)

    @pytest.mark.slow
    @EVERY_CUT
    async def test_a_lost_renewal_does_not_end_the_turn(
        self, session: Session, direct: Session, proxy: CuttingProxy, cut: Cut
    ) -> None:
        async with session.turn() as turn:
            fault = proxy.arm(cut, evalsha("renew"))
            await until(lambda: fault.fired == 1, "the renewal was cut")
            await turn.check()
            lease = (await direct.health()).lease
            assert lease is not None
            assert lease.remaining > LEASE / 2
            await turn.append(user("still mine"))
        assert await nobody_holds_or_waits(direct)


class TestHolders:
    @pytest.mark.slow
    async def test_one_that_slept_past_its_lease_writes_nothing(
        self, direct_client: Client, valkey_server: Server, namespace: str, tmp_path: Path
    ) -> None:
        async def take_over(worker: Any, session: Session, *, hold: bool) -> None:
            assert await worker.next_report() == "holding"
            worker.stop()
            async with contextlib.AsyncExitStack() as stack:
                turn = await stack.enter_async_context(session.turn(wait="60s"))
                await turn.append(user("mine"))
                if not hold:
                    await stack.aclose()
                worker.send("write")
                worker.cont()
                assert await worker.wait() == "LeaseLost"
                if hold:
                    await turn.check()
            assert await session.read() == [user("before"), user("mine")]
            assert await nobody_holds_or_waits(session)

        def arguments(session_id: str) -> dict[str, Any]:
            spec = work.policy()
            url = valkey_server.url
            return {"url": url, "namespace": namespace, "spec": spec, "session_id": session_id}

        (tmp_path / "free").mkdir()
        async with (
            Workers(work.hold_and_write, 1, tmp_path, arguments=arguments("held")) as [held],
            Workers(work.hold_and_write, 1, tmp_path / "free", arguments=arguments("free")) as [
                free
            ],
        ):
            memory = direct_client.memory(work.MEMORY)
            await asyncio.gather(
                take_over(held, memory.session("held"), hold=True),
                take_over(free, memory.session("free"), hold=False),
            )

    @pytest.mark.slow
    async def test_one_whose_write_was_on_its_way_when_the_lease_ended_is_refused(
        self, session: Session, direct: Session, proxy: CuttingProxy
    ) -> None:
        # What the holder itself cannot know: the script has to refuse.
        await session.append(user("before"))
        async with session.turn() as turn:
            proxy.delay(LEASE + 1.2)
            write = asyncio.create_task(turn.append(user("too late")))
            async with direct.turn(wait="60s") as other:
                proxy.delay(0)
                await other.append(user("mine"))
                with pytest.raises(LeaseLost):
                    await write
                await turn.lost
        assert await direct.read() == [user("before"), user("mine")]
        assert await nobody_holds_or_waits(direct)

    @pytest.mark.slow
    async def test_a_killed_one_costs_its_lease(
        self, direct_client: Client, valkey_server: Server, namespace: str, tmp_path: Path
    ) -> None:
        arguments = {"url": valkey_server.url, "namespace": namespace, "spec": work.policy()}
        session = direct_client.memory(work.MEMORY).session("killed")
        async with Workers(
            work.hold_and_write, 1, tmp_path, arguments=arguments | {"session_id": "killed"}
        ) as [holder]:
            assert await holder.next_report() == "holding"
            holder.kill()
            killed = time.monotonic()
            await holder.exit_code()
            assert (await session.health()).lease is not None
            async with session.turn(wait="60s") as turn:
                assert time.monotonic() - killed < LEASE + 50
                await turn.append(user("next"))
        assert await session.read() == [user("before"), user("next")]

    @pytest.mark.slow
    async def test_a_killed_waiter_costs_the_grant_time(
        self, direct_client: Client, valkey_server: Server, namespace: str, tmp_path: Path
    ) -> None:
        arguments = {"url": valkey_server.url, "namespace": namespace, "spec": work.policy()}
        session = direct_client.memory(work.MEMORY).session(work.SHARED)

        async def wait(count: int) -> None:
            async def lined_up() -> bool:
                return (await session.health()).waiting == count

            await until(lined_up, f"{count} wait")

        async with Workers(work.wait_in_line, 2, tmp_path, arguments=arguments) as [first, second]:
            async with session.turn(ttl="60s"):
                first.send(1)
                await wait(1)
                second.send(2)
                await wait(2)
                first.kill()
                await first.exit_code()
            released = time.monotonic()
            second.send(None)
            await second.wait()
            assert time.monotonic() - released < 2.0 + 50
        assert [item["number"] for item in await session.read()] == [2]
        assert await nobody_holds_or_waits(session)


class TestCancelling:
    async def test_at_random_moments_under_load(
        self, direct_client: Client, valkey_server: Server
    ) -> None:
        chance = random.Random(20_240)
        memory = direct_client.memory(work.MEMORY)
        stormy = [memory.session(f"storm-{number}") for number in range(4)]
        load = _Load([memory.session(f"calm-{number}") for number in range(8)])
        async with load:
            for number in range(0, 200, 8):
                acts = [
                    _act(chance.choice(stormy), chance.choice(_ACTS), number + at)
                    for at in range(8)
                ]
                tasks = [asyncio.create_task(act) for act in acts]
                for task in chance.sample(tasks, len(tasks)):
                    await asyncio.sleep(chance.random() * 0.003)
                    task.cancel()
                for end in await asyncio.gather(*tasks, return_exceptions=True):
                    assert end is None or isinstance(end, asyncio.CancelledError), repr(end)
        assert load.calls > 500
        for session in stormy:

            async def quiet(session: Session = session) -> bool:
                return await nobody_holds_or_waits(session)

            await until(quiet, "no lease and no waiter is left")
            async with session.turn(wait="60s") as turn:
                await turn.append(user("the storm is over"))
            contents = [item["content"] for item in await session.read()]
            assert len(contents) == len(set(contents))
        calm = load.sessions * 20
        for items, session in zip(
            await asyncio.gather(*(session.read() for session in calm)), calm, strict=True
        ):
            assert items == load.expected[session]
        async with valkey_server.client() as raw:
            assert (await raw.info("clients"))["connected_clients"] < 64 + 10

    async def test_a_waiter_whose_server_does_not_answer_leaves_nothing(
        self, client: Client, session: Session, direct: Session, proxy: CuttingProxy
    ) -> None:
        await session.append(user("first"))
        fault = proxy.cut_before_request(evalsha("acquire"), times=10_000)
        waiter = asyncio.create_task(session.turn(wait="60s").__aenter__())
        await until(lambda: fault.fired >= 2, "the turn was asked for")
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        fault.left = 0
        await client.aclose()
        assert library_tasks() == []
        assert await nobody_holds_or_waits(direct)

    async def test_leaving_a_turn_while_the_server_is_away_ends_in_time(
        self, session: Session, direct: Session, proxy: CuttingProxy
    ) -> None:
        async def break_off() -> None:
            async with session.turn():
                proxy.refuse()
                proxy.cut_all()
                raise LookupError("the body's own")

        with pytest.raises(LookupError):
            await asyncio.wait_for(break_off(), 60)
        await proxy.accept()

        async def released() -> bool:
            return await nobody_holds_or_waits(direct)

        await until(released, "the lease is gone")

    @pytest.mark.slow
    async def test_closing_while_the_server_is_away_leaves_no_task(
        self, client: Client, session: Session, proxy: CuttingProxy
    ) -> None:
        async with session.turn():
            proxy.refuse()
            proxy.cut_all()
        async with asyncio.timeout(60):
            await client.aclose()
        assert library_tasks() == []


_ACTS = ("append", "read", "page", "acquire", "release", "turn")


async def _act(session: Session, act: str, number: int) -> None:
    match act:
        case "append":
            await session.append(user(f"storm {number}"), id=f"storm-{number}")
        case "read":
            await session.read()
        case "page":
            await session.read_page()
        case "acquire":
            async with session.turn(wait="60s"):
                await asyncio.Event().wait()
        case "release":
            entering = asyncio.create_task(session.turn(wait="60s").__aenter__())
            try:
                await asyncio.shield(entering)
            finally:
                turn = await entering
                await turn.__aexit__(None, None, None)
        case _:
            async with session.turn(wait="60s") as turn:
                await turn.append(user(f"turn {number}"))


class _Load:
    """Readers and writers that check that each answer is the answer to their own call."""

    def __init__(self, sessions: list[Session]) -> None:
        self.sessions = sessions
        self.expected: dict[Session, list[Any]] = {session: [] for session in sessions}
        self.calls = 0
        self._over = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._work(session)) for session in self.sessions]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def _work(self, session: Session) -> None:
        own = self.expected[session]
        tag = self.sessions.index(session)
        while not self._over:
            if len(own) < 20:
                message = user(f"calm {tag} {len(own)}")
                done = await session.append(message)
                own.append(message)
                assert (done.seq, done.length) == (len(own), len(own))
            assert await session.read() == own
            assert await session.read(limit=1) == own[-1:]
            assert await session.length() == len(own)
            self.calls += 3


class TestOutages:
    async def test_a_refused_connection_ends_within_the_patience(
        self, proxy: CuttingProxy, namespace: str
    ) -> None:
        store = RedisStore.from_url(proxy.url, timeout=1.0)
        async with Client(store, namespace=namespace, policy=work.policy()) as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            await session.append(user("before"))
            proxy.refuse()
            proxy.cut_all()
            with pytest.raises(StoreUnavailable):
                await session.length()
            calls: list[Callable[[], Awaitable[Any]]] = [
                lambda: session.append(user("meanwhile")),
                lambda: session.append(user("meanwhile"), id="m"),
                session.read,
                session.health,
                session.turn().__aenter__,
            ]
            began = time.monotonic()
            ends = await asyncio.gather(*(call() for call in calls), return_exceptions=True)
            assert [type(end) for end in ends] == [StoreUnavailable] * len(calls)
            assert time.monotonic() - began < 20
            await proxy.accept()
            await until(work.answers(session), "the server is found again")
            await session.append(user("after"))
            assert await session.read() == [user("before"), user("after")]

    async def test_many_waiters_do_not_keep_others_from_the_server(
        self, valkey_server: Server, namespace: str, direct: Session
    ) -> None:
        waiters = 100
        served: list[int] = []

        async def wait(session: Session, number: int) -> None:
            async with session.turn(wait="60s") as turn:
                served.append(number)
                await turn.append(user(str(number)))

        async def all_wait() -> bool:
            return (await direct.health()).waiting == waiters

        spec = work.policy(locking={"leaseTTL": "60s"})  # so that nobody wakes up by itself
        async with holdfast.connect(valkey_server.url, namespace=namespace, policy=spec) as client:
            memory = client.memory(work.MEMORY)
            session, other = memory.session(work.SHARED), memory.session("other")
            async with direct.turn(ttl="60s"):
                tasks = [asyncio.create_task(wait(session, number)) for number in range(waiters)]
                await until(all_wait, "all wait")
                began = time.monotonic()
                for number in range(5):
                    await other.append(user(str(number)))
                    assert len(await other.read()) == number + 1
                assert time.monotonic() - began < 30, "they waited for as long as the turn lasts"
            await asyncio.gather(*tasks)
        assert sorted(served) == list(range(waiters))
        assert await direct.length() == waiters

    @pytest.mark.parametrize("decode", [True, False], ids=["decoding", "bytes"])
    @pytest.mark.parametrize("protocol", [2, 3])
    async def test_a_callers_own_client_with_its_retries_stores_once(
        self, proxy: CuttingProxy, direct: Session, namespace: str, decode: bool, protocol: int
    ) -> None:
        own = Redis(host="127.0.0.1", port=proxy.port, decode_responses=decode, protocol=protocol)
        async with (
            own,
            holdfast.connect(client=own, namespace=namespace, policy=work.policy()) as client,
        ):
            session = client.memory(work.MEMORY).session(work.SHARED)
            messages = [user("grüße 🌍"), user("again"), user("and again")]
            await session.append(messages[0])
            for cut in Cut:
                proxy.arm(cut, evalsha("append"))
                await session.append(messages[1], id="r-1")
            proxy.arm(Cut.AFTER_REQUEST, evalsha("append"))
            with contextlib.suppress(AmbiguousWrite):
                await session.append(messages[2])
            assert await session.read() == messages
            assert await direct.read() == messages
            assert await session.read(max_tokens=1000) == messages
            page = await session.read_page()
            assert [record.item for record in page.records] == messages
            assert page.records[1].id == "r-1"
            async with session.turn() as turn:
                await turn.append(user("in turn"))
                waiter = asyncio.create_task(session.turn(wait="30s").__aenter__())

                async def queued() -> bool:
                    return (await session.health()).waiting == 1

                await until(queued, "somebody waits")
                health = await session.health()
                assert health.lease is not None
                assert health.lease.holder
            second = await waiter
            assert second.fence > turn.fence
            await second.__aexit__(None, None, None)
            assert await nobody_holds_or_waits(session)
        await own.ping()
        await own.aclose()
