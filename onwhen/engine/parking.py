"""Looking after what is parked of a subject: one at a time, and then the subject goes on.

Belongs here: how resuming and skipping keep out of each other's way, and what holds a subject no longer. It must not
know what is done about what is parked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from weakref import WeakValueDictionary

from onwhen.engine.dispatch import Dispatcher
from onwhen.engine.partitions import partition_of
from onwhen.engine.resend import GoesOn, insist
from onwhen.engine.store import Retry, RetryKey, Store
from onwhen.engine.upkeep import parked
from onwhen.engine.work import Work
from onwhen.errors import StoreError

__all__ = ["Parking"]


class Parking:
    """Lets one caller at a time look after a subject.

    Args:
        store: where it is parked.
        dispatcher: whose lanes are held.
        goes_on: whether to ask the store again what nobody waits for.
        context: context variables of what is done for nobody in particular.
    """

    def __init__(self, store: Store, dispatcher: Dispatcher[Work], goes_on: GoesOn, context: Context) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._goes_on = goes_on
        self._context = context
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def tend(self, subject: str) -> AsyncIterator[Sequence[Retry]]:
        """Hand out what is parked of a subject, to nobody else meanwhile; then let it go on without what is gone.

        Raises:
            StoreError: the store does not answer.
        """
        async with self._locks.setdefault(subject, asyncio.Lock()):
            waiting = [retry async for retry in parked(self._store, subject)]
            try:
                yield waiting
            finally:
                # Also after an error, which does not say whether something was stored: the store is asked.
                self._dispatcher.start(self._release(subject, waiting), self._context.copy())

    async def _release(self, subject: str, waiting: Sequence[Retry]) -> None:
        async def look() -> set[RetryKey]:
            partition = partition_of(subject, self._store.partitions)
            return {retry.key async for retry in self._store.retries(partition)}

        self._dispatcher.expect()
        try:
            with suppress(StoreError):  # the bus is closing; who opens it again reads what is kept
                kept = await insist(look, self._goes_on)
                for retry in waiting:
                    if retry.key not in kept:
                        self._dispatcher.release(subject, retry.key)
                self._dispatcher.pump()
        finally:
            self._dispatcher.expected()
