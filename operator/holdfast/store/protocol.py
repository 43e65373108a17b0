"""What a store promises. The conformance suite in `holdfast.testing.conformance` is its long form."""

import secrets
from collections.abc import Collection, Sequence
from typing import Protocol

from holdfast.errors import HoldfastError
from holdfast.values import (
    Appended,
    Batch,
    Caller,
    Changed,
    Granted,
    MemoryAddress,
    PolicyDocument,
    Queued,
    Section,
    Status,
    Stored,
    Terms,
    Window,
)


class StalePolicy(HoldfastError):
    """The session has seen a newer policy than the caller's terms. Nothing was written.

    Never reaches a caller of the library: the policy is fetched again and the call repeated.

    Args:
        revision: the one the session has seen.
    """

    code = "StalePolicy"

    def __init__(self, revision: int) -> None:
        super().__init__("the session has seen a newer policy")
        self.revision = revision


def lease_token(wait: int) -> str:
    """Make the token of one waiter or holder: unguessable, ending in how long it waits.

    The time stands in the token so that a store can drop a waiter that died, wherever it finds it.

    Args:
        wait: milliseconds in all, from its first `acquire`; 0: it does not queue.
    """
    return f"{secrets.token_hex(12)}-{wait}"


def token_wait(token: str) -> int:
    """Return the milliseconds that a token waits in all."""
    return int(token.rpartition("-")[2])


class SessionStore(Protocol):
    """One session in a store: a cheap handle that holds no connection.

    Every call is atomic. Checks come before the first write and in this order: known id, epoch, lease,
    policy revision, highest sequence number seen, limits. Whatever is refused has written nothing.
    """

    async def append(self, terms: Terms, batch: Batch, caller: Caller) -> Appended:
        """Store a batch at the tail, evict down to the limits, renew the expiry.

        Raises:
            StalePolicy, LeaseLost, SessionBusy, AcknowledgedLost, IdempotencyConflict,
            BudgetExceeded, StoreUnavailable, AmbiguousWrite.
        """
        ...

    async def newest(self, terms: Terms, count: int) -> Sequence[Stored]:
        """Return the `count` records with the highest sequence numbers, in append order."""
        ...

    async def pop(
        self,
        terms: Terms,
        caller: Caller,
        *,
        expected: int,
        opens: Collection[str],
        closes: Collection[str],
    ) -> Changed:
        """Take the newest record out, if it still is `expected`; 0 records when it is not.

        Args:
            terms: the policy's numbers.
            caller: lease and epoch.
            expected: its sequence number.
            opens: digests of the tool calls it made: they are forgotten.
            closes: digests of those it answered: they are open again.
        """
        ...

    async def clear(self, terms: Terms, caller: Caller, *, force: bool) -> Changed:
        """Remove all records and begin a new epoch. Ids stay known.

        Args:
            terms: the policy's numbers.
            caller: lease and epoch.
            force: even while somebody else holds an enforced lease.
        """
        ...

    async def pin(self, terms: Terms, caller: Caller, *, seq: int, pinned: bool) -> Changed:
        """Protect the whole group of a record from eviction, or stop doing so.

        Raises:
            RecordNotFound: and what `append` raises.
        """
        ...

    async def everything(self, terms: Terms) -> Window:
        """Return all records and the counters, of one moment; renews the expiry if so agreed."""
        ...

    async def tail(self, terms: Terms, *, tokens: int) -> Window:
        """Return the protected records and, from the end, the others until `tokens` are exceeded."""
        ...

    async def page(self, terms: Terms, *, after: int, limit: int) -> Section:
        """Return up to `limit` records with a sequence number above `after`, in append order."""
        ...

    async def status(self) -> Status:
        """Return the counters."""
        ...

    async def acquire(self, terms: Terms, token: str, holder: str) -> Granted | Queued:
        """Take the turn or a place in line; the same token keeps its place.

        Args:
            terms: the policy's numbers.
            token: of the waiter, made by `lease_token`, which also says how long it waits in all;
                one that does not wait is not queued.
            holder: what others are shown.
        """
        ...

    async def sleep(self, token: str, seconds: float) -> None:
        """Return when the turn may have been handed to `token`, or after `seconds`."""
        ...

    async def renew(self, terms: Terms, token: str, epoch: int) -> int:
        """Lengthen the lease by its TTL; return the policy revision the session has seen.

        Raises:
            LeaseLost: it ended, or the session began a new epoch.
        """
        ...

    async def release(self, terms: Terms, token: str) -> None:
        """End the lease or leave the line, and hand the turn to the next in line. Never refuses."""
        ...


class MemoryStore(Protocol):
    """A place that keeps sessions."""

    def session(self, memory: MemoryAddress, key: str) -> SessionStore:
        """Return a handle on a session, by its encoded key. No I/O."""
        ...

    async def policy(self, memory: MemoryAddress) -> PolicyDocument | None:
        """Return the operator's policy document; None where no operator wrote one."""
        ...

    async def aclose(self) -> None:
        """Close what this store opened itself."""
        ...
