"""Parts of the operator that need neither an API server nor a Redis: sights, bells, rounds, options."""

import asyncio
import logging
from typing import Any

import kopf
import pytest

from holdfast_operator.__main__ import options
from holdfast_operator.crds import DEFINITIONS, custom_resource_definition
from holdfast_operator.handlers.keeper import Keeper, Services
from holdfast_operator.handlers.settings import (
    DELETION_GOES_ON,
    FINALIZER,
    Backoffs,
    quiet_progress,
)
from holdfast_operator.handlers.wakers import Wakers
from holdfast_operator.leadership import Times
from holdfast_operator.services.outcome import Outcome
from holdfast_operator.services.ports import Body, ClusterConflict, ClusterUnavailable
from holdfast_operator.status import ResourceStatus
from holdfast_operator.storage.definitions import missing_fields
from holdfast_operator.storage.kubernetes import ConnectionDetails
from holdfast_operator.storage.mirror import Key, Kind, Mirror
from tests.harness.waiting import until

SUPPORT = Key(Kind.RESOURCE, "team", "support")
SHARED = Key(Kind.BACKEND, "platform", "shared")


def resource(version: int, *, uid: str = "1", backend: str = "shared") -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "team",
            "name": "support",
            "uid": uid,
            "resourceVersion": str(version),
            "managedFields": ["long"],
            "finalizers": [FINALIZER],
        },
        "spec": {"backendRef": {"name": backend, "namespace": "platform"}},
    }


def test_a_state_that_was_seen_already_is_no_news():
    mirror = Mirror()
    assert mirror.put(SUPPORT, resource(5))
    assert not mirror.put(SUPPORT, resource(5))
    assert not mirror.put(SUPPORT, resource(4))
    assert mirror.put(SUPPORT, resource(9))
    seen = mirror.get(SUPPORT)
    assert seen is not None
    assert seen["metadata"]["resourceVersion"] == "9"
    assert "managedFields" not in seen["metadata"]


def test_an_object_is_held_once_what_we_wrote_and_what_comes_back_of_it():
    mirror = Mirror()
    written, event = resource(5), resource(5)
    assert mirror.put(SUPPORT, written)
    assert not mirror.put(SUPPORT, event)
    assert mirror.get(SUPPORT) is event, "the one that Kopf holds as well"
    assert not mirror.put(SUPPORT, resource(4))
    assert mirror.get(SUPPORT) is event


def test_an_object_made_again_is_not_mixed_up_with_the_one_before():
    mirror = Mirror()
    mirror.put(SUPPORT, resource(5))
    assert mirror.put(SUPPORT, resource(8, uid="2"))
    assert not mirror.put(SUPPORT, resource(7))  # the last event of the one before
    assert not mirror.drop(SUPPORT, "1")
    assert mirror.get(SUPPORT) is not None
    assert mirror.drop(SUPPORT, "2")
    assert mirror.get(SUPPORT) is None


def namespace(version: int, uid: str) -> dict[str, Any]:
    return {"metadata": {"name": "team", "uid": uid, "resourceVersion": str(version)}}


def test_a_namespace_made_again_is_not_mixed_up_with_the_one_before():
    mirror = Mirror()
    mirror.put_namespace(namespace(5, "old"))
    mirror.put_namespace(namespace(8, "new"))
    mirror.put_namespace(namespace(7, "old"))
    mirror.drop_namespace("team", "old")
    found = mirror.namespace("team")
    assert found is not None
    assert found.uid == "new"
    mirror.drop_namespace("team", "new")
    assert mirror.namespace("team") is None


def test_dependants_follow_the_objects():
    mirror = Mirror()
    mirror.put(SUPPORT, resource(5))
    assert mirror.dependants(SHARED) == [SUPPORT]
    assert mirror.needed_by(SUPPORT) == (SHARED,)
    assert [body["metadata"]["name"] for body in mirror.resources_on("platform", "shared")] == [
        "support"
    ]
    mirror.put(SUPPORT, resource(6, backend="other"))
    assert mirror.dependants(SHARED) == []
    mirror.drop(SUPPORT, "1")
    assert mirror.needed_by(SUPPORT) == ()


def test_bindings_depend_on_memories_and_through_them_on_backends():
    mirror, agent = Mirror(), Key(Kind.BINDING, "team", "agent")
    names = [{"memoryRef": {"name": name}} for name in ("support", "notes", "support")]
    metadata = {"name": "agent", "namespace": "team", "uid": "9", "resourceVersion": "7"}
    mirror.put(agent, {"metadata": metadata, "spec": {"memories": names}})
    assert mirror.needed_by(agent) == (SUPPORT, Key(Kind.RESOURCE, "team", "notes"))
    assert mirror.dependants(SHARED) == []
    mirror.put(SUPPORT, resource(5))
    assert mirror.dependants(SUPPORT) == [agent]
    assert mirror.dependants(SHARED) == [SUPPORT, agent]
    assert len(mirror.resources_on("platform", "shared")) == 1
    mirror.drop(agent, "9")
    assert mirror.dependants(SHARED) == [SUPPORT]


@pytest.mark.asyncio
async def test_a_bell_that_rang_before_the_wait_is_heard():
    wakers = Wakers()
    wakers.expect(SUPPORT)
    wakers.wake(SUPPORT, SHARED)
    async with asyncio.timeout(60):
        await wakers.wait(SUPPORT, 3600)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await wakers.wait(SUPPORT, 3600)
    await wakers.wait(SUPPORT, 0.01)


class Status:
    """Takes in what is written, after the faults it was told to have."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.written: list[Body] = []

    async def put_status(self, key: Key, version: str, status: Body) -> Body | None:
        if self.faults:
            raise self.faults.pop(0)
        self.written.append(status)
        return {**resource(int(version) + 1), "status": status}


class Stopped:
    """A flag that Kopf would set."""

    def __init__(self) -> None:
        self.set = False

    def __bool__(self) -> bool:
        return self.set


def kept(status: Status, *outcomes: Outcome | Exception) -> tuple[Keeper, Wakers, list[Body]]:
    """A keeper of one object, whose service answers with these outcomes and then with nothing new."""
    mirror, wakers, looked = Mirror(), Wakers(), list[Body]()
    mirror.put(SUPPORT, resource(5))
    script = list(outcomes)

    async def step(body: Body) -> Outcome:
        looked.append(body)
        outcome = script.pop(0) if script else Outcome()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    services = {Kind.RESOURCE: Services(step, step)}
    return Keeper(services, mirror, wakers, status, interval=3600), wakers, looked


@pytest.mark.asyncio
async def test_whatever_goes_wrong_in_a_round_the_next_one_follows(
    caplog: pytest.LogCaptureFixture,
):
    status = Status(ClusterConflict("changed"), ClusterUnavailable("away"))
    change = Outcome(ResourceStatus(observed_generation=7))
    keeper, _, looked = kept(status, ZeroDivisionError(), change, change, change)
    stopped: Any = Stopped()
    body = kopf.Body(resource(5))
    task = asyncio.create_task(keeper.keep(SUPPORT, body, stopped))
    await until(lambda: bool(status.written), "written")
    assert status.written[0]["observedGeneration"] == 7
    assert len(looked) == 4
    assert "unexpected" in caplog.text
    assert "away" in caplog.text
    stopped.set = True
    task.cancel()  # as Kopf does: the end is orderly
    await task
    assert not task.cancelled()


@pytest.mark.asyncio
async def test_a_conflict_that_is_no_coincidence_is_told_once(caplog: pytest.LogCaptureFixture):
    keeper, wakers, looked = kept(Status(), *[ClusterConflict("changed")] * 9)
    stopped: Any = Stopped()
    task = asyncio.create_task(keeper.keep(SUPPORT, kopf.Body(resource(5)), stopped))

    def done() -> bool:
        wakers.wake(SUPPORT)
        return len(looked) > 9

    await until(done, "looked at often enough")
    stopped.set = True
    task.cancel()
    await task
    told = [record for record in caplog.records if "again and again changed" in record.message]
    assert len(told) == 1


@pytest.mark.asyncio
async def test_an_object_at_rest_is_looked_at_when_it_is_woken():
    keeper, wakers, looked = kept(Status())
    stopped: Any = Stopped()
    task = asyncio.create_task(keeper.keep(SUPPORT, kopf.Body(resource(5)), stopped))
    await until(lambda: len(looked) == 1, "the first look")
    wakers.wake(SUPPORT)
    await until(lambda: len(looked) == 2, "the second look")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.asyncio
async def test_an_object_is_not_looked_at_before_the_finalizer_holds_it():
    mirror, wakers, status = Mirror(), Wakers(), Status()
    looked: list[Body] = []

    async def step(body: Body) -> Outcome:
        looked.append(body)
        return Outcome(ResourceStatus(observed_generation=7))

    services = {Kind.RESOURCE: Services(step, step)}
    keeper = Keeper(services, mirror, wakers, status, interval=3600)
    held, free = resource(6), resource(5)
    del free["metadata"]["finalizers"]
    mirror.put(SUPPORT, free)
    stopped: Any = Stopped()
    task = asyncio.create_task(keeper.keep(SUPPORT, kopf.Body(free), stopped))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not looked
    mirror.put(SUPPORT, held)
    wakers.wake(SUPPORT)
    await until(lambda: bool(status.written), "written")
    assert [body["metadata"]["resourceVersion"] for body in looked] == ["6"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.asyncio
async def test_a_server_that_was_restarted_rings_for_all_who_keep_something_there():
    mirror, wakers = Mirror(), Wakers()
    metadata = {"name": "shared", "uid": "u", "finalizers": [FINALIZER]}
    mirror.put(SUPPORT, resource(5))
    mirror.put(SHARED, {"metadata": {**metadata, "resourceVersion": "6"}})
    outcomes = [Outcome(restarted=True)]

    async def step(_: Body) -> Outcome:
        return outcomes.pop(0) if outcomes else Outcome()

    services = {Kind.BACKEND: Services(step, step)}
    keeper = Keeper(services, mirror, wakers, Status(), interval=3600)
    wakers.expect(SUPPORT)
    stopped: Any = Stopped()
    body = kopf.Body({"metadata": metadata})
    task = asyncio.create_task(keeper.keep(SHARED, body, stopped))
    await asyncio.wait_for(wakers.wait(SUPPORT, 3600), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.asyncio
async def test_a_deletion_goes_on_until_it_is_done():
    blocked = Outcome(again=30.0, blocked=True)
    keeper, wakers, looked = kept(Status(), Outcome(again=5.0), blocked, Outcome())
    body = kopf.Body(resource(5))
    with pytest.raises(kopf.TemporaryError) as goes_on:
        await keeper.end(SUPPORT, body)
    assert goes_on.value.delay == 5.0
    waiting = asyncio.create_task(keeper.end(SUPPORT, body))
    await until(lambda: len(looked) == 2, "blocked")
    wakers.wake(SUPPORT)
    with pytest.raises(kopf.TemporaryError):
        await waiting
    await keeper.end(SUPPORT, body)


@pytest.mark.asyncio
async def test_what_goes_wrong_in_a_deletion_is_not_told_to_everybody(
    caplog: pytest.LogCaptureFixture,
):
    keeper, _, _ = kept(Status(), ValueError("hunter2"))
    with pytest.raises(kopf.TemporaryError) as goes_on:
        await keeper.end(SUPPORT, kopf.Body(resource(5)))
    assert "hunter2" not in str(goes_on.value)
    assert "unexpected" in caplog.text


def test_requests_are_repeated_for_as_long_as_it_takes():
    backoffs = iter(Backoffs())
    delays = [next(backoffs) for _ in range(1000)]
    assert delays[:6] == [1, 1, 2, 3, 5, 8]
    assert set(delays[6:]) == {10}


def test_only_the_records_of_deletions_that_go_on_are_dropped():
    def record(message: str) -> logging.LogRecord:
        return logging.LogRecord("kopf.objects", logging.ERROR, "", 0, message, None, None)

    assert not quiet_progress(record(f"Handler 'deletion' failed temporarily: {DELETION_GOES_ON}"))
    assert quiet_progress(record("Handler 'deletion' failed with an exception"))


def test_a_schema_without_a_field_is_older():
    for definition in DEFINITIONS:
        version = custom_resource_definition(definition)["spec"]["versions"][0]
        schema = version["schema"]["openAPIV3Schema"]
        assert list(missing_fields(schema, schema)) == []
        assert next(missing_fields(schema, {})) == ".apiVersion"
        conditions = schema["properties"]["status"]["properties"]["conditions"]["items"]
        without = {
            name: item for name, item in conditions["properties"].items() if name != "reason"
        }
        assert list(missing_fields(conditions, {"properties": without})) == [".reason"]


def test_options_come_from_the_command_line_before_the_environment():
    environ = {
        "HOLDFAST_OPERATOR_NAMESPACES": "a, b",
        "HOLDFAST_OPERATOR_INTERVAL": "30",
        "HOLDFAST_OPERATOR_LOG_FORMAT": "json",
        "HOLDFAST_OPERATOR_CLUSTER_ID": "main",
        "HOLDFAST_OPERATOR_HEALTH_PORT": "9000",
        "HOLDFAST_OPERATOR_LEADER_ELECTION": "false",
        "HOLDFAST_OPERATOR_LEADER_NAMESPACE": "mine",
        "HOLDFAST_OPERATOR_LEASE_DURATION": "30",
        "HOLDFAST_OPERATOR_RENEW_DEADLINE": "20",
        "HOLDFAST_OPERATOR_RETRY_PERIOD": "4",
    }
    found = options([], environ)
    assert (found.namespaces, found.interval, found.json_logs) == (("a", "b"), 30.0, True)
    assert found.cluster_id == "main"
    assert (found.health_port, found.election, found.leader_namespace) == (9000, False, "mine")
    assert found.times == Times(lease=30, deadline=20, retry=4, request=3)
    given = ["--namespace=c", "--interval=5", "--log-format=text", "--leader-election=true"]
    found = options([*given, "--health-port=0"], environ)
    assert (found.namespaces, found.interval, found.json_logs) == (("c",), 5.0, False)
    assert (found.health_port, found.election) == (0, True)
    standard = options([], {})
    assert (standard.health_port, standard.election, standard.times) == (None, True, Times())
    assert standard.leader_namespace is None


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        (["--interval=0"], {}),
        (["--abandon-after=0"], {}),
        ([], {"HOLDFAST_OPERATOR_INTERVAL": "soon"}),
        ([], {"HOLDFAST_OPERATOR_LOG_FORMAT": "xml"}),
        ([], {"HOLDFAST_OPERATOR_LEADER_ELECTION": "perhaps"}),
        (["--renew-deadline=12"], {}),
        (["--lease-duration=12.5"], {}),
        (["--health-port=65536"], {}),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(
    arguments: list[str], environ: dict[str, str], capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        options(arguments, environ)
    assert "error:" in capsys.readouterr().err


def test_credentials_show_in_no_text():
    details = ConnectionDetails("https://server", None, False, None, None, "token-4711", None)
    assert "4711" not in f"{details!r} {details}"
