"""Batch property updates, and why there is no cache to choose a strategy for."""

from __future__ import annotations

from onwhen import Container, Context

container = Container()
on, when, middleware, emit = container.handlers()


async def import_user(name: str) -> None:
    """Set a hundred properties from outside of any rule."""
    async with container.subject(name) as user:
        for i in range(100):
            user.set(f"field{i}", i)
    # Single write: everything is stored together on leaving, or nothing if the block raises


# Inside a rule the subject is loaded, reading and writing it awaits nothing, and the turn ends in one atomic write,
# together with the events that it sends. So KRules' `use_cache=False` has no counterpart: a write that goes past the
# commit would be there even if the rule failed afterwards.


@on("sensor.reading")
async def record_reading(ctx: Context) -> None:
    sensor = ctx.subject
    sensor.set("last_reading", ctx.payload["value"])


@on("user.profile_update")
async def update_profile(ctx: Context) -> None:
    user = ctx.subject
    user.set("name", ctx.payload["name"])
    user.set("email", ctx.payload["email"])
    user.set("address", ctx.payload["address"])
    await user.store()  # Single write: the turn's own commit; the call may be left out
