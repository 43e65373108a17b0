"""The words a policy chooses from, as they stand in a manifest."""

from enum import StrEnum


class MemoryType(StrEnum):
    """What bounds a session."""

    TOKEN_BASED = "TokenBased"  # noqa: S105 - a type of memory
    MESSAGE_COUNT_BASED = "MessageCountBased"
    BUFFER = "Buffer"


class Tokenizer(StrEnum):
    """How tokens are counted. The names are those of the encodings."""

    O200K_BASE = "o200k_base"
    CL100K_BASE = "cl100k_base"
    APPROXIMATE = "approximate"


class OnFull(StrEnum):
    """What an append does that does not fit."""

    EVICT = "Evict"
    REFUSE = "Refuse"


class FlushingStrategy(StrEnum):
    """What is evicted when a session crosses its threshold."""

    FIFO = "FIFO"
    LRU = "LRU"
    TOKEN_AWARE_LRU = "TokenAwareLRU"  # noqa: S105 - the name of a strategy
    HYBRID_SUMMARY = "HybridSummary"
    TIME_BASED = "TimeBased"
    DISABLED = "Disabled"


class SummaryRole(StrEnum):
    """The role a summary is read with."""

    SYSTEM = "System"
    DEVELOPER = "Developer"
    USER = "User"
    ASSISTANT = "Assistant"


class SummarizerType(StrEnum):
    """Who writes summaries."""

    BUILTIN = "Builtin"
    OPEN_AI_COMPATIBLE = "OpenAICompatible"


class EvictionPolicy(StrEnum):
    """In which order records leave."""

    FIFO = "FIFO"
    LRU = "LRU"
    PRIORITY = "Priority"


class RefreshOn(StrEnum):
    """Which calls set the expiry anew."""

    WRITE = "Write"
    READ = "Read"


class LockingMode(StrEnum):
    """Whether a turn keeps others from appending."""

    ADVISORY = "Advisory"
    ENFORCED = "Enforced"


class OnBusy(StrEnum):
    """What happens to a caller who wants a turn that somebody else has."""

    QUEUE = "Queue"
    REJECT = "Reject"
    INTERRUPT = "Interrupt"


class FailureMode(StrEnum):
    """What a read answers while the store is unavailable."""

    STRICT = "Strict"
    READ_STALE = "ReadStale"
    READ_EMPTY = "ReadEmpty"
