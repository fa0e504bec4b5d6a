"""What the four middlewares see: log records, metrics, spans and printed lines."""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from examples.krules_patterns import observability
from examples.krules_patterns.observability import container, emit, registry


@pytest.fixture(autouse=True)
async def running() -> AsyncIterator[None]:
    """The example's engine, started and drained."""
    async with container.event_bus():
        yield


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The spans that end while the test runs."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(observability, "tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def metric(name: str, event_type: str) -> float:
    return registry.get_sample_value(name, {"event_type": event_type}) or 0.0


async def test_each_run_of_a_rule_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With the facts as attributes of the record."""
    with caplog.at_level(logging.INFO, logger=observability.__name__):
        await emit("order.submitted", "order-1", {"items": 3})
    (record,) = caplog.records
    assert record.getMessage() == "Event"
    facts = vars(record)
    assert (facts["event_type"], facts["subject"], facts["payload"]) == ("order.submitted", "order-1", {"items": 3})


async def test_events_are_counted_and_timed() -> None:
    """Also those that fail."""
    before = metric("krules_events_total", "order.submitted"), metric("krules_events_total", "order.refused")
    for event_type in ("order.submitted", "order.submitted", "order.refused"):
        await emit(event_type, "order-2", {"items": 1})
    assert metric("krules_events_total", "order.submitted") - before[0] == 2
    assert metric("krules_events_total", "order.refused") - before[1] == 1
    counted = metric("krules_events_total", "order.refused")
    assert metric("krules_event_duration_seconds_count", "order.refused") == counted
    assert metric("krules_event_duration_seconds_sum", "order.refused") > 0


async def test_a_rule_runs_in_a_span(spans: InMemorySpanExporter) -> None:
    """What the rule itself traces is a child of it."""
    await emit("order.submitted", "order-3", {"items": 1})
    inner, outer = spans.get_finished_spans()
    assert (inner.name, outer.name) == ("stock.check", "event.order.submitted")
    assert outer.context is not None
    assert inner.parent is not None
    assert inner.parent.span_id == outer.context.span_id
    assert dict(outer.attributes or {}) == {"event.type": "order.submitted", "subject.name": "order-3"}
    assert outer.status.status_code is StatusCode.OK


async def test_a_failure_is_recorded_in_the_span(spans: InMemorySpanExporter) -> None:
    """And goes on to the engine, which sets the event aside."""
    receipt = await emit("order.refused", "order-4")
    (span,) = spans.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    (recorded,) = span.events
    assert (recorded.attributes or {})["exception.message"] == "no such order"
    assert len(receipt.dead) == 1


async def test_events_are_printed_when_debugging(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only then."""
    await emit("order.submitted", "order-5", {"items": 1})
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("DEBUG_EVENTS", "true")
    await emit("order.submitted", "order-5", {"items": 2})
    shown = capsys.readouterr().out.splitlines()
    assert shown[1:5] == ["=== Event: order.submitted ===", "Subject: order-5", "Payload: {", '  "items": 2']
    assert shown[6].startswith("Duration: 0.")
    assert shown[7] == "=" * 50
