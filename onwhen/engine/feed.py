"""Reading a partition's log ahead of the lanes: in its order, and no more of it at a time than memory is for.

Belongs here: which pending events are in memory. It must not know how they are handled, nor who owns what.

Events of a subject that cannot take more, because it waits for a retry or has a long line already, are put aside:
they stay in the log, it is noted from where on, and they are read again when the subject goes on. So neither a parked
subject with a million events, nor a slow one, holds up the others of its partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from onwhen.engine.dispatch import Dispatcher
from onwhen.engine.shared import SharedStore
from onwhen.engine.store import LogEntry, Position
from onwhen.engine.work import Work

__all__ = ["WINDOW", "Feed"]

WINDOW: Final = 500  # entries that are read at once (a count)
_TAIL: Final = 5.0  # seconds that a read at the end of the log waits for more, before it is asked again
_JAM: Final = 0.25  # seconds without room, after which the longest lines give some
_SHORTEST: Final = 2  # pieces of work that a line may always have (a count)
_START: Final = 0  # position before all others


class Feed:
    """Reads one partition's log into the lanes.

    Args:
        store: whose log.
        partition: which.
        dispatcher: whose lanes.
        make: makes the work on an entry.
        leave: called with work that is taken out of the lanes again, to be read another time.
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
        leave: Callable[[Work], None],
        most: int,
    ) -> None:
        self.cursor: Position | None = None
        self._store = store
        self._partition = partition
        self._dispatcher = dispatcher
        self._make = make
        self._leave = leave
        self._most = most
        self._window = min(WINDOW, most)
        self._longest = self._longest_ever = max(_SHORTEST, most // 8)  # line of one subject
        self._count = 0
        self._first: set[Position] = set()  # what is in the lanes and stands behind the cursor
        self._aside: dict[str, Position] = {}  # subject -> read it again behind here
        self._ready: dict[str, None] = {}  # of those, the ones that can go on
        self._room = asyncio.Event()
        self._again = asyncio.Event()

    def take_first(self, works: Sequence[Work]) -> None:
        """Let work into the lanes ahead of all else: each the first of its subject in the log."""
        for work in works:
            assert work.position is not None
            self._count += 1
            self._first.add(work.position)
            self._dispatcher.submit(work.event.subject, work)

    def done(self, subject: str) -> None:
        """Note that a piece of work of a subject is done."""
        self._count -= 1
        self._make_room()
        self.reconsider(subject)

    def hold(self, subject: str) -> None:
        """Put aside what waits of a subject that cannot go on, so that it takes no room."""
        self._shorten(subject, 0)

    def reconsider(self, subject: str) -> None:
        """Read what was put aside of a subject, if it can go on."""
        if subject not in self._aside or self._dispatcher.is_held(subject):
            return
        # Not for each single place: what is read again is read together with all that stands between it.
        if self._dispatcher.waiting(subject) <= self._longest // 2:
            self._ready[subject] = None
            self._again.set()

    async def follow(self) -> None:
        """Read what comes to the log, until cancelled.

        Raises:
            StoreError: the store does not answer.
        """
        while True:
            await self._wait_for_room()
            limit = min(self._window, self._most - self._count)
            self._take(await self._store.tail(self._partition, self.cursor, limit, _TAIL))

    async def go_back(self) -> None:
        """Read again what was put aside, until cancelled.

        Raises:
            StoreError: the store does not answer.
        """
        while True:
            await self._again.wait()
            self._again.clear()
            while self._ready:
                await self._wait_for_room()
                subject = next(iter(self._ready), None)
                if subject is not None and self._is_full(subject):
                    del self._ready[subject]
                elif subject is not None:
                    await self._read_again(subject)

    def _take(self, entries: Sequence[LogEntry]) -> None:
        """Let entries that stand behind the cursor into the lanes, or put them aside."""
        for entry in entries:
            subject = entry.event.subject
            if entry.position not in self._first and subject not in self._aside:
                if self._is_full(subject):
                    self._aside[subject] = self.cursor or _START
                else:
                    self._submit(entry)
            self.cursor = entry.position
        if self._first and self.cursor is not None:
            self._first = {position for position in self._first if position > self.cursor}
        self._dispatcher.pump()

    async def _read_again(self, first: str) -> None:
        """Read on for a subject; others of which nothing stands before that take from it what is theirs.

        Each by itself would read all that stands between its events: when many go on at once, all of it for each.
        """
        after, before = self._aside[first], self.cursor
        asides = {subject: at for subject in self._ready if (at := self._aside[subject]) >= after}
        entries = await self._store.read(self._partition, after, self._window)
        # But not those of which more was put aside meanwhile: that stands before this.
        going = {subject for subject, at in asides.items() if subject in self._ready and self._aside[subject] == at}
        if not self._deal(entries, going) and (entries or self.cursor != before):
            going.clear()  # there may be more, or more has come meanwhile and was put aside
        for subject in going:
            del self._aside[subject], self._ready[subject]
        self._dispatcher.pump()

    def _deal(self, entries: Sequence[LogEntry], going: set[str]) -> bool:
        """Let what was put aside of some subjects into the lanes; tell whether that is all of it.

        Those that cannot take more are taken out of `going`.
        """
        at = _START
        is_all = False
        for entry in entries:
            if self.cursor is None or entry.position > self.cursor:
                is_all = True  # from here on `follow` reads it
                break
            subject = entry.event.subject
            if subject in going and entry.position > self._aside[subject]:
                if self._count >= self._most:
                    break
                if self._is_full(subject):
                    going.discard(subject)
                    del self._ready[subject]
                    self._aside[subject] = max(self._aside[subject], at)
                else:
                    self._submit(entry)
                    self._aside[subject] = entry.position
            at = entry.position
        for subject in going:
            self._aside[subject] = max(self._aside[subject], at)
        return is_all

    # -- room

    async def _wait_for_room(self) -> None:
        """Wait until more may be let into the lanes.

        Where the turns of a few subjects with long lines take long, the others are not to wait for them: the lines
        that are allowed become shorter while there is no room, and longer again while there is.
        """
        if self._count < self._most:
            self._longest = min(self._longest * 2, self._longest_ever)
        while self._count >= self._most:
            self._room.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_JAM):
                    await self._room.wait()
                continue
            self._longest = max(_SHORTEST, self._longest // 2)
            for subject in self._dispatcher.subjects_with_lines(self._longest):
                self._shorten(subject, self._longest)

    def _make_room(self) -> None:
        if self._count <= self._most // 2:
            self._room.set()

    def _shorten(self, subject: str, length: int) -> None:
        """Put aside what waits of a subject beyond a length."""
        works = self._dispatcher.withdraw(subject, length, _is_logged)
        if not works:
            return
        first = works[0].position
        assert first is not None
        self._aside[subject] = first - 1
        self._ready.pop(subject, None)
        for work in works:
            self._leave(work)
            assert work.position is not None
            self._first.discard(work.position)
        self._count -= len(works)
        self._make_room()

    def _is_full(self, subject: str) -> bool:
        return self._dispatcher.is_held(subject) or self._dispatcher.waiting(subject) >= self._longest

    def _submit(self, entry: LogEntry) -> None:
        self._count += 1
        self._dispatcher.submit(entry.event.subject, self._make(entry))


def _is_logged(work: Work) -> bool:
    return work.position is not None
