"""The one connection that writes: its transactions, the numbers it gives out, and its checkpoints.

Belongs here: what all operations share. It must not know what any of them does, nor of threads: everything in here is
called on the thread that has made it.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from typing import Final

from onwhen.errors import StoreCorrupt, StoreFormatError
from onwhen.storage.sqlite import _files
from onwhen.storage.sqlite._lock import OwnerLock
from onwhen.storage.sqlite._schema import bring_up

__all__ = ["Database"]

_RESERVED: Final = 4096  # numbers that are set aside at once, so that not every commit has to store the last one
_PAGE: Final = 4096  # bytes
_IDLE_PAGES: Final = 256  # of the write-ahead log; with more, it is copied into the file when there is nothing to do
_MOST_PAGES: Final = 4096  # with more, it is copied even if others have to wait for that
_FRAME: Final = _PAGE + 24  # bytes of a page in the write-ahead log
_FEWEST: Final = 3  # pages that a transaction writes at the least: of a table, of an index, and of another table
_LOOK_EVERY: Final = 64  # transactions, after which the size of the write-ahead log is looked at
_NOT_COMMITTED: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE})
_CLOSE_WAIT: Final = 1000  # milliseconds that readers of the file may hold up its last checkpoint


class Database:
    """A file, open for writing or for reading.

    Args:
        path: the file; it is made if it is not there, unless `read_only`.
        partitions: how many partitions there are; with `read_only`, those of the file count.
        window: how many accepted events are remembered (a count); None for as many as before.
        history: how many commits are kept (a count).
        explanations: how many explanations each partition keeps (a count).
        synchronous: how surely a commit is on the disk when it is answered.
        read_only: nothing is written, not even that it was opened.

    Raises:
        StoreError: it cannot be opened.
        sqlite3.Error: for other reasons.
        OSError: for other reasons.
    """

    def __init__(
        self,
        path: str,
        *,
        partitions: int,
        window: int | None,
        history: int,
        explanations: int,
        synchronous: _files.Synchronous,
        read_only: bool = False,
    ) -> None:
        self.path = path
        self.partitions = partitions
        self.window = window or 0
        self.history = history
        self.explanations = explanations
        self.read_only = read_only
        self.last_accepted = 0  # of the table `accepted`; without gaps, so that the window is a range
        self.last_history = 0
        self.last_explained: dict[int, int] = {}  # the same of each partition, where that is known
        self._tidied = 0  # up to which of the accepted those are gone that the window does not hold any more
        self._number = 0
        self._reserved = 0
        self._is_known = False  # whether the four numbers above are those of the file
        self.is_unsure = False  # a commit has failed that may be stored for who opens the file next
        self._work = 0.0  # rows and pages that were written and are not copied by a checkpoint
        self._ratio = 1.0  # pages in the write-ahead log for each of these, as it was the last time
        self._fewest = 0  # pages that are there at the least
        self._most = _MOST_PAGES  # with more, there is a checkpoint even if others have to wait
        self._most_bytes = _files.KEPT_WAL  # the same, for the size of the write-ahead log
        self._unlooked = 0  # transactions since that was looked at
        self._is_long = False  # as it was then
        self._changes = 0
        if not read_only:
            _files.check_directory(path)
            _files.check_writable(path)
        self._lock = None if read_only else OwnerLock(path)
        try:
            if not read_only and not os.path.lexists(path):
                _files.make(path, partitions)
            _files.check(path)
            if not read_only:
                # One that could write would, when it is closed, copy the log into a file that is damaged perhaps.
                with closing(_files.connect(path, read_only=True)) as connection:
                    self._examine(connection)
            self._connection = _files.connect(path, read_only=read_only)
        except BaseException:
            self._release()
            raise
        self.execute = self._connection.execute
        self.executemany = self._connection.executemany
        try:
            if read_only:
                self.partitions, self.was_closed = self._examine(self._connection)
            else:
                self.was_closed = self._open(synchronous, window)
        except BaseException:
            self._connection.close()
            self._release()
            raise

    def _examine(self, connection: sqlite3.Connection) -> tuple[int, bool]:
        """Refuse a file that cannot be used; return its partitions, and whether it was closed."""
        _files.verify(connection, self.path, read_only=self.read_only)
        row = connection.execute("SELECT partitions, is_open FROM meta").fetchone()
        if row is None:
            raise StoreCorrupt(f"{self.path}: what describes it is missing. Restore it from a copy")
        partitions, is_open = row
        if self.read_only:
            return partitions, not is_open
        if partitions != self.partitions:
            raise StoreFormatError(
                f"{self.path}: made for partitions={partitions}, not {self.partitions}; that cannot be changed later"
            )
        if is_open:  # all of it is read once, because the last one to write to it did not get to close it
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise StoreCorrupt(
                    f"{self.path}: damaged ({' '.join(found.split())}). It is left as it is; restore it from a copy"
                )
        return partitions, not is_open

    def _open(self, synchronous: _files.Synchronous, window: int | None) -> bool:
        _files.set_up(self._connection, self.path, synchronous)
        bring_up(self._connection)
        stored, was_closed = self.execute("SELECT dedup_window, NOT is_open FROM meta").fetchone()
        self.window = stored if window is None else window
        self.execute("UPDATE meta SET is_open = 1, dedup_window = ?", (self.window,))
        self.checkpoint()
        return bool(was_closed)

    # -- transactions

    def begin(self, *, writes: bool) -> None:
        """Begin to write, or else to read what is stored at one moment; nobody but us writes to our own."""
        if self.is_unsure:
            self._make_sure()
        if writes:
            self.execute("BEGIN IMMEDIATE")
            if not self._is_known:
                self._read_numbers()
        elif self.read_only:
            self.execute("BEGIN")

    def commit(self) -> None:
        """Have all of it stored; when this returns it is, and if it fails it is not, or else we are `is_unsure`."""
        if not self._connection.in_transaction:
            return
        if self.last_accepted > self._tidied:
            self._tidied = self.last_accepted
            self.execute("DELETE FROM accepted WHERE n <= ?", (self.last_accepted - self.window,))
        self._end("COMMIT")
        changes = self._connection.total_changes
        self._work += 1 + changes - self._changes
        self._changes = changes
        self._fewest += _FEWEST
        self._unlooked += 1
        if self._unlooked >= _LOOK_EVERY:
            self._unlooked = 0
            self._is_long = self._size() > self._most_bytes

    def _end(self, statement: str) -> None:
        try:
            self.execute(statement)
        except BaseException as error:
            # Written without fault up to its end, and then not synced or not entered into the index of the log, it is
            # undone here, but whole for whoever reads the log anew after a crash.
            self.is_unsure |= getattr(error, "sqlite_errorcode", None) not in _NOT_COMMITTED
            raise

    def _make_sure(self) -> None:
        """Write over the end of the log, so that what was answered with an error does not come back after a crash.

        Until then it may or may not be stored, and nothing can be answered that depends on it.
        """
        try:
            self.execute("BEGIN IMMEDIATE")
            # A number is given up, because SQLite does not write a row that stays as it is.
            self.execute("UPDATE meta SET reserved = reserved + 1")
            self._end("COMMIT")
        except BaseException:
            self.rollback()
            raise
        self.is_unsure = self._is_known = False

    def rollback(self) -> None:
        """Have nothing of it stored."""
        self._is_known = False
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):  # SQLite has done it already, after some errors
                self.execute("ROLLBACK")

    def _read_numbers(self) -> None:
        (reserved,) = self.execute("SELECT reserved FROM meta").fetchone()
        self._number = self._reserved = reserved  # of those below, some may have been given out
        (self.last_accepted,) = self.execute("SELECT coalesce(max(n), 0) FROM accepted").fetchone()
        (self.last_history,) = self.execute("SELECT coalesce(max(n), 0) FROM history").fetchone()
        self.last_explained.clear()
        self._is_known = True

    def number(self) -> int:
        """Return a number that is greater than all before it, also of earlier processes; within a transaction."""
        if self._number >= self._reserved:
            self._reserved = self._number + _RESERVED
            self.execute("UPDATE meta SET reserved = ?", (self._reserved,))
        self._number += 1
        return self._number

    def wrote(self, bytes: int) -> None:
        """Note that something large was written."""
        self._work += bytes / _PAGE

    # -- checkpoints

    @property
    def is_grown(self) -> bool:
        """Whether the write-ahead log is worth a checkpoint when there is nothing else to do."""
        return self._pages > _IDLE_PAGES

    @property
    def is_large(self) -> bool:
        """Whether the write-ahead log has to be copied now."""
        return self._is_long or self._pages > self._most

    @property
    def _pages(self) -> float:
        return max(self._work * self._ratio, self._fewest)

    def _size(self) -> int:
        """Return the size of the write-ahead log; it is not less than what is in it that was not copied."""
        try:
            return os.stat(f"{self.path}-wal").st_size
        except OSError:
            return 0

    def checkpoint(self, mode: str = "PASSIVE") -> None:
        """Copy the write-ahead log into the file, as far as readers let us; the next commit begins it anew.

        A failure loses nothing: what is in the log is stored, and copied another time.
        """
        self._is_long = False
        try:
            _, pages, copied = self.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except sqlite3.Error:
            self._work /= 2
            self._fewest //= 2
            return
        left = pages - copied
        if left <= 0 < pages and self._work:
            self._ratio = min(max(pages / self._work, 1 / 64), 4.0)
        # What a reader holds back is still to be copied. It is tried again as soon as there is as much in addition.
        self._work = max(left, 0) / self._ratio
        self._fewest = 0
        self._most = _MOST_PAGES + max(left, 0)
        size = self._size()
        self._most_bytes = _files.KEPT_WAL if size <= _files.KEPT_WAL else size + _MOST_PAGES * _FRAME

    def close(self, *, cleanly: bool) -> None:
        """Let go of the file.

        Args:
            cleanly: note that it was closed, and leave nothing beside it.
        """
        try:
            if cleanly and not self.read_only:
                with suppress(sqlite3.Error):  # all is stored; only the next one to open it will look it over
                    self.execute("UPDATE meta SET is_open = 0")
                    self.execute(f"PRAGMA busy_timeout = {_CLOSE_WAIT}")
                    self.checkpoint("TRUNCATE")
        finally:
            try:
                self._connection.close()
            finally:
                self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
