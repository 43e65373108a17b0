"""The store: sessions, turns and policies by their names."""

from collections.abc import Collection

from holdfast.store.in_memory.session import InMemorySession
from holdfast.store.in_memory.state import Clock, SessionState, TurnState, wall_clock
from holdfast.values import MemoryAddress, PolicyDocument, Usage


class InMemoryStore:
    """Sessions in the memory of this process; lost with it.

    Safe for any number of tasks of one event loop: no call is interrupted while it changes something.

    Args:
        clock: returns microseconds since 1970; tests pass one that they move.
    """

    def __init__(self, *, clock: Clock = wall_clock) -> None:
        self._clock = clock
        self._sessions: dict[tuple[MemoryAddress, str], SessionState] = {}
        self._turns: dict[tuple[MemoryAddress, str], TurnState] = {}
        self._policies: dict[MemoryAddress, PolicyDocument] = {}
        self._usages: dict[MemoryAddress, Usage] = {}

    def session(
        self, memory: MemoryAddress, key: str, labels: Collection[str] = ()
    ) -> InMemorySession:
        """Return a handle on a session."""
        return InMemorySession((memory, key), self._sessions, self._turns, self._clock, labels)

    async def labelled(self, memory: MemoryAddress, labels: Collection[str]) -> list[str]:
        """Return the sessions that have all these labels; see `MemoryStore.labelled`."""
        return sorted(
            key
            for (owner, key), session in self._sessions.items()
            if owner == memory and session.labels.issuperset(labels)
        )

    async def policy(self, memory: MemoryAddress) -> PolicyDocument | None:
        """Return the policy document that was put, if any, and what was measured."""
        document, usage = self._policies.get(memory), self._usages.get(memory)
        if document is None or usage is None:
            return document
        return document._replace(usage=usage._replace(age=self._clock() // 1000 - usage.at))

    def put_policy(self, memory: MemoryAddress, document: PolicyDocument) -> None:
        """Put a policy document, as an operator does."""
        self._policies[memory] = document

    def put_usage(
        self, memory: MemoryAddress, *, sessions: int, messages: int, tokens: int, bytes: int
    ) -> None:
        """Put what all sessions together hold, measured now, as an operator does."""
        self._usages[memory] = Usage(sessions, messages, tokens, bytes, self._clock() // 1000, 0)

    async def aclose(self) -> None:
        """Nothing to close: what is stored stays with the object."""
