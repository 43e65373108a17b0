"""A session: one conversation of a memory."""

from datetime import timedelta
from typing import Literal, NamedTuple, TypeVar

from holdfast.background import Background
from holdfast.copies import Question
from holdfast.erasure import Erasure
from holdfast.errors import ConfigurationError
from holdfast.fallback import Ask, Form
from holdfast.place import Place
from holdfast.policy import Duration
from holdfast.transfer import Transfer
from holdfast.turn import Turn
from holdfast.values import Caller

T = TypeVar("T")

_SHORTEST_LEASE = 3000  # ms, as of the policy's `locking.leaseTTL`
_LONGEST_LEASE = (
    3_600_000  # ms, likewise: so long a session lives beyond its expiry, and nobody else gets it
)
_LONGEST_WAIT = 86_400_000  # ms


class Session(Erasure, Transfer):
    """One conversation. Cheap: it holds no connection and needs no closing.

    Args:
        place: where it reads and writes.
        holder: how its turns name themselves to others.
        background: of the client.
    """

    def __init__(self, place: Place, *, holder: str, background: Background) -> None:
        super().__init__(place)
        self._holder = holder
        self._background = background

    def turn(
        self,
        *,
        wait: str | timedelta | None = None,
        ttl: str | timedelta | None = None,
        on_interrupt: Literal["cancel"] | None = None,
    ) -> Turn:
        """Ask for the turn: `async with session.turn() as turn`.

        Args:
            wait: how long to wait in line, such as `"30s"`, at most `"24h"`; `timedelta(0)` does not wait;
                None is the policy's `locking.waitTimeout`.
            ttl: how long the turn stays reserved should this process fall silent, 3 s to 1 h; None
                is the policy's `locking.leaseTTL`.
            on_interrupt: what becomes of the body where the policy lets others take the turn
                (`locking.onBusy: Interrupt`; then nobody waits) and somebody did: `"cancel"` cancels
                its task, within about a second, and leaving the turn raises `TurnInterrupted`; None
                leaves it to the next call, which raises it, and to `turn.interrupted`.
        """
        asked = asked_turn(wait, ttl, on_interrupt)
        return Turn(
            self._place.again(),
            wait=asked.wait,
            ttl=asked.ttl,
            holder=self._holder,
            background=self._background,
            cancels=asked.cancels,
        )

    async def _answer(self, question: Question, ask: Ask[T], form: Form[T]) -> T:
        return await self._place.answer(question, ask, form)

    def _caller(self) -> Caller:
        place = self._place
        return Caller("", place.epoch, place.seen, place.sure)


class AskedTurn(NamedTuple):
    """How a turn is asked for.

    Attributes:
        wait: milliseconds in line; None is the policy's.
        ttl: milliseconds of life between renewals; None is the policy's.
        cancels: an interruption cancels the body.
    """

    wait: int | None
    ttl: int | None
    cancels: bool


def asked_turn(
    wait: str | timedelta | None, ttl: str | timedelta | None, on_interrupt: str | None
) -> AskedTurn:
    """Read the arguments of `Session.turn`.

    Raises:
        ConfigurationError: one of them cannot be.
    """
    if on_interrupt not in (None, "cancel"):
        raise ConfigurationError("on_interrupt is 'cancel' or None")
    life = None if ttl is None else _milliseconds(ttl)
    if life is not None and not _SHORTEST_LEASE <= life <= _LONGEST_LEASE:
        raise ConfigurationError("a turn's ttl is at least 3s and at most 1h")
    patience = None if wait is None else _milliseconds(wait)
    if patience is not None and patience > _LONGEST_WAIT:
        raise ConfigurationError("a turn is waited for at most 24h")
    return AskedTurn(patience, life, on_interrupt == "cancel")


def _milliseconds(value: str | timedelta) -> int:
    if isinstance(value, timedelta):
        if value < timedelta(0):
            raise ConfigurationError("a duration is not negative")
        return int(value / timedelta(milliseconds=1))
    try:
        return Duration.of(value).milliseconds
    except ValueError as error:
        raise ConfigurationError(f"{value!r} is no duration: {error}") from None
