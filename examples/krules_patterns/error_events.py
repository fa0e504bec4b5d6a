"""Global error middleware, and a dead letter queue that is made of subjects."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from onwhen import Container, Context

logger = logging.getLogger(__name__)
container = Container()
on, when, middleware, emit = container.handlers()


@middleware
async def error_handler(ctx: Context, next: Callable[[], Awaitable[None]]) -> None:
    """Global error handler."""
    try:
        await next()
    except Exception as e:
        logger.exception("Error in %s: %s", ctx.event_type, e)

        # Emit error event. What the rule itself did is undone by now; this is kept.
        await ctx.emit(
            "error.handler_failed",
            {
                "original_event": ctx.event_type,
                "error": str(e),
                "subject": ctx.subject.name,
                "timestamp": ctx.now.isoformat(),
            },
        )


@on("error.handler_failed")
async def send_to_dlq(ctx: Context) -> None:
    """Send failed events to dead letter queue."""
    # A turn writes its own subject only: that is what makes its commit one. Another subject is changed by sending it
    # a message. Its name comes from the event and not from uuid4(), so a turn that is run again finds the same one.
    await ctx.emit("dlq.received", ctx.payload, subject=f"dlq-{ctx.event.id}")


@on("dlq.received")
async def fill_dlq(ctx: Context) -> None:
    dlq_subject = ctx.subject
    dlq_subject.set("original_event", ctx.payload["original_event"])
    dlq_subject.set("error", ctx.payload["error"])
    dlq_subject.set("subject_name", ctx.payload["subject"])
    dlq_subject.set("timestamp", ctx.payload["timestamp"])

    # Optionally: send to external DLQ service
    # await dlq_service.send(ctx.payload)


@on("order.submitted")
async def charge(ctx: Context) -> None:
    ctx.subject.set("status", "charging")
    raise ValueError("card refused")
