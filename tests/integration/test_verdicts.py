"""What tools of others make of our statuses: kstatus, and Argo CD with the script in `contrib`.

The statuses are made by the services. The script runs in the Lua 5.1 of a server, which is the version
Argo CD has.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from holdfast.errors import StoreUnavailable
from holdfast.values import MemoryAddress
from tests.fixtures.cases import ROOT
from tests.harness.kstatus import Verdict, verdict
from tests.harness.operator_world import World, ready
from tests.harness.servers import Server

pytestmark = [pytest.mark.redis, pytest.mark.asyncio]

Body = dict[str, Any]
Scene = Callable[[World], Awaitable[Body]]

RUN = """
local obj = cjson.decode(ARGV[1])
local function health()
%s
end
local found = health()
return { found.status, found.message }
"""


async def memory(world: World, **spec: Any) -> Body:
    backend, resource = world.add_backend(), world.add_resource(**spec)
    await world.look(backend)
    await world.settle(resource)
    return resource


async def fresh(world: World) -> Body:
    return world.add_resource()


async def fresh_backend(world: World) -> Body:
    return world.add_backend()


async def in_order(world: World) -> Body:
    return await memory(world)


async def backend_in_order(world: World) -> Body:
    backend = world.add_backend()
    await world.look(backend)
    return backend


async def edited(world: World) -> Body:
    resource = await memory(world)
    world.edit(resource, retention={"ttl": "2h"})
    return resource


async def rolling_out(world: World) -> Body:
    resource = await memory(world)
    address = MemoryAddress("team", "support")
    world.server.memory(address).sessions = {f"s{number}": 1 for number in range(5)}
    world.edit(resource, retention={"ttl": "2h"})
    await world.look(resource)
    assert ready(resource) == ("True", "Available")
    return resource


async def away(world: World) -> Body:
    backend = world.add_backend()
    world.server.fault = StoreUnavailable("no answer")
    await world.look(backend)
    assert ready(backend) == ("False", "BackendUnreachable")
    return backend


async def waiting(world: World) -> Body:
    resource = world.add_resource()
    await world.look(resource)
    assert ready(resource) == ("False", "BackendNotFound")
    return resource


async def owned_by_another(world: World) -> Body:
    resource = await memory(world)
    held = world.server.memory(MemoryAddress("team", "support"))
    assert held.owner is not None
    held.owner = held.owner._replace(cluster="another", uid="another")
    await world.look(resource)
    assert ready(resource) == ("False", "KeysOwnedByOther")
    return resource


async def not_allowed(world: World) -> Body:
    backend = world.add_backend(allowedNamespaces={"from": "Same"})
    resource = world.add_resource()
    await world.look(backend)
    await world.look(resource)
    assert ready(resource) == ("False", "BackendNotAllowed")
    return resource


async def held(world: World) -> Body:
    resource = await memory(world)
    world.annotate(resource, paused="true")
    await world.look(resource)
    return resource


async def held_and_edited(world: World) -> Body:
    resource = await held(world)
    world.edit(resource, retention={"ttl": "2h"})
    await world.look(resource)
    return resource


async def deleting(world: World) -> Body:
    resource = await memory(world, deletionPolicy="Delete")
    world.delete(resource)
    await world.look(resource)
    assert ready(resource) == ("False", "Deleting")
    return resource


async def deletion_blocked(world: World) -> Body:
    resource = await memory(world, deletionPolicy="Delete")
    world.server.fault = StoreUnavailable("no answer")
    world.delete(resource)
    await world.look(resource)
    assert ready(resource) == ("False", "DeletionBlocked")
    return resource


async def ordered(world: World) -> Body:
    await memory(world)
    return world.add_erasure(session="s")


async def erasing(world: World) -> Body:
    order = await ordered(world)
    await world.look(order)
    assert ready(order) == ("False", "Erasing")
    return order


async def erased(world: World) -> Body:
    order = await erasing(world)
    await world.look(order)
    assert ready(order) == ("True", "Erased")
    return order


async def nothing_to_erase_from(world: World) -> Body:
    order = world.add_erasure(session="s")
    await world.look(order)
    assert ready(order) == ("False", "MemoryNotFound")
    return order


SCENES: list[tuple[Scene, Verdict, str]] = [
    (fresh, Verdict.IN_PROGRESS, "Progressing"),
    (fresh_backend, Verdict.IN_PROGRESS, "Progressing"),
    (in_order, Verdict.CURRENT, "Healthy"),
    (backend_in_order, Verdict.CURRENT, "Healthy"),
    (edited, Verdict.IN_PROGRESS, "Progressing"),
    (rolling_out, Verdict.IN_PROGRESS, "Progressing"),
    (away, Verdict.IN_PROGRESS, "Progressing"),
    (waiting, Verdict.IN_PROGRESS, "Progressing"),
    (owned_by_another, Verdict.FAILED, "Degraded"),
    (not_allowed, Verdict.FAILED, "Degraded"),
    (held, Verdict.CURRENT, "Suspended"),
    (held_and_edited, Verdict.IN_PROGRESS, "Suspended"),
    # Argo CD calls what is being deleted Progressing before it asks the script.
    (deleting, Verdict.TERMINATING, "Progressing"),
    (deletion_blocked, Verdict.TERMINATING, "Progressing"),
    (ordered, Verdict.IN_PROGRESS, "Progressing"),
    (erasing, Verdict.IN_PROGRESS, "Progressing"),
    (erased, Verdict.CURRENT, "Healthy"),
    (nothing_to_erase_from, Verdict.FAILED, "Degraded"),
]


@pytest.mark.parametrize(
    ("scene", "expected", "health"), SCENES, ids=[scene.__name__ for scene, *_ in SCENES]
)
async def test_others_understand_a_status(
    valkey_server: Server, scene: Scene, expected: Verdict, health: str
):
    body = await scene(World())
    assert verdict(body) is expected
    script = (ROOT / "contrib/argocd/health.lua").read_text(encoding="utf-8")
    client = valkey_server.client()
    status, message = await client.eval(RUN % script, 0, json.dumps(body))
    # An object that nobody has looked at yet, on an API server that keeps no defaults.
    bare = {key: value for key, value in body.items() if key != "status"}
    nothing, _ = await client.eval(RUN % script, 0, json.dumps(bare))
    await client.aclose()
    assert (status.decode(), nothing.decode()) == (health, "Progressing")
    assert message
