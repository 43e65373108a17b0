"""The store: sessions, turns and policies by their names."""

from holdfast.store.in_memory.session import InMemorySession
from holdfast.store.in_memory.state import Clock, SessionState, TurnState, wall_clock
from holdfast.values import MemoryAddress, PolicyDocument


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

    def session(self, memory: MemoryAddress, key: str) -> InMemorySession:
        """Return a handle on a session."""
        return InMemorySession((memory, key), self._sessions, self._turns, self._clock)

    async def policy(self, memory: MemoryAddress) -> PolicyDocument | None:
        """Return the policy document that was put, if any."""
        return self._policies.get(memory)

    def put_policy(self, memory: MemoryAddress, document: PolicyDocument) -> None:
        """Put a policy document, as an operator does."""
        self._policies[memory] = document

    async def aclose(self) -> None:
        """Nothing to close: what is stored stays with the object."""
