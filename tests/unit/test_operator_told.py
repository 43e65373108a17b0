"""What the services tell whoever counts, and that users are changed only by who leads for certain."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from holdfast.errors import StoreUnavailable
from holdfast.store.maintenance import Orphan
from holdfast.values import MemoryAddress
from holdfast_operator.services import users
from holdfast_operator.services.observing import Named, Unobserved
from holdfast_operator.services.ports import ClusterUnavailable
from holdfast_operator.services.users import CERTAIN, Users
from tests.harness.binding_world import BindingWorld, memory
from tests.harness.operator_world import ready

pytestmark = pytest.mark.asyncio

AGENT, SHARED = Named("team", "agent"), Named("platform", "shared")
SUPPORT = MemoryAddress("team", "support")


class Told(Unobserved):
    """Remembers what it was told of repairs and passwords, in order."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Named, object]] = []

    def repaired(self, memory: Named, keys: int, /) -> None:
        self.said.append(("repaired", memory, keys))

    def orphans(self, backend: Named, count: int, /) -> None:
        self.said.append(("orphans", backend, count))

    def acl_repaired(self, backend: Named, users: int, /) -> None:
        self.said.append(("acl_repaired", backend, users))

    def rotated(self, binding: Named, at: datetime | None, /) -> None:
        # A Secret notes whole seconds.
        self.said.append(("rotated", binding, at and at.replace(microsecond=0)))

    def taken(self, what: str) -> list[tuple[Named, object]]:
        """Return what was said of one thing, and forget all."""
        found = [(who, value) for said, who, value in self.said if said == what]
        self.said.clear()
        return found


@pytest.fixture
def told() -> Told:
    return Told()


@pytest_asyncio.fixture
async def world(told: Told) -> BindingWorld:
    """A world with a backend, a memory and a binding, all Ready."""
    world = BindingWorld()
    world.observe(told)
    await world.look(world.add_backend())
    await world.settle(world.add_resource())
    binding = world.add_binding()
    await world.look(binding)
    assert ready(binding) == ("True", "Available")
    return world


def only(world: BindingWorld, kind: str) -> dict[str, Any]:
    """Return the one object of a kind."""
    [body] = [body for key, body in world.objects.items() if key[0] == kind]
    return body


async def test_keys_with_a_wrong_expiry_are_told_when_they_are_repaired(
    world: BindingWorld, told: Told
):
    resource, held = only(world, "MemoryResource"), world.server.memory(SUPPORT)
    assert told.taken("repaired") == [(Named(*SUPPORT), 0)], "the series is there from the start"
    held.sessions.update({"a": 1, "b": 1})
    held.wrong = {"a": 2, "b": 1}
    world.annotate(resource, sweep="dry-run")
    await world.look(resource)
    assert told.taken("repaired") == [], "nothing was repaired"
    world.annotate(resource, sweep="now")
    await world.look(resource)
    assert told.taken("repaired") == [(Named(*SUPPORT), 3)]


async def test_orphans_are_told_with_every_survey_and_are_gone_when_they_are(
    world: BindingWorld, told: Told
):
    backend = only(world, "MemoryBackend")
    world.hidden.add("hidden")
    orphan = Orphan(50, 0, ours=True)
    world.server.orphans = {
        MemoryAddress("team", "gone"): orphan,
        MemoryAddress("team", "too"): orphan,
        MemoryAddress("hidden", "gone"): orphan,
    }
    world.annotate(backend, sweep="now")
    await world.look(backend)
    assert told.taken("orphans") == [(SHARED, 2)], "memories, of the namespaces that are served"
    world.server.orphans = {}
    world.clock.advance(3600)
    await world.look(backend)
    assert told.taken("orphans") == [(SHARED, 0)]


async def test_a_user_that_somebody_edited_is_told_once(world: BindingWorld, told: Told):
    binding = only(world, "MemoryBinding")
    assert told.taken("acl_repaired") == [], "a user that is made is not repaired"
    await world.look(binding)
    assert told.taken("acl_repaired") == []
    world.access.held.clear()
    await world.look(binding)
    assert told.taken("acl_repaired") == [(SHARED, 1)]
    await world.look(binding)
    assert told.taken("acl_repaired") == []


async def test_the_age_of_a_password_is_told_until_the_binding_is_gone(
    world: BindingWorld, told: Told
):
    binding, made = only(world, "MemoryBinding"), world.clock.now().replace(microsecond=0)
    assert told.taken("rotated") == [(AGENT, made)]
    world.clock.advance(60)
    world.restart()
    await world.look(binding)
    assert told.taken("rotated") == [(AGENT, made)], "who starts anew tells the age as it is"
    world.annotate(binding, rotate_requested_at="1")
    await world.look(binding)
    assert told.taken("rotated") == [(AGENT, made + timedelta(seconds=60))]
    world.delete(binding)
    await world.look(binding)
    assert told.taken("rotated") == [(AGENT, None)]


# Changing users


def _changing(world: BindingWorld) -> tuple[list[str], Callable[[], Awaitable[str]]]:
    sent: list[str] = []

    async def work() -> str:
        sent.append("ACL")
        return "done"

    return sent, work


async def test_users_are_changed_only_while_it_is_certain_who_leads(world: BindingWorld):
    users, (sent, work) = Users(world, world.backends, world.leader), _changing(world)
    world.leader.certain = CERTAIN
    assert await users.change(work) == "done"
    world.leader.certain = CERTAIN - 0.1
    with pytest.raises(ClusterUnavailable):
        await users.change(work)
    assert sent == ["ACL"], "nothing was sent the second time"
    alone = Users(world, world.backends)
    assert await alone.change(work) == "done"


async def test_a_leader_in_doubt_makes_and_removes_no_user(world: BindingWorld):
    first, second = only(world, "MemoryBinding"), world.add_binding("second")
    before = dict(world.access.held)
    world.leader.certain = 0.0
    with pytest.raises(ClusterUnavailable):
        await world.look(second)
    assert ("create", "second-holdfast") not in world.writes
    world.delete(first)
    with pytest.raises(ClusterUnavailable):
        await world.look(first)
    assert world.access.held == before
    assert world.works(), "user and Secret are as they were"
    # The sweep of a backend that leads in doubt removes nobody either, and is no fault of the backend.
    del world.objects["MemoryBinding", *AGENT]
    world.clock.advance(61)
    await world.look(only(world, "MemoryBackend"))
    assert ready(only(world, "MemoryBackend")) == ("True", "Available")
    assert world.access.held == before
    world.leader.certain = CERTAIN
    world.clock.advance(61)
    await world.look(only(world, "MemoryBackend"))
    assert world.access.held == {}


async def test_a_change_of_users_that_takes_long_is_broken_off(
    world: BindingWorld, monkeypatch: pytest.MonkeyPatch
):
    assert CERTAIN == 3.0, "as docs/operator.md says: no longer than it is certain who leads"
    monkeypatch.setattr(users, "CERTAIN", 0.01)
    world.access.stuck = True
    with pytest.raises(StoreUnavailable):
        await Users(world, world.backends, world.leader).change(lambda: world.access.revoke("x"))
    binding = only(world, "MemoryBinding")
    outcome = await world.look(binding)
    assert outcome.suspect == SHARED, "the backend is looked at"
    assert ready(binding) == ("True", "Available")
    world.access.stuck = False
    await world.look(binding)
    assert ready(binding) == ("True", "Available")


async def test_an_edit_and_the_end_of_a_password_are_no_repairs(world: BindingWorld, told: Told):
    binding = only(world, "MemoryBinding")
    told.said.clear()
    world.edit(binding, memories=[memory("support", access="ReadOnly")])
    await world.look(binding)
    assert told.taken("acl_repaired") == [], "somebody edited the binding"
    world.annotate(binding, rotate_requested_at="1")
    await world.look(binding)
    world.clock.advance(3600)
    await world.look(binding)
    assert told.taken("acl_repaired") == [], "the time of the password before is over"
    world.restart()
    world.edit(binding, memories=[memory("support")])
    await world.look(binding)
    assert told.taken("acl_repaired") == [], "edited while nobody looked"
    world.restart()
    world.access.held.clear()
    await world.look(binding)
    assert told.taken("acl_repaired") == [(SHARED, 1)], "somebody else removed it meanwhile"
