"""Whose keys are whose, and what ends when something is away, gone or restored: on real API servers."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import HoldfastError
from tests.harness import kubernetes_binaries
from tests.harness.control_plane import ControlPlane
from tests.harness.operator_process import (
    OperatorProcess,
    running_operator,
    serving_operator,
)
from tests.harness.proxy import CuttingProxy
from tests.harness.servers import Product, Server
from tests.harness.space import (
    Space,
    client_of,
    condition,
    delete_namespace,
    keys_of,
    write_sessions,
)

pytestmark = [pytest.mark.cluster, pytest.mark.redis, pytest.mark.asyncio]

ARGUMENTS = ["--interval=2", "--abandon-after=3"]
PASSWORD = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def operator(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """One operator for all tests here, which gives a terminating namespace three seconds."""
    directory = tmp_path_factory.mktemp("operator")
    with serving_operator(control_plane, directory, arguments=ARGUMENTS) as process:
        yield process


async def length(space: Space, session: str = "s0") -> int:
    async with client_of(space.server, space.namespace) as client:
        return await client.memory("support").session(session).length()


async def ready_with_sessions(space: Space, count: int = 3, **spec: Any) -> None:
    space.backend()
    space.resource(**spec)
    await space.ready("memres/support")
    async with client_of(space.server, space.namespace) as client:
        await write_sessions(client, "support", count)


def let_go(space: Space, *what: str) -> None:
    """Delete objects although nobody ends their deletion: as an etcd that was restored, or a lost cluster."""
    for one in what:
        space.delete(one)
        space.plane.administrator.merge(space.namespace, one, {"metadata": {"finalizers": None}})


# Whose keys


async def test_of_two_clusters_on_one_server_the_first_mark_wins_until_it_is_handed_over(
    space: Space, tmp_path: Path
):
    await ready_with_sessions(space)
    programs = kubernetes_binaries.ensure()
    with ControlPlane.start(tmp_path / "plane", binaries=programs) as plane:
        plane.kubectl("create", "namespace", space.namespace)
        other = Space(plane, space.namespace, space.server)
        with running_operator(
            plane, tmp_path / "other", arguments=ARGUMENTS, forked=True
        ) as operator:
            other.backend()
            other.resource(deletionPolicy="Delete", retention={"ttl": "1h"})
            resource = await other.ready("memres/support", "KeysOwnedByOther")
            assert condition(resource, "Conflict")["status"] == "True"
            assert condition(resource, "Stalled")["status"] == "True"
            assert "policyRevision" not in resource["status"]
            # Deleting what never was its own deletes nothing.
            other.delete("memres/support")
            await other.gone("memres/support")
            assert await length(space) == 1
            # Nobody's annotation hands over but that of the backend.
            other.resource(retention={"ttl": "1h"})
            other.annotate("memres/support", f"holdfast.dev/adopt={space.namespace}/support")
            await other.ready("memres/support", "KeysOwnedByOther")
            other.annotate("membackend/shared", f"holdfast.dev/adopt={space.namespace}/support")
            resource = await other.ready("memres/support")
            await other.told("TakenOver")
            # The first one learns it, and does no harm any more.
            await space.ready("memres/support", "KeysOwnedByOther")
            space.patch("memres/support", '{"deletionPolicy": "Delete"}')
            space.delete("memres/support")
            await space.gone("memres/support")
            await space.told("NothingDeleted")
            assert await length(other) == 1
            assert (await other.ready("memres/support"))["status"]["policyRevision"] == (
                resource["status"]["policyRevision"]
            )
            assert not operator.errors()


async def test_what_is_restored_in_its_namespace_has_its_conversations_again(
    space: Space, operator: OperatorProcess
):
    await ready_with_sessions(space)
    before = space.get("memres/support")["metadata"]["uid"]
    operator.terminate()
    let_go(space, "memres/support", "membackend/shared")
    space.backend()
    space.resource()
    assert space.get("memres/support")["metadata"]["uid"] != before
    operator.start()
    await space.ready("memres/support")
    assert await length(space) == 1
    await space.told("TakenOver")


async def test_a_whole_namespace_that_is_restored_is_adopted_by_its_backends_owner(
    space: Space, operator: OperatorProcess
):
    await ready_with_sessions(space)
    operator.terminate()
    let_go(space, "memres/support", "membackend/shared")
    delete_namespace(space)
    space.plane.kubectl("create", "namespace", space.namespace)
    space.backend()
    space.resource()
    space.resource("another")
    operator.start()
    await space.ready("memres/another")
    await space.ready("memres/support", "KeysOwnedByOther")
    with pytest.raises(AssertionError, match="KeysOwnedByOther"):
        await space.ready("memres/support", deadline=3)
    space.annotate("membackend/shared", "holdfast.dev/adopt=*")
    await space.ready("memres/support")
    assert await length(space) == 1


# What ends, and when


async def test_what_is_deleted_while_the_operator_is_away_waits_for_it_and_for_a_pause_to_end(
    space: Space, operator: OperatorProcess
):
    await ready_with_sessions(space, deletionPolicy="Delete")
    space.resource("kept")
    await space.ready("memres/kept")
    operator.kill()
    for name in ("support", "kept"):
        space.annotate(f"memres/{name}", "holdfast.dev/paused=true")
        space.delete(f"memres/{name}")
    space.delete("membackend/shared")
    assert space.exists("memres/support")
    operator.start()
    await space.gone("memres/kept")  # a pause holds what deletes, and not what retains
    await space.until(
        "memres/support", lambda body: condition(body, "Paused")["status"] == "True", "Paused"
    )
    assert await length(space) == 1
    await space.ready("membackend/shared", "InUse")
    space.annotate("memres/support", "holdfast.dev/paused-")
    await space.gone("memres/support")
    await space.gone("membackend/shared")
    await space.told("SessionsDeleted")
    redis = space.server.client()
    left = [key for key in await keys_of(redis, space) if "/support" in key]
    await redis.aclose()
    assert [key for key in left if not key.endswith((":meta", ":owner"))] == []


def refused_events(space: Space) -> list[str]:
    """Return what the API server counted of events that it refused."""
    page = space.plane.kubectl("get", "--raw", "/metrics").splitlines()
    counts = [line for line in page if line.startswith("apiserver_request_total{")]
    return [line for line in counts if 'code="403"' in line and 'resource="events"' in line]


async def test_a_namespace_ends_although_the_server_is_away(
    space: Space, operator: OperatorProcess, tmp_path: Path
):
    async with Server(Product.VALKEY, tmp_path) as server:
        space.backend(port=server.port)
        space.resource(deletionPolicy="Delete")
        space.resource("kept")
        await space.ready("memres/support")
        await space.ready("memres/kept")
        space.erasure(session="any")
        await space.ready("memerase/order", "Erased")
        await server.kill()
        space.erasure("waiting", session="any")
        refused = refused_events(space)
        delete_namespace(space)
    assert not space.plane.kubectl(
        "get", "namespace", space.namespace, "--ignore-not-found", "-o", "name"
    )
    # Such a namespace takes no events, and none is tried.
    assert f"{space.namespace}/support: DataAbandoned" in operator.log, operator.tail()
    assert refused_events(space) == refused


async def test_a_deletion_ends_when_the_backend_is_gone(space: Space, operator: OperatorProcess):
    await ready_with_sessions(space, deletionPolicy="Delete")
    operator.terminate()
    let_go(space, "membackend/shared")
    space.delete("memres/support")
    operator.start()
    await space.gone("memres/support")
    await space.told("BackendGone")
    assert await length_or_nothing(space) == 1


async def test_a_deletion_ends_when_the_secret_is_gone(space: Space, tmp_path: Path):
    async with Server(Product.VALKEY, tmp_path, arguments=["--requirepass", PASSWORD]) as server:
        space.secret(labelled=True, password=PASSWORD)
        space.backend(port=server.port, more=", authRef: {name: login}")
        space.resource(deletionPolicy="Delete")
        await space.ready("memres/support")
        space.kubectl("delete", "secret", "login")
        await space.ready("membackend/shared", "SecretMissing")
        space.delete("memres/support")
        await space.gone("memres/support")
        space.delete("membackend/shared")
        await space.gone("membackend/shared")


async def test_data_that_are_abandoned_go_when_they_expire(space: Space):
    await ready_with_sessions(space, deletionPolicy="Delete")
    space.annotate("memres/support", "holdfast.dev/abandon-data=true")
    space.delete("memres/support")
    await space.gone("memres/support")
    await space.told("DataAbandoned")
    redis = space.server.client()
    left = await keys_of(redis, space)
    assert sum(key.endswith(":log") for key in left) == 3
    assert all([await redis.pttl(key) > 0 for key in left])
    await redis.aclose()


async def test_a_deletion_goes_on_after_a_kill_and_holds_nobody_up(
    space: Space, operator: OperatorProcess, proxy: CuttingProxy
):
    space.backend(port=proxy.port)
    space.backend("direct")
    space.resource(deletionPolicy="Delete")
    await space.ready("memres/support")
    async with client_of(space.server, space.namespace) as client:
        await write_sessions(client, "support", 1000)
    space.delete("memres/support")
    proxy.delay(0.002)  # so slow that there is a middle

    def in_the_middle(body: dict[str, Any]) -> bool:
        rollout = body["status"]["rollout"]
        return condition(body, "Ready")["reason"] == "Deleting" and (
            0 < rollout["done"] < rollout["total"]
        )

    body = await space.until("memres/support", in_the_middle, "some are deleted")
    assert body["status"]["rollout"]["total"] == 1000
    proxy.delay(0.5)  # from here on it takes longer than anybody waits
    space.resource("quick", backendRef={"name": "direct"})
    await space.ready("memres/quick")
    assert space.exists("memres/support")
    operator.kill()
    proxy.delay(0)
    operator.start()
    await space.gone("memres/support")
    redis = space.server.client()
    left = [key for key in await keys_of(redis, space) if "/support" in key]
    await redis.aclose()
    assert [key for key in left if not key.endswith((":meta", ":owner"))] == []


async def length_or_nothing(space: Space) -> int:
    try:
        return await asyncio.wait_for(length(space), 10)
    except HoldfastError:
        return -1
