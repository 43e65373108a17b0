"""A sidecar under attack: its memory stays bounded, and whoever means well is served."""

import contextlib
import json
import statistics
import threading
import time
import uuid
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.attacks import hostile
from tests.harness.raw_http import request
from tests.harness.servers import Server
from tests.harness.sidecar_apart import SidecarApart, many_files
from tests.harness.waiting import wait
from tests.integration.world import spec

pytestmark = [pytest.mark.redis, pytest.mark.slow]

SESSION = "/v1/memories/support/sessions"
MOST = 200
"""MiB that the process may have at its worst: 60 when nothing happens, 32 for large bodies, as much for large
answers, and 64 KiB for each of a thousand connections."""
PATIENCE = 40.0
"""Seconds that a well-meant request may take on a machine that does other things too."""


@pytest.fixture(scope="module")
def sidecar(
    valkey_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Generator[SidecarApart]:
    """One sidecar for all attacks: what one leaves behind shows in the next."""
    many_files()
    with SidecarApart.running(
        tmp_path_factory.mktemp("sidecar"),
        valkey_server.url,
        policy=spec(),
        namespace=f"team-{uuid.uuid4().hex[:12]}",
    ) as sidecar:
        sidecar.wait_until_ready()
        yield sidecar


@contextlib.contextmanager
def kept_serving(sidecar: SidecarApart) -> Iterator[None]:
    """Append all the while, as an agent does, and look at the times and at the memory at the end."""
    path = f"{SESSION}/honest-{uuid.uuid4().hex}/messages"
    body = json.dumps({"message": {"role": "user", "content": "Is anybody there?"}}).encode()
    times: list[float] = []
    over = threading.Event()

    def append() -> None:
        """Once, and again where it was told to try again."""
        began = time.monotonic()
        while (status := sidecar.ask("POST", path, body).status) == 503:
            assert time.monotonic() - began < PATIENCE
            time.sleep(0.1)
        assert status == 200
        times.append(time.monotonic() - began)

    def agent() -> None:
        while not over.wait(0.05):
            append()

    sidecar.forget_most_resident()
    with ThreadPoolExecutor(1) as thread:
        working = thread.submit(agent)
        try:
            yield
        finally:
            over.set()
        working.result()
    append()
    assert max(times) < PATIENCE, statistics.quantiles(times)
    assert sidecar.most_resident < MOST
    assert "Traceback" not in sidecar.log, sidecar.tail()


def test_bodies_of_a_gigabyte(sidecar: SidecarApart) -> None:
    """They are refused, declared or not, and hold no memory, whole or in lines."""
    with kept_serving(sidecar):
        for target, kind in (("messages", "application/json"), ("import", "application/jsonl")):
            for framing in ({"content-length": str(2**30)}, {"transfer-encoding": "chunked"}):
                head = request(
                    "POST", f"{SESSION}/large/{target}", b"", {"content-type": kind, **framing}
                )
                chunked = "transfer-encoding" in framing
                if chunked:
                    head = head.replace(b"content-length: 0\r\n", b"")
                flood = hostile.flood(sidecar.socket, head, size=2**30, chunked=chunked)
                assert flood.reply is not None
                assert flood.reply.status == 413
                assert flood.reply.json["code"] == "BodyTooLarge"


def test_heads_that_never_end(sidecar: SidecarApart) -> None:
    """Of each kind two at a time, all together: refused or cut off, and nothing of them is kept."""
    with kept_serving(sidecar), ThreadPoolExecutor(2 * len(hostile.BOMBS)) as threads:
        thrown = [
            (name, threads.submit(hostile.throw, sidecar.socket, bomb, size=2**26, seconds=8))
            for name, bomb in hostile.BOMBS.items()
            for _ in range(2)
        ]
        answers = {(name, one.result()[9:12]) for name, one in thrown}
    refused = {b"", b"400", b"408", b"413", b"431"}
    assert {name for name, status in answers if status not in refused} <= {"pipeline"}


def test_ten_thousand_idle_connections(sidecar: SidecarApart) -> None:
    """The longest idle ones go; those who come are served."""
    before = sidecar.resident
    with kept_serving(sidecar):
        connections = hostile.connect_many(sidecar.socket, 10_000)
        assert sidecar.ask("GET", "/v1/memories").status == 200
        open_ = hostile.still_open(connections)
        for one in connections:
            one.close()
    assert open_ <= 1000
    assert sidecar.resident - before < 40


def test_clients_that_send_a_byte_now_and_then(sidecar: SidecarApart) -> None:
    """Slow-loris: a head has ten seconds to arrive, whatever trickles in."""
    head = request("GET", "/v1/memories", b"", {"x-padding": "a" * 500})
    with kept_serving(sidecar):
        lives = hostile.trickle(sidecar.socket, 300, head, seconds=90)
    assert len(lives) == 300, "all were closed"
    assert max(lives) < 40


def test_answers_that_nobody_takes(sidecar: SidecarApart) -> None:
    """Hundreds ask for a large read and leave the answer where it is."""
    messages = [{"role": "user", "content": "x" * 3_900}] * 100
    target = f"{SESSION}/unread/messages"
    body = json.dumps({"messages": messages}).encode()
    assert sidecar.ask("POST", target, body).status == 200
    assert len(sidecar.ask("GET", target).body) > 390_000
    with kept_serving(sidecar):
        connections = hostile.unread(sidecar.socket, target, 900)
        wait(lambda: settled(sidecar), "the sidecar is idle", every=0.05)
        for one in connections:
            one.socket.close()


def settled(sidecar: SidecarApart) -> bool:
    """Whether the process has done what it was asked: it is nearly idle, but for one agent."""
    before = ticks(sidecar)
    time.sleep(0.5)
    return ticks(sidecar) - before <= 8


def ticks(sidecar: SidecarApart) -> int:
    """The processor time of the process so far, in hundredths of a second."""
    return int(Path(f"/proc/{sidecar.pid}/stat").read_text().split()[13])
