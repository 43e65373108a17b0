"""Spans for OpenTelemetry, one for each call; `pip install 'holdfast[tracing]'`."""

import time
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Final, NamedTuple

from holdfast._version import __version__
from holdfast.errors import ConfigurationError
from holdfast.telemetry import OK, OUTCOMES, Call, Counted, Measured, Retry
from holdfast.values import MemoryAddress

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, TracerProvider

_SYSTEM: Final = "holdfast"
_RETRY: Final = "retry"
_REASON: Final = "holdfast.retry.reason"
_INTERNAL: Final = frozenset({Call.HOLD, Call.FLUSH, Call.SUMMARIZE})
"""Calls that are more than questions to the store."""


class Attribute(NamedTuple):
    """An attribute of a span, or of an event of one.

    Attributes:
        name: of the semantic conventions where they have one.
        meaning: a phrase for people.
        values: all there are; empty for names and numbers.
    """

    name: str
    meaning: str
    values: tuple[str, ...] = ()


AMOUNTS: Final = {
    Counted.MESSAGES: Attribute("holdfast.messages", "messages that were stored"),
    Counted.TOKENS: Attribute("holdfast.tokens", "tokens of those messages"),
    Counted.DUPLICATES: Attribute("holdfast.duplicates", "1 for an append whose id was known"),
    Counted.EVICTED: Attribute("holdfast.evicted", "messages that left meanwhile"),
    Counted.REDACTED: Attribute("holdfast.redacted", "values and parts of texts replaced"),
    Counted.WITHHELD: Attribute("holdfast.withheld", "messages whose content was not stored"),
}
"""What is counted in the middle of a call, and stands on its span."""

ATTRIBUTES: Final = (
    Attribute("db.system.name", "always the same", (_SYSTEM,)),
    Attribute("db.operation.name", "the call", tuple(Call)),
    Attribute("db.namespace", "namespace of the memory"),
    Attribute("db.collection.name", "name of the memory"),
    Attribute(
        "error.type",
        "how the call failed; not there when it did not",
        tuple(outcome for outcome in OUTCOMES if outcome != OK),
    ),
    *AMOUNTS.values(),
)
EVENTS: Final = {_RETRY: (Attribute(_REASON, "why", tuple(Retry)),)}


class _Open(NamedTuple):
    """A span that is open, and what takes it out of the context again."""

    span: "Span"
    amounts: dict[str, int]
    attached: "Token[Context]"
    before: "_Open | None"


class OpenTelemetryObserver:
    """Makes a span for each call.

    While a call runs its span is the current one, so what a summariser or a client of yours does there
    becomes its child. A span names the memory and how the call ended; never a session, a person or
    content, and no error's sentence.

    Args:
        tracer_provider: an `opentelemetry.trace.TracerProvider`; None is the one of the process.

    Raises:
        ConfigurationError: OpenTelemetry is not installed.
    """

    def __init__(self, tracer_provider: "TracerProvider | None" = None) -> None:
        try:
            from opentelemetry import context, trace  # noqa: PLC0415 - only who asks needs it
        except ImportError:
            raise ConfigurationError(
                "spans need OpenTelemetry: pip install 'holdfast[tracing]'"
            ) from None
        self._context, self._trace = context, trace
        self._tracer = trace.get_tracer("holdfast", __version__, tracer_provider)
        self._open: ContextVar[_Open | None] = ContextVar("holdfast_span", default=None)

    def begun(self, call: Call, memory: MemoryAddress, /) -> object:
        """Open a span and make it the current one."""
        span = self._start(call, memory, None)
        attached = self._context.attach(self._trace.set_span_in_context(span))
        opened = _Open(span, {}, attached, self._open.get())
        self._open.set(opened)
        return opened

    def ended(
        self, call: Call, memory: MemoryAddress, outcome: str, seconds: float, begun: object, /
    ) -> None:
        """Close the call's span; one that was never opened is made now."""
        if isinstance(begun, _Open):
            self._open.set(begun.before)
            self._context.detach(begun.attached)
            span, amounts = begun.span, begun.amounts
        else:
            span, amounts = self._start(call, memory, time.time_ns() - int(seconds * 1e9)), {}
        for name, amount in amounts.items():
            span.set_attribute(name, amount)
        if outcome != OK:
            span.set_attribute("error.type", outcome)
            span.set_status(self._trace.StatusCode.ERROR)
        span.end()

    def counted(
        self,
        what: Counted,
        memory: MemoryAddress | None,  # noqa: ARG002 - the span names it
        amount: int,
        label: str,
        /,
    ) -> None:
        """Add to the span that is open: an amount, or the event of a retry."""
        opened = self._open.get()
        if opened is None or not opened.span.is_recording():
            return  # what goes on in the background outlives the call that started it
        if what is Counted.RETRIES:
            opened.span.add_event(_RETRY, {_REASON: label})
        elif what in AMOUNTS:
            name = AMOUNTS[what].name
            opened.amounts[name] = opened.amounts.get(name, 0) + amount

    def measured(
        self, what: Measured, memory: MemoryAddress | None, value: float | None, label: str, /
    ) -> None:
        """Nothing: levels are for metrics."""

    def _start(self, call: Call, memory: MemoryAddress, at: int | None) -> "Span":
        kind = self._trace.SpanKind.INTERNAL if call in _INTERNAL else self._trace.SpanKind.CLIENT
        return self._tracer.start_span(
            f"{call} {memory}",
            kind=kind,
            attributes={
                "db.system.name": _SYSTEM,
                "db.operation.name": call.value,
                "db.namespace": memory.namespace,
                "db.collection.name": memory.name,
            },
            start_time=at,
        )
