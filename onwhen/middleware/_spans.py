"""What a span says of an event and of a rule: names and attributes.

Belongs here: which facts are told, under which names. It must not know when spans begin and end, nor where their
context comes from.

Source: OpenTelemetry semantic conventions, "Messaging", "CloudEvents" and "Recording errors". The names are written
out, because those of these groups are not part of the stable package.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from opentelemetry.trace import Span, StatusCode
from opentelemetry.util.types import Attributes, AttributeValue

from onwhen.engine.context import Context
from onwhen.engine.events import Event
from onwhen.engine.outcomes import Outcome, RuleRun, failure_of
from onwhen.errors import Postponed
from onwhen.middleware._safe_text import MAX_ERROR, safe

__all__ = ["EMITTING", "details", "fail", "of_rule", "of_type", "settle_event", "settle_rule"]

_SYSTEM: Final = {"messaging.system": "onwhen"}
_MAX_SKIPPED: Final = 32  # events of one span about rules that were skipped

EMITTING: Final[Attributes] = {
    **_SYSTEM,
    "messaging.operation.type": "send",
    "messaging.operation.name": "emit",
}
"""Of the span of an `emit` that is not part of another one."""


def of_type(event_type: str) -> tuple[str, Attributes]:
    """Return name of the span of an event, and the attributes that are known of it by its type."""
    destination = safe(event_type)
    return f"process {destination}", {
        **_SYSTEM,
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": destination,
        "cloudevents.event_type": destination,
        "cloudevents.event_spec_version": "1.0",
    }


def details(ctx: Context[Any]) -> dict[str, AttributeValue]:
    """Return the attributes of the span of an event that are its own."""
    event: Event = ctx.event
    return {
        "messaging.message.id": safe(event.id),
        "messaging.message.conversation_id": safe(event.correlation_id),
        "messaging.destination.partition.id": str(ctx.partition),
        "cloudevents.event_id": safe(event.id),
        "cloudevents.event_source": safe(event.source),
        "cloudevents.event_subject": safe(event.subject),
        "onwhen.attempt": ctx.attempt,
        "onwhen.depth": event.depth,
    }


def of_rule(rule: str, event_type: str, property: str | None, attempt: int) -> dict[str, AttributeValue]:
    """Return the attributes of the span of a rule."""
    attributes: dict[str, AttributeValue] = {
        "onwhen.rule": safe(rule),
        "onwhen.attempt": attempt,
        "cloudevents.event_type": safe(event_type),
    }
    if property is not None:
        attributes["onwhen.property"] = safe(property)
    return attributes


# -- what came of it


def settle_rule(span: Span, ctx: Context[Any]) -> None:
    """Say how a rule ended that raised nothing: it fired, a middleware stopped it, or one dealt with its error."""
    if ctx._error is not None:
        span.set_attribute("onwhen.outcome", "handled")
        _record(span, ctx._error)
    elif ctx._stopped_by:
        span.set_attribute("onwhen.outcome", "stopped")
        span.set_attribute("onwhen.stopped_by", safe(ctx._stopped_by))
    else:
        span.set_attribute("onwhen.outcome", "fired")


def settle_event(span: Span, ctx: Context[Any], outcome: Outcome) -> None:
    """Say how an event ended that did not fail as a whole, and which rules did not run."""
    span.set_attribute("onwhen.outcome", "stopped" if ctx._stopped_by else "handled")
    if ctx._stopped_by:
        span.set_attribute("onwhen.stopped_by", safe(ctx._stopped_by))
    for run in [run for run in outcome.runs if run.status == "skipped"][:_MAX_SKIPPED]:
        span.add_event("rule skipped", _of_skipped(run))
    for letter in outcome.dead:
        if not letter.rule:
            reason = safe(letter.failure.message, MAX_ERROR)
            told = {"cloudevents.event_type": safe(letter.event.type), "onwhen.reason": reason}
            span.add_event("message refused", told)


def fail(span: Span, error: BaseException) -> None:
    """Say why an event or a rule has not ended well; one that was put off has not failed."""
    if isinstance(error, Postponed):
        span.set_attribute("onwhen.outcome", "postponed")
        span.set_attribute("onwhen.delay", error.delay.total_seconds())
        span.add_event("postponed", {"onwhen.reason": safe(failure_of(error).message, MAX_ERROR)})
        return
    span.set_attribute("onwhen.outcome", "cancelled" if isinstance(error, asyncio.CancelledError) else "failed")
    kind, message = _record(span, error)
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR, f"{kind}: {message}" if message else kind)


def _record(span: Span, error: BaseException) -> tuple[str, str]:
    """Record an exception as the conventions say, from what is safe to have of it; return its class and text."""
    failure = failure_of(error)
    kind, message = safe(failure.type), safe(failure.message, MAX_ERROR)
    told = {"exception.type": kind, "exception.message": message, "exception.stacktrace": failure.traceback}
    span.add_event("exception", told)
    return kind, message


def _of_skipped(run: RuleRun) -> dict[str, AttributeValue]:
    told = of_rule(run.rule, run.event_type, run.property or None, run.attempt)
    told["onwhen.condition"] = safe(str(run.condition)) if run.condition is not None else "no trigger fits the values"
    return told
