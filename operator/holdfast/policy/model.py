"""The policy of a memory: the parts, the rules between them, and the document agents read."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Self, cast

from annotated_types import MaxLen
from pydantic import Field

from holdfast.models import known_model
from holdfast.policy.enums import FailureMode, FlushingStrategy, MemoryType, OnFull
from holdfast.policy.faults import Cause, Fault
from holdfast.policy.fields import Text
from holdfast.policy.parts import (
    Eviction,
    Flushing,
    Idempotency,
    Limits,
    Locking,
    Model,
    Privacy,
    Retention,
    Summary,
    TokenAllocation,
)
from holdfast.policy.quotas import Quotas
from holdfast.policy.rules import Part, Reading, Rule, TransitionRule
from holdfast.policy.template import KeyTemplate, template_fields

DEFAULT_MAX_TOKENS: Final = 2000
"""Tokens a session may hold when a policy sets no limit at all."""


def derived_type(limits: Limits) -> MemoryType:
    """Return what bounds a session with these limits."""
    if limits.on_full is not None:
        return MemoryType.BUFFER
    if limits.max_tokens is not None or limits.max_context_percent is not None:
        return MemoryType.TOKEN_BASED
    if limits.max_messages is not None:
        return MemoryType.MESSAGE_COUNT_BASED
    return MemoryType.TOKEN_BASED


class Policy(Part):
    """What holds for every session of a memory.

    The fields are those of a MemoryResource's spec without backendRef and deletionPolicy. Only
    `retention` is required. Building one in Python takes either form of the names and raises
    pydantic's `ValidationError`; `read`, `from_document` and `load_policy` raise `PolicyInvalid`.
    """

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        Rule["Policy"](
            path=".type",
            reason=Cause.INVALID,
            message=(
                "type must agree with limits: Buffer with onFull, else TokenBased with maxTokens,"
                " maxContextPercent or no limit, else MessageCountBased"
            ),
            check=lambda it: it.declared_type in {None, derived_type(it.limits)},
            expression=(
                "!has(self.type) || self.type == (has(self.limits.onFull) ? 'Buffer'"
                " : has(self.limits.maxMessages) && !has(self.limits.maxTokens)"
                " && !has(self.limits.maxContextPercent) ? 'MessageCountBased' : 'TokenBased')"
            ),
        ),
        Rule["Policy"](
            path=".limits.maxContextPercent",
            reason=Cause.INVALID,
            message="maxContextPercent needs model.contextWindow or model.name",
            check=lambda it: (
                it.limits.max_context_percent is None
                or it.model.context_window is not None
                or it.model.name is not None
            ),
            expression=(
                "!has(self.limits.maxContextPercent) || has(self.model.contextWindow)"
                " || has(self.model.name)"
            ),
        ),
    )
    transitions: ClassVar[tuple[TransitionRule[Any], ...]] = (
        TransitionRule["Policy"](
            path=".keyTemplate",
            reason=Cause.FORBIDDEN,
            message="keyTemplate is immutable: existing sessions would no longer be found",
            check=lambda new, old: new.key_template == old.key_template,
            expression=(
                "has(self.keyTemplate) == has(oldSelf.keyTemplate)"
                " && (!has(self.keyTemplate) || self.keyTemplate == oldSelf.keyTemplate)"
            ),
        ),
    )

    declared_type: MemoryType | None = Field(
        default=None,
        alias="type",
        description="What bounds a session. It follows from limits; when given it must agree.",
    )
    description: Annotated[Text, MaxLen(1024)] | None = Field(
        default=None, description="What the memory is for, in words for people."
    )
    model: Model = Field(default=Model(), description="The model that reads the memory.")
    limits: Limits = Field(default=Limits(), description="How large one session may become.")
    token_allocation: TokenAllocation | None = Field(
        default=None, description="How the tokens of a session are shared out; adds up to 100."
    )
    flushing: Flushing = Field(
        default=Flushing(), description="What happens before a session is full."
    )
    eviction: Eviction = Field(default=Eviction(), description="In which order records leave.")
    retention: Retention = Field(description="How long a session lives.")
    locking: Locking = Field(default=Locking(), description="Turns in a session.")
    privacy: Privacy = Field(default=Privacy(), description="What is never stored.")
    idempotency: Idempotency = Field(
        default=Idempotency(), description="How repeated appends are recognised."
    )
    quotas: Quotas | None = Field(default=None, description="Bounds over all sessions.")
    key_template: KeyTemplate | None = Field(
        default=None,
        description=(
            "How named fields make the key of a session. Absent: the caller gives the session id."
            " Immutable."
        ),
    )
    failure_mode: FailureMode = Field(
        default=FailureMode.STRICT,
        description=(
            "What a read answers while the store is unavailable: Strict an error, ReadStale what"
            " was read last, ReadEmpty nothing."
        ),
    )

    @property
    def type(self) -> MemoryType:
        """What bounds a session."""
        return derived_type(self.limits)

    @property
    def on_full(self) -> OnFull:
        """What an append does that does not fit."""
        return self.limits.on_full or OnFull.EVICT

    @property
    def context_window(self) -> int | None:
        """Tokens of the model's context: `model.contextWindow`, else what is known of `model.name`.

        None when the one is not given and the other not known.
        """
        if self.model.context_window is not None or self.model.name is None:
            return self.model.context_window
        model = known_model(self.model.name)
        return model.window if model is not None else None

    @property
    def max_tokens(self) -> int | None:
        """Most tokens of a session; None when only messages are counted.

        A percentage of a context window that is not known counts as no limit at all, which is
        2000 tokens.
        """
        limits, window = self.limits, self.context_window
        if limits.max_tokens is not None:
            return limits.max_tokens
        if limits.max_context_percent is not None and window is not None:
            return max(1, window * limits.max_context_percent // 100)
        if limits.max_context_percent is None and limits.max_messages is not None:
            return None
        return DEFAULT_MAX_TOKENS

    @property
    def max_messages(self) -> int | None:
        """Most messages of a session; None when they are not counted."""
        return self.limits.max_messages

    @property
    def key_fields(self) -> tuple[str, ...]:
        """Names of the key template's fields in their order; empty without a template."""
        return template_fields(self.key_template) if self.key_template is not None else ()

    def effective(self) -> dict[str, Any]:
        """Return the policy in the manifest's names with every default filled in.

        `type` is the derived one, a policy without limits gets its 2000 tokens, lists are sorted.
        `maxContextPercent` becomes the `maxTokens` it comes to: who reads the document may know
        other models than who wrote it, and under one revision all must keep to the same limit.
        `description` is left out: words for people change nothing for a session.
        """
        document = self.model_dump(mode="json", exclude_none=True, exclude={"description"})
        document["type"] = self.type.value
        limits = document["limits"]
        percent = limits.pop("maxContextPercent", None)
        if percent is not None or not limits.keys() & {"maxTokens", "maxMessages"}:
            limits["maxTokens"] = self.max_tokens
        if self.flushing.strategy is FlushingStrategy.HYBRID_SUMMARY:
            summary = self.flushing.summary or Summary()
            document["flushing"]["summary"] = summary.model_dump(mode="json", exclude_none=True)
        return cast("dict[str, Any]", _in_order(document))

    def document(self) -> str:
        """Return the canonical JSON text of `effective()`: sorted keys, no spaces, UTF-8."""
        return json.dumps(
            self.effective(), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )

    def sha256(self) -> str:
        """Return the hexadecimal SHA-256 of `document()`; it changes when the policy does."""
        return hashlib.sha256(self.document().encode()).hexdigest()

    @classmethod
    def from_document(cls, document: str | bytes | Mapping[str, Any]) -> Self:
        """Read what `document()` or `effective()` gave, of this version or a later one.

        Fields this version does not know are left out: an operator may be newer than the library
        of the agents it serves.

        Raises:
            PolicyInvalid: no JSON object, or one that breaks a rule.
        """
        if isinstance(document, str | bytes):
            try:
                parsed: object = json.loads(document)
            except ValueError:
                parsed = None
            if not isinstance(parsed, dict):
                raise Fault(("spec",), Cause.INVALID, "the policy is no JSON object").error()
            document = cast("dict[str, Any]", parsed)
        return cls.read(document, reading=Reading.STORED, prefix=("spec",))


def _in_order(value: object) -> object:
    """Sort lists, which are sets or keyed by a field, and leave out empty ones."""
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {key: _in_order(item) for key, item in members.items() if item != []}
    if isinstance(value, list):
        items = [_in_order(item) for item in cast("list[Any]", value)]
        return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))
    return value
