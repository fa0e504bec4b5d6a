"""An infinite loop, and the three ways out of it; each in an engine of its own, so that they do not meet."""

from __future__ import annotations

from onwhen import SUBJECT_PROPERTY_CHANGED, Container, Context

# -- the problem: a rule that sets off itself. The engine ends it, and names the cycle in a dead letter.

looping = Container()
on, when, middleware, emit = looping.handlers()


@on(SUBJECT_PROPERTY_CHANGED)
async def bad_handler(ctx: Context) -> None:
    # This triggers the same handler again!
    ctx.subject.set("counter", lambda c: (c or 0) + 1)


# -- way out 1: muted properties

muted = Container()
on, when, middleware, emit = muted.handlers()


@on(SUBJECT_PROPERTY_CHANGED)
async def good_handler(ctx: Context) -> None:
    ctx.subject.set("counter", lambda c: (c or 0) + 1, muted=True)


# -- way out 2: filters

filtered = Container()
on, when, middleware, emit = filtered.handlers()


@on(SUBJECT_PROPERTY_CHANGED)
@when(lambda ctx: ctx.property_name != "counter")
async def filtered_handler(ctx: Context) -> None:
    ctx.subject.set("counter", lambda c: (c or 0) + 1)


# -- way out 3: extended properties

extended = Container()
on, when, middleware, emit = extended.handlers()


@on(SUBJECT_PROPERTY_CHANGED)
async def handler_with_ext(ctx: Context) -> None:
    ctx.subject.set_ext("internal_counter", lambda c: (c or 0) + 1)
