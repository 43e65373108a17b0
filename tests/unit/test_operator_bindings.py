"""MemoryBindings: users, Secrets, rotation, withdrawal and deletion, over a small world in memory."""

import dataclasses
import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import AccessDenied, StoreUnavailable
from holdfast.store.access import MOST_PASSWORDS, AccessUser, Grant, password_hash
from holdfast.values import MemoryAddress
from holdfast_operator.services.outcome import Outcome
from holdfast_operator.services.passwords import (
    FORMER,
    HASH,
    MADE,
    UNTIL,
    Rules,
    next_password,
    noted_hash,
    read_password,
)
from holdfast_operator.services.ports import ClusterConflict
from tests.harness.binding_world import NAME, BindingWorld, memory
from tests.harness.operator_world import condition, ready, ready_pair

SUPPORT = Grant(MemoryAddress("team", "support"))
OFFER = {"holdfast.dev/credentials": "binding"}
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest_asyncio.fixture
async def world() -> BindingWorld:
    """A world with a backend and a memory, both Ready."""
    world = BindingWorld()
    await ready_pair(world)
    return world


def backend_of(world: BindingWorld, name: str = "shared") -> dict[str, Any]:
    return world.objects["MemoryBackend", "platform", name]


def support_of(world: BindingWorld, name: str = "support") -> dict[str, Any]:
    return world.objects["MemoryResource", "team", name]


async def bound(world: BindingWorld, **spec: Any) -> dict[str, Any]:
    binding = world.add_binding(**spec)
    await world.look(binding)
    assert ready(binding) == ("True", "Available"), binding["status"]
    return binding


def credentials_of(binding: dict[str, Any]) -> tuple[str, str]:
    found = condition(binding, "CredentialsReady")
    return (found["status"], found["reason"]) if found is not None else ("", "")


def reasons(outcome: Outcome) -> list[str]:
    return [event.reason for event in outcome.events]


@pytest.mark.asyncio
async def test_a_binding_gets_a_user_and_a_secret(world: BindingWorld):
    binding = await bound(world)
    assert credentials_of(binding) == ("True", "Issued")
    user = world.user()
    assert user is not None
    assert user.grants == (SUPPORT,)
    assert user.passwords == (password_hash(world.entry("password")),)
    assert user.name.startswith("am:")
    assert ":team:agent:" in user.name
    secret = world.secrets["team", NAME]
    assert (secret.type, secret.controller) == (
        "servicebinding.io/holdfast",
        binding["metadata"]["uid"],
    )
    assert binding["status"]["binding"] == {"name": NAME}
    assert binding["status"]["rotation"] == {
        "lastTime": world.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    }
    before = list(world.writes)
    outcome = await world.look(binding)
    assert (outcome.status, outcome.events, world.writes) == (None, (), before)


@pytest.mark.asyncio
async def test_the_secret_has_the_entries_that_clients_read(world: BindingWorld):
    world.add_resource("notes", keyTemplate="tenant:{tenant}:user:{user}")
    await world.settle(support_of(world, "notes"))
    memories = [memory("support"), memory("notes", "ReadOnly", tenant="acme")]
    await bound(world, memories=memories)
    data = {name: text.decode() for name, text in world.secrets["team", NAME].data.items()}
    user, password = data.pop("username"), data.pop("password")
    assert data.pop("uri") == f"redis://{user.replace(':', '%3A')}:{password}@redis:6379/0"
    assert json.loads(data.pop("memories")) == [
        {"name": "support", "prefix": "mem:{team/support", "access": "ReadWrite", "fields": {}},
        {
            "name": "notes",
            "prefix": "mem:{team/notes",
            "access": "ReadOnly",
            "fields": {"tenant": "acme"},
        },
    ]
    assert data.pop("scripts-version")
    assert data == {
        "type": "holdfast",
        "provider": "valkey",
        "mode": "standalone",
        "endpoints": "redis:6379",
        "host": "redis",
        "port": "6379",
        "database": "0",
        "client-id": "team/agent",
    }
    found = world.user()
    assert found is not None
    assert found.grants == (
        SUPPORT,
        Grant(MemoryAddress("team", "notes"), read_only=True, fixed="tenant:acme:user:"),
    )


@pytest.mark.asyncio
async def test_clients_of_a_binding_ask_as_many_replicas_as_the_backend_says(world: BindingWorld):
    binding = await bound(world)
    assert not {"replicas", "wait"} & set(world.secrets["team", NAME].data)
    backend = world.objects["MemoryBackend", "platform", "shared"]
    world.edit(backend, durability={"replicas": 2, "timeout": "250ms"})
    await world.settle(binding)
    assert (world.entry("replicas"), world.entry("wait")) == ("2", "250ms")


@pytest.mark.asyncio
async def test_fields_that_are_not_the_first_ones_grant_nothing(world: BindingWorld):
    world.add_resource("notes", keyTemplate="tenant:{tenant}:user:{user}")
    await world.settle(support_of(world, "notes"))
    binding = world.add_binding(memories=[memory("support"), memory("notes", user="42")])
    await world.look(binding)
    assert ready(binding) == ("False", "FieldsNotPrefix")
    assert credentials_of(binding) == ("False", "FieldsNotPrefix")
    stalled = condition(binding, "Stalled")
    assert stalled is not None
    assert "tenant, user" in stalled["message"]
    assert "42" not in json.dumps(binding["status"])
    user = world.user()
    assert user is not None
    assert user.grants == (SUPPORT,), "the other memory is served"


# What is not there, or not ready


@pytest.mark.asyncio
async def test_a_folder_of_manifests_tells_nothing_before_it_is_settled(world: BindingWorld):
    binding = world.add_binding(memories=[memory("later")])
    made = world.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    binding["metadata"]["creationTimestamp"] = made
    outcome = await world.look(binding)
    assert (outcome.status, outcome.again) == (None, 1.0)
    world.clock.advance(6)
    await world.look(binding)
    assert ready(binding) == ("False", "MemoryNotFound")
    world.add_resource("later")
    await world.settle(support_of(world, "later"))
    await world.look(binding)
    assert ready(binding) == ("True", "Available")


@pytest.mark.asyncio
async def test_one_memory_of_several_may_be_missing(world: BindingWorld):
    binding = world.add_binding(memories=[memory("support"), memory("later")])
    outcome = await world.look(binding)
    assert ready(binding) == ("False", "MemoryNotFound")
    assert credentials_of(binding) == ("True", "Issued")
    assert outcome.again is None, "it is woken"
    assert world.works()


@pytest.mark.asyncio
async def test_memories_on_several_backends_are_refused(world: BindingWorld):
    binding = await bound(world)
    other = world.add_backend("other")
    await world.look(other)
    ref = {"name": "other", "namespace": "platform"}
    await world.settle(world.add_resource("notes", backendRef=ref))
    world.edit(binding, memories=[memory("support"), memory("notes")])
    await world.look(binding)
    assert ready(binding) == ("False", "SeveralBackends")
    found = condition(binding, "Ready")
    assert found is not None
    assert "platform/other, platform/shared" in found["message"]
    assert world.access.held == {}, "no access is left that the object does not describe"


@pytest.mark.asyncio
async def test_a_backend_that_is_not_ready_takes_nothing_away(world: BindingWorld):
    binding = await bound(world)
    server = world.server
    server.fault = StoreUnavailable("gone")
    await world.look(backend_of(world))
    outcome = await world.look(binding)
    assert ready(binding) == ("False", "BackendNotReady")
    assert credentials_of(binding) == ("True", "Issued")
    assert outcome.again is None, "it is woken"
    assert world.works()


@pytest.mark.asyncio
async def test_a_server_that_fails_once_is_the_backends_to_tell(world: BindingWorld):
    binding = await bound(world)
    world.access.away = True
    for _ in range(3):
        outcome = await world.look(binding)
        assert (outcome.status, outcome.again) == (None, 1.0)
        assert outcome.suspect == ("platform", "shared")
    await world.look(binding)
    assert ready(binding) == ("False", "BackendUnreachable")
    assert credentials_of(binding) == ("True", "Issued")
    world.access.away = False
    await world.look(binding)
    assert ready(binding) == ("True", "Available")


@pytest.mark.asyncio
async def test_a_server_that_lets_nobody_make_users_is_named(world: BindingWorld):
    world.access.refused = True
    binding = world.add_binding()
    await world.look(binding)
    assert ready(binding) == ("False", "PermissionDenied")
    found = condition(binding, "Ready")
    assert found is not None
    assert "ProvidedCredentials" in found["message"]
    assert world.secrets == {}


@pytest.mark.asyncio
async def test_a_server_that_lets_anybody_in_is_named(world: BindingWorld):
    binding = await bound(world)
    told = condition(binding, "CredentialsReady")
    assert told is not None
    assert "default" not in told["message"]
    world.server.info = world.server.info._replace(default_open=True)
    backend = backend_of(world)
    await world.look(backend)
    at_risk = condition(backend, "AtRisk")
    assert at_risk is not None
    assert (at_risk["status"], at_risk["reason"]) == ("True", "DefaultUserOpen")
    await world.look(binding)
    told = condition(binding, "CredentialsReady")
    assert told is not None
    assert "until its user default is locked" in told["message"]


# Withdrawing


async def mark_not_allowed(world: BindingWorld) -> None:
    world.edit(backend_of(world), allowedNamespaces={"from": "Same"})
    await world.look(backend_of(world))


async def delete_memory(world: BindingWorld) -> None:
    world.delete(support_of(world))


async def lose_memory(world: BindingWorld) -> None:
    del world.objects["MemoryResource", "team", "support"]


async def lose_marker(world: BindingWorld) -> None:
    held = world.server.memory(SUPPORT.memory)
    assert held.owner is not None
    held.owner = held.owner._replace(cluster="another", uid="another")
    await world.look(support_of(world))


@pytest.mark.parametrize(
    ("withdraw", "reason"),
    [
        (mark_not_allowed, "BackendNotAllowed"),
        (delete_memory, "MemoryNotReady"),
        (lose_memory, "MemoryNotFound"),
        (lose_marker, "MemoryNotReady"),
    ],
)
@pytest.mark.asyncio
async def test_what_may_not_be_used_any_more_is_not_reached_any_more(
    world: BindingWorld, withdraw: Any, reason: str
):
    binding = await bound(world)
    await withdraw(world)
    await world.look(binding)
    assert ready(binding) == ("False", reason)
    assert credentials_of(binding) == ("False", reason)
    assert world.access.held == {}


@pytest.mark.asyncio
async def test_what_is_allowed_again_is_reached_with_the_same_login(world: BindingWorld):
    binding = await bound(world)
    password = world.entry("password")
    await mark_not_allowed(world)
    await world.look(binding)
    world.edit(backend_of(world), allowedNamespaces={"from": "All"})
    await world.look(backend_of(world))
    await world.look(binding)
    assert ready(binding) == ("True", "Available")
    assert world.entry("password") == password
    assert world.works()


@pytest.mark.asyncio
async def test_a_binding_that_moves_to_another_backend_leaves_no_user_behind(world: BindingWorld):
    binding = await bound(world)
    other = world.add_backend("other")
    await world.look(other)
    ref = {"name": "other", "namespace": "platform"}
    await world.settle(world.add_resource("notes", backendRef=ref))
    world.edit(binding, memories=[memory("notes")])
    await world.look(binding)
    assert world.access.revoked == [world.entry("username")]  # the same server here: made again
    assert world.works()
    assert world.secrets["team", NAME].annotations["holdfast.dev/backends"] == "platform/other"


# Passwords


@pytest.mark.asyncio
async def test_a_rotation_has_two_passwords_until_grace_ends(world: BindingWorld):
    binding = await bound(world)
    first = world.entry("password")
    world.annotate(binding, rotate_requested_at="today")
    outcome = await world.look(binding)
    second = world.entry("password")
    assert second != first
    assert "PasswordChanged" in reasons(outcome)
    assert credentials_of(binding) == ("True", "Rotating")
    reconciling = condition(binding, "Reconciling")
    assert reconciling is not None
    assert reconciling["reason"] == "Rotating"
    assert binding["status"]["rotation"]["lastHandledRequest"] == "today"
    user = world.user()
    assert user is not None
    assert set(user.passwords) == {password_hash(first), password_hash(second)}
    # Both were known to the server before the Secret said so.
    assert world.access.log[-1].passwords == user.passwords
    world.clock.advance(9 * 60)
    assert (await world.look(binding)).status is None, "one request is one rotation"
    world.clock.advance(61)
    await world.look(binding)
    assert credentials_of(binding) == ("True", "Issued")
    assert condition(binding, "Reconciling") is None
    user = world.user()
    assert user is not None
    assert user.passwords == (password_hash(second),)


@pytest.mark.asyncio
async def test_a_password_that_is_old_enough_is_replaced(world: BindingWorld):
    binding = await bound(world, rotation={"interval": "1h", "grace": "2m"})
    first = world.entry("password")
    world.clock.advance(3599 - 1)
    await world.look(binding)
    assert world.entry("password") == first
    world.clock.advance(2)
    await world.look(binding)
    assert world.entry("password") != first
    assert credentials_of(binding) == ("True", "Rotating")


@pytest.mark.asyncio
async def test_a_longer_grace_does_not_bring_an_old_password_back(world: BindingWorld):
    binding = await bound(world)
    world.annotate(binding, rotate_requested_at="1")
    await world.look(binding)
    world.clock.advance(601)
    world.edit(binding, rotation={"interval": "720h", "grace": "24h"})
    await world.look(binding)
    user = world.user()
    assert user is not None
    assert len(user.passwords) == 1


@pytest.mark.asyncio
async def test_a_request_during_grace_is_not_put_off(world: BindingWorld):
    binding = await bound(world)
    seen = [world.entry("password")]
    for request in ("1", "2"):
        world.annotate(binding, rotate_requested_at=request)
        await world.look(binding)
        seen.append(world.entry("password"))
    user = world.user()
    assert user is not None
    assert set(user.passwords) == {password_hash(text) for text in seen[1:]}


@pytest.mark.asyncio
async def test_a_server_that_forgot_everything_gets_both_passwords_again(world: BindingWorld):
    binding = await bound(world)
    world.annotate(binding, rotate_requested_at="1")
    await world.look(binding)
    before = dict(world.access.held)
    world.access.held.clear()
    outcome = await world.look(binding)
    assert world.access.held == before
    assert reasons(outcome) == ["AccessApplied"]


@pytest.mark.asyncio
async def test_a_user_that_somebody_edited_is_put_right(world: BindingWorld):
    binding = await bound(world)
    [user] = world.access.held.values()
    wide = (Grant(MemoryAddress("other", "secret")),)
    world.access.held[user.name] = AccessUser(user.name, wide, user.passwords)
    await world.look(binding)
    assert world.access.held == {user.name: user}


@pytest.mark.asyncio
async def test_a_secret_that_is_gone_is_made_again_for_the_same_user(world: BindingWorld):
    binding = await bound(world)
    [name], first = list(world.access.held), world.entry("password")
    del world.secrets["team", NAME]
    await world.look(binding)
    assert world.entry("username") == name
    assert world.entry("password") != first
    user = world.user()
    assert user is not None
    assert user.passwords == (password_hash(world.entry("password")),), "the old one is void"


@pytest.mark.asyncio
async def test_an_edited_password_is_replaced_and_the_one_before_is_taken_meanwhile(
    world: BindingWorld,
):
    binding = await bound(world)
    first = world.entry("password")
    world.edit_secret(password="123456")
    await world.look(binding)
    second = world.entry("password")
    assert second not in {first, "123456"}
    user = world.user()
    assert user is not None
    assert set(user.passwords) == {password_hash(first), password_hash(second)}


@pytest.mark.asyncio
async def test_other_edits_of_the_secret_are_undone_without_a_rotation(world: BindingWorld):
    binding = await bound(world)
    data = dict(world.secrets["team", NAME].data)
    world.edit_secret(host="elsewhere", added="x")
    await world.look(binding)
    assert world.secrets["team", NAME].data == data


@pytest.mark.asyncio
async def test_a_sealed_secret_is_made_anew(world: BindingWorld):
    binding = await bound(world)
    password = world.entry("password")
    world.edit_secret(host="elsewhere")
    sealed = dataclasses.replace(world.secrets["team", NAME], immutable=True)
    world.secrets["team", NAME] = sealed
    await world.look(binding)
    assert (world.entry("host"), world.entry("password")) == ("redis", password)
    assert world.writes[-2:] == [("delete", NAME), ("create", NAME)]


@pytest.mark.asyncio
async def test_a_secret_that_changes_meanwhile_is_looked_at_again(
    world: BindingWorld, monkeypatch: pytest.MonkeyPatch
):
    binding = await bound(world)
    first, put = world.entry("password"), world.access.put

    async def put_late(user: AccessUser) -> bool:
        changed = await put(user)
        world.edit_secret(host="elsewhere")
        return changed

    world.annotate(binding, rotate_requested_at="1")
    with monkeypatch.context() as patched:
        patched.setattr(world.access, "put", put_late)
        with pytest.raises(ClusterConflict):
            await world.look(binding)
    assert world.entry("password") == first
    assert world.works()
    await world.look(binding)
    user = world.user()
    assert user is not None
    assert user.passwords == (password_hash(world.entry("password")), password_hash(first))


STEPS = st.lists(
    st.tuples(st.integers(0, 4000), st.sampled_from(["", "a", "b"]), st.booleans()), max_size=12
)


@given(STEPS)
def test_a_password_is_taken_from_before_it_is_told_until_grace_ends(
    steps: list[tuple[int, str, bool]],
):
    """Whatever is asked for and whenever, through the notes of a Secret, with looks that are lost."""
    interval, grace = timedelta(hours=1), timedelta(minutes=10)
    numbers, now = itertools.count(), datetime(2026, 1, 1, tzinfo=UTC)

    def make() -> str:
        return f"{next(numbers):043d}"

    told = next_password(None, Rules(interval, grace), now=now, make=make)
    replaced: tuple[str, datetime] | None = None
    for seconds, request, lost in steps:
        now += timedelta(seconds=seconds)
        notes, data = told.notes(), {"password": told.text.encode()}
        read = read_password(data, notes, now)
        assert read == told
        new = next_password(read, Rules(interval, grace, request), now=now, make=make)
        taken = new.hashes(now)
        assert len(taken) <= MOST_PASSWORDS
        assert password_hash(told.text) in taken, "what the Secret says now is taken meanwhile"
        if new is read or lost:  # lost: the process ended before it wrote the Secret
            taken = told.hashes(now)
            in_grace = replaced is not None and now < replaced[1] + grace
            assert taken[1:] == ((replaced[0],) if in_grace and replaced else ())
            continue
        assert new.text != told.text
        replaced, told = (password_hash(told.text), now), new


@given(
    st.binary(max_size=60), st.dictionaries(st.sampled_from([HASH, MADE, FORMER, UNTIL]), st.text())
)
def test_whatever_is_in_a_secret_is_read_or_replaced(password: bytes, notes: dict[str, str]):
    read = read_password({"password": password}, notes, NOON)
    assert read is None
    made = next_password(
        read,
        Rules(timedelta(hours=1), timedelta(minutes=10)),
        now=NOON,
        lost=noted_hash(notes),
        make=lambda: "x" * 43,
    )
    AccessUser("am:00000000:a:b:00000000", (SUPPORT,), made.hashes(NOON))


# Secrets of others


@pytest.mark.parametrize("controller", ["", "another-uid"])
@pytest.mark.asyncio
async def test_a_secret_that_is_not_ours_is_never_touched(world: BindingWorld, controller: str):
    world.put_secret(NAME, controller=controller, password="theirs")
    there = world.secrets["team", NAME]
    binding = world.add_binding()
    await world.look(binding)
    assert ready(binding) == ("False", "SecretNameTaken")
    assert credentials_of(binding) == ("False", "SecretNameTaken")
    assert world.access.held == {}
    world.delete(binding)
    await world.look(binding)
    assert world.secrets["team", NAME] is there


@pytest.mark.asyncio
async def test_without_permission_nothing_is_made_and_the_command_is_told(world: BindingWorld):
    world.forbidden.add("team")
    binding = world.add_binding()
    await world.look(binding)
    assert credentials_of(binding) == ("False", "NoPermission")
    found = condition(binding, "CredentialsReady")
    assert found is not None
    assert "create role" in found["message"]
    assert "--serviceaccount=agents:memory-operator" in found["message"], "whoever we are here"
    assert world.access.held == {}
    world.forbidden.clear()
    await world.look(binding)
    assert ready(binding) == ("True", "Available")


@pytest.mark.asyncio
async def test_a_namespace_that_goes_away_gets_no_secret(world: BindingWorld):
    binding = world.add_binding()
    world.namespaces["team"] = dataclasses.replace(world.namespaces["team"], terminating=True)
    outcome = await world.look(binding)
    assert (outcome.status, world.writes) == (None, [])


@pytest.mark.asyncio
async def test_a_paused_binding_is_left_alone(world: BindingWorld):
    binding = await bound(world)
    world.annotate(binding, paused="true", rotate_requested_at="1")
    password = world.entry("password")
    await world.look(binding)
    assert condition(binding, "Paused") is not None
    assert world.entry("password") == password


# Deletion


@pytest.mark.asyncio
async def test_a_deleted_binding_takes_user_and_secret_with_it(world: BindingWorld):
    binding = await bound(world)
    world.delete(binding)
    outcome = await world.look(binding)
    assert outcome.again is None
    assert world.access.held == {}
    assert ("team", NAME) not in world.secrets


@pytest.mark.asyncio
async def test_a_server_that_is_away_holds_a_deletion_for_two_minutes(world: BindingWorld):
    binding = await bound(world)
    world.delete(binding)
    world.access.away = True
    outcome = await world.look(binding)
    assert (outcome.blocked, outcome.again) == (True, 2.0)
    assert ready(binding) == ("False", "DeletionBlocked")
    world.clock.advance(119)
    assert (await world.look(binding)).blocked
    world.clock.advance(2)
    outcome = await world.look(binding)
    assert (outcome.again, reasons(outcome)) == (None, ["RevocationOwed"])
    assert ("team", NAME) not in world.secrets
    assert len(world.access.held) == 1
    world.access.away = False
    world.clock.advance(60)
    await world.look(backend_of(world))
    assert world.access.held == {}, "what was owed is done"


@pytest.mark.asyncio
async def test_a_binding_whose_backend_is_gone_is_let_go(world: BindingWorld):
    binding = await bound(world)
    del world.objects["MemoryBackend", "platform", "shared"]
    world.delete(binding)
    assert (await world.look(binding)).again is None


@pytest.mark.asyncio
async def test_a_binding_that_never_gave_anything_is_let_go_at_once(world: BindingWorld):
    world.access.away = True
    binding = world.add_binding()
    await world.look(binding)
    world.delete(binding)
    assert (await world.look(binding)).again is None


# The sweep of users


def user(name: str) -> AccessUser:
    return AccessUser(name, (SUPPORT,), (password_hash("x"),))


@pytest.mark.asyncio
async def test_the_sweep_removes_users_of_this_cluster_without_a_binding(world: BindingWorld):
    binding = await bound(world)
    [ours] = world.access.held
    cluster = ours.split(":")[1]
    world.hidden.add("elsewhere")
    kept = [
        ours,
        "am:0badcafe:team:agent:00000000",  # of another cluster
        f"am:{cluster}:elsewhere:agent:00000000",  # of a namespace that somebody else serves
    ]
    stray = [
        f"am:{cluster}:team:agent:00000000",  # an earlier binding of that name
        f"am:{cluster}:team:gone:00000000",
    ]
    for name in [*kept[1:], *stray]:
        world.access.held[name] = user(name)
    await world.look(backend_of(world))
    assert set(world.access.held) == {*kept, *stray}, "swept once a minute"
    world.clock.advance(60)
    await world.look(backend_of(world))
    assert set(world.access.held) == set(kept)
    assert binding["status"]["conditions"][0]["status"] == "True"


@pytest.mark.asyncio
async def test_a_sweep_that_fails_is_no_fault_of_the_backend(world: BindingWorld):
    world.clock.advance(60)
    world.access.refused = True
    await world.look(backend_of(world))
    assert ready(backend_of(world)) == ("True", "Available")


# Credentials that others make


@pytest.mark.asyncio
async def test_provided_credentials_are_tried_and_handed_on(world: BindingWorld):
    world.edit(backend_of(world), access={"mode": "ProvidedCredentials"})
    await world.look(backend_of(world))
    binding = world.add_binding()
    await world.look(binding)
    assert ready(binding) == ("False", "InvalidSpec")
    assert binding["status"]["requiredACL"] == "-@all 1"
    world.edit(binding, credentialsRef={"name": "given"})
    for reason, labels in (("SecretMissing", None), ("SecretNotOffered", {}), ("", OFFER)):
        if labels is not None:
            world.put_secret("given", labels=labels, username="u", password="p")
        world.access.findings = ("It may not EVALSHA.",)
        await world.look(binding)
        assert credentials_of(binding) == ("False", reason or "AccessDiffers")
        assert ("team", NAME) not in world.secrets
    world.access.findings = ()
    await world.look(binding)
    assert ready(binding) == ("True", "Available")
    assert credentials_of(binding) == ("True", "Provided")
    assert (world.entry("username"), world.entry("password")) == ("u", "p")
    assert world.access.held == {}, "no user is made"
    assert binding["status"]["requiredACL"] == "-@all 1"
    # What it gave on can only be kept from others.
    world.access.refused = True
    await mark_not_allowed(world)
    await world.look(binding)
    assert credentials_of(binding) == ("False", "BackendNotAllowed")
    assert ("team", NAME) not in world.secrets
    world.delete(binding)
    assert (await world.look(binding)).again is None, "there is no user to wait for"


@pytest.mark.asyncio
async def test_the_operators_own_login_is_not_a_bindings_to_hand_on(world: BindingWorld):
    world.edit(backend_of(world), access={"mode": "ProvidedCredentials"})
    await world.look(backend_of(world))
    label = {"holdfast.dev/credentials": "backend"}
    world.put_secret("admin", labels=label, username="default", password="p")
    binding = world.add_binding(credentialsRef={"name": "admin"})
    await world.look(binding)
    assert credentials_of(binding) == ("False", "SecretNotOffered")


@pytest.mark.asyncio
async def test_a_login_that_the_server_refuses_is_the_bindings_fault(
    world: BindingWorld, monkeypatch: pytest.MonkeyPatch
):
    world.edit(backend_of(world), access={"mode": "ProvidedCredentials"})
    await world.look(backend_of(world))
    world.put_secret("given", labels=OFFER, username="u", password="wrong\n")
    binding = world.add_binding(credentialsRef={"name": "given"})

    async def refused(*_: object) -> tuple[str, ...]:
        raise AccessDenied("no")

    monkeypatch.setattr(world.access, "probe", refused)
    outcome = await world.look(binding)
    assert credentials_of(binding) == ("False", "AuthenticationFailed")
    found = condition(binding, "Ready")
    assert found is not None
    assert found["message"].endswith("ends in a line break, which counts: write it without.")
    assert outcome.suspect is None


@pytest.mark.asyncio
async def test_a_shared_login_is_handed_on_only_where_that_is_accepted(world: BindingWorld):
    binding = await bound(world)
    world.add_secret("login", username="all", password="hands")
    shared = {"mode": "Shared", "acknowledgeNoIsolation": True}
    world.edit(backend_of(world), access=shared, authRef={"name": "login"})
    await world.look(backend_of(world))
    await world.look(binding)
    assert credentials_of(binding) == ("True", "Shared")
    assert (world.entry("username"), world.entry("password")) == ("all", "hands")
    assert world.access.held == {}, "the user of before is gone"
    world.edit(backend_of(world), access={"mode": "ManagedACL"})
    await world.look(backend_of(world))
    await world.look(binding)
    assert credentials_of(binding) == ("True", "Issued")
    assert world.entry("password") != "hands"
    assert world.works()


# A process that dies


async def first_issue(world: BindingWorld) -> dict[str, Any]:
    return world.add_binding()


async def asked_rotation(world: BindingWorld) -> dict[str, Any]:
    binding = await bound(world)
    world.annotate(binding, rotate_requested_at="1")
    return binding


async def end_of_grace(world: BindingWorld) -> dict[str, Any]:
    binding = await asked_rotation(world)
    await world.look(binding)
    world.clock.advance(601)
    return binding


async def edited_secret(world: BindingWorld) -> dict[str, Any]:
    binding = await bound(world)
    world.edit_secret(password="123456", host="elsewhere")
    return binding


async def lost_secret(world: BindingWorld) -> dict[str, Any]:
    binding = await bound(world)
    del world.secrets["team", NAME]
    return binding


async def moved(world: BindingWorld) -> dict[str, Any]:
    binding = await bound(world)
    await world.look(world.add_backend("other"))
    ref = {"name": "other", "namespace": "platform"}
    await world.settle(world.add_resource("notes", backendRef=ref))
    world.edit(binding, memories=[memory("notes")])
    return binding


@pytest.mark.parametrize(
    "begin", [first_issue, asked_rotation, end_of_grace, edited_secret, lost_secret, moved]
)
@pytest.mark.asyncio
async def test_killed_at_any_border_of_a_call_it_goes_on_from_what_it_finds(begin: Any):
    """And whoever holds what the Secret says is let in at every moment, once it said anything."""
    borders = 0
    while True:
        world = BindingWorld()
        await ready_pair(world)
        binding = await begin(world)
        before = world.entry("password") if ("team", NAME) in world.secrets else ""
        if not await world.look_and_die(binding, borders):
            break
        borders += 1
        if begin in {first_issue, asked_rotation, end_of_grace} and ("team", NAME) in world.secrets:
            assert world.works(), borders
        await world.look(binding)
        await world.look(binding)
        assert ready(binding) == ("True", "Available")
        assert world.works(), borders
        found = world.user()
        assert found is not None
        own = password_hash(world.entry("password"))
        rotating = credentials_of(binding)[1] == "Rotating"
        assert (len(found.passwords) == 2) == rotating
        if begin is asked_rotation:
            assert set(found.passwords) == {own, password_hash(before)}
            assert binding["status"]["rotation"]["lastHandledRequest"] == "1"
            assert [verb for verb, _ in world.writes] == ["create", "replace"], "one rotation"
        if begin is end_of_grace:
            assert found.passwords == (own,)
        assert len(world.access.held) == 1
    assert borders >= 3


@pytest.mark.asyncio
async def test_killed_while_it_lets_go_nothing_is_left():
    borders = 0
    while True:
        world = BindingWorld()
        await ready_pair(world)
        binding = await bound(world)
        world.delete(binding)
        if not await world.look_and_die(binding, borders):
            break
        borders += 1
        await world.look(binding)
        assert world.access.held == {}
        assert ("team", NAME) not in world.secrets
    assert borders >= 4


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "tenants", [{"requireQuotas": ["Bytes"]}, {"perNamespace": {"resources": 1}}]
)
async def test_new_guard_rails_of_a_backend_cut_off_nobody_who_works(
    world: BindingWorld, tenants: dict[str, Any]
):
    """One edit of the backend's owner would have closed the connections of every tenant at once."""
    world.add_resource("older")
    support_of(world)["metadata"]["creationTimestamp"] = "2026-01-01T00:00:01Z"
    binding = await bound(world)
    world.edit(backend_of(world), tenants=tenants)
    await world.look(backend_of(world))
    for _ in range(5):
        await world.look(support_of(world))
    assert ready(support_of(world))[0] == "False"
    await world.look(binding)
    assert ready(binding) == ("False", "MemoryNotReady")
    assert credentials_of(binding) == ("True", "Issued")
    assert world.user() is not None
    assert world.user().grants == (SUPPORT,)  # type: ignore[union-attr]


@pytest.mark.asyncio
async def test_who_may_only_read_is_told_that_reads_keep_nothing_alive(world: BindingWorld):
    read_only = [memory("support", access="ReadOnly")]
    binding = await bound(world, memories=read_only)
    assert condition(binding, "NotInForce") is None, "writes refresh"
    world.edit(support_of(world), retention={"ttl": "24h", "refreshOn": ["Read"]})
    [event] = (await world.look(binding)).events
    assert (event.type.value, event.reason) == ("Warning", "ReadsDoNotRefresh")
    found = condition(binding, "NotInForce")
    assert found is not None
    assert (found["status"], found["reason"]) == ("True", "ReadsDoNotRefresh")
    assert "refreshOn of support" in found["message"]
    outcome = await world.look(binding)
    assert (outcome.events, outcome.status) == ((), None)
    world.edit(binding, memories=[memory("support")])
    await world.look(binding)
    assert condition(binding, "NotInForce") is None


@pytest.mark.asyncio
async def test_a_memory_whose_stored_spec_cannot_be_read_keeps_its_users(world: BindingWorld):
    binding = await bound(world)
    before = world.access.held.copy()
    assert before
    stored = support_of(world)
    world.edit(stored, limits={"of": "another version"})
    await world.look(stored)
    assert ready(stored) == ("False", "InvalidSpec")
    await world.look(binding)
    assert ready(binding)[0] == "False"
    assert "InvalidSpec" in str(condition(binding, "Ready"))
    assert world.access.held == before
    assert world.secrets["team", "agent-holdfast"].data
    other = world.add_binding("other")
    await world.look(other)
    assert ready(other)[0] == "False"
    assert len(world.access.held) == 2, "what is granted follows the template, which cannot change"
