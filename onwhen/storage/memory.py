"""A store in memory: everything is lost with the process; for tests, replays and embedded event buses.

Belongs here: the storage contract on plain dicts. It must not know of rules; and it keeps nothing that an engine
could still change, only JSON text and frozen records.
"""

from __future__ import annotations

import bisect
import heapq
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from itertools import count, islice

from onwhen.engine.clock import Clock, SystemClock
from onwhen.engine.events import Event
from onwhen.engine.partitions import partition_of
from onwhen.engine.store import (
    Answer,
    Commit,
    CommitResult,
    DeadLetter,
    LogEntry,
    Position,
    Promoted,
    Retry,
    RetryKey,
    StoreStats,
    SubjectRecord,
    SubjectWrite,
    Timer,
)

__all__ = ["MemoryStore", "create_memory_storage"]

_DONE = CommitResult(Answer.DONE)
_CONFLICT = CommitResult(Answer.CONFLICT)


class _Stored:
    """One subject."""

    __slots__ = ("ext", "properties", "schema", "version")

    def __init__(self) -> None:
        self.properties: dict[str, bytes] = {}
        self.ext: dict[str, bytes] = {}
        self.version = 0
        self.schema = 1


class MemoryStore:
    """Keeps everything in dicts.

    Args:
        partitions: how many partitions there are (a count).
        dedup_window: how many of the latest accepted events with an id of their own are remembered, so that a
            second one of the same source and id is not accepted again (a count).
    """

    def __init__(self, *, partitions: int = 1, dedup_window: int = 100_000) -> None:
        if partitions < 1 or dedup_window < 0:
            raise ValueError(f"partitions={partitions} must be at least 1, dedup_window={dedup_window} at least 0")
        self._partitions = partitions
        self._dedup_window = dedup_window
        self._clock: Clock = SystemClock()
        self._numbers = count(1)
        self._logs: list[dict[Position, Event]] = [{} for _ in range(partitions)]
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._subjects: dict[str, _Stored] = {}
        self._timers: dict[tuple[str, str], Timer] = {}
        self._agendas: list[list[tuple[datetime, int, tuple[str, str], Timer]]] = [[] for _ in range(partitions)]
        self._retries: list[dict[RetryKey, Retry]] = [{} for _ in range(partitions)]
        self._dead: dict[str, DeadLetter] = {}

    @property
    def partitions(self) -> int:
        """How many partitions there are."""
        return self._partitions

    async def open(self, clock: Clock) -> None:
        """Take the time from `clock` from now on."""
        self._clock = clock

    async def close(self) -> None:
        """Keep everything: a bus may be opened on it again."""

    async def append(self, partition: int, events: Sequence[Event]) -> Sequence[Position | None]:
        """Accept events; see `Store.append`."""
        return [self._accept(partition, event) for event in events]

    def _accept(self, partition: int, event: Event) -> Position | None:
        if event.has_id:  # an id that is yet to be made is like no other
            key = (event.source, event.id)
            if key in self._seen:
                return None
            self._seen[key] = None
            if len(self._seen) > self._dedup_window:
                self._seen.popitem(last=False)
        position = next(self._numbers)
        self._logs[partition][position] = event
        return position

    async def read(self, partition: int, after: Position | None, limit: int) -> Sequence[LogEntry]:
        """Return pending events; see `Store.read`."""
        first = int(after) if after is not None else 0
        entries = (LogEntry(number, event) for number, event in self._logs[partition].items() if int(number) > first)
        return list(islice(entries, limit))

    async def load(self, subject: str) -> SubjectRecord:
        """Return a subject; see `Store.load`."""
        stored = self._subjects.get(subject)
        if stored is None:
            return SubjectRecord(name=subject, properties={}, ext={})
        return _record(subject, stored)

    async def commit(self, commit: Commit) -> CommitResult:
        """Store one turn's effects; see `Store.commit`."""
        log = self._logs[commit.partition]
        if commit.handled is not None and commit.handled not in log:
            return _DONE
        if commit.retried is not None and commit.retried not in self._retries[commit.partition]:
            return _DONE
        if any(id not in self._dead for id in commit.revived):
            return _DONE
        stored = self._subjects.get(commit.subject)
        version = stored.version if stored is not None else None
        if commit.version != version:
            return _CONFLICT
        # Nothing below can fail: from here on it is all or nothing.
        if commit.handled is not None:
            del log[commit.handled]
        if commit.retried is not None:
            del self._retries[commit.partition][commit.retried]
        if commit.write is not None:
            version = self._write(commit.subject, stored, commit.write)
        if commit.cancel_all or commit.cancelled or commit.timers:
            self._set_timers(commit)
        for retry in commit.retries:
            self._retries[commit.partition][retry.key] = retry
        for letter in commit.dead:
            self._dead[letter.id] = letter
        for id in commit.revived:
            del self._dead[id]
        return CommitResult(Answer.OK, version, [self._post(event) for event in commit.messages])

    def _write(self, subject: str, stored: _Stored | None, write: SubjectWrite) -> int | None:
        if write.remove:
            self._subjects.pop(subject, None)
            return None
        if stored is None:
            stored = self._subjects[subject] = _Stored()
        stored.properties.update(write.set)
        stored.ext.update(write.set_ext)
        for name in write.delete:
            stored.properties.pop(name, None)
        for name in write.delete_ext:
            stored.ext.pop(name, None)
        stored.schema = write.schema
        stored.version = next(self._numbers)  # never the same again, not even after the subject was removed
        return stored.version

    def _set_timers(self, commit: Commit) -> None:
        if commit.cancel_all:
            for key in [key for key in self._timers if key[0] == commit.subject]:
                del self._timers[key]
        for name in commit.cancelled:
            self._timers.pop((commit.subject, name), None)
        for timer in commit.timers:
            key = (timer.subject, timer.key)
            self._timers[key] = timer
            heapq.heappush(self._agendas[commit.partition], (timer.due, next(self._numbers), key, timer))

    def _post(self, event: Event) -> Position:
        partition = partition_of(event.subject, self._partitions) if self._partitions > 1 else 0
        position = next(self._numbers)
        self._logs[partition][position] = event
        return position

    async def promote(self, partition: int) -> Promoted:
        """Move due timers to the log; see `Store.promote`."""
        agenda, now = self._agendas[partition], self._clock.now()
        entries: list[LogEntry] = []
        while agenda:
            due, _, key, timer = agenda[0]
            if self._timers.get(key) is not timer:
                heapq.heappop(agenda)  # replaced or cancelled
                continue
            if due > now:
                return Promoted(entries, due)
            heapq.heappop(agenda)
            del self._timers[key]
            entries.append(LogEntry(self._post(timer.event), timer.event))
        return Promoted(entries, None)

    async def retries(self, partition: int) -> AsyncIterator[Retry]:
        """Go through the waiting retries; see `Store.retries`."""
        for retry in sorted(self._retries[partition].values(), key=lambda retry: retry.due):
            yield retry

    async def timers(self, subject: str | None = None) -> AsyncIterator[Timer]:
        """Go through the timers; see `Store.timers`."""
        for timer in sorted(self._timers.values(), key=lambda timer: timer.due):
            if subject is None or timer.subject == subject:
                yield timer

    async def subjects(self, prefix: str = "") -> AsyncIterator[SubjectRecord]:
        """Go through the stored subjects; see `Store.subjects`."""
        names = sorted(self._subjects)
        for name in names[bisect.bisect_left(names, prefix) :]:
            if not name.startswith(prefix):
                return
            stored = self._subjects.get(name)
            if stored is not None:
                yield _record(name, stored)

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """Go through the dead letters; see `Store.dead_letters`."""
        for letter in list(self._dead.values()):
            yield letter

    async def discard(self, dead_letter: str) -> bool:
        """Remove a dead letter; see `Store.discard`."""
        return self._dead.pop(dead_letter, None) is not None

    async def stats(self) -> StoreStats:
        """Return how much is kept; see `Store.stats`."""
        return StoreStats(
            subjects=len(self._subjects),
            pending=sum(map(len, self._logs)),
            timers=len(self._timers),
            retries=sum(map(len, self._retries)),
            dead=len(self._dead),
        )


def create_memory_storage(*, partitions: int = 1, dedup_window: int = 100_000) -> MemoryStore:
    """Return a store in memory.

    Args:
        partitions: how many partitions there are (a count).
        dedup_window: how many accepted events are remembered by source and id (a count).
    """
    return MemoryStore(partitions=partitions, dedup_window=dedup_window)


def _record(name: str, stored: _Stored) -> SubjectRecord:
    return SubjectRecord(
        name=name,
        properties=dict(stored.properties),
        ext=dict(stored.ext),
        version=stored.version,
        schema=stored.schema,
    )
