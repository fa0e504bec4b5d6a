"""Bulkhead: only so many runs of a rule at the same time; others wait for their turn, or come again later.

Belongs here: places, and the queue for them. It must not know what is run in one, nor when what found none is run
again.

Source: M. Nygard, "Release It!", 2nd edition, 2018, "Bulkheads".
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

from onwhen.engine.chain import Next
from onwhen.engine.context import Context
from onwhen.errors import BulkheadFull, RuleDefinitionError
from onwhen.middleware._options import Duration, Key, key_function, positive_int, seconds

__all__ = ["Bulkhead"]


class Bulkhead:
    """Limits how many runs go on at the same time in this process, so that a slow service does not take them all.

    A run that finds no place waits in a queue, first come, first served; one that finds the queue full, or has waited
    too long, raises `BulkheadFull`: it is put off, and its event is handled later. None is dropped.

    Around rules, the limit is for each rule, or for each key. One object that is used in several places has one set
    of places for each key.

    Args:
        limit: runs at the same time (a count).
        key: function of the context; each key has its own places. By default the rule, or around events
            (`scope="event"`) one for all.
        queue: runs that may wait for a place (a count); with 0 nobody waits.
        max_wait: how long they wait (seconds, or a timedelta); None for as long as their time-outs let them. Needs a
            queue.
        delay: when a run that was put off comes again, not before (seconds, or a timedelta).

    Raises:
        RuleDefinitionError: an option is out of its range.
    """

    scopes = ("rule",)

    def __init__(
        self,
        limit: int,
        *,
        key: Key | None = None,
        queue: int = 0,
        max_wait: Duration | None = None,
        delay: Duration = 1.0,
    ) -> None:
        self._limit = positive_int(limit, "Bulkhead: limit")
        self._key = key_function(key, "Bulkhead: key")
        self._queue = positive_int(queue, "Bulkhead: queue", least=0)
        self._max_wait = None if max_wait is None else seconds(max_wait, "Bulkhead: max_wait")
        if self._max_wait is not None and not self._queue:
            raise RuleDefinitionError(f"Bulkhead: max_wait={max_wait!r} needs a queue= to wait in; with 0 nobody waits")
        self._delay = timedelta(seconds=seconds(delay, "Bulkhead: delay", zero=True))
        # A future belongs to its event loop, and an object may serve buses on several.
        self._rooms: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Room]] = WeakKeyDictionary()

    async def __call__(self, ctx: Context[Any], next: Next, /) -> None:
        """Go on once there is a place."""
        async with self.place(self._key(ctx)):
            await next()

    @asynccontextmanager
    async def place(self, key: str = "") -> AsyncIterator[None]:
        """Hold a place, for a part of a rule: `async with bulkhead.place("bank"): ...`.

        Args:
            key: whose places.

        Raises:
            BulkheadFull: there is none, or none became free in time.
        """
        rooms = self._rooms.setdefault(asyncio.get_running_loop(), {})
        room = rooms.setdefault(key, _Room())
        try:
            await self._enter(room, key)
            try:
                yield
            finally:
                room.leave()
        finally:
            if not room.taken and rooms.get(key) is room:
                del rooms[key]

    def taken(self, key: str = "") -> int:
        """Return how many places of a key are taken on the running event loop (a count)."""
        room = self._rooms.get(asyncio.get_running_loop(), {}).get(key)
        return 0 if room is None else room.taken

    async def _enter(self, room: _Room, key: str) -> None:
        if room.taken < self._limit:
            room.taken += 1
            return
        if len(room.waiting) >= self._queue:
            there = f", and {self._queue} wait already" if self._queue else ""
            raise self._full(key, f"{self._limit} are under way{there}")
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        room.waiting.append(place)
        scope = asyncio.timeout(self._max_wait)
        try:
            async with scope:
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():
                room.leave()  # it was given a place in the very moment in which it gave up
            elif place in room.waiting:  # or it was passed over already, because it was known to have given up
                room.waiting.remove(place)
            if isinstance(error, TimeoutError) and scope.expired():
                raise self._full(key, f"no place became free within {self._max_wait:g} s") from None
            raise

    def _full(self, key: str, why: str) -> BulkheadFull:
        return BulkheadFull(f"bulkhead of {key or 'all'}: {why}", delay=self._delay)


class _Room:
    """The places of one key: as long as somebody waits, all are taken."""

    __slots__ = ("taken", "waiting")

    def __init__(self) -> None:
        self.taken = 0
        self.waiting: deque[asyncio.Future[None]] = deque()

    def leave(self) -> None:
        """Hand a place on to the first who waits, or let it be free."""
        while self.waiting:
            place = self.waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.taken -= 1
