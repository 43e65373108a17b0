"""The cluster, from what the watches have seen and what has to be asked for."""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

from holdfast_operator.services.objects import mapping
from holdfast_operator.services.ports import (
    Body,
    ClusterUnavailable,
    ConfigMap,
    Namespace,
    Secret,
)
from holdfast_operator.storage.kubernetes import Kubernetes
from holdfast_operator.storage.mirror import Key, Kind, Mirror, read_namespace
from holdfast_operator.storage.secrets import read_secret, secret_path

_FRESH: Final = 10.0
"""Seconds for which a namespace that is not watched is not asked for again."""


class WatchedCluster:
    """A cluster behind an API server.

    Args:
        kubernetes: for what is not watched: Secrets, always by name, and namespaces where only some
            are served.
        mirror: what the watches have seen.
        namespaces: the ones that are served; empty for all.
        cluster_id: what tells this cluster from others; None takes the uid of `kube-system`.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        kubernetes: Kubernetes,
        mirror: Mirror,
        *,
        namespaces: Collection[str] = (),
        cluster_id: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kubernetes = kubernetes
        self._mirror = mirror
        self._served = frozenset(namespaces)
        self._cluster_id = cluster_id
        self._clock = clock
        self._asked: dict[str, tuple[float, Namespace]] = {}
        self._asking: dict[str, asyncio.Task[Namespace | None]] = {}

    def watches(self, namespace: str) -> bool:
        """Whether objects of this namespace are seen at all."""
        return not self._served or namespace in self._served

    def backend(self, namespace: str, name: str) -> Body | None:
        """Return a MemoryBackend as it was seen last."""
        return self._mirror.get(Key(Kind.BACKEND, namespace, name))

    def resource(self, namespace: str, name: str) -> Body | None:
        """Return a MemoryResource as it was seen last."""
        return self._mirror.get(Key(Kind.RESOURCE, namespace, name))

    def binding(self, namespace: str, name: str) -> Body | None:
        """Return a MemoryBinding as it was seen last."""
        return self._mirror.get(Key(Kind.BINDING, namespace, name))

    def resources_on(self, namespace: str, name: str) -> Sequence[Body]:
        """Return the MemoryResources that name a backend, as they were seen last."""
        return self._mirror.resources_on(namespace, name)

    def memories(self) -> Sequence[Body]:
        """Return every MemoryResource, as they were seen last."""
        return self._mirror.memories()

    async def namespace(self, name: str, *, newest: bool = False) -> Namespace | None:
        """Return a namespace: as seen last, else by asking; see `Cluster.namespace`."""
        if newest:
            return await self._newest(name)
        seen = self._mirror.namespace(name)
        if seen is not None:
            return seen
        asked = self._asked.get(name)
        if asked is not None and self._clock() - asked[0] < _FRESH:
            return asked[1]
        return await self._ask(name)

    async def _newest(self, name: str) -> Namespace | None:
        """Ask for a namespace, together with all who came before the request began: a thousand ask twice."""
        if name in self._asking:
            # It began before we came. Whoever waited for it and is first asks for all the others.
            await asyncio.wait([self._asking[name]])
        if name not in self._asking:
            self._asking[name] = asyncio.create_task(self._ask(name))
            self._asking[name].add_done_callback(lambda _: self._asking.pop(name))
        return await asyncio.shield(self._asking[name])

    async def _ask(self, name: str) -> Namespace | None:
        now = self._clock()
        body = await self._kubernetes.get(f"/api/v1/namespaces/{name}")
        if body is None:
            self._asked.pop(name, None)
            return None
        if self._mirror.namespace(name) is not None:  # its watch may be behind those of our kinds
            self._mirror.put_namespace(body)
        namespace = read_namespace(body)
        self._asked[name] = (now, namespace)
        return namespace

    async def secret(self, namespace: str, name: str) -> Secret | None:
        """Return a Secret by its name. One request; nothing is kept."""
        body = await self._kubernetes.get(secret_path(namespace, name))
        return None if body is None else read_secret(body)

    async def config_map(self, namespace: str, name: str) -> ConfigMap | None:
        """Return a ConfigMap by its name. One request; nothing is kept."""
        body = await self._kubernetes.get(f"/api/v1/namespaces/{namespace}/configmaps/{name}")
        if body is None:
            return None
        metadata, data = mapping(body.get("metadata")), mapping(body.get("data"))
        return ConfigMap(
            name=name,
            version=str(metadata.get("resourceVersion")),
            data={str(key): str(value) for key, value in data.items()},
        )

    async def cluster_id(self) -> str:
        """Return what tells this cluster from others. One request at most, once."""
        if self._cluster_id is None:
            namespace = await self.namespace("kube-system")
            if namespace is None:
                raise ClusterUnavailable("there is no namespace kube-system: give --cluster-id")
            self._cluster_id = namespace.uid
        return self._cluster_id
