"""What only an operator does in Redis: mark ownership, write policies, bring live sessions under them.

Every step is bounded, can be repeated, and is fenced inside Redis: resource scripts by the owner's uid
and the highest leader epoch seen, session scripts by the policy revision.
"""

from enum import StrEnum
from typing import NamedTuple, Protocol

from holdfast.values import MemoryAddress, Terms


class ServerInfo(NamedTuple):
    """What a server says of itself. Sizes in bytes; `max_memory` 0 means no limit."""

    product: str  # "redis" or "valkey"
    version: str
    mode: str  # "standalone", "sentinel" or "cluster"
    used_memory: int
    max_memory: int
    eviction_policy: str  # empty where the server does not tell


class Owner(NamedTuple):
    """Whose the keys of a memory are: the marker in `:owner`.

    `cluster` is the uid of the Namespace `kube-system`, `epoch` the leader's.
    """

    cluster: str
    namespace_uid: str
    namespace: str
    name: str
    uid: str
    epoch: int = 0


class Ownership(StrEnum):
    """What the marker says."""

    OURS = "Ours"  # already, or now for the first time
    TAKEN_OVER = "TakenOver"  # the same namespace and name under a new uid: deleted and made again
    OTHER = "Other"  # another cluster or another namespace of that name
    UNMARKED = "Unmarked"  # there are sessions, but no marker
    FENCED = "Fenced"  # a newer leader was here


class Step(NamedTuple):
    """One bounded step of a walk over the sessions of a memory.

    `cursor` continues the walk, 0 when it is done. `seen` sessions were looked at, `changed` of them
    changed; `unsatisfied` stay above a limit because of what is protected; `total` is the index's size.
    """

    cursor: int
    seen: int
    changed: int
    unsatisfied: int
    total: int


class Totals(NamedTuple):
    """What a memory holds, as far as measured."""

    sessions: int
    messages: int
    tokens: int
    bytes: int


class Maintenance(Protocol):
    """The operator's hands in one server.

    Raises, from every call: `StoreUnavailable`, `AccessDenied`, `UnknownKeys` (a key of another type or
    a newer layout is in the way), `ServerTooOld` (from `server`).
    """

    async def server(self) -> ServerInfo:
        """Ask the server what it is. One round trip."""
        ...

    async def load_scripts(self) -> None:
        """Make sure the server knows every script."""
        ...

    async def claim(self, memory: MemoryAddress, owner: Owner, *, adopt: bool = False) -> Ownership:
        """Mark the memory's keys as ours, if nobody else's. The first marker wins.

        Args:
            memory: whose keys.
            owner: who claims them.
            adopt: take them over from whomever: the backend's owner said so.
        """
        ...

    async def put_policy(
        self, memory: MemoryAddress, owner: Owner, document: str, sha256: str
    ) -> int | None:
        """Write the policy document if it differs, raising the revision; return the revision in force.

        None: refused, since the marker is not ours, a newer leader was here, or this uid is being
        deleted. A document in state `deleting` of an earlier uid is replaced and becomes active.
        """
        ...

    async def roll_out(
        self, memory: MemoryAddress, terms: Terms, *, cursor: int, limit: int, grace: int
    ) -> Step:
        """Bring up to about `limit` live sessions under these terms; those that already are cost a look.

        Args:
            memory: whose sessions.
            terms: the policy's numbers, with its revision.
            cursor: 0 to begin, else of the step before.
            limit: sessions.
            grace: milliseconds that a shortened expiry leaves at least.
        """
        ...

    async def measure(
        self, memory: MemoryAddress, *, cursor: int, limit: int
    ) -> tuple[Step, Totals]:
        """Add up the counters of up to about `limit` sessions; drops index entries without a session."""
        ...

    async def put_usage(self, memory: MemoryAddress, owner: Owner, totals: Totals) -> None:
        """Write what was measured to `:usage`."""
        ...

    async def begin_deletion(self, memory: MemoryAddress, owner: Owner) -> int | None:
        """Set the policy to `deleting` and raise its revision; None when the marker is not ours.

        From here on writers get `PolicyNotFound`. Safe to repeat: the revision is raised once.
        """
        ...

    async def bury(self, memory: MemoryAddress, revision: int, *, cursor: int, limit: int) -> Step:
        """Replace up to about `limit` sessions by tombstones that live for 60 s, and drop their index entries.

        A tombstone is a `:meta` with a new epoch and the revision: a writer that still holds the old
        policy is refused.
        """
        ...

    async def end_deletion(self, memory: MemoryAddress, owner: Owner) -> bool:
        """Remove the policy, the usage, the index and the marker; False when the marker is not ours."""
        ...

    async def release(self, memory: MemoryAddress, owner: Owner) -> None:
        """Leave the keys to their expiry: give index and marker the longest expiry of the sessions."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...
