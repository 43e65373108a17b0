"""The health server, what its probes mean, and logs that machines read."""

import asyncio
import json
import logging
import socket
import sys
import threading
import time

import httpx
import pytest

from holdfast_operator.elector import Alone
from holdfast_operator.handlers.echoes import OVERDUE, Echoes
from holdfast_operator.health import STUCK, HealthServer, PortTaken, Pulse, Verdict
from holdfast_operator.logs import JsonLines, about
from holdfast_operator.probes import Probes, Role
from holdfast_operator.storage.mirror import Key, Kind
from tests.harness.operator_world import ManualClock

SUPPORT = Key(Kind.RESOURCE, "team", "support")


class Leader(Alone):
    """A leader whose lease can be played with."""

    reachable = True
    acts = True

    @property
    def leads(self) -> bool:
        return self.acts

    def can_lead(self) -> bool:
        return self.reachable


def server(live: Verdict, ready: Verdict) -> HealthServer:
    return HealthServer(0, live=lambda: live, ready=lambda: ready, metrics=lambda: b"holdfast 1\n")


def test_the_server_answers_probes_and_scrapes():
    with server(Verdict(True, "well"), Verdict(False, "not yet")) as health:
        for host in ("127.0.0.1", "[::1]") if socket.has_dualstack_ipv6() else ("127.0.0.1",):
            base = f"http://{host}:{health.port}"
            live, ready, page = (
                httpx.get(f"{base}/{name}", verify=False)
                for name in ("healthz", "readyz?verbose", "metrics")
            )
            assert (live.status_code, live.text) == (200, "well\n")
            assert (ready.status_code, ready.text) == (503, "not yet\n")
            assert page.text == "holdfast 1\n"
            assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
            assert httpx.get(f"{base}/secrets", verify=False).status_code == 404
            assert httpx.post(f"{base}/healthz", verify=False).status_code == 501


def test_it_answers_while_the_event_loop_is_stuck():
    clock, pulse = ManualClock(), None
    pulse = Pulse(clock.monotonic)
    health = HealthServer(0, live=pulse.verdict, ready=pulse.verdict, metrics=lambda: b"")
    answers: list[httpx.Response] = []
    done = threading.Event()

    def ask() -> None:
        answers.append(httpx.get(f"http://127.0.0.1:{health.port}/healthz", verify=False))
        done.set()

    async def main() -> None:
        beating = asyncio.create_task(pulse.beat())
        await asyncio.sleep(0)
        clock.advance(STUCK + 1)
        threading.Thread(target=ask).start()
        assert done.wait(30)  # the loop does not turn meanwhile
        beating.cancel()

    with health:
        asyncio.run(main())
        assert answers[0].status_code == 503
        assert answers[0].text == "the event loop has not turned for 16 s\n"


def test_a_client_that_says_nothing_keeps_nobody_waiting():
    with (
        server(Verdict(True, "well"), Verdict(True, "well")) as health,
        socket.create_connection(("127.0.0.1", health.port)),
    ):
        assert (
            httpx.get(
                f"http://127.0.0.1:{health.port}/healthz", timeout=3, verify=False
            ).status_code
            == 200
        )


def test_a_port_that_is_taken_is_named_with_the_way_out():
    with (
        server(Verdict(True, ""), Verdict(True, "")) as health,
        pytest.raises(PortTaken, match=f"port {health.port} .* --health-port=0"),
        HealthServer(
            health.port,
            live=lambda: Verdict(True, ""),
            ready=lambda: Verdict(True, ""),
            metrics=lambda: b"",
        ),
    ):
        pass


def body(version: int) -> dict[str, object]:
    return {"metadata": {"resourceVersion": str(version)}}


def test_a_write_that_does_not_come_back_means_a_dead_watch():
    clock = ManualClock()
    echoes, leader = Echoes(clock.monotonic), Leader(7)
    probes = Probes(Pulse(clock.monotonic), echoes, leader)
    pulse = probes._pulse
    echoes.wrote(SUPPORT, body(5))
    clock.advance(OVERDUE - 1)
    assert echoes.overdue() is None
    echoes.wrote(SUPPORT, body(6))  # a second write does not begin the wait anew
    echoes.heard(SUPPORT, body(5))
    clock.advance(2)
    pulse._last = clock.monotonic()
    assert not probes.live().good
    leader.acts = False  # an API server that cannot be reached tells nothing of the watch
    assert probes.live().good
    leader.acts = True
    echoes.heard(SUPPORT, body(6))
    assert probes.live().good


def test_what_is_gone_is_not_waited_for():
    clock = ManualClock()
    echoes = Echoes(clock.monotonic)
    echoes.wrote(SUPPORT, body(5))
    echoes.forget(SUPPORT)
    clock.advance(OVERDUE + 1)
    assert echoes.overdue() is None


@pytest.mark.parametrize(
    ("role", "acts", "reachable", "good", "reason"),
    [
        (Role.STARTING, False, False, False, "the definitions of the resources are not there yet"),
        (Role.STANDBY, False, True, True, "standby: another operator leads"),
        (Role.STANDBY, False, False, False, "standby: the lease cannot be reached"),
        (Role.LEADER, True, True, True, "leader"),
        (Role.LEADER, False, True, False, "the lease is running out"),
        (Role.ENDING, True, True, False, "the operator ends"),
    ],
)
def test_ready_is_who_acts_or_can(role: Role, acts: bool, reachable: bool, good: bool, reason: str):
    leader = Leader(7)
    leader.acts, leader.reachable = acts, reachable
    probes = Probes(Pulse(), Echoes(), leader)
    probes.role = role
    assert probes.ready() == (good, reason)
    probes.trusted = False
    assert not probes.ready().good, "nobody takes the installation for complete"


# --- logs


def formatted(message: str, *arguments: object, **more: object) -> dict[str, object]:
    record = logging.LogRecord(
        "holdfast.operator", logging.WARNING, "", 0, message, arguments, None
    )
    record.__dict__.update(more)
    line = JsonLines().format(record)
    assert "\n" not in line
    return json.loads(line)


def test_a_record_about_an_object_says_which_and_its_revision():
    memory = {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "MemoryResource",
        "metadata": {"namespace": "team", "name": "support", "uid": "1"},
        "status": {"policyRevision": 3},
    }
    found = formatted("%s: all is %s", "support", "well", **about(memory))
    assert found["message"] == "support: all is well"
    assert (found["kind"], found["namespace"], found["name"]) == (
        "MemoryResource",
        "team",
        "support",
    )
    assert found["revision"] == 3
    assert found["object"] == {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "MemoryResource",
        "namespace": "team",
        "name": "support",
        "uid": "1",
    }
    assert found["severity"] == "warn"


def test_a_record_about_nothing_in_particular_has_no_empty_fields():
    found = formatted("a line\nand another")
    assert set(found) == {"timestamp", "severity", "logger", "message"}
    backend = formatted("x", **about({"kind": "MemoryBackend", "metadata": {"name": "shared"}}))
    assert "revision" not in backend
    assert "namespace" not in backend


def test_a_traceback_is_part_of_its_line():
    try:
        raise ValueError("wrong")
    except ValueError:
        found = formatted("unexpected", exc_info=sys.exc_info())
    assert "ValueError: wrong" in str(found["exception"])


def test_a_pulse_that_beats_is_well():
    async def main() -> Verdict:
        pulse = Pulse(time.monotonic)
        beating = asyncio.create_task(pulse.beat())
        await asyncio.sleep(0)
        beating.cancel()
        return pulse.verdict()

    assert asyncio.run(main()).good
