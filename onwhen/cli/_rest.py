"""When a store that workers share is at rest: all that was accepted is handled, and nothing is on its way.

Belongs here: looking. It must not know who waits for that, nor why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from onwhen.engine.resend import read_all
from onwhen.engine.shared import SharedStore

__all__ = ["is_at_rest", "rest"]

_FIRST_PAUSE: Final = 0.05  # seconds between two looks
_LONGEST_PAUSE: Final = 1.0  # seconds
_PAGE: Final = 500  # messages that are read at once (a count)


async def rest(store: SharedStore, nobody: Callable[[], None]) -> None:
    """Wait until a store is at rest; for as long as that takes.

    Args:
        store: open.
        nobody: called once, if something is to be done and no worker lives.
    """
    pause, is_told = _FIRST_PAUSE, False
    while not await is_at_rest(store):
        if pause == _LONGEST_PAUSE and not is_told and not await store.workers():
            is_told = True
            nobody()
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def is_at_rest(store: SharedStore) -> bool:
    """Tell whether all that was accepted is handled, but for what waits for a timer or a retry.

    If nothing comes from outside meanwhile, then nothing happens any more until a timer or a retry is due.

    Raises:
        StoreError: the store does not answer.
    """
    before = await _appended(store)
    for partition in range(store.partitions):
        if not (await _is_handled(store, partition) and await _is_delivered(store, partition)):
            return False
    return await _appended(store) == before  # what one partition has sent may have come to one that was seen before


async def _appended(store: SharedStore) -> Sequence[int]:
    return [state.appended for state in await store.partition_states()]


async def _is_handled(store: SharedStore, partition: int) -> bool:
    """Tell whether all pending events of a partition wait behind a retry of their subject."""
    waiting: set[str] | None = None
    async for entry in read_all(store, partition):
        if waiting is None:
            waiting = {retry.subject async for retry in store.retries(partition) if retry.in_order}
        if entry.event.subject not in waiting:
            return False
    return True


async def _is_delivered(store: SharedStore, partition: int) -> bool:
    """Tell whether all messages in the outbox of a partition have come to those of their subjects."""
    latest: dict[int, int] = {}
    page = await store.outgoing(partition, None, _PAGE)
    while page:
        latest |= {message.target: message.position for message in page}
        page = await store.outgoing(partition, page[-1].position, _PAGE)
    for target, position in latest.items():
        watermark = (await store.deliver(partition, target, None, ())).watermark
        if watermark is None or watermark < position:
            return False
    return True
