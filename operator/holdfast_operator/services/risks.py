"""What may go wrong with a backend's servers, said before it does. Pure functions."""

from typing import Final

from holdfast.store.maintenance import ServerInfo
from holdfast_operator.backend import AccessMode, BackendMode, BackendSpec
from holdfast_operator.reasons import ConditionType, RiskReason
from holdfast_operator.services.conditions import TRUE, Finding
from holdfast_operator.services.outcome import Event, EventType
from holdfast_operator.status import BackendStatus

_HIGH: Final = 90
_LOW: Final = 85
"""Percent of its memory below which a server counts as relieved again: no flapping in between."""
_SURVEY: Final = "The look at all keys of the backend fails"
_OPEN: Final = "lets in who gives no password"


def risks(
    spec: BackendSpec, info: ServerInfo, before: BackendStatus, *, survey: str = ""
) -> list[Finding]:
    """Return the condition AtRisk if there is any risk: the gravest is its reason.

    What a server does not tell is no risk. Messages hold no figure that moves.

    Args:
        spec: of the backend.
        info: what its servers say.
        before: what was said last.
        survey: why the look at all keys fails; empty where it does not.
    """
    found: dict[RiskReason, str] = {}
    if info.silent:
        found[RiskReason.SERVER_SILENT] = (
            f"{info.silent} of {info.servers} servers do not answer the operator, or refuse its user: "
            "scripts and users are not kept up to date there."
        )
    if _is_pressed(info, before):
        found[RiskReason.MEMORY_PRESSURE] = (
            f"A server uses {_HIGH} % or more of its maxmemory: give it more, or shorten retention."
        )
    if info.max_memory and info.eviction_policy not in {"", "noeviction"}:
        found[RiskReason.EVICTION_ENABLED] = (
            f"maxmemory-policy is {info.eviction_policy}: when memory is short the server drops sessions "
            "or parts of them by itself. Set noeviction."
        )
    if info.persists is False:
        found[RiskReason.PERSISTENCE_OFF] = (
            "A server keeps nothing over a restart: set appendonly yes, or accept that a restart loses "
            "every session."
        )
    if info.default_open and spec.access.mode is not AccessMode.SHARED:
        found[RiskReason.DEFAULT_USER_OPEN] = (
            f"A server {_OPEN}: until its user default is locked, bindings keep nobody out. Set "
            "requirepass, or switch that user off."
        )
    if spec.mode is not BackendMode.STANDALONE and info.min_replicas == 0:
        found[RiskReason.REPLICAS_NOT_REQUIRED] = (
            "min-replicas-to-write is 0: a primary that is cut off goes on taking writes that a failover "
            "loses. Set it to 1."
        )
    wanted = spec.durability.replicas
    if wanted and info.replicas is not None and info.replicas < wanted:
        found[RiskReason.REPLICAS_MISSING] = (
            f"durability asks for {wanted} replicas, and a primary has fewer: every write waits for the "
            "whole timeout, and is not confirmed. Bring replicas back, or ask for fewer."
        )
    if survey:
        found[RiskReason.SURVEY_FAILED] = survey
    if not found:
        return []
    reason = next(iter(found))
    return [Finding(ConditionType.AT_RISK, TRUE, reason, " ".join(found.values()))]


def risk_events(before: BackendStatus, findings: list[Finding]) -> tuple[Event, ...]:
    """Return the event for what is a risk now and was not, or was another one."""
    old = before.condition(ConditionType.AT_RISK)
    return tuple(
        Event(EventType.WARNING, finding.reason, finding.message)
        for finding in findings
        if old is None or old.message != finding.message
    )


def survey_sentence(reason: str) -> str:
    """Return what is said of a look at all keys that fails for this reason."""
    return (
        f"{_SURVEY} ({reason}): sessions that are missing in an index, and keys of memories without a "
        "MemoryResource, are not found. The operator keeps trying."
    )


def survey_told(status: BackendStatus) -> str:
    """Return what was last said of a look at all keys that fails; empty if nothing was."""
    at_risk = status.condition(ConditionType.AT_RISK)
    found = at_risk.message.find(_SURVEY) if at_risk is not None else -1
    return at_risk.message[found:] if at_risk is not None and found >= 0 else ""


def is_open(status: BackendStatus) -> bool:
    """Whether the backend was last seen to let in who gives no password."""
    at_risk = status.condition(ConditionType.AT_RISK)
    return at_risk is not None and _OPEN in at_risk.message


def _is_pressed(info: ServerInfo, before: BackendStatus) -> bool:
    if info.most_full is None:
        return False
    old = before.condition(ConditionType.AT_RISK)
    pressed = old is not None and f"{_HIGH} % or more" in old.message
    return info.most_full >= (_LOW if pressed else _HIGH)
