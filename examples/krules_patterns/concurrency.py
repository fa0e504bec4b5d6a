"""Handler concurrency: many subjects at once, one event at a time for each."""

from __future__ import annotations

import asyncio

from onwhen import Container, Context, Subject

container = Container()
on, when, middleware, emit = container.handlers()


async def heavy_computation(subject: Subject) -> None:
    await asyncio.sleep(0)


@on("device.reading")
async def process_reading(ctx: Context) -> None:
    # Multiple devices can process concurrently
    await heavy_computation(ctx.subject)
    ctx.subject.set("readings", lambda n: (n or 0) + 1)
