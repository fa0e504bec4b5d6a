"""The store in one SQLite file, as the engine sees it.

Belongs here: the storage contract, each call handed to the thread that owns the file. It must not know of SQL:
records are made into rows before a call leaves, and rows into records after its answer has come. All of the contract
is one class, so this is longer than others.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from onwhen.engine.clock import Clock, SystemClock
from onwhen.engine.events import Event
from onwhen.engine.store import (
    Accepted,
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
    Timer,
)
from onwhen.errors import SettingError, StoreCorrupt, StoreError
from onwhen.storage import _encoding
from onwhen.storage._cells import checked
from onwhen.storage.sqlite import _cells, _commits, _listing, _log, _rows
from onwhen.storage.sqlite._database import Database
from onwhen.storage.sqlite._failures import translated
from onwhen.storage.sqlite._files import Synchronous
from onwhen.storage.sqlite._listing import Row
from onwhen.storage.sqlite._worker import Worker

__all__ = ["SqliteStore"]

_T = TypeVar("_T")

_MOST_PARTITIONS: Final = 1 << 14  # positions have 63 bits
_MOST_KEPT: Final = 1 << 40  # accepted events, or commits, that are remembered; integers of SQLite have 63 bits


class SqliteStore:
    """Keeps everything in one file. What a call has answered is on the disk.

    Args:
        path: name of the file.
        partitions: how many there are (a count).
        dedup_window: how many accepted events are remembered (a count); None for as many as before.
        history: how many commits are kept (a count).
        explanations: how many explanations each partition keeps (a count).
        synchronous: how surely a commit is on the disk.
        read_only: write nothing; see `create_sqlite_storage`, which makes it, for all of these.

    Raises:
        SettingError: an argument is out of range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        partitions: int = 1,
        dedup_window: int | None = None,
        history: int = 0,
        explanations: int = 1_000,
        synchronous: Synchronous = "FULL",
        read_only: bool = False,
    ) -> None:
        kept = (dedup_window or 0, history, explanations)
        if not 1 <= partitions <= _MOST_PARTITIONS or min(kept) < 0 or max(kept) > _MOST_KEPT:
            raise SettingError(
                f"partitions={partitions} must be 1 to {_MOST_PARTITIONS}, dedup_window={dedup_window}, "
                f"history={history} and explanations={explanations} at least 0 and at most {_MOST_KEPT:,}",
                settings=("partitions", "dedup_window", "history", "explanations"),
            )
        if synchronous not in ("FULL", "NORMAL"):
            raise SettingError(f"synchronous={synchronous!r} must be FULL or NORMAL", settings=("synchronous",))
        name = os.fspath(path)
        if not isinstance(name, str) or not name or "\0" in name or name == ":memory:":
            raise SettingError(
                f"path={path!r} is no name of a file; for a store in memory use create_memory_storage()",
                settings=("path",),
            )
        self.path = os.path.realpath(name)  # one file, one lock, by whatever name it is opened
        self._partitions = partitions
        self._history = history
        self._explanations = explanations
        self._read_only = read_only
        self._make = partial(
            Database,
            self.path,
            partitions=partitions,
            window=dedup_window,
            history=history,
            explanations=explanations,
            synchronous=synchronous,
            read_only=read_only,
        )
        self._clock: Clock = SystemClock()
        self._worker: Worker | None = None
        self._last: Worker | None = None
        self._is_told = False
        self._finalizer: weakref.finalize[[], SqliteStore] | None = None

    @property
    def partitions(self) -> int:
        """How many partitions there are."""
        return self._partitions

    @property
    def volatile(self) -> bool:
        """What was answered outlives the process."""
        return False

    # -- life

    async def open(self, clock: Clock) -> bool:
        """Open the file, or make it; see `Store.open`.

        Raises:
            StoreInUse: somebody else has it open for writing.
            StoreCorrupt: it is damaged, cut short or empty.
            StoreFormatError: it is no store of onwhen, of a newer version, or made for other `partitions`.
            StoreError: it cannot be opened for another reason.
        """
        self._clock = clock
        if (worker := self._worker) is not None and worker.is_over:
            self._forget(worker)  # its thread has stayed in the process that this one was forked from
        await self._let_go()
        worker = self._worker
        if worker is None:
            worker = self._worker = Worker(self.path, self._make)
            self._is_told = False
            self._finalizer = weakref.finalize(self, worker.abandon)
            worker.start()
        try:
            was_closed, self._partitions = await asyncio.wrap_future(worker.opened)
        except StoreError:
            self._forget(worker)
            raise
        was_closed, self._is_told = was_closed and not self._is_told, True
        return was_closed

    async def close(self) -> None:
        """Do what was asked, and let go of the file; see `Store.close`."""
        if (worker := self._worker) is not None:
            self._forget(worker)
            worker.end(cleanly=True)
        await self._let_go()

    def _forget(self, worker: Worker) -> None:
        if self._worker is worker:
            self._worker, self._last = None, worker
            if self._finalizer is not None:
                self._finalizer.detach()

    async def _let_go(self) -> None:
        """Wait until what was closed is closed."""
        if (last := self._last) is not None:
            await asyncio.wrap_future(last.ended)
            self._last = None

    def _ask(self, run: Callable[[Database], _T]) -> asyncio.Future[_T]:
        return self._open_worker().ask(run, writes=False)

    def _open_worker(self) -> Worker:
        if self._worker is None:
            raise StoreError(f"{self.path}: the store is not open; a bus opens it, or `await store.open(clock)`")
        return self._worker

    def _check(self, partition: int) -> None:
        if not 0 <= partition < self._partitions:
            raise StoreError(f"{self.path}: there is no partition {partition}, only 0 to {self._partitions - 1}")

    def _write(self, prepare: Callable[[int], Callable[[Database], _T]]) -> asyncio.Future[_T]:
        """Have something written.

        Args:
            prepare: called with the moment, in microseconds since the epoch; returns what is to be done.
        """
        worker = self._open_worker()
        if self._read_only:
            raise StoreError(f"{self.path}: opened with read_only=True; nothing can be written through it")
        try:
            run = prepare(_encoding.micros(self._clock.now()))
        except Exception as exc:
            raise translated(exc, self.path) from exc
        return worker.ask(run, writes=True)

    def _read(self, record_of: Callable[[Row], _T], rows: Iterable[Row]) -> list[_T]:
        try:
            return [record_of(row) for row in rows]
        except (ValueError, TypeError) as exc:
            raise StoreCorrupt(
                f"{self.path}: what is stored cannot be read ({exc}). It is left as it is; restore it from a copy"
            ) from exc

    async def _all(
        self, page: Callable[[Database, Row | None], list[Row]], record_of: Callable[[Row], _T]
    ) -> AsyncIterator[_T]:
        last: Row | None = None
        while rows := await self._ask(partial(_page, page, last)):
            last = rows[-1]
            for record in self._read(record_of, rows):
                yield record

    # -- the log

    async def append(
        self, partition: int, events: Sequence[Event], bookmarks: Mapping[str, str] | None = None
    ) -> Sequence[Accepted]:
        """Accept events; see `Store.append`."""
        self._check(partition)

        def prepare(now: int) -> Callable[[Database], list[Accepted]]:
            rows = [(event.id, event.source, _encoding.text_of(event)) for event in events]
            return lambda database: _log.append(database, partition, rows, now, bookmarks or {})

        return await self._write(prepare)

    async def bookmark(self, partition: int, name: str) -> str | None:
        """Return how far a source was read; see `Store.bookmark`."""
        self._check(partition)
        return await self._ask(lambda database: _log.bookmark(database, partition, name))

    async def starting(self, partition: int, starts: Mapping[Position | RetryKey, int]) -> None:
        """Note how often handling has begun; see `Store.starting`."""
        self._check(partition)
        noted = dict(starts)
        await self._write(lambda _: lambda database: _log.starting(database, partition, noted))

    async def read(self, partition: int, after: Position | None, limit: int) -> Sequence[LogEntry]:
        """Return pending events; see `Store.read`."""
        self._check(partition)
        rows = await self._ask(lambda database: _listing.pending(database, partition, after, limit))
        return self._read(_rows.entry_of, rows)

    async def promote(self, partition: int, after: Position | None) -> Promoted:
        """Move due timers to the log; see `Store.promote`."""
        self._check(partition)
        rows, due, elsewhere = await self._write(
            lambda now: lambda database: _log.promote(database, partition, after, now)
        )
        return Promoted(self._read(_rows.entry_of, rows), None if due is None else _encoding.moment(due), elsewhere)

    # -- subjects, and the commit of a turn

    async def load(self, subject: str) -> SubjectRecord:
        """Return a subject; see `Store.load`."""
        rows = await self._ask(lambda database: _listing.load(database, subject))
        for record in _rows.records_of(rows):
            return record
        return SubjectRecord(name=subject, properties={}, ext={})

    async def commit(self, commit: Commit) -> CommitResult:
        """Store one turn's effects; see `Store.commit`."""
        self._check(commit.partition)

        def prepare(now: int) -> Callable[[Database], CommitResult]:
            prepared = _commits.prepare(
                commit, now, with_history=self._history > 0, with_explanation=self._explanations > 0
            )
            return lambda database: _commits.store(database, prepared)

        return await self._write(prepare)

    async def subjects(self, prefix: str = "") -> AsyncIterator[SubjectRecord]:
        """Go through the stored subjects; see `Store.subjects`."""
        last: Row | None = None
        while rows := await self._ask(partial(_listing.subjects_page, prefix=prefix, after=last)):
            last = rows[-1]
            for record in _rows.records_of(rows):
                yield record

    # -- timers, retries, dead letters, the past, cells, and counts

    def timers(self, subject: str | None = None) -> AsyncIterator[Timer]:
        """Go through the timers; see `Store.timers`."""
        return self._all(lambda database, last: _listing.timers_page(database, subject, last), _rows.timer_of)

    def retries(self, partition: int) -> AsyncIterator[Retry]:
        """Go through the waiting retries; see `Store.retries`."""
        self._check(partition)
        return self._all(lambda database, last: _listing.retries_page(database, partition, last), _rows.retry_of)

    def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """Go through the dead letters; see `Store.dead_letters`."""
        return self._all(_listing.dead_page, _rows.dead_letter_of)

    async def dead_letter(self, id: str) -> DeadLetter | None:
        """Return a dead letter; see `Store.dead_letter`."""
        row = await self._ask(lambda database: _listing.dead_letter(database, id))
        return None if row is None else self._read(_rows.dead_letter_of, [row])[0]

    async def discard(self, dead_letter: str) -> bool:
        """Remove a dead letter; see `Store.discard`."""
        return await self._write(lambda _: lambda database: _listing.discard(database, dead_letter))

    def history(self, subject: str) -> AsyncIterator[HistoryEntry]:
        """Go through what was done to a subject; see `Store.history`."""
        return self._all(lambda database, last: _listing.history_page(database, subject, last), _rows.history_of)

    def explanations(self, *, correlation: str | None = None, subject: str | None = None) -> AsyncIterator[Explanation]:
        """Go through the explanations; see `Store.explanations`."""
        return self._all(
            lambda database, last: _listing.explanations_page(database, correlation, subject, last),
            _rows.explanation_of,
        )

    async def exchange(self, key: str, expected: bytes | None, new: bytes | None, ttl: float) -> Cell:
        """Put a value in the place of another one; see `Store.exchange`."""
        name, time = checked(key, expected, new, ttl)

        def prepare(now: int) -> Callable[[Database], Cell]:
            at = _encoding.moment(now)
            return lambda database: Cell(_cells.exchange(database, name, expected, new, now, time), at)

        return await self._write(prepare)

    async def stats(self) -> StoreStats:
        """Return how much is kept; see `Store.stats`."""
        return _rows.stats_of(await self._ask(_listing.counts))

    def __repr__(self) -> str:
        return f"<SqliteStore {self.path}>"


def _page(page: Callable[[Database, Row | None], list[Row]], last: Row | None, database: Database) -> list[Row]:
    return page(database, last)
