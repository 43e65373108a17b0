"""Secrets of bindings as somebody left them, and bindings that move to where nothing is Ready yet."""

import dataclasses
from typing import Any

import pytest
import pytest_asyncio

from holdfast_operator.services.passwords import MADE, REQUEST, UNTIL
from tests.harness.binding_world import NAME, BindingWorld, memory
from tests.harness.operator_world import condition, ready, ready_pair

BACKENDS = "holdfast.dev/backends"


@pytest_asyncio.fixture
async def world() -> BindingWorld:
    """A world with a backend and a memory, both Ready."""
    world = BindingWorld()
    await ready_pair(world)
    return world


async def bound(world: BindingWorld, **spec: Any) -> dict[str, Any]:
    binding = world.add_binding(**spec)
    await world.look(binding)
    assert ready(binding) == ("True", "Available"), binding["status"]
    return binding


def note(world: BindingWorld, **changes: Any) -> None:
    """Edit the Secret of the binding, as people do."""
    there = world.secrets["team", NAME]
    version = str(next(world.versions))
    world.secrets["team", NAME] = dataclasses.replace(there, version=version, **changes)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (MADE, "9999-12-31T23:59:59Z"),
        (MADE, "0001-01-01T00:00:00+23:59"),
        (MADE, "9999-12-31T23:59:59-23:59"),
        (MADE, "no time at all"),
        (UNTIL, "9999-12-31T23:59:59-23:59"),
        (UNTIL, "0001-01-01T00:00:00+23:59"),
        (REQUEST, "x" * 1000),
    ],
)
@pytest.mark.asyncio
async def test_whatever_somebody_notes_on_a_secret_its_binding_is_looked_after(
    world: BindingWorld, name: str, text: str
):
    binding = await bound(world)
    world.annotate(binding, rotate_requested_at="today")
    await world.look(binding)
    note(world, annotations={**world.secrets["team", NAME].annotations, name: text})
    await world.look(binding)
    assert ready(binding) == ("True", "Available")
    assert world.works()
    world.annotate(binding, rotate_requested_at="tomorrow")
    before = world.entry("password")
    await world.look(binding)
    assert world.entry("password") != before
    assert world.works()


@pytest.mark.asyncio
async def test_a_password_that_says_it_is_of_tomorrow_grows_old_from_today(world: BindingWorld):
    binding = await bound(world, rotation={"interval": "1h", "grace": "10m"})
    first = world.entry("password")
    noted = {**world.secrets["team", NAME].annotations, MADE: "2999-01-01T00:00:00Z"}
    note(world, annotations=noted)
    await world.look(binding)
    assert world.entry("password") == first
    world.clock.advance(3600)
    await world.look(binding)
    assert world.entry("password") != first


@pytest.mark.asyncio
async def test_a_sealed_secret_whose_notes_somebody_edited_is_made_anew(world: BindingWorld):
    binding = await bound(world)
    noted = {**world.secrets["team", NAME].annotations, BACKENDS: ""}
    note(world, annotations=noted, immutable=True)
    await world.look(binding)
    assert world.writes[-2:] == [("delete", NAME), ("create", NAME)]
    assert world.secrets["team", NAME].annotations[BACKENDS] == "platform/shared"
    assert world.works()


@pytest.mark.asyncio
async def test_a_binding_that_moves_to_where_nothing_is_ready_keeps_nothing_of_before(
    world: BindingWorld,
):
    binding = await bound(world)
    world.add_backend("other")  # nobody has looked at it yet
    world.add_resource("notes", backendRef={"name": "other", "namespace": "platform"})
    world.edit(binding, memories=[memory("notes")])
    await world.look(binding)
    assert ready(binding) == ("False", "BackendNotReady")
    assert world.access.held == {}, "no access is left that the object does not describe"
    credentials = condition(binding, "CredentialsReady")
    assert credentials is None or credentials["status"] != "True"
    await world.look(world.objects["MemoryBackend", "platform", "other"])
    await world.settle(world.objects["MemoryResource", "team", "notes"])
    await world.look(binding)
    assert ready(binding) == ("True", "Available")
    assert world.works()


@pytest.mark.asyncio
async def test_an_edit_that_nobody_could_act_on_yet_is_not_said_to_be_observed(
    world: BindingWorld,
):
    """`kubectl wait --for=condition=CredentialsReady` goes by the generation of the condition."""
    binding = await bound(world)
    await world.settle(world.add_resource("notes"))
    backend = world.objects["MemoryBackend", "platform", "shared"]
    backend["status"]["conditions"][0].update(status="False", reason="BackendUnreachable")
    world.edit(binding, memories=[memory("support"), memory("notes")])
    await world.look(binding)
    assert ready(binding) == ("False", "BackendNotReady")
    credentials = condition(binding, "CredentialsReady")
    assert credentials is not None
    assert (credentials["status"], credentials["observedGeneration"]) == ("True", 1)
    assert binding["status"]["observedGeneration"] == 2
