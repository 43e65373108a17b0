"""What was read last, kept for a while in case the store cannot be read the next time."""

import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

from holdfast.values import MemoryAddress

MAX_AGE = 300.0
"""Seconds after which a copy is used no more: so long it may outlive what others erased."""
MAX_SESSIONS = 1000
MAX_BYTES = 64 * 2**20
MAX_CALLS = 16
"""Different calls of one session, such as pages, of which the answers are kept."""
_OVERHEAD = 200  # bytes of a copy besides its text, about
_SWEEP = 30.0  # seconds between two looks for copies that are too old

SessionName: TypeAlias = tuple[MemoryAddress, str]
"""A memory, and the encoded key of one of its sessions."""
Question: TypeAlias = tuple[str | int | None, ...]
"""A method's name and its arguments."""


class Copy(NamedTuple):
    """An answer of the store.

    Attributes:
        text: the answer as JSON text, so that nobody can change it and its size is known.
        until: end of its use, by the clock.
        epoch: of the session when it was read; None where that is not known.
    """

    text: bytes
    until: float
    epoch: int | None


class Reading:
    """A read that is under way; what it brings is kept unless the session was cleared meanwhile."""

    def __init__(self, session: SessionName) -> None:
        self.session = session
        self.current = True


class Copies:
    """Answers to reads, bounded in number, size and age; the longest unread session leaves first.

    Args:
        sessions: how many sessions at most.
        size: bytes of all copies at most.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        sessions: int = MAX_SESSIONS,
        size: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most_sessions = sessions
        self._most_bytes = size
        self._clock = clock
        self._sessions: OrderedDict[SessionName, OrderedDict[Question, Copy]] = OrderedDict()
        self._readings: dict[SessionName, set[Reading]] = {}
        self._size = 0
        self._swept = clock()

    @property
    def size(self) -> int:
        """Bytes of all copies."""
        return self._size

    def __len__(self) -> int:
        """Return the number of sessions."""
        return len(self._sessions)

    @contextmanager
    def reading(self, session: SessionName) -> Generator[Reading]:
        """Tell of a read before it is sent, so that `forget` reaches what it will bring."""
        reading = Reading(session)
        self._readings.setdefault(session, set()).add(reading)
        try:
            yield reading
        finally:
            readings = self._readings[session]
            readings.discard(reading)
            if not readings:
                del self._readings[session]

    def keep(
        self,
        reading: Reading,
        question: Question,
        text: bytes,
        *,
        life: float,
        epoch: int | None = None,
    ) -> None:
        """Keep the answer to a read instead of the one before.

        Copies of what the session was before it was cleared or erased, by whomever, are dropped as soon
        as an answer shows it.

        Args:
            reading: what `reading` gave.
            question: what was asked.
            text: the answer.
            life: seconds for which it may be used; `MAX_AGE` at most.
            epoch: of the session, as the answer says.
        """
        if not reading.current:
            return
        answers = self._sessions.setdefault(reading.session, OrderedDict())
        for other, copy in list(answers.items()):
            outdated = epoch is not None and copy.epoch not in (None, epoch)
            if other == question or outdated:
                self._drop(answers, other)
        now = self._clock()
        size = len(text) + _OVERHEAD
        if size <= self._most_bytes:
            answers[question] = Copy(text, now + min(life, MAX_AGE), epoch)
            self._size += size
        while len(answers) > MAX_CALLS:
            self._drop(answers, next(iter(answers)))
        self._sessions.move_to_end(reading.session)
        if not answers:
            del self._sessions[reading.session]
        while self._size > self._most_bytes or len(self._sessions) > self._most_sessions:
            self._forget(next(iter(self._sessions)))
        if now - self._swept > _SWEEP:
            self._sweep(now)

    def find(self, session: SessionName, question: Question) -> bytes | None:
        """Return the last answer to a call, unless there is none or it is too old."""
        answers = self._sessions.get(session)
        copy = answers.get(question) if answers is not None else None
        return copy.text if copy is not None and self._clock() < copy.until else None

    def forget(self, session: SessionName) -> None:
        """Drop what is kept of a session, and what reads that are under way will bring."""
        for reading in self._readings.get(session, ()):
            reading.current = False
        self._forget(session)

    def forget_memory(self, memory: MemoryAddress) -> None:
        """Drop what is kept of all sessions of a memory."""
        for session in [*self._sessions, *self._readings]:
            if session[0] == memory:
                self.forget(session)

    def clear(self) -> None:
        """Drop everything."""
        for session in [*self._sessions, *self._readings]:
            self.forget(session)

    def _forget(self, session: SessionName) -> None:
        answers = self._sessions.pop(session, OrderedDict())
        while answers:
            self._drop(answers, next(iter(answers)))

    def _drop(self, answers: OrderedDict[Question, Copy], question: Question) -> None:
        self._size -= len(answers.pop(question).text) + _OVERHEAD

    def _sweep(self, now: float) -> None:
        self._swept = now
        for session, answers in list(self._sessions.items()):
            for question in [question for question, copy in answers.items() if copy.until <= now]:
                self._drop(answers, question)
            if not answers:
                del self._sessions[session]
