"""Which fields of a policy this version carries out."""

from typing import Final

from holdfast.policy.model import Policy
from holdfast.policy.rules import Part

IN_FORCE: Final = frozenset(
    {
        "description",
        "eviction.keepLast",
        "eviction.policy",
        "eviction.priorityBlocks",
        "eviction.priorityKeywords",
        "failureMode",
        "flushing.maxAge",
        "flushing.strategy",
        "flushing.summary.maxTokens",
        "flushing.summary.oldestPercent",
        "flushing.summary.role",
        "flushing.summary.summarizer.openAICompatible.model",
        "flushing.summary.summarizer.openAICompatible.url",
        "flushing.summary.summarizer.type",
        "flushing.targetPercent",
        "flushing.thresholdPercent",
        "idempotency.maxRememberedIDs",
        "keyTemplate",
        "limits.maxMessageSize",
        "limits.maxMessages",
        "limits.maxTokens",
        "limits.onFull",
        "locking.leaseTTL",
        "locking.mode",
        "locking.onBusy",
        "locking.waitTimeout",
        "model.contextWindow",
        "model.tokenizer",
        "privacy.nonPersistableTypes",
        "privacy.redactPatterns",
        "privacy.redactionText",
        "quotas.bytes.hard",
        "quotas.bytes.soft",
        "quotas.sessions.hard",
        "quotas.sessions.soft",
        "quotas.tokens.hard",
        "quotas.tokens.soft",
        "retention.afterClear",
        "retention.afterFlush",
        "retention.maxLifetime",
        "retention.refreshOn",
        "retention.ttl",
        "tokenAllocation.longTermPercent",
        "tokenAllocation.shortTermPercent",
        "tokenAllocation.systemPercent",
        "tokenAllocation.userDefined",
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
        case "limits.maxContextPercent":
            return policy.context_window is not None
        case "model.name":
            return policy.limits.max_context_percent is None or policy.context_window is not None
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
