"""What a client may do to a sidecar, and what it may not: sizes, times, numbers, and faults of ours."""

import asyncio
import json
import logging
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
