"""What a store promises. The conformance suite in `holdfast.testing.conformance` is its long form."""

import secrets
from collections.abc import Collection, Sequence
from typing import Protocol

from holdfast.errors import HoldfastError
from holdfast.values import (
    Appended,
    Archive,
    Batch,
    Caller,
    Changed,
    Departed,
    Erased,
    Granted,
    MemoryAddress,
    Newest,
    Part,
    PolicyDocument,
    Queued,
    Section,
    Snapshot,
    Splice,
    Spliced,
    Status,
    Terms,
    Trimmed,
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


class SessionVanished(HoldfastError):
    """The session that the caller is sure of is not there, or another one began in its place.

    Nobody erased it. Never reaches a caller: the library makes `AcknowledgedLost` of it, or calls again.
    """

    code = "SessionVanished"

    def __init__(self) -> None:
        super().__init__("the session vanished")


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
            BudgetExceeded, StoreUnavailable, AmbiguousWrite; QuotaExceeded where the session would
            begin and the memory has as many as it may; SessionVanished where the caller is sure of it,
            from a store that can lose a whole session.
        """
        ...

    async def replace(self, terms: Terms, batch: Batch, caller: Caller) -> Appended:
        """Remove all records and store a batch, which may be empty, as one change; begin a new epoch.

        Raises:
            What `append` raises.
        """
        ...

    async def erase(self, terms: Terms, *, force: bool = False) -> Erased:
        """Remove everything that is kept of the session, and its entries in the indexes.

        Whoever holds the turn has lost it, and the waiters begin a new session. An append that is repeated
        because its first answer was lost puts nothing back: it raises `AmbiguousWrite`.

        Args:
            terms: the policy's numbers.
            force: even while somebody holds an enforced lease.

        Raises:
            StalePolicy, SessionBusy.
        """
        ...

    async def import_part(self, terms: Terms, part: Part) -> tuple[int, int]:
        """Add records of an export as they were; return the session's epoch and version after it.

        Takes nothing out to keep the limits. Begins a new epoch with the first part, and a new history.

        Raises:
            ImportRefused: the session is not as `part` says; nothing was written.
            StalePolicy, SessionBusy; AmbiguousWrite: look at the session and go on from there.
        """
        ...

    async def known(self, batch: Batch) -> Appended | None:
        """Return the answer to a batch whose id is known, None where it is not. Changes nothing.

        Known are the ids of the last `Terms.max_ids` appends that had one, and no others.

        For a caller that will not append, but would have been answered.

        Raises:
            IdempotencyConflict: and what a read raises.
        """
        ...

    async def newest(self, terms: Terms, count: int) -> Newest:
        """Return the `count` records with the highest sequence numbers that can be read, in append order."""
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

    async def archive(self, terms: Terms) -> Archive:
        """Return all that an export holds; renews the expiry if so agreed.

        Of one moment, except from a Redis that is out of memory: there ids and history may be younger than
        the records.
        """
        ...

    async def tail(self, terms: Terms, *, tokens: int) -> Window:
        """Return the protected records and, from the end, the others until `tokens` are exceeded."""
        ...

    async def page(self, terms: Terms, *, after: int, limit: int) -> Section:
        """Return up to `limit` records with a sequence number above `after`, in append order.

        Raises:
            CorruptRecord: nothing of a part that long can be read: and what a read raises.
        """
        ...

    async def claim_flush(self, token: str, milliseconds: int) -> bool:
        """Be the one who flushes the session, for so long; 0 milliseconds: no longer.

        Returns whether the token is the flusher's now: False while somebody else is, and for a session
        that does not exist. Asking again lengthens the time.
        """
        ...

    async def snapshot(self) -> Snapshot:
        """Return all records as they are stored, and when their groups were read. Renews nothing."""
        ...

    async def trim(self, terms: Terms, *, tokens: int, messages: int) -> Trimmed:
        """Drop the oldest whole groups down to a target; the newest group stays.

        Args:
            terms: the policy's numbers.
            tokens: target; 0 for none.
            messages: target; 0 for none.

        Raises:
            StalePolicy.
        """
        ...

    async def splice(self, terms: Terms, splice: Splice) -> Spliced:
        """Take exactly the planned records out, and put one summary in their place.

        Needs no lease and leaves the tail alone. A record that was pinned meanwhile stays, one that was
        trimmed is in the summary nevertheless, and nothing leaves that the plan does not cover. The
        flusher's time ends with it.

        Raises:
            StalePolicy.
        """
        ...

    async def departed(self) -> tuple[Departed, ...]:
        """Return the history: what left other than by the hard limits, oldest first."""
        ...

    async def touch(self, terms: Terms, groups: Collection[int]) -> None:
        """Note that groups were read now, for policies that keep what is used."""
        ...

    async def status(self) -> Status:
        """Return the counters."""
        ...

    async def acquire(
        self, terms: Terms, token: str, holder: str, *, interrupt: bool = False
    ) -> Granted | Queued:
        """Take the turn or a place in line; the same token keeps its place.

        Args:
            terms: the policy's numbers.
            token: of the waiter, made by `lease_token`, which also says how long it waits in all;
                one that does not wait is not queued.
            holder: what others are shown.
            interrupt: take the turn from its holder, before all who wait. Until its time would have
                ended, the store answers that holder with `TurnInterrupted` instead of `LeaseLost`.

        Raises:
            QuotaExceeded: the session would begin, and the memory has as many as it may.
            TurnInterrupted: this token had the turn already, and it was taken from it.
        """
        ...

    async def sleep(self, token: str, seconds: float) -> Granted | None:
        """Wait up to `seconds` until the turn is handed to `token`, and return the grant.

        None says nothing: the caller asks again. The lease lasts for the grant time only, and is to
        be renewed soon.
        """
        ...

    async def renew(self, terms: Terms, token: str, epoch: int, holder: str = "") -> int:
        """Lengthen the lease to its TTL from now; return the policy revision the session has seen.

        Args:
            terms: the policy's numbers.
            token: of the lease.
            epoch: of the session, as the holder knows it.
            holder: what others are shown; empty leaves it as it is.

        Raises:
            LeaseLost: it ended, or the session began a new epoch.
        """
        ...

    async def release(self, terms: Terms, token: str, *, doubt: bool = False) -> None:
        """End the lease or leave the line, and hand the turn to the next in line. Never refuses.

        Args:
            terms: the policy's numbers.
            token: of the holder or waiter.
            doubt: an `acquire` of the token may still be on its way. It will find that the token is
                no longer good, instead of taking the turn for nobody.
        """
        ...


class MemoryStore(Protocol):
    """A place that keeps sessions."""

    def session(
        self, memory: MemoryAddress, key: str, labels: Collection[str] = ()
    ) -> SessionStore:
        """Return a handle on a session, by its encoded key. No I/O.

        Args:
            memory: whose.
            key: of the session.
            labels: digests that its first write and then some note with the session.
        """
        ...

    async def labelled(self, memory: MemoryAddress, labels: Collection[str]) -> Sequence[str]:
        """Return the keys of the sessions that have all these labels, one at least, in order.

        Also some that ended meanwhile. A label lives twice the policy's longest idle time and a day longer
        than the last write that noted it.
        """
        ...

    async def policy(self, memory: MemoryAddress) -> PolicyDocument | None:
        """Return the operator's policy document and measurement; None where no operator wrote one."""
        ...

    async def aclose(self) -> None:
        """Close what this store opened itself."""
        ...
