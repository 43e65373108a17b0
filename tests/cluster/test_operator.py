"""The operator on a real API server and real servers, a process of its own with the rights it ships with."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from holdfast.errors import HoldfastError, PolicyNotFound
from holdfast.policies import terms_of
from holdfast.policy import Policy
from holdfast.store import StalePolicy
from holdfast.store.redis import RedisStore
from holdfast.store.redis.script import script
from holdfast.values import Batch, Caller, Prepared
from tests.harness.control_plane import ControlPlane, KubectlError
from tests.harness.meta import revision_of
from tests.harness.operator_process import (
    ACCOUNT,
    HOME,
    RBAC,
    OperatorProcess,
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
from tests.harness.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

PASSWORD = "correct-horse-battery-staple"
DESIGN = """
apiVersion: holdfast.dev/v1alpha1
kind: MemoryResource
metadata: {name: support}
spec:
  backendRef: {name: shared, namespace: platform}
  limits: {maxTokens: 12000}
  retention: {ttl: 24h}
"""

BINDING = """
apiVersion: holdfast.dev/v1alpha1
kind: MemoryBinding
metadata: {name: NAME}
spec:
  serviceAccountName: agent
  memories: [{name: MEMORY, memoryRef: {name: MEMORY}, access: ReadWrite}]
"""


async def states_of(redis: Redis, space: Space, count: int) -> list[tuple[int, int, int]]:
    """Return messages, revision and remaining life in ms of the sessions `s0` ..."""
    async with redis.pipeline(transaction=False) as pipeline:
        for number in range(count):
            base = f"mem:{{{space.namespace}/support/s{number}}}"
            pipeline.llen(f"{base}:log").hget(f"{base}:meta", "s").pttl(f"{base}:log")
        replies = await pipeline.execute()
    return [
        (int(length), revision_of(slow), int(life))
        for length, slow, life in zip(replies[::3], replies[1::3], replies[2::3], strict=True)
    ]


# Getting ready


@pytest.mark.asyncio
async def test_the_minimal_manifests_are_ready_in_seconds(space: Space):
    platform = space.plane.namespace("platform")
    shared = Space(space.plane, platform, space.server)
    shared.backend(more=", allowedNamespaces: {from: All}")
    space.apply(DESIGN.replace("namespace: platform", f"namespace: {platform}"))
    resource = await space.ready("memres/support")
    assert resource["status"]["keyPrefix"] == f"mem:{{{space.namespace}/support}}"
    assert resource["status"]["policyRevision"] == 1
    assert condition(resource, "PolicyApplied")["reason"] == "Applied"
    backend = shared.get("membackend/shared")
    assert backend["status"]["server"]["product"] == "valkey"
    columns = space.kubectl("get", "memres", "support", "--no-headers").split()
    assert columns[:6] == ["support", "True", "Available", "shared", "TokenBased", "24h"]
    async with client_of(space.server, space.namespace) as client:
        session = client.memory("support").session("first")
        await session.append({"role": "user", "content": "hello"})
        assert (await session.health()).managed


@pytest.mark.asyncio
async def test_what_is_applied_in_the_wrong_order_finds_together(space: Space):
    space.resource()
    await space.ready("memres/support", "BackendNotFound")
    space.backend()
    await space.ready("memres/support")


@pytest.mark.asyncio
async def test_a_server_that_goes_down_is_noticed_and_waited_for(space: Space, tmp_path: Path):
    async with Server(Product.VALKEY, tmp_path, persist=True) as server:
        space.backend(port=server.port)
        space.resource()
        await space.ready("memres/support")
        await server.kill()
        backend = await space.ready("membackend/shared", "BackendUnreachable")
        assert condition(backend, "BackendReachable")["status"] == "False"
        assert condition(backend, "Stalled")["status"] == ""
        await space.ready("memres/support", "BackendNotReady")
        await server.start()
        await space.ready("membackend/shared")
        await space.ready("memres/support")
        async with client_of(server, space.namespace) as client:
            await client.memory("support").session("s").append({"role": "user", "content": "hi"})


@pytest.mark.asyncio
async def test_a_server_that_restarts_has_its_scripts_before_the_next_look_is_due(
    space: Space, tmp_path: Path
):
    async with Server(Product.VALKEY, tmp_path, persist=True) as server:
        space.backend(port=server.port)
        await space.ready("membackend/shared")
        async with server.client() as raw:
            before = await _looks(raw)

            async def looked() -> bool:
                return await _looks(raw) > before

            await until(looked, "a look at rest: the next one is nine seconds away or more")
        await server.restart()
        async with server.client() as raw:

            async def there() -> bool:
                return (await raw.script_exists(script("append").sha))[0]

            await until(there, "the scripts are there again", deadline=8)


async def _looks(raw: Redis) -> int:
    """Return how often an operator looked for its scripts."""
    calls = (await raw.info("commandstats")).get("cmdstat_script|exists", {})
    return calls.get("calls", 0)


@pytest.mark.asyncio
async def test_a_secret_becomes_what_it_has_to_be_step_by_step(
    space: Space, tmp_path: Path, operator: OperatorProcess
):
    arguments = ["--requirepass", PASSWORD]
    async with Server(Product.VALKEY, tmp_path, arguments=arguments) as server:
        space.backend(port=server.port)
        backend = await space.ready("membackend/shared", "AuthenticationFailed")
        space.backend(port=server.port, more=", authRef: {name: login}")
        space.resource()
        await space.ready("membackend/shared", "SecretMissing")
        space.secret(labelled=False, password=PASSWORD)
        backend = await space.ready("membackend/shared", "SecretNotOffered")
        assert condition(backend, "Stalled")["status"] == "True"
        space.secret(labelled=True, password="wrong-" + PASSWORD)
        await space.ready("membackend/shared", "AuthenticationFailed")
        space.secret(labelled=True, password=PASSWORD)
        await space.ready("membackend/shared")
        await space.ready("memres/support")
        space.delete("memres/support")
        await space.gone("memres/support")
    said = operator.log + space.kubectl("get", "memres,membackend,events", "-o", "yaml")
    assert PASSWORD not in said


@pytest.mark.asyncio
async def test_a_user_without_the_needed_permissions_is_named_as_the_fault(
    space: Space, tmp_path: Path
):
    async with Server(Product.VALKEY, tmp_path) as plain:
        client = plain.client()
        await client.execute_command("ACL", "SETUSER", "ops", "on", f">{PASSWORD}", "~*", "+info")
        space.apply(
            f"""
            apiVersion: v1
            kind: Secret
            metadata: {{name: login, labels: {{holdfast.dev/credentials: "backend"}}}}
            stringData: {{username: ops, password: {PASSWORD}}}
            """
        )
        space.backend(port=plain.port, more=", authRef: {name: login}")
        backend = await space.ready("membackend/shared", "PermissionDenied")
        assert condition(backend, "BackendReachable")["status"] == "True"
        await client.execute_command("ACL", "SETUSER", "ops", "+@all")
        await space.ready("membackend/shared")
        await client.aclose()


@pytest.mark.asyncio
async def test_a_key_of_another_type_is_named_and_heals(space: Space, redis: Redis):
    key = f"mem:{{{space.namespace}/support}}:owner"
    await redis.set(key, "not ours")
    space.backend()
    space.resource()
    resource = await space.ready("memres/support", "WrongKeyType")
    assert condition(resource, "Stalled")["status"] == "True"
    await redis.delete(key)
    await space.ready("memres/support")


@pytest.mark.asyncio
async def test_a_withdrawn_namespace_keeps_its_data_and_comes_back(space: Space, redis: Redis):
    team = Space(space.plane, space.plane.namespace("team"), space.server)
    chosen = {"from": "Selector", "selector": {"matchLabels": {"memory": "yes"}}}
    space.backend(more=f", allowedNamespaces: {json.dumps(chosen)}")
    team.resource(backendRef={"name": "shared", "namespace": space.namespace})
    await team.ready("memres/support", "BackendNotAllowed")
    space.plane.kubectl("label", "namespace", team.namespace, "memory=yes")
    await team.ready("memres/support")
    async with client_of(space.server, team.namespace) as client:
        await write_sessions(client, "support", 3)
    space.patch("membackend/shared", '{"allowedNamespaces": {"from": "Same", "selector": null}}')
    await team.ready("memres/support", "BackendNotAllowed")
    assert len(await keys_of(redis, team)) >= 6
    space.patch("membackend/shared", '{"allowedNamespaces": {"from": "All"}}')
    await team.ready("memres/support")


@pytest.mark.asyncio
async def test_what_cannot_be_served_is_said_and_corrected(space: Space):
    space.backend(more=", tls: {mode: Enabled}")
    # A server without TLS may answer the greeting with an error, or wait for the end of a line.
    told = {"TLSFailed", "BackendUnreachable"}
    await space.until(
        "membackend/shared", lambda body: condition(body, "Ready")["reason"] in told, "no TLS"
    )
    space.resource(model={"name": "unheard-of"}, limits={"maxContextPercent": 50})
    await space.ready("memres/support", "BackendNotReady")
    space.patch("membackend/shared", '{"tls": {"mode": "Disabled"}}')
    resource = await space.ready("memres/support")
    assert "limits.maxContextPercent" in condition(resource, "NotInForce")["message"]


@pytest.mark.asyncio
async def test_a_paused_memory_is_left_alone_until_it_is_not(space: Space):
    space.backend()
    space.resource()
    await space.ready("memres/support")
    space.annotate("memres/support", "holdfast.dev/paused=true")
    await space.until(
        "memres/support", lambda body: condition(body, "Paused")["status"] == "True", "Paused"
    )
    space.patch("memres/support", '{"retention": {"ttl": "2h"}}')
    store = RedisStore.from_url(space.server.url)
    document = await store.policy(space.address())
    assert document is not None
    assert document.revision == 1
    assert space.get("memres/support")["status"]["observedGeneration"] == 1
    space.annotate("memres/support", "holdfast.dev/paused-")
    resource = await space.until(
        "memres/support", lambda body: body["status"]["policyRevision"] == 2, "revision 2"
    )
    assert condition(resource, "Paused")["status"] == ""
    await store.aclose()


@pytest.mark.asyncio
async def test_a_policy_that_was_removed_or_edited_on_the_server_is_put_back(
    space: Space, redis: Redis
):
    space.backend()
    space.resource(limits={"maxMessages": 3})
    await space.ready("memres/support")
    key = f"mem:{{{space.namespace}/support}}:policy"
    right = await redis.hget(key, "doc")

    async def put_back() -> bool:
        return await redis.hget(key, "doc") == right

    # The object is not edited: nothing but a look at the server shows it.
    for drift in (("DEL", key), ("HSET", key, "doc", "{}")):
        revision = int(await redis.hget(key, "revision") or 0)
        await redis.execute_command(*drift)
        await until(put_back, "the policy is there again")
        assert int(await redis.hget(key, "revision") or 0) > revision
    revision = int(await redis.hget(key, "revision") or 0)
    await space.until(
        "memres/support", lambda body: body["status"]["policyRevision"] == revision, "it is told"
    )
    async with client_of(space.server, space.namespace) as client:
        session = client.memory("support").session("s")
        for number in range(5):
            await session.append({"role": "user", "content": str(number)})
        assert await session.length() == 3


# Rollouts


@pytest.mark.asyncio
async def test_an_edit_reaches_two_thousand_live_sessions(
    space: Space, redis: Redis, operator: OperatorProcess
):
    space.backend()
    space.resource()
    await space.ready("memres/support")
    old = terms_of(Policy.model_validate({"retention": {"ttl": "24h"}}), 1)
    async with client_of(space.server, space.namespace) as client:
        await write_sessions(client, "support", 2000, messages=12)
    space.patch("memres/support", '{"retention": {"ttl": "2h"}, "limits": {"maxMessages": 5}}')
    seen: list[tuple[str, int, int]] = []

    def rolled_out(body: dict[str, Any]) -> bool:
        assert condition(body, "Ready")["status"] == "True"
        rollout = body["status"]["rollout"]
        if rollout["revision"] == 2:
            reason = condition(body, "PolicyApplied")["reason"]
            seen.append((reason, rollout["done"], rollout["total"]))
        return bool(seen) and seen[-1][0] == "Applied"

    resource = await space.until("memres/support", rolled_out, "rolled out", 120)
    assert seen[0] == ("RollingOut", 0, 2000)
    assert resource["status"]["rollout"] == {"revision": 2, "done": 2000, "total": 2000}
    for length, revision, life in await states_of(redis, space, 2000):
        assert (length, revision) == (5, 2)
        assert 3_600_000 < life <= 7_200_000
    # A writer that still has the old policy undoes nothing.
    store = RedisStore.from_url(space.server.url)
    with pytest.raises(StalePolicy):
        await store.session(space.address(), "s0").append(
            old, Batch((Prepared(b'{"role":"user","content":"x"}', 5),)), Caller()
        )
    [(length, revision, _)] = await states_of(redis, space, 1)
    assert (length, revision) == (5, 2)
    await store.aclose()


@pytest.mark.asyncio
async def test_a_killed_operator_finishes_the_rollout_after_its_restart(
    space: Space, redis: Redis, operator: OperatorProcess, proxy: CuttingProxy
):
    space.backend(port=proxy.port)
    space.resource()
    await space.ready("memres/support")
    async with client_of(space.server, space.namespace) as client:
        await write_sessions(client, "support", 1000, messages=12)

    def progress(body: dict[str, Any]) -> bool:
        rollout = body["status"]["rollout"]
        return rollout["revision"] == 2 and 0 < rollout["done"] < rollout["total"] == 1000

    proxy.delay(0.001)  # so slow that there is a middle
    space.patch("memres/support", '{"limits": {"maxMessages": 5}}')
    await space.until("memres/support", progress, "some sessions follow")
    operator.kill()
    proxy.delay(0)
    assert {revision for _, revision, _ in await states_of(redis, space, 1000)} == {1, 2}
    operator.start()
    await space.until(
        "memres/support",
        lambda body: (
            condition(body, "PolicyApplied")["reason"] == "Applied"
            and body["status"]["rollout"] == {"revision": 2, "done": 1000, "total": 1000}
        ),
        "rolled out",
        120,
    )
    assert {state[:2] for state in await states_of(redis, space, 1000)} == {(5, 2)}


# Deletion


@pytest.mark.asyncio
async def test_retain_leaves_the_sessions_to_their_expiry(space: Space, redis: Redis):
    space.backend()
    space.resource()
    await space.ready("memres/support")
    async with client_of(space.server, space.namespace) as client:
        await write_sessions(client, "support", 20)
    space.delete("memres/support")
    await space.gone("memres/support")
    kept = await keys_of(redis, space)
    assert sum(key.endswith(":log") for key in kept) == 20
    for key in kept:
        assert await redis.pttl(key) > 0, f"{key} would live for ever"
    await space.told("SessionsRetained")


@pytest.mark.asyncio
async def test_delete_removes_everything_and_refuses_writers_first(space: Space, redis: Redis):
    space.backend()
    space.resource(deletionPolicy="Delete")
    await space.ready("memres/support")
    async with client_of(space.server, space.namespace) as client:
        await write_sessions(client, "support", 300)
        space.delete("memres/support")
        await space.ready("memres/support", "Deleting")
        session = client.memory("support").session("s0")

        async def refused() -> bool:
            try:
                await session.append({"role": "user", "content": "late"})
            except PolicyNotFound:
                return True
            except HoldfastError:
                return False
            return False

        await until(refused, "writers are refused")
        await space.gone("memres/support")
    left = await keys_of(redis, space)
    assert [key for key in left if not key.endswith((":meta", ":owner"))] == []
    assert all([0 < await redis.pttl(key) <= 90_000_000 for key in left])
    assert await redis.exists(f"mem:{{{space.namespace}/support}}:policy") == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("way", ["annotation", "retain", "healed"])
async def test_a_blocked_deletion_says_so_and_has_ways_out(space: Space, tmp_path: Path, way: str):
    async with Server(Product.VALKEY, tmp_path) as server:
        space.backend(port=server.port)
        space.resource(deletionPolicy="Delete")
        await space.ready("memres/support")
        await server.kill()
        space.delete("memres/support")
        resource = await space.ready("memres/support", "DeletionBlocked")
        assert "holdfast.dev/abandon-data" in condition(resource, "Ready")["message"]
        match way:
            case "annotation":
                space.annotate("memres/support", "holdfast.dev/abandon-data=true")
            case "retain":
                space.patch("memres/support", '{"deletionPolicy": "Retain"}')
            case _:
                await server.start()
        await space.gone("memres/support")


@pytest.mark.asyncio
async def test_what_never_was_ready_goes_at_once(space: Space):
    space.resource(deletionPolicy="Delete")
    await space.ready("memres/support", "BackendNotFound")
    space.delete("memres/support")
    await space.gone("memres/support")


@pytest.mark.asyncio
async def test_a_backend_in_use_waits_for_its_memories(space: Space):
    space.backend()
    space.resource()
    await space.ready("memres/support")
    space.delete("membackend/shared")
    backend = await space.ready("membackend/shared", "InUse")
    assert f"{space.namespace}/support" in condition(backend, "Ready")["message"]
    space.delete("memres/support")
    await space.gone("membackend/shared")


@pytest.mark.asyncio
async def test_a_namespace_made_again_does_not_inherit_conversations(space: Space):
    shared = Space(space.plane, space.plane.namespace("platform"), space.server)
    shared.backend(more=", allowedNamespaces: {from: All}")
    reference = {"name": "shared", "namespace": shared.namespace}
    space.resource(backendRef=reference)
    await space.ready("memres/support")
    async with client_of(space.server, space.namespace) as client:
        await write_sessions(client, "support", 1)
    delete_namespace(space)
    space.plane.kubectl("create", "namespace", space.namespace)
    space.resource(backendRef=reference)
    resource = await space.ready("memres/support", "KeysOwnedByOther")
    assert condition(resource, "Conflict")["status"] == "True"
    assert "policyRevision" not in resource["status"]
    # Only the owner of the backend hands them over.
    space.annotate("memres/support", f"holdfast.dev/adopt={space.namespace}/support")
    shared.annotate("membackend/shared", f"holdfast.dev/adopt={space.namespace}/support")
    await space.ready("memres/support")
    async with client_of(space.server, space.namespace) as client:
        assert await client.memory("support").session("s0").length() == 1


# The operator itself


@pytest.mark.asyncio
async def test_nothing_is_written_at_rest_nor_while_a_server_is_away(
    space: Space, operator: OperatorProcess
):
    space.backend()
    space.resource()
    space.backend("away", port=1)
    space.resource("waiting", backendRef={"name": "away"})
    space.plane.apply(RBAC / "binding-secrets.yaml", namespace=space.namespace)
    for name, memory in (("agent", "support"), ("stranded", "waiting")):
        space.apply(BINDING.replace("NAME", name).replace("MEMORY", memory))
    space.erasure(session="nobody", ttlAfterFinished="1h")
    await space.ready("memres/support")
    await space.ready("memres/waiting", "BackendNotReady")
    await space.ready("membackend/away", "BackendUnreachable")
    await space.ready("membind/agent")
    await space.ready("membind/stranded", "BackendNotReady")
    await space.ready("memerase/order", "Erased")
    await settled(space)
    before = versions(space)
    await asyncio.sleep(6)  # three intervals; there is nothing to wait for but time
    assert versions(space) == before
    operator.terminate()
    operator.start()
    space.resource("probe")
    await space.ready("memres/probe")
    assert versions(space) == before


def versions(space: Space) -> dict[str, str]:
    items = json.loads(space.kubectl("get", "holdfast,secrets", "-o", "json"))["items"]
    assert {item["kind"] for item in items} == {
        "MemoryBackend", "MemoryResource", "MemoryBinding", "MemoryErasure", "Secret",
    }  # fmt: skip
    return {
        f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"]
        for item in items
        if item["metadata"]["name"] != "probe"
    }


async def settled(space: Space) -> None:
    """Wait until two looks a second apart are alike: the finalizers are written apart."""
    while True:
        before = versions(space)
        await asyncio.sleep(1)
        if versions(space) == before:
            return


@pytest.mark.asyncio
async def test_an_api_server_that_breaks_off_is_survived(
    space: Space, operator: OperatorProcess, control_plane: ControlPlane
):
    space.backend()
    space.resource()
    await space.ready("memres/support")
    control_plane.restart_api_server()
    space.patch("memres/support", '{"retention": {"ttl": "2h"}}')
    await space.until(
        "memres/support", lambda body: body["status"]["policyRevision"] == 2, "revision 2"
    )
    assert operator.running


@pytest.mark.parametrize(
    ("verb", "what"),
    [
        ("list", "secrets"),
        ("watch", "secrets"),
        ("get", "secrets"),
        ("create", "secrets"),
        ("delete", "memoryresources"),
        ("get", "configmaps"),
        ("get", "leases"),
        ("create", "leases"),
        ("get", "pods"),
        ("patch", "namespaces"),
    ],
)
def test_the_operator_may_not(
    operator: OperatorProcess, control_plane: ControlPlane, verb: str, what: str
):
    with pytest.raises(KubectlError):
        control_plane.kubectl(
            "auth",
            "can-i",
            verb,
            what,
            "--all-namespaces",
            f"--as=system:serviceaccount:{HOME}:{ACCOUNT}",
        )
