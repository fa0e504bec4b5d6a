"""Reading a partition's log ahead of the lanes: in its order, and no more of it at a time than memory is for.

Belongs here: which pending events are in memory. It must not know how they are handled, nor who owns what.

Events of a subject that cannot take more, because it waits for a retry or has a long line already, are put aside:
they stay in the log, it is noted from where on, and they are read again when the subject goes on. So neither a parked
subject with a million events, nor a slow one, holds up the others of its partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Sequence
from typing import Final

from onwhen.engine.dispatch import Dispatcher
from onwhen.engine.shared import SharedStore
from onwhen.engine.store import LogEntry, Position
from onwhen.engine.work import Work

__all__ = ["Feed"]

_WINDOW: Final = 500  # entries that are read at once (a count)
_TAIL: Final = 5.0  # seconds that a read at the end of the log waits for more, before it is asked again


class Feed:
    """Reads one partition's log into the lanes.

    Args:
        store: whose log.
        partition: which.
        dispatcher: whose lanes.
        make: makes the work on an entry.
        most: how many pieces of work are in the lanes at most (a count).

    Attributes:
        cursor: position up to which the log was looked through.
    """

    def __init__(
        self,
        store: SharedStore,
        partition: int,
        dispatcher: Dispatcher[Work],
        make: Callable[[LogEntry], Work],
        most: int,
    ) -> None:
        self.cursor: Position | None = None
        self._store = store
        self._partition = partition
        self._dispatcher = dispatcher
        self._make = make
        self._most = most
        self._most_waiting = max(2, most // 8)  # of one subject
        self._count = 0
        self._aside: dict[str, Position | None] = {}  # subject -> read it again behind here
        self._ready: dict[str, None] = {}  # of those, the ones that can go on
        self._room = asyncio.Event()
        self._again = asyncio.Event()

    def take_first(self, works: Sequence[Work]) -> None:
        """Let work into the lanes on entries that `take` is to leave out: each the first of its subject."""
        for work in works:
            self._count += 1
            self._dispatcher.submit(work.event.subject, work)

    def take(self, entries: Sequence[LogEntry], taken: Container[object] = ()) -> None:
        """Let entries that stand behind the cursor into the lanes, or put them aside.

        Args:
            entries: oldest first.
            taken: positions of those that are in the lanes already.
        """
        for entry in entries:
            subject = entry.event.subject
            if entry.position not in taken and subject not in self._aside:
                if self._is_full(subject):
                    self._aside[subject] = self.cursor
                else:
                    self._submit(entry)
            self.cursor = entry.position
        self._dispatcher.pump()

    def done(self, subject: str) -> None:
        """Note that a piece of work of a subject is done."""
        self._count -= 1
        if self._count <= self._most // 2:
            self._room.set()
        if self._aside:
            self.reconsider(subject)

    def reconsider(self, subject: str) -> None:
        """Read what was put aside of a subject, if it can go on."""
        if subject in self._aside and not self._is_full(subject):
            self._ready[subject] = None
            self._again.set()

    async def follow(self) -> None:
        """Read what comes to the log, until cancelled.

        Raises:
            StoreError: the store does not answer.
        """
        while True:
            while self._count >= self._most:
                self._room.clear()
                await self._room.wait()
            limit = min(_WINDOW, self._most - self._count)
            self.take(await self._store.tail(self._partition, self.cursor, limit, _TAIL))

    async def go_back(self) -> None:
        """Read again what was put aside, until cancelled.

        Raises:
            StoreError: the store does not answer.
        """
        while True:
            await self._again.wait()
            self._again.clear()
            while self._ready:
                subject = next(iter(self._ready))
                del self._ready[subject]
                await self._read_again(subject)

    async def _read_again(self, subject: str) -> None:
        while subject in self._aside and not self._is_full(subject):
            entries = await self._store.read(self._partition, self._aside[subject], _WINDOW)
            for entry in entries:
                if self.cursor is None or entry.position > self.cursor:
                    break  # from here on `follow` reads it
                if entry.event.subject == subject:
                    if self._is_full(subject):
                        self._dispatcher.pump()
                        return
                    self._submit(entry)
                self._aside[subject] = entry.position
            else:
                if len(entries) == _WINDOW:
                    continue
            del self._aside[subject]
            self._dispatcher.pump()

    def _is_full(self, subject: str) -> bool:
        return self._dispatcher.is_held(subject) or self._dispatcher.waiting(subject) >= self._most_waiting

    def _submit(self, entry: LogEntry) -> None:
        self._count += 1
        self._dispatcher.submit(entry.event.subject, self._make(entry))
