"""Backends on a real API server and real servers: Sentinel, Cluster, TLS, replaced servers, guard rails."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from holdfast.client import Client
from holdfast.embedded import reserve_port
from holdfast.store.redis import RedisStore
from tests.harness.certificates import CertificateAuthority
from tests.harness.cluster_of_servers import ClusterOfServers
from tests.harness.control_plane import ControlPlane
from tests.harness.operator_process import OperatorProcess, grant_secrets
from tests.harness.parts import need_server
from tests.harness.sentinels import NAME, Sentinels
from tests.harness.servers import Product, Server, knows_scripts
from tests.harness.space import LOOKS
from tests.harness.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

PASSWORD = "correct-horse-battery-staple"
OTHER_PASSWORD = "tr0ubador-and-three"
ACCEPT = "holdfast.dev/accept-server"


@dataclass(frozen=True)
class Space:
    """A namespace of a test, and how to look into it."""

    plane: ControlPlane
    namespace: str

    def apply(self, kind: str, name: str, **parts: Any) -> None:
        group = "v1" if kind in {"Secret", "ConfigMap"} else "holdfast.dev/v1alpha1"
        labels = parts.pop("labels", {})
        head = {"apiVersion": group, "kind": kind, "metadata": {"name": name, "labels": labels}}
        self.plane.administrator.apply(self.namespace, json.dumps(head | parts))

    def backend(self, **spec: Any) -> None:
        self.apply("MemoryBackend", "shared", spec=spec)

    def resource(self, name: str = "support", **spec: Any) -> None:
        standard = {"backendRef": {"name": "shared"}, "retention": {"ttl": "24h"}}
        self.apply("MemoryResource", name, spec=standard | spec)

    def secret(self, name: str, *, labelled: bool = True, **data: bytes) -> None:
        labels = {"holdfast.dev/credentials": "backend"} if labelled else {}
        encoded = {
            key.replace("_", "."): base64.b64encode(value).decode() for key, value in data.items()
        }
        self.apply("Secret", name, labels=labels, data=encoded)

    def kubectl(self, *arguments: str) -> str:
        return self.plane.kubectl(f"--namespace={self.namespace}", *arguments)

    def get(self, what: str) -> dict[str, Any]:
        return self.plane.administrator.get(self.namespace, what)

    def patch(self, what: str, **spec: Any) -> None:
        self.plane.administrator.merge(self.namespace, what, {"spec": spec})

    async def until(
        self, what: str, holds: Callable[[dict[str, Any]], bool], hint: str, deadline: float = 120
    ) -> dict[str, Any]:
        last: dict[str, Any] = {}

        def look() -> bool:
            nonlocal last
            last = self.get(what)
            return holds(last)

        try:
            await until(look, f"{what}: {hint}", deadline=deadline, every=LOOKS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(last.get('status'), indent=1)}") from None
        return last

    async def ready(self, what: str, reason: str = "Available") -> dict[str, Any]:
        """Wait until an object's Ready has this reason, and return the object."""
        return await self.until(
            what, lambda body: condition(body, "Ready")["reason"] == reason, reason
        )


@pytest.fixture
def space(control_plane: ControlPlane, operator: OperatorProcess, namespace: str) -> Space:
    """A namespace of its own, whose Secrets and ConfigMaps the operator may read."""
    grant_secrets(control_plane, namespace)
    return Space(control_plane, namespace)


def condition(body: dict[str, Any], of: str) -> dict[str, Any]:
    """Return a condition; an empty one that has no reason when it is not there."""
    found = [item for item in body["status"]["conditions"] if item["type"] == of]
    return found[0] if found else {"status": "", "reason": "", "message": ""}


async def talk(url: str, space: Space, session: str = "s", *, memory: str = "support") -> None:
    """Append to a session as an agent does, under the operator's policy."""
    async with Client(RedisStore.from_url(url), namespace=space.namespace) as client:
        conversation = client.memory(memory).session(session)
        await conversation.append({"role": "user", "content": "hello"})
        assert (await conversation.health()).managed


@pytest.mark.asyncio
async def test_a_primary_behind_sentinel_is_followed_through_a_failover(
    space: Space, tmp_path: Path
):
    async with Sentinels(tmp_path) as own:
        endpoints = [f"127.0.0.1:{port}" for port in own.ports]
        space.backend(mode="Sentinel", endpoints=endpoints, sentinel={"masterName": NAME})
        space.resource()
        backend = await space.ready("membackend/shared")
        await space.ready("memres/support")
        assert "min-replicas-to-write" in condition(backend, "AtRisk")["message"]
        primary, replica = await own.primary(), await own.replica()
        await until(lambda: knows_scripts(replica), "the replica has the scripts")
        await talk(own.url, space)
        await own.in_step()
        instance = backend["status"]["server"]["instance"]
        await primary.kill()
        await own.agreed(replica)
        space.resource(retention={"ttl": "12h"})
        resource = await space.until(
            "memres/support",
            lambda body: (
                body["status"].get("effective", {}).get("ttl") == "12h"
                and condition(body, "PolicyApplied")["reason"] == "Applied"
            ),
            "the edit reached the survivor",
        )
        assert resource["status"]["policyRevision"] == 2
        backend = await space.ready("membackend/shared")
        assert backend["status"]["server"]["instance"] == instance
        await talk(own.url, space)


@pytest.mark.asyncio
async def test_a_cluster_is_served_with_its_replicas(space: Space, tmp_path: Path):
    async with ClusterOfServers(tmp_path, replicas=1) as cluster:
        endpoint = f"127.0.0.1:{cluster.nodes[1].port}"
        space.backend(mode="Standalone", endpoints=[endpoint])
        backend = await space.ready("membackend/shared", "InvalidSpec")
        assert "spec.mode: Cluster" in condition(backend, "Ready")["message"]
        space.backend(mode="Cluster", endpoints=[endpoint])
        space.resource()
        await space.ready("membackend/shared")
        await space.ready("memres/support")
        for number in range(12):
            await talk(cluster.url, space, f"s{number}")
        space.resource(retention={"ttl": "12h"})
        await space.until(
            "memres/support",
            lambda body: (
                body["status"].get("rollout", {}) == {"revision": 2, "done": 12, "total": 12}
                and condition(body, "PolicyApplied")["reason"] == "Applied"
            ),
            "all sessions follow",
        )
        [replica] = cluster.replicas
        assert await knows_scripts(replica)
        await replica.restart()  # which loses them
        await until(lambda: knows_scripts(replica), "it has the scripts again")
        space.kubectl("delete", "memres/support")


@pytest.mark.asyncio
async def test_tls_with_an_authority_and_a_client_certificate(
    space: Space, tmp_path: Path, operator: OperatorProcess
):
    need_server(Product.REDIS)
    authority = CertificateAuthority(tmp_path, "ours")
    (tmp_path / "other").mkdir()
    stranger = CertificateAuthority(tmp_path / "other", "theirs").certificate.read_text()
    pair = authority.server("server", hosts=["redis.example"])
    client = authority.client("client", user="operator", groups=[])
    with reserve_port(None) as port:
        options = ["--tls-port", str(port), "--tls-ca-cert-file", str(authority.certificate)]
        options += ["--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.key)]
        options += ["--requirepass", PASSWORD]
        async with Server(Product.REDIS, tmp_path / "server", arguments=options) as server:
            space.secret("login", password=PASSWORD.encode())
            ca = {"kind": "ConfigMap", "name": "ca"}
            tls = {"mode": "Enabled", "caRef": ca, "serverName": "redis.example"}
            endpoints = [f"127.0.0.1:{port}"]
            space.backend(endpoints=endpoints, authRef={"name": "login"}, tls=tls)
            space.resource()
            await space.ready("membackend/shared", "SecretMissing")
            space.apply("ConfigMap", "ca", data={"ca.crt": "no certificate"})
            await space.ready("membackend/shared", "SecretInvalid")
            space.apply("ConfigMap", "ca", data={"ca.crt": stranger})
            await space.ready("membackend/shared", "TLSFailed")
            # The right authority, and no certificate of our own yet.
            space.apply("ConfigMap", "ca", data={"ca.crt": authority.certificate.read_text()})
            await space.ready("membackend/shared", "TLSFailed")
            tls |= {"clientCertRef": {"name": "pair"}}
            data = {"tls_crt": client.certificate.read_bytes(), "tls_key": client.key.read_bytes()}
            space.secret("pair", labelled=False, **data)
            space.backend(endpoints=endpoints, authRef={"name": "login"}, tls=tls)
            await space.ready("membackend/shared", "SecretNotOffered")
            space.secret("pair", tls_crt=data["tls_crt"], tls_key=b"broken")
            await space.ready("membackend/shared", "SecretInvalid")
            space.secret("pair", **data)
            await space.ready("membackend/shared")
            await space.ready("memres/support")
            # The password changes under the running operator, first on the server.
            async with server.client(password=PASSWORD) as raw:
                await raw.config_set("requirepass", OTHER_PASSWORD)
                await raw.client_kill_filter(_type="normal", skipme=True)
            await space.ready("membackend/shared", "AuthenticationFailed")
            space.secret("login", password=OTHER_PASSWORD.encode())
            await space.ready("membackend/shared")
            await space.ready("memres/support")
    said = operator.log + space.kubectl("get", "memres,membackend,events", "-o", "yaml")
    for secret in (PASSWORD, OTHER_PASSWORD, "PRIVATE KEY"):
        assert secret not in said


@pytest.mark.asyncio
async def test_a_server_that_came_back_empty_is_filled_only_when_that_is_accepted(
    space: Space, tmp_path: Path
):
    async with Server(Product.VALKEY, tmp_path) as server:
        space.backend(endpoints=[f"127.0.0.1:{server.port}"])
        space.resource()
        backend = await space.ready("membackend/shared")
        resource = await space.ready("memres/support")
        assert condition(backend, "AtRisk")["reason"] == "PersistenceOff"
        await server.restart()
        backend = await space.ready("membackend/shared", "ServerReplaced")
        assert condition(backend, "Stalled")["status"] == "True"
        await space.ready("memres/support", "BackendNotReady")
        async with server.client() as raw:
            assert await raw.keys("*") == []
            named = condition(backend, "Ready")["message"].split('"')[1]
            space.kubectl("annotate", "membackend/shared", f"{ACCEPT}={named}")
            await space.ready("membackend/shared")
            again = await space.ready("memres/support")
            mark = await raw.hgetall("mem:{!backend}")
        assert mark[b"instance"] == named.encode()
        assert mark[b"backendUid"] == backend["metadata"]["uid"].encode()
        before = resource["status"]["policyRevision"]
        assert again["status"]["policyRevision"] > before
        await talk(server.url, space)


@pytest.mark.asyncio
async def test_guard_rails_hold_at_once_and_go_again(space: Space, valkey_server: Server):
    endpoints = [f"127.0.0.1:{valkey_server.port}"]
    space.backend(endpoints=endpoints, tenants={"maxTTL": "1h", "perNamespace": {"resources": 2}})
    space.resource()
    resource = await space.until(
        "memres/support",
        lambda body: condition(body, "PolicyApplied")["reason"] == "ClampedByBackend",
        "it is clamped",
    )
    assert condition(resource, "PolicyApplied")["status"] == "True"
    assert resource["status"]["effective"]["ttl"] == "1h"
    assert resource["spec"]["retention"]["ttl"] == "24h"
    await talk(valkey_server.url, space)
    key = f"mem:{{{space.namespace}/support/s}}:meta"
    async with valkey_server.client() as raw:
        assert await raw.pttl(key) <= 3_600_000
        space.patch("membackend/shared", tenants={"maxTTL": "2h"})
        await space.until(
            "memres/support",
            lambda body: (
                body["status"]["effective"]["ttl"] == "2h"
                and condition(body, "PolicyApplied")["reason"] == "ClampedByBackend"
            ),
            "the other bound is rolled out",
        )
        await until(lambda: _longer(raw, key), "the session follows")
    space.patch("membackend/shared", tenants={"maxTTL": None})
    resource = await space.until(
        "memres/support",
        lambda body: (
            body["status"]["effective"]["ttl"] == "24h"
            and condition(body, "PolicyApplied")["reason"] == "Applied"
        ),
        "it is free again",
    )
    # A quota that every memory must set, and places for two memories.
    space.resource("second")
    await space.ready("memres/second")
    space.resource("third")
    await space.ready("memres/third", "TooManyResources")
    space.kubectl("delete", "memres/second")
    await space.ready("memres/third")
    space.patch("membackend/shared", tenants={"requireQuotas": ["Sessions"]})
    resource = await space.ready("memres/support", "InvalidSpec")
    assert "spec.quotas.sessions.hard" in condition(resource, "Ready")["message"]
    space.resource(quotas={"sessions": {"hard": 10}})
    await space.ready("memres/support")


async def _longer(raw: Any, key: str) -> bool:
    return await raw.pttl(key) > 3_700_000


@pytest.mark.asyncio
async def test_no_isolation_has_to_be_acknowledged(space: Space, valkey_server: Server):
    endpoints = [f"127.0.0.1:{valkey_server.port}"]
    space.backend(endpoints=endpoints, access={"mode": "Shared"})
    backend = await space.ready("membackend/shared", "IsolationNotAcknowledged")
    assert condition(backend, "Stalled")["status"] == "True"
    space.backend(endpoints=endpoints, access={"mode": "Shared", "acknowledgeNoIsolation": True})
    backend = await space.ready("membackend/shared")
    assert "every other tenant" in condition(backend, "Ready")["message"]
    async with valkey_server.client() as raw:
        rules = ("on", f">{PASSWORD}", "~*", "+@all", "-acl|setuser")
        await raw.execute_command("ACL", "SETUSER", "limited", *rules)
        try:
            space.secret("login", username=b"limited", password=PASSWORD.encode())
            space.backend(endpoints=endpoints, authRef={"name": "login"})
            backend = await space.until(
                "membackend/shared",
                lambda body: "ACL SETUSER" in condition(body, "Ready")["message"],
                "it cannot make users",
            )
            assert condition(backend, "Ready")["status"] == "True"
        finally:
            await raw.execute_command("ACL", "DELUSER", "limited")
