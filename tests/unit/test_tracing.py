"""The spans: one for each call, with a closed list of attributes and nothing of a person."""

import asyncio
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from holdfast.errors import ConfigurationError, StoreUnavailable
from holdfast.store.redis.runner import Runner
from holdfast.telemetry import OUTCOMES, Call, Retry, Telemetry
from holdfast.tracing import ATTRIBUTES, EVENTS, OpenTelemetryObserver
from tests.harness.observed_work import (
    ID,
    MARKERS,
    MEMORY,
    NAME,
    SESSION,
    Hand,
    call_everything,
    client_of,
    fail_in_every_way,
    interrupt,
    store_what_is_screened,
    user,
)

SET_BACK = 5_000_000
"""Nanoseconds by which the wall clock, which spans are stamped with, may be corrected in a test."""


class Traces:
    """A provider that keeps the spans that were ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.observer = OpenTelemetryObserver(self.provider)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def named(self, call: Call) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == f"{call} {MEMORY}"]


@pytest.fixture
def traces() -> Traces:
    return Traces()


@pytest.mark.asyncio
async def test_each_call_makes_one_span(traces: Traces) -> None:
    async with client_of(traces.observer) as client:
        await call_everything(client.memory(NAME).session(SESSION))
    for call in Call:
        ahead = call in {Call.REPLACE, Call.EXPORT, Call.IMPORT, Call.ERASE, Call.SUMMARIZE}
        expected = 0 if ahead else 2 if call is Call.APPEND_MANY else 1
        assert len(traces.named(call)) == expected, call
    [append] = traces.named(Call.APPEND)
    assert append.kind is trace.SpanKind.CLIENT
    assert append.status.status_code is trace.StatusCode.UNSET
    assert dict(append.attributes or {}) == {
        "db.system.name": "holdfast",
        "db.operation.name": "append",
        "db.namespace": "team-a",
        "db.collection.name": "support",
        "holdfast.messages": 1,
        "holdfast.tokens": append.attributes["holdfast.tokens"] if append.attributes else 0,
    }
    assert append.instrumentation_scope is not None
    assert append.instrumentation_scope.name == "holdfast"


@pytest.mark.asyncio
async def test_attributes_and_events_are_closed_and_name_no_person(traces: Traces) -> None:
    async with client_of(traces.observer, locking={"onBusy": "Interrupt"}) as client:
        await interrupt(client, lambda turn: turn.append(user()))
    async with client_of(traces.observer) as client:
        session = client.memory(NAME).session(SESSION)
        await call_everything(session)
        await fail_in_every_way(session)
        await store_what_is_screened(session)
    names = {attribute.name: attribute.values for attribute in ATTRIBUTES}
    seen: set[str] = set()
    for span in traces.spans:
        for name, found in (span.attributes or {}).items():
            assert not names[name] or found in names[name]
            seen.add(name)
        assert span.events == ()  # no exception with its sentence, which names the session
        assert span.status.description is None
        for marker in MARKERS:
            assert marker not in span.to_json()
    assert seen == set(names)
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.asyncio
async def test_a_call_that_fails_says_how(traces: Traces) -> None:
    async with client_of(traces.observer) as client:
        await fail_in_every_way(client.memory(NAME).session(SESSION))
    [pin] = traces.named(Call.PIN)
    assert pin.status.status_code is trace.StatusCode.ERROR
    assert (pin.attributes or {})["error.type"] == "RecordNotFound"
    waits = [(span.attributes or {}).get("error.type") for span in traces.named(Call.WAIT)]
    assert sorted(map(str, waits)) == ["Cancelled", "None", "None", "None", "SessionBusy"]
    assert {outcome for outcome in waits if outcome} < set(OUTCOMES)


@pytest.mark.asyncio
async def test_a_span_belongs_to_the_one_around_it_and_what_happens_within_to_the_span(
    traces: Traces,
) -> None:
    tracer = traces.provider.get_tracer("test")
    async with client_of(traces.observer) as client:
        session = client.memory(NAME).session(SESSION)
        with tracer.start_as_current_span("agent") as agent:
            await asyncio.gather(session.append(user()), session.length())
            async with session.turn() as turn:
                await turn.append(user())
                await asyncio.sleep(0.01)
            assert trace.get_current_span() is agent
    ours = [span for span in traces.spans if span.name != "agent"]
    assert len(ours) == 5
    for span in ours:
        assert span.parent is not None
        assert span.parent.span_id == agent.get_span_context().span_id
    [hold] = traces.named(Call.HOLD)
    [wait] = traces.named(Call.WAIT)
    last = traces.named(Call.APPEND)[-1]
    assert hold.kind is trace.SpanKind.INTERNAL
    assert hold.start_time is not None
    assert hold.end_time is not None
    assert last.start_time is not None
    assert last.end_time is not None
    assert wait.end_time is not None
    assert wait.start_time is not None
    assert wait.start_time <= hold.start_time + SET_BACK
    assert hold.start_time <= last.start_time + SET_BACK
    assert hold.end_time + SET_BACK >= last.end_time
    assert 0.01 <= (hold.end_time - hold.start_time + SET_BACK) / 1e9 < 10


@pytest.mark.asyncio
async def test_a_retry_is_an_event_of_the_call_it_belongs_to(traces: Traces) -> None:
    telemetry = Telemetry([traces.observer], MEMORY)
    runner = Runner(Hand(StoreUnavailable("no")), patience=30, telemetry=telemetry)
    watch = telemetry.begin(Call.READ)
    assert watch is not None
    await runner.read([(b"GET", b"key")])
    watch.end(None)
    telemetry.retried(Retry.LOST)  # of nobody's call
    [span] = traces.spans
    [event] = span.events
    assert EVENTS.keys() == {event.name}
    assert dict(event.attributes or {}) == {"holdfast.retry.reason": "unreachable"}


@pytest.mark.asyncio
async def test_what_goes_on_in_the_background_leaves_an_ended_span_alone(
    traces: Traces, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry = Telemetry([traces.observer], MEMORY)
    go = asyncio.Event()

    async def later() -> None:
        await go.wait()
        telemetry.retried(Retry.LOST)

    watch = telemetry.begin(Call.READ)
    assert watch is not None
    task = asyncio.create_task(later())
    watch.end(None)
    go.set()
    await task
    [span] = traces.spans
    assert span.events == ()
    assert caplog.records == []


@pytest.mark.asyncio
async def test_a_duplicate_stands_on_its_span(traces: Traces) -> None:
    async with client_of(traces.observer) as client:
        session = client.memory(NAME).session(SESSION)
        for _ in range(2):
            await session.append(user(), id=ID)
    first, second = (dict(span.attributes or {}) for span in traces.named(Call.APPEND))
    assert "holdfast.duplicates" not in first
    assert second["holdfast.duplicates"] == 1
    assert "holdfast.messages" not in second


def test_a_package_that_is_missing_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'holdfast\[tracing\]'$"):
        OpenTelemetryObserver()


def test_the_provider_of_the_process_is_the_default() -> None:
    observer = OpenTelemetryObserver()
    begun = observer.begun(Call.READ, MEMORY)
    observer.ended(Call.READ, MEMORY, "ok", 0.1, begun)
    assert trace.get_current_span() is trace.INVALID_SPAN
