"""Which fields of a policy this version carries out."""

from typing import Final

from holdfast.policy.enums import OnBusy
from holdfast.policy.model import Policy
from holdfast.policy.rules import Part

IN_FORCE: Final = frozenset(
    {
        "description",
        "idempotency.maxRememberedIDs",
        "keyTemplate",
        "limits.maxMessageSize",
        "limits.maxMessages",
        "limits.maxTokens",
        "limits.onFull",
        "locking.leaseTTL",
        "locking.mode",
        "locking.waitTimeout",
        "model.contextWindow",
        "model.tokenizer",
        "retention.afterClear",
        "retention.maxLifetime",
        "retention.refreshOn",
        "retention.ttl",
        "type",
    }
)
"""Paths, in the manifest's names, of the fields that this version always carries out."""


def differences_not_in_force(policy: Policy) -> list[str]:
    """List the fields that differ from their default and are not carried out by this version.

    Returns:
        Paths in the manifest's names and order, such as `eviction.policy`.
    """
    return [path for path in _differences(policy, "") if not _is_in_force(policy, path)]


def _is_in_force(policy: Policy, path: str) -> bool:
    match path:
        case "locking.onBusy":
            return policy.locking.on_busy is not OnBusy.INTERRUPT
        case "limits.maxContextPercent":
            return policy.model.context_window is not None
        case _:
            return path in IN_FORCE


def _differences(part: Part, prefix: str) -> list[str]:
    found: list[str] = []
    for name, field in type(part).model_fields.items():
        path, value = f"{prefix}{field.alias or name}", getattr(part, name)
        if isinstance(value, Part):
            found += _differences(value, f"{path}.")
        elif field.is_required() or value != field.default:
            found.append(path)
    return found
