"""Per-handler error isolation: a rule's failure is its own."""

from __future__ import annotations

from onwhen import Container, Context

container = Container()
on, when, middleware, emit = container.handlers()


@on("user.action")
async def handler1(ctx: Context) -> None:
    ctx.subject.set("half", "done")
    raise Exception("Error!")  # Doesn't affect handler2


@on("user.action")
async def handler2(ctx: Context) -> None:
    print("Still runs!")  # Executes despite handler1 error
    ctx.subject.set("seen", True)
