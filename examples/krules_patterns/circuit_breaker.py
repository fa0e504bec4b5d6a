"""A circuit breaker per subject, as user code: a middleware that stops calling what keeps failing."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from onwhen import Container, Context

logger = logging.getLogger(__name__)
container = Container()
on, when, middleware, emit = container.handlers()

error_counts: dict[str, dict[str, Any]] = defaultdict(
    lambda: {"count": 0, "reset_time": datetime.min.replace(tzinfo=UTC)}
)


@middleware
async def circuit_breaker(ctx: Context, next: Callable[[], Awaitable[None]]) -> None:
    """Circuit breaker for subjects."""
    subject_key = ctx.subject.name
    state = error_counts[subject_key]

    # Reset after timeout; by the engine's clock, which tests and replays move
    if ctx.now > state["reset_time"]:
        state["count"] = 0
        state["reset_time"] = ctx.now + timedelta(minutes=5)

    # Check if circuit is open
    if state["count"] > 5:
        logger.warning("Circuit open for %s", subject_key)
        return  # Short-circuit: the receipt says that circuit_breaker stopped the rule

    try:
        await next()
        # Success - reset counter
        state["count"] = 0
    except Exception:
        # Error - increment counter
        state["count"] += 1
        if state["count"] > 5:
            logger.error("Circuit opened for %s", subject_key)
        raise


@on("device.call")
async def call_device(ctx: Context) -> None:
    if not ctx.payload["reachable"]:
        raise ConnectionError(f"{ctx.subject.name} does not answer")
    ctx.subject.set("calls", lambda n: (n or 0) + 1)
