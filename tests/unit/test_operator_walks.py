"""Walks over sessions, as the operator's services steer them: rollouts, sweeps, surveys, deletions."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.errors import StoreUnavailable
from holdfast.store.maintenance import Orphan
from holdfast.values import MemoryAddress
from holdfast_operator.services.conditions import moment
from holdfast_operator.services.observing import Named, Unobserved
from holdfast_operator.services.pacing import LEAST, MOST, PLACES, RATE, Pace
from holdfast_operator.services.ports import Namespace
from tests.harness.operator_world import (
    ManualClock,
    Memory,
    World,
    condition,
    ready,
    ready_pair,
)
from tests.harness.waiting import until

SUPPORT = MemoryAddress("team", "support")


@pytest.fixture
def world() -> World:
    return World()


def filled(world: World, sessions: int) -> Memory:
    held = world.server.memory(SUPPORT)
    held.sessions.update({f"s{number:05}": 1 for number in range(sessions)})
    return held


# Pace


@pytest.mark.asyncio
async def test_walks_on_one_server_share_a_rate():
    clock = ManualClock()
    pace = Pace(clock)
    done = 0

    async def work(limit: int) -> None:
        nonlocal done
        done += limit

    for _ in range(400):
        await pace.call(work)
    assert done == 400 * MOST
    assert done / clock.monotonic() == pytest.approx(RATE, rel=0.01)
    await pace.call(lambda limit: asyncio.sleep(0, limit), cost=0.1)
    assert await pace.call(lambda limit: asyncio.sleep(0, limit), cost=0.1) == 10 * MOST


@pytest.mark.asyncio
async def test_who_has_few_sessions_holds_nobody_up():
    clock = ManualClock()
    pace = Pace(clock)
    for _ in range(1000):
        assert await pace.call(lambda limit: asyncio.sleep(0, limit), expected=0) == MOST
    assert clock.monotonic() == ManualClock().monotonic()
    for _ in range(101):
        await pace.call(lambda limit: asyncio.sleep(0, limit), expected=8)
    assert clock.monotonic() - ManualClock().monotonic() == pytest.approx(800 / RATE, abs=1e-3)


@pytest.mark.asyncio
async def test_a_slow_server_is_asked_for_less_and_rests():
    clock = ManualClock()
    pace = Pace(clock)
    sizes: list[int] = []

    async def take(seconds: float) -> float:
        async def work(limit: int) -> float:
            sizes.append(limit)
            began = clock.monotonic()
            clock.advance(seconds)
            return began

        return await pace.call(work)

    ends, expected = 0.0, [MOST]
    while expected[-1] > LEAST:
        expected.append(max(LEAST, expected[-1] // 2))
    for _ in expected:
        assert await take(0.4) - ends >= (0.399 if ends else 0)
        ends = clock.monotonic()
    assert sizes == expected
    assert await take(5) - ends >= 0.399
    assert sizes[-1] == LEAST
    ends = clock.monotonic()
    assert 0.999 <= await take(0.001) - ends < 1.1
    for _ in range(MOST // LEAST):
        await take(0.001)
    assert sizes[-1] == MOST
    with pytest.raises(StoreUnavailable):
        await pace.call(lambda _: refuse())


async def refuse() -> None:
    raise StoreUnavailable("down")


@pytest.mark.asyncio
async def test_only_some_walks_are_on_a_server_at_a_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("holdfast_operator.services.pacing.PATIENCE", 0.01)
    pace, at_once, most, turned_away = Pace(ManualClock()), 0, 0, 0
    leave = asyncio.Event()

    async def walk() -> None:
        nonlocal at_once, most, turned_away
        async with pace.place() as place:
            if not place:
                turned_away += 1
                return
            at_once += 1
            most = max(most, at_once)
            await leave.wait()
            at_once -= 1

    walks = [asyncio.create_task(walk()) for _ in range(3 * PLACES)]
    await until(lambda: turned_away == 2 * PLACES, "the others are turned away")
    leave.set()
    await asyncio.gather(*walks)
    assert (most, turned_away, at_once) == (PLACES, 2 * PLACES, 0)
    async with pace.place() as place:
        assert place


# Rollouts


@pytest.mark.asyncio
async def test_a_restart_goes_on_where_the_rollout_was(world: World):
    _, resource = await ready_pair(world)
    held = filled(world, 15_000)
    world.edit(resource, retention={"ttl": "2h"})
    await world.look(resource)
    world.clock.advance(5)
    await world.look(resource)
    noted = held.walk
    assert noted is not None
    assert noted.done == resource["status"]["rollout"]["done"] > 5000
    world.restart()
    world.server.calls.clear()
    await world.settle(resource)
    assert set(held.sessions.values()) == {2}
    assert resource["status"]["rollout"] == {"revision": 2, "done": 15_000, "total": 15_000}
    assert held.walk is None
    # No session of the first pass was looked at twice, and the wait was over.
    assert world.server.calls.count("roll_out") <= (2 * 15_000 - noted.done) / MOST + 2


@pytest.mark.asyncio
async def test_a_noted_walk_of_another_revision_is_of_no_use(world: World):
    _, resource = await ready_pair(world)
    held = filled(world, 10_000)
    world.edit(resource, retention={"ttl": "2h"})
    await world.look(resource)
    world.clock.advance(5)
    await world.look(resource)
    assert held.walk is not None
    assert held.walk.revision == 2
    world.edit(resource, retention={"ttl": "3h"})
    world.restart()
    assert (await world.look(resource)).again == pytest.approx(5.0)
    await world.settle(resource)
    assert set(held.sessions.values()) == {3}


@pytest.mark.asyncio
async def test_a_walk_begins_again_on_another_run_of_the_server(world: World):
    _, resource = await ready_pair(world)
    held = filled(world, 10_000)
    world.edit(resource, retention={"ttl": "2h"})
    await world.look(resource)
    world.clock.advance(5)
    await world.look(resource)
    world.server.run += 1
    for name in list(held.sessions)[::3]:  # what a failover lost
        held.sessions[name] = 1
    world.restart()
    await world.settle(resource)
    assert set(held.sessions.values()) == {2}
    assert resource["status"]["rollout"] == {"revision": 2, "done": 10_000, "total": 10_000}


@pytest.mark.asyncio
async def test_sessions_made_behind_the_cursor_are_found_by_the_second_pass(world: World):
    _, resource = await ready_pair(world)
    held = filled(world, 15_000)
    world.edit(resource, retention={"ttl": "2h"})
    await world.look(resource)
    world.clock.advance(5)
    await world.look(resource)
    held.sessions.update({f"late-{number}": 1 for number in range(200)})
    await world.settle(resource)
    assert set(held.sessions.values()) == {2}


@pytest.mark.asyncio
async def test_many_rollouts_at_once_all_end(world: World):
    backend = world.add_backend()
    await world.look(backend)
    resources = [world.add_resource(f"memory-{number}") for number in range(3 * PLACES)]
    for resource in resources:
        await world.settle(resource)
        held = world.server.memory(MemoryAddress("team", resource["metadata"]["name"]))
        held.sessions.update({str(number): 1 for number in range(500)})
        world.edit(resource, retention={"ttl": "2h"})
        await world.look(resource)
    world.clock.advance(5)
    await asyncio.gather(*(world.settle(resource) for resource in resources))
    assert {condition(resource, "PolicyApplied")["reason"] for resource in resources} == {"Applied"}


Action = Callable[[World, dict[str, Any]], None]


def edit(world: World, resource: dict[str, Any]) -> None:
    world.edit(resource, retention={"ttl": f"{resource['metadata']['generation'] + 1}h"})


def restart(world: World, _: dict[str, Any]) -> None:
    world.restart()


def fail(world: World, _: dict[str, Any]) -> None:
    world.server.fault = StoreUnavailable("down")


def heal(world: World, _: dict[str, Any]) -> None:
    world.server.fault = None


def server_restarts(world: World, _: dict[str, Any]) -> None:
    world.server.run += 1


def write_late(world: World, _: dict[str, Any]) -> None:
    """Somebody makes a session under the policy before, as is possible until the walk begins."""
    held = world.server.memory(SUPPORT)
    held.sessions[f"late-{len(held.sessions)}"] = max(1, held.revision - 1)


def expire_some(world: World, _: dict[str, Any]) -> None:
    held = world.server.memory(SUPPORT)
    for name in list(held.sessions)[::7]:
        del held.sessions[name]


def wait(world: World, _: dict[str, Any]) -> None:
    world.clock.advance(5)


def step(_: World, __: dict[str, Any]) -> None:
    """Only what follows each action: a look."""


ACTIONS = st.lists(
    st.sampled_from(
        [edit, restart, fail, heal, server_restarts, write_late, expire_some, wait, step, step]
    ),
    max_size=25,
)


@settings(max_examples=80)
@given(actions=ACTIONS)
@example(actions=[edit, fail, heal, restart, write_late])
@example(actions=[edit, write_late, step, server_restarts, expire_some, restart, edit, wait])
def test_whatever_happens_every_session_ends_at_the_newest_revision(actions: list[Action]):
    async def life() -> None:
        world = World()
        _, resource = await ready_pair(world)
        held = filled(world, 7000)
        revision, written = held.revision, float("-inf")
        for action in actions:
            if action is write_late and world.clock.monotonic() - written > 5:
                continue  # everybody has fetched the new document
            action(world, resource)
            outcome = await world.look(resource)
            if held.revision != revision:
                revision, written = held.revision, world.clock.monotonic()
            world.clock.advance(outcome.again or 0)
        world.server.fault = None
        for key in list(world.objects):
            await world.look(world.objects[key])
        await world.settle(resource)
        assert held.revision == resource["status"]["policyRevision"]
        assert set(held.sessions.values()) <= {held.revision}
        assert condition(resource, "PolicyApplied")["reason"] == "Applied"
        assert resource["status"]["rollout"]["revision"] == held.revision

    asyncio.run(life())


# Sweeps


@pytest.mark.asyncio
async def test_every_memory_is_swept_once_an_hour_and_what_is_right_is_no_news(world: World):
    _, resource = await ready_pair(world)
    filled(world, 700)
    world.server.calls.clear()
    for _ in range(120):
        world.clock.advance(60)
        outcome = await world.look(resource)
        assert "lastSweep" not in resource["status"]
        assert outcome.events == ()
    assert world.server.calls.count("sweep") == 2 * 4  # calls of 200 sessions, twice in two hours


@pytest.mark.asyncio
async def test_what_was_repaired_is_said_once(world: World):
    _, resource = await ready_pair(world)
    held = filled(world, 3)
    held.wrong = {"s00001": 2}
    world.clock.advance(3600)
    outcome = await world.look(resource)
    time = resource["status"]["lastSweep"]["time"]
    assert resource["status"]["lastSweep"] == {"time": time, "repaired": 2, "orphans": 0}
    [event] = outcome.events
    assert (event.type, event.reason) == ("Warning", "ExpiryRepaired")
    assert "2 keys" in event.message
    assert resource["status"]["usage"]["sessions"] == 3  # one walk does both
    world.clock.advance(7300)
    assert (await world.look(resource)).status is None


@pytest.mark.asyncio
async def test_a_sweep_that_is_asked_for_runs_once(world: World):
    _, resource = await ready_pair(world)
    held = filled(world, 3)
    held.wrong = {"s00001": 2}
    world.annotate(resource, sweep="dry-run")
    outcome = await world.look(resource)
    assert [event.reason for event in outcome.events] == ["SweepDryRun"]
    swept = resource["status"]["lastSweep"]
    assert (swept["repaired"], swept["dryRun"], swept["request"]) == (2, True, "dry-run")
    assert held.wrong
    world.server.calls.clear()
    assert (await world.look(resource)).status is None
    world.restart()
    assert (await world.look(resource)).status is None
    assert "sweep" not in world.server.calls
    world.annotate(resource, sweep="now, please")
    outcome = await world.look(resource)
    assert [event.reason for event in outcome.events] == ["ExpiryRepaired"]
    assert not held.wrong
    assert "dryRun" not in resource["status"]["lastSweep"]
    world.annotate(resource)
    await world.look(resource)
    assert "request" not in resource["status"]["lastSweep"]
    world.annotate(resource, sweep="dry-run")
    outcome = await world.look(resource)
    assert "nothing was wrong" in outcome.events[0].message
    world.annotate(resource, sweep="what?")
    assert "sweep" not in [event.reason for event in (await world.look(resource)).events]


@pytest.mark.asyncio
async def test_a_rollout_is_followed_by_a_sweep(world: World):
    _, resource = await ready_pair(world)
    filled(world, 10)
    world.server.calls.clear()
    world.edit(resource, retention={"ttl": "2h"})
    await world.settle(resource)
    assert world.server.calls.count("sweep") == 1
    assert world.server.calls.count("measure") == 1  # for the size of the index


@pytest.mark.asyncio
async def test_a_sweep_over_a_restart_of_the_server_counts_nobody_twice(world: World):
    _, resource = await ready_pair(world)
    filled(world, 20_000)
    world.annotate(resource, sweep="now")
    assert (await world.look(resource)).again == 0.0
    world.server.run += 1
    await world.settle(resource)
    assert world.server.usage[SUPPORT].sessions == 20_000


# Surveys


@pytest.mark.asyncio
async def test_sessions_without_an_index_entry_are_put_back_and_told(world: World):
    backend, _ = await ready_pair(world)
    world.server.memory(SUPPORT).unlisted = {"a", "b"}
    world.clock.advance(3600)
    outcome = await world.look(backend)
    assert backend["status"]["lastSweep"]["repaired"] == 2
    assert [event.reason for event in outcome.events] == ["KeysRepaired"]
    world.clock.advance(3600)
    assert "lastSweep" not in str((await world.look(backend)).events)
    assert not world.server.memory(SUPPORT).unlisted


@pytest.mark.asyncio
async def test_orphans_are_reported_when_their_number_moves_and_end_only_when_certain(world: World):
    backend, _ = await ready_pair(world)
    gone, bare, hidden = (
        MemoryAddress(*pair) for pair in (("team", "gone"), ("x", "y"), ("z", "z"))
    )
    world.hidden.add("z")
    world.server.orphans = {
        gone: Orphan(50, 2, ours=True),
        bare: Orphan(50, 50, ours=False),
        hidden: Orphan(7, 7, ours=True),
        SUPPORT: Orphan(1, 1, ours=True),
    }
    world.annotate(backend, sweep="dry-run")
    outcome = await world.look(backend)
    [event] = outcome.events
    assert (event.type, event.reason) == ("Warning", "OrphansFound")
    assert "100 keys" in event.message
    assert "team/gone, x/y" in event.message
    assert "z/z" not in event.message
    assert backend["status"]["lastSweep"]["orphans"] == 100
    world.server.expired.clear()
    for _ in range(3):
        world.clock.advance(3600)
        assert (await world.look(backend)).events == ()
    assert world.server.expired[-1] == {gone}
    world.server.orphans = {}
    world.clock.advance(3600)
    await world.look(backend)
    assert backend["status"]["lastSweep"]["orphans"] == 0


@pytest.mark.asyncio
async def test_a_survey_that_fails_is_told_once_and_taken_back_when_it_succeeds(world: World):
    observed = Failures()
    world.observe(observed)
    backend, _ = await ready_pair(world)
    world.server.scans = False
    world.clock.advance(3600)
    for faults in (1, 2):
        outcome = await world.look(backend)
        assert condition(backend, "AtRisk") is None, "it may be over in a moment"
        assert (outcome.again, observed.count) == (10.0, faults)
    [event] = (await world.look(backend)).events
    assert (event.type.value, event.reason) == ("Warning", "SurveyFailed")
    assert "PermissionDenied" in event.message
    assert ready(backend) == ("True", "Available")
    before = backend["status"]
    world.restart()
    for _ in range(3):
        outcome = await world.look(backend)
        assert (outcome.status, outcome.events) == (None, ()), "nothing is new"
    assert backend["status"] == before
    world.server.scans = True
    world.clock.advance(3600)
    await world.look(backend)
    assert condition(backend, "AtRisk") is None


class Failures(Unobserved):
    """Counts steps of surveys that failed."""

    def __init__(self) -> None:
        self.count = 0

    def survey_failed(self, backend: Named, /) -> None:
        self.count += backend == Named("platform", "shared")


# Deletions


@pytest.mark.asyncio
async def test_deletions_and_a_fresh_memory_get_on_side_by_side(world: World):
    await ready_pair(world, deletionPolicy="Delete")
    other = world.add_resource("other", deletionPolicy="Delete")
    await world.settle(other)
    bodies = [world.objects["MemoryResource", "team", "support"], other]
    for body in bodies:
        held = world.server.memory(MemoryAddress("team", body["metadata"]["name"]))
        held.sessions.update({str(number): 1 for number in range(20_000)})
        world.delete(body)
        await world.look(body)
    world.clock.advance(5)
    for body in bodies:
        assert (await world.look(body)).again == 0.0
        message = condition(body, "Ready")["message"]
        assert " of 20000 sessions are deleted" in message
        assert not message.startswith("0 ")
    fresh = world.add_resource("fresh")
    await world.look(fresh)
    assert ready(fresh) == ("True", "Available")
    for body in bodies:
        assert (await world.settle(body)).again is None
    assert set(world.server.memories) == {MemoryAddress("team", "fresh")}


@pytest.mark.asyncio
@pytest.mark.parametrize("policy", ["Delete", "Retain", "Nonsense"])
async def test_a_memory_whose_spec_cannot_be_read_is_let_go_all_the_same(world: World, policy: str):
    _, resource = await ready_pair(
        world, deletionPolicy=policy if policy != "Nonsense" else "Retain"
    )
    filled(world, 3)
    world.edit(resource, retention={"ttl": "0s"}, deletionPolicy=policy)
    await world.look(resource)
    assert ready(resource) == ("False", "InvalidSpec")
    world.delete(resource)
    held = world.server.memory(SUPPORT)
    assert (await world.settle(resource)).again is None
    if policy == "Delete":
        assert len(held.buried) == 3
        assert SUPPORT not in world.server.memories
    else:
        assert held.released


@pytest.mark.asyncio
async def test_a_backend_whose_namespace_goes_waits_for_deletions_that_get_on(world: World):
    backend, resource = await ready_pair(world, deletionPolicy="Delete")
    retained = world.add_resource("retained")
    await world.settle(retained)
    resource["metadata"]["namespace"] = "team"
    filled(world, 20_000)
    for name in ("platform", "team"):
        world.namespaces[name] = Namespace(name, f"{name}-1", {}, terminating=True)
    world.delete(backend)
    world.delete(resource)
    outcome = await world.look(backend)
    assert outcome.blocked
    assert ready(backend) == ("False", "InUse")
    assert "retained" not in condition(backend, "Ready")["message"]
    await world.settle(resource)
    assert (await world.look(backend)).again is None


@pytest.mark.asyncio
async def test_a_deletion_gets_on_without_the_secret_of_a_backend_that_goes(world: World):
    world.add_secret(username="me", password="open")
    backend, resource = (
        world.add_backend(authRef={"name": "login"}),
        world.add_resource(deletionPolicy="Delete"),
    )
    await world.look(backend)
    await world.settle(resource)
    held = filled(world, 10)
    world.namespaces["platform"] = Namespace("platform", "platform-1", {}, terminating=True)
    world.secrets.clear()
    for body in (backend, resource):
        world.delete(body)
        body["metadata"]["generation"] += 1
    assert (await world.look(backend)).blocked
    await world.settle(resource)
    assert len(held.buried) == 10
    assert (await world.look(backend)).again is None


@pytest.mark.asyncio
async def test_it_does_not_wait_for_one_that_does_not_get_on(world: World):
    backend, resource = await ready_pair(world, deletionPolicy="Delete")
    filled(world, 10)
    world.namespaces["platform"] = Namespace("platform", "platform-1", {}, terminating=True)
    world.annotate(resource, paused="true")
    world.delete(backend)
    world.delete(resource)
    began = moment(backend["metadata"]["deletionTimestamp"])
    while (await world.look(backend)).again is not None:
        world.clock.advance(10)
        await world.look(resource)
    assert (world.clock.now() - began).total_seconds() == pytest.approx(120, abs=1)


@pytest.mark.asyncio
async def test_a_deletion_buries_also_what_a_tenant_took_out_of_the_index(world: World):
    _, resource = await ready_pair(world, deletionPolicy="Delete")
    held = filled(world, 30)
    world.server.hidden = {"s00003", "s00004"}
    world.delete(resource)
    await world.settle(resource)
    assert len(held.buried) == 30
    assert SUPPORT not in world.server.memories


@pytest.mark.asyncio
async def test_memories_that_are_deleted_together_share_the_walk_over_all_keys(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("holdfast_operator.services.deletions.BUDGET", 0.0)
    await world.look(world.add_backend())
    bodies = [world.add_resource(f"m-{number}", deletionPolicy="Delete") for number in range(20)]
    for body in bodies:
        await world.settle(body)
        held = world.server.memory(MemoryAddress("team", body["metadata"]["name"]))
        held.sessions.update({str(number): 1 for number in range(10)})
        world.delete(body)
    world.server.hidden = {str(number) for number in range(10)}
    world.server.strangers = 500 * MOST  # a session costs a twentieth: 25 steps
    while bodies:
        bodies = [body for body in bodies if (await world.look(body)).again is not None]
        world.clock.advance(5.001)
    assert world.server.memories == {}
    # One walk for whoever came first, and one for all others; each for itself would be twenty.
    assert 2 * 25 <= world.server.calls.count("bury_hidden") <= 3 * 25


@pytest.mark.asyncio
async def test_a_deletion_that_is_called_off_buries_nothing_hidden(world: World):
    _, resource = await ready_pair(world, deletionPolicy="Delete")
    held = filled(world, 3)
    world.server.hidden = set(held.sessions)
    world.delete(resource)
    await world.look(resource)
    world.clock.advance(5)
    await world.look(resource)
    world.edit(resource, deletionPolicy="Retain")
    world.clock.advance(5.001)
    await world.settle(resource)
    assert len(held.sessions) == 3
    assert held.released
    assert "bury_hidden" not in world.server.calls


@pytest.mark.asyncio
async def test_a_large_memory_is_let_go_in_steps_and_holds_nobody_up(world: World):
    _, resource = await ready_pair(world)
    held = filled(world, 100_000)
    other = world.add_resource("other")
    world.delete(resource)
    outcome = await world.look(resource)
    assert (outcome.again, held.released) == (0.0, False)
    assert world.clock.monotonic() < 2.0
    await world.look(other)
    assert ready(other) == ("True", "Available")
    outcome = await world.settle(resource)
    assert [event.reason for event in outcome.events] == ["SessionsRetained"]
    assert held.released


@pytest.mark.asyncio
async def test_a_deletion_where_keys_cannot_be_looked_at_ends_and_says_what_it_leaves(world: World):
    _, resource = await ready_pair(world, deletionPolicy="Delete")
    filled(world, 3)
    world.server.scans = False
    world.delete(resource)
    [event] = (await world.settle(resource)).events
    assert (event.reason, event.type.value) == ("SessionsDeleted", "Warning")
    assert event.message.startswith("3 sessions were deleted")
    assert "denies SCAN" in event.message


@pytest.mark.asyncio
async def test_who_is_restarted_every_few_minutes_sweeps_each_hour_all_the_same(world: World):
    backend, resource = await ready_pair(world)
    world.server.calls.clear()
    for _ in range(18):  # three hours
        world.restart()
        for _ in range(10):
            world.clock.advance(60)
            await world.look(backend)
            await world.settle(resource)
    for walk in ("sweep", "survey"):
        assert 3 <= world.server.calls.count(walk) <= 4, walk
