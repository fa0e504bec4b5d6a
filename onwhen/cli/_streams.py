"""Streams of what a store lists partition by partition, put together.

Belongs here: order and batches. It must not know what is in the streams.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import TypeVar

__all__ = ["batches", "merged"]

T = TypeVar("T")


async def merged(streams: Sequence[AsyncIterator[T]], moment: Callable[[T], datetime]) -> AsyncGenerator[T, None]:
    """Go through several streams as if they were one.

    Args:
        streams: each keeps its own order.
        moment: which of their heads comes first.
    """
    heads: list[tuple[datetime, int, T]] = []

    async def take(number: int) -> None:
        async for item in streams[number]:
            heapq.heappush(heads, (moment(item), number, item))  # one head of each: the item itself is not compared
            return

    for number in range(len(streams)):
        await take(number)
    while heads:
        _, number, item = heapq.heappop(heads)
        yield item
        await take(number)


async def batches(stream: AsyncIterator[T], size: int) -> AsyncGenerator[list[T], None]:
    """Go through a stream in lists of up to `size` items (a count)."""
    batch: list[T] = []
    async for item in stream:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
