"""The parts of the sidecar, without a socket: routes, queries, options, turns, and the document."""

import asyncio
import json
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import holdfast
from holdfast.errors import ConfigurationError, HoldfastError, LeaseLost, SessionBusy
from holdfast.problems import HTTP_KINDS, KINDS
from holdfast_sidecar import instruments, openapi
from holdfast_sidecar.answers import Refusal, Vanished
from holdfast_sidecar.app import guard
from holdfast_sidecar.memories import BoundMemories, GivenMemories, read_labels
from holdfast_sidecar.options import Listen, options, read_loopback
from holdfast_sidecar.requests import Budget, Query, read_query
from holdfast_sidecar.routes import ROUTES
from holdfast_sidecar.routing import Router
from holdfast_sidecar.sockets import listen_on_path, listen_on_port
from holdfast_sidecar.turns import Turns
from tests.harness.binding_files import BindingFiles, entry
from tests.harness.waiting import until

POLICY: Mapping[str, Any] = {
    "model": {"tokenizer": "approximate"},
    "limits": {"maxTokens": 10_000},
    "retention": {"ttl": "1h"},
}


def code_of(refusal: pytest.ExceptionInfo[Refusal]) -> str:
    return refusal.value.problem.code


def path_of(route: Any, values: bytes = b"%2F") -> bytes:
    return re.sub(rb"\{\w+\}", values, route.path.encode())


def test_every_route_is_found_by_its_raw_path() -> None:
    router = Router(ROUTES)
    for route in ROUTES:
        found = router.find(route.method, path_of(route))
        assert found.route is route
        assert set(found.segments) <= {b"%2F"}


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/",
        b"//",
        b"/v1",
        b"/v1/memories/",
        b"/v1/memories/a/sessions/b/other",
        b"/v1/memories/a/sessions/b/c/messages",
        b"/v1%2Fmemories",
        b"/V1/memories",
        b"/openapi.json/",
    ],
)
def test_what_is_no_path_of_a_route_is_nothing(path: bytes) -> None:
    with pytest.raises(Refusal) as refusal:
        Router(ROUTES).find("GET", path)
    assert code_of(refusal) in {"RouteNotFound", "MethodNotAllowed"}


@given(st.binary(max_size=40))
def test_a_router_takes_any_path(path: bytes) -> None:
    try:
        Router(ROUTES).find("GET", path)
    except Refusal:
        return


QUERIES = (
    Query("limit", int, "", least=1, most=10),
    Query("force", bool, ""),
    Query("label", str, "", least=3, most=9, many=True),
    Query("by", str, "", choices=("id", "fields")),
)


def test_queries_are_read_by_what_is_known_of_them() -> None:
    assert read_query(b"", QUERIES) == {}
    found = read_query(b"limit=7&force=true&label=a:b&label=%C3%BC:1&by=id", QUERIES)
    assert found == {"limit": 7, "force": True, "label": ["a:b", "ü:1"], "by": "id"}


@given(st.binary(max_size=60))
def test_no_query_breaks_the_reader(raw: bytes) -> None:
    try:
        read_query(raw, QUERIES)
    except Refusal as refusal:
        assert refusal.problem.code == "RequestInvalid"  # noqa: PT017 - and nothing else is raised


@pytest.mark.parametrize(
    "raw",
    [
        b"limit=0",
        b"limit=11",
        b"limit=x",
        b"limit=+1",
        b"limit=",
        b"limit=%D9%A1",
        b"limit=1&limit=1",
        b"force=1",
        b"force",
        b"label=a",
        b"by=x",
        b"other=1",
        b"label=%FF%FF%FF",
        b"\xff=1",
        b"&".join([b"label=a:b"] * 100),
    ],
)
def test_a_query_that_cannot_be_is_refused(raw: bytes) -> None:
    with pytest.raises(Refusal) as refusal:
        read_query(raw, QUERIES)
    assert code_of(refusal) == "RequestInvalid"


def test_labels_are_pairs() -> None:
    assert read_labels([]) is None
    assert read_labels(["team:red", "a:b:c"]) == {"team": "red", "a": "b:c"}
    for wrong in (["red"], ["a:b", "a:c"]):
        with pytest.raises(ConfigurationError):
            read_labels(wrong)


@pytest.mark.parametrize(
    ("server", "headers", "let_in"),
    [
        (("/x.sock", None), {}, True),
        (("/x.sock", None), {b"host": b"anything"}, True),
        (("/x.sock", None), {b"origin": b"http://evil.example"}, False),
        (("127.0.0.1", 7070), {b"host": b"localhost:7070"}, True),
        (("127.0.0.1", 7070), {b"host": b"127.1.2.3"}, True),
        (("127.0.0.1", 7070), {b"host": b"[::1]:7070"}, True),
        (("127.0.0.1", 7070), {b"host": b"evil.example"}, False),
        (("127.0.0.1", 7070), {b"host": b"localhost.evil.example"}, False),
        (("127.0.0.1", 7070), {b"host": b"localhost:7070\n"}, False),
        (("127.0.0.1", 7070), {}, False),
        (None, {}, False),
        (("127.0.0.1", 7070), {b"host": b"localhost", b"origin": b"https://127.0.0.1:1"}, True),
        (("127.0.0.1", 7070), {b"host": b"localhost", b"origin": b"https://localhost@evil"}, False),
        (("127.0.0.1", 7070), {b"host": b"localhost", b"origin": b"null"}, False),
    ],
)
def test_only_this_machine_is_let_in(server: Any, headers: Any, let_in: bool) -> None:
    if let_in:
        guard({"server": server}, headers)
        return
    with pytest.raises(Refusal) as refusal:
        guard({"server": server}, headers)
    assert code_of(refusal) == "OriginRefused"


def test_a_budget_gives_what_was_taken() -> None:
    budget = Budget(10)
    budget.take(6)
    with pytest.raises(Refusal) as refusal:
        budget.take(5)
    assert code_of(refusal) == "Overloaded"
    budget.give(6)
    budget.take(10)


ROOT = {"SERVICE_BINDING_ROOT": "/bindings"}


def test_options_come_from_the_command_line_and_else_from_the_environment() -> None:
    found = options([], ROOT)
    assert (found.unix, found.http, found.status) == (None, Listen("127.0.0.1", 7070), None)
    assert (found.root, found.drain, found.memories, found.holder) == ("/bindings", 20.0, (), None)
    environ = ROOT | {
        "HOLDFAST_SIDECAR_UNIX": "/run/api.sock",
        "HOLDFAST_SIDECAR_STATUS": "0.0.0.0:7071",
        "HOLDFAST_SIDECAR_MEMORIES": "a, b,",
        "HOLDFAST_SIDECAR_DRAIN": "5",
        "HOLDFAST_POD_NAMESPACE": "team-a",
        "HOLDFAST_POD_NAME": "agent-1",
        "HOLDFAST_POD_UID": "0f3c5a1e-dead-beef",
    }
    found = options(["--drain", "1500ms"], environ)
    assert (found.unix, found.http) == (Path("/run/api.sock"), None)
    assert found.status == Listen("0.0.0.0", 7071)
    assert (found.memories, found.drain) == (("a", "b"), 1.5)
    assert found.holder == "team-a/agent-1/0f3c5a1e"
    assert options(["--url", "memory://", "--memories", "a"], {}).url == "memory://"


@pytest.mark.parametrize(
    ("arguments", "environ", "word"),
    [
        ([], {}, "SERVICE_BINDING_ROOT"),
        (["--url", "memory://"], {}, "--memories"),
        (["--policy", "x.yaml"], ROOT, "--url"),
        (["--http", "0.0.0.0:7070"], ROOT, "no loopback"),
        (["--http", "10.1.2.3:7070"], ROOT, "no loopback"),
        (["--http", "example.com:7070"], ROOT, "no loopback"),
        (["--http", "7070"], ROOT, "no address"),
        (["--status", "0.0.0.0:70710"], ROOT, "no address"),
        (["--drain", "0s"], ROOT, "no time"),
        (["--drain", "2h"], ROOT, "no time"),
        (["--drain", "10001s"], ROOT, "no time"),
    ],
)
def test_options_that_cannot_be_are_refused_with_a_sentence(
    arguments: list[str], environ: dict[str, str], word: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(word)):
        options(arguments, environ)
    assert read_loopback("[::1]:1") == Listen("::1", 1)


def test_the_document_is_what_the_table_says() -> None:
    assert openapi.FILE.read_text() == openapi.text()
    document = json.loads(openapi.text())
    operations = {
        operation["operationId"]: operation
        for path in document["paths"].values()
        for operation in path.values()
    }
    assert len(operations) == len(ROUTES)
    for route in ROUTES:
        operation = operations[route.operation]
        statuses = {int(status) for status in operation["responses"]}
        assert route.status in statuses
        for code in route.problems:
            assert (KINDS.get(code) or HTTP_KINDS[code]).status in statuses, (route.operation, code)
        for answer in operation["responses"].values():
            assert answer["description"]
            for link in answer.get("links", {}).values():
                target = operations[link["operationId"]]
                known = {parameter["name"] for parameter in target["parameters"]}
                assert {name.removeprefix("header.") for name in link["parameters"]} <= known
    told = {code for route in ROUTES for code in route.problems}
    assert told == (KINDS.keys() | HTTP_KINDS.keys()) - {"RouteNotFound", "MethodNotAllowed"}
    schemas = document["components"]["schemas"]
    for name in re.findall(r'"#/components/schemas/(\w+)"', openapi.text()):
        assert name in schemas


def test_the_metrics_that_are_documented_are_those_that_there_are() -> None:
    assert instruments.main(["check"]) == 0


class World:
    """A memory in this process, and a table of turns."""

    def __init__(self, most: int = 3) -> None:
        self.client = holdfast.connect("memory://", policy=dict(POLICY))
        self.memories = GivenMemories(self.client, ["support"])
        self.turns = Turns(most)
        self.gone = asyncio.Event()

    async def acquire(self, name: str = "1", ttl: float = 60.0, **options: Any) -> Any:
        found = await self.memories.find("support", name)

        async def gone() -> None:
            await self.gone.wait()

        return await self.turns.acquire(
            found.session,
            found.where,
            ask=lambda session: session.turn(**({"wait": timedelta(0)} | options)),
            ttl=ttl,
            gone=gone,
            bound=False,
        )

    async def lease(self, name: str = "1") -> Any:
        return (await self.client.memory("support").session(name).health()).lease

    async def aclose(self) -> None:
        await self.turns.aclose()
        await self.client.aclose()


@pytest.mark.asyncio
async def test_turns_are_found_by_token_and_session_and_by_nothing_else() -> None:
    world = World()
    held = await world.acquire()
    with world.turns.using(held.token, held.where) as found:
        await found.turn.append({"role": "user", "content": "x"})
    for token, where in ((held.token, ("support", "2")), ("x", held.where), ("", held.where)):
        with pytest.raises(LeaseLost), world.turns.using(token, where):
            pass
    await world.turns.release(held.token, ("support", "2"))
    assert await world.lease() is not None
    with pytest.raises(SessionBusy):
        await world.acquire()
    await world.turns.release(held.token, held.where)
    await world.turns.release(held.token, held.where)
    assert await world.lease() is None
    await world.aclose()


@pytest.mark.asyncio
async def test_a_turn_ends_with_its_time_but_not_while_it_is_used() -> None:
    world = World()
    held = await world.acquire(ttl=0.05)
    with world.turns.using(held.token, held.where):
        deadline = held.deadline
        await until(lambda: held.deadline > deadline, "its time came, and it was in use")
        assert world.turns.held == 1
    await until(lambda: world.turns.held == 0, "it ended")
    await world.turns.aclose()
    assert await world.lease() is None
    await world.aclose()


@pytest.mark.asyncio
async def test_turns_are_bounded_and_refused_at_the_end() -> None:
    world = World(most=2)
    first = await world.acquire("1")
    waiting = asyncio.create_task(world.acquire("1", wait="20s"))
    await until(lambda: world.turns.waiting == 1, "somebody waits")
    with pytest.raises(Refusal) as refusal:
        await world.acquire("2")
    assert code_of(refusal) == "TooManyTurns"
    world.gone.set()
    with pytest.raises(Vanished):
        await waiting
    world.gone.clear()
    waiting = asyncio.create_task(world.acquire("1", wait="20s"))
    await until(lambda: world.turns.waiting == 1, "somebody waits again")
    world.turns.refuse_new()
    with pytest.raises(Refusal) as refusal:
        await waiting
    assert code_of(refusal) == "ShuttingDown"
    with pytest.raises(Refusal) as refusal:
        await world.acquire("2")
    assert code_of(refusal) == "ShuttingDown"
    assert world.turns.held == 1
    assert first.turn.fence
    await world.aclose()
    assert first.ended.is_set()


@pytest.mark.asyncio
async def test_a_turn_that_was_lost_is_told_so_and_leaves_the_table() -> None:
    world = World()
    held = await world.acquire(ttl=0.05)
    await world.client.memory("support").session("1").erase(force=True)
    with pytest.raises(LeaseLost), world.turns.using(held.token, held.where) as found:
        await found.turn.append({"role": "user", "content": "x"})
    await until(lambda: world.turns.held == 0, "it left the table")
    with pytest.raises(LeaseLost, match="its lease ended or the session was cleared"):
        world.turns.using(held.token, held.where).__enter__()
    await world.aclose()


@pytest.mark.asyncio
async def test_sessions_are_kept_while_they_are_used() -> None:
    world = World()
    first = await world.memories.find("support", "1")
    assert await world.memories.find("support", "1") is first
    labelled = await world.memories.find("support", "1", ["team:red"])
    assert labelled is not first
    assert labelled.where == first.where
    for wrong in (("other", "1", []), ("support", "", []), ("support", "1", ["x"])):
        with pytest.raises(HoldfastError):
            await world.memories.find(*wrong)
    await world.aclose()


def test_a_socket_that_nobody_listens_on_any_more_is_replaced(tmp_path: Path) -> None:
    """As after a crash: the folder outlives the container."""
    path = tmp_path / "api.sock"
    listen_on_path(path).close()
    assert path.exists()
    with listen_on_path(path) as listener:
        assert path.stat().st_mode & 0o777 == 0o666
        listener.listen()
        with pytest.raises(ConfigurationError, match="somebody listens"):
            listen_on_path(path)
    for wrong in (tmp_path / "none" / "api.sock", tmp_path / ("x" * 200)):
        with pytest.raises(ConfigurationError, match="cannot be listened on"):
            listen_on_path(wrong)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="is no socket"):
        listen_on_path(tmp_path / "file")
    with listen_on_port(Listen("127.0.0.1", 0)) as listener:
        listener.listen()
        with pytest.raises(ConfigurationError, match="cannot be listened on"):
            listen_on_port(Listen("127.0.0.1", listener.getsockname()[1]))


@pytest.mark.anyio
async def test_a_fault_of_the_binding_is_told_each_time_it_comes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = BindingFiles(tmp_path / "memory")
    bound = BoundMemories(str(tmp_path), lambda _: holdfast.connect("memory://"))

    def look(mode: str) -> list[str]:
        files.write([entry("a", "mem:{team-a/support")], mode=mode, host="redis", username="am:me")
        caplog.clear()
        for _ in range(3):
            bound.look()
        return [record.message for record in caplog.records if record.levelname == "WARNING"]

    try:
        assert look("standalone") == []
        first = look("ring")
        assert len(first) == 1
        assert look("standalone") == []
        assert look("ring") == first
    finally:
        await bound.aclose(0.0)
