"""The store in one SQLite file without its thread: every operation is done, and stored, when it is asked for.

Belongs here: what it takes to have the real operations, on a real file, in simulated time. It must not know of faults.
A process that is killed leaves the file as it is, and the next one opens it anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from onwhen.engine.clock import Clock
from onwhen.storage.sqlite._database import Database
from onwhen.storage.sqlite._store import SqliteStore
from onwhen.storage.sqlite._worker import _Failed, _together

__all__ = ["InlineSqliteStore"]

_T = TypeVar("_T")


class _Inline:
    """What stands in for the thread: it does each job at once, in a transaction of its own."""

    is_over = False

    def __init__(self, database: Database) -> None:
        self.database = database

    async def ask(self, run: Callable[[Database], _T], *, writes: bool) -> _T:
        try:
            (answer,) = _together(self.database, [_Job(run, writes)])
        except _Failed as failed:
            raise failed.error from failed
        result: _T = answer
        return result


class _Job:
    def __init__(self, run: Callable[[Database], Any], writes: bool) -> None:
        self.run = run
        self.writes = writes


class InlineSqliteStore(SqliteStore):
    """The store, its calls never suspend."""

    async def open(self, clock: Clock) -> bool:
        """Open the file; see `Store.open`."""
        self._clock = clock
        if self._worker is not None:
            return False  # it is the same process that asks again, because the answer was lost
        worker: Any = _Inline(self._make())
        self._worker = worker
        return worker.database.was_closed  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Let go of the file in good order."""
        self._end(cleanly=True)

    def crash(self) -> None:
        """Let go of the file as a process does that is killed."""
        self._end(cleanly=False)

    def _end(self, *, cleanly: bool) -> None:
        worker: Any = self._worker
        self._worker = None
        if worker is not None:
            worker.database.close(cleanly=cleanly)
