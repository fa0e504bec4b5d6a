"""Waiting for what others handle: asking the store now and then whether it is still there, for all who wait at once.

Belongs here: who waits for which pending event or waiting retry, and when the store is asked. It must not know who
handles them, nor what a receipt is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, Final, Generic, TypeAlias, TypeVar

import msgspec

from onwhen.engine.resend import a_few_times
from onwhen.errors import BusClosed, StoreError

__all__ = ["Awaiting"]

_PAUSES: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # seconds between questions while nothing happens
_BATCH: Final = 1000  # of which is asked at once (a count)
_RATE: Final = 10_000  # of which is asked in a second (a count): who waits must not keep the store busy

_K = TypeVar("_K", int, str)

Ask: TypeAlias = Callable[[int, Collection[_K]], Awaitable[Collection[_K]]]
"""Returns which of some are still in the store, of one partition."""


class _Wait(msgspec.Struct, eq=False):
    """Something that is waited for, and by how many (a count)."""

    gone: asyncio.Future[None]
    count: int = 0


class Awaiting(Generic[_K]):
    """Lets callers wait until something is not in the store any more.

    Args:
        ask: asks the store.
        start: runs a coroutine on its own.
    """

    def __init__(self, ask: Ask[_K], start: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._ask: Ask[_K] = ask
        self._start = start
        self._waiting: dict[int, dict[_K, _Wait]] = {}
        self._polls: dict[int, int] = {}  # partition -> how often it was asked since something has happened

    async def gone(self, partition: int, which: _K) -> None:
        """Wait until something is gone.

        Raises:
            StoreError: the store does not answer.
            BusClosed: the bus was closed meanwhile.
        """
        waiting = self._waiting.setdefault(partition, {})
        is_watched = bool(waiting)
        wait = waiting.get(which)
        if wait is None:
            wait = waiting[which] = _Wait(asyncio.get_running_loop().create_future())
            self._polls[partition] = 0  # most are gone within milliseconds
        wait.count += 1
        if not is_watched:
            self._start(self._watch(partition, waiting))
        try:
            await asyncio.shield(wait.gone)
        finally:
            wait.count -= 1
            if not (wait.count or wait.gone.done()):
                waiting.pop(which, None)
                if not waiting:
                    self._waiting.pop(partition, None)  # whoever comes next is watched for anew

    async def _watch(self, partition: int, waiting: dict[_K, _Wait]) -> None:
        tries = first = 0
        batch: list[_K]
        try:
            while waiting:
                polls = self._polls[partition]
                self._polls[partition] = polls + 1
                await asyncio.sleep(max(_PAUSES[min(polls, len(_PAUSES) - 1)], min(len(waiting), _BATCH) / _RATE))
                if not waiting:
                    break
                batch = list(waiting)[first : first + _BATCH] or list(waiting)[:_BATCH]
                first = first + _BATCH if first + _BATCH < len(waiting) else 0
                try:
                    left = {*await self._ask(partition, batch)}
                    tries = 0
                except StoreError as error:
                    tries += 1
                    if not a_few_times(tries, error):
                        self._end(waiting, error)
                    continue
                for which in batch:
                    if which not in left and (wait := waiting.pop(which, None)) is not None:
                        self._polls[partition] = 0
                        wait.gone.set_result(None)
        finally:
            if self._waiting.get(partition) is waiting:
                del self._waiting[partition]
            self._end(waiting, BusClosed("the bus was closed, so nobody looks any more whether the event is handled"))

    @staticmethod
    def _end(waiting: dict[_K, _Wait], error: Exception) -> None:
        for wait in waiting.values():
            if not wait.gone.get_loop().is_closed():
                wait.gone.set_exception(error)
                wait.gone.exception()  # perhaps nobody waits for it any more
        waiting.clear()
