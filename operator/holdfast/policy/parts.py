"""The parts of a policy, field by field as they stand in a MemoryResource."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import Field

from holdfast.policy.enums import (
    EvictionPolicy,
    FlushingStrategy,
    LockingMode,
    OnBusy,
    OnFull,
    RefreshOn,
    SummarizerType,
    SummaryRole,
    Tokenizer,
)
from holdfast.policy.faults import Cause
from holdfast.policy.fields import (
    Address,
    Integer,
    Keywords,
    Kinds,
    Label,
    LeaseTime,
    Lifetime,
    Messages,
    MessageSize,
    Percent,
    RegularExpressions,
    Share,
    Text,
    Tokens,
    WaitTime,
)
from holdfast.policy.rules import Part, Rule, Unique, Unit
from holdfast.policy.units import Duration, Quantity


class Model(Part):
    """The model that reads the memory."""

    name: Annotated[Text, MinLen(1), MaxLen(128)] | None = Field(
        default=None, description="Name of the model, as its provider writes it."
    )
    tokenizer: Tokenizer = Field(
        default=Tokenizer.O200K_BASE, description="Encoding that tokens are counted with."
    )
    context_window: Tokens | None = Field(
        default=None, description="Size of the model's context window."
    )


class Limits(Part):
    """How large one session may become. Without any limit it is 2000 tokens."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        Rule["Limits"](
            path=".maxContextPercent",
            reason=Cause.FORBIDDEN,
            message="maxContextPercent excludes maxTokens",
            check=lambda limits: limits.max_tokens is None or limits.max_context_percent is None,
            expression="!has(self.maxTokens) || !has(self.maxContextPercent)",
        ),
    )

    max_tokens: Tokens | None = Field(
        default=None,
        description="Most tokens a session holds, pinned and system messages included.",
    )
    max_messages: Messages | None = Field(
        default=None,
        description="Most messages a session holds, pinned and system messages included.",
    )
    max_context_percent: Percent | None = Field(
        default=None,
        description="Most tokens a session holds, as a part of model.contextWindow.",
    )
    max_message_size: MessageSize = Field(
        default=Quantity("256Ki"), description="Largest message, measured as its JSON text."
    )
    on_full: OnFull | None = Field(
        default=None,
        description=(
            "What an append does that does not fit: Evict drops the oldest whole groups, Refuse"
            " writes nothing. Absent means Evict; when given, the type is Buffer."
        ),
    )


class UserShare(Part):
    """A share of the tokens with a name of its own."""

    name: Label = Field(description="Name of the share.")
    percent: Percent = Field(description="Its part of the tokens.")


class TokenAllocation(Part):
    """How the tokens of a session are shared out. All shares add up to 100."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        Rule["TokenAllocation"](
            path="",
            reason=Cause.INVALID,
            message=(
                "systemPercent, shortTermPercent, longTermPercent and userDefined"
                " must add up to 100"
            ),
            check=lambda shares: shares.total == 100,
            expression=(
                "self.systemPercent + self.shortTermPercent + self.longTermPercent"
                " + (has(self.userDefined) ? self.userDefined.map(x, x.percent).sum() : 0) == 100"
            ),
        ),
    )

    system_percent: Share = Field(default=0, description="Part of system messages.")
    short_term_percent: Share = Field(default=0, description="Part of the recent messages.")
    long_term_percent: Share = Field(
        default=0, description="Part of summaries and important messages."
    )
    # A record's flags can tell twelve shares apart, three of which have fixed names.
    user_defined: Annotated[tuple[UserShare, ...], MaxLen(9), Unique("name")] = Field(
        default=(), description="Further shares, each with a name."
    )

    @property
    def total(self) -> int:
        """The sum of all shares, in percent."""
        fixed = self.system_percent + self.short_term_percent + self.long_term_percent
        return fixed + sum(share.percent for share in self.user_defined)


class OpenAICompatible(Part):
    """An endpoint that speaks the OpenAI chat completions protocol.

    Its key is given to the process that summarises, as a file; a resource never names one.
    """

    url: Address = Field(description="Base address of the endpoint.")
    model: Annotated[Text, MinLen(1), MaxLen(128)] = Field(description="Name of the model.")


class Summarizer(Part):
    """Who writes summaries."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        Rule["Summarizer"](
            path=".openAICompatible",
            reason=Cause.REQUIRED,
            message="type: OpenAICompatible needs openAICompatible",
            check=lambda it: (
                it.type is not SummarizerType.OPEN_AI_COMPATIBLE
                or it.open_ai_compatible is not None
            ),
            expression="self.type != 'OpenAICompatible' || has(self.openAICompatible)",
        ),
        Rule["Summarizer"](
            path=".openAICompatible",
            reason=Cause.FORBIDDEN,
            message="openAICompatible is only for type: OpenAICompatible",
            check=lambda it: (
                it.type is SummarizerType.OPEN_AI_COMPATIBLE or it.open_ai_compatible is None
            ),
            expression="self.type == 'OpenAICompatible' || !has(self.openAICompatible)",
        ),
    )

    type: SummarizerType = Field(
        default=SummarizerType.BUILTIN,
        description="Builtin chooses sentences and calls no model; OpenAICompatible calls one.",
    )
    open_ai_compatible: OpenAICompatible | None = Field(
        default=None, description="Endpoint and model; exactly with type OpenAICompatible."
    )


class Summary(Part):
    """How old messages become a summary."""

    oldest_percent: Percent = Field(
        default=30,
        description="Least part of a session's tokens that a summary takes, in the order of eviction.",
    )
    max_tokens: Annotated[Integer, Ge(16), Le(100_000), Unit("tokens")] = Field(
        default=500, description="Longest summary."
    )
    role: SummaryRole = Field(
        default=SummaryRole.SYSTEM, description="Role the summary is read with."
    )
    summarizer: Summarizer = Field(default=Summarizer(), description="Who writes the summary.")


class Flushing(Part):
    """What happens when a session crosses its threshold, before it is full."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        Rule["Flushing"](
            path=".targetPercent",
            reason=Cause.INVALID,
            message="targetPercent must be below thresholdPercent",
            check=lambda it: it.target_percent < it.threshold_percent,
            expression="self.targetPercent < self.thresholdPercent",
        ),
        Rule["Flushing"](
            path=".maxAge",
            reason=Cause.REQUIRED,
            message="strategy: TimeBased needs maxAge",
            check=lambda it: (
                it.strategy is not FlushingStrategy.TIME_BASED or it.max_age is not None
            ),
            expression="self.strategy != 'TimeBased' || has(self.maxAge)",
        ),
        Rule["Flushing"](
            path=".maxAge",
            reason=Cause.FORBIDDEN,
            message="maxAge is only for strategy: TimeBased",
            check=lambda it: it.strategy is FlushingStrategy.TIME_BASED or it.max_age is None,
            expression="self.strategy == 'TimeBased' || !has(self.maxAge)",
        ),
        Rule["Flushing"](
            path=".summary",
            reason=Cause.FORBIDDEN,
            message="summary is only for strategy: HybridSummary",
            check=lambda it: it.strategy is FlushingStrategy.HYBRID_SUMMARY or it.summary is None,
            expression="self.strategy == 'HybridSummary' || !has(self.summary)",
        ),
    )

    strategy: FlushingStrategy = Field(
        default=FlushingStrategy.DISABLED,
        description=(
            "What leaves a session that crosses thresholdPercent. Disabled: nothing leaves before"
            " the limit is reached, then the oldest whole groups."
        ),
    )
    threshold_percent: Percent = Field(
        default=80, description="How full a session is when a flush starts."
    )
    target_percent: Percent = Field(
        default=50, description="How full it is after the flush; below thresholdPercent."
    )
    max_age: Lifetime | None = Field(
        default=None, description="Age at which messages leave; exactly with strategy TimeBased."
    )
    summary: Summary | None = Field(
        default=None, description="The summary; only with strategy HybridSummary."
    )


class PriorityBlock(Part):
    """What one priority means."""

    priority: Annotated[Integer, Ge(0), Le(9), Unit("number")] = Field(
        description="0 is never evicted, 1 last, 2 and above first."
    )
    content_types: Kinds = Field(default=(), description="Kinds of content with this priority.")
    max_tokens: Tokens | None = Field(
        default=None, description="Most tokens that messages of this priority may take."
    )


class Eviction(Part):
    """In which order records leave a session. System and pinned messages never do."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        Rule["Eviction"](
            path=".priorityKeywords",
            reason=Cause.FORBIDDEN,
            message="priorityKeywords is only for policy: Priority",
            check=lambda it: it.policy is EvictionPolicy.PRIORITY or not it.priority_keywords,
            expression=(
                "self.policy == 'Priority' || !has(self.priorityKeywords)"
                " || self.priorityKeywords.size() == 0"
            ),
        ),
        Rule["Eviction"](
            path=".priorityBlocks",
            reason=Cause.FORBIDDEN,
            message="priorityBlocks is only for policy: Priority",
            check=lambda it: it.policy is EvictionPolicy.PRIORITY or not it.priority_blocks,
            expression=(
                "self.policy == 'Priority' || !has(self.priorityBlocks)"
                " || self.priorityBlocks.size() == 0"
            ),
        ),
    )

    policy: EvictionPolicy = Field(
        default=EvictionPolicy.FIFO, description="Order in which whole groups leave."
    )
    priority_keywords: Keywords = Field(
        default=(), description="Words that make a message important."
    )
    priority_blocks: Annotated[tuple[PriorityBlock, ...], MaxLen(10), Unique("priority")] = Field(
        default=(), description="What each priority means."
    )
    keep_last: Annotated[Integer, Ge(0), Le(100_000), Unit("messages")] = Field(
        default=0, description="How many of the newest messages a flush leaves alone."
    )


def _within_lifetime(
    name: str, pick: Callable[["Retention"], Duration | None]
) -> Rule["Retention"]:
    def check(retention: "Retention") -> bool:
        span, longest = pick(retention), retention.max_lifetime
        return span is None or longest is None or span.milliseconds <= longest.milliseconds

    return Rule["Retention"](
        path=f".{name}",
        reason=Cause.INVALID,
        message=f"{name} must not exceed maxLifetime",
        check=check,
        expression=(
            f"!has(self.maxLifetime) || !has(self.{name}) || self.{name} <= self.maxLifetime"
        ),
    )


class Retention(Part):
    """How long a session lives. Every key of a session expires at the same moment."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        _within_lifetime("ttl", lambda it: it.ttl),
        _within_lifetime("afterClear", lambda it: it.after_clear),
        _within_lifetime("afterFlush", lambda it: it.after_flush),
    )

    ttl: Lifetime = Field(
        description="Idle time after which a session is deleted. Each refreshing call starts anew."
    )
    after_clear: Lifetime | None = Field(
        default=None, description="Replaces ttl after a clear, until the next refresh."
    )
    after_flush: Lifetime | None = Field(
        default=None, description="Replaces ttl after a flush, until the next refresh."
    )
    max_lifetime: Lifetime | None = Field(
        default=None, description="Longest life of a session, counted from its first write."
    )
    refresh_on: Annotated[tuple[RefreshOn, ...], MinLen(1), MaxLen(2), Unique()] = Field(
        default=(RefreshOn.WRITE,), description="Which calls start the idle time anew."
    )


class Locking(Part):
    """Turns: one caller at a time answers in a session."""

    mode: LockingMode = Field(
        default=LockingMode.ADVISORY,
        description=(
            "Enforced refuses appends without the lease while somebody holds it; Advisory lets"
            " them through."
        ),
    )
    lease_ttl: LeaseTime = Field(
        default=Duration("30s"),
        description="How long a turn stays reserved for a holder that went silent.",
    )
    wait_timeout: WaitTime = Field(
        default=Duration("30s"), description="How long a caller waits for its turn."
    )
    on_busy: OnBusy = Field(
        default=OnBusy.QUEUE,
        description="What happens to a caller while somebody else holds the turn.",
    )


class Privacy(Part):
    """What is never stored."""

    redact_patterns: RegularExpressions = Field(
        default=(), description="Matches are replaced before a message is stored; RE2 syntax."
    )
    redaction_text: Annotated[Text, MaxLen(64)] = Field(
        default="[REDACTED]", description="What stands in place of a match."
    )
    non_persistable_types: Kinds = Field(
        default=(), description="Kinds of content and roles that are not stored at all."
    )


class Idempotency(Part):
    """How repeated appends are recognised."""

    max_remembered_ids: Annotated[Integer, Ge(0), Le(10_000), Unit("message ids")] = Field(
        default=256, description="How many of the latest message ids a session remembers."
    )
