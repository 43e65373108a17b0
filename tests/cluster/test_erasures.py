"""MemoryErasures on a real API server and real servers, with the operator as a process of its own."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from holdfast.errors import LeaseLost
from tests.harness.control_plane import ControlPlane, KubectlError
from tests.harness.operator_process import OperatorProcess, grant_secrets, serving_operator
from tests.harness.proxy import CuttingProxy
from tests.harness.servers import Server
from tests.harness.space import Space, client_of, condition, erasure_manifest, write_sessions

pytestmark = [pytest.mark.cluster, pytest.mark.redis, pytest.mark.asyncio]

TEMPLATE = "tenant:{tenant}:user:{user_id}"
PERSON = "person-4711"
HELLO = {"role": "user", "content": "hello"}


@pytest.fixture(scope="module")
def operator(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """One operator for all tests here. What anybody is called is never in its log."""
    directory = tmp_path_factory.mktemp("operator")
    with serving_operator(control_plane, directory, arguments=["--interval=2"]) as process:
        yield process
        assert PERSON not in process.log


@pytest.fixture
def space(
    control_plane: ControlPlane, operator: OperatorProcess, namespace: str, valkey_server: Server
) -> Iterator[Space]:
    """A namespace of its own, on the shared server. Nothing that is shown names the person."""
    grant_secrets(control_plane, namespace)
    space = Space(control_plane, namespace, valkey_server)
    yield space
    said = [json.loads(space.kubectl("get", "memerase,memres,events", "-o", "json"))]
    for item in said[0]["items"]:
        shown = {name: value for name, value in item.items() if name not in {"spec", "metadata"}}
        assert PERSON not in json.dumps(shown), item["kind"]


async def memory_with_template(space: Space) -> None:
    space.backend()
    space.resource(keyTemplate=TEMPLATE)
    await space.ready("memres/support")


def receipt(body: dict[str, Any]) -> dict[str, Any]:
    return body["status"]["receipt"]


async def test_an_order_waits_for_its_memory_and_erases_one_session(space: Space):
    space.erasure(session=PERSON)
    order = await space.ready("memerase/order", "MemoryNotFound")
    assert condition(order, "Stalled")["status"] == "True"
    space.resource()
    order = await space.ready("memerase/order", "MemoryNotReady")
    async with client_of(space.server, space.namespace) as client:
        space.backend()
        await space.ready("memerase/order", "Erased")
        session = client.memory("support").session(PERSON)
        other = client.memory("support").session("other")
        for one in (session, other):
            await one.append_many([HELLO] * 3)
        async with session.turn() as turn:
            await turn.append(HELLO)
            space.erasure("again", session=PERSON)
            order = await space.ready("memerase/again", "Erased")
            with pytest.raises(LeaseLost):
                await turn.append({"role": "assistant", "content": "late"})
        assert await session.length() == 0
        assert await other.length() == 3
    told = receipt(order)
    assert (told["sessions"], told["messages"]) == (1, 4)
    assert told["bytes"] > 0
    assert len(told["digest"]) == 64
    assert "interrupted" not in told
    row = space.kubectl("get", "memerase", "again", "--no-headers").split()
    assert row[:7] == ["again", "True", "Erased", "support", "false", "1", "4"]


async def test_a_persons_sessions_are_counted_and_then_erased(space: Space):
    await memory_with_template(space)
    fields = [{"name": "user_id", "value": PERSON}]
    async with client_of(space.server, space.namespace) as client:
        memory = client.memory("support")
        sessions = [memory.session(tenant=f"t{number}", user_id=PERSON) for number in range(30)]
        other = memory.session(tenant="t1", user_id="somebody")
        for session in (*sessions, other):
            await session.append_many([HELLO] * 2)
        # What notes labels expires by itself, while sessions that are read live on.
        redis = space.server.client()
        for key in await redis.keys(f"mem:{{{space.namespace}/support}}:label:*"):
            await redis.delete(key)
        await redis.aclose()
        space.erasure("look", fields=fields, dryRun=True)
        counted = await space.ready("memerase/look", "Counted")
        assert await sessions[0].length() == 2
        space.erasure(fields=fields)
        erased = await space.ready("memerase/order", "Erased")
        assert [await session.length() for session in sessions] == [0] * 30
        assert await other.length() == 2
    assert (receipt(erased)["sessions"], receipt(erased)["messages"]) == (30, 60)
    assert receipt(counted)["digest"] == receipt(erased)["digest"]
    assert receipt(counted)["bytes"] == receipt(erased)["bytes"]
    assert "progress" not in erased["status"]


async def test_what_finished_goes_by_itself_and_what_did_not_stays(space: Space):
    await memory_with_template(space)
    space.erasure("wrong", session=PERSON, ttlAfterFinished="1s")
    space.erasure(fields=[{"name": "user_id", "value": PERSON}], ttlAfterFinished="2s")
    await space.gone("memerase/order")
    order = await space.ready("memerase/wrong", "InvalidSpec")
    assert condition(order, "Stalled")["status"] == "True"


async def test_a_killed_operator_goes_on_and_does_not_claim_less(
    space: Space, operator: OperatorProcess, proxy: CuttingProxy
):
    space.backend(port=proxy.port)
    space.resource(keyTemplate=TEMPLATE)
    await space.ready("memres/support")
    fields = [{"name": "user_id", "value": PERSON}]
    async with client_of(space.server, space.namespace) as client:
        memory = client.memory("support")
        sessions = [memory.session(tenant=f"t{number}", user_id=PERSON) for number in range(300)]
        for first in range(0, 300, 30):
            await asyncio.gather(*(one.append(HELLO) for one in sessions[first : first + 30]))
        proxy.delay(0.02)  # so slow that there is a middle
        space.erasure(fields=fields)

        def in_the_middle(body: dict[str, Any]) -> bool:
            progress = body["status"].get("progress")
            assert "receipt" not in body["status"], "too fast for this test"
            return progress is not None and 0 < progress["sessions"] < progress["found"] == 300

        order = await space.until("memerase/order", in_the_middle, "some are erased")
        assert condition(order, "Ready")["reason"] == "Erasing"
        assert condition(order, "Reconciling")["status"] == "True"
        operator.kill()
        proxy.delay(0)
        operator.start()
        order = await space.ready("memerase/order", "Erased")
        lengths = await asyncio.gather(*(one.length() for one in sessions))
        assert sum(lengths) == 0
    told = receipt(order)
    assert (told["sessions"], told["messages"], told["interrupted"]) == (300, 300, True)
    assert "digest" not in told


async def test_an_order_waits_for_a_server_that_is_away(space: Space, proxy: CuttingProxy):
    space.backend(port=proxy.port)
    space.resource()
    await space.ready("memres/support")
    async with client_of(space.server, space.namespace) as client:
        await write_sessions(client, "support", 1)
        proxy.refuse()
        proxy.cut_all()
        await space.ready("memres/support", "BackendNotReady")
        space.erasure(session="s0")
        order = await space.ready("memerase/order", "MemoryNotReady")
        assert condition(order, "Stalled")["status"] == ""
        await proxy.accept()
        order = await space.ready("memerase/order", "Erased")
        assert receipt(order)["sessions"] == 1


async def test_who_edits_memories_neither_orders_nor_reads_erasures(
    space: Space, control_plane: ControlPlane
):
    account = f"--namespace={space.namespace}"
    users = {"editor": "edit", "owner": "admin", "eraser": "holdfast-eraser"}
    for name, role in users.items():
        space.kubectl("create", "serviceaccount", name)
        space.kubectl(
            "create",
            "rolebinding",
            name,
            f"--clusterrole={role}",
            f"--serviceaccount={space.namespace}:{name}",
        )

    def may(name: str, verb: str) -> bool:
        user = f"--as=system:serviceaccount:{space.namespace}:{name}"
        try:
            control_plane.kubectl("auth", "can-i", verb, "memoryerasures", account, user)
        except KubectlError:
            return False
        return True

    for verb in ("get", "list", "watch", "create", "update", "delete"):
        assert [may(name, verb) for name in users] == [False, False, True], verb
    kubeconfig = control_plane.kubeconfig_for(space.namespace, "editor")
    with pytest.raises(KubectlError, match="forbidden"):
        control_plane.apply(json.dumps(erasure_manifest(session="x")), kubeconfig=kubeconfig)
    kubeconfig = control_plane.kubeconfig_for(space.namespace, "eraser")
    control_plane.apply(json.dumps(erasure_manifest(session="x")), kubeconfig=kubeconfig)
