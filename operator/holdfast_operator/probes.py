"""What the probes of the health server answer."""

from enum import Enum, auto
from typing import Final

from holdfast_operator.elector import Alone, Elector
from holdfast_operator.handlers.echoes import Echoes
from holdfast_operator.health import Pulse, Verdict

_NOT_YET: Final = Verdict(False, "the definitions of the resources are not there yet")
_NOT_TRUSTED: Final = Verdict(False, "API servers do not trust the webhook's certificate yet")


class Role(Enum):
    """What this process is."""

    STARTING = auto()
    STANDBY = auto()
    LEADER = auto()
    ENDING = auto()


class Probes:
    """Answers from any thread.

    Args:
        pulse: of the event loop.
        echoes: of the watches.
        leader: this process.

    Attributes:
        role: what it is now.
        trusted: whether pods that ask for a sidecar can be created: False until the certificate that this
            operator or its leader keeps is trusted for the first time.
    """

    def __init__(self, pulse: Pulse, echoes: Echoes, leader: Elector | Alone) -> None:
        self._pulse = pulse
        self._echoes = echoes
        self._leader = leader
        self.role = Role.STARTING
        self.trusted = True

    def live(self) -> Verdict:
        """Whether a restart would not help: the loop turns, and what was written comes back.

        A Redis or an API server that is away is no reason: a restart would not bring it back.
        """
        turns = self._pulse.verdict()
        if not turns.good:
            return turns
        overdue = self._echoes.overdue()
        # An API server that cannot be reached tells nothing of the watches.
        if overdue is not None and self._leader.leads:
            return Verdict(False, f"the watch has not shown for {overdue:.0f} s what was written")
        return turns

    def ready(self) -> Verdict:
        """Whether it acts, or can as soon as the lease is free; and whether the installation is whole.

        Who waits for an installation waits for one of its operators, and a standby is one: so both wait
        until pods can be created. Later nobody does: a restart of neither would help.
        """
        if not self.trusted and self.role in {Role.STANDBY, Role.LEADER}:
            return _NOT_TRUSTED
        match self.role:
            case Role.STARTING:
                return _NOT_YET
            case Role.STANDBY if self._leader.can_lead():
                return Verdict(True, "standby: another operator leads")
            case Role.STANDBY:
                return Verdict(False, "standby: the lease cannot be reached")
            case Role.LEADER if self._leader.leads:
                return Verdict(True, "leader")
            case Role.LEADER:
                return Verdict(False, "the lease is running out")
            case Role.ENDING:
                return Verdict(False, "the operator ends")
