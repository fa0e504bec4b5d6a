"""A store in memory: everything is lost with the process; for tests, replays and embedded event buses.

Belongs here: the storage contract on plain dicts. It must not know of rules; and it keeps nothing that an engine
could still change, only JSON text and frozen records.
"""

from __future__ import annotations

import bisect
import heapq
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from datetime import datetime
from itertools import chain, count, islice
from typing import Final, TypeAlias

import msgspec

from onwhen.engine.clock import Clock, SystemClock
from onwhen.engine.events import Event
from onwhen.engine.partitions import partition_of
from onwhen.engine.store import (
    Accepted,
    Answer,
    Cell,
    Commit,
    CommitResult,
    DeadLetter,
    Explanation,
    HistoryEntry,
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
from onwhen.errors import SettingError, StoreError
from onwhen.storage._cells import checked
from onwhen.storage._encoding import micros

__all__ = ["MemoryStore", "create_memory_storage"]

_DONE: Final = CommitResult(Answer.DONE)
_CONFLICT: Final = CommitResult(Answer.CONFLICT)
_SPARE: Final = 64  # what is gone may lie in an agenda or an order; at least so many before it is tidied
_MOST_PARTITIONS: Final = 1 << 14  # as in a file, so that what works here works there
_MOST_KEPT: Final = 1 << 40  # accepted events, or commits, that are remembered; a deque takes no more than 63 bits
_AT_ONCE: Final = 1000  # timers that are moved at once (a count)

_Due: TypeAlias = tuple[datetime, int, Timer]


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
        history: how many commits are kept to be looked at, of all subjects together (a count).
        explanations: how many explanations each partition keeps (a count).

    Raises:
        SettingError: a count is out of range.
    """

    def __init__(
        self, *, partitions: int = 1, dedup_window: int = 100_000, history: int = 0, explanations: int = 1_000
    ) -> None:
        kept = (dedup_window, history, explanations)
        if not 1 <= partitions <= _MOST_PARTITIONS or min(kept) < 0 or max(kept) > _MOST_KEPT:
            raise SettingError(
                f"partitions={partitions} must be 1 to {_MOST_PARTITIONS}, dedup_window={dedup_window}, "
                f"history={history} and explanations={explanations} at least 0 and at most {_MOST_KEPT:,}",
                settings=("partitions", "dedup_window", "history", "explanations"),
            )
        self._partitions = partitions
        self._dedup_window = dedup_window
        self._clock: Clock = SystemClock()
        self._is_open = False
        self._numbers = count(1)
        self._logs: list[dict[Position, LogEntry]] = [{} for _ in range(partitions)]
        self._orders: list[list[int]] = [[] for _ in range(partitions)]  # positions, those of handled events among them
        self._bookmarks: list[dict[str, str]] = [{} for _ in range(partitions)]
        self._history: deque[HistoryEntry] | None = deque(maxlen=history) if history else None
        self._seen: OrderedDict[Hashable, Position] = OrderedDict()
        self._subjects: dict[str, _Stored] = {}
        self._timers: dict[str, dict[str, _Due]] = {}
        self._agendas: list[list[_Due]] = [[] for _ in range(partitions)]
        self._tidy_at = [_SPARE] * partitions
        self._promoted: list[list[Position]] = [[] for _ in range(partitions)]
        self._retries: list[dict[RetryKey, Retry]] = [{} for _ in range(partitions)]
        self._dead: dict[str, DeadLetter] = {}
        self._kept_explanations = explanations
        self._explanations: dict[int, deque[Explanation]] = {}
        self._cells: dict[bytes, tuple[bytes, int]] = {}  # value, and when it is over
        self._clear_at = _SPARE

    @property
    def partitions(self) -> int:
        """How many partitions there are."""
        return self._partitions

    @property
    def volatile(self) -> bool:
        """All of it is lost with the process; but a history is to show events, so they go through the log for that."""
        return self._history is None

    async def open(self, clock: Clock) -> bool:
        """Take the time from `clock` from now on; see `Store.open`."""
        self._clock = clock
        was_closed, self._is_open = not self._is_open, True
        return was_closed

    async def close(self) -> None:
        """Keep everything: a bus may be opened on it again."""
        self._is_open = False

    # -- the log

    async def append(
        self, partition: int, events: Sequence[Event], bookmarks: Mapping[str, str] | None = None
    ) -> Sequence[Accepted]:
        """Accept events; see `Store.append`."""
        self._check(partition)
        now = self._clock.now()
        if bookmarks is not None:
            self._bookmarks[partition].update(bookmarks)
        return [self._accept(partition, event, now) for event in events]

    def _check(self, partition: int) -> None:
        if not 0 <= partition < self._partitions:
            raise StoreError(f"there is no partition {partition}, only 0 to {self._partitions - 1}")

    def _accept(self, partition: int, event: Event, now: datetime) -> Accepted:
        log, order = self._logs[partition], self._orders[partition]
        if event.has_id:  # an id that is yet to be made is like no other
            seen = self._seen.get((event.source, event.id))
            if seen is not None:
                return Accepted(seen if seen in log else None, is_new=False)
        position = next(self._numbers)
        if event.has_id:
            self._remember((event.source, event.id), position)
        log[position] = LogEntry(position, event, now)
        order.append(position)
        return Accepted(position)

    def _remember(self, key: Hashable, position: Position) -> None:
        self._seen[key] = position
        if len(self._seen) > self._dedup_window:
            self._seen.popitem(last=False)

    async def read(self, partition: int, after: Position | None, limit: int) -> Sequence[LogEntry]:
        """Return pending events; see `Store.read`."""
        self._check(partition)
        log, order = self._logs[partition], self._orders[partition]
        later = map(order.__getitem__, range(bisect.bisect_right(order, after or 0), len(order)))
        return [log[number] for number in islice(filter(log.__contains__, later), limit)]

    def _post(self, event: Event, now: datetime) -> LogEntry:
        position = next(self._numbers)
        partition = self._partition_of(event.subject)
        self._logs[partition][position] = entry = LogEntry(position, event, now)
        self._orders[partition].append(position)
        return entry

    async def bookmark(self, partition: int, name: str) -> str | None:
        """Return how far a source was read; see `Store.bookmark`."""
        return self._bookmarks[partition].get(name)

    async def starting(self, partition: int, starts: Mapping[Position | RetryKey, int]) -> None:
        """Note how often handling has begun; see `Store.starting`."""
        log, retries = self._logs[partition], self._retries[partition]
        for which, number in starts.items():
            if isinstance(which, int):
                if which in log:
                    log[which] = msgspec.structs.replace(log[which], starts=number)
            elif which in retries:
                retries[which] = msgspec.structs.replace(retries[which], starts=number)

    def _partition_of(self, subject: str) -> int:
        return 0 if self._partitions == 1 else partition_of(subject, self._partitions)

    # -- subjects, and the commit of a turn

    async def load(self, subject: str) -> SubjectRecord:
        """Return a subject; see `Store.load`."""
        stored = self._subjects.get(subject)
        if stored is None:
            return SubjectRecord(name=subject, properties={}, ext={})
        return _record(subject, stored)

    async def commit(self, commit: Commit) -> CommitResult:
        """Store one turn's effects; see `Store.commit`."""
        subject, handled, log = commit.subject, commit.handled, self._logs[commit.partition]
        if (handled is not None and handled not in log) or self._is_done(commit):
            return _DONE
        stored = self._subjects.get(subject)
        version: Position | None = None if stored is None else stored.version
        if commit.version != version:
            return _CONFLICT
        # Nothing below can fail: from here on it is all or nothing.
        if self._history is not None:
            self._history.append(self._entry_of(commit))
        if handled is not None:
            del log[handled]
            order = self._orders[commit.partition]
            if len(order) > 2 * len(log) + _SPARE:
                order[:] = map(int, log)
        if commit.write is not None:
            version = self._write(subject, stored, commit.write)
        self._set_aside(commit)
        if not commit.messages:
            return CommitResult(Answer.OK, version)
        now = self._clock.now()
        return CommitResult(Answer.OK, version, [self._post(event, now).position for event in commit.messages])

    def _entry_of(self, commit: Commit) -> HistoryEntry:
        """Return what is kept of a commit; to be made before that takes away what it was about."""
        event, rule = None, ""
        if commit.handled is not None:
            event = self._logs[commit.partition][commit.handled].event
        elif commit.retried is not None:
            retry = self._retries[commit.partition][commit.retried]
            event, rule = retry.event, retry.rule
        return HistoryEntry(time=self._clock.now(), subject=commit.subject, event=event, rule=rule, write=commit.write)

    def _is_done(self, commit: Commit) -> bool:
        if commit.retried is not None and commit.retried not in self._retries[commit.partition]:
            return True
        if commit.revived and any(id not in self._dead for id in commit.revived):
            return True
        return commit.id is not None and commit.id in self._seen

    def _set_aside(self, commit: Commit) -> None:
        """Keep what is for later, and let go of what was kept until now."""
        if commit.retried is not None:
            del self._retries[commit.partition][commit.retried]
        for id in commit.revived:
            del self._dead[id]
        if commit.id is not None:
            self._remember(commit.id, 0)
        if commit.cancel_all or commit.cancelled or commit.timers:
            self._set_timers(commit)
        for retry in commit.retries:
            self._retries[commit.partition].pop(retry.key, None)  # the one that is set last is listed last
            self._retries[commit.partition][retry.key] = retry
        for letter in commit.dead:
            self._dead.pop(letter.id, None)
            self._dead[letter.id] = letter
        if commit.explanation is not None:
            kept = self._explanations.setdefault(commit.partition, deque(maxlen=self._kept_explanations))
            kept.append(commit.explanation)

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

    async def subjects(self, prefix: str = "") -> AsyncIterator[SubjectRecord]:
        """Go through the stored subjects; see `Store.subjects`."""
        names = sorted(self._subjects)
        for name in names[bisect.bisect_left(names, prefix) :]:
            if not name.startswith(prefix):
                return
            stored = self._subjects.get(name)
            if stored is not None:
                yield _record(name, stored)

    # -- timers and retries

    def _set_timers(self, commit: Commit) -> None:
        own = self._timers.setdefault(commit.subject, {})
        if commit.cancel_all:
            own.clear()
        for name in commit.cancelled:
            own.pop(name, None)
        agenda = self._agendas[commit.partition]
        for timer in commit.timers:
            own[timer.key] = entry = (timer.due, next(self._numbers), timer)
            heapq.heappush(agenda, entry)
        if not own:
            del self._timers[commit.subject]
        if len(agenda) >= self._tidy_at[commit.partition]:
            agenda[:] = filter(self._is_set, agenda)
            heapq.heapify(agenda)
            self._tidy_at[commit.partition] = _SPARE + 2 * len(agenda)

    def _is_set(self, entry: _Due) -> bool:
        """Tell whether a timer is still the one of its key, not replaced, cancelled or fired."""
        timer = entry[2]
        return self._timers.get(timer.subject, {}).get(timer.key) is entry

    async def promote(self, partition: int, after: Position | None) -> Promoted:
        """Move due timers to the log; see `Store.promote`."""
        agenda, now = self._agendas[partition], self._clock.now()
        next_due: datetime | None = None
        moved, elsewhere = 0, False
        while agenda:
            due, _, timer = entry = agenda[0]
            is_set = self._is_set(entry)
            if is_set and (due > now or moved == _AT_ONCE):
                next_due = due
                break
            heapq.heappop(agenda)
            if is_set:
                moved += 1
                own = self._timers[timer.subject]
                del own[timer.key]
                if not own:
                    del self._timers[timer.subject]
                target = self._partition_of(timer.event.subject)
                elsewhere |= target != partition
                self._promoted[target].append(self._post(timer.event, now).position)
        promoted, log = self._promoted[partition], self._logs[partition]
        promoted[:] = filter(log.__contains__, promoted)
        later = promoted[bisect.bisect_right(promoted, after or 0) :]
        return Promoted([log[position] for position in later], next_due, elsewhere)

    async def timers(self, subject: str | None = None) -> AsyncIterator[Timer]:
        """Go through the timers; see `Store.timers`."""
        agendas = self._agendas if subject is None else [self._agendas[self._partition_of(subject)]]
        for entry in sorted(chain.from_iterable(agendas), key=lambda entry: entry[:2]):
            if self._is_set(entry) and subject in (None, entry[2].subject):
                yield entry[2]

    async def retries(self, partition: int) -> AsyncIterator[Retry]:
        """Go through the waiting retries; see `Store.retries`."""
        for retry in sorted(self._retries[partition].values(), key=lambda retry: retry.due):
            yield retry

    # -- dead letters, the past

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """Go through the dead letters; see `Store.dead_letters`."""
        for letter in list(self._dead.values()):
            yield letter

    async def dead_letter(self, id: str) -> DeadLetter | None:
        """Return a dead letter; see `Store.dead_letter`."""
        return self._dead.get(id)

    async def discard(self, dead_letter: str) -> bool:
        """Remove a dead letter; see `Store.discard`."""
        return self._dead.pop(dead_letter, None) is not None

    async def history(self, subject: str) -> AsyncIterator[HistoryEntry]:
        """Go through what was done to a subject; see `Store.history`."""
        for entry in reversed(tuple(self._history or ())):
            if entry.subject == subject:
                yield entry

    async def explanations(
        self, *, correlation: str | None = None, subject: str | None = None
    ) -> AsyncIterator[Explanation]:
        """Go through the explanations; see `Store.explanations`."""
        for explanation in sorted(
            chain.from_iterable(self._explanations.values()), key=lambda explanation: explanation.time
        ):
            if correlation in (None, explanation.correlation) and subject in (None, explanation.subject):
                yield explanation

    # -- cells, and counts

    async def exchange(self, key: str, expected: bytes | None, new: bytes | None, ttl: float) -> Cell:
        """Put a value in the place of another one; see `Store.exchange`."""
        name, time = checked(key, expected, new, ttl)
        clock = self._clock.now()
        now = micros(clock)
        value, until = self._cells.get(name, (None, 0))
        value = value if until > now else None
        if value == expected:
            value = new
            if new is None:
                self._cells.pop(name, None)
            else:
                self._cells[name] = (new, now + time)
                if len(self._cells) >= self._clear_at:
                    self._cells = {name: cell for name, cell in self._cells.items() if cell[1] > now}
                    self._clear_at = _SPARE + 2 * len(self._cells)
        return Cell(value, clock)

    async def stats(self) -> StoreStats:
        """Return how much is kept; see `Store.stats`."""
        parked = sum(retry.parked for retries in self._retries for retry in retries.values())
        return StoreStats(
            subjects=len(self._subjects),
            pending=sum(map(len, self._logs)),
            timers=sum(map(len, self._timers.values())),
            retries=sum(map(len, self._retries)) - parked,
            parked=parked,
            dead=len(self._dead),
            oldest=min((next(iter(log.values())).accepted for log in self._logs if log), default=None),
        )


def create_memory_storage(
    *, partitions: int = 1, dedup_window: int = 100_000, history: int = 0, explanations: int = 1_000
) -> MemoryStore:
    """Return a store in memory.

    Args:
        partitions: how many partitions there are (a count).
        dedup_window: how many accepted events are remembered by source and id (a count).
        history: how many commits are kept to be looked at (a count).
        explanations: how many explanations each partition keeps of what turns did (a count).
    """
    return MemoryStore(partitions=partitions, dedup_window=dedup_window, history=history, explanations=explanations)


def _record(name: str, stored: _Stored) -> SubjectRecord:
    return SubjectRecord(
        name=name,
        properties=dict(stored.properties),
        ext=dict(stored.ext),
        version=stored.version,
        schema=stored.schema,
    )
