"""What the operator shows: metrics that move when they should, and a board and alerts that name no others."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from holdfast.store.maintenance import ServerInfo, Superseded, Totals
from holdfast_operator import metrics
from holdfast_operator.instruments import INSTRUMENTS, Instrument, Type
from holdfast_operator.metrics import OperatorMetrics
from holdfast_operator.services.observing import Fault, Named, Observer, Step, Unobserved
from holdfast_operator.storage.mirror import Key, Kind, Mirror
from tests.harness.operator_world import World

ROOT = Path(__file__).parents[2]
SUPPORT, SHARED = Named("team", "support"), Named("platform", "shared")
INFO = ServerInfo("valkey", "9.0.0", "standalone", 5_000_000, 10_000_000, "noeviction")
OF_SUPPORT = {"namespace": "team", "memory": "team/support"}
OF_SHARED = {"namespace": "platform", "backend": "platform/shared"}


class Leader:
    leads = True
    epoch = 7


def resource(version: int = 1, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "team",
            "name": "support",
            "uid": "1",
            "resourceVersion": str(version),
        },
        "spec": {"backendRef": {"name": "shared", "namespace": "platform"}},
        "status": status,
    }


def condition(kind: str, status: str, reason: str) -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason}


def world() -> tuple[Mirror, OperatorMetrics]:
    mirror = Mirror()
    backend = {"metadata": {"namespace": "platform", "name": "shared", "resourceVersion": "1"}}
    mirror.put(Key(Kind.BACKEND, *SHARED), backend)
    mirror.put(Key(Kind.RESOURCE, *SUPPORT), resource())
    return mirror, OperatorMetrics(mirror, lambda: {Kind.RESOURCE: 3}, Leader())


def value(shown: OperatorMetrics, name: str, **labels: str) -> float | None:
    return shown.registry.get_sample_value(name, labels)


def tell_everything(observer: Observer) -> None:
    if isinstance(observer, OperatorMetrics):
        observer.wrote("PATCH")
    observer.looked("memoryresources", Step.RECONCILE, 0.2, Fault.NONE)
    observer.looked("memoryresources", Step.FINALIZE, 0.2, Fault.API_SERVER)
    observer.status_written("memoryresources")
    observer.server_answered(SHARED, 0.002, INFO)
    observer.measured(SUPPORT, Totals(2, 20, 200, 2000))
    observer.fenced(SUPPORT)
    observer.repaired(SUPPORT, 4)
    observer.orphans(SHARED, 5)
    observer.survey_failed(SHARED)
    observer.acl_repaired(SHARED, 6)
    observer.rotated(Named("team", "agent"), datetime(2026, 1, 1, tzinfo=UTC))


def test_each_metric_shows_what_was_told_or_seen():
    mirror, shown = world()
    tell_everything(shown)
    rolling = condition("PolicyApplied", "False", "RollingOut")
    ready = condition("Ready", "True", "Available")
    mirror.put(
        Key(Kind.RESOURCE, *SUPPORT),
        resource(2, conditions=[ready, rolling], rollout={"revision": 2, "done": 3, "total": 10}),
    )
    looks = {"kind": "memoryresources", "step": "reconcile"}
    prefix = "holdfast_operator_"
    expected: list[tuple[str, dict[str, str], float]] = [
        ("holdfast_leader", {}, 1),
        (f"{prefix}leader_epoch", {}, 7),
        (f"{prefix}reconcile_seconds_count", looks, 1),
        (
            f"{prefix}reconcile_failures_total",
            {"kind": "memoryresources", "step": "finalize", "fault": "APIServer"},
            1,
        ),
        (
            f"{prefix}objects",
            {
                "kind": "memoryresources",
                "condition": "Ready",
                "status": "True",
                "reason": "Available",
            },
            1,
        ),
        (f"{prefix}queue_objects", {"kind": "memoryresources"}, 3),
        (f"{prefix}status_writes_total", {"kind": "memoryresources"}, 1),
        (f"{prefix}api_writes_total", {"method": "PATCH"}, 1),
        (f"{prefix}memory_sessions", OF_SUPPORT, 2),
        (f"{prefix}memory_messages", OF_SUPPORT, 20),
        (f"{prefix}memory_tokens", OF_SUPPORT, 200),
        (f"{prefix}memory_bytes", OF_SUPPORT, 2000),
        (f"{prefix}rollouts", {}, 1),
        (f"{prefix}rollout_sessions_left", OF_SUPPORT, 7),
        (f"{prefix}fenced_writes_total", OF_SUPPORT, 1),
        (f"{prefix}repaired_keys_total", OF_SUPPORT, 4),
        (f"{prefix}orphans", OF_SHARED, 5),
        (f"{prefix}survey_failures_total", OF_SHARED, 1),
        (f"{prefix}acl_repairs_total", OF_SHARED, 6),
        (
            f"{prefix}rotation_timestamp_seconds",
            {"namespace": "team", "binding": "team/agent"},
            1767225600,
        ),
        (f"{prefix}backend_up", OF_SHARED, 1),
        (f"{prefix}backend_latency_seconds", OF_SHARED, 0.002),
        (f"{prefix}backend_used_bytes", OF_SHARED, 5_000_000),
        (f"{prefix}backend_limit_bytes", OF_SHARED, 10_000_000),
    ]
    assert len(expected) == len(INSTRUMENTS)
    for name, labels, number in expected:
        assert value(shown, name, **labels) == number, name


def test_an_object_that_is_gone_takes_its_series_along():
    mirror, shown = world()
    tell_everything(shown)
    shown.server_failed(SHARED)
    assert value(shown, "holdfast_operator_backend_up", **OF_SHARED) == 0
    assert value(shown, "holdfast_operator_backend_used_bytes", **OF_SHARED) is None
    mirror.drop(Key(Kind.RESOURCE, *SUPPORT), "1")
    mirror.drop(Key(Kind.BACKEND, *SHARED), "None")
    shown.rotated(Named("team", "agent"), None)
    page = shown.page().decode()
    for metric in ("memory_sessions", "backend_up", "orphans", "rotation_timestamp_seconds"):
        assert f"holdfast_operator_{metric}{{" not in page


def test_usage_is_as_status_says_until_it_was_measured():
    mirror, shown = world()
    assert value(shown, "holdfast_operator_memory_tokens", **OF_SUPPORT) is None
    usage = {"sessions": 1, "messages": 2, "tokens": 3, "bytes": 4, "observedTime": "then"}
    mirror.put(Key(Kind.RESOURCE, *SUPPORT), resource(2, usage=usage))
    assert value(shown, "holdfast_operator_memory_tokens", **OF_SUPPORT) == 3
    shown.measured(SUPPORT, Totals(10, 20, 30, 40))
    assert value(shown, "holdfast_operator_memory_tokens", **OF_SUPPORT) == 30


@pytest.mark.asyncio
async def test_services_tell_what_servers_answer_and_what_memories_hold():
    _, shown = world()
    on = World()
    on.observe(shown)
    backend, memory = on.add_backend(), on.add_resource()
    await on.look(backend)
    await on.settle(memory)
    assert value(shown, "holdfast_operator_backend_up", **OF_SHARED) == 1
    assert value(shown, "holdfast_operator_memory_sessions", **OF_SUPPORT) == 0
    on.server.fenced = True
    await on.look(memory)
    assert value(shown, "holdfast_operator_fenced_writes_total", **OF_SUPPORT) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("policy", ["Delete", "Retain"])
async def test_a_deletion_that_is_another_leaders_says_nothing_and_goes_on_waiting(policy: str):
    _, shown = world()
    on = World()
    on.observe(shown)
    backend, memory = on.add_backend(), on.add_resource(deletionPolicy=policy)
    await on.look(backend)
    await on.settle(memory)
    on.delete(memory)
    on.server.fault = Superseded("a newer leader was here")
    outcome = await on.look(memory)
    assert (outcome.status, outcome.events, outcome.blocked) == (None, (), True)
    assert value(shown, "holdfast_operator_fenced_writes_total", **OF_SUPPORT) == 1
    on.server.fault = None
    await on.settle(memory)
    assert not [key for key in on.objects if key[0] == "MemoryResource"]


def test_who_does_not_count_is_told_the_same():
    tell_everything(Unobserved())
    Unobserved().server_failed(SHARED)


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=lambda item: item.name)
def test_names_and_labels_are_those_that_people_expect(instrument: Instrument):
    assert instrument.name == "holdfast_leader" or instrument.name.startswith("holdfast_operator_")
    assert instrument.name.endswith("_total") == (instrument.type is Type.COUNTER)
    assert "milliseconds" not in instrument.name
    assert instrument.meaning.endswith(".")
    assert not {"session", "user", "uid", "id"} & set(instrument.labels)


def test_the_page_is_what_prometheus_reads():
    _, shown = world()
    tell_everything(shown)
    families = {family.name for family in text_string_to_metric_families(shown.page().decode())}
    assert {item.name.removesuffix("_total") for item in INSTRUMENTS} <= families
    assert "process_resident_memory_bytes" in shown.page().decode()


def test_the_document_is_what_is_defined(capsys: pytest.CaptureFixture[str]):
    assert metrics.main(["check", "--docs", str(ROOT / "docs")]) == 0, capsys.readouterr().out


def test_a_document_that_differs_is_written_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "metrics.md"
    path.write_text("the library's part\n")
    assert metrics.main(["check", "--docs", str(tmp_path)]) == 1
    assert metrics.main(["write", "--docs", str(tmp_path)]) == 0
    assert metrics.main(["check", "--docs", str(tmp_path)]) == 0
    assert path.read_text().startswith("the library's part\n")
    assert "run: python -m holdfast_operator.metrics write" in capsys.readouterr().out
