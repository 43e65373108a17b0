"""The sidecar as its own process on a real server: every route, every problem, turns, and its end."""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

import holdfast
from holdfast.client import Client
from holdfast_sidecar.routes import ROUTES
from tests.harness.servers import Product, Server, running_server
from tests.harness.sidecar_process import HOLDER, SidecarProcess, running_sidecar
from tests.harness.waiting import until
from tests.integration.world import call, result, spec, user

pytestmark = [pytest.mark.redis, pytest.mark.asyncio(loop_scope="module")]

JSON = {"content-type": "application/json"}


def manifest(directory: Path, name: str, **parts: Any) -> str:
    path = directory / f"{name}.yaml"
    document = {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "MemoryResource",
        "metadata": {"name": name},
        "spec": {"backendRef": {"name": "shared"}, **spec(**parts)},
    }
    path.write_text(json.dumps(document))
    return str(path)


@pytest.fixture(scope="module")
def namespace() -> str:
    return f"team-{uuid.uuid4().hex[:12]}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sidecar(
    valkey_server: Server, namespace: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[SidecarProcess]:
    """One sidecar for the tests of this module, which use sessions of their own."""
    policy = manifest(
        tmp_path_factory.mktemp("policy"),
        "support",
        limits={"maxTokens": 100_000, "maxMessageSize": "4Ki"},
        locking={"leaseTTL": "3s", "waitTimeout": "20s", "mode": "Enforced"},
    )
    arguments = ("--url", valkey_server.url, "--namespace", namespace, "--policy", policy)
    async with running_sidecar(*arguments) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def api(sidecar: SidecarProcess) -> AsyncGenerator[httpx.AsyncClient]:
    async with sidecar.client() as client:
        yield client


@pytest.fixture
def session() -> str:
    return f"/v1/memories/support/sessions/s-{uuid.uuid4().hex}"


@pytest_asyncio.fixture(loop_scope="module")
async def library(valkey_server: Server, namespace: str) -> AsyncGenerator[Client]:
    """The same memory, without a sidecar."""
    client = holdfast.connect(valkey_server.url, namespace=namespace, policy=spec())
    async with client:
        yield client


async def acquire(api: httpx.AsyncClient, session: str, **body: Any) -> dict[str, Any]:
    answer = await api.post(f"{session}/turns", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"].endswith("/turns/" + answer.json()["token"])
    return answer.json()


def under(turn: dict[str, Any]) -> dict[str, str]:
    return {"Holdfast-Turn": turn["token"]}


async def test_every_route_does_what_its_method_of_the_library_does(
    api: httpx.AsyncClient, session: str
) -> None:
    seen: set[str] = set()

    async def ask(operation: str, method: str, part: str, **options: Any) -> Any:
        route = next(route for route in ROUTES if route.operation == operation)
        answer = await api.request(method, part, **options)
        assert answer.status_code == route.status, (operation, answer.text)
        seen.add(operation)
        return answer.json() if answer.content and route.answer is not str else answer.text

    served = await ask("listMemories", "GET", "/v1/memories")
    assert [one["name"] for one in served["memories"]] == ["support"]
    assert served["memories"][0]["access"] == "ReadWrite"
    first = await ask(
        "appendMessages",
        "POST",
        f"{session}/messages",
        json={"message": user("one"), "pin": True},
        headers={"Idempotency-Key": "req-1"},
    )
    assert (first["seq"], first["duplicate"], first["length"]) == (1, False, 1)
    again = await ask(
        "appendMessages",
        "POST",
        f"{session}/messages",
        json={"message": user("one"), "pin": True, "id": "req-1"},
    )
    assert again["duplicate"]
    many = await ask(
        "appendMessages",
        "POST",
        f"{session}/messages",
        json={"messages": [user("two"), call("c"), result("c")]},
    )
    assert (many["seq"], many["count"]) == (2, 3)
    read = await ask("readMessages", "GET", f"{session}/messages", params={"limit": 2})
    assert read == {"messages": [call("c"), result("c")], "stale": False}
    page = await ask("readRecords", "GET", f"{session}/records", params={"limit": 1})
    assert page["records"][0]["item"] == user("one")
    assert (page["records"][0]["pinned"], page["next"], page["total"]) == (True, 1, 4)
    await ask("unpinRecord", "DELETE", f"{session}/records/1/pin")
    await ask("pinRecord", "PUT", f"{session}/records/1/pin")
    counted = await ask("countMessages", "GET", f"{session}/counts")
    assert counted["messages"] == 4
    health = await ask("getSession", "GET", session)
    assert (health["messages"], health["pinned"], health["managed"]) == (4, 1, False)
    flushed = await ask("flushSession", "POST", f"{session}/flush", json={"dry_run": True})
    assert flushed["dry_run"]
    assert await ask("flushSession", "POST", f"{session}/flush")
    explained = await ask("explainMessage", "GET", f"{session}/explain", params={"id": "req-1"})
    assert explained["sentence"].startswith("Message 1 is stored")
    assert await ask("listSummaries", "GET", f"{session}/summaries") == {"summaries": []}
    popped = await ask("popMessage", "POST", f"{session}/pop")
    assert popped == {"message": result("c"), "found": True}
    assert (await ask("listHistory", "GET", f"{session}/history"))["entries"][0]["rule"] == "pop"
    exported = await ask("exportSession", "GET", f"{session}/export", params={"name": "true"})
    assert exported.count("\n") == 4
    other = f"{session}-again"
    taken = await ask(
        "importSession",
        "POST",
        f"{other}/import",
        content=exported.encode(),
        headers={"content-type": "application/jsonl"},
    )
    assert (taken["records"], taken["complete"]) == (3, True)
    replaced = await ask(
        "replaceMessages", "PUT", f"{session}/messages", json={"message": user("new")}
    )
    assert replaced["length"] == 1
    turn = await ask("acquireTurn", "POST", f"{session}/turns", json={"wait": "0s"})
    place = f"{session}/turns/{turn['token']}"
    assert (await ask("renewTurn", "PUT", place))["fence"] == turn["fence"]
    await ask("releaseTurn", "DELETE", place)
    assert await ask("clearMessages", "DELETE", f"{session}/messages") == {"removed": 1}
    labelled = {"label": "team:red"}
    await ask("appendMessages", "POST", f"{other}/messages", json={"message": 1}, params=labelled)
    receipt = await ask("eraseSessions", "DELETE", "/v1/memories/support/sessions", params=labelled)
    assert receipt["sessions"] == 1
    assert (await ask("eraseSession", "DELETE", session))["sessions"] == 1
    document = await api.get("/openapi.json")
    assert document.json()["openapi"] == "3.1.0"
    assert seen | {"getDocument"} == {route.operation for route in ROUTES}


@pytest.mark.parametrize(
    "id", ["a/b", "a%2Fb", "ü 字", ".", "..", "-", "a?b#c", "user_id=42", "{}*"], ids=repr
)
async def test_any_id_is_one_segment_of_the_path(
    sidecar: SidecarProcess, library: Client, id: str
) -> None:
    """By raw bytes, as a client may tidy a path up before it sends it."""
    name = f"{id}:{uuid.uuid4().hex}" if id not in (".", "..", "-") else id
    segment = "".join(f"%{byte:02X}" for byte in name.encode())
    body = json.dumps({"message": name}).encode()
    reader, writer = await sidecar.raw()
    head = f"POST /v1/memories/support/sessions/{segment}/messages HTTP/1.1\r\nhost: localhost\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    assert await library.memory("support").session(name).read(limit=1) == [name]


async def problem(
    api: httpx.AsyncClient, method: str, path: str, status: int, code: str, **options: Any
) -> dict[str, Any]:
    answer = await api.request(method, path, **options)
    found = answer.json()
    assert (answer.status_code, found["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert found["type"] == f"urn:holdfast:problem:{code}"
    assert found["status"] == status
    assert found["title"]
    assert found["detail"]
    assert ("retry-after" in answer.headers) == (status == 503 or "remaining" in found)
    return found


async def test_what_a_request_gets_wrong_is_told_in_its_own_problem(
    api: httpx.AsyncClient, session: str
) -> None:
    messages = f"{session}/messages"
    one: dict[str, Any] = {"json": {"message": user("x")}}
    cases: list[tuple[str, str, int, str, dict[str, Any]]] = [
        ("GET", "/", 404, "RouteNotFound", {}),
        ("GET", "/v1/memories/support", 404, "RouteNotFound", {}),
        ("GET", f"{session}/messages/", 404, "RouteNotFound", {}),
        ("PATCH", messages, 405, "MethodNotAllowed", {}),
        ("OPTIONS", messages, 405, "MethodNotAllowed", {}),
        ("GET", "/v1/memories/other/sessions/1", 404, "MemoryNotFound", {}),
        ("GET", "/v1/memories/support/sessions/%FF", 400, "SessionKeyError", {}),
        ("GET", f"/v1/memories/support/sessions/{'x' * 513}", 400, "SessionKeyError", {}),
        ("GET", session, 400, "RequestInvalid", {"params": {"limit": 1}}),
        ("GET", messages, 400, "RequestInvalid", {"params": {"limit": "-1"}}),
        ("GET", messages, 400, "RequestInvalid", {"params": {"limit": 1, "max_tokens": 1}}),
        ("GET", messages, 400, "RequestInvalid", {"params": [("limit", 1), ("limit", 2)]}),
        ("DELETE", messages, 400, "RequestInvalid", {"params": {"force": "yes"}}),
        ("GET", session, 400, "SessionKeyError", {"params": {"by": "fields"}}),
        ("GET", session, 400, "RequestInvalid", {"params": {"by": "name"}}),
        ("GET", session, 400, "ConfigurationError", {"params": {"label": "red"}}),
        ("GET", f"{session}/explain", 400, "RequestInvalid", {}),
        ("GET", f"{session}/records", 400, "RequestInvalid", {"params": {"limit": 0}}),
        ("PUT", f"{session}/records/x/pin", 400, "RequestInvalid", {}),
        ("PUT", f"{session}/records/7/pin", 404, "RecordNotFound", {}),
        ("DELETE", "/v1/memories/support/sessions", 400, "ConfigurationError", {}),
        ("GET", messages, 406, "NotAcceptable", {"headers": {"accept": "text/html"}}),
        ("GET", messages, 403, "OriginRefused", {"headers": {"origin": "http://evil.example"}}),
        ("GET", messages, 403, "OriginRefused", {"headers": {"origin": "null"}}),
        ("POST", messages, 415, "MediaTypeUnsupported", {"content": b"{}"}),
        ("POST", messages, 415, "MediaTypeUnsupported", {"data": {"message": "x"}}),
        ("POST", f"{session}/import", 415, "MediaTypeUnsupported", one),
        ("POST", messages, 400, "RequestInvalid", {"content": b"{", "headers": JSON}),
        ("POST", messages, 400, "RequestInvalid", {"content": b"\xff", "headers": JSON}),
        ("POST", messages, 400, "RequestInvalid", {"content": b"[" * 10**5, "headers": JSON}),
        ("POST", messages, 400, "RequestInvalid", {"json": {}}),
        ("POST", messages, 400, "RequestInvalid", {"json": {"message": 1, "messages": []}}),
        ("POST", messages, 400, "RequestInvalid", {"json": {"message": 1, "unknown": 1}}),
        ("POST", messages, 400, "ConfigurationError", {"json": {"message": 1, "share": "none"}}),
        ("POST", messages, 400, "RequestInvalid", one | {"headers": {"idempotency-key": ""}}),
        ("POST", messages, 413, "MessageTooLarge", {"json": {"message": "x" * 5000}}),
        ("POST", messages, 413, "BodyTooLarge", {"content": b"x" * 9_000_000, "headers": JSON}),
        ("POST", messages, 423, "LeaseLost", one | {"headers": {"holdfast-turn": "none"}}),
        ("PUT", f"{session}/turns/none", 423, "LeaseLost", {}),
        ("POST", f"{session}/turns", 400, "RequestInvalid", {"json": {"ttl": "30"}}),
        ("POST", f"{session}/turns", 400, "ConfigurationError", {"json": {"ttl": "1s"}}),
        ("POST", f"{session}/turns", 400, "ConfigurationError", {"json": {"ttl": "3601s"}}),
        ("POST", f"{session}/flush", 400, "ConfigurationError", {"json": {"strategy": "x"}}),
        ("DELETE", session, 400, "RequestInvalid", {"headers": {"holdfast-turn": "none"}}),
        (
            "POST",
            f"{session}/import",
            409,
            "ImportRefused",
            {"content": b"{}\n", "headers": {"content-type": "application/jsonl"}},
        ),
    ]
    for method, path, status, code, options in cases:
        await problem(api, method, path, status, code, **options)
    assert (await api.patch(messages)).headers["allow"] == "DELETE, GET, POST, PUT"
    assert (await api.delete(f"{session}/turns/none")).status_code == 204
    headers = {"idempotency-key": "same"}
    assert (await api.post(messages, json={"message": 1}, headers=headers)).status_code == 200
    await problem(
        api, "POST", messages, 422, "IdempotencyConflict", json={"message": 2}, headers=headers
    )
    await problem(api, "GET", messages, 422, "BudgetTooSmall", params={"max_tokens": 0})


async def test_a_turn_is_held_for_the_client_and_shown_as_the_pods(
    api: httpx.AsyncClient, session: str, library: Client
) -> None:
    assert (await acquire(api, f"{session}-short"))["ttl"] == 3.0
    turn = await acquire(api, session, ttl="60s")
    assert turn["ttl"] == 60.0
    busy = await problem(
        api, "POST", f"{session}/messages", 409, "SessionBusy", json={"message": 1}
    )
    assert 0 < busy["remaining"] <= 60
    held = (await api.get(session)).json()["lease"]
    assert (held["holder"], held["fence"]) == (HOLDER, turn["fence"])
    refused = await problem(
        api, "POST", f"{session}/turns", 409, "SessionBusy", json={"wait": "0s"}
    )
    assert refused["holder"] == HOLDER
    elsewhere = library.memory("support").session(session.rpartition("/")[2])
    with pytest.raises(holdfast.SessionBusy, match=HOLDER):
        await elsewhere.turn(wait=timedelta(0)).__aenter__()
    written = await api.post(f"{session}/messages", json={"message": 1}, headers=under(turn))
    assert written.json()["length"] == 1
    for method, part in (("GET", ""), ("GET", "/messages"), ("GET", "/history"), ("POST", "/pop")):
        answer = await api.request(method, session + part, headers=under(turn))
        assert answer.status_code == 200, answer.text
    await problem(api, "GET", f"{session}x", 423, "LeaseLost", headers=under(turn))
    assert (await api.delete(f"{session}/turns/{turn['token']}")).status_code == 204
    assert (await api.get(session)).json()["lease"] is None
    await problem(api, "PUT", f"{session}/turns/{turn['token']}", 423, "LeaseLost")


async def test_a_turn_lives_as_long_as_its_client_shows_itself(
    api: httpx.AsyncClient, session: str
) -> None:
    """Two turns of 3 s: one is renewed for longer than that, the other was forgotten."""
    kept, left = f"{session}-kept", f"{session}-left"
    turn, forgotten = await acquire(api, kept), await acquire(api, left)

    async def is_free() -> bool:
        assert (await api.put(f"{kept}/turns/{turn['token']}")).status_code == 200
        return (await api.get(left)).json()["lease"] is None

    await until(is_free, "the turn that was forgotten ends")
    await problem(api, "POST", f"{left}/pop", 423, "LeaseLost", headers=under(forgotten))
    assert (await api.get(kept)).json()["lease"]["fence"] == turn["fence"]
    # Whoever waits is next: and a client that goes away while it waits leaves the line.
    waiting = asyncio.create_task(api.post(f"{kept}/turns", json={"wait": "20s"}))

    async def is_waiting(count: int) -> bool:
        return (await api.get(kept, headers=under(turn))).json()["waiting"] == count

    await until(lambda: is_waiting(1), "somebody waits")
    waiting.cancel()
    await until(lambda: is_waiting(0), "nobody waits any more")


async def events(response: httpx.Response) -> AsyncGenerator[tuple[str, Any]]:
    name = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


async def test_a_turn_that_is_bound_ends_with_its_connection(
    api: httpx.AsyncClient, session: str
) -> None:
    stream = {"accept": "text/event-stream"}
    async with api.stream("POST", f"{session}/turns", headers=stream) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        told = events(response)
        name, turn = await anext(told)
        assert name == "granted"
        written = await api.post(f"{session}/messages", json={"message": 1}, headers=under(turn))
        assert written.status_code == 200
        assert (await api.put(f"{session}/turns/{turn['token']}")).status_code == 200
        answer = await api.post(f"{session}/turns", json={"wait": "0s"}, headers=stream)
        assert answer.status_code == 409  # before a grant, an error is an ordinary answer
    following = await acquire(api, session, wait="20s")
    assert following["fence"] > turn["fence"]
    await api.delete(f"{session}/turns/{following['token']}")
    # Given back by its token, the stream ends. Taken away, it says so.
    async with api.stream("POST", f"{session}/turns", headers=stream) as response:
        told = events(response)
        _, turn = await anext(told)
        await api.delete(f"{session}/turns/{turn['token']}")
        assert [event async for event in told] == []
    async with api.stream("POST", f"{session}/turns", headers=stream) as response:
        told = events(response)
        _, turn = await anext(told)
        erased = await api.delete(session, params={"force": "true"})
        assert erased.status_code == 200
        name, found = await anext(told)
        assert (name, found["code"], found["status"]) == ("lost", "LeaseLost", 423)


async def test_the_port_takes_only_its_own_names(sidecar: SidecarProcess) -> None:
    async with httpx.AsyncClient(base_url=sidecar.http, timeout=60) as http:
        assert (await http.get("/v1/memories")).status_code == 200
        for host in ("localhost", "127.0.0.1:7070", "[::1]:80", "LOCALHOST:1"):
            assert (await http.get("/v1/memories", headers={"host": host})).status_code == 200
        for host in ("evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1@x", ""):
            answer = await http.get("/v1/memories", headers={"host": host})
            assert (answer.status_code, answer.json()["code"]) == (403, "OriginRefused"), host
        local = {"origin": "http://localhost:3000"}
        assert (await http.get("/v1/memories", headers=local)).status_code == 200


async def test_the_status_listener_serves_three_pages_and_nothing_else(
    sidecar: SidecarProcess, api: httpx.AsyncClient, session: str
) -> None:
    await api.post(f"{session}/messages", json={"message": "secret"})
    async with httpx.AsyncClient(base_url=sidecar.status, timeout=60) as status:
        assert (await status.get("/healthz")).status_code == 200
        assert (await status.get("/readyz")).text == "ready\n"
        metrics = (await status.get("/metrics")).text
        assert (
            'holdfast_http_request_seconds_count{operation="appendMessages",status="200"}'
            in metrics
        )
        assert "holdfast_messages_appended_total" in metrics
        assert "holdfast_http_connections" in metrics
        assert session.rpartition("/")[2] not in metrics
        assert "secret" not in metrics
        assert (await status.get("/v1/memories")).status_code == 404
        assert (await status.post("/healthz")).status_code == 405
    assert "secret" not in sidecar.log


async def test_it_ends_in_time_and_orderly(
    valkey_server: Server, namespace: str, library: Client, tmp_path: Path
) -> None:
    policy = manifest(tmp_path, "support", locking={"leaseTTL": "60s"})
    arguments = ("--url", valkey_server.url, "--namespace", namespace, "--policy", policy)
    async with running_sidecar(*arguments, "--drain", "30s") as sidecar, sidecar.client() as api:
        held, bound = (
            "/v1/memories/support/sessions/end-held",
            "/v1/memories/support/sessions/end-bound",
        )
        turn = await acquire(api, held)
        stream = {"accept": "text/event-stream"}
        async with api.stream("POST", f"{bound}/turns", headers=stream) as response:
            told = events(response)
            await anext(told)
            waiter = asyncio.create_task(api.post(f"{held}/turns", json={"wait": "20s"}))

            async def waits() -> bool:
                return (await api.get(held)).json()["waiting"] == 1

            await until(waits, "somebody waits")
            sidecar.terminate()
            ended = await waiter
            assert (ended.status_code, ended.json()["code"]) == (503, "ShuttingDown")
            async with httpx.AsyncClient(base_url=sidecar.status, timeout=60) as status:
                assert (await status.get("/readyz")).text == "ShuttingDown\n"
            await problem(api, "POST", f"{bound}x/turns", 503, "ShuttingDown")
            # Who holds a turn can finish what it began.
            answer = await api.post(f"{held}/messages", json={"message": 1}, headers=under(turn))
            assert answer.status_code == 200
            assert (await api.delete(f"{held}/turns/{turn['token']}")).status_code == 204
        assert await sidecar.ended() == 0
        assert not sidecar.socket.exists()
    session = library.memory("support").session("end-bound")
    assert (await session.health()).lease is None


async def test_turns_that_nobody_gives_back_end_with_the_time_to_drain(
    valkey_server: Server, namespace: str, library: Client, tmp_path: Path
) -> None:
    policy = manifest(tmp_path, "support", locking={"leaseTTL": "60s"})
    arguments = ("--url", valkey_server.url, "--namespace", namespace, "--policy", policy)
    async with running_sidecar(*arguments, "--drain", "2s") as sidecar, sidecar.client() as api:
        await acquire(api, "/v1/memories/support/sessions/over-held")
        stream = {"accept": "text/event-stream"}
        place = "/v1/memories/support/sessions/over-bound/turns"
        async with api.stream("POST", place, headers=stream) as response:
            told = events(response)
            await anext(told)
            sidecar.terminate()
            name, found = await anext(told)
            assert (name, found["code"]) == ("lost", "ShuttingDown")
        assert await sidecar.ended() == 0
    for name in ("over-held", "over-bound"):
        session = library.memory("support").session(name)
        assert (await session.health()).lease is None


async def test_a_store_that_is_away_shows_in_every_answer_but_not_in_the_probe_of_life(
    tmp_path: Path,
) -> None:
    policy = manifest(tmp_path, "support")
    with running_server(Product.VALKEY, tmp_path / "data") as server:
        url = server.url
    arguments = ("--url", url, "--policy", policy)
    async with running_sidecar(*arguments) as sidecar, sidecar.client() as api:
        async with httpx.AsyncClient(base_url=sidecar.status, timeout=60) as status:
            assert (await status.get("/healthz")).status_code == 200
            answer = await status.get("/readyz")
            assert (answer.status_code, answer.text) == (503, "StoreUnavailable\n")
        found = await problem(
            api, "GET", "/v1/memories/support/sessions/a", 503, "StoreUnavailable"
        )
        assert found["retryable"]
        assert "network policy" in found["detail"], "what is often the reason in a new namespace"
        assert (await api.get("/v1/memories")).json()["memories"][0]["problem"][
            "code"
        ] == "StoreUnavailable"
