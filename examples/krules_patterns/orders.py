"""Event cascade design: an order's way as a chain of messages, each link a rule of its own."""

from __future__ import annotations

from onwhen import Container, Context

container = Container()
on, when, middleware, emit = container.handlers()

# order.submitted -> order.validated -> payment.completed -> order.shipped


@on("order.submitted")
async def validate_order(ctx: Context) -> None:
    if ctx.subject.get("total") > 0:
        await ctx.emit("order.validated")


@on("order.validated")
async def process_payment(ctx: Context) -> None:
    # Process payment...
    await ctx.emit("payment.completed")


@on("payment.completed")
async def ship_order(ctx: Context) -> None:
    ctx.subject.set("status", "shipped")
    await ctx.emit("order.shipped")
