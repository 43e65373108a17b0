"""Conditions: from what was found to what status says. Pure functions."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, TypeVar

from holdfast_operator.reasons import (
    REASONS,
    ConditionType,
    CredentialsReason,
    PausedReason,
    ReadyReason,
    Reason,
)
from holdfast_operator.services.outcome import Event, EventType, Obstacle
from holdfast_operator.status import Condition, ConditionStatus, Status

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN

S = TypeVar("S", bound=Status)

PROMPT: Final = 0.5
"""Seconds between looks at what may heal any moment."""
PATIENT: Final = 5.0
"""Seconds between looks at what has not healed for `PATIENCE`."""
PATIENCE: Final = timedelta(minutes=5)

_MESSAGE_LENGTH: Final = 4096
_NAMES: Final = 10
_ORDER: Final = {condition: place for place, condition in enumerate(ConditionType)}
_WOKEN: Final = frozenset(
    {
        ReadyReason.INVALID_SPEC,
        ReadyReason.NOT_SUPPORTED_YET,
        ReadyReason.ISOLATION_NOT_ACKNOWLEDGED,
        ReadyReason.BACKEND_NOT_FOUND,
        ReadyReason.BACKEND_NOT_VISIBLE,
        ReadyReason.BACKEND_NOT_READY,
        ReadyReason.BACKEND_NOT_ALLOWED,
        ReadyReason.MEMORY_NOT_FOUND,
        ReadyReason.MEMORY_NOT_READY,
        ReadyReason.SEVERAL_BACKENDS,
        CredentialsReason.FIELDS_NOT_PREFIX,
    }
)
"""Reasons that end with a change of an object we watch: that wakes, so nobody needs to look."""


class Finding(NamedTuple):
    """What was found about one aspect of an object."""

    type: ConditionType
    status: ConditionStatus
    reason: Reason
    message: str


def conditions(
    before: Iterable[Condition], findings: Iterable[Finding], *, generation: int, now: datetime
) -> tuple[Condition, ...]:
    """Return the conditions that status should show.

    The time of the last transition moves only where `status` flips. What was not found is gone.

    Args:
        before: as status shows them.
        findings: at most one of each type.
        generation: of the object that was looked at.
        now: time of the transitions.
    """
    known = {condition.type: condition for condition in before}

    def condition(finding: Finding) -> Condition:
        old = known.get(finding.type)
        same = old is not None and old.status is finding.status
        return Condition(
            type=finding.type.value,
            status=finding.status,
            reason=finding.reason.value,
            message=_cut(finding.message),
            last_transition_time=old.last_transition_time if same and old else timestamp(now),
            observed_generation=generation,
        )

    ordered = sorted(findings, key=lambda finding: _ORDER[finding.type])
    return tuple(condition(finding) for finding in ordered)


def kept(before: Iterable[Condition], *types: ConditionType) -> tuple[Condition, ...]:
    """Return the conditions of these types as they are."""
    return tuple(condition for condition in before if condition.type in types)


def merged(*parts: Iterable[Condition]) -> tuple[Condition, ...]:
    """Return all conditions in the usual order; the first of a type wins."""
    found: dict[str, Condition] = {}
    for part in parts:
        for condition in part:
            found.setdefault(condition.type, condition)
    order = {condition.value: place for condition, place in _ORDER.items()}
    return tuple(sorted(found.values(), key=lambda item: order.get(item.type, len(order))))


def not_ready(obstacle: Obstacle) -> list[Finding]:
    """Return what an obstacle says about Ready, and whether somebody has to act."""
    reason, message = obstacle.reason, obstacle.message
    found = [Finding(ConditionType.READY, FALSE, reason, message)]
    if reason in REASONS[ConditionType.STALLED]:
        found.append(Finding(ConditionType.STALLED, TRUE, reason, message))
    if reason in REASONS[ConditionType.CONFLICT]:
        found.append(Finding(ConditionType.CONFLICT, TRUE, reason, message))
    return found


def paused(status: S, *, generation: int, now: datetime) -> S:
    """Return the status of a paused object: as it was, and that it is paused."""
    finding = Finding(
        ConditionType.PAUSED,
        TRUE,
        PausedReason.ANNOTATED,
        'The annotation holdfast.dev/paused: "true" stops reconciliation; remove it to go on.',
    )
    added = conditions(status.conditions, [finding], generation=generation, now=now)
    return status.model_copy(update={"conditions": merged(added, status.conditions)})


def healing_interval(status: Status, now: datetime) -> float | None:
    """Return the seconds until a look at an object that is not Ready is worth it.

    None: it is Ready, or an event will wake it.
    """
    ready = status.condition(ConditionType.READY)
    if ready is None or ready.status is TRUE or ready.reason in _WOKEN:
        return None
    return PROMPT if now - moment(ready.last_transition_time) < PATIENCE else PATIENT


def transition(before: Status, after: Status) -> tuple[Event, ...]:
    """Return the event for a change of Ready or its reason, if there was one."""
    old, new = before.condition(ConditionType.READY), after.condition(ConditionType.READY)
    if new is None or (old is not None and (old.status, old.reason) == (new.status, new.reason)):
        return ()
    kind = EventType.NORMAL if new.status is TRUE else EventType.WARNING
    return (Event(kind, new.reason, new.message),)


def is_true(status: Status, condition: ConditionType) -> bool:
    """Whether a condition is there and True."""
    found = status.condition(condition)
    return found is not None and found.status is TRUE


def reason_of(status: Status, condition: ConditionType) -> str:
    """Return the reason of a condition; empty when it is not there."""
    found = status.condition(condition)
    return "" if found is None else found.reason


def timestamp(moment: datetime) -> str:
    """Return a moment as Kubernetes writes it: whole seconds in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str | None) -> datetime:
    """Return the moment that a status names, in UTC; 1970 when it names none that can be read."""
    try:
        found = datetime.fromisoformat(text or "")
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):  # a time zone may lead out of the years there are
        return datetime.fromtimestamp(0, UTC)


def listed(names: Sequence[str]) -> str:
    """Return names for a sentence: at most ten, and how many more there are."""
    shown = ", ".join(names[:_NAMES])
    return shown if len(names) <= _NAMES else f"{shown} and {len(names) - _NAMES} more"


def _cut(message: str) -> str:
    return message if len(message) <= _MESSAGE_LENGTH else f"{message[: _MESSAGE_LENGTH - 1]}…"
