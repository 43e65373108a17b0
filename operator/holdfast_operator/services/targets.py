"""Where a memory is kept: its backend, whether it may be there, and the connection."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from holdfast.errors import HoldfastError, PolicyInvalid, UnknownKeys
from holdfast.keys import memory_prefix
from holdfast.store.maintenance import LayoutTooNew, Maintenance, Owner
from holdfast.values import MemoryAddress
from holdfast_operator.reasons import ConditionType, ReadyReason
from holdfast_operator.resources import MemoryBackend, MemoryResource
from holdfast_operator.services.access import allows
from holdfast_operator.services.backends import BackendService
from holdfast_operator.services.conditions import is_true, reason_of
from holdfast_operator.services.objects import namespace_of, uid_of
from holdfast_operator.services.outcome import Obstacle
from holdfast_operator.services.ports import Body, Cluster, ClusterUnavailable, Namespace
from holdfast_operator.services.servers import is_full

FULL: Final = (
    "The server has reached its memory limit and refuses writes: give it more memory, or shorten "
    "retention."
)

_ASKING: Final = 0.5
"""Seconds for a server that just failed us to say that it is full: most that fail do not answer."""


@dataclass(frozen=True, slots=True)
class Target:
    """A memory on its server.

    Attributes:
        backend: the MemoryBackend.
        hands: in its server.
        memory: the address under which its keys are.
        owner: whose mark those keys should carry.
    """

    backend: MemoryBackend
    hands: Maintenance
    memory: MemoryAddress
    owner: Owner

    @property
    def prefix(self) -> str:
        """Beginning of the memory's own keys."""
        return memory_prefix(self.memory, self.backend.spec.key_prefix)

    async def require_same_data(self) -> None:
        """Make sure that the server holds the data that the backend knows. One round trip.

        A server that was emptied a moment ago must not be filled again before somebody looked.

        Raises:
            Obstacle: it does not.
            HoldfastError: of the server.
        """
        server = self.backend.status.server
        if server is None or server.instance is None:
            return
        if await self.hands.instance() != server.instance:
            raise Obstacle(
                ReadyReason.SERVER_REPLACED,
                f"The server holds other data than MemoryBackend {self.backend_name} knows; see its "
                "conditions.",
            )

    @property
    def backend_uid(self) -> str:
        """Uid of the backend."""
        return uid_of(self.backend.metadata)

    @property
    def backend_name(self) -> str:
        """Namespace and name of the backend."""
        return f"{namespace_of(self.backend.metadata)}/{self.backend.metadata.name}"


class Targets:
    """Finds the target of a MemoryResource.

    Args:
        cluster: what is in the cluster.
        backends: hands out the connections.
        epoch: of the leader: servers refuse the writes of one with a lower epoch.
    """

    def __init__(self, cluster: Cluster, backends: BackendService, *, epoch: int = 0) -> None:
        self._cluster = cluster
        self._backends = backends
        self._epoch = epoch
        self._read: dict[tuple[str, str], tuple[Body, MemoryBackend]] = {}

    async def find(self, resource: MemoryResource) -> Target:
        """Return the target of a memory that may be kept there.

        Raises:
            Obstacle: why it cannot be kept there now.
            ClusterUnavailable: the API server does not answer.
        """
        namespace = await self.own_namespace(resource)
        backend = self.backend(resource)
        if backend is None:
            self.require_visible(resource)
            where, name = reference(resource)
            raise Obstacle(
                ReadyReason.BACKEND_NOT_FOUND,
                f"There is no MemoryBackend {name} in the namespace {where}.",
            )
        self._require_allowed(backend, namespace)
        self._require_ready(backend, resource)
        return await self.on(backend, resource, namespace)

    async def on(
        self, backend: MemoryBackend, resource: MemoryResource, namespace: Namespace
    ) -> Target:
        """Return the target on a backend, whether or not the memory is allowed there.

        Raises:
            Obstacle: there is no connection to be had.
            ClusterUnavailable: the API server does not answer.
        """
        metadata = resource.metadata
        owner = Owner(
            cluster=await self._cluster.cluster_id(),
            namespace_uid=namespace.uid,
            namespace=namespace.name,
            name=metadata.name,
            uid=uid_of(metadata),
            epoch=self._epoch,
        )
        hands = await self._backends.connection(backend)
        return Target(backend, hands, MemoryAddress(namespace.name, metadata.name), owner)

    def backend(self, resource: MemoryResource) -> MemoryBackend | None:
        """Return the backend that a memory names; None when there is none.

        Raises:
            Obstacle: its spec cannot be read.
        """
        where, name = reference(resource)
        body = self._cluster.backend(where, name)
        if body is None:
            self._read.pop((where, name), None)
            return None
        known = self._read.get((where, name))
        if known is not None and known[0] is body:
            return known[1]  # a thousand memories look at the same one
        try:
            backend = MemoryBackend.from_body(body)
        except PolicyInvalid:
            raise Obstacle(
                ReadyReason.BACKEND_NOT_READY,
                f"MemoryBackend {where}/{name} is not Ready: InvalidSpec. See its conditions.",
            ) from None
        self._read[where, name] = body, backend
        return backend

    def sharing_backend(self, resource: MemoryResource) -> Sequence[Body]:
        """Return every memory that names the same backend, this one among them."""
        return self._cluster.resources_on(*reference(resource))

    def require_visible(self, resource: MemoryResource) -> None:
        """Raise the obstacle of a backend in a namespace that is not watched."""
        where, name = reference(resource)
        if not self._cluster.watches(where):
            raise Obstacle(
                ReadyReason.BACKEND_NOT_VISIBLE,
                f"This operator does not watch the namespace {where} of MemoryBackend {name}: add it to "
                "the operator's namespaces, or use a backend inside them.",
            )

    async def own_namespace(self, resource: MemoryResource) -> Namespace:
        """Return the namespace that a memory is in.

        Its uid says whose the keys are. A memory that never had any may be in a namespace made again a moment
        ago, of which nothing was seen yet but this memory: taken for the one before, it would get its keys.

        Raises:
            ClusterUnavailable: the API server does not answer, or does not know the namespace.
        """
        name, is_new = namespace_of(resource.metadata), resource.status.policy_revision is None
        namespace = await self._cluster.namespace(name, newest=is_new)
        if namespace is None:
            raise ClusterUnavailable(f"the namespace {name} is gone, and its object will be")
        return namespace

    async def explain(self, target: Target, error: HoldfastError) -> Obstacle:
        """Return what an error of a target's server means for the memory."""
        match error:
            case LayoutTooNew():
                return Obstacle(
                    ReadyReason.LAYOUT_TOO_NEW,
                    f"The keys under {target.prefix} were written by a later version: upgrade this "
                    "operator.",
                )
            case UnknownKeys():
                return Obstacle(
                    ReadyReason.WRONG_KEY_TYPE,
                    f"A key under {target.prefix} holds another data type: something else writes there. "
                    "Remove it, or use a backend with another keyPrefix.",
                )
            case _:
                if await self._is_full(target):
                    return Obstacle(ReadyReason.SERVER_FULL, FULL)
                return self._backends.obstacle(error)

    async def _is_full(self, target: Target) -> bool:
        try:
            async with asyncio.timeout(_ASKING):
                return is_full(await target.hands.server())
        except (HoldfastError, TimeoutError):
            return False

    def _require_allowed(self, backend: MemoryBackend, namespace: Namespace) -> None:
        home = namespace_of(backend.metadata)
        if not allows(backend.spec, home, namespace):
            raise Obstacle(
                ReadyReason.BACKEND_NOT_ALLOWED,
                f"MemoryBackend {home}/{backend.metadata.name} does not allow the namespace "
                f"{namespace.name} (spec.allowedNamespaces). What is stored stays; ask its owner.",
            )

    def _require_ready(self, backend: MemoryBackend, resource: MemoryResource) -> None:
        status, metadata = backend.status, backend.metadata
        if is_true(status, ConditionType.READY):
            return
        reason = reason_of(status, ConditionType.READY)
        if reason == str(ReadyReason.IN_USE) and resource.status.policy_revision is not None:
            return  # it is to be deleted, and waits for us: until then all goes on
        raise Obstacle(
            ReadyReason.BACKEND_NOT_READY,
            f"MemoryBackend {namespace_of(metadata)}/{metadata.name} is not Ready: "
            f"{reason or ReadyReason.PENDING}. This object follows by itself.",
        )


def reference(resource: MemoryResource) -> tuple[str, str]:
    """Return namespace and name of the backend that a memory names."""
    ref = resource.spec.backend_ref
    return ref.namespace or namespace_of(resource.metadata), ref.name
