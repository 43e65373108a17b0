"""States that nobody plans: deleted in the wrong order, edited by hand, gone without a word, named oddly."""

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from holdfast.client import Client
from holdfast.store.redis import RedisStore
from holdfast.store.redis.script import script
from tests.harness.control_plane import ControlPlane, KubectlError
from tests.harness.operator_process import RBAC, OperatorProcess
from tests.harness.servers import Product, Server
from tests.harness.space import Space, condition
from tests.harness.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.redis, pytest.mark.asyncio]

PASSWORD = "correct-horse-battery-staple"
ODD = 'pä"s%20 w@:/?#[]{}ö\\'
SECRET = "secret/agent-holdfast"
NOTES = "holdfast.dev/"

POLICY = """
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: NAMESPACE}
spec:
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAMESPACE}}
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [secrets]}
  validations: [{expression: "has(object.metadata.labels) && 'cost-center' in object.metadata.labels"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: NAMESPACE}
spec: {policyName: NAMESPACE, validationActions: [Deny]}
"""


def bind(space: Space, memory: str = "support", name: str = "agent") -> None:
    space.apply((RBAC / "binding-secrets.yaml").read_text(encoding="utf-8"))
    entry = {"name": memory, "memoryRef": {"name": memory}, "access": "ReadWrite"}
    body = {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "MemoryBinding",
        "metadata": {"name": name},
        "spec": {"serviceAccountName": "agent", "memories": [entry]},
    }
    space.apply(json.dumps(body))


async def test_a_backend_that_waits_for_its_memories_is_served_as_before(
    space: Space, tmp_path: Path
):
    """Its scripts come back after a restart of the server, and its Secret may change."""
    arguments = ["--requirepass", PASSWORD]
    async with Server(Product.VALKEY, tmp_path, persist=True, arguments=arguments) as server:
        space.secret(labelled=True, password=PASSWORD)
        space.backend(port=server.port, more=", authRef: {name: login}")
        space.resource()
        await space.ready("memres/support")
        space.delete("membackend/shared")
        await space.ready("membackend/shared", "InUse")
        await server.restart()
        async with server.client(password=PASSWORD) as raw:

            async def there() -> bool:
                return (await raw.script_exists(script("append").sha))[0]

            await until(there, "the scripts are there again")
            await raw.config_set("requirepass", f"another-{PASSWORD}")
            space.secret(labelled=True, password=f"another-{PASSWORD}")
            await raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        space.patch("memres/support", '{"retention": {"ttl": "2h"}}')
        await space.until(
            "memres/support", lambda body: body["status"]["policyRevision"] == 2, "revision 2"
        )
        space.delete("memres/support")
        await space.gone("membackend/shared")


async def test_what_went_while_no_watch_was_there_is_not_counted_any_more(
    space: Space, operator: OperatorProcess, control_plane: ControlPlane
):
    space.backend()
    space.resource()
    await space.ready("memres/support")
    operator.pause()
    # An API server that was started anew knows nothing of before: watches have to begin with a list again.
    space.kubectl("create", "configmap", "later")
    control_plane.restart_api_server()
    space.delete("memres/support")
    finalizers = {"metadata": {"finalizers": None}}
    space.plane.administrator.merge(space.namespace, "memres/support", finalizers)
    operator.resume()
    space.delete("membackend/shared")
    await space.gone("membackend/shared")


async def test_whatever_somebody_notes_on_a_secret_and_seals_it_is_put_right(space: Space):
    space.backend()
    space.resource()
    bind(space)
    await space.ready("membind/agent")

    async def noted(name: str, holds: str) -> None:
        def is_so(body: dict[str, Any]) -> bool:
            return holds in body["metadata"]["annotations"][f"{NOTES}{name}"]

        await space.until(SECRET, is_so, f"{name} is {holds}")

    space.annotate(SECRET, f"{NOTES}password-made-at=9999-12-31T23:59:59Z")
    await noted("password-made-at", "2")
    space.annotate(SECRET, f"{NOTES}rotate-handled={'x' * 300}")
    space.kubectl("patch", "secret", "agent-holdfast", "-p", '{"immutable": true}')
    space.annotate(SECRET, f"{NOTES}backends=")
    await noted("backends", f"{space.namespace}/shared")


async def test_the_longest_names_and_the_oddest_login(space: Space, tmp_path: Path):
    backend, memory, agent, order = "b" * 253, "m" * 63, "a" * 63, "e" * 253
    async with Server(Product.VALKEY, tmp_path) as server:
        async with server.client() as raw:
            everything = ("~*", "+@all", "&*")
            await raw.execute_command("ACL", "SETUSER", "öp%s@:/", "on", f">{ODD}", *everything)
        secret: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "login", "labels": {"holdfast.dev/credentials": "backend"}},
            "stringData": {"username": "öp%s@:/", "password": ODD},
        }
        space.apply(json.dumps(secret, ensure_ascii=False))
        shared = "{mode: Shared, acknowledgeNoIsolation: true}"
        space.backend(
            backend, port=server.port, more=f", authRef: {{name: login}}, access: {shared}"
        )
        space.resource(memory, backendRef={"name": backend})
        bind(space, memory, agent)
        await space.ready(f"membind/{agent}")
        uri = b64decode(space.get(f"secret/{agent}-holdfast")["data"]["uri"]).decode()
        async with Client(RedisStore.from_url(uri), namespace=space.namespace) as client:
            session = client.memory(memory).session("s" * 512)
            await session.append({"role": "user", "content": "hi"})
        space.erasure(order, memoryRef={"name": memory}, session="s" * 512)
        done = await space.ready(f"memerase/{order}", "Erased")
        assert done["status"]["receipt"]["messages"] == 1
        secret["stringData"]["password"] = f"{ODD}\n"
        space.apply(json.dumps(secret, ensure_ascii=False))
        refused = await space.ready(f"membackend/{backend}", "AuthenticationFailed")
        assert "line break" in condition(refused, "Ready")["message"]
        for what in (f"membind/{agent}", f"memres/{memory}", f"membackend/{backend}"):
            space.delete(what)
            await space.gone(what)


async def test_a_secret_that_a_policy_refuses_is_told(space: Space, redis: Redis):
    """The API server says that with the same code as it says that an object changed."""
    space.backend()
    space.resource()
    await space.ready("memres/support")
    space.plane.apply(POLICY.replace("NAMESPACE", space.namespace))
    await until(lambda: refused(space), "the policy is in force")
    bind(space)
    binding = await space.ready("membind/agent", "NoPermission")
    assert "an admission policy" in condition(binding, "CredentialsReady")["message"]
    users = b" ".join(await redis.execute_command("ACL", "USERS"))
    assert space.namespace.encode() not in users, "a password that nobody was told is of no use"
    space.plane.kubectl("delete", f"validatingadmissionpolicybinding/{space.namespace}")
    await space.ready("membind/agent")


def refused(space: Space) -> bool:
    """Whether the policy refuses a Secret of ours."""
    try:
        space.kubectl("create", "secret", "generic", "plain", "--dry-run=server")
    except KubectlError:
        return True
    return False
