"""The thread that owns a database: it takes what is asked of it, all that is there at once, and answers.

Belongs here: group commit. What is asked meanwhile is done together, in one transaction, and answered when that is
stored; nobody is told what may yet be undone. It must not know what is asked, nor who asks.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

from onwhen.errors import StoreError, StoreFull
from onwhen.storage.sqlite._database import Database
from onwhen.storage.sqlite._failures import translated

__all__ = ["Worker"]

_T = TypeVar("_T")

_TOGETHER: Final = 1000  # what is done in one transaction (a count)
_MOMENT: Final = 0.1  # seconds with nothing to do, before that is used for a checkpoint
_EXIT_WAIT: Final = 5.0  # seconds that an interpreter waits at its end


class _Job(Generic[_T]):
    """Something to be done with the database, and who waits for it."""

    __slots__ = ("future", "loop", "run", "writes")

    def __init__(self, run: Callable[[Database], _T], writes: bool, loop: asyncio.AbstractEventLoop) -> None:
        self.run = run
        self.writes = writes
        self.loop = loop
        self.future: asyncio.Future[_T] = loop.create_future()


class _End:
    """The last thing that is asked."""

    def __init__(self, *, cleanly: bool) -> None:
        self.cleanly = cleanly


class Worker:
    """A thread with a database.

    Args:
        path: the file, for messages.
        database: opens it; called on the thread.

    Attributes:
        opened: the database's `was_closed` and `partitions`, or why there is none.
        ended: done when the file is let go of.
        is_over: nothing is done any more.
    """

    def __init__(self, path: str, database: Callable[[], Database]) -> None:
        self._path = path
        self._make = database
        self._queue: queue.SimpleQueue[_Job[Any] | _End] = queue.SimpleQueue()
        self._taken: list[_Job[Any]] = []
        self.is_over = False
        self.opened: Future[tuple[bool, int]] = Future()
        self.ended: Future[None] = Future()
        for future in (self.opened, self.ended):
            future.set_running_or_notify_cancel()  # from here on nobody who waits can cancel it for the others
        # A daemon: what is asked is stored when it is answered, so nothing is lost if nobody ends it.
        self._thread = threading.Thread(target=self._run, name=f"onwhen {path}", daemon=True)
        _WORKERS.add(self)

    def start(self) -> None:
        """Open the database; `opened` says whether that has come to pass, also if there is no thread to be had."""
        try:
            self._thread.start()
        except Exception as error:
            failure = StoreError(f"{self._path}: no thread could be started for it ({error}); end some, and try again")
            failure.__cause__ = error
            self._fail_to_open(failure)

    def ask(self, run: Callable[[Database], _T], *, writes: bool) -> asyncio.Future[_T]:
        """Have something done; the future is for what it returns, or a `StoreError` if it did not come to pass.

        Args:
            run: called on the thread; within a transaction, if it writes.
            writes: whether it does.
        """
        job = _Job(run, writes, asyncio.get_running_loop())
        self._queue.put(job)
        if self.is_over:
            self._refuse_the_rest()
        return job.future

    def end(self, *, cleanly: bool) -> None:
        """Do what was asked up to now, and let go of the file; `ended` says when that is so."""
        self._queue.put(_End(cleanly=cleanly))

    def abandon(self) -> None:
        """Let go of the file, which then counts as not closed; for a store that nobody refers to any more."""
        self.end(cleanly=False)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(_EXIT_WAIT)

    def stay_behind(self) -> None:
        """Refuse everything, because this is a copy of the worker in a process that was forked."""
        self.is_over = True
        if not self.opened.done():
            self.opened.set_exception(StoreError(f"{self._path}: this process was forked while it was being opened"))
        if not self.ended.done():
            self.ended.set_result(None)

    # -- on the thread

    def _run(self) -> None:
        try:
            database = self._make()
        except Exception as error:
            self._fail_to_open(self._failure(error))
            return
        self.opened.set_result((database.was_closed, database.partitions))
        cleanly = False
        try:
            cleanly = self._serve(database)
        finally:
            self.is_over = True
            try:
                database.close(cleanly=cleanly)
            finally:
                # Some of them are answered already, if this is the end of a thread that has failed.
                _answer(
                    self._taken, [StoreError(f"{self._path}: its thread has ended unexpectedly")] * len(self._taken)
                )
                self._refuse_the_rest()
                self.ended.set_result(None)

    def _fail_to_open(self, failure: StoreError) -> None:
        self.is_over = True
        self.opened.set_exception(failure)
        self._refuse_the_rest()
        self.ended.set_result(None)

    def _serve(self, database: Database) -> bool:
        while True:
            end = self._take(_MOMENT if database.is_grown else None)
            if self._taken:
                self._work(database, self._taken)
                self._taken = []  # nothing is kept alive while there is nothing to do
                if database.is_large:
                    database.checkpoint()
            elif end is None:
                database.checkpoint()
            if end is not None:
                return end.cleanly

    def _take(self, patience: float | None) -> _End | None:
        """Wait for something to do, and take all that is there; return the last thing, if it was asked for."""
        jobs, get = self._taken, self._queue.get
        try:
            found = get(timeout=patience)
            while True:
                if isinstance(found, _End):
                    return found
                jobs.append(found)
                if len(jobs) >= _TOGETHER:
                    break
                found = get(block=False)
        except queue.Empty:
            pass
        return None

    def _work(self, database: Database, jobs: Sequence[_Job[Any]]) -> None:
        groups = deque([jobs])
        may_make_room = True
        while groups:
            group = groups.popleft()
            try:
                answers = _together(database, group)
            except _Failed as failed:
                failure = self._failure(failed.error, is_unsure=database.is_unsure)
                if may_make_room and (isinstance(failure, StoreFull) or (failed.is_of_all and database.is_unsure)):
                    database.checkpoint()  # the write-ahead log is begun anew, in the room that it has
                    may_make_room = False
                    groups.appendleft(group)
                    continue
                if failed.is_of_all:  # none of them has begun, and none of the others would
                    group = [job for some in (group, *groups) for job in some]
                    readers = [job for job in group if not job.writes]
                    groups.clear()
                    if 0 < len(readers) < len(group):  # these need less
                        groups.append(readers)
                        group = [job for job in group if job.writes]
                    answers = [self._failure(failed.error, is_unsure=database.is_unsure) for _ in group]
                elif len(group) > 1:
                    groups.extendleft(reversed(failed.apart(group)))
                    continue
                else:
                    answers = [failure]
            _answer(group, answers)

    def _failure(self, error: Exception, *, is_unsure: bool = False) -> StoreError:
        try:
            failure = translated(error, self._path, is_unsure=is_unsure)
        except Exception:  # this thread has to go on: nobody else answers those who wait
            failure = StoreError(f"{self._path}: {error}")
        if failure is not error:
            failure.__cause__ = error
        return failure

    def _refuse_the_rest(self) -> None:
        while True:
            try:
                job = self._queue.get(block=False)
            except queue.Empty:
                return
            if isinstance(job, _Job):
                _answer([job], [StoreError(f"{self._path}: the store was closed, or opened by a parent process")])


_WORKERS: weakref.WeakSet[Worker] = weakref.WeakSet()


def _end_in_child() -> None:
    """Have a process that was forked know that the thread has stayed with its parent."""
    for worker in tuple(_WORKERS):
        worker.stay_behind()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_end_in_child)


class _Failed(Exception):
    """A transaction that came to nothing.

    Args:
        error: what was raised.
        index: which one of the jobs has raised it; None if none of them.
        is_of_all: it was not even begun.
    """

    def __init__(self, error: Exception, index: int | None, *, is_of_all: bool = False) -> None:
        self.error = error
        self.index = index
        self.is_of_all = is_of_all

    def apart(self, jobs: Sequence[_Job[Any]]) -> list[Sequence[_Job[Any]]]:
        """Return what is to be tried again by itself: the one at fault, or each, if it is that all cannot be stored."""
        if self.index is None:
            return [[job] for job in jobs]
        parts = jobs[: self.index], [jobs[self.index]], jobs[self.index + 1 :]
        return [part for part in parts if part]


def _together(database: Database, jobs: Sequence[_Job[Any]]) -> list[Any]:
    """Do several things in one transaction, and return their answers when it is stored."""
    answers: list[Any] = []
    try:
        database.begin(writes=any(job.writes for job in jobs))
    except Exception as error:
        database.rollback()
        raise _Failed(error, None, is_of_all=True) from error
    try:
        for job in jobs:
            answers.append(job.run(database))  # noqa: PERF401 - how many there are tells which one has failed
        database.commit()
    except Exception as error:
        database.rollback()
        raise _Failed(error, len(answers) if len(answers) < len(jobs) else None) from error
    return answers


def _answer(jobs: Sequence[_Job[Any]], answers: Sequence[Any]) -> None:
    loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for job, answer in zip(jobs, answers, strict=True):
        loops.setdefault(job.loop, []).append((job.future, answer))
    for loop, replies in loops.items():
        with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            loop.call_soon_threadsafe(_tell, replies)


def _tell(replies: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, answer in replies:
        if future.done():
            continue  # whoever asked was cancelled
        if isinstance(answer, StoreError):
            future.set_exception(answer)
        else:
            future.set_result(answer)
