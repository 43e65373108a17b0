"""Conversation memory for LLM agents: policies, turns and exact token budgets on Redis or Valkey."""

from typing import TYPE_CHECKING, Any

from holdfast._version import __version__
from holdfast.errors import (
    AccessDenied,
    AcknowledgedLost,
    AmbiguousWrite,
    BudgetExceeded,
    BudgetTooSmall,
    ConfigurationError,
    CorruptRecord,
    HoldfastError,
    IdempotencyConflict,
    ImportRefused,
    LeaseLost,
    MemoryNotFound,
    MessageInvalid,
    MessageTooLarge,
    NotDurable,
    PolicyInvalid,
    PolicyNotFound,
    QuotaExceeded,
    RecordNotFound,
    ScriptsMissing,
    ServerTooOld,
    SessionBusy,
    SessionKeyError,
    StoreUnavailable,
    SummaryFailed,
    TokenCountFailed,
    TurnInterrupted,
    UnknownKeys,
)
from holdfast.values import (
    AppendResult,
    Durability,
    Health,
    ImportResult,
    Lease,
    Messages,
    Page,
    Privacy,
    Receipt,
    Record,
)

if TYPE_CHECKING:
    from holdfast.client import Client, Memory
    from holdfast.connecting import connect
    from holdfast.log import MessageLog
    from holdfast.policy import Policy
    from holdfast.session import Session
    from holdfast.tokens import Count, TokenCounter
    from holdfast.turn import Turn

__all__ = [
    "AccessDenied",
    "AcknowledgedLost",
    "AmbiguousWrite",
    "AppendResult",
    "BudgetExceeded",
    "BudgetTooSmall",
    "Client",
    "ConfigurationError",
    "CorruptRecord",
    "Count",
    "Durability",
    "Health",
    "HoldfastError",
    "IdempotencyConflict",
    "ImportRefused",
    "ImportResult",
    "Lease",
    "LeaseLost",
    "Memory",
    "MemoryNotFound",
    "MessageInvalid",
    "MessageLog",
    "MessageTooLarge",
    "Messages",
    "NotDurable",
    "Page",
    "Policy",
    "PolicyInvalid",
    "PolicyNotFound",
    "Privacy",
    "QuotaExceeded",
    "Receipt",
    "Record",
    "RecordNotFound",
    "ScriptsMissing",
    "ServerTooOld",
    "Session",
    "SessionBusy",
    "SessionKeyError",
    "StoreUnavailable",
    "SummaryFailed",
    "TokenCountFailed",
    "TokenCounter",
    "Turn",
    "TurnInterrupted",
    "UnknownKeys",
    "__version__",
    "connect",
]

_LAZY = {
    "Client": "client",
    "Count": "tokens",
    "Memory": "client",
    "MessageLog": "log",
    "Policy": "policy",
    "Session": "session",
    "TokenCounter": "tokens",
    "Turn": "turn",
    "connect": "connecting",
}


def __getattr__(name: str) -> Any:
    """Load what needs pydantic at its first use, so that importing the library stays cheap."""
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - only who asks pays

    value = getattr(import_module(f"holdfast.{module}"), name)
    globals()[name] = value
    return value
