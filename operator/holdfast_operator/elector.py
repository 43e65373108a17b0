"""Keeping the leader's lease: a task that renews it, and a thread that ends the process without it."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from holdfast_operator.leadership import Candidate, Lease, LeaseHasNoPlace, Times
from holdfast_operator.services.ports import ClusterConflict, ClusterError

_log: Final = logging.getLogger("holdfast.operator")

_LOOK: Final = 0.25
"""Seconds between looks of the watchdog: waits of threads do not count the time a computer sleeps."""


def uptime() -> float:
    """Return seconds that never jump and go on while the computer sleeps, where it can tell."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def minutes_since_1970() -> int:
    """Return the floor of epochs: as large as any that a lease of earlier can have reached."""
    return int(time.time() // 60)


class Store(Protocol):
    """Where the lease is; see `storage.leases.Leases`."""

    async def read(self) -> Lease | None:
        """Return the lease."""
        ...

    async def write(self, lease: Lease) -> Lease:
        """Write it if it is as it was."""
        ...


class Alone:
    """The leadership of an operator that is the only one by its owner's word.

    Args:
        epoch: of its writes.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def leads(self) -> bool:
        """Whether this process leads now: always."""
        return True

    def sure(self, seconds: float) -> bool:  # noqa: ARG002 - the protocol's
        """Whether it leads for so many seconds: always."""
        return True

    def can_lead(self) -> bool:
        """Whether it can lead: always."""
        return True


class Elector:
    """Takes the lease, keeps it, and gives it up.

    Args:
        store: of the lease.
        name: of this process, that no other has or had.
        times: how the lease is kept.
        end: ends the process at once, with a sentence; called from any thread.
        clock: see `uptime`.
        floor: the least epoch of a leader that begins now.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        times: Times,
        *,
        end: Callable[[str], None],
        clock: Callable[[], float] = uptime,
        floor: Callable[[], int] = minutes_since_1970,
    ) -> None:
        self._store = store
        self._times = times
        self._end = end
        self._clock = clock
        self._floor = floor
        self._candidate = Candidate(name, times)
        self._answered: float | None = None
        self._fault = ""
        self._stopped = threading.Event()

    @property
    def epoch(self) -> int:
        """The epoch of this leader."""
        return self._candidate.epoch

    @property
    def leads(self) -> bool:
        """Whether this process leads now."""
        return self._candidate.left(self._clock()) > 0

    def sure(self, seconds: float) -> bool:
        """Whether this process leads for so many seconds from now, whatever happens."""
        return self._candidate.left(self._clock()) > max(seconds, 0.0)

    def can_lead(self) -> bool:
        """Whether the lease could be asked for lately, so that this process can take it when it is free."""
        answered = self._answered
        return answered is not None and self._clock() - answered < self._times.lease

    async def acquire(self, stop: asyncio.Event) -> bool:
        """Wait until this process leads; False when it was told to stop before.

        Raises:
            LeaseHasNoPlace: there is no namespace for the lease.
        """
        waits = False
        while not stop.is_set():
            await self._attempt()
            if self._candidate.leads:
                watchdog = threading.Thread(target=self._watch, name="lease", daemon=True)
                watchdog.start()
                return True
            if not waits and self.can_lead():
                waits = True
                _log.info("Another operator leads; this one waits until it can.")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._times.retry):
                    await stop.wait()
        return False

    async def keep(self) -> None:
        """Renew the lease until cancelled; ends the process when it is another's."""
        while True:
            renewed = await self._attempt()
            if self._candidate.lost:
                self._end(f"The leader's lease is lost: {self._candidate.lost}. This process ends.")
            await asyncio.sleep(self._times.retry / (1 if renewed else 4))

    async def release(self) -> None:
        """Give the lease up, once nothing is written any more. A lease that cannot be told so runs out."""
        self._stopped.set()
        if not self.leads:
            return
        try:
            # A renewal that was cut off may have been written: then the lease is ours, and another version.
            given_up = await self._resign() or await self._resign()
        except (ClusterError, TimeoutError):
            given_up = False
        self._candidate.resigned()
        if given_up:
            _log.info("The lease is given up.")
        else:
            _log.warning(
                "The lease could not be given up; another operator leads when it runs out."
            )

    async def _resign(self) -> bool:
        resignation = self._candidate.resignation()
        if resignation is None:
            return False
        async with asyncio.timeout(self._times.request):
            try:
                await self._store.write(resignation)
            except ClusterConflict:
                self._candidate.saw(await self._store.read(), self._clock())
                return False
        return True

    async def _attempt(self) -> bool:
        """Look, and write if there is something to write; False when that failed."""
        try:
            await self._look_and_write()
        except ClusterConflict:
            return False  # somebody was faster: the next look shows who
        except TimeoutError:
            self._note(f"the API server did not answer within {self._times.request:g} s")
            return False
        except LeaseHasNoPlace:
            if not self._candidate.leads:
                raise
            return False
        except ClusterError as error:
            self._note(str(error))
            return False
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return False  # it was a part of the request that was cancelled, by Kopf at its end
        if self._fault:
            _log.info("The lease can be reached again.")
        self._fault, self._answered = "", self._clock()
        return True

    async def _look_and_write(self) -> None:
        candidate = self._candidate
        if candidate.leads and await self._renew():
            return
        async with asyncio.timeout(self._times.request):
            lease = await self._store.read()
        self._answered = self._clock()
        candidate.saw(lease, self._answered)
        if not candidate.lost:
            await self._write()

    async def _renew(self) -> bool:
        """Write at once, without a look; False when the lease is not as it was."""
        try:
            await self._write()
        except ClusterConflict:
            return False
        return True

    async def _write(self) -> None:
        draft = self._candidate.draft(self._clock(), self._floor())
        if draft is None:
            return
        began = self._clock()
        async with asyncio.timeout(self._times.request):
            written = await self._store.write(draft)
        self._candidate.wrote(written, began)

    def _note(self, fault: str) -> None:
        if fault != self._fault:
            _log.warning("The lease cannot be reached: %s.", fault)
            self._fault = fault

    def _watch(self) -> None:
        """End the process at the deadline, even if nothing else in it runs any more."""
        while (left := self._candidate.left(self._clock())) > 0:
            if self._stopped.wait(min(left, _LOOK)):
                return
        if not self._stopped.is_set() and not self._candidate.lost:
            self._end(
                f"The leader's lease was not renewed for {self._times.deadline:g} s: another operator may "
                "lead soon. This process ends."
            )
