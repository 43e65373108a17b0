"""Where a handle reads and writes: one session, and what this process knows of it."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from holdfast.errors import HoldfastError
from holdfast.messages import Preparer
from holdfast.policies import Agreement, PolicyFeed
from holdfast.store import SessionStore
from holdfast.values import MemoryAddress


class Place:
    """Where a handle reads and writes: one session, found with the first call.

    The key of a session follows from the policy's key template, which only the policy in force knows.

    Args:
        memory: the memory's address.
        policies: the policy in force.
        preparer: encodes and counts messages.
        key_of: makes the session's encoded key for a key template.
        open: makes the handle in the store for a key.

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
    ) -> None:
        self.memory = memory
        self.policies = policies
        self.preparer = preparer
        self.epoch = 0
        self.seen = 0
        self.corrupt = 0
        self._key_of = key_of
        self._open = open
        self._key: str | None = None
        self._store: SessionStore | None = None

    def again(self) -> "Place":
        """Return a place for the same session that has seen nothing."""
        return Place(
            self.memory, self.policies, self.preparer, key_of=self._key_of, open=self._open
        )

    @property
    def store(self) -> SessionStore:
        """The session in the store; after `agreed`."""
        assert self._store is not None
        return self._store

    async def agreed(self) -> Agreement:
        """Return the agreement in force, and find the session at the first time."""
        agreement = await self.policies.current()
        if self._store is None:
            self._key = self._key_of(agreement.policy.key_template)
            self._store = self._open(self._key)
        return agreement

    def note(self, epoch: int, seen: int) -> None:
        """Remember what the store acknowledged."""
        if epoch > self.epoch:
            self.epoch, self.seen = epoch, seen
        elif epoch == self.epoch:
            self.seen = max(self.seen, seen)

    @contextmanager
    def naming(self) -> Generator[None]:
        """Say in errors which memory and session they are about."""
        try:
            yield
        except HoldfastError as error:
            error.memory = error.memory or str(self.memory)
            error.session = error.session or self._key
            raise
