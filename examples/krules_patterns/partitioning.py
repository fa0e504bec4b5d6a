"""Event partitioning: each instance handles the subjects that are its own, and lets the others be."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from onwhen import Container, Context
from onwhen.engine.partitions import partition_of

container = Container()
on, when, middleware, emit = container.handlers()


def get_partition(subject_name: str, num_partitions: int) -> int:
    """Determine partition for subject."""
    # Not Python's hash(): of a str it is salted, so it differs in every process, and two instances would both handle
    # a subject, or neither would.
    return partition_of(subject_name, num_partitions)


@middleware(scope="event")  # around the whole event: of one that belongs to another instance no condition is tested
async def partition_middleware(ctx: Context, next: Callable[[], Awaitable[None]]) -> None:
    """Route to appropriate partition."""
    partition = get_partition(ctx.subject.name, num_partitions=4)
    ctx.set_metadata("partition", partition)

    # Only process if this instance handles this partition
    my_partition = int(os.getenv("PARTITION_ID", "0"))
    if partition == my_partition:
        await next()


@on("device.reading")
async def record(ctx: Context) -> None:
    ctx.subject.set("partition", ctx.get_metadata("partition"))
