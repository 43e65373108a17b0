"""How much work a look is where there are many objects: counted, not timed."""

from collections.abc import Mapping, Sequence
from typing import Any

import kopf
import pytest

from holdfast_operator.handlers.essence import NoDiffBase
from holdfast_operator.resources import MemoryBackend, MemoryResource
from holdfast_operator.services.pacing import MOST, RATE
from holdfast_operator.services.ports import Body
from holdfast_operator.services.targets import Targets
from holdfast_operator.services.tenants import guarded
from tests.harness.operator_world import World


class Seen(World):
    """A cluster that hands out what it saw, as the mirror does."""

    def backend(self, namespace: str, name: str) -> Body | None:
        return self.objects.get(("MemoryBackend", namespace, name))


def read(world: World, **spec: Any) -> tuple[MemoryBackend, MemoryResource]:
    backend, resource = world.add_backend(**spec), world.add_resource()
    return MemoryBackend.from_body(backend), MemoryResource.from_body(resource)


def test_each_state_of_a_backend_is_read_once():
    world = Seen()
    targets = Targets(world, world.backends)
    _, resource = read(world)
    first = targets.backend(resource)
    assert first is not None
    assert all(targets.backend(resource) is first for _ in range(3))
    key = ("MemoryBackend", "platform", "shared")
    world.objects[key] = {**world.objects[key], "spec": {"endpoints": ["other:6379"]}}
    second = targets.backend(resource)
    assert second is not None
    assert [str(one) for one in second.spec.endpoints] == ["other:6379"]
    del world.objects[key]
    assert targets.backend(resource) is None


@pytest.mark.parametrize(
    ("tenants", "asked"),
    [({}, 0), ({"maxTTL": "7d"}, 0), ({"perNamespace": {"resources": 2}}, 1)],
)
def test_other_memories_matter_only_where_a_namespace_has_a_share(
    tenants: Mapping[str, Any], asked: int
):
    world, calls = World(), 0
    backend, resource = read(world, **({"tenants": tenants} if tenants else {}))

    def sharing() -> Sequence[Body]:
        nonlocal calls
        calls += 1
        return world.resources_on("platform", "shared")

    guarded(resource, backend, sharing)
    assert calls == asked


@pytest.mark.asyncio
async def test_memories_without_sessions_wait_for_no_rate():
    world = World()
    backend = world.add_backend()
    await world.look(backend)
    before = world.clock.monotonic()
    for number in range(100):
        await world.settle(world.add_resource(f"m-{number}"))
    assert world.clock.monotonic() - before < MOST / RATE


def test_kopf_finds_nothing_to_keep_of_an_object():
    base, patch = NoDiffBase(), kopf.Patch()
    body = kopf.Body({"metadata": {"name": "x"}, "spec": {"a": 1}})
    new = base.build(body=body, extra_fields=["spec.a"])
    assert base.fetch(body=body) == new
    base.store(body=body, patch=patch, essence=new)
    assert not patch
