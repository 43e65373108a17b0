"""What walks over sessions and keys find. Values only; see `holdfast.store.maintenance`."""

from collections.abc import Mapping
from typing import NamedTuple, Self

from holdfast.values import MemoryAddress


class Step(NamedTuple):
    """One bounded step of a walk over the sessions of a memory.

    Attributes:
        cursor: continues the walk, 0 when it is done. Opaque, and wider than 64 bits. It belongs to one
            run of the server: on another one the walk begins again by itself.
        seen: entries of the index that were looked at; over a whole walk one may come twice.
        changed: how many of their sessions changed.
        unsatisfied: how many stay above a limit because of what is protected or must not be evicted;
            the broken ones are counted here as well.
        total: size of the index.
        broken: how many could not be dealt with: a key of theirs has another type, or what is in it
            is not ours.
        restarted: the cursor was of another run of the server, so the walk began again with this step;
            what earlier steps added up does not count.
    """

    cursor: int
    seen: int
    changed: int
    unsatisfied: int
    total: int
    broken: int = 0
    restarted: bool = False


class Totals(NamedTuple):
    """What a memory holds, as far as measured."""

    sessions: int
    messages: int
    tokens: int
    bytes: int


class Walk(NamedTuple):
    """How far a rollout is, as a restart finds it.

    Attributes:
        revision: of the policy that is rolled out.
        cursor: where it goes on; 0 at the beginning of a pass.
        second: it is in its second pass.
        done: sessions seen in the first pass.
        unsatisfied, broken: as in `Step`, of the pass so far.
    """

    revision: int
    cursor: int
    second: bool
    done: int
    unsatisfied: int
    broken: int


class Swept(NamedTuple):
    """What a step of a sweep found, and set right unless it was to look only.

    Attributes:
        totals: what the sessions hold.
        repaired: keys that had a wrong expiry or none.
        dropped: entries of the index without a session, too old to be one that begins.
        strays: keys of sessions whose counters are gone. They are left to their expiry.
    """

    totals: Totals
    repaired: int = 0
    dropped: int = 0
    strays: int = 0


class Orphan(NamedTuple):
    """Keys under the name of a memory that no resource stands for.

    Attributes:
        keys: how many, without those that end within the hour.
        immortal: how many of them are of sessions and have no expiry.
        ours: the memory is marked as this cluster's.
    """

    keys: int
    immortal: int
    ours: bool


class Survey(NamedTuple):
    """One bounded step of a walk over all keys under the prefix of a backend.

    Attributes:
        cursor: continues the walk, 0 when it is done. It belongs to one run of the servers.
        seen: keys that were looked at.
        relisted: sessions that were missing in the index of their memory.
        repaired: keys without an expiry that got one.
        orphans: by the memory they are named after.
    """

    cursor: int
    seen: int
    relisted: int
    repaired: int
    orphans: Mapping[MemoryAddress, Orphan]


class Lasting(NamedTuple):
    """How long sessions live.

    Attributes:
        ends: milliseconds since 1970 at which the longest living one ends; 0 without any.
        idle: milliseconds: the longest time that one lives on from when it was last renewed.
    """

    ends: int = 0
    idle: int = 0

    def joined(self, other: Self) -> Self:
        """Return what holds of the sessions of both."""
        return self._replace(ends=max(self.ends, other.ends), idle=max(self.idle, other.idle))
