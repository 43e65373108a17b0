"""What a client may do to a sidecar, and what it may not: sizes, times, numbers, and faults of ours."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
import pytest_asyncio

import holdfast
from holdfast.client import Client
from holdfast_sidecar.limits import Limits
from tests.harness.sidecar_in_process import InProcess, serving
from tests.harness.waiting import until

pytestmark = pytest.mark.asyncio

PLACE = "/v1/memories/support/sessions/1"
SECRET = "s3cret"
BODY = json.dumps({"message": {"role": "user", "content": "hi"}})


@pytest_asyncio.fixture
async def client() -> AsyncGenerator[Client]:
    policy = {
        "model": {"tokenizer": "approximate"},
        "limits": {"maxTokens": 1_000_000, "maxMessageSize": "4Mi"},
        "retention": {"ttl": "1h"},
    }
    async with holdfast.connect("memory://", policy=policy) as client:
        yield client


def read(answer: bytes) -> tuple[int, dict[str, Any]]:
    """The status and the problem of an answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    return int(head.split()[1]), json.loads(body)


async def still_serves(sidecar: InProcess) -> None:
    async with sidecar.client() as api:
        assert (await api.get(f"{PLACE}/counts")).status_code == 200


@pytest.mark.slow
async def test_heads_are_bounded_in_bytes_number_and_time(client: Client) -> None:
    limits = Limits(head=4096, fields=16, head_seconds=0.5, fresh_seconds=0.5, pipeline=4)
    async with serving(client, limits=limits) as sidecar:
        line = f"GET {PLACE} HTTP/1.1\r\nhost: localhost\r\n".encode()
        cases = {
            b"GET /" + b"x" * 5000: (431, "HeadersTooLarge"),
            line + b"x: " + b"y" * 5000 + b"\r\n\r\n": (431, "HeadersTooLarge"),
            line + b"x: y\r\n" * 20: (431, "HeadersTooLarge"),
            b"\x00\x01\x02\r\n\r\n": (400, "RequestInvalid"),
            b"GET http:// HTTP/1.1\r\n\r\n": (400, "RequestInvalid"),
            b"GET / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n": (
                400,
                "RequestInvalid",
            ),
            b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n": (400, "RequestInvalid"),
            line: (408, "RequestTooSlow"),
            b"G": (408, "RequestTooSlow"),
        }
        # Side by side: whoever is refused is listened to for a moment still.
        answers = await asyncio.gather(*map(sidecar.exchange, cases))
        for (sent, (status, code)), answer in zip(cases.items(), answers, strict=True):
            found, problem = read(answer)
            assert (found, problem["code"]) == (status, code), sent[:40]
        # Of a header without an end nothing is parsed, and it is bounded all the same.
        reader, writer = await sidecar.raw()
        writer.write(line + b"x: ")
        for _ in range(100):
            writer.write(b"y" * 5000)
            await asyncio.sleep(0)
        assert read(await reader.read())[1]["code"] == "HeadersTooLarge"
        writer.close()
        assert await sidecar.exchange(b"") == b""  # a connection on which nobody asks is closed
        assert b"500" not in await sidecar.exchange((line + b"\r\n") * 50)
        await still_serves(sidecar)


async def test_bodies_are_bounded_in_bytes_and_time(client: Client) -> None:
    limits = Limits(body=10_000, body_seconds=0.2, line=1000, bodies=100_000)
    head = (
        f"POST {PLACE}/messages HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n".encode()
    )
    async with serving(client, limits=limits) as sidecar, sidecar.client() as api:
        slow = await sidecar.exchange(head + b"content-length: 100\r\n\r\n{")
        assert read(slow)[1]["code"] == "RequestTooSlow"
        kind = {"content-type": "application/json"}

        async def endless() -> AsyncGenerator[bytes]:
            for _ in range(1000):
                yield b" " * 1000

        for content in (b" " * 20_000, endless()):
            answer = await api.post(f"{PLACE}/messages", content=content, headers=kind)
            assert (answer.status_code, answer.json()["code"]) == (413, "BodyTooLarge")
        lines = {"content-type": "application/jsonl"}
        answer = await api.post(f"{PLACE}/import", content=b"x" * 2000, headers=lines)
        assert (answer.status_code, answer.json()["code"]) == (413, "BodyTooLarge")
        await still_serves(sidecar)


async def test_there_are_only_so_many_connections_requests_and_turns(client: Client) -> None:
    limits = Limits(connections=6, requests=1, turns=2)
    async with serving(client, limits=limits) as sidecar:
        idle = [await sidecar.raw() for _ in range(30)]
        await until(
            lambda: len(sidecar.server.server_state.connections) <= 6, "old ones are closed"
        )
        await still_serves(sidecar)
        async with sidecar.client() as api:
            first = await api.post(f"{PLACE}/turns")
            assert first.status_code == 201
            waiting = asyncio.create_task(api.post(f"{PLACE}/turns", json={"wait": "20s"}))
            await until(lambda: sidecar.service.turns.waiting == 1, "somebody waits")
            refused = await api.post(f"{PLACE}/turns")
            assert (refused.status_code, refused.json()["code"]) == (429, "TooManyTurns")
            assert refused.headers["retry-after"] == "1"
            # Who waits takes no place among the requests; who sends a body does.
            head = f"POST {PLACE}/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n"
            _, writer = await sidecar.raw()
            writer.write(head.encode() + b"content-type: application/json\r\n\r\n")
            await until(lambda: sidecar.api.active == 1, "a request is at work")
            busy = await api.get(PLACE)
            assert (busy.status_code, busy.json()["code"]) == (503, "Overloaded")
            writer.close()
            await until(lambda: sidecar.api.active == 0, "the client is gone")
            await api.delete(f"{PLACE}/turns/{first.json()['token']}")
            assert (await waiting).status_code == 201
        for _, writer in idle:
            writer.close()


async def test_answers_that_nobody_takes_are_bounded(client: Client) -> None:
    session = client.memory("support").session("1")
    await session.append({"role": "user", "content": "x" * 1_000_000})
    limits = Limits(answers=2_500_000, write_seconds=60)
    asked = f"GET {PLACE}/messages HTTP/1.1\r\nhost: x\r\n\r\n".encode()
    async with serving(client, limits=limits) as sidecar:
        silent = []
        for number in range(2):
            _, writer = await sidecar.raw()
            writer.transport.pause_reading()
            writer.write(asked)
            silent.append(writer)
            await until(lambda number=number: sidecar.api.active > number, "it is answered")
        async with sidecar.client() as api:
            answer = await api.get(f"{PLACE}/messages")
            assert (answer.status_code, answer.json()["code"]) == (503, "Overloaded")
            assert (await api.get(f"{PLACE}/counts")).status_code == 200
        for writer in silent:
            writer.close()
        await until(lambda: sidecar.api.active == 0, "they are gone")
        async with sidecar.client() as api:
            assert len((await api.get(f"{PLACE}/messages")).content) > 1_000_000


async def test_a_fault_of_ours_is_told_without_its_words(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise KeyError(SECRET)

    monkeypatch.setattr("holdfast.session.Session.health", broken)
    async with serving(client) as sidecar, sidecar.client() as api:
        with caplog.at_level(logging.ERROR, "holdfast.sidecar"):
            answer = await api.get(PLACE)
        assert (answer.status_code, answer.json()["code"]) == (500, "InternalError")
        assert SECRET not in answer.text + caplog.text
        assert "getSession failed with KeyError" in caplog.text
        await still_serves(sidecar)


async def test_an_answer_that_is_not_whole_does_not_look_whole(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lines(*_: object, **__: object) -> AsyncGenerator[str]:
        yield "x" * 100_000
        yield "y" * 100_000
        raise KeyError

    monkeypatch.setattr("holdfast.session.Session.export", lines)
    async with serving(client) as sidecar, sidecar.client() as api:
        with pytest.raises(httpx.RemoteProtocolError):
            await api.get(f"{PLACE}/export")
        await still_serves(sidecar)


async def test_a_client_that_goes_away_takes_its_turn_with_it_and_nothing_else(
    client: Client,
) -> None:
    async with serving(client) as sidecar, sidecar.client() as api:
        head = (
            f"POST {PLACE}/turns HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n".encode()
        )
        reader, writer = await sidecar.raw()
        writer.write(head)
        assert b"event: granted" in await reader.readuntil(b"granted")
        assert sidecar.service.turns.held == 1
        writer.close()
        await until(lambda: sidecar.service.turns.held == 0, "the turn is given back")
        assert (await client.memory("support").session("1").health()).lease is None
        held = (await api.post(f"{PLACE}/turns")).json()
        _, waiter = await sidecar.raw()
        waiter.write(head)
        await until(lambda: sidecar.service.turns.waiting == 1, "it waits")
        waiter.close()
        await until(lambda: sidecar.service.turns.waiting == 0, "it has left the line")
        assert sidecar.service.turns.held == 1
        assert (await api.put(f"{PLACE}/turns/{held['token']}")).status_code == 200


async def test_a_turn_ends_with_its_connection_whatever_was_sent_behind_it(client: Client) -> None:
    """A request in line on the same connection is not the one that has to learn that the client has gone."""
    async with serving(client, limits=Limits(heartbeat=0.05)) as sidecar:
        stream = f"POST {PLACE}/turns HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n"
        behind = f"GET {PLACE}/counts HTTP/1.1\r\nhost: x\r\n\r\n"
        reader, writer = await sidecar.raw()
        writer.write((stream + behind).encode())
        await reader.readuntil(b"granted")
        assert sidecar.service.turns.held == 1
        writer.close()
        await until(lambda: sidecar.service.turns.held == 0, "the turn is given back")
        await until(lambda: sidecar.api.active == 0, "and nothing is left of it")
        await still_serves(sidecar)


async def test_requests_behind_each_other_are_answered_in_order(client: Client) -> None:
    async with serving(client) as sidecar:
        ask = f"GET {PLACE}/%s HTTP/1.1\r\nhost: x\r\n%s\r\n"
        sent = [("counts", ""), ("nothing", ""), ("history", "connection: close\r\n")]
        answer = await sidecar.exchange("".join(ask % each for each in sent).encode())
        assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"404", b"200"]
        assert sidecar.api.active == 0


@pytest.mark.parametrize(
    "head",
    [f"content-length: {len(BODY)}\r\n", "transfer-encoding: chunked\r\n"],
    ids=["length", "chunks"],
)
async def test_who_offers_another_protocol_is_answered_in_this_one(
    client: Client, head: str
) -> None:
    """Java's own client does with every first request, one with a body included: its body was lost."""
    offer = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAAB\r\n"
    kind = "host: x\r\ncontent-type: application/json\r\n"
    post = f"POST {PLACE}/messages HTTP/1.1\r\n{offer}{kind}{head}\r\n"
    body = BODY if "length" in head else f"{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n"
    get = f"GET {PLACE}/counts HTTP/1.1\r\nhost: x\r\n{offer}\r\n"
    last = get.replace("Upgrade,", "close, Upgrade,")
    async with serving(client) as sidecar:
        whole = await sidecar.exchange((post + body + get + last).encode())
        assert re.findall(rb"HTTP/1.1 (\d+)", whole) == [b"200"] * 3
        assert whole.count(b'"messages":1') == 2
        reader, writer = await sidecar.raw()
        for byte in post + body + last:  # however it comes
            writer.write(byte.encode())
            await asyncio.sleep(0)
        assert b'"messages":2' in await reader.read()
        writer.close()
        answer = await sidecar.exchange(b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert read(answer)[1]["code"] == "RequestInvalid"
        await still_serves(sidecar)


async def test_what_comes_behind_a_body_in_chunks_is_no_header(client: Client) -> None:
    """Trailers must not say whose request it is, or of what type: what decides that has looked already."""
    chunks = (
        f"transfer-encoding: chunked\r\nconnection: close\r\n\r\n{len(BODY):x}\r\n{BODY}\r\n0\r\n"
    )
    post = f"POST {PLACE}/messages HTTP/1.1\r\nhost: x\r\n"
    kind = "content-type: application/json\r\n"
    async with serving(client) as sidecar:
        answer = await sidecar.exchange(f"{post}{chunks}{kind}\r\n".encode())
        assert read(answer)[1]["code"] == "MediaTypeUnsupported"
        turned = await sidecar.exchange(f"{post}{kind}{chunks}holdfast-turn: x\r\n\r\n".encode())
        assert b"200 OK" in turned


async def test_an_accept_of_several_lines_is_one(client: Client) -> None:
    ask = f"GET {PLACE}/counts HTTP/1.1\r\nhost: x\r\nconnection: close\r\n%s\r\n"
    both = ["accept: application/json\r\n", "accept: text/html\r\n"]
    async with serving(client) as sidecar:
        for lines in (both, both[::-1]):
            assert b"200 OK" in await sidecar.exchange((ask % "".join(lines)).encode())
        assert read(await sidecar.exchange((ask % both[1]).encode()))[0] == 406


async def test_a_request_for_the_whole_server_is_no_fault_of_ours(client: Client) -> None:
    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError(scope, receive, send)

    async with serving(client, mounts={b"mcp": mounted}) as sidecar:
        ask = b"OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        assert read(await sidecar.exchange(ask))[1]["code"] == "RouteNotFound"


async def test_a_call_of_a_mount_is_in_work(client: Client) -> None:
    """So that the end of the sidecar waits for it, as for every other request."""
    begun, finish = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await finish.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(client, mounts={b"mcp": slow}) as sidecar, sidecar.client() as api:
        call = asyncio.create_task(api.post("/mcp"))
        await begun.wait()
        assert sidecar.api.active == 1
        finish.set()
        assert (await call).status_code == 200
        await until(lambda: sidecar.api.active == 0, "it is over")
