"""Monitoring as user code: logging, metrics, tracing and debugging, each one middleware around every rule."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Awaitable, Callable

from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode
from prometheus_client import CollectorRegistry, Counter, Histogram

from onwhen import Container, Context

container = Container()
on, when, middleware, emit = container.handlers()

# -- logging -----------------------------------------------------------------------------------------------------------

logger = logging.getLogger(__name__)


@middleware
async def logging_middleware(ctx: Context, next: Callable[[], Awaitable[None]]) -> None:
    """Log all events."""
    logger.info(
        "Event",
        extra={"event_type": ctx.event_type, "subject": ctx.subject.name, "payload": ctx.payload},
    )
    await next()


# -- metrics -----------------------------------------------------------------------------------------------------------

registry = CollectorRegistry()  # of its own, so that it does not meet the metrics of other examples in one process
event_counter = Counter("krules_events_total", "Total events", ["event_type"], registry=registry)
event_duration = Histogram("krules_event_duration_seconds", "Event duration", ["event_type"], registry=registry)


@middleware
async def metrics_middleware(ctx: Context, next: Callable[[], Awaitable[None]]) -> None:
    """Collect metrics."""
    event_counter.labels(event_type=ctx.event_type).inc()

    with event_duration.labels(event_type=ctx.event_type).time():
        await next()


# -- distributed tracing -----------------------------------------------------------------------------------------------

tracer = trace.get_tracer(__name__)


@middleware
async def tracing_middleware(ctx: Context, next: Callable[[], Awaitable[None]]) -> None:
    """Add distributed tracing."""
    with tracer.start_as_current_span(f"event.{ctx.event_type}", record_exception=False) as span:
        span.set_attribute("event.type", ctx.event_type)
        span.set_attribute("subject.name", ctx.subject.name)

        try:
            await next()
            span.set_status(Status(StatusCode.OK))
        except Exception as e:
            span.set_status(Status(StatusCode.ERROR))
            span.record_exception(e)
            raise


# -- event debugging ---------------------------------------------------------------------------------------------------


@middleware
async def debug_middleware(ctx: Context, next: Callable[[], Awaitable[None]]) -> None:
    """Debug event flow."""
    debug = os.getenv("DEBUG_EVENTS", "false").lower() == "true"

    if debug:
        print(f"\n=== Event: {ctx.event_type} ===")
        print(f"Subject: {ctx.subject.name}")
        print(f"Payload: {json.dumps(ctx.payload, indent=2)}")

        start = time.time()
        await next()
        duration = time.time() - start

        print(f"Duration: {duration:.3f}s")
        print("=" * 50)
    else:
        await next()


# -- rules to watch ----------------------------------------------------------------------------------------------------


@on("order.submitted")
async def accept(ctx: Context) -> None:
    with tracer.start_as_current_span("stock.check"):
        ctx.subject.set("items", ctx.payload["items"], muted=True)


@on("order.refused")
async def refuse(ctx: Context) -> None:
    raise ValueError("no such order")
