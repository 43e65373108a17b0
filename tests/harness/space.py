"""A namespace of a test on a real API server, and what tests of the operator do in it."""

import asyncio
import json
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from holdfast.client import Client
from holdfast.store.redis import RedisStore
from holdfast.values import MemoryAddress
from tests.harness.control_plane import ControlPlane
from tests.harness.servers import Server
from tests.harness.waiting import until

LOOKS = 0.1
"""Seconds between two looks at an object: each is a request that the API server answers."""


@dataclass(frozen=True)
class Space:
    """A namespace of a test, and how to look into it."""

    plane: ControlPlane
    namespace: str
    server: Server

    def apply(self, manifest: str) -> None:
        self.plane.administrator.apply(self.namespace, textwrap.dedent(manifest))

    def kubectl(self, *arguments: str) -> str:
        return self.plane.kubectl(f"--namespace={self.namespace}", *arguments)

    def get(self, what: str) -> dict[str, Any]:
        """Return an object: `memres/support`."""
        return self.plane.administrator.get(self.namespace, what)

    def exists(self, what: str) -> bool:
        return self.plane.administrator.find(self.namespace, what) is not None

    def backend(self, name: str = "shared", *, port: int | None = None, more: str = "") -> None:
        self.apply(
            f"""
            apiVersion: holdfast.dev/v1alpha1
            kind: MemoryBackend
            metadata: {{name: {name}}}
            spec: {{endpoints: ["127.0.0.1:{port or self.server.port}"]{more}}}
            """
        )

    def resource(self, name: str = "support", **spec: Any) -> None:
        standard = {"backendRef": {"name": "shared"}, "retention": {"ttl": "24h"}}
        manifest = {
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": "MemoryResource",
            "metadata": {"name": name},
            "spec": {**standard, **spec},
        }
        self.apply(json.dumps(manifest))

    def erasure(self, name: str = "order", **spec: Any) -> None:
        self.apply(json.dumps(erasure_manifest(name, **spec)))

    def secret(self, *, labelled: bool, password: str) -> None:
        label = '{holdfast.dev/credentials: "backend"}' if labelled else "{}"
        self.apply(
            f"""
            apiVersion: v1
            kind: Secret
            metadata: {{name: login, labels: {label}}}
            stringData: {{username: default, password: {password}}}
            """
        )

    async def ready(
        self, what: str, reason: str = "Available", *, deadline: float = 120
    ) -> dict[str, Any]:
        """Wait until an object's Ready has this reason, and return the object."""
        return await self.until(
            what, lambda body: condition(body, "Ready")["reason"] == reason, reason, deadline
        )

    async def until(
        self,
        what: str,
        holds: Callable[[dict[str, Any]], bool],
        hint: str,
        deadline: float = 120,
    ) -> dict[str, Any]:
        last: dict[str, Any] = {}

        async def look() -> bool:
            nonlocal last
            # In a thread: a proxy of the test lives in this loop, and goes on meanwhile.
            last = await asyncio.to_thread(self.get, what)
            return holds(last)

        try:
            await until(look, f"{what}: {hint}", deadline=deadline, every=LOOKS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(last.get('status'), indent=1)}") from None
        return last

    async def gone(self, what: str, *, deadline: float = 120) -> None:
        async def gone() -> bool:
            return not await asyncio.to_thread(self.exists, what)

        await until(gone, f"{what} is gone", deadline=deadline, every=LOOKS)

    async def told(self, reason: str, *, deadline: float = 120) -> None:
        """Wait until an event of the namespace has this reason: one is written after the status."""

        def reasons() -> set[str]:
            events = self.plane.administrator.all(self.namespace, "event")
            return {event["reason"] for event in events}

        async def there() -> bool:
            return reason in await asyncio.to_thread(reasons)

        await until(there, f"people are told {reason}", deadline=deadline, every=LOOKS)

    def delete(self, what: str) -> None:
        self.plane.administrator.delete(self.namespace, what)

    def address(self, name: str = "support") -> MemoryAddress:
        return MemoryAddress(self.namespace, name)

    def annotate(self, what: str, *annotations: str) -> None:
        self.plane.administrator.annotate(self.namespace, what, *annotations)

    def patch(self, what: str, spec: str) -> None:
        self.plane.administrator.merge(self.namespace, what, {"spec": json.loads(spec)})


def condition(body: dict[str, Any], of: str) -> dict[str, Any]:
    """Return a condition; an empty one that has no reason when it is not there."""
    found = [item for item in body["status"]["conditions"] if item["type"] == of]
    return found[0] if found else {"status": "", "reason": ""}


def erasure_manifest(name: str = "order", **spec: Any) -> dict[str, Any]:
    """A MemoryErasure of sessions of the memory `support`."""
    return {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "MemoryErasure",
        "metadata": {"name": name},
        "spec": {"memoryRef": {"name": "support"}, **spec},
    }


def client_of(server: Server, namespace: str) -> Client:
    return Client(RedisStore.from_url(server.url), namespace=namespace)


async def write_sessions(client: Client, name: str, count: int, *, messages: int = 1) -> None:
    """Make sessions `s0` ... with so many messages each."""
    memory = client.memory(name)
    batch = [{"role": "user", "content": f"message {number}"} for number in range(messages)]

    async def write(first: int) -> None:
        for number in range(first, count, 32):
            await memory.session(f"s{number}").append_many(batch)

    await asyncio.gather(*(write(first) for first in range(32)))


async def keys_of(redis: Redis, space: Space) -> list[str]:
    return [key.decode() async for key in redis.scan_iter(f"mem:{{{space.namespace}/*", count=1000)]


def delete_namespace(space: Space) -> None:
    """Delete a namespace as the controller manager would: its objects first, then itself."""
    plane, name = space.plane, space.namespace
    plane.kubectl("delete", "namespace", name, "--wait=false")
    plane.kubectl("delete", "memres,membackend", "--all", f"--namespace={name}", "--timeout=60s")
    body = json.loads(plane.kubectl("get", "namespace", name, "-o", "json"))
    body["spec"]["finalizers"] = []
    path = f"/api/v1/namespaces/{name}/finalize"
    plane.kubectl("replace", "--raw", path, "-f", "-", input=json.dumps(body))
