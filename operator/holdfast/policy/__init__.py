"""Policies: what a MemoryResource's spec says about every session of a memory.

`Policy` and its parts are the models; the names of their fields are `snake_case` in Python and
`camelCase` in manifests. `load_policy` reads a manifest as an API server does, with the same path,
reason and sentence for the same fault.
"""

from holdfast.policy.enums import (
    EvictionPolicy,
    FailureMode,
    FlushingStrategy,
    LockingMode,
    MemoryType,
    OnBusy,
    OnFull,
    RefreshOn,
    SummarizerType,
    SummaryRole,
    Tokenizer,
)
from holdfast.policy.faults import Cause
from holdfast.policy.force import differences_not_in_force
from holdfast.policy.loading import PolicySource, load_policy
from holdfast.policy.manifest import BackendRef, DeletionPolicy, ResourceSpec
from holdfast.policy.model import DEFAULT_MAX_TOKENS, Policy
from holdfast.policy.parts import (
    Eviction,
    Flushing,
    Idempotency,
    Limits,
    Locking,
    Model,
    OpenAICompatible,
    PriorityBlock,
    Privacy,
    Retention,
    Summarizer,
    Summary,
    TokenAllocation,
    UserShare,
)
from holdfast.policy.quotas import Quota, Quotas, SizeQuota
from holdfast.policy.rules import Part, Rule, TransitionRule, transition_fault
from holdfast.policy.template import template_fields
from holdfast.policy.units import Duration, Quantity

__all__ = [
    "DEFAULT_MAX_TOKENS",
    "BackendRef",
    "Cause",
    "DeletionPolicy",
    "Duration",
    "Eviction",
    "EvictionPolicy",
    "FailureMode",
    "Flushing",
    "FlushingStrategy",
    "Idempotency",
    "Limits",
    "Locking",
    "LockingMode",
    "MemoryType",
    "Model",
    "OnBusy",
    "OnFull",
    "OpenAICompatible",
    "Part",
    "Policy",
    "PolicySource",
    "PriorityBlock",
    "Privacy",
    "Quantity",
    "Quota",
    "Quotas",
    "RefreshOn",
    "ResourceSpec",
    "Retention",
    "Rule",
    "SizeQuota",
    "Summarizer",
    "SummarizerType",
    "Summary",
    "SummaryRole",
    "TokenAllocation",
    "Tokenizer",
    "TransitionRule",
    "UserShare",
    "differences_not_in_force",
    "load_policy",
    "template_fields",
    "transition_fault",
]
