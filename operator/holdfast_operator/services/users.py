"""The users of bindings: what they are called, removing them, and sweeping out those left behind."""

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

from holdfast.errors import AccessDenied, HoldfastError, PolicyInvalid, StoreUnavailable
from holdfast.store.access import UserName, user_name, users_of
from holdfast_operator.backend import AccessMode
from holdfast_operator.reasons import ConditionType
from holdfast_operator.resources import MemoryBackend, MemoryBinding
from holdfast_operator.services.backends import BackendService
from holdfast_operator.services.conditions import is_true
from holdfast_operator.services.objects import mapping, namespace_of, uid_of
from holdfast_operator.services.outcome import Obstacle, Outcome
from holdfast_operator.services.ports import (
    Body,
    Clock,
    Cluster,
    ClusterUnavailable,
    Leadership,
)

_log: Final = logging.getLogger("holdfast.operator")

SWEEP: Final = 60.0
"""Seconds between two sweeps of the users of a backend."""
CERTAIN: Final = 3.0
"""Seconds that commands about users may take, and for which we have to lead for certain."""

T = TypeVar("T")

_HEX: Final = re.compile(r"[0-9a-f]{8}")


class Users:
    """Names and removes users.

    Args:
        cluster: what is in the cluster.
        backends: hands out the connections.
        leader: says how long we lead for certain; None: there is no other operator.
    """

    def __init__(
        self, cluster: Cluster, backends: BackendService, leader: Leadership | None = None
    ) -> None:
        self._cluster = cluster
        self._backends = backends
        self._leader = leader

    async def change(self, work: Callable[[], Awaitable[T]]) -> T:
        """Send commands about users, if it is certain that they arrive while we lead.

        A server cannot refuse those of a leader that is none any more, as it does with everything else.

        Raises:
            ClusterUnavailable: it is not certain.
            StoreUnavailable: they took too long.
        """
        if self._leader is not None and not self._leader.sure(CERTAIN):
            raise ClusterUnavailable("it is not certain that this operator still leads")
        try:
            async with asyncio.timeout(CERTAIN):
                return await work()
        except TimeoutError:
            raise StoreUnavailable("the servers did not take the change of users in time") from None

    async def name(self, binding: MemoryBinding) -> str:
        """Return the name of a binding's user.

        Raises:
            ClusterUnavailable: the API server does not say which cluster this is.
        """
        metadata = binding.metadata
        return user_name(
            cluster=hexadecimal(await self._cluster.cluster_id()),
            namespace=namespace_of(metadata),
            binding=metadata.name,
            uid=hexadecimal(uid_of(metadata)),
        )

    async def remove(self, binding: MemoryBinding, reference: str) -> bool:
        """Remove the user of a binding from a backend, with its connections.

        Args:
            binding: whose.
            reference: namespace and name of the backend.

        Returns:
            False where it may still be there, because the server could not be asked. A backend that
            is gone takes its users out of our reach.
        """
        home, _, name = reference.partition("/")
        body = self._cluster.backend(home, name)
        if body is None:
            return True
        try:
            backend = MemoryBackend.from_body(body)
        except PolicyInvalid:
            return False
        try:
            access, user = await self._backends.access(backend), await self.name(binding)
            await self.change(lambda: access.revoke(user))
        except AccessDenied:
            # Where others make the users there is none of ours, and none that we could remove.
            return backend.spec.access.mode is not AccessMode.MANAGED_ACL
        except (Obstacle, HoldfastError):
            return False
        return True


class SweptBackends:
    """Reconciles MemoryBackends, and removes the users of bindings that are gone.

    A binding that was deleted while the server was away, or the operator, leaves a user with a valid
    password behind. Users of other clusters, and of namespaces that are not served here, are nobody's
    business; nor are those of bindings that exist: their own looks see to them.

    Args:
        backends: does the reconciling.
        users: removes those of bindings.
        cluster: knows which bindings there are.
        clock: for the time between sweeps.
    """

    def __init__(
        self, backends: BackendService, users: Users, cluster: Cluster, clock: Clock
    ) -> None:
        self._backends = backends
        self._users = users
        self._cluster = cluster
        self._clock = clock
        self._swept: dict[str, float] = {}

    async def reconcile(self, body: Body) -> Outcome:
        """Look at a backend, and sweep its users when it is time.

        Raises:
            ClusterUnavailable: the API server does not answer; nothing can be said.
        """
        outcome = await self._backends.reconcile(body)
        try:
            backend = MemoryBackend.from_body(body)
        except PolicyInvalid:
            return outcome
        status = outcome.status or backend.status
        now, uid = self._clock.monotonic(), uid_of(backend.metadata)
        due = now - self._swept.get(uid, -SWEEP) >= SWEEP
        managed = backend.spec.access.mode is AccessMode.MANAGED_ACL
        if due and managed and is_true(status, ConditionType.READY):
            await self._sweep(backend)
            self._swept[uid] = now
        return outcome

    async def finalize(self, body: Body) -> Outcome:
        """Let a backend go; see `BackendService.finalize`."""
        outcome = await self._backends.finalize(body)
        if outcome.again is None:
            self._swept.pop(str(mapping(body.get("metadata")).get("uid")), None)
        return outcome

    async def _sweep(self, backend: MemoryBackend) -> None:
        """Remove what nobody has any more. A failure is no fault of the backend: the next one follows."""
        where = f"{namespace_of(backend.metadata)}/{backend.metadata.name}"
        try:
            access = await self._backends.access(backend)
            start = users_of(hexadecimal(await self._cluster.cluster_id()))
            for name in sorted(await access.users(start)):
                if self._is_stray(name, start):
                    await self._users.change(partial(access.revoke, name))
                    _log.warning("memorybackends/%s: a user without a binding was removed", where)
        except (Obstacle, HoldfastError, ClusterUnavailable) as error:
            _log.warning("memorybackends/%s: users not swept: %s", where, type(error).__name__)

    def _is_stray(self, name: str, start: str) -> bool:
        user = UserName.parse(name)
        if user is None or not name.startswith(start) or not self._cluster.watches(user.namespace):
            return False
        body = self._cluster.binding(user.namespace, user.binding)
        uid = str(mapping(mapping(body).get("metadata")).get("uid"))
        return body is None or hexadecimal(uid)[: len(user.uid)] != user.uid


def hexadecimal(text: str) -> str:
    """Return an id that begins with 8 hexadecimal digits: the id itself where it does, else its hash."""
    digits = text.replace("-", "").lower()
    if _HEX.match(digits):
        return digits
    return hashlib.sha256(text.encode()).hexdigest()
