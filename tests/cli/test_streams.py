"""Streams put together, and cut into batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from onwhen.cli._streams import batches, merged

T = TypeVar("T")

MOMENTS = st.integers(0, 5).map(lambda seconds: datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds))


async def stream(items: Iterable[T]) -> AsyncGenerator[T, None]:
    for item in items:
        yield item


def all_of(items: AsyncIterator[T]) -> list[T]:
    async def collect() -> list[T]:
        return [item async for item in items]

    return asyncio.run(collect())


@given(st.lists(st.lists(MOMENTS), max_size=4))
def test_merged_streams(moments: list[list[datetime]]) -> None:
    """Nothing is lost, each stream keeps its order, and sorted streams make a sorted one."""
    items = [[(number, at, moment) for at, moment in enumerate(own)] for number, own in enumerate(moments)]
    found = all_of(merged([stream(own) for own in items], lambda item: item[2]))
    assert sorted(found) == sorted(item for own in items for item in own)
    for number, own in enumerate(items):
        assert [item for item in found if item[0] == number] == own
    in_order = all_of(merged([stream(sorted(own)) for own in moments], lambda moment: moment))
    assert in_order == sorted(moment for own in moments for moment in own)


@given(st.lists(st.integers()), st.integers(1, 5))
def test_batches(items: list[int], size: int) -> None:
    """All full but the last one, and none empty."""
    found = all_of(batches(stream(items), size))
    assert [item for batch in found for item in batch] == items
    assert all(len(batch) == size for batch in found[:-1])
    assert all(found)
