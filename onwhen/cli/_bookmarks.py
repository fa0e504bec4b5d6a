"""How far a replay has come, kept in the store that it fills, so that it goes on where it was stopped.

Belongs here: which input is meant, which of its lines are done, and where the virtual clock stood. It must not know
how lines are read, nor how events are handled.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final

import msgspec

from onwhen.cli._reading import Line, Source
from onwhen.engine.clock import Clock, VirtualClock
from onwhen.engine.events import Event
from onwhen.engine.partitions import partition_of
from onwhen.engine.store import Store
from onwhen.errors import OnwhenError

__all__ = ["Bookmarks", "InputChanged", "Place", "Progress", "event_time"]

_SIZE: Final = 16  # bytes of a digest
_LATEST: Final = "replay in event time"
_BEGINNING: Final = datetime.min.replace(tzinfo=UTC)


class InputChanged(OnwhenError):
    """What is to be replayed begins as it did before, and then goes on otherwise."""


class _Mark(msgspec.Struct, frozen=True, kw_only=True):
    """How far a source was read when an event was accepted.

    Attributes:
        lines: lines that were read, this one included (a count).
        first: digest of the first line.
        all: digest of all these lines.
        clock: what the time was.
    """

    lines: int
    first: str
    all: str
    clock: datetime


class _Moment(msgspec.Struct, frozen=True, kw_only=True):
    """Where the clock stood, and why no more timers are to be drained; "" if they are."""

    clock: datetime
    endless: str = ""


class _Latest(msgspec.Struct, frozen=True, kw_only=True):
    """Which replay has filled a store last in the events' own time.

    Attributes:
        name: name of its bookmarks.
        sources: how many there are (a count).
        clock: how far those before had come.
    """

    name: str
    sources: int
    clock: datetime


async def event_time(store: Store) -> datetime | None:
    """Return the moment that a store has come to in its events' own time; None if no such replay has filled it."""
    value = await store.bookmark(0, _LATEST)
    if value is None:
        return None
    latest = msgspec.json.decode(value, type=_Latest)
    marks, moment = await _read(store, latest.name, latest.sources)
    moments = [latest.clock, *(mark.clock for of_one in marks for mark in of_one.values())]
    return max(moments if moment is None else [*moments, moment.clock])


async def _read(store: Store, name: str, sources: int) -> tuple[list[dict[int, _Mark]], _Moment | None]:
    """Return the marks of each source by partition, and the moment that was noted."""
    found: list[dict[int, _Mark]] = [{} for _ in range(sources)]
    for partition in range(store.partitions):
        for number, marks in enumerate(found):
            if (value := await store.bookmark(partition, _of(name, number))) is not None:
                marks[partition] = msgspec.json.decode(value, type=_Mark)
    value = await store.bookmark(0, name)
    return found, None if value is None else msgspec.json.decode(value, type=_Moment)


def _of(name: str, number: int) -> str:
    return f"{name} {number}"


class Place(msgspec.Struct, frozen=True):
    """Where an event stands in its source."""

    name: str
    lines: int
    first: str
    all: str

    def bookmark(self, clock: Clock) -> tuple[str, str]:
        """Return what is to be stored with the event: name and value."""
        mark = _Mark(lines=self.lines, first=self.first, all=self.all, clock=clock.now())
        return self.name, msgspec.json.encode(mark).decode()


class Bookmarks:
    """The bookmarks of one replay in one store.

    Each source has its own, in each partition that its events go to. Names are made from what identifies the input:
    the kind of time, and the names of all sources in their order.

    Args:
        store: where they are kept; `store` of this is what a bus is to be made with.
        time: kind of time.
        sources: what is to be read.
    """

    def __init__(self, store: Store, time: str, sources: Sequence[Source]) -> None:
        of = json.dumps([time, *(source.name for source in sources)])
        self._name = f"replay {blake2b(of.encode(errors='backslashreplace'), digest_size=_SIZE).hexdigest()}"
        self._sources = len(sources)
        self._in_event_time = time == "event"
        self._marks: list[dict[int, _Mark]] = []
        self._inner = store
        self.store: Store = _Resuming(store, self)
        self.endless = ""

    async def read(self, clock: Clock) -> None:
        """Read how far it had come, and move a virtual clock to where it was then.

        Has to be done before anything that is pending is handled. What a retry has let go on, for example, was
        accepted long before the moment at which it is handled.
        """
        self._marks, moment = await _read(self._inner, self._name, self._sources)
        moments = [_BEGINNING, *(mark.clock for marks in self._marks for mark in marks.values())]
        if moment is not None:
            self.endless = moment.endless
            moments.append(moment.clock)
        if isinstance(clock, VirtualClock):
            clock.move_to(max(moments))
        if self._in_event_time:
            await self._be_the_latest()

    async def _be_the_latest(self) -> None:
        """Note that the store is in the time of these events, for commands that know nothing of this replay."""
        value = await self._inner.bookmark(0, _LATEST)
        if value is not None and msgspec.json.decode(value, type=_Latest).name == self._name:
            return
        before = await event_time(self._inner) or _BEGINNING
        latest = _Latest(name=self._name, sources=self._sources, clock=before)
        await self._inner.append(0, (), {_LATEST: msgspec.json.encode(latest).decode()})

    def progress(self, number: int, source: Source) -> Progress:
        """Return how far a source was read before, to be told of each of its lines.

        Args:
            number: which of the sources it is, from 0.
            source: the source.
        """
        return Progress(_of(self._name, number), source.name, self._marks[number], self._inner.partitions)

    async def at(self, moment: datetime) -> None:
        """Note that what waits for a moment is about to be done; only if it cannot be told from the log.

        Timers that come due are put into the log at their moment. A retry is not, nor is what it lets go on.
        """
        if await self._any_retries():
            await self._note(_Moment(clock=moment))

    async def gave_up(self, moment: datetime, endless: str) -> None:
        """Note that no more timers are to be drained, and why."""
        await self._note(_Moment(clock=moment, endless=endless))

    async def _note(self, moment: _Moment) -> None:
        await self._inner.append(0, (), {self._name: msgspec.json.encode(moment).decode()})

    async def _any_retries(self) -> bool:
        for partition in range(self._inner.partitions):
            if await anext(self._inner.retries(partition), None) is not None:
                return True
        return False


class Progress:
    """One source on its way: which of its lines were done before.

    Attributes:
        is_other: it begins otherwise than what was read under its name before, so nothing of it was done.
    """

    def __init__(self, bookmark: str, name: str, marks: dict[int, _Mark], partitions: int) -> None:
        self.is_other = False
        self._bookmark = bookmark
        self._name = name
        self._marks = marks
        self._partitions = partitions
        self._lines = 0
        self._first = ""
        self._all = blake2b(digest_size=_SIZE)

    def take(self, line: Line) -> None:
        """Take note of a line.

        Raises:
            InputChanged: the lines up to here are others than before.
        """
        self._lines = line.number
        self._all.update(b"%d %b\n" % (line.size, line.raw))
        if not self._first:
            self._first = self._all.hexdigest()
            if any(mark.first != self._first for mark in self._marks.values()):
                self.is_other, self._marks = True, {}
        for mark in self._marks.values():
            if mark.lines == line.number and mark.all != self._all.hexdigest():
                raise InputChanged(
                    f"{self._name}: its first {mark.lines:,} lines are not the ones that were replayed into this "
                    f"store before, though the first one is. Give it as it was, or what is new in a file of another "
                    f"name"
                )

    def end(self) -> None:
        """Take note that there is no more.

        Raises:
            InputChanged: there was more before.
        """
        lines = max((mark.lines for mark in self._marks.values()), default=0)
        if self._lines < lines:
            raise InputChanged(
                f"{self._name}: has {self._lines:,} lines, but {lines:,} of it were replayed into this store before. "
                f"Give it as it was, or what is new in a file of another name"
            )

    def is_done(self, event: Event) -> bool:
        """Tell whether the event of the latest line was accepted before."""
        if not self._marks:
            return False
        mark = self._marks.get(partition_of(event.subject, self._partitions))
        return mark is not None and self._lines <= mark.lines

    def place(self) -> Place:
        """Return where the event of the latest line stands."""
        return Place(self._bookmark, self._lines, self._first, self._all.hexdigest())


class _Resuming:
    """A store that has the bookmarks read as soon as it is open, and before anybody acts on what is in it."""

    def __init__(self, store: Store, bookmarks: Bookmarks) -> None:
        self._store = store
        self._bookmarks = bookmarks

    async def open(self, clock: Clock) -> bool:
        was_closed = await self._store.open(clock)
        await self._bookmarks.read(clock)
        return was_closed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
