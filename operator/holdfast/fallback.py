"""What a read answers while the store is unavailable, as the policy's `failureMode` says."""

import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec

from holdfast.copies import Copies, Question
from holdfast.errors import HoldfastError, StoreUnavailable
from holdfast.policies import Agreement, PolicyFeed
from holdfast.policy import FailureMode
from holdfast.store.pool_in_use import PoolInUse
from holdfast.values import MemoryAddress, Messages, Page

_log = logging.getLogger("holdfast")

_QUIET = 60.0  # seconds between two lines in the log about the same memory

T = TypeVar("T")


class Answer(NamedTuple, Generic[T]):
    """What the store answered to a read.

    Attributes:
        value: for the caller.
        epoch: of the session; None where the answer does not show it.
        empty: the session holds nothing.
    """

    value: T
    epoch: int | None
    empty: bool


Ask: TypeAlias = Callable[[Agreement], Awaitable[Answer[T]]]
"""Asks the store under an agreement."""


class Form(Protocol[T]):
    """How the answers of one method are kept."""

    def text(self, value: T, /) -> bytes:
        """Return an answer as JSON text."""
        ...

    def copy(self, text: bytes, /) -> T:
        """Return a kept answer, marked as stale."""
        ...

    def nothing(self) -> T:
        """Return what holds nothing, marked as stale."""
        ...


class MessagesForm:
    """The form of `read`."""

    def text(self, value: Messages, /) -> bytes:
        """Return messages as JSON text."""
        return msgspec.json.encode(value)

    def copy(self, text: bytes, /) -> Messages:
        """Return messages that were read before."""
        return Messages(msgspec.json.decode(text), stale=True)

    def nothing(self) -> Messages:
        """Return no messages."""
        return Messages(stale=True)


class PageForm:
    """The form of `read_page`."""

    def text(self, value: Page, /) -> bytes:
        """Return a page as JSON text."""
        return msgspec.json.encode(value)

    def copy(self, text: bytes, /) -> Page:
        """Return a page that was read before."""
        return dataclasses.replace(msgspec.json.decode(text, type=Page), stale=True)

    def nothing(self) -> Page:
        """Return an empty page."""
        return Page(records=(), total=0, next=None, omitted=0, stale=True)


MESSAGES: Final = MessagesForm()
PAGE: Final = PageForm()


class Fallback:
    """Keeps what is read of one memory, and answers from it when the store does not.

    Args:
        memory: whose.
        policies: say what is wanted.
        copies: of the client.
        clock: monotonic seconds.

    Attributes:
        stale: reads that were answered with a copy.
        empty: reads that were answered with nothing.
    """

    def __init__(
        self,
        memory: MemoryAddress,
        policies: PolicyFeed,
        copies: Copies,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stale = 0
        self.empty = 0
        self._memory = memory
        self._policies = policies
        self._copies = copies
        self._clock = clock
        self._logged = float("-inf")

    @property
    def mode(self) -> FailureMode:
        """What the policy says, as far as it is known; without any policy an error is raised."""
        known = self._policies.last
        policy = known.policy if known is not None else self._policies.given
        return policy.failure_mode if policy is not None else FailureMode.STRICT

    async def ask(
        self, key: str, question: Question, ask: Ask[T], form: Form[T], *, agreed: Agreement
    ) -> T:
        """Ask the store, and keep a copy of what it answers if copies are wanted.

        Args:
            key: of the session.
            question: what is asked.
            ask: asks it.
            form: how the answer is kept.
            agreed: the agreement in force.

        Raises:
            Whatever the store raises.
        """
        if agreed.policy.failure_mode is not FailureMode.READ_STALE:
            return (await ask(agreed)).value
        session = (self._memory, key)
        with self._copies.reading(session) as reading:
            answer = await ask(agreed)
            if answer.empty:
                self._copies.forget(session)  # cleared, erased or expired: no copy may outlive it
            else:
                life = agreed.terms.ttl / 1000
                text = form.text(answer.value)
                self._copies.keep(reading, question, text, life=life, epoch=answer.epoch)
        return answer.value

    def instead(
        self, key: str | None, question: Question, form: Form[T], error: StoreUnavailable
    ) -> T:
        """Answer a read that the store did not answer.

        Args:
            key: of the session; None where it is not known.
            question: what was asked.
            form: of the answer.
            error: why the store did not.

        Raises:
            StoreUnavailable: `error`, where the policy wants it or there is no copy; or where it is the
                program's own pool, which is to be mended rather than made up for.
        """
        if isinstance(error, PoolInUse):
            raise error
        mode = self.mode
        if mode is FailureMode.READ_EMPTY:
            self.empty += 1
            self._tell("nothing")
            return form.nothing()
        text = None
        if mode is FailureMode.READ_STALE and key is not None:
            text = self._copies.find((self._memory, key), question)
        if text is None:
            raise error
        self.stale += 1
        self._tell("copies of earlier answers")
        return form.copy(text)

    def forget(self, key: str) -> None:
        """Drop what is kept of a session."""
        self._copies.forget((self._memory, key))

    def refused(self, error: HoldfastError) -> None:
        """The store answered that this program may not read any more: what it has read goes too."""
        _log.debug("memory %s: copies dropped: %s", self._memory, error.code)
        self._copies.forget_memory(self._memory)

    def warnings(self) -> list[str]:
        """Say what happened, for `health()`."""
        if not self.stale and not self.empty:
            return []
        warning = (
            f"the store was unavailable: {self.stale} reads of this memory were answered with copies of "
            f"earlier answers, {self.empty} with nothing (failureMode)"
        )
        return [warning]

    def _tell(self, answers: str) -> None:
        now = self._clock()
        if now - self._logged > _QUIET:
            self._logged = now
            _log.warning(
                "memory %s: the store is unavailable, reads are answered with %s (failureMode)",
                self._memory,
                answers,
            )
