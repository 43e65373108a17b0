"""What only an operator does in Redis: mark ownership, write policies, bring live sessions under them.

Every step is bounded, can be repeated, and is fenced inside Redis: resource scripts by the owner's uid
and the highest leader epoch seen, session scripts by the policy revision.

Protocol and values only, so that services of the operator need no client to be imported; the work is
done by `holdfast.store.redis.maintenance`.
"""

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol, TypeAlias

from holdfast.errors import HoldfastError, UnknownKeys
from holdfast.store.access import Access
from holdfast.store.protocol import MemoryStore
from holdfast.store.walks import Lasting, Orphan, Step, Survey, Swept, Totals, Walk
from holdfast.values import MemoryAddress, Terms

__all__ = [
    "History",
    "Lasting",
    "LayoutTooNew",
    "Maintenance",
    "Orphan",
    "Owner",
    "Ownership",
    "Replication",
    "ServerInfo",
    "Step",
    "Superseded",
    "Survey",
    "Swept",
    "Totals",
    "Walk",
]


class LayoutTooNew(UnknownKeys):
    """The keys were written by a newer version: this one must leave them alone.

    Never reaches a caller of the library.
    """

    code = "LayoutTooNew"


class Superseded(HoldfastError):
    """A newer leader was here: what this one knows is old, and it must finish nothing.

    Never reaches a caller of the library.
    """

    code = "Superseded"


class ServerInfo(NamedTuple):
    """What the servers of one address say of themselves, as far as they do.

    Attributes:
        product: "redis" or "valkey"; empty where it does not tell.
        version: of the oldest; empty where it does not tell.
        mode: "standalone", "sentinel" or "cluster"; empty where it does not tell.
        used_memory: bytes of all primaries.
        max_memory: likewise; 0 means no limit.
        eviction_policy: the first one that drops data, if any does; empty where it does not tell.
        most_full: percent of its limit that the fullest primary uses; None where no limit is known.
        least_full: of the emptiest; None as well where any has no limit that is known.
        persists: whether every primary keeps its data over a restart; None: they do not tell.
        min_replicas: replicas without which the laxest primary refuses writes; None: they do not tell.
        replicas: that are connected to the primary with the fewest; None: they do not tell.
        manages_users: whether we may keep users of the ACL on every server; None: they do not tell.
        default_open: whether any server lets in who gives no password; None: none says so, and not all
            tell.
        servers: how many there are, replicas included.
        silent: how many of them do not answer us.
        runs: a name for each run of each server that answers: another one after a restart.
    """

    product: str
    version: str
    mode: str
    used_memory: int
    max_memory: int
    eviction_policy: str
    most_full: int | None = None
    least_full: int | None = None
    persists: bool | None = None
    min_replicas: int | None = None
    replicas: int | None = None
    manages_users: bool | None = None
    default_open: bool | None = None
    servers: int = 1
    silent: int = 0
    runs: frozenset[str] = frozenset()


class History(NamedTuple):
    """How far a primary has written, and how far its replicas follow.

    Attributes:
        written: bytes that it has sent to replicas in its life, or would have.
        confirmed: how many of them the last of its replicas says it has, about once a second; None where
            none is connected, or still loads what was before.
    """

    written: int
    confirmed: int | None


Replication: TypeAlias = Mapping[str, History]
"""Histories by their names. A replica that takes over begins a new one."""


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
    MENDED = "Mended"  # ours; something that was no index stood in its place, and was removed
    TAKEN_OVER = "TakenOver"  # ours from now on: made again under a new uid, or adopted
    OTHER = "Other"  # another cluster or another namespace of that name
    UNMARKED = "Unmarked"  # there are sessions or a policy, but no marker
    FENCED = "Fenced"  # a newer leader was here


class Maintenance(Protocol):
    """The operator's hands in one server.

    Every call may be repeated, also when its answer was lost. A walk over sessions looks at every one
    that was there when it began, also while others come and go, and begins with cursor 0.

    Raises, from every call: `StoreUnavailable`, `AccessDenied`, `UnknownKeys` (a key of the memory has
    another type; its subclass `LayoutTooNew`: a newer version wrote it), `ServerTooOld` (from `server`).
    """

    @property
    def access(self) -> Access:
        """The users of the same servers, over the same connections."""
        ...

    async def server(self) -> ServerInfo:
        """Ask the servers what they are. A few round trips, to all of them at once.

        One of several that does not answer is counted and no error, as long as a primary does.
        """
        ...

    async def load_scripts(self) -> None:
        """Make sure every server knows every script, replicas too. One round trip if they do.

        One of several that does not answer is left for the next time.
        """
        ...

    async def replication(self) -> Replication:
        """Ask every primary how far its replicas follow. One round trip to each.

        One that need not tell, as of a managed service, is left out.

        Raises:
            StoreUnavailable: one of the primaries does not answer.
        """
        ...

    async def instance(self) -> str | None:
        """Return the name of the data that the server holds; None where they have none. One round trip.

        Raises:
            UnknownKeys: something else wrote there.
        """
        ...

    async def mark(self, backend: str, instance: str) -> str:
        """Give the server's data a name, unless they have one; return the one they have.

        Args:
            backend: uid of the MemoryBackend, for people who look there.
            instance: 16 hexadecimal digits.
        """
        ...

    async def claim(self, memory: MemoryAddress, owner: Owner, *, adopt: bool = False) -> Ownership:
        """Mark the memory's keys as ours, if nobody else's. The first marker wins.

        Keys that were left to their expiry are kept again.

        Args:
            memory: whose keys.
            owner: who claims them.
            adopt: take them over from whomever: the backend's owner said so.
        """
        ...

    async def put_policy(
        self, memory: MemoryAddress, owner: Owner, document: str, sha256: str, *, before: int = 0
    ) -> int | None:
        """Write the policy document if it differs, raising the revision; return the revision in force.

        None: refused, since the marker is not ours, a newer leader was here, or this uid is being
        deleted. A document in state `deleting` of an earlier uid is replaced and becomes active.
        Revisions of a memory only grow, also over deletion and over the loss of the document; `before`
        is the revision last known, which a server that was emptied no longer tells.
        """
        ...

    async def roll_out(
        self,
        memory: MemoryAddress,
        terms: Terms,
        *,
        cursor: int,
        limit: int,
        grace: int,
        again: bool = False,
    ) -> Step:
        """Bring up to about `limit` live sessions under these terms; those that already are cost a look.

        A session that has seen a newer revision is left alone. Where the terms refuse instead of
        evicting, nothing is evicted. Index entries without a session are dropped once they are 10
        minutes old.

        Args:
            memory: whose sessions.
            terms: the policy's numbers, with its revision.
            cursor: 0 to begin, else of the step before.
            limit: sessions.
            grace: milliseconds that a shortened expiry leaves at least.
            again: most of them are expected to be under these terms already; then the look is a cheaper
                one, and the others take a round trip more.
        """
        ...

    async def noted_walk(self, memory: MemoryAddress) -> Walk | None:
        """Return the rollout that `note_walk` noted last; None when there is none."""
        ...

    async def note_walk(self, memory: MemoryAddress, owner: Owner, walk: Walk | None) -> bool:
        """Note how far a rollout is, or with None that there is none.

        False when the marker is not ours or a newer leader was here: then nothing is noted.
        """
        ...

    async def sweep(
        self, memory: MemoryAddress, *, cursor: int, limit: int, ttl: int, mend: bool
    ) -> tuple[Step, Swept]:
        """See whether the keys of up to about `limit` sessions have the expiry that they should.

        One that has another, or none, gets the one that its session says; a session that should have
        ended already gets an hour. Keys of a session whose counters are gone get `ttl`, if they have no
        expiry at all. Index entries without any key are dropped once they are 10 minutes old. Also adds
        up the counters, as `measure` does.

        Args:
            memory: whose sessions.
            cursor: 0 to begin, else of the step before.
            limit: sessions.
            ttl: milliseconds of the policy's idle time.
            mend: False only looks and counts.
        """
        ...

    async def survey(
        self,
        served: Collection[MemoryAddress],
        elsewhere: Collection[MemoryAddress],
        *,
        cluster: str,
        expire: Collection[MemoryAddress],
        cursor: int,
        limit: int,
        mend: bool,
    ) -> Survey:
        """Look at about `limit` keys under the prefix, whether or not an index knows them.

        Sessions of `served` memories that are not in the index of their memory are put back into it, and
        what has no expiry and belongs to none gets one. All other memories are orphans, except those
        `elsewhere` and those that carry another cluster's mark; of them nothing is ever deleted.

        Args:
            served: memories that a resource keeps here.
            elsewhere: memories that are none of this walk's business.
            cluster: which mark is ours.
            expire: orphans whose sessions' keys get a week if they have no expiry.
            cursor: 0 to begin, else of the step before.
            limit: keys.
            mend: False only looks and counts.
        """
        ...

    async def measure(
        self, memory: MemoryAddress, *, cursor: int, limit: int
    ) -> tuple[Step, Totals]:
        """Add up the counters of up to about `limit` sessions.

        Drops index entries without a session once they are 10 minutes old, and counts them as changed.
        """
        ...

    async def put_usage(self, memory: MemoryAddress, owner: Owner, totals: Totals) -> None:
        """Write what was measured to `:usage`; nothing when the marker is not ours."""
        ...

    async def names(
        self, memory: MemoryAddress, *, cursor: int, limit: int
    ) -> tuple[int, Sequence[str]]:
        """Return the encoded keys of about `limit` sessions, and the cursor as of a `Step`.

        Some may not exist any more, and over a whole walk one may come twice. As the index says, which
        whoever may write to the memory may edit: see `search`.
        """
        ...

    async def search(
        self, memory: MemoryAddress, *, cursor: int, limit: int
    ) -> tuple[int, Sequence[str]]:
        """Return the encoded keys of the sessions among about `limit` keys of the servers.

        Whether or not the index knows them. The cursor is as of a `Step`; a walk that another run of a
        server interrupts begins again by itself, and one may come twice. What moves from one node of a
        Cluster to another meanwhile may be missed.

        Raises:
            StoreUnavailable: one of the primaries does not answer: nothing is left out in silence.
        """
        ...

    async def begin_deletion(self, memory: MemoryAddress, owner: Owner) -> int | None:
        """Set the policy to `deleting` and raise its revision.

        None when the marker is not ours. From here on writers get `PolicyNotFound`. Safe to repeat: the
        revision is raised once.

        Raises:
            Superseded: a newer leader was here; the deletion is its.
        """
        ...

    async def bury(self, memory: MemoryAddress, revision: int, *, cursor: int, limit: int) -> Step:
        """Replace up to about `limit` sessions by tombstones, and drop their index entries.

        A tombstone is a `:meta` with a new epoch and the revision, and lives for 60 s: a writer that
        still holds the old policy is refused. A session of a newer revision is left alone: the memory
        was made again.
        """
        ...

    async def bury_hidden(
        self, revisions: Mapping[MemoryAddress, int], *, cursor: int, limit: int
    ) -> Step:
        """Bury, as `bury` does, the sessions among about `limit` keys of the servers.

        Whether or not an index knows them; entries of indexes stay. Cursor and errors are those of
        `search`.

        Args:
            revisions: of the memories whose sessions go.
            cursor: 0 to begin, else of the step before.
            limit: keys.
        """
        ...

    async def end_deletion(self, memory: MemoryAddress, owner: Owner) -> bool:
        """Remove the policy, the usage, the index and the marker.

        For a day `:owner` keeps whose it was, the revision and the leader's epoch, but no uid: a leader
        that slept can do no harm to a memory made again. False when the marker is not ours, or no deletion
        was begun.

        Raises:
            Superseded: a newer leader was here.
        """
        ...

    async def lasting(
        self, memory: MemoryAddress, *, cursor: int, limit: int
    ) -> tuple[Step, Lasting]:
        """Return how long up to about `limit` sessions live: what `release` is told of all."""
        ...

    async def release(self, memory: MemoryAddress, owner: Owner, lasting: Lasting) -> None:
        """Leave the keys to their expiry; nothing when the marker is not ours.

        The policy lives as long as the longest living session, at least an hour. Index and marker live
        longer by the longest idle time, at least a day: as long as anything that is written under that
        policy.
        """
        ...

    def store(self) -> MemoryStore:
        """Return the sessions as the library has them, over the same connections. No I/O.

        For what the operator does as any user of the library would; it is closed with these hands.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...
