"""Event naming conventions: `{entity}.{action}`, and what they are good for: one rule can hear a whole family."""

from __future__ import annotations

# For property changes, use built-in constants
from onwhen import SUBJECT_PROPERTY_CHANGED, Container, Context

container = Container()
on, when, middleware, emit = container.handlers()

# Pattern: {entity}.{action}
ENTITY_EVENTS = (
    "user.created",
    "user.updated",
    "user.deleted",
    "order.submitted",
    "order.validated",
    "payment.processed",
)

# For errors
ERROR_EVENTS = ("error.handler_failed", "error.validation_failed")

# For alerts
ALERT_EVENTS = ("alert.critical", "alert.warning")


@on("user.*")
async def keep_last_action(ctx: Context) -> None:
    ctx.subject.set("last_action", ctx.event_type.removeprefix("user."))


@on("error.*", "alert.*")
async def page_operator(ctx: Context) -> None:
    ctx.subject.set("pages", lambda n: (n or 0) + 1, muted=True)


@on(SUBJECT_PROPERTY_CHANGED)
@when(lambda ctx: ctx.property_name == "last_action")
async def count_actions(ctx: Context) -> None:
    ctx.subject.set("actions", lambda n: (n or 0) + 1, muted=True)
