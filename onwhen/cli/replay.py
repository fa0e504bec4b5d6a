"""A replay: recorded events go through a bus, and what came of them is counted.

Belongs here: in which order and at which moment events are emitted. It must not know of terminals, options or exit
codes; the demo and other programs call `replay` as the command does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from datetime import datetime
from time import monotonic
from typing import Final, TypeAlias

from onwhen.cli._bookmarks import Bookmarks, Place, Progress
from onwhen.cli._figures import DeadFigures, ReplayReport, RuleFigures, Tally, TypeFigures
from onwhen.cli._reading import Line, Reject, Source, read_lines
from onwhen.cli._window import Window
from onwhen.engine.bus import EventBus
from onwhen.engine.clock import VirtualClock
from onwhen.engine.events import Event
from onwhen.errors import InvalidEvent

__all__ = ["DeadFigures", "Reject", "ReplayReport", "RuleFigures", "Source", "TypeFigures", "replay"]

_WINDOW: Final = 256
_WINDOW_BYTES: Final = 64 * 1024 * 1024
_ENVELOPE: Final = 64 * 1024  # bytes; room for the attributes around the data
_GROWTH: Final = 8  # data as JSON is never this many times as long as its line (1e9 is written as 1000000000.0)
_STATS_SECONDS: Final = 5.0
_DRAIN_TURNS: Final = 10_000
_DRAIN_FACTOR: Final = 10

_Read: TypeAlias = "tuple[Event, int, Place | None]"  # an event, its size (bytes), and where it stands


async def replay(
    bus: EventBus,
    sources: Iterable[Source],
    *,
    drain: bool = False,
    strict: bool = False,
    window: int = _WINDOW,
    max_line_bytes: int | None = None,
    on_reject: Callable[[Reject], None] | None = None,
    progress: Callable[[ReplayReport], None] | None = None,
    report: ReplayReport | None = None,
    bookmarks: Bookmarks | None = None,
) -> ReplayReport:
    """Emit recorded events, CloudEvents as one JSON object a line, plain or gzip.

    On a bus with a `VirtualClock` the events' own time drives that clock: one event at a time, each after all timers
    and retries that are due at or before it, so that the same input gives the same result. Time does not run
    backwards: an event older than the one before it is handled at the time of that one. On any other clock events
    of different subjects are handled concurrently. In both, the events of a subject keep their order.

    The bus is left open, and nothing is stored but by its rules.

    Args:
        bus: whose rules handle the events.
        sources: what to read, one after the other.
        drain: go on, on a virtual clock, until no timer or retry is left that waits for its time. If rules keep
            setting timers, this ends after 10 times as many as there were, and 10,000 more.
        strict: stop at the first line that cannot be used.
        window: how many events may be under way at once (a count), where they are handled concurrently.
        max_line_bytes: how long a line may be (bytes); by default four times what the bus allows as an event's data.
        on_reject: called with each line that cannot be used.
        progress: called now and then, and at least after each event.
        report: where to keep the figures, for who wants them even if the replay is cancelled.
        bookmarks: those of the store that the bus is on, and of these sources. What was done in an earlier run, up to
            wherever that was stopped, is not done again.

    Returns:
        The figures.

    Raises:
        ValueError: `drain` on a bus whose clock cannot be moved, or a window below 1.
        BusClosed: the bus was closed.
        InputChanged: with bookmarks: a source begins as it did before, and then goes on otherwise.
    """
    if drain and not isinstance(bus.clock, VirtualClock):
        raise ValueError(f"drain needs a bus on a VirtualClock, this one runs on {type(bus.clock).__name__}")
    if window < 1:
        raise ValueError(f"window={window} must be at least 1")
    run = _Replay(
        bus,
        ReplayReport() if report is None else report,
        strict=strict,
        window=window,
        max_line_bytes=max_line_bytes or 4 * bus.limits.max_event_bytes + _ENVELOPE,
        on_reject=on_reject or _ignore,
        progress=progress or _ignore,
        bookmarks=bookmarks,
    )
    return await run.run(sources, drain)


class _Replay:
    """One replay on its way."""

    def __init__(
        self,
        bus: EventBus,
        report: ReplayReport,
        *,
        strict: bool,
        window: int,
        max_line_bytes: int,
        on_reject: Callable[[Reject], None],
        progress: Callable[[ReplayReport], None],
        bookmarks: Bookmarks | None,
    ) -> None:
        self._bus = bus
        self._report = report
        self._strict = strict
        self._window = window
        self._max_line_bytes = max_line_bytes
        self._on_reject = on_reject
        self._progress = progress
        self._bookmarks = bookmarks
        self._max_data = bus.limits.max_event_bytes
        self._tally = Tally(report)
        self._by_event_time = isinstance(bus.clock, VirtualClock)

    async def run(self, sources: Iterable[Source], drain: bool) -> ReplayReport:
        report, bus, began = self._report, self._bus, monotonic()
        end_observing = bus.observe(self._tally)
        try:
            if self._bookmarks is not None:
                await bus.start()
                report.dead_before = (await bus.store.stats()).dead
                await bus.idle()
            async with aclosing(self._events(sources)) as events:
                if self._by_event_time:
                    await self._in_event_time(events)
                else:
                    await self._concurrently(events)
            if drain and not report.stopped:
                await self._drain()
        finally:
            end_observing()
            report.seconds = monotonic() - began
            async with asyncio.timeout(_STATS_SECONDS):
                stats = await bus.store.stats()
            report.subjects, report.timers_pending, report.retries_waiting = stats.subjects, stats.timers, stats.retries
            self._progress(report)
        return report

    # -- what is read

    async def _events(self, sources: Iterable[Source]) -> AsyncGenerator[_Read, None]:
        report = self._report

        def consumed(size: int) -> None:
            report.bytes += size
            self._progress(report)

        for number, source in enumerate(sources):
            done = None if self._bookmarks is None else self._bookmarks.progress(number, source)
            async with aclosing(read_lines(source, self._max_line_bytes, consumed)) as batches:
                async for batch in batches:
                    for line in batch:
                        read = self._new(source, line, done)
                        if read is not None:
                            yield read
                        if report.stopped:
                            return
            if done is not None:
                self._end(source, done)

    def _new(self, source: Source, line: Line, done: Progress | None) -> _Read | None:
        """Return the event of a line, if it is one, and was not accepted before."""
        if done is not None and not line.problem:
            done.take(line)
        event = self._event(source, line)
        if event is None:
            return None
        if done is None:
            return event, line.size, None
        if done.is_done(event):
            self._report.done_before += 1
            return None
        return event, line.size, done.place()

    def _end(self, source: Source, done: Progress) -> None:
        if done.is_other:
            self._report.others.append(source.name)
        if not self._report.broken:  # else it may be shorter than it should be
            done.end()

    def _event(self, source: Source, line: Line) -> Event | None:
        """Make an event of a line, or reject it; None also for a blank line."""
        if not line.size and not line.problem:
            return None
        problem, event = line.problem, None
        if not problem and line.size > self._max_line_bytes:
            problem = f"a line of {line.size:,} bytes is longer than the {self._max_line_bytes:,} that are read"
        if not problem:
            if line.raw.isspace():
                return None
            try:
                event = Event.from_json(line.raw)
                if line.size > self._max_data // _GROWTH:
                    event.check_size(self._max_data)
            except InvalidEvent as error:
                problem, event = str(error), None
            else:
                if event.time is None and self._by_event_time:
                    problem, event = "time: missing; it drives the clock in event time", None
        self._report.lines += 1
        if event is None:
            self._reject(source, line, problem)
        return event

    def _reject(self, source: Source, line: Line, reason: str) -> None:
        self._report.rejects += 1
        reject = Reject.of(source, line, reason)
        if line.problem:
            self._report.broken.append(f"{reject.file}:{reject.line}: {reason}")
        if self._strict:
            self._report.stopped = f"{reject.file}:{reject.line} was rejected"
        self._on_reject(reject)

    # -- what is emitted

    async def _in_event_time(self, events: AsyncIterator[_Read]) -> None:
        bus, report = self._bus, self._report
        async for event, _, place in events:
            time = event.time
            assert time is not None
            if time < bus.clock.now():
                report.late += 1
            await self._advance(time)
            await self._emit(event, place)
        await self._advance(bus.clock.now())  # what the last event set for its own moment

    async def _advance(self, until: datetime) -> None:
        bus = self._bus
        if self._bookmarks is not None:
            await bus.idle()
            while (due := bus.next_due) is not None and bus.clock.now() < due <= until:
                await self._bookmarks.at(due)
                await bus.advance(due)
        await bus.advance(until)

    async def _emit(self, event: Event, place: Place | None) -> None:
        bookmark = None if place is None else place.bookmark(self._bus.clock)
        receipt = await self._bus.emit(event, bookmark=bookmark)
        if receipt.status == "duplicate":
            self._report.duplicates += 1
        else:
            self._tally.read(event)
        self._progress(self._report)

    async def _concurrently(self, events: AsyncIterator[_Read]) -> None:
        await self._bus.start()
        window = Window(self._window, _WINDOW_BYTES)
        try:
            async with asyncio.TaskGroup() as group:
                async for event, size, place in events:
                    await window.room_for(size)
                    task = group.create_task(
                        self._emit(event, place)
                    )  # in the order of the calls, the bus sees to that
                    window.enter(task, size)
        except BaseExceptionGroup as errors:  # of tasks that all do the same; the first one says it
            raise errors.exceptions[0] from None
        await self._bus.idle()

    # -- what is left

    async def _drain(self) -> None:
        bus, report, bookmarks = self._bus, self._report, self._bookmarks
        if bookmarks is not None and bookmarks.endless and not report.events:
            report.endless = bookmarks.endless  # so it was found before, and nothing has come since
            return
        stats = await bus.store.stats()
        allowed = _DRAIN_TURNS + _DRAIN_FACTOR * (stats.timers + stats.retries)
        turns: Counter[str] = Counter()
        end_observing = bus.observe(lambda outcome: turns.update((outcome.event.type,)))
        try:
            while (due := bus.next_due) is not None:
                if turns.total() > allowed:
                    (kind, number), *_ = turns.most_common(1)
                    report.endless = f"{turns.total():,} turns after the last event, {number:,} of them for {kind}"
                    if bookmarks is not None:
                        await bookmarks.gave_up(bus.clock.now(), report.endless)
                    return
                await self._advance(due)
                self._progress(report)
        finally:
            end_observing()


def _ignore(_: object) -> None:
    """Do nothing about it."""
