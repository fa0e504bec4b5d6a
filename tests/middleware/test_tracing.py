"""Tracing: which spans there are, how they hang together, and what they say."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as contexts
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.semconv._incubating.attributes import cloudevents_attributes, messaging_attributes
from opentelemetry.semconv.attributes import error_attributes, exception_attributes
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import onwhen
from onwhen import (
    Context,
    Event,
    EventBus,
    Limits,
    RetryPolicy,
    RuleSet,
    VirtualClock,
    changed,
    create_memory_storage,
    when,
)
from onwhen.errors import CircuitOpen, Postponed, RuleDefinitionError
from onwhen.middleware import Tracing

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}


class Spans:
    """Records spans, and finds them by their names."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self.provider = TracerProvider(sampler=sampler)
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def all(self) -> list[ReadableSpan]:
        """In the order in which they ended."""
        return list(self._exporter.get_finished_spans())

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.all]

    def named(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.all if span.name == name]
        return span

    def told(self, name: str) -> dict[str, Any]:
        return dict(self.named(name).attributes or {})

    def tree(self) -> dict[str, str | None]:
        """What is whose child, for spans whose names differ; None for one without a parent, "remote" for others."""
        names = {span.context.span_id: span.name for span in self.all}
        return {s.name: names.get(s.parent.span_id, "remote") if s.parent is not None else None for s in self.all}

    def traces(self) -> set[int]:
        return {span.context.trace_id for span in self.all}


@pytest.fixture
def spans() -> Spans:
    return Spans()


def bus_with(spans: Spans | None, *rules: RuleSet, **options: Any) -> EventBus:
    limits = Limits(retry=RetryPolicy(jitter=0))
    bus = EventBus(*rules, store=create_memory_storage(), clock=VirtualClock(), **{"limits": limits, **options})
    bus.use(Tracing(spans.provider if spans is not None else None))
    return bus


def taken(**extensions: str) -> Event:
    """An event from elsewhere, where it was part of a trace."""
    return Event("order.taken", "order:1", source="elsewhere", extensions=extensions or PARENT)


def parent_of(context: trace.SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def orders() -> RuleSet:
    """A rule that changes a property and sends a message, a reaction, and a rule on another subject."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    async def take(ctx: Context) -> None:
        ctx.subject.set("status", "open")
        await ctx.emit("parcel.packed", subject="parcel:1")

    @rules.on(changed("status"))
    def note(ctx: Context) -> None:
        ctx.subject.set("noted", True, muted=True)

    @rules.on("parcel.packed")
    def pack(ctx: Context) -> None: ...

    return rules


# -- how spans hang together ---------------------------------------------------------------------------------------


async def test_a_cascade_is_one_trace(spans: Spans) -> None:
    """An event's span has those of its rules in it, and a message's span is a child of the rule that sent it."""
    await bus_with(spans, orders()).emit(taken())
    assert spans.tree() == {
        "process order.taken": "remote",
        "orders.take": "process order.taken",
        "orders.note": "process order.taken",
        "process parcel.packed": "orders.take",
        "orders.pack": "process parcel.packed",
    }
    assert spans.traces() == {int(TRACE, 16)}
    first = spans.named("process order.taken").parent
    assert first is not None
    assert (first.span_id, first.is_remote) == (int(SPAN, 16), True)
    assert first.trace_state == {"vendor": "1"}
    assert spans.named("orders.pack").context.trace_state == {"vendor": "1"}


async def test_what_is_emitted_outside_of_rules_belongs_to_the_current_span(spans: Spans) -> None:
    """For instance to that of the HTTP request in which it is emitted."""
    bus = bus_with(spans, orders())
    with spans.provider.get_tracer("app").start_as_current_span("POST /orders"):
        await bus.emit("order.taken", "order:1")
    assert spans.tree()["process order.taken"] == "POST /orders"


async def test_what_is_emitted_where_there_is_no_span_begins_a_trace(spans: Spans) -> None:
    """With a span that stands for the emitting, so that all that follows has something in common."""
    receipt = await bus_with(spans, orders()).emit("order.taken", "order:1")
    assert spans.tree()["process order.taken"] == "emit"
    assert spans.tree()["emit"] is None
    assert (spans.named("emit").kind, spans.told("emit")["messaging.operation.type"]) == (SpanKind.PRODUCER, "send")
    context = spans.named("emit").context
    assert receipt.event.extensions["traceparent"] == parent_of(context)


async def test_what_a_subject_is_given_outside_of_rules_belongs_to_the_trace_too(spans: Spans) -> None:
    """Its property events are emitted by the commit."""
    bus = bus_with(spans, orders())
    with spans.provider.get_tracer("app").start_as_current_span("import"):
        async with bus.subject("order:1") as order:
            order.set("status", "open")
    assert spans.tree()["process subject-property-changed"] == "import"


async def test_an_event_that_is_given_whole_is_left_as_it_is(spans: Spans) -> None:
    """Whoever made it may have said where it belongs; if not, its handling begins a trace."""
    whole = Event("parcel.packed", "parcel:1")
    with spans.provider.get_tracer("app").start_as_current_span("import"):
        receipt = await bus_with(spans, orders()).emit(whole)
    assert receipt.event is whole
    assert spans.tree()["process parcel.packed"] is None


async def test_what_a_rule_says_itself_is_kept(spans: Spans) -> None:
    """A `traceparent` that was given to `emit` is not replaced."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    async def take(ctx: Context) -> None:
        await ctx.emit("parcel.packed", extensions=PARENT)

    receipt = await bus_with(spans, rules).emit("order.taken", "order:1")
    assert receipt.sent[0].extensions["traceparent"] == PARENT["traceparent"]


async def test_to_what_has_a_context_nothing_is_added(spans: Spans) -> None:
    """Whoever emits outside of rules may have said where that belongs."""
    assert Tracing(spans.provider).stamp(PARENT) == {}
    assert spans.all == []


async def test_a_timer_goes_on_with_the_trace(spans: Spans) -> None:
    """However much later it fires; the rule that set it is its parent."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    async def take(ctx: Context) -> None:
        await ctx.emit("order.overdue", delay=timedelta(days=3))

    @rules.on("order.overdue")
    def remind(ctx: Context) -> None: ...

    bus = bus_with(spans, rules)
    await bus.emit(taken())
    await bus.advance(timedelta(days=3))
    assert spans.tree()["process order.overdue"] == "orders.take"
    assert spans.traces() == {int(TRACE, 16)}


async def test_a_retry_is_a_further_child_of_the_same_parent(spans: Spans) -> None:
    """All attempts stand beside each other, with their numbers."""
    rules = RuleSet("orders")

    @rules.on("order.taken", retry=RetryPolicy(attempts=2, delay=timedelta(seconds=30)))
    def charge(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise ConnectionError("no line")

    bus = bus_with(spans, rules)
    await bus.emit("order.taken", "order:1")
    await bus.advance(timedelta(minutes=5))
    events = [span for span in spans.all if span.name == "process order.taken"]
    attempts = [span for span in spans.all if span.name == "orders.charge"]
    begin = spans.named("emit").context
    assert [span.parent.span_id for span in events if span.parent] == [begin.span_id] * 2
    assert spans.traces() == {begin.trace_id}
    assert [(span.attributes or {})["onwhen.attempt"] for span in (*events, *attempts)] == [1, 2, 1, 2]
    assert [(span.attributes or {})["onwhen.outcome"] for span in attempts] == ["failed", "fired"]
    assert [span.status.status_code for span in attempts] == [StatusCode.ERROR, StatusCode.UNSET]


async def test_a_run_that_was_deferred_goes_on_with_the_trace(spans: Spans) -> None:
    """It is a further run on the event, so it has the event's parent."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    async def wait(ctx: Context) -> None:
        if not ctx.deferred:
            ctx.defer(key="later", delay=timedelta(minutes=1))

    bus = bus_with(spans, rules)
    await bus.emit(taken())
    await bus.advance(timedelta(minutes=1))
    assert len(spans.all) == 4
    assert spans.traces() == {int(TRACE, 16)}


async def test_while_a_rule_runs_its_span_is_the_current_one(spans: Spans) -> None:
    """What a rule calls, and what other middleware starts, is in its place."""
    rules = RuleSet("orders")
    tracer = spans.provider.get_tracer("http")

    @rules.on("order.taken")
    async def call(ctx: Context) -> None:
        await asyncio.sleep(0)
        with tracer.start_as_current_span("GET"):
            await asyncio.sleep(0)

    @rules.on("order.taken")
    def after(ctx: Context) -> None:
        tracer.start_span("POST").end()

    bus = bus_with(spans, rules)

    async def around(ctx: Any, next: Any) -> None:
        with tracer.start_as_current_span(f"around {ctx.rule or 'all'}"):
            await next()

    bus.use(around, scope="event")
    bus.use(around)
    await bus.emit(taken())
    assert spans.tree() == {
        "process order.taken": "remote",
        "around all": "process order.taken",
        "orders.call": "around all",
        "around orders.call": "orders.call",
        "GET": "around orders.call",
        "orders.after": "around all",
        "around orders.after": "orders.after",
        "POST": "around orders.after",
    }


async def test_afterwards_the_emitters_own_span_is_the_current_one_again(spans: Spans) -> None:
    """Nothing of a turn is left behind, whether it went well or not."""
    rules = RuleSet("orders")

    @rules.on("*")
    def fail(ctx: Context) -> None:
        if ctx.event_type == "bad":
            raise ValueError

    bus = bus_with(spans, rules)
    for kind in ("good", "bad"):
        with spans.provider.get_tracer("app").start_as_current_span("mine") as mine:
            await bus.emit(kind, "order:1")
            assert trace.get_current_span() is mine
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.parametrize("sampler", [ALWAYS_ON, TraceIdRatioBased(0.0), ALWAYS_OFF])
async def test_middleware_further_out_is_in_its_own_span(sampler: Sampler) -> None:
    """Before and after; around events and around rules, recorded or not."""
    spans, seen = Spans(sampler), []

    async def outer(ctx: Any, next: Any) -> None:
        before = trace.get_current_span()
        await next()
        seen.append(trace.get_current_span() is before)

    bus = EventBus(orders(), store=create_memory_storage())
    bus.use(outer, scope="event")
    bus.use(outer)
    bus.use(Tracing(spans.provider))
    await bus.emit(taken())
    assert seen == [True] * 5


async def test_around_one_rule_only_there_are_the_spans_of_that_rule(spans: Spans) -> None:
    """As every middleware, it may be put there; the event's context is the parent then."""
    rules = RuleSet("orders")

    @rules.on("order.taken", middleware=[Tracing(spans.provider)])
    async def take(ctx: Context) -> None:
        await ctx.emit("parcel.packed")

    @rules.on("order.taken")
    def other(ctx: Context) -> None: ...

    bus = EventBus(rules, store=create_memory_storage())
    receipt = await bus.emit(taken())
    assert spans.tree() == {"orders.take": "remote"}
    assert spans.traces() == {int(TRACE, 16)}
    context = spans.named("orders.take").context
    assert receipt.sent[0].extensions["traceparent"] == parent_of(context)


# -- what spans say ------------------------------------------------------------------------------------------------


async def test_an_events_span_says_what_the_conventions_ask_for(spans: Spans) -> None:
    """Groups messaging and cloudevents of the semantic conventions, and what is our own."""
    receipt = await bus_with(spans, orders()).emit(taken())
    span = spans.named("process order.taken")
    assert span.kind is SpanKind.CONSUMER
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "onwhen"
    assert dict(span.attributes or {}) == {
        messaging_attributes.MESSAGING_SYSTEM: "onwhen",
        messaging_attributes.MESSAGING_OPERATION_TYPE: messaging_attributes.MessagingOperationTypeValues.PROCESS.value,
        messaging_attributes.MESSAGING_OPERATION_NAME: "process",
        messaging_attributes.MESSAGING_MESSAGE_ID: receipt.event.id,
        messaging_attributes.MESSAGING_MESSAGE_CONVERSATION_ID: receipt.event.correlation_id,
        messaging_attributes.MESSAGING_DESTINATION_NAME: "order.taken",
        messaging_attributes.MESSAGING_DESTINATION_PARTITION_ID: "0",
        cloudevents_attributes.CLOUDEVENTS_EVENT_ID: receipt.event.id,
        cloudevents_attributes.CLOUDEVENTS_EVENT_SOURCE: "elsewhere",
        cloudevents_attributes.CLOUDEVENTS_EVENT_TYPE: "order.taken",
        cloudevents_attributes.CLOUDEVENTS_EVENT_SUBJECT: "order:1",
        cloudevents_attributes.CLOUDEVENTS_EVENT_SPEC_VERSION: "1.0",
        "onwhen.attempt": 1,
        "onwhen.depth": 0,
        "onwhen.outcome": "handled",
    }
    assert spans.told("process parcel.packed")["onwhen.depth"] == 1


async def test_a_rules_span_says_what_it_ran_on(spans: Spans) -> None:
    """For a reaction, the property as well."""
    await bus_with(spans, orders()).emit("order.taken", "order:1")
    assert spans.named("orders.note").kind is SpanKind.INTERNAL
    assert spans.told("orders.take") == {
        "onwhen.rule": "orders.take",
        "onwhen.attempt": 1,
        "onwhen.outcome": "fired",
        "cloudevents.event_type": "order.taken",
    }
    assert spans.told("orders.note")["onwhen.property"] == "status"
    assert spans.told("orders.note")["cloudevents.event_type"] == "subject-property-changed"


async def test_a_rule_that_fails_is_an_error_with_its_exception(spans: Spans) -> None:
    """The event is handled all the same."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    def charge(ctx: Context) -> None:
        raise ConnectionError("no line")

    await bus_with(spans, rules).emit("order.taken", "order:1")
    span = spans.named("orders.charge")
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ConnectionError: no line")
    assert spans.told("orders.charge")[error_attributes.ERROR_TYPE] == "ConnectionError"
    assert spans.told("orders.charge")["onwhen.outcome"] == "failed"
    (told,) = span.events
    assert told.name == "exception"
    assert told.attributes is not None
    assert told.attributes[exception_attributes.EXCEPTION_TYPE] == "ConnectionError"
    assert told.attributes[exception_attributes.EXCEPTION_MESSAGE] == "no line"
    assert "in charge" in str(told.attributes[exception_attributes.EXCEPTION_STACKTRACE])
    assert spans.named("process order.taken").status.status_code is StatusCode.UNSET


async def test_a_condition_that_raises_has_a_span_of_its_rule_too(spans: Spans) -> None:
    """It fails before any middleware is entered, so the span has no length, but there it is."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    @when(lambda ctx: ctx.payload["total"] > 0)
    def take(ctx: Context) -> None: ...

    await bus_with(spans, rules).emit("order.taken", "order:1")
    assert spans.tree()["orders.take"] == "process order.taken"
    assert spans.told("orders.take")["error.type"] == "KeyError"


async def test_a_failure_that_was_dealt_with_is_no_error(spans: Spans) -> None:
    """The exception is there to be seen."""
    bus = bus_with(spans, failing())

    async def forgive(ctx: Any, next: Any) -> None:
        with suppress(ValueError):
            await next()

    bus.use(forgive)
    await bus.emit("order.taken", "order:1")
    span = spans.named("orders.fail")
    assert (span.status.status_code, spans.told("orders.fail")["onwhen.outcome"]) == (StatusCode.UNSET, "handled")
    assert [told.name for told in span.events] == ["exception"]
    assert "error.type" not in spans.told("orders.fail")


def failing(error: BaseException | None = None) -> RuleSet:
    rules = RuleSet("orders")

    @rules.on("order.taken")
    def fail(ctx: Context) -> None:
        raise error or ValueError("bad")

    return rules


@pytest.mark.parametrize("is_outside", [True, False])
async def test_what_was_put_off_is_no_error(is_outside: bool) -> None:
    """By the rule itself, by a middleware further in, or by one further out, which the rule's span never began in."""
    spans = Spans()

    async def breaker(ctx: Any, next: Any) -> None:
        raise CircuitOpen("the bank does not answer", delay=timedelta(seconds=30))

    bus = EventBus(orders(), store=create_memory_storage(), clock=VirtualClock())
    if is_outside:
        bus.use(breaker)
    bus.use(Tracing(spans.provider))
    if not is_outside:
        bus.use(breaker)
    await bus.emit("parcel.packed", "parcel:1")
    span = spans.named("orders.pack")
    assert span.status.status_code is StatusCode.UNSET
    assert (spans.told("orders.pack")["onwhen.outcome"], spans.told("orders.pack")["onwhen.delay"]) == ("postponed", 30)
    assert [(told.name, dict(told.attributes or {})) for told in span.events] == [
        ("postponed", {"onwhen.reason": "the bank does not answer"})
    ]


async def test_what_was_skipped_and_what_was_stopped_are_told_apart(spans: Spans) -> None:
    """A rule that was skipped has no span; the event's span says which condition did not hold."""
    rules = RuleSet("orders")

    def is_gift(ctx: Context) -> bool:
        return False

    @rules.on("order.taken")
    @when(is_gift)
    def wrap(ctx: Context) -> None: ...

    @rules.on("order.taken")
    def take(ctx: Context) -> None: ...

    bus = bus_with(spans, rules)

    async def doorman(ctx: Any, next: Any) -> None:
        """Let nobody in."""

    bus.use(doorman)
    await bus.emit("order.taken", "order:1")
    (skipped,) = spans.named("process order.taken").events
    assert skipped.attributes is not None
    assert (skipped.name, skipped.attributes["onwhen.rule"]) == ("rule skipped", "orders.wrap")
    assert "is_gift" in str(skipped.attributes["onwhen.condition"])
    assert spans.told("orders.take")["onwhen.outcome"] == "stopped"
    assert spans.told("orders.take")["onwhen.stopped_by"] == "doorman"


async def test_an_event_that_many_rules_skip_has_a_span_of_bounded_size(spans: Spans) -> None:
    """Those that fit are enough to see what goes on."""
    rules = RuleSet("orders")
    for number in range(40):
        rules.on("order.taken", name=f"rule{number}")(when(lambda ctx: False)(lambda ctx: None))
    await bus_with(spans, rules).emit("order.taken", "order:1")
    assert len(spans.named("process order.taken").events) == 32


async def test_an_event_that_fails_as_a_whole_is_an_error(spans: Spans) -> None:
    """Also if a middleware further in has swallowed the error: half a turn is not kept."""
    rules = RuleSet("orders")

    @rules.on("order.taken", changed("turns"))
    def spin(ctx: Context) -> None:
        ctx.subject.set("turns", lambda turns: (turns or 0) + 1)

    for swallows in (False, True):
        spans = Spans()
        bus = bus_with(spans, rules, limits=Limits(max_reactions=3))
        if swallows:

            async def swallow(ctx: Any, next: Any) -> None:
                with suppress(Exception):
                    await next()

            bus.use(swallow, scope="event")
        await bus.emit("order.taken", "order:1")
        assert spans.named("process order.taken").status.status_code is StatusCode.ERROR
        assert spans.told("process order.taken")["error.type"] == "onwhen.errors.CascadeLimit"


async def test_an_event_that_is_stopped_or_put_off_as_a_whole(spans: Spans) -> None:
    """Neither is an error."""
    bus = bus_with(spans, orders())

    async def doorman(ctx: Any, next: Any) -> None:
        if ctx.event_type == "order.taken":
            raise Postponed("closed", delay=timedelta(hours=8))

    bus.use(doorman, scope="event")
    await bus.emit("parcel.packed", "parcel:1")
    await bus.emit("order.taken", "order:1")
    assert spans.told("process parcel.packed")["onwhen.outcome"] == "stopped"
    assert spans.told("process order.taken")["onwhen.outcome"] == "postponed"
    assert {span.status.status_code for span in spans.all} == {StatusCode.UNSET}


async def test_a_message_that_is_refused_is_told_by_the_event(spans: Spans) -> None:
    """A chain that grew too long ends in a dead letter."""
    rules = RuleSet("orders")

    @rules.on("order.again")
    async def again(ctx: Context) -> None:
        await ctx.emit("order.again")

    await bus_with(spans, rules, limits=Limits(max_depth=1)).emit("order.again", "order:1")
    events = [told for span in spans.all for told in span.events]
    assert [told.name for told in events] == ["message refused"]
    assert "orders.again -> order.again" in str((events[0].attributes or {})["onwhen.reason"])


async def test_a_time_out_is_seen_as_a_cancellation(spans: Spans) -> None:
    """The limit is kept from outside of all middleware, which is cancelled with the rule."""
    rules = RuleSet("orders")

    @rules.on("order.taken", timeout=0.01)
    async def hang(ctx: Context) -> None:
        await asyncio.Event().wait()

    await bus_with(spans, rules).emit("order.taken", "order:1")
    assert spans.told("orders.hang")["onwhen.outcome"] == "cancelled"
    assert spans.named("orders.hang").status.status_code is StatusCode.ERROR


async def test_what_ends_the_program_goes_through(spans: Spans) -> None:
    """Spans end, and nobody is said to have failed."""
    with pytest.raises(KeyboardInterrupt):
        await bus_with(spans, failing(KeyboardInterrupt())).emit("order.taken", "order:1")
    assert {span.status.status_code for span in spans.all} == {StatusCode.UNSET}
    assert "process order.taken" in spans.names


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("error", [Unspeakable(), ValueError("half \ud800"), ValueError("x" * 100_000)])
async def test_an_error_cannot_break_a_span(spans: Spans, error: Exception) -> None:
    """Whatever its text is, or if it cannot be had."""
    receipt = await bus_with(spans, failing(error)).emit("order.taken", "order:1")
    assert receipt.failures[0][1] is error
    assert spans.named("orders.fail").status.status_code is StatusCode.ERROR
    assert len(spans.named("orders.fail").status.description or "") < 3000


async def test_it_changes_nothing_of_what_rules_do(spans: Spans) -> None:
    """Receipts with and without it are the same."""

    def told(receipt: Any) -> list[tuple[Any, ...]]:
        return [(run.rule, run.status, run.stopped_by, repr(run.error), run.changes) for run in receipt.runs]

    bare = await EventBus(orders(), failing_too(), store=create_memory_storage()).emit("order.taken", "order:1")
    traced = await bus_with(spans, orders(), failing_too()).emit("order.taken", "order:1")
    assert told(traced) == told(bare)


def failing_too() -> RuleSet:
    rules = RuleSet("more")
    rules.on("order.taken", name="fail")(_fail)
    return rules


def _fail(ctx: Context) -> None:
    raise ValueError("bad")


# -- what comes from outside ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("parent", ["nonsense", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{SPAN}-01", "x" * 10_000])
async def test_a_parent_that_is_malformed_is_as_none(spans: Spans, parent: str) -> None:
    """A trace begins with the event; see the tests of trace context for what is malformed."""
    receipt = await bus_with(spans, orders()).emit(Event("order.taken", "order:1", extensions={"traceparent": parent}))
    assert receipt.ok
    assert spans.tree()["process order.taken"] is None
    assert spans.tree()["process parcel.packed"] == "orders.take"


async def test_event_types_that_nobody_uses_twice_take_no_memory(spans: Spans) -> None:
    """What is kept by event type is bounded."""
    bus = bus_with(None)
    tracing = Tracing(spans.provider)
    bus.use(tracing)
    for number in range(1005):
        await bus.emit(f"type.{number}", "order:1")
    assert len(tracing._types) <= 1000


# -- sampling ------------------------------------------------------------------------------------------------------


async def test_a_parent_that_is_not_sampled_is_followed() -> None:
    """Nothing is recorded in the whole cascade, and the context goes on as it came."""
    spans = Spans(ParentBased(ALWAYS_ON))
    unsampled = {"traceparent": f"00-{TRACE}-{SPAN}-00", "tracestate": "vendor=1"}
    receipt = await bus_with(spans, orders()).emit(taken(**unsampled))
    assert spans.all == []
    assert dict(receipt.sent[0].extensions) == unsampled


async def test_a_sampler_that_decides_against_a_trace_decides_for_all_of_it() -> None:
    """No part of a cascade is recorded by itself."""
    spans = Spans(ParentBased(TraceIdRatioBased(0.0)))
    receipt = await bus_with(spans, orders()).emit("order.taken", "order:1")
    assert spans.all == []
    (sent,) = receipt.sent
    assert sent.extensions["traceparent"] == receipt.event.extensions["traceparent"]
    assert int(str(sent.extensions["traceparent"])[-2:], 16) & trace.TraceFlags.SAMPLED == 0


async def test_a_decision_against_a_parent_that_is_sampled_is_passed_on() -> None:
    """The trace and its last span stay, what follows is not sampled."""
    spans = Spans(TraceIdRatioBased(0.0))
    receipt = await bus_with(spans, orders()).emit(taken())
    assert dict(receipt.sent[0].extensions) == {**PARENT, "traceparent": f"00-{TRACE}-{SPAN}-00"}


@pytest.mark.parametrize("scope", ["event", "rule", None])
async def test_what_ends_the_program_goes_through_where_nothing_is_recorded(scope: Any) -> None:
    """There is no span that could end, and nothing to be told."""
    bus = EventBus(failing(KeyboardInterrupt()), store=create_memory_storage())
    bus.use(Tracing(Spans(TraceIdRatioBased(0.0)).provider), scope=scope)
    with pytest.raises(KeyboardInterrupt):
        await bus.emit("order.taken", "order:1")


async def test_around_one_rule_only_a_decision_against_a_trace_is_passed_on() -> None:
    """As around events."""
    bus = EventBus(orders(), store=create_memory_storage())
    bus.use(Tracing(Spans(TraceIdRatioBased(0.0)).provider), scope="rule")
    receipt = await bus.emit(taken())
    assert receipt.sent[0].extensions["traceparent"] == f"00-{TRACE}-{SPAN}-00"


async def test_a_sampler_may_leave_single_rules_out() -> None:
    """What they emit is a child of the event's span then."""

    class NoRules(Sampler):
        def should_sample(self, parent_context: Any, trace_id: Any, name: Any, *rest: Any, **more: Any) -> Any:
            chosen = ALWAYS_OFF if name.startswith("orders.") else ALWAYS_ON
            return chosen.should_sample(parent_context, trace_id, name)

        def get_description(self) -> str:
            return "NoRules"

    spans = Spans(NoRules())
    await bus_with(spans, orders()).emit(taken())
    assert spans.tree() == {"process order.taken": "remote", "process parcel.packed": "process order.taken"}


async def test_a_sampler_may_look_at_the_event() -> None:
    """What is known by its type is there when the span is made."""
    seen: list[Any] = []

    class Looking(Sampler):
        def should_sample(self, parent_context: Any, trace_id: Any, name: Any, *rest: Any, **more: Any) -> Any:
            seen.append((name, (more.get("attributes") or rest[1] or {}).get("messaging.destination.name")))
            return ALWAYS_OFF.should_sample(parent_context, trace_id, name)

        def get_description(self) -> str:
            return "Looking"

    await bus_with(Spans(Looking()), orders()).emit(taken())
    assert ("process order.taken", "order.taken") in seen


# -- nothing records -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", [None, TracerProvider(sampler=ALWAYS_OFF), trace.NoOpTracerProvider()])
@pytest.mark.parametrize("scope", [None, "rule"])
async def test_where_nothing_records_the_context_goes_on_as_it_came(provider: Any, scope: Any) -> None:
    """It is the current one too, so that a client that a rule calls can pass it on."""
    rules = RuleSet("orders")
    seen: list[Any] = []

    @rules.on("order.taken")
    async def take(ctx: Context) -> None:
        seen.append(trace.get_current_span().get_span_context())
        await ctx.emit("parcel.packed")

    bus = EventBus(rules, store=create_memory_storage())
    bus.use(Tracing(provider), scope=scope)
    receipt = await bus.emit(taken())
    assert dict(receipt.sent[0].extensions) == PARENT
    assert seen[0].trace_id == int(TRACE, 16)
    plain = await bus.emit("order.taken", "order:1")
    assert dict(plain.event.extensions) == dict(plain.sent[0].extensions) == {}
    assert not seen[1].is_valid


async def test_where_nothing_records_what_is_emitted_outside_belongs_to_the_current_context() -> None:
    """A server may have taken it from a request."""
    bus = bus_with(None, orders())
    token = contexts.attach(TraceContextTextMapPropagator().extract(PARENT))
    try:
        receipt = await bus.emit("order.taken", "order:1")
    finally:
        contexts.detach(token)
    assert dict(receipt.event.extensions) == PARENT


def test_a_provider_may_be_set_up_later() -> None:
    """By the application, after the bus was made, and even after it was used."""
    code = """
import asyncio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from onwhen import EventBus, create_memory_storage
from onwhen.middleware import Tracing

async def main():
    bus = EventBus(store=create_memory_storage())
    bus.use(Tracing())
    await bus.emit("before", "order:1")
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    await bus.emit("after", "order:1")
    print([span.name for span in exporter.get_finished_spans()])

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(onwhen.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "['emit', 'process after']\n"


# -- other propagators ---------------------------------------------------------------------------------------------


async def test_another_propagator_may_bring_more(spans: Spans) -> None:
    """Baggage, for instance, which rules can read, and which goes on with what they emit."""
    both = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
    rules = RuleSet("orders")
    seen: list[Any] = []

    @rules.on("*")
    async def look(ctx: Context) -> None:
        seen.append(baggage.get_baggage("tenant"))
        if ctx.event_type == "order.taken":
            await ctx.emit("parcel.packed", subject="parcel:1")

    bus = EventBus(rules, store=create_memory_storage())
    bus.use(Tracing(spans.provider, propagator=both))
    await bus.emit(taken(**PARENT, baggage="tenant=ann"))
    assert seen == ["ann", "ann"]
    assert spans.traces() == {int(TRACE, 16)}


@pytest.mark.parametrize("provider", [TracerProvider(), TracerProvider(sampler=ALWAYS_OFF)])
async def test_what_is_too_large_goes_no_further(provider: TracerProvider) -> None:
    """It would be stored with each message of a cascade; whether anything records makes no difference."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    async def take(ctx: Context) -> None:
        await ctx.emit("parcel.packed", subject="parcel:1")

    bus = EventBus(rules, store=create_memory_storage())
    both = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
    bus.use(Tracing(provider, propagator=both))
    receipt = await bus.emit(taken(**PARENT, baggage=f"tenant={'x' * 9000}"))
    assert set(receipt.sent[0].extensions) == {"traceparent", "tracestate"}


@pytest.mark.parametrize("arguments", [{"tracer_provider": "otlp"}, {"propagator": "b3"}])
def test_options_that_cannot_be_are_refused_at_once(arguments: dict[str, Any]) -> None:
    """Not when the first event comes."""
    with pytest.raises(RuleDefinitionError, match=next(iter(arguments))):
        Tracing(**arguments)


@pytest.fixture(autouse=True)
def _nothing_stays_current() -> Iterator[None]:
    yield
    assert trace.get_current_span() is trace.INVALID_SPAN
