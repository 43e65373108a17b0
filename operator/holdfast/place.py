"""Where a handle reads and writes: one session, and what this process knows of it."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, TypeVar

from holdfast.copies import Question
from holdfast.errors import AccessDenied, HoldfastError, PolicyNotFound, StoreUnavailable
from holdfast.fallback import Ask, Fallback, Form
from holdfast.messages import Preparer
from holdfast.policies import Agreement, PolicyFeed
from holdfast.policy import FailureMode, FlushingStrategy
from holdfast.store import SessionStore
from holdfast.store.pool_in_use import PoolInUse
from holdfast.store.refusals import session_vanished
from holdfast.telemetry import Call, Telemetry, Watch
from holdfast.values import FlushResult, MemoryAddress, Prepared

T = TypeVar("T")


class Flushing(Protocol):
    """Flushes sessions: `holdfast.flushing.Flusher`."""

    def appended(
        self,
        place: "Place",
        agreed: Agreement,
        *,
        tokens: int,
        messages: int,
        came: Sequence[Prepared],
    ) -> None:
        """Start a flush in the background if one is due."""
        ...

    async def flush(
        self, place: "Place", strategy: FlushingStrategy | None, *, dry_run: bool = False
    ) -> FlushResult:
        """Flush a session now."""
        ...


class Place:
    """Where a handle reads and writes: one session, found with the first call.

    The key of a session follows from the policy's key template, which only the policy in force knows.

    Args:
        memory: the memory's address.
        policies: the policy in force.
        preparer: encodes and counts messages.
        key_of: makes the session's encoded key for a key template.
        open: makes the handle in the store for a key.
        flusher: flushes the session.
        fallback: answers reads while the store does not.

    Attributes:
        epoch: of the session as last seen; 0 when never seen.
        seen: highest sequence number acknowledged in that epoch.
        corrupt: records that could not be read so far.
    """

    def __init__(
        self,
        memory: MemoryAddress,
        policies: PolicyFeed,
        preparer: Preparer,
        *,
        key_of: Callable[[str | None], str],
        open: Callable[[str], SessionStore],
        flusher: Flushing,
        fallback: Fallback,
    ) -> None:
        self.flusher = flusher
        self.fallback = fallback
        self.memory = memory
        self.policies = policies
        self.preparer = preparer
        self.epoch = 0
        self.seen = 0
        self.corrupt = 0
        self._lasts = 0.0  # until then the session cannot have ended by itself: monotonic seconds
        self._revision = 0  # of the policy that says so
        self._key_of = key_of
        self._open = open
        self._key: str | None = None
        self._store: SessionStore | None = None

    def again(self) -> "Place":
        """Return a place for the same session that has seen nothing."""
        return Place(
            self.memory,
            self.policies,
            self.preparer,
            key_of=self._key_of,
            open=self._open,
            flusher=self.flusher,
            fallback=self.fallback,
        )

    @property
    def session_name(self) -> str:
        """The session among all of the client; after `agreed`."""
        return f"{self.memory}/{self._key}"

    @property
    def store(self) -> SessionStore:
        """The session in the store; after `agreed`."""
        assert self._store is not None
        return self._store

    async def agreed(self) -> Agreement:
        """Return the agreement in force, and find the session at the first time."""
        agreement = await self.policies.current()
        self._find(agreement)
        return agreement

    async def answer(self, question: Question, ask: Ask[T], form: Form[T]) -> T:
        """Answer a read: as the store does, or else as the policy's `failureMode` says.

        Args:
            question: what is asked.
            ask: asks the store for it.
            form: how the answer is kept.

        Raises:
            StoreUnavailable: the policy wants that, or the same was not read before.
            Whatever `ask` raises.
        """
        try:
            agreed = await self._agreed_to_read()
            assert self._key is not None
            return await self.fallback.ask(self._key, question, ask, form, agreed=agreed)
        except StoreUnavailable as error:
            return self.fallback.instead(self._key, question, form, error)
        except (AccessDenied, PolicyNotFound) as error:
            self.fallback.refused(error)
            raise

    @contextmanager
    def forgetting(self) -> Generator[None]:
        """Drop what was read of the session, before a call that takes messages out and after it."""
        self._forget_copies()
        try:
            yield
        finally:
            self._forget_copies()

    def _forget_copies(self) -> None:
        last = self.policies.last
        if last is not None:
            self._find(last)
        if self._key is not None:
            self.fallback.forget(self._key)

    async def _agreed_to_read(self) -> Agreement:
        """Return the agreement in force; or the last one, where reads go on without the store."""
        try:
            return await self.agreed()
        except StoreUnavailable as error:
            last = self.policies.last
            strict = isinstance(error, PoolInUse) or self.fallback.mode is FailureMode.STRICT
            if last is None or strict:
                raise
            self._find(last)
            return last

    def _find(self, agreement: Agreement) -> None:
        if self._store is None:
            self._key = self._key_of(agreement.policy.key_template)
            self._store = self._open(self._key)

    def note(self, epoch: int, seen: int) -> None:
        """Remember what the store acknowledged."""
        if epoch > self.epoch:
            self.epoch, self.seen = epoch, seen
        elif epoch == self.epoch:
            self.seen = max(self.seen, seen)

    def acknowledged(self, epoch: int, seen: int, agreed: Agreement, *, sent: float) -> None:
        """Remember an append that was acknowledged.

        Args:
            epoch: of the session.
            seen: the highest sequence number of what was appended.
            agreed: what the append went by.
            sent: when it was sent, in monotonic seconds: the store renewed the expiry later than that.
        """
        self.note(epoch, seen)
        self._lasts = sent + agreed.lasting
        self._revision = agreed.terms.revision

    @property
    def sure(self) -> bool:
        """Whether the session, as last seen, cannot have ended by itself."""
        return self.seen > 0 and time.monotonic() < self._lasts

    async def account(self) -> None:
        """Say that a session vanished of which a call was sure, once. One round trip.

        Returns where it may have ended by itself after all: time went by, or others wrote under a policy
        by which a session lives shorter.

        Raises:
            AcknowledgedLost: it may not.
        """
        seen, lasts = self.seen, self._lasts
        self.seen, self._lasts = 0, 0.0
        answered = time.monotonic()
        await self.policies.refresh()
        last = self.policies.last
        if answered < lasts and last is not None and last.terms.revision == self._revision:
            raise session_vanished(seen)

    @property
    def telemetry(self) -> Telemetry:
        """Tells observers what happens in the memory."""
        return self.policies.telemetry

    def naming(self, call: Call | None = None) -> "Naming":
        """Say in errors which memory and session they are about.

        Args:
            call: what observers are told of; None for a part of a call.
        """
        return Naming(self, call)

    def name(self, error: HoldfastError) -> None:
        """Say in an error which memory and session it is about, unless it does."""
        error.memory = error.memory or str(self.memory)
        error.session = error.session or self._key


class Nameable(Protocol):
    """What a call is about."""

    @property
    def telemetry(self) -> Telemetry:
        """Tells observers what happens in the memory."""
        ...

    def name(self, error: HoldfastError) -> None:
        """Say in an error which memory and session it is about, unless it does."""
        ...


class Naming:
    """A call, or a part of one; made by `Place.naming`.

    A class, because it stands around every call: a generator takes several times as long.

    Args:
        place: what the call is about.
        call: what observers are told of; None for a part of a call.
    """

    __slots__ = ("_call", "_place", "_watch")

    def __init__(self, place: Nameable, call: Call | None) -> None:
        self._place = place
        self._call = call
        self._watch: Watch | None = None

    def __enter__(self) -> None:
        """The call begins."""
        if self._call is not None:
            self._watch = self._place.telemetry.begin(self._call)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Complete the error, and tell observers of the end."""
        if isinstance(error, HoldfastError):
            self._place.name(error)
        if self._watch is not None:
            self._watch.end(error)
