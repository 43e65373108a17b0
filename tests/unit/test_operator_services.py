"""The operator's services, over a small world in memory: no Kubernetes, no Redis, no Kopf."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from holdfast.errors import AccessDenied, ServerTooOld, StoreUnavailable, UnknownKeys
from holdfast.store.addresses import Address, Login, Mode, Tls
from holdfast.store.maintenance import LayoutTooNew, Superseded
from holdfast.values import MemoryAddress
from holdfast_operator.backend import BackendSpec
from holdfast_operator.reasons import REASONS, ConditionType, ReadyReason
from holdfast_operator.services.access import allows, hands_over
from holdfast_operator.services.conditions import (
    FALSE,
    TRUE,
    Finding,
    conditions,
    healing_interval,
    listed,
)
from holdfast_operator.services.fencing import LOOKS
from holdfast_operator.services.ports import Credentials, Namespace, Secret
from holdfast_operator.status import PENDING, ResourceStatus
from tests.harness.operator_world import OFFERED, World, condition, ready, ready_pair

SUPPORT = MemoryAddress("team", "support")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def world() -> World:
    return World()


def found(status: Any, message: str = "text") -> Finding:
    reason = ReadyReason.AVAILABLE if status is TRUE else ReadyReason.BACKEND_UNREACHABLE
    return Finding(ConditionType.READY, status, reason, message)


# Conditions


def test_the_time_of_a_transition_moves_only_when_the_status_flips():
    first = conditions([PENDING], [found(FALSE)], generation=1, now=NOON)
    later = NOON + timedelta(hours=1)
    same = conditions(first, [found(FALSE, "another")], generation=2, now=later)
    flipped = conditions(same, [found(TRUE)], generation=2, now=later)
    assert first[0].last_transition_time == "2026-01-01T12:00:00Z"
    assert same[0].last_transition_time == "2026-01-01T12:00:00Z"
    assert same[0].message == "another"
    assert same[0].observed_generation == 2
    assert flipped[0].last_transition_time == "2026-01-01T13:00:00Z"


def test_conditions_that_were_not_found_are_gone_and_the_rest_is_in_order():
    paused = Finding(ConditionType.PAUSED, TRUE, REASONS[ConditionType.PAUSED][0], "")
    both = conditions([PENDING], [paused, found(TRUE)], generation=1, now=NOON)
    assert [item.type for item in both] == ["Ready", "Paused"]
    assert [item.type for item in conditions(both, [found(TRUE)], generation=1, now=NOON)] == [
        "Ready"
    ]


def test_an_over_long_message_is_cut_to_what_the_schema_takes():
    [cut] = conditions((), [found(TRUE, "x" * 5000)], generation=1, now=NOON)
    assert len(cut.message) == 4096


def test_what_heals_is_looked_at_twice_a_second_for_five_minutes_then_every_five_seconds():
    status = ResourceStatus(conditions=conditions((), [found(FALSE)], generation=1, now=NOON))
    assert healing_interval(status, NOON + timedelta(minutes=4)) == 0.5
    assert healing_interval(status, NOON + timedelta(minutes=6)) == 5.0
    fine = ResourceStatus(conditions=conditions((), [found(TRUE)], generation=1, now=NOON))
    assert healing_interval(fine, NOON) is None


def test_long_lists_are_cut():
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(number) for number in range(12)]).endswith("8, 9 and 2 more")


# Who may use a backend


@pytest.mark.parametrize(
    ("allowed", "labels", "expected"),
    [
        ({"from": "Same"}, {}, False),
        ({"from": "All"}, {}, True),
        ({"from": "Selector", "selector": {}}, {}, True),
        ({"from": "Selector", "selector": {"matchLabels": {"a": "1"}}}, {"a": "1"}, True),
        ({"from": "Selector", "selector": {"matchLabels": {"a": "1"}}}, {"a": "2"}, False),
        (
            {
                "from": "Selector",
                "selector": {"matchLabels": {"kubernetes.io/metadata.name": "team"}},
            },
            {"kubernetes.io/metadata.name": "forged"},
            True,
        ),
        *(
            (
                {
                    "from": "Selector",
                    "selector": {
                        "matchExpressions": [{"key": "a", "operator": operator, **values}]
                    },
                },
                labels,
                expected,
            )
            for operator, values, labels, expected in [
                ("In", {"values": ["1", "2"]}, {"a": "2"}, True),
                ("In", {"values": ["1"]}, {}, False),
                ("NotIn", {"values": ["1"]}, {}, True),
                ("NotIn", {"values": ["1"]}, {"a": "1"}, False),
                ("Exists", {}, {"a": ""}, True),
                ("Exists", {}, {}, False),
                ("DoesNotExist", {}, {}, True),
                ("DoesNotExist", {}, {"a": ""}, False),
            ]
        ),
    ],
)
def test_allowed_namespaces(allowed: dict[str, Any], labels: dict[str, str], expected: bool):
    spec = BackendSpec.read({"endpoints": ["redis:6379"], "allowedNamespaces": allowed})
    assert allows(spec, "platform", Namespace("team", "uid", labels)) is expected


def test_a_backend_serves_its_own_namespace_by_default():
    spec = BackendSpec.read({"endpoints": ["redis:6379"]})
    assert allows(spec, "team", Namespace("team", "uid"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("team/support", True),
        ("*", True),
        ("a/b, team/support", True),
        ("team/other", False),
        ("", False),
    ],
)
def test_the_annotation_that_hands_keys_over(text: str, expected: bool):
    assert hands_over({"holdfast.dev/adopt": text}, "team/support") is expected


def test_credentials_show_in_no_text():
    secret = Secret("login", "1", OFFERED, {"password": b"hunter2"})
    login = Login("me", "hunter2")
    tls = Tls(authority="hunter2", pair=b"hunter2")
    address = Address(Mode.STANDALONE, login=login, tls=tls, sentinel_login=login)
    assert "hunter2" not in f"{secret!r} {secret} {Credentials('me', 'hunter2')!r} {address!r}"


# Backends


@pytest.mark.asyncio
async def test_a_backend_is_ready_when_its_server_answers(world: World):
    backend = world.add_backend()
    outcome = await world.look(backend)
    assert ready(backend) == ("True", "Available")
    assert backend["status"]["server"] == {
        "product": "valkey",
        "version": "9.0.0",
        "mode": "standalone",
        "instance": world.server.name,
    }
    assert backend["status"]["usedMemory"] == "5Mi"
    assert backend["status"]["observedGeneration"] == 1
    assert [event.reason for event in outcome.events] == ["Available"]
    assert "Every namespace may use it." in condition(backend, "Ready")["message"]
    assert "load_scripts" in world.server.calls
    again = await world.look(backend)
    assert again.status is None
    assert again.events == ()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"access": {"mode": "Shared"}}, "IsolationNotAcknowledged"),
        ({"endpoints": ["redis:99999"]}, "InvalidSpec"),
    ],
)
async def test_a_backend_that_cannot_be_served_says_so_and_waits_for_an_edit(
    world: World, spec: dict[str, Any], reason: str
):
    backend = world.add_backend(**spec)
    outcome = await world.look(backend)
    assert ready(backend) == ("False", reason)
    assert condition(backend, "Stalled")["reason"] == reason
    assert outcome.again is None
    assert world.server.calls == []


@pytest.mark.asyncio
async def test_a_secret_is_asked_for_what_it_lacks_until_all_is_there(world: World):
    backend = world.add_backend(authRef={"name": "login"})
    assert (await world.look(backend)).again == 0.5
    assert ready(backend) == ("False", "SecretMissing")
    assert condition(backend, "Stalled") is None

    world.secrets["platform", "login"] = Secret("login", "1", {}, {"password": b"x"})
    await world.look(backend)
    assert ready(backend) == ("False", "SecretNotOffered")
    assert condition(backend, "Stalled") is not None

    for data in ({}, {"password": b""}, {"password": b"\xff"}, {"username": b"me"}):
        world.secrets["platform", "login"] = Secret("login", "2", OFFERED, data)
        await world.look(backend)
        assert ready(backend) == ("False", "SecretInvalid")

    world.add_secret(username="me", password="secret")
    await world.look(backend)
    assert ready(backend) == ("True", "Available")
    [address] = world.server.addresses
    assert address.nodes == (("redis", 6379),)
    assert address.login == Login("me", "secret")


@pytest.mark.asyncio
async def test_a_withdrawn_secret_closes_the_connection(world: World):
    backend = world.add_backend(authRef={"name": "login"})
    world.add_secret(password="secret")
    await world.look(backend)
    assert world.connections.is_open(backend["metadata"]["uid"])
    world.secrets.clear()
    await world.look(backend)
    assert not world.connections.is_open(backend["metadata"]["uid"])


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("fault", "reason", "reachable"),
    [
        (StoreUnavailable("down: said the server"), "BackendUnreachable", "False"),
        (AccessDenied("wrong password: said the server"), "AuthenticationFailed", "False"),
        (AccessDenied("no permission: said the server"), "PermissionDenied", "True"),
        (ServerTooOld("the server is redis 6.2"), "ServerTooOld", "True"),
    ],
)
async def test_faults_of_a_server_have_their_reason_and_heal(
    world: World, fault: Any, reason: str, reachable: str
):
    backend = world.add_backend()
    world.server.fault = fault
    outcome = await world.look(backend)
    assert ready(backend) == ("False", reason)
    assert condition(backend, "BackendReachable")["status"] == reachable
    # Nobody reads in a status what some server said: who may write endpoints could have it ask any.
    told = json.dumps(backend["status"]) + repr(outcome.events)
    assert (str(fault) in told.lower()) is (reason == "ServerTooOld"), "product and version alone"
    assert outcome.again == 0.5
    assert (await world.look(backend)).status is None
    world.server.fault = None
    await world.look(backend)
    assert ready(backend) == ("True", "Available")


@pytest.mark.asyncio
async def test_a_full_server_and_one_in_another_mode_are_not_ready(world: World):
    backend = world.add_backend()
    fine = world.server.info
    world.server.info = fine._replace(max_memory=4_000_000)
    await world.look(backend)
    assert ready(backend) == ("False", "ServerFull")
    world.server.info = fine._replace(mode="cluster")
    await world.look(backend)
    assert ready(backend) == ("False", "InvalidSpec")
    assert "spec.mode: Cluster" in condition(backend, "Ready")["message"]
    world.server.info = fine._replace(max_memory=4_000_000, eviction_policy="allkeys-lru")
    await world.look(backend)
    assert ready(backend) == ("True", "Available")


@pytest.mark.asyncio
async def test_every_field_of_a_backend_is_carried_out(world: World):
    backend = world.add_backend(tenants={"maxTTL": "7d"}, durability={"replicas": 1})
    await world.look(backend)
    assert ready(backend) == ("True", "Available")
    assert condition(backend, "NotInForce") is None


@pytest.mark.asyncio
async def test_figures_of_a_backend_are_coarse_and_rare(world: World):
    backend = world.add_backend()
    await world.look(backend)
    world.server.info = world.server.info._replace(used_memory=5_400_000)
    world.clock.advance(600)
    assert (await world.look(backend)).status is None
    world.server.info = world.server.info._replace(used_memory=9_000_000)
    assert (await world.look(backend)).status is not None
    world.server.info = world.server.info._replace(used_memory=20_000_000)
    world.clock.advance(60)
    assert (await world.look(backend)).status is None
    world.clock.advance(600)
    await world.look(backend)
    assert backend["status"]["usedMemory"] == "19Mi"


@pytest.mark.asyncio
async def test_the_figure_of_a_small_server_does_not_waver(world: World):
    """It is shown to a mebibyte, which is more than a tenth of a few."""
    world.server.info = world.server.info._replace(used_memory=1_500_000)
    backend = world.add_backend()
    await world.look(backend)
    assert backend["status"]["usedMemory"] == "1Mi"
    for used in (1_600_000, 1_500_000, 1_900_000):
        world.clock.advance(600)
        world.server.info = world.server.info._replace(used_memory=used)
        assert (await world.look(backend)).status is None
    world.clock.advance(600)
    world.server.info = world.server.info._replace(used_memory=2_700_000)
    await world.look(backend)
    assert backend["status"]["usedMemory"] == "3Mi"


@pytest.mark.asyncio
async def test_a_paused_backend_keeps_its_conditions(world: World):
    backend = world.add_backend()
    await world.look(backend)
    world.annotate(backend, paused="true")
    world.server.fault = StoreUnavailable("down")
    world.edit(backend, endpoints=["other:6379"])
    await world.look(backend)
    assert ready(backend) == ("True", "Available")
    assert condition(backend, "Paused")["reason"] == "Annotated"
    assert backend["status"]["observedGeneration"] == 1
    world.annotate(backend)
    await world.look(backend)
    assert condition(backend, "Paused") is None
    assert ready(backend) == ("False", "BackendUnreachable")


@pytest.mark.asyncio
async def test_a_backend_in_use_stays_until_the_last_memory_is_gone(world: World):
    backend, resource = await ready_pair(world)
    never_served = world.add_resource("pending")
    world.delete(backend)
    outcome = await world.look(backend)
    assert outcome.blocked
    assert ready(backend) == ("False", "InUse")
    assert "team/support" in condition(backend, "Ready")["message"]
    assert "pending" not in condition(backend, "Ready")["message"]
    await world.look(resource)
    assert ready(resource) == ("True", "Available")
    await world.look(never_served)
    assert ready(never_served) == ("False", "BackendNotReady")
    world.delete(resource)
    assert (await world.look(resource)).again is None
    assert (await world.look(backend)).again is None
    assert not world.connections.is_open(backend["metadata"]["uid"])


@pytest.mark.asyncio
async def test_a_backend_in_use_goes_with_its_namespace(world: World):
    backend, _ = await ready_pair(world)
    world.namespaces["platform"] = Namespace("platform", "platform-1", {}, terminating=True)
    world.delete(backend)
    assert (await world.look(backend)).again is None
    assert "end_deletion" not in world.server.calls


# Memories


@pytest.mark.asyncio
async def test_a_memory_gets_its_mark_its_policy_and_its_status(world: World):
    _, resource = await ready_pair(world, limits={"maxTokens": 12000, "maxMessages": 50})
    status = resource["status"]
    assert status["type"] == "TokenBased"
    assert status["policyRevision"] == 1
    assert status["keyPrefix"] == "mem:{team/support}"
    assert status["effective"] == {
        "maxTokens": 12000,
        "maxMessages": 50,
        "maxMessageSize": "256Ki",
        "ttl": "24h",
    }
    assert status["rollout"] == {"revision": 1, "done": 0, "total": 0}
    assert status["usage"]["sessions"] == 0
    assert condition(resource, "PolicyApplied")["reason"] == "Applied"
    assert condition(resource, "NotInForce") is None
    held = world.server.memory(SUPPORT)
    assert held.owner is not None
    assert held.owner[:4] == ("cluster-1", "team-1", "team", "support")
    again = await world.look(resource)
    assert (again.status, again.events) == (None, ())


@pytest.mark.asyncio
async def test_fields_that_are_not_carried_out_are_listed(world: World):
    _, resource = await ready_pair(
        world, model={"name": "unheard-of"}, limits={"maxContextPercent": 50}
    )
    message = condition(resource, "NotInForce")["message"]
    assert "model.name, limits.maxContextPercent" in message


@pytest.mark.asyncio
async def test_a_spec_that_breaks_a_rule_is_reported_on_the_object(world: World):
    world.add_backend()
    resource = world.add_resource(retention={"ttl": "0s"})
    outcome = await world.look(resource)
    assert ready(resource) == ("False", "InvalidSpec")
    assert condition(resource, "Stalled") is not None
    assert "spec.retention.ttl" in condition(resource, "Ready")["message"]
    assert outcome.again is None
    world.delete(resource)
    assert (await world.look(resource)).again is None


@pytest.mark.asyncio
async def test_the_wrong_order_of_applying_heals(world: World):
    resource = world.add_resource()
    await world.look(resource)
    assert ready(resource) == ("False", "BackendNotFound")
    assert condition(resource, "PolicyApplied")["reason"] == "WaitingForBackend"
    backend = world.add_backend()
    await world.look(resource)
    assert ready(resource) == ("False", "BackendNotReady")
    await world.look(backend)
    await world.settle(resource)
    assert ready(resource) == ("True", "Available")


@pytest.mark.asyncio
async def test_a_backend_that_was_made_a_moment_ago_is_no_news(world: World):
    backend, resource = world.add_backend(), world.add_resource()
    backend["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    outcome = await world.look(resource)
    assert (outcome.status, outcome.events) == (None, ())
    world.clock.advance(6)
    await world.look(resource)
    assert ready(resource) == ("False", "BackendNotReady")


@pytest.mark.asyncio
async def test_a_backend_outside_the_served_namespaces_is_not_visible(world: World):
    world.hidden.add("platform")
    resource = world.add_resource()
    await world.look(resource)
    assert ready(resource) == ("False", "BackendNotVisible")
    assert condition(resource, "Stalled") is not None


@pytest.mark.asyncio
async def test_withdrawing_a_namespace_is_noticed_and_allowing_it_again_restores(world: World):
    backend, resource = await ready_pair(world)
    world.edit(backend, allowedNamespaces={"from": "Same"})
    await world.look(backend)
    await world.look(resource)
    assert ready(resource) == ("False", "BackendNotAllowed")
    assert condition(resource, "PolicyApplied")["reason"] == "Applied"
    assert world.server.memory(SUPPORT).state == "active"
    world.edit(backend, allowedNamespaces={"from": "All"})
    await world.look(backend)
    await world.look(resource)
    assert ready(resource) == ("True", "Available")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (UnknownKeys("another type"), "WrongKeyType"),
        (LayoutTooNew("layout 9"), "LayoutTooNew"),
    ],
)
async def test_faults_of_the_keys_have_their_reason_and_heal(world: World, fault: Any, reason: str):
    _, resource = await ready_pair(world)
    world.server.fault = fault
    outcome = await world.look(resource)
    assert ready(resource) == ("False", reason)
    assert condition(resource, "Stalled") is not None
    assert outcome.again == 0.5
    assert (await world.look(resource)).status is None
    world.server.fault = None
    await world.look(resource)
    assert ready(resource) == ("True", "Available")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (StoreUnavailable("down"), "BackendUnreachable"),
        (AccessDenied("wrong password"), "AuthenticationFailed"),
    ],
)
async def test_a_fault_of_the_server_is_the_backends_to_tell_unless_it_stays(
    world: World, fault: Any, reason: str
):
    _, resource = await ready_pair(world)
    world.server.fault = fault
    for _ in range(3):
        outcome = await world.look(resource)
        assert (outcome.status, outcome.again) == (None, 1.0)
        assert outcome.suspect == ("platform", "shared")
    outcome = await world.look(resource)
    assert ready(resource) == ("False", reason)
    assert outcome.again == 0.5
    world.server.fault = None
    await world.look(resource)
    assert ready(resource) == ("True", "Available")


@pytest.mark.asyncio
async def test_the_name_of_a_namespace_that_was_reused_inherits_nothing(world: World):
    await ready_pair(world)
    world.server.memory(SUPPORT).sessions["old"] = 1
    world.add_namespace("team", uid="2")
    stranger = world.add_resource()
    stranger["metadata"]["uid"] = "another"
    await world.look(stranger)
    assert ready(stranger) == ("False", "KeysOwnedByOther")
    assert condition(stranger, "Conflict") is not None
    assert world.server.memory(SUPPORT).owner.namespace_uid == "team-1"
    assert "policyRevision" not in stranger["status"]


@pytest.mark.asyncio
async def test_a_watch_of_namespaces_that_is_behind_hands_no_keys_over(world: World):
    """A memory may be seen before the namespace that it is in."""
    await ready_pair(world)
    world.server.memory(SUPPORT).sessions["old"] = 1
    world.seen_namespaces["team"] = world.namespaces["team"]
    world.add_namespace("team", uid="2")
    stranger = world.add_resource()
    stranger["metadata"]["uid"] = "another"
    await world.look(stranger)
    assert ready(stranger) == ("False", "KeysOwnedByOther")
    assert world.server.memory(SUPPORT).owner.namespace_uid == "team-1"


@pytest.mark.asyncio
async def test_only_the_owner_of_the_backend_hands_keys_over(world: World):
    backend, _ = await ready_pair(world)
    world.id = "cluster-2"
    world.restart()
    resource = world.add_resource()
    resource["metadata"]["uid"] = "restored"
    world.annotate(resource, adopt="*")
    await world.look(resource)
    assert ready(resource) == ("False", "KeysOwnedByOther")
    world.annotate(backend, adopt="team/support")
    outcome = await world.look(resource)
    assert ready(resource) == ("True", "Available")
    assert "TakenOver" in [event.reason for event in outcome.events]


@pytest.mark.asyncio
async def test_an_object_made_again_takes_its_own_keys_over(world: World):
    await ready_pair(world)
    again = world.add_resource()
    again["metadata"]["uid"] = "again"
    outcome = await world.look(again)
    assert ready(again) == ("True", "Available")
    assert "TakenOver" in [event.reason for event in outcome.events]


@pytest.mark.asyncio
async def test_sessions_that_nobody_marked_are_left_alone(world: World):
    world.server.memory(SUPPORT).sessions["standalone"] = 0
    await world.look(world.add_backend())
    resource = world.add_resource()
    await world.look(resource)
    assert ready(resource) == ("False", "KeysOwnedByOther")


@pytest.mark.asyncio
async def test_a_paused_memory_is_left_alone(world: World):
    _, resource = await ready_pair(world)
    world.annotate(resource, paused="true")
    world.edit(resource, retention={"ttl": "1h"})
    world.server.calls.clear()
    await world.look(resource)
    assert world.server.calls == []
    assert ready(resource) == ("True", "Available")
    assert condition(resource, "Paused") is not None
    assert resource["status"]["observedGeneration"] == 1


# Rollouts


@pytest.mark.asyncio
async def test_an_edit_reaches_every_session_and_shows_its_progress(world: World):
    _, resource = await ready_pair(world)
    held = world.server.memory(SUPPORT)
    held.sessions.update({f"s{number:04}": 1 for number in range(1000)})
    world.edit(resource, retention={"ttl": "2h"})
    first = await world.look(resource)
    assert first.again == pytest.approx(5.0)
    assert ready(resource) == ("True", "Available")
    assert condition(resource, "PolicyApplied")["reason"] == "RollingOut"
    assert condition(resource, "Reconciling")["reason"] == "RollingOut"
    assert set(held.sessions.values()) == {1}
    world.clock.advance(5)
    held.sessions["zzz-late"] = 1
    await world.settle(resource)
    assert set(held.sessions.values()) == {2}
    assert condition(resource, "PolicyApplied")["status"] == "True"
    assert condition(resource, "Reconciling") is None
    assert resource["status"]["rollout"] == {"revision": 2, "done": 1001, "total": 1001}
    assert resource["status"]["usage"]["sessions"] == 1001


@pytest.mark.asyncio
async def test_a_rollout_that_was_interrupted_is_finished_after_a_restart(world: World):
    _, resource = await ready_pair(world)
    held = world.server.memory(SUPPORT)
    held.sessions.update({f"s{number:04}": 1 for number in range(10)})
    world.edit(resource, retention={"ttl": "2h"})
    await world.look(resource)
    world.restart()
    await world.settle(resource)
    assert set(held.sessions.values()) == {2}
    assert condition(resource, "PolicyApplied")["reason"] == "Applied"


@pytest.mark.asyncio
async def test_a_policy_that_was_written_right_before_the_end_is_rolled_out(world: World):
    _, resource = await ready_pair(world)
    world.server.memory(SUPPORT).sessions["s"] = 1
    world.edit(resource, retention={"ttl": "2h"})
    unsaved = dict(resource)
    await world.look(unsaved)  # the document is in Redis, the status never was
    world.restart()
    await world.settle(resource)
    assert world.server.memory(SUPPORT).sessions["s"] == 2


@pytest.mark.asyncio
async def test_an_edit_that_changes_nothing_is_no_rollout(world: World):
    _, resource = await ready_pair(world)
    world.edit(resource, description="for people")
    outcome = await world.look(resource)
    assert outcome.again is None
    assert resource["status"]["policyRevision"] == 1
    assert condition(resource, "PolicyApplied")["observedGeneration"] == 2


@pytest.mark.asyncio
async def test_a_second_edit_during_a_rollout_begins_another_one(world: World):
    _, resource = await ready_pair(world)
    held = world.server.memory(SUPPORT)
    held.sessions["s"] = 1
    world.edit(resource, retention={"ttl": "2h"})
    await world.look(resource)
    world.clock.advance(4)
    world.edit(resource, retention={"ttl": "3h"})
    assert (await world.look(resource)).again == pytest.approx(5.0)
    await world.settle(resource)
    assert held.sessions["s"] == 3


@pytest.mark.asyncio
async def test_sessions_above_a_limit_are_reported_and_looked_at_again(world: World):
    _, resource = await ready_pair(world)
    world.server.memory(SUPPORT).sessions["pinned"] = 1
    world.server.protected.add("pinned")
    world.edit(resource, limits={"maxMessages": 1})
    await world.settle(resource)
    assert condition(resource, "PolicyApplied")["status"] == "False"
    assert condition(resource, "PolicyApplied")["reason"] == "Unsatisfied"
    assert condition(resource, "PolicyApplied")["message"].startswith("Revision 2: 1 sessions")
    world.server.protected.clear()
    assert (await world.look(resource)).again is None
    world.clock.advance(301)
    await world.settle(resource)
    assert condition(resource, "PolicyApplied")["reason"] == "Applied"


@pytest.mark.asyncio
async def test_a_server_that_fails_in_the_middle_of_a_rollout_is_waited_for(world: World):
    _, resource = await ready_pair(world)
    world.server.memory(SUPPORT).sessions["s"] = 1
    world.edit(resource, retention={"ttl": "2h"})
    await world.look(resource)
    world.clock.advance(5)
    world.server.fault = StoreUnavailable("down")
    for _ in range(4):
        await world.look(resource)
    assert condition(resource, "PolicyApplied")["reason"] == "WaitingForBackend"
    world.server.fault = None
    await world.settle(resource)
    assert world.server.memory(SUPPORT).sessions["s"] == 2
    assert condition(resource, "PolicyApplied")["reason"] == "Applied"


@pytest.mark.asyncio
async def test_usage_is_written_after_a_move_and_not_too_often(world: World):
    _, resource = await ready_pair(world)
    held = world.server.memory(SUPPORT)
    held.sessions.update({str(number): 1 for number in range(100)})
    assert (await world.look(resource)).status is None
    world.clock.advance(301)
    await world.look(resource)
    assert resource["status"]["usage"]["sessions"] == 100
    assert world.server.usage[SUPPORT].tokens == 1000
    held.sessions.update({str(number): 1 for number in range(105)})
    world.clock.advance(301)
    assert (await world.look(resource)).status is None
    world.edit(resource, description="another change takes the figures along")
    await world.look(resource)
    assert resource["status"]["usage"]["sessions"] == 105


# Deletion


@pytest.mark.asyncio
async def test_retain_leaves_the_sessions(world: World):
    _, resource = await ready_pair(world)
    world.server.memory(SUPPORT).sessions["s"] = 1
    world.annotate(resource, paused="true")
    world.delete(resource)
    outcome = await world.look(resource)
    assert outcome.again is None
    assert [event.reason for event in outcome.events] == ["SessionsRetained"]
    assert world.server.memory(SUPPORT).released
    assert world.server.memory(SUPPORT).sessions == {"s": 1}


@pytest.mark.asyncio
async def test_retain_never_waits_for_a_server(world: World):
    _, resource = await ready_pair(world)
    world.server.fault = StoreUnavailable("down")
    world.delete(resource)
    assert (await world.look(resource)).again is None


@pytest.mark.asyncio
async def test_delete_refuses_writers_first_and_buries_twice(world: World):
    _, resource = await ready_pair(world, deletionPolicy="Delete")
    held = world.server.memory(SUPPORT)
    held.sessions.update({str(number): 1 for number in range(500)})
    world.delete(resource)
    outcome = await world.look(resource)
    assert outcome.again == 5.0
    assert held.state == "deleting"
    assert "bury" not in world.server.calls
    assert ready(resource) == ("False", "Deleting")
    assert condition(resource, "Reconciling")["reason"] == "Deleting"
    world.clock.advance(5)
    assert (await world.look(resource)).again == pytest.approx(5.0)
    assert resource["status"]["rollout"] == {"revision": 2, "done": 500, "total": 500}
    held.sessions["late"] = 1
    world.clock.advance(5.001)
    outcome = await world.look(resource)
    assert outcome.again is None
    assert "501 sessions" in outcome.events[0].message
    assert SUPPORT not in world.server.memories


@pytest.mark.asyncio
async def test_a_deletion_that_was_interrupted_is_finished_after_a_restart(world: World):
    _, resource = await ready_pair(world, deletionPolicy="Delete")
    world.server.memory(SUPPORT).sessions["s"] = 1
    world.delete(resource)
    await world.look(resource)
    world.restart()
    await world.settle(resource)
    assert SUPPORT not in world.server.memories


@pytest.mark.asyncio
async def test_a_deletion_that_was_done_by_one_who_died_then_is_not_called_undone(world: World):
    _, resource = await ready_pair(world, deletionPolicy="Delete")
    world.server.memory(SUPPORT).sessions["s"] = 1
    world.delete(resource)
    await world.settle(resource)
    assert SUPPORT not in world.server.memories
    world.restart()
    world.objects["MemoryResource", "team", "support"] = resource  # its finalizer is there still
    outcome = await world.look(resource)
    assert outcome.again is None
    assert [event.reason for event in outcome.events] == ["SessionsDeleted"]


@pytest.mark.asyncio
async def test_what_never_was_ready_deletes_nothing(world: World):
    world.server.memory(SUPPORT).sessions["standalone"] = 0
    await world.look(world.add_backend())
    resource = world.add_resource(deletionPolicy="Delete")
    await world.look(resource)
    world.delete(resource)
    assert (await world.look(resource)).again is None
    assert world.server.memory(SUPPORT).sessions == {"standalone": 0}


@pytest.mark.asyncio
async def test_keys_that_were_handed_to_another_are_not_deleted(world: World):
    _, resource = await ready_pair(world, deletionPolicy="Delete")
    held = world.server.memory(SUPPORT)
    held.sessions["s"] = 1
    held.owner = held.owner._replace(uid="another", cluster="cluster-2")
    world.delete(resource)
    outcome = await world.look(resource)
    assert outcome.again is None
    assert [event.reason for event in outcome.events] == ["NothingDeleted"]
    assert held.sessions == {"s": 1}


@pytest.mark.asyncio
async def test_a_blocked_deletion_waits_longer_and_longer_and_heals(world: World):
    _, resource = await ready_pair(world, deletionPolicy="Delete")
    world.server.memory(SUPPORT).sessions["s"] = 1
    world.server.fault = StoreUnavailable("down")
    world.delete(resource)
    outcome = await world.look(resource)
    assert (outcome.again, outcome.blocked) == (2.0, True)
    assert ready(resource) == ("False", "DeletionBlocked")
    message = condition(resource, "Ready")["message"]
    assert "deletionPolicy to Retain" in message
    assert "holdfast.dev/abandon-data" in message
    waits = []
    for _ in range(12):
        world.clock.advance(outcome.again)
        outcome = await world.look(resource)
        assert outcome.status is None
        waits.append(outcome.again)
    assert waits == sorted(waits)
    assert waits[-1] == 30.0
    world.server.fault = None
    await world.settle(resource)
    assert SUPPORT not in world.server.memories


@pytest.mark.asyncio
@pytest.mark.parametrize("way", ["retain", "annotation", "backend gone", "secret gone"])
async def test_ways_out_of_a_blocked_deletion(world: World, way: str):
    backend, resource = await ready_pair(world, deletionPolicy="Delete")
    world.server.memory(SUPPORT).sessions["s"] = 1
    world.server.fault = StoreUnavailable("down")
    world.delete(resource)
    assert (await world.look(resource)).blocked
    match way:
        case "retain":
            world.edit(resource, deletionPolicy="Retain")
        case "annotation":
            world.annotate(resource, abandon_data="true")
        case "backend gone":
            del world.objects["MemoryBackend", "platform", "shared"]
        case _:
            world.edit(backend, authRef={"name": "gone"})
    outcome = await world.look(resource)
    assert outcome.again is None
    assert outcome.events
    assert world.server.memory(SUPPORT).sessions == {"s": 1}


@pytest.mark.asyncio
async def test_data_that_are_left_behind_are_left_to_their_expiry(world: World):
    _, resource = await ready_pair(world, deletionPolicy="Delete")
    world.server.memory(SUPPORT).sessions["s"] = 1
    world.annotate(resource, abandon_data="true")
    world.delete(resource)
    outcome = await world.look(resource)
    assert outcome.again is None
    assert [event.reason for event in outcome.events] == ["DataAbandoned"]
    assert world.server.memory(SUPPORT).sessions == {"s": 1}
    assert world.server.memory(SUPPORT).released


@pytest.mark.asyncio
async def test_a_paused_deletion_of_data_is_held_and_says_so(world: World):
    _, resource = await ready_pair(world, deletionPolicy="Delete")
    world.annotate(resource, paused="true")
    world.delete(resource)
    outcome = await world.look(resource)
    assert outcome.blocked
    assert condition(resource, "Paused") is not None
    world.annotate(resource)
    await world.settle(resource)
    assert SUPPORT not in world.server.memories


@pytest.mark.asyncio
async def test_a_namespace_never_hangs_on_a_server_that_is_away(world: World):
    _, resource = await ready_pair(world, deletionPolicy="Delete")
    world.namespaces["team"] = Namespace("team", "team-1", {}, terminating=True)
    world.server.fault = StoreUnavailable("down")
    world.delete(resource)
    waited = 0.0
    while (outcome := await world.look(resource)).again is not None:
        assert outcome.blocked
        waited += outcome.again
        world.clock.advance(outcome.again)
    assert 120 <= waited < 160


@pytest.mark.asyncio
async def test_no_session_shows_in_status_or_events(world: World):
    _, resource = await ready_pair(world, deletionPolicy="Delete")
    world.server.memory(SUPPORT).sessions["user-4711"] = 1
    world.edit(resource, retention={"ttl": "2h"})
    said = [await world.look(resource), await world.settle(resource)]
    world.delete(resource)
    said += [await world.look(resource), await world.settle(resource)]
    assert "4711" not in repr(said)


def test_every_reason_of_a_condition_is_in_its_list():
    # What the services say about Stalled and Conflict is taken from these lists.
    assert ReadyReason.KEYS_OWNED_BY_OTHER in REASONS[ConditionType.CONFLICT]
    assert ReadyReason.SECRET_MISSING not in REASONS[ConditionType.STALLED]


@pytest.mark.asyncio
async def test_who_leads_and_is_refused_for_long_says_so_and_goes_on_by_itself(world: World):
    _, resource = await ready_pair(world)
    world.server.fenced = True
    for _ in range(LOOKS - 1):
        outcome = await world.look(resource)
        assert (outcome.status, outcome.again) == (None, 5.0), (
            "another one leads: it says what there is"
        )
    await world.look(resource)
    assert ready(resource) == ("False", "Fenced")
    assert condition(resource, "Stalled")["reason"] == "Fenced"
    world.server.fenced = False
    await world.settle(resource)
    assert ready(resource) == ("True", "Available")
    world.server.fenced = True
    assert (await world.look(resource)).status is None, "counted anew"


@pytest.mark.asyncio
async def test_a_deletion_that_is_refused_for_long_names_the_ways_out(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    _, resource = await ready_pair(world, deletionPolicy="Delete")
    world.delete(resource)

    async def refuse(*_: Any) -> None:
        raise Superseded("a higher epoch")

    monkeypatch.setattr(world.server, "begin_deletion", refuse)
    for _ in range(LOOKS - 1):
        assert (await world.look(resource)).status is None
    await world.look(resource)
    assert ready(resource) == ("False", "DeletionBlocked")
    message = condition(resource, "Ready")["message"]
    assert "(Fenced)" in message
    assert "Two ways out" in message
    world.annotate(resource, abandon_data="true")
    [event] = (await world.settle(resource)).events
    assert event.reason == "DataAbandoned"


@pytest.mark.asyncio
async def test_what_stood_in_place_of_an_index_is_removed_and_told_once(world: World):
    _, resource = await ready_pair(world)
    world.server.no_index = True
    [event] = (await world.look(resource)).events
    assert (event.type.value, event.reason) == ("Warning", "IndexRemoved")
    assert ready(resource) == ("True", "Available")
    assert (await world.look(resource)).events == ()
