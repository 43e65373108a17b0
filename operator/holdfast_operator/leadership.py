"""Who leads: the rules of the lease, without any I/O.

A candidate is told what was read and written and when, by a clock of its own that never jumps, and says
what to write next. Two of them never lead at once, however long requests take, get lost or arrive late,
as long as no clock runs faster than another by more than `lease / deadline`:

- who leads counts from the moment *before* the request that renewed the lease was sent, and ends at
  `deadline`;
- who waits counts from the moment *after* it saw the lease change, and waits for `lease`, which is longer;
- every write names the version it was decided on, so of several that take the lease one succeeds.
"""

from typing import Final, NamedTuple

from holdfast_operator.services.ports import ClusterError

_WHOLE: Final = "the lease is a whole number of seconds, at least 1"


class LeaseHasNoPlace(ClusterError):
    """There is no namespace to keep the lease in; the message is for people."""


class Times(NamedTuple):
    """How a lease is kept. Seconds.

    Attributes:
        lease: how long a lease counts for those who wait.
        deadline: how long after its last renewal a leader ends.
        retry: the pause between renewals, and between looks of those who wait.
        request: the most that one request may take.
    """

    lease: float = 12.0
    deadline: float = 8.0
    retry: float = 2.0
    request: float = 3.0

    def fault(self) -> str | None:
        """Return what is wrong with these times; None when they can be used."""
        if self.lease < 1 or self.lease != int(self.lease):
            return _WHOLE
        if not 0 < self.retry < self.deadline < self.lease or not 0 < self.request < self.deadline:
            return "retry and request must be shorter than the deadline, and that shorter than the lease"
        return None


class Lease(NamedTuple):
    """A lease as it is stored.

    Attributes:
        holder: who leads; empty when it was given up.
        seconds: how long it counts.
        transitions: how often it changed hands: the epoch of its holder.
        acquired: when the holder took it, as the API server wrote it; empty for one that takes it now.
        version: of the object; empty for one that is to be created.
    """

    holder: str
    seconds: float
    transitions: int
    acquired: str = ""
    version: str = ""


class Candidate:
    """One process that may lead.

    Args:
        name: a name that no other process has or had.
        times: how the lease is kept.
    """

    def __init__(self, name: str, times: Times) -> None:
        self._name = name
        self._times = times
        self._seen: Lease | None = None
        self._since = 0.0
        self._renewed: float | None = None
        self._lost = ""

    @property
    def leads(self) -> bool:
        """Whether the lease was taken. It may have run out since: see `left`."""
        return self._renewed is not None

    @property
    def lost(self) -> str:
        """Why the lease is another's now; empty while it is not known to be."""
        return self._lost

    @property
    def epoch(self) -> int:
        """The epoch of this leader: higher than that of every leader before it."""
        return self._seen.transitions if self._seen is not None else 0

    def left(self, now: float) -> float:
        """Return the seconds for which this process leads whatever happens; 0 or less: it must end."""
        if self._renewed is None or self._lost:
            return 0.0
        return self._renewed + self._times.deadline - now

    def saw(self, lease: Lease | None, now: float) -> None:
        """Take in what a read returned that ended now; None: there is no lease."""
        if self._renewed is not None:
            if lease is None:
                self._lost = "it was deleted"
            elif lease.holder != self._name:
                self._lost = f"it is held by {lease.holder or 'nobody'}"
            else:
                self._seen = lease
            return
        if lease is None:
            # Its holder does not know yet, and goes on until it wants to renew it.
            if self._seen is not None and self._seen.version:
                self._seen, self._since = self._seen._replace(version=""), now
        elif lease != self._seen:
            self._seen, self._since = lease, now

    def draft(self, now: float, floor: int) -> Lease | None:
        """Return the lease to write now; None while it is another's.

        Args:
            now: the same clock.
            floor: the least epoch of a lease that changes hands. One that was deleted or restored from a
                backup would otherwise begin again below what servers have seen.
        """
        seen = self._seen
        if seen is None:
            return Lease(self._name, self._times.lease, floor)
        if seen.holder == self._name:  # ours, perhaps by a write whose answer was lost
            return seen
        if seen.holder and now < self._since + max(seen.seconds, self._times.lease):
            return None
        epoch = max(seen.transitions + 1, floor)
        return Lease(self._name, self._times.lease, epoch, version=seen.version)

    def wrote(self, lease: Lease, began: float) -> None:
        """Take in a write that succeeded, and when it was begun."""
        self._seen, self._renewed = lease, began

    def resignation(self) -> Lease | None:
        """Return the lease to write to give it up; None when it is not ours."""
        if self._renewed is None or self._lost or self._seen is None:
            return None
        return self._seen._replace(holder="", seconds=1.0)

    def resigned(self) -> None:
        """Take in that the lease was given up."""
        self._renewed = None
