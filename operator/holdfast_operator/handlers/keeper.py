"""Keeping objects: one task for each, that looks when something rings, or when it is time.

The task never ends by itself. Kopf retries what a daemon raises, but a status write of its own that
fails ends the daemon for good; so rounds and writes happen here, inside the daemon, and whatever goes
wrong in a round is logged and followed by the next one.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import kopf

from holdfast_operator.handlers.echoes import Echoes
from holdfast_operator.handlers.first_looks import FirstLooks
from holdfast_operator.handlers.settings import DELETION_GOES_ON, FINALIZER
from holdfast_operator.handlers.wakers import Wakers
from holdfast_operator.logs import about
from holdfast_operator.services.objects import mapping
from holdfast_operator.services.observing import Fault, Observer, Unobserved
from holdfast_operator.services.observing import Step as Looking
from holdfast_operator.services.outcome import EventType, Outcome
from holdfast_operator.services.ports import Body, ClusterConflict, ClusterError
from holdfast_operator.storage.mirror import Key, Kind, Mirror

_log: Final = logging.getLogger("holdfast.operator")

Step: TypeAlias = Callable[[Body], Awaitable[Outcome]]
"""What a service does with an object."""

_FIRST_RETRY, _LAST_RETRY = 0.2, 15.0
_MANY: Final = 6
"""Conflicts in a row that are no coincidence: six seconds."""
_MOST_BLOCKED: Final = 30.0
_SHORTEST_DELAY: Final = 0.1
_UNHELD: Final = 5.0
_UNEXPECTED: Final = "something unexpected went wrong: see the operator's log"


class Writer(Protocol):
    """Writes the status of objects, and removes what has had its time."""

    async def put_status(self, key: Key, version: str, status: Body) -> Body | None:
        """Write the whole status; see `Kubernetes.put_status`."""
        ...

    async def remove(self, key: Key, uid: str) -> None:
        """Delete an object; see `Kubernetes.remove`."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """What the services do with one kind."""

    reconcile: Step
    finalize: Step


class Keeper:
    """Keeps the objects of our kinds.

    Args:
        services: by kind.
        mirror: the newest states.
        wakers: the bells.
        writer: of status.
        interval: seconds between looks at an object at rest; each varies by a tenth.
        observer: told how each look went.
        echoes: told what was written.
        first_looks: places for the first look at each object.
    """

    def __init__(
        self,
        services: dict[Kind, Services],
        mirror: Mirror,
        wakers: Wakers,
        writer: Writer,
        *,
        interval: float,
        observer: Observer | None = None,
        echoes: Echoes | None = None,
        first_looks: FirstLooks | None = None,
    ) -> None:
        self._services = services
        self._mirror = mirror
        self._wakers = wakers
        self._writer = writer
        self._interval = interval
        self._observer = observer or Unobserved()
        self._echoes = echoes or Echoes()
        self._locks: dict[str, asyncio.Lock] = {}
        self._first_looks = first_looks or FirstLooks()

    async def keep(self, key: Key, body: kopf.Body, stopped: kopf.DaemonStopped) -> None:
        """Look at an object until it is deleted or the operator ends."""
        try:
            await self._keep(key, body, stopped)
        except asyncio.CancelledError:
            if not stopped:
                raise  # else it is how Kopf wakes what waits, and the end we were to come to

    async def _keep(self, key: Key, body: kopf.Body, stopped: kopf.DaemonStopped) -> None:
        self._wakers.expect(key)
        failures = 0
        place: Callable[[], contextlib.AbstractAsyncContextManager[None]] = self._first_looks.place
        while not stopped:
            try:
                async with place():
                    pause = await self._round(key, body)
                failures = 0
            except ClusterConflict as error:
                # Usually a write of Kopf's: its event is on the way, and rings.
                failures += 1
                pause = _retry(failures)
                if failures == _MANY:
                    _log.warning("%s: again and again %s", _name(key), error, extra=about(body))
            except ClusterError as error:
                failures += 1
                pause = _retry(failures)
                _log.warning(
                    "%s: %s; next try in %.1f s", _name(key), error, pause, extra=about(body)
                )
            except Exception:  # noqa: BLE001 - see above: a bug in one round must not be the last one
                failures += 1
                pause = _retry(failures)
                _log.exception(
                    "%s: unexpected; next try in %.1f s", _name(key), pause, extra=about(body)
                )
            place = contextlib.nullcontext
            await self._wakers.wait(key, pause)

    async def end(self, key: Key, body: kopf.Body) -> None:
        """Do one step of a deletion.

        Raises:
            kopf.TemporaryError: there is more to do.
        """
        uid = str(body.metadata.uid)
        self._wakers.expect(key)
        async with self._lock(uid):
            current = self._current(key, uid) or body
            try:
                with self._observed(key, Looking.FINALIZE):
                    outcome = await self._services[key.kind].finalize(current)
                    await self._report(key, body, current, outcome)
            except ClusterConflict:
                raise kopf.TemporaryError(DELETION_GOES_ON, delay=0.5) from None
            except ClusterError as error:
                raise kopf.TemporaryError(str(error), delay=2.0) from None
            except Exception:  # noqa: BLE001 - Kopf would write its text into an annotation and an event
                _log.exception(
                    "%s: unexpected; next try in %.1f s",
                    _name(key),
                    _LAST_RETRY,
                    extra=about(current),
                )
                raise kopf.TemporaryError(_UNEXPECTED, delay=_LAST_RETRY) from None
        if outcome.again is None:
            return
        if outcome.blocked:
            # Waiting here costs no request, and what ends it rings.
            await self._wakers.wait(key, min(outcome.again, _MOST_BLOCKED))
        delay = _SHORTEST_DELAY if outcome.blocked else max(outcome.again, _SHORTEST_DELAY)
        raise kopf.TemporaryError(DELETION_GOES_ON, delay=delay)

    def forget(self, uid: str) -> None:
        """Drop what is remembered of an object that is gone."""
        self._locks.pop(uid, None)

    async def _round(self, key: Key, body: kopf.Body) -> float:
        """Look once; return the seconds until the next look."""
        uid = str(body.metadata.uid)
        async with self._lock(uid):
            current = self._current(key, uid)
            if current is None or mapping(current.get("metadata")).get("deletionTimestamp"):
                return self._at_rest()
            if not _is_held(current):
                # Kopf is about to add it, and its event rings. What is made for an object that nothing
                # holds could stay for ever; and a status written now would be a conflict.
                return _UNHELD
            with self._observed(key, Looking.RECONCILE):
                outcome = await self._services[key.kind].reconcile(current)
                await self._report(key, body, current, outcome)
        return self._at_rest() if outcome.again is None else outcome.again

    async def _report(self, key: Key, body: kopf.Body, current: Body, outcome: Outcome) -> None:
        """Write the status if it changed, tell people, and ring for the backend that failed."""
        if outcome.status is not None:
            status = outcome.status.model_dump(mode="json", exclude_none=True)
            version = str(mapping(current.get("metadata")).get("resourceVersion"))
            written = await self._writer.put_status(key, version, status)
            if written is not None:
                self._observer.status_written(key.kind.value)
                if self._mirror.put(key, written):
                    self._echoes.wrote(key, written)
                    # Its event will find the mirror up to date, and ring for nobody.
                    self._wakers.wake_all(self._mirror.dependants(key))
                current = written
        if outcome.remove:
            await self._writer.remove(key, str(body.metadata.uid))
        if outcome.restarted:
            self._wakers.wake_all(self._mirror.dependants(key))
        if outcome.suspect is not None:
            self._wakers.wake(Key(Kind.BACKEND, *outcome.suspect))
        namespace = self._mirror.namespace(key.namespace)
        for event in outcome.events:
            level = logging.INFO if event.type is EventType.NORMAL else logging.WARNING
            text = "%s: %s: %s"
            _log.log(level, text, _name(key), event.reason, event.message, extra=about(current))
            # A namespace that is going away takes no events.
            if namespace is None or not namespace.terminating:
                kopf.event(
                    body, type=event.type.value, reason=event.reason, message=event.message[:1024]
                )

    @contextlib.contextmanager
    def _observed(self, key: Key, step: Looking) -> Generator[None]:
        began, fault = time.monotonic(), Fault.UNEXPECTED
        try:
            yield
            fault = Fault.NONE
        except ClusterConflict:
            fault = Fault.CONFLICT
            raise
        except ClusterError:
            fault = Fault.API_SERVER
            raise
        except asyncio.CancelledError:
            fault = Fault.NONE  # the operator ends, or the object does
            raise
        finally:
            self._observer.looked(key.kind.value, step, time.monotonic() - began, fault)

    def _current(self, key: Key, uid: str) -> Body | None:
        """Return the newest state of the object, not of another one that has its name now."""
        found = self._mirror.get(key)
        same = found is not None and mapping(found.get("metadata")).get("uid") == uid
        return found if same else None

    def _lock(self, uid: str) -> asyncio.Lock:
        return self._locks.setdefault(uid, asyncio.Lock())

    def _at_rest(self) -> float:
        return self._interval * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, no secret


def key_of(kind: Kind, body: Body) -> Key:
    """Return the key of an object."""
    metadata = mapping(body.get("metadata"))
    return Key(kind, str(metadata.get("namespace")), str(metadata.get("name")))


def _is_held(body: Body) -> bool:
    finalizers = mapping(body.get("metadata")).get("finalizers")
    return isinstance(finalizers, list) and FINALIZER in finalizers


def _retry(failures: int) -> float:
    return min(_LAST_RETRY, _FIRST_RETRY * 2 ** min(failures - 1, 10))


def _name(key: Key) -> str:
    return f"{key.kind.value}/{key.namespace}/{key.name}"
