"""Whether what was removed stays removed: no replica may bring it back by taking over.

Replicas follow a moment later, so a primary that fails may take a removal along. A failover is known by
its history, which begins anew: then the work is done again, on the server that took over.
"""

from enum import StrEnum

from holdfast.store.maintenance import Maintenance


class Standing(StrEnum):
    """What became of the work."""

    CONFIRMED = "Confirmed"  # every replica that is there has it
    BEHIND = "Behind"  # some do not say so yet
    REPLACED = "Replaced"  # another server took over meanwhile: it may lack it


class Confirmation:
    """Asks whether replicas have what one piece of work wrote.

    Where servers do not tell, or have no replica, there is nothing to wait for. A replica that is cut off
    is not waited for either: its primary drops it after a minute at most.
    """

    def __init__(self) -> None:
        self._histories: frozenset[str] | None = None
        self._written: dict[str, int] | None = None

    @property
    def begun(self) -> bool:
        """Whether it is known on which servers the work began."""
        return self._histories is not None

    async def begin(self, hands: Maintenance) -> None:
        """Note on which servers the work begins. One round trip to each primary."""
        self._histories, self._written = frozenset(await hands.replication()), None

    async def ask(self, hands: Maintenance) -> Standing:
        """Ask about the work, which is done. One round trip to each primary."""
        found = await hands.replication()
        if self._histories != frozenset(found):
            self._histories = None
            return Standing.REPLACED
        if self._written is None:
            self._written = {name: history.written for name, history in found.items()}
        followed = (
            history.confirmed is None or history.confirmed >= self._written[name]
            for name, history in found.items()
        )
        return Standing.CONFIRMED if all(followed) else Standing.BEHIND
