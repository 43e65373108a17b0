"""The service of MemoryErasures, over a small world in memory."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from holdfast.client import Client
from holdfast.errors import StoreUnavailable
from holdfast.policies import terms_of
from holdfast.policy import load_policy
from holdfast.store import SessionStore
from holdfast.store.in_memory import InMemoryStore
from holdfast.store.maintenance import History
from holdfast.values import Batch, Caller, Erased, MemoryAddress, Prepared, Terms
from holdfast_operator.services import erasures, orders
from tests.harness.operator_world import World, condition, ready, ready_pair

pytestmark = pytest.mark.asyncio

TEMPLATE = "tenant:{tenant}:user:{user_id}"
USER = [{"name": "user_id", "value": "user-42"}]


@pytest.fixture
def world() -> World:
    return World()


async def ready_memory(world: World, **spec: Any) -> dict[str, Any]:
    _, resource = await ready_pair(world, **spec)
    return resource


async def write(world: World, *names: str | Mapping[str, str], messages: int = 2) -> None:
    """Write messages to sessions, by id or by the fields of the template."""
    async with Client(world.server.kept, namespace="team") as client:
        for name in names:
            memory = client.memory("support")
            session = memory.session(name) if isinstance(name, str) else memory.session(**name)
            await session.append_many([{"role": "user", "content": "hi"}] * messages)


async def lengths(world: World, *names: str | Mapping[str, str]) -> list[int]:
    async with Client(world.server.kept, namespace="team") as client:
        memory = client.memory("support")
        sessions = [
            memory.session(name) if isinstance(name, str) else memory.session(**name)
            for name in names
        ]
        return [await session.length() for session in sessions]


async def carry_out(world: World, order: dict[str, Any]) -> dict[str, Any]:
    """Look until there is a receipt, and return it."""
    for _ in range(50):
        await world.look(order)
        if "receipt" in order["status"]:
            return order["status"]["receipt"]
    raise AssertionError(order["status"])


def three_users() -> list[dict[str, str]]:
    return [
        {"tenant": tenant, "user_id": user}
        for tenant, user in (("a", "user-42"), ("b", "user-42"), ("a", "user-43"))
    ]


async def test_one_session_is_erased_and_the_receipt_is_the_librarys(world: World):
    await ready_memory(world)
    await write(world, "user-42", "user-43")
    order = world.add_erasure(session="user-42")
    receipt = await carry_out(world, order)
    assert await lengths(world, "user-42", "user-43") == [0, 2]
    assert receipt == {
        "sessions": 1,
        "messages": 2,
        "bytes": receipt["bytes"],
        "digest": receipt["digest"],
        "completedAt": "2026-01-01T00:00:00Z",
    }
    assert receipt["bytes"] > 0
    assert len(receipt["digest"]) == 64
    assert ready(order) == ("True", "Erased")
    assert condition(order, "Reconciling") is None
    assert "progress" not in order["status"]


async def test_what_would_go_is_counted_and_the_digest_foretells_the_receipts(world: World):
    await ready_memory(world, keyTemplate=TEMPLATE)
    await write(world, *three_users())
    counted = await carry_out(world, world.add_erasure("look", fields=USER, dryRun=True))
    assert await lengths(world, *three_users()) == [2, 2, 2]
    erased = await carry_out(world, world.add_erasure("order", fields=USER))
    assert await lengths(world, *three_users()) == [0, 0, 2]
    assert counted == erased
    assert (erased["sessions"], erased["messages"]) == (2, 4)


async def test_nothing_of_a_dry_run_is_written_before_it_is_done(world: World):
    await ready_memory(world)
    await write(world, "user-42")
    order = world.add_erasure(session="user-42", dryRun=True)
    outcome = await world.look(order)
    assert ready(order) == ("True", "Counted")
    assert [event.reason for event in outcome.events] == ["Counted"]


async def test_a_search_goes_on_where_a_step_ended(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(orders, "SEARCHED", 2)
    monkeypatch.setattr(erasures, "BUDGET", 0.0)
    await ready_memory(world, keyTemplate=TEMPLATE)
    others = [{"tenant": f"t{number}", "user_id": "somebody"} for number in range(7)]
    await write(world, *others, *three_users())
    receipt = await carry_out(world, world.add_erasure(fields=USER))
    assert receipt["sessions"] == 2
    assert await lengths(world, *three_users(), *others) == [0, 0, 2, *[2] * 7]


async def test_all_fields_are_one_session_and_need_no_search(world: World):
    await ready_memory(world, keyTemplate="user:{user_id}")
    await write(world, {"user_id": "user-42"})
    receipt = await carry_out(world, world.add_erasure(fields=USER))
    assert receipt["sessions"] == 1
    assert "names" not in world.server.calls
    assert await lengths(world, {"user_id": "user-42"}) == [0]


async def test_who_has_nothing_gets_a_receipt_about_nothing(world: World):
    await ready_memory(world)
    receipt = await carry_out(world, world.add_erasure(session="unheard-of"))
    assert (receipt["sessions"], receipt["messages"], receipt["bytes"]) == (0, 0, 0)
    assert "interrupted" not in receipt


# Interrupted


class Brittle(InMemoryStore):
    """A store whose erasures end the process, or lose their answers, after so many."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 1_000_000
        self.failure: Exception = _Killed()

    def session(self, *arguments: Any) -> SessionStore:  # type: ignore[override]
        inner = super().session(*arguments)
        erase = inner.erase

        async def erase_once_more(terms: Terms, *, force: bool = False) -> Erased:
            if self.left == 0:
                raise self.failure
            self.left -= 1
            return await erase(terms, force=force)

        inner.erase = erase_once_more  # type: ignore[method-assign]
        return inner


class _Killed(Exception):
    pass


async def test_an_operator_killed_in_the_middle_goes_on_and_does_not_claim_less(world: World):
    store = world.server.kept = Brittle()
    await ready_memory(world, keyTemplate=TEMPLATE)
    users = [{"tenant": f"t{number}", "user_id": "user-42"} for number in range(40)]
    await write(world, *users)
    order = world.add_erasure(fields=USER)
    await world.look(order)
    assert ready(order) == ("False", "Erasing")
    assert order["status"]["progress"]["found"] == 40
    store.left = 20
    with pytest.raises(_Killed):
        await world.look(order)
    assert sum(await lengths(world, *users)) < 80
    store.left = 1_000_000
    world.restart()
    receipt = await carry_out(world, order)
    assert sum(await lengths(world, *users)) == 0
    assert (receipt["sessions"], receipt["messages"]) == (40, 80)
    assert receipt["interrupted"] is True
    assert "digest" not in receipt


async def test_an_erasure_carried_out_whose_status_was_not_written_does_not_say_none(world: World):
    await ready_memory(world)
    await write(world, "user-42")
    order = world.add_erasure(session="user-42")
    await world.look(order)
    counted = json.loads(json.dumps(order))
    assert "receipt" in (await world.look(order)).status.model_dump(by_alias=True)  # type: ignore[union-attr]
    world.restart()
    order["status"] = counted["status"]  # the write was lost
    receipt = await carry_out(world, order)
    assert (receipt["sessions"], receipt["messages"]) == (1, 2)
    assert receipt["interrupted"] is True


async def test_a_status_refused_by_the_api_server_costs_no_figures(world: World):
    await ready_memory(world)
    await write(world, "user-42")
    order = world.add_erasure(session="user-42")
    await world.look(order)
    counted = json.loads(json.dumps(order))
    await world.look(order)
    exact = order["status"]["receipt"]
    order["status"] = counted["status"]  # a conflict: the same process looks again
    assert await carry_out(world, order) == exact


async def test_a_lost_answer_makes_the_receipt_say_so(world: World):
    store = world.server.kept = Brittle()
    await ready_memory(world)
    await write(world, "user-42")
    order = world.add_erasure(session="user-42")
    await world.look(order)
    store.left, store.failure = 0, StoreUnavailable("no answer")
    outcome = await world.look(order)
    assert ready(order) == ("False", "BackendUnreachable")
    assert condition(order, "Stalled") is None
    assert outcome.again == 0.5
    assert outcome.suspect == ("platform", "shared")
    assert order["status"]["progress"]["found"] == 1
    store.left = 10
    receipt = await carry_out(world, order)
    assert receipt["interrupted"] is True
    assert receipt["sessions"] == 1


async def test_a_receipt_waits_for_replicas(world: World):
    await ready_memory(world)
    await write(world, "user-42")
    world.server.histories = {"first": History(100, 100)}
    order = world.add_erasure(session="user-42")
    await world.look(order)
    world.server.histories = {"first": History(300, 200)}
    for _ in range(5):
        outcome = await world.look(order)
    assert await lengths(world, "user-42") == [0]
    assert ready(order) == ("False", "Erasing")
    assert outcome.again == 0.25
    # Others go on writing: what is waited for is what was written when the erasure was done.
    world.server.histories = {"first": History(900, 300)}
    await world.look(order)
    assert ready(order) == ("True", "Erased")
    assert order["status"]["receipt"]["messages"] == 2
    assert "interrupted" not in order["status"]["receipt"]


async def test_what_a_replica_brought_back_is_erased_again(world: World):
    await ready_memory(world)
    await write(world, "user-42")
    world.server.histories = {"first": History(100, 50)}
    order = world.add_erasure(session="user-42")
    for _ in range(4):
        await world.look(order)
    assert await lengths(world, "user-42") == [0]
    await write(world, "user-42")
    world.server.histories = {"second": History(100, None)}
    receipt = await carry_out(world, order)
    assert await lengths(world, "user-42") == [0]
    assert (receipt["sessions"], receipt["messages"]) == (1, 2)
    assert receipt["interrupted"]


async def test_a_server_that_does_not_tell_of_replicas_is_believed(world: World):
    await ready_memory(world)
    await write(world, "user-42")
    world.server.histories = {}
    order = world.add_erasure(session="user-42")
    assert (await carry_out(world, order))["messages"] == 2


async def test_a_long_erasure_shows_its_progress_and_lets_others_work(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(erasures, "BUDGET", 0.0)
    await ready_memory(world, keyTemplate=TEMPLATE)
    users = [{"tenant": f"t{number}", "user_id": "user-42"} for number in range(40)]
    await write(world, *users)
    order = world.add_erasure(fields=USER)
    seen: list[int] = []
    while "receipt" not in order["status"]:
        outcome = await world.look(order)
        if "progress" in order["status"]:
            assert outcome.again == 0.0
            seen.append(order["status"]["progress"]["sessions"])
    assert seen[0] == 0
    assert seen == sorted(seen)
    assert len(set(seen)) >= 3
    assert order["status"]["receipt"]["sessions"] == 40
    assert order["status"]["receipt"]["digest"]


# What stands in the way


async def test_it_waits_for_a_memory_that_is_not_there(world: World):
    world.add_backend()
    order = world.add_erasure(session="user-42")
    outcome = await world.look(order)
    assert ready(order) == ("False", "MemoryNotFound")
    assert condition(order, "Stalled")["status"] == "True"  # type: ignore[index]
    assert outcome.again is None
    world.objects.clear()
    await ready_memory(world)
    await carry_out(world, order)
    assert condition(order, "Stalled") is None


async def test_it_waits_for_a_memory_that_is_not_ready(world: World):
    world.add_resource()
    order = world.add_erasure(session="user-42")
    await world.look(order)
    assert ready(order) == ("False", "MemoryNotReady")
    assert condition(order, "Stalled") is None


async def test_nothing_is_erased_on_a_server_that_was_replaced(world: World):
    """A receipt from a server that does not hold the data would say what did not happen to them."""
    await ready_memory(world)
    await write(world, "user-42")
    order = world.add_erasure(session="user-42")
    world.server.name = "another"  # nobody has looked at the backend since
    calls = len(world.server.calls)
    await world.look(order)
    assert "receipt" not in order["status"]
    assert "claim" not in world.server.calls[calls:]
    assert ready(order) == ("False", "ServerReplaced")
    assert await lengths(world, "user-42") == [2]


async def test_a_server_replaced_in_the_middle_of_an_erasure_gives_no_receipt(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    await ready_memory(world)
    await write(world, "user-42")
    order = world.add_erasure(session="user-42")
    name, erase = world.server.name, orders.Order.erase

    async def replaced(self: orders.Order, key: str) -> Erased:
        world.server.name = "another"
        return await erase(self, key)

    await world.look(order)  # counted
    with monkeypatch.context() as patch:
        patch.setattr(orders.Order, "erase", replaced)
        await world.look(order)
    assert "receipt" not in order["status"]
    assert ready(order) == ("False", "ServerReplaced")
    world.server.name = name
    receipt = await carry_out(world, order)
    assert receipt["interrupted"] is True


async def test_a_session_with_a_revision_that_nobody_gave_out_is_erased_too(world: World):
    """A tenant may write any number there, and an erasure would have waited for ever, without a word."""
    resource = await ready_memory(world)
    await write(world, "user-42")
    terms = terms_of(load_policy({"retention": {"ttl": "1h"}})[1], 1_000_000)
    session = world.server.kept.session(MemoryAddress("team", "support"), "user-42")
    await session.append(terms, Batch((Prepared(b'"hi"', 1),)), Caller())
    order = world.add_erasure(session="user-42")
    receipt = await carry_out(world, order)
    assert receipt["sessions"] == 1
    assert ready(resource) == ("True", "Available")


async def test_keys_of_another_are_not_touched(world: World):
    resource = await ready_memory(world)
    await write(world, "user-42")
    [memory] = world.server.memories.values()
    assert memory.owner is not None
    memory.owner = memory.owner._replace(cluster="another", uid="another")
    order = world.add_erasure(session="user-42")
    await world.look(order)
    assert ready(order) == ("False", "MemoryNotReady")
    assert ready(resource) == ("True", "Available")  # it has not been looked at yet
    assert await lengths(world, "user-42") == [2]


@pytest.mark.parametrize(
    ("memory", "spec"),
    [
        ({"keyTemplate": TEMPLATE}, {"session": "user-42"}),
        ({"keyTemplate": TEMPLATE}, {"fields": [{"name": "user", "value": "user-42"}]}),
        ({}, {"fields": USER}),
    ],
)
async def test_an_order_that_names_nothing_of_the_memory_is_not_carried_out(
    world: World, memory: dict[str, Any], spec: dict[str, Any]
):
    await ready_memory(world, **memory)
    order = world.add_erasure(**spec)
    await world.look(order)
    assert ready(order) == ("False", "InvalidSpec")
    assert condition(order, "Stalled")["status"] == "True"  # type: ignore[index]
    assert "user-42" not in json.dumps(order["status"])


async def test_a_paused_order_waits(world: World):
    await ready_memory(world)
    await write(world, "user-42")
    order = world.add_erasure(session="user-42")
    world.annotate(order, paused="true")
    await world.look(order)
    assert condition(order, "Paused") is not None
    assert await lengths(world, "user-42") == [2]
    world.annotate(order)
    await carry_out(world, order)
    assert condition(order, "Paused") is None


async def test_an_order_that_is_deleted_in_the_middle_ends(world: World):
    await ready_memory(world)
    await write(world, "user-42")
    order = world.add_erasure(session="user-42")
    await world.look(order)
    world.delete(order)
    assert (await world.look(order)).again is None
    assert await lengths(world, "user-42") == [2]


# Afterwards


async def test_what_finished_is_left_alone_and_goes_after_its_time(world: World):
    await ready_memory(world)
    await write(world, "user-42")
    order = world.add_erasure(session="user-42", ttlAfterFinished="2h")
    await carry_out(world, order)
    await write(world, "user-42")
    world.server.calls.clear()
    world.clock.advance(3000)
    outcome = await world.look(order)
    assert (outcome.status, outcome.again) == (None, 3600.0)  # it looks at the clock once an hour
    world.clock.advance(3600)
    outcome = await world.look(order)
    assert outcome.again == pytest.approx(600.0, abs=1.0)
    assert not outcome.remove
    world.clock.advance(600)
    outcome = await world.look(order)
    assert outcome.remove
    assert world.server.calls == []
    assert await lengths(world, "user-42") == [2]


async def test_nobody_learns_from_it_whom_it_was_about(world: World):
    await ready_memory(world, keyTemplate=TEMPLATE)
    await write(world, *three_users())
    order = world.add_erasure(fields=USER)
    said: list[str] = []
    while "receipt" not in order["status"]:
        outcome = await world.look(order)
        said += [event.message for event in outcome.events] + [json.dumps(order["status"])]
    assert said
    assert not [text for text in said if "user-42" in text]


async def test_what_a_tenant_took_out_of_the_index_is_counted_and_erased(world: World):
    await ready_memory(world, keyTemplate=TEMPLATE)
    await write(world, *three_users())
    world.server.hidden = {"tenant:b:user:user-42"}
    counted = await carry_out(world, world.add_erasure("look", fields=USER, dryRun=True))
    erased = await carry_out(world, world.add_erasure("order", fields=USER))
    assert counted == erased
    assert erased["sessions"] == 2
    assert await lengths(world, *three_users()) == [0, 0, 2]


async def test_no_receipt_is_given_where_keys_cannot_be_looked_at(world: World):
    await ready_memory(world, keyTemplate=TEMPLATE)
    await write(world, *three_users())
    world.server.scans = False
    order = world.add_erasure(fields=USER)
    for _ in range(3):
        await world.look(order)
    assert ready(order) == ("False", "PermissionDenied")
    assert await lengths(world, *three_users()) == [2, 2, 2]
    world.server.scans = True
    assert (await carry_out(world, order))["sessions"] == 2
