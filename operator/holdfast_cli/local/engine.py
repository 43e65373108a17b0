"""Runs the operator's services over the objects of local mode: one after the other, when due."""

import asyncio
import math
from collections.abc import Sequence
from typing import Final, Protocol

from holdfast_cli.local.manifests import BACKEND, ERASURE, RESOURCE, Key
from holdfast_cli.local.objects import Objects
from holdfast_operator.reasons import ConditionType
from holdfast_operator.services.backends import BackendService
from holdfast_operator.services.conditions import is_true
from holdfast_operator.services.deletions import DeletionService
from holdfast_operator.services.erasures import ErasureService
from holdfast_operator.services.objects import backend_ref, status_of
from holdfast_operator.services.outcome import Event, Outcome
from holdfast_operator.services.pacing import Paces
from holdfast_operator.services.ports import Body, Clock, Connections
from holdfast_operator.services.resources import ResourceService
from holdfast_operator.services.surveys import Surveys
from holdfast_operator.services.targets import Targets
from holdfast_operator.services.walks import Walks
from holdfast_operator.status import ResourceStatus, Status

REST: Final = 60.0
"""Seconds between looks at an object that nothing happens to."""

_DECIDED: Final = (ConditionType.READY, ConditionType.STALLED, ConditionType.CONFLICT)


class Listener(Protocol):
    """Hears what became of the objects."""

    def looked(self, key: Key, before: Body, after: Body, events: Sequence[Event]) -> None:
        """An object was looked at."""
        ...

    def gone(self, key: Key, events: Sequence[Event]) -> None:
        """The deletion of an object is done."""
        ...


class Engine:
    """Looks at each object when it is due.

    Args:
        objects: what there is.
        connections: to the server.
        clock: when.
        listener: hears of every look.
    """

    def __init__(
        self,
        objects: Objects,
        connections: Connections,
        clock: Clock,
        *,
        listener: Listener,
    ) -> None:
        paces = Paces(clock)
        walks, surveys = Walks.on(clock, paces), Surveys(objects, clock, paces)
        self._backends = BackendService(objects, connections, clock, surveys)
        targets = Targets(objects, self._backends)
        self._resources = ResourceService(targets, walks, clock)
        self._deletions = DeletionService(targets, walks, clock)
        self._erasures = ErasureService(targets, objects, clock, paces)
        self._objects = objects
        self._clock = clock
        self._listener = listener
        self._due: dict[Key, float] = {}
        self._woken = asyncio.Event()
        self._looked: set[Key] = set()

    def wake(self) -> None:
        """Look at every object now: the manifests changed."""
        for key in self._objects.names():
            self._due[key] = 0.0
        self._looked.clear()
        self._woken.set()

    def settled(self) -> bool:
        """Whether every object was looked at since the last edit, and nothing is to be expected."""
        return all(
            key in self._looked and (self._objects.is_deleting(key) or self._is_decided(key))
            for key in self._objects.names()
        )

    async def run(self) -> None:
        """Look at objects until cancelled."""
        self.wake()
        while True:
            self._woken.clear()
            now = self._clock.monotonic()
            for key in sorted(key for key, due in self._due.items() if due <= now):
                await self._look(key)
            next_due = min(self._due.values(), default=now + REST)
            try:
                async with asyncio.timeout(max(0.0, next_due - self._clock.monotonic())):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def _look(self, key: Key) -> None:
        before = self._objects.get(key)
        if before is None:
            self._due.pop(key, None)
            return
        deleting = self._objects.is_deleting(key)
        self._due[key] = math.inf  # a wake during the look is not lost
        outcome = await self._outcome(key, before, deleting=deleting)
        self._looked.add(key)
        if deleting and outcome.again is None:
            self._forget(key, outcome)
            return
        again = REST if outcome.again is None else outcome.again
        self._due[key] = min(self._due[key], self._clock.monotonic() + again)
        written = outcome.status is not None and self._objects.put_status(key, outcome.status)
        if written or outcome.restarted:
            self._wake_dependants(key)
        if outcome.suspect is not None:
            self._wake_one(Key(BACKEND, *outcome.suspect))
        self._listener.looked(key, before, self._objects.bodies()[key], outcome.events)

    async def _outcome(self, key: Key, body: Body, *, deleting: bool) -> Outcome:
        if key.kind == BACKEND:
            service = self._backends
            return await (service.finalize(body) if deleting else service.reconcile(body))
        if key.kind == ERASURE:
            orders = self._erasures
            # An order that was carried out stays as long as its manifest, which would else give it anew.
            return await (orders.finalize(body) if deleting else orders.reconcile(body))
        if deleting:
            return await self._deletions.finalize(body)
        return await self._resources.reconcile(body)

    def _forget(self, key: Key, outcome: Outcome) -> None:
        self._objects.drop(key)
        self._due.pop(key, None)
        self._listener.gone(key, outcome.events)

    def _wake_dependants(self, key: Key) -> None:
        if key.kind == BACKEND:
            for other, body in self._objects.bodies().items():
                if backend_ref(body) == (key.namespace, key.name):
                    self._wake_one(other)
        if key.kind == RESOURCE:
            for order in self._objects.erasures_of(key):
                self._wake_one(order)

    def _wake_one(self, key: Key) -> None:
        if key in self._due:
            self._due[key] = 0.0
            self._woken.set()

    def _is_decided(self, key: Key) -> bool:
        """Whether an object is Ready, or will not be before somebody does something."""
        body = self._objects.bodies()[key]
        status: Status = status_of(body, ResourceStatus)
        return status.observed_generation == body["metadata"]["generation"] and any(
            is_true(status, condition) for condition in _DECIDED
        )
