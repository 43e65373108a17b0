"""The walks over the sessions of memories: what they share, and who is told when a memory is gone."""

from dataclasses import dataclass
from typing import Self

from holdfast_operator.services.measurements import Measurements
from holdfast_operator.services.observing import Observer
from holdfast_operator.services.pacing import Paces
from holdfast_operator.services.ports import Clock
from holdfast_operator.services.rollouts import Rollouts
from holdfast_operator.services.sweeps import Sweeps


@dataclass(frozen=True, slots=True)
class Walks:
    """Every kind of walk.

    Attributes:
        paces: how fast they go, by server.
        rollouts: bring sessions under an edited policy.
        measurements: add up what memories hold.
        sweeps: see that every key has the expiry it should.
    """

    paces: Paces
    rollouts: Rollouts
    measurements: Measurements
    sweeps: Sweeps

    @classmethod
    def on(cls, clock: Clock, paces: Paces, observer: Observer | None = None) -> Self:
        """Make them all.

        Args:
            clock: for intervals and budgets.
            paces: shared with whoever else walks on the servers.
            observer: told what memories hold.
        """
        rollouts, measurements = Rollouts(clock, paces), Measurements(clock, paces, observer)
        return cls(paces, rollouts, measurements, Sweeps(clock, paces))

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a memory that is gone."""
        self.rollouts.forget(uid)
        self.measurements.forget(uid)
        self.sweeps.forget(uid)
