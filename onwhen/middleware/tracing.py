"""Tracing: a span per event and one per rule, in one connected trace with whatever caused the event.

Belongs here: when spans begin and end, where their context is read from and written to. It must not know the SDK:
whether anything is recorded, and where it goes, is for the application to say.

Source: OpenTelemetry tracing API; CloudEvents "Distributed Tracing" extension; W3C Trace Context.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Token
from typing import Any, Final

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

from onwhen.engine.chain import Next, Scope
from onwhen.engine.context import Context
from onwhen.engine.endings import ends_the_program
from onwhen.engine.events import Event
from onwhen.engine.turns import Turn
from onwhen.errors import RuleDefinitionError
from onwhen.middleware import _spans
from onwhen.middleware._trace_context import carrier_of, stamps_of

__all__ = ["Tracing"]

_MAX_TYPES: Final = 1000  # event types come from outside; the memory for them is bounded
_NOWHERE: Final = contexts.Context()
_UNKNOWN: Final = object()
_NOTHING: Final[Mapping[str, str]] = {}


class Tracing:
    """Makes a trace of what follows from an event, over all subjects, timers, retries and processes.

        bus.use(Tracing())

    Around each event there is a span of kind CONSUMER, `process EVENT_TYPE`, and in it one of kind INTERNAL for each
    rule that is run, named by the rule's id. While a rule runs its span is the current one, so that what it calls is
    part of the trace. What it emits, messages and timers, carries the rule's span in the extension attributes
    `traceparent` and `tracestate`, and the event's span has that as its parent, whenever and in whichever process it
    is handled. A retry is a further child of the same parent; so are runs that were postponed or deferred.

    What is emitted outside of rules carries the current span. Where there is none, a span `emit` of kind PRODUCER
    begins the trace. An `Event` that is given whole is left as it is; without a `traceparent` its handling begins a
    trace, and each retry another one.

    Put around one rule only, `middleware=[Tracing()]`, there are the spans of that rule.

    How it ended is in the attribute `onwhen.outcome`: of an event "handled", "stopped" or "failed", of a rule "fired",
    "stopped", "failed" or "handled" (it failed, and a middleware dealt with it); of both "postponed" and "cancelled".
    The status is ERROR for "failed" and "cancelled" only, and the exception is recorded; its text may quote data of
    the event. Rules that a condition has skipped are events of the event's span. A span ends before the commit; a turn
    that is run again, because its subject moved on meanwhile, has a span each time.

    If nothing records, because there is no SDK or its sampler is the one that is always off, the context of an event is
    passed on with what is emitted as it came, and nothing else is done. Any other sampler is asked for each event; what
    it decides is passed on. Spans of rules are made only inside an event's span that is recorded.

    Args:
        tracer_provider: where tracers come from; by default the one that is set for the whole program, at any time.
        propagator: how context is read and written; by default W3C Trace Context. What it writes must have names of
            extension attributes (1 to 20 of a-z, 0-9); all else is left out.

    Raises:
        RuleDefinitionError: an argument cannot be used.
    """

    scopes: tuple[Scope, ...] = ("event", "rule")

    def __init__(
        self, tracer_provider: trace.TracerProvider | None = None, *, propagator: TextMapPropagator | None = None
    ) -> None:
        if tracer_provider is not None and not isinstance(tracer_provider, trace.TracerProvider):
            raise RuleDefinitionError(f"Tracing: tracer_provider={tracer_provider!r:.80} is no TracerProvider")
        if propagator is not None and not isinstance(propagator, TextMapPropagator):
            raise RuleDefinitionError(f"Tracing: propagator={propagator!r:.80} is no TextMapPropagator")
        self._provider = tracer_provider
        self._propagator = propagator or TraceContextTextMapPropagator()
        self._fields = frozenset(self._propagator.fields)
        self._known: trace.Tracer | None = None
        self._is_set_up = False
        self._key = f"onwhen.tracing/{id(self)}"
        self._types: dict[str, tuple[str, Attributes]] = {}

    async def __call__(self, ctx: Context[Any], next: Next, /) -> None:
        """Go on inside a span, if one is recorded."""
        if ctx.rule is None:
            await self._around_event(ctx, next)
            return
        inside = ctx.get_metadata(self._key, _UNKNOWN)
        if inside is None:  # around the event it is known already that nothing records
            await next()
        elif inside is _UNKNOWN:
            await self._around_rule_alone(ctx, ctx.rule.id, next)
        else:
            await self._around_rule(ctx, ctx.rule.id, next, inside)

    def stamp(self, given: Mapping[str, str | int | bool] = _NOTHING) -> Mapping[str, str]:
        """Return the extension attributes of an event that is emitted now, outside of rules.

        Args:
            given: those that it has already; if they have a context in them, there is nothing to add.
        """
        context, tracer = contexts.get_current(), self._tracer()
        if (tracer is None and not context) or not self._fields.isdisjoint(given):
            return {}
        if tracer is not None and not trace.get_current_span(context).get_span_context().is_valid:
            span = tracer.start_span("emit", _NOWHERE, trace.SpanKind.PRODUCER, _spans.EMITTING)
            span.end()
            context = trace.set_span_in_context(span, context)
        return self._stamps(context)

    # -- around an event

    async def _around_event(self, ctx: Context[Any], next: Next) -> None:
        event, tracer = ctx.event, self._tracer()
        ctx.set_metadata(self._key, None)
        if tracer is None:
            await self._unchanged(ctx, event, next)
            return
        parent = self._parent(event)
        name, attributes = self._of_type(event.type)
        span = tracer.start_span(name, parent or _NOWHERE, trace.SpanKind.CONSUMER, attributes)
        if not span.is_recording():
            await self._unrecorded(ctx, span, parent, next)
            return
        span.set_attributes(_spans.details(ctx))
        inside = _Inside(tracer)
        ctx.set_metadata(self._key, inside)
        turn, token = ctx.turn, self._enter(ctx, trace.set_span_in_context(span, parent or _NOWHERE))
        try:
            await next()
        except BaseException as error:
            if ends_the_program(error):
                token = None
            else:
                _spans.fail(span, turn.verdict(error))
            raise
        else:
            self._settle(ctx, span, turn, inside)
        finally:
            if token is not None:
                contexts.detach(token)
            span.end()

    def _settle(self, ctx: Context[Any], span: trace.Span, turn: Turn, inside: _Inside) -> None:
        outcome = turn.outcome()
        if outcome.error is not None:  # a middleware further in has swallowed it; the engine has not
            _spans.fail(span, outcome.error)
            return
        for run in outcome.runs:
            if run.status in ("failed", "postponed") and run.error is not None and id(run) not in inside.failed:
                # Its condition raised, before any middleware around it was entered.
                told = _spans.of_rule(run.rule, run.event_type, run.property or None, run.attempt)
                without = inside.tracer.start_span(run.rule, attributes=told)
                _spans.fail(without, run.error)
                without.end()
        _spans.settle_event(span, ctx, outcome)

    # -- around a rule

    async def _around_rule(self, ctx: Context[Any], rule: str, next: Next, inside: _Inside) -> None:
        told = _spans.of_rule(rule, ctx.event_type, ctx.property_name, ctx.attempt)
        span = inside.tracer.start_span(rule, attributes=told)
        if span.is_recording():
            await self._inside_span(ctx, span, contexts.get_current(), next, inside)
        else:
            await next()

    async def _around_rule_alone(self, ctx: Context[Any], rule: str, next: Next) -> None:
        tracer = self._tracer()
        if tracer is None:
            await self._unchanged(ctx, ctx.event, next)
            return
        parent = self._parent(ctx.event)
        told = _spans.of_rule(rule, ctx.event_type, ctx.property_name, ctx.attempt)
        span = tracer.start_span(rule, parent or _NOWHERE, attributes=told)
        if span.is_recording():
            await self._inside_span(ctx, span, parent or _NOWHERE, next, _Inside(tracer))
        else:
            await self._unrecorded(ctx, span, parent, next)

    async def _inside_span(
        self, ctx: Context[Any], span: trace.Span, around: contexts.Context, next: Next, inside: _Inside
    ) -> None:
        run = ctx.turn._runs[-1]
        token = self._enter(ctx, trace.set_span_in_context(span, around))
        try:
            await next()
        except BaseException as error:
            inside.failed.add(id(run))
            if ends_the_program(error):
                token = None
            else:
                _spans.fail(span, error)
            raise
        else:
            if ctx._error is not None:
                inside.failed.add(id(run))
            _spans.settle_rule(span, ctx)
        finally:
            if token is not None:
                contexts.detach(token)
            span.end()

    # -- context

    def _tracer(self) -> trace.Tracer | None:
        """Return what spans are made with; None as long as no program has set up anything that could record them."""
        if self._is_set_up:
            return self._known
        provider = self._provider or trace.get_tracer_provider()
        if isinstance(provider, trace.ProxyTracerProvider):
            return None  # what it stands for may be set up later
        self._is_set_up = True
        sampler = getattr(provider, "sampler", None)  # of the SDK; not part of the API
        if getattr(sampler, "get_description", str)() != "AlwaysOffSampler":
            tracer = provider.get_tracer("onwhen")
            self._known = None if isinstance(tracer, trace.NoOpTracer) else tracer
        return self._known

    def _of_type(self, event_type: str) -> tuple[str, Attributes]:
        known = self._types.get(event_type)
        if known is None:
            if len(self._types) >= _MAX_TYPES:
                self._types.clear()
            known = self._types[event_type] = _spans.of_type(event_type)
        return known

    def _parent(self, event: Event) -> contexts.Context | None:
        """Return the context that an event brings, or None if it brings none."""
        if self._fields.isdisjoint(event.extensions):
            return None
        return self._propagator.extract(carrier_of(event.extensions), _NOWHERE) or None

    def _stamps(self, context: contexts.Context) -> dict[str, str]:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, context)
        return stamps_of(carrier)

    def _enter(self, ctx: Context[Any], context: contexts.Context) -> Token[contexts.Context] | None:
        """Make a context the current one, and that of all that is emitted; return what takes that back.

        At the end of the program it is left: a coroutine may be closed in another context of contextvars than its own.
        """
        ctx.stamp(**self._stamps(context))
        return contexts.attach(context)

    # -- where nothing is recorded

    async def _unchanged(self, ctx: Context[Any], event: Event, next: Next) -> None:
        """Go on with the context that an event brings, if any, and pass it on as it came."""
        if self._fields.isdisjoint(event.extensions):
            await next()
            return
        carrier = carrier_of(event.extensions)
        ctx.stamp(**stamps_of({name: value for name, value in carrier.items() if name in self._fields}))
        await _within(self._propagator.extract(carrier, _NOWHERE), next)

    async def _unrecorded(
        self, ctx: Context[Any], span: trace.Span, parent: contexts.Context | None, next: Next
    ) -> None:
        """Go on where a sampler has decided against recording: with the parent's context, and that decision."""
        decided = span.get_span_context()
        before = trace.get_current_span(parent or _NOWHERE).get_span_context()
        if before.is_valid:
            kept = trace.SpanContext(before.trace_id, before.span_id, True, decided.trace_flags, decided.trace_state)
            span = trace.NonRecordingSpan(kept)
        context = trace.set_span_in_context(span, parent or _NOWHERE)
        ctx.stamp(**self._stamps(context))
        await _within(context, next)


async def _within(context: contexts.Context, next: Next) -> None:
    token: Token[contexts.Context] | None = contexts.attach(context)
    try:
        await next()
    except BaseException as error:
        if ends_the_program(error):
            token = None
        raise
    finally:
        if token is not None:
            contexts.detach(token)


class _Inside:
    """What the middleware around rules is told by that around their event: in what, and which runs it has seen fail."""

    __slots__ = ("failed", "tracer")

    def __init__(self, tracer: trace.Tracer) -> None:
        self.tracer = tracer
        self.failed: set[int] = set()
