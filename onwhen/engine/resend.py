"""Asking a store again: how long to wait after an error, and what a commit has come to whose answer was lost.

Belongs here: what the engine does about `StoreError`, which never says whether the effect took place. It must
not know what a commit is about, nor who waits for it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar

from onwhen.engine.endings import ends_the_loop
from onwhen.engine.events import Event
from onwhen.engine.partitions import partition_of
from onwhen.engine.store import Answer, Commit, CommitResult, LogEntry, Position, Store
from onwhen.errors import StoreError, StoreFull

__all__ = ["GoesOn", "Undisturbed", "a_few_times", "commit_surely", "insist", "pause", "positions", "read_all"]

_T = TypeVar("_T")

GoesOn: TypeAlias = Callable[[int, StoreError], bool]
"""Asked after each failure, with how often it was tried (a count) and the error, whether to try again."""

_READ_BATCH: Final = 1000  # log entries that are asked for at once (a count)
_TRIES: Final = 5  # how often a store is asked on behalf of somebody who waits for the answer (a count)
_MAX_CANCELS: Final = 10  # while one call is under way
_PATIENCE: Final = 30.0  # seconds that a call may take on after that, until its outcome is left unknown
_PAUSES: Final = (0.02, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds, each halved or more by chance


async def pause(tries: int) -> None:
    """Wait before a store is asked again.

    Args:
        tries: how often it was asked so far (a count).
    """
    longest = _PAUSES[min(tries, len(_PAUSES)) - 1]
    await asyncio.sleep(longest * random.uniform(0.5, 1))  # engines whose store comes back do not all ask at once


def a_few_times(tries: int, error: StoreError) -> bool:
    """Go on asking for as long as is fair to somebody who waits."""
    return tries < _TRIES


class Undisturbed(Generic[_T]):
    """A call to a store that is awaited to its end, whoever is cancelled meanwhile: only its answer says what it did.

    Args:
        call: what is awaited.

    Attributes:
        cancels: how often whoever waits was cancelled (a count). It has no other effect, unless it goes on and on, or
            the store does not answer for half a minute after that.
    """

    __slots__ = ("_call", "_until", "cancels")

    def __init__(self, call: Awaitable[_T]) -> None:
        self._call = call
        self._until = 0.0
        self.cancels = 0

    def __await__(self) -> Generator[Any, Any, _T]:
        steps = self._call.__await__()
        value: Any = None
        while True:
            try:
                waits_for = steps.send(value)
            except StopIteration as end:
                result: _T = end.value
                return result
            value = None
            if asyncio.isfuture(waits_for):
                waits_for._asyncio_future_blocking = False  # it is not what the task itself waits for
                while not waits_for.done():
                    yield from self._wait(waits_for)
            else:
                value = yield from self._step_aside(waits_for)

    def _wait(self, future: asyncio.Future[Any]) -> Generator[Any, Any, None]:
        try:
            if not self.cancels:
                yield from asyncio.shield(future).__await__()
                return
            patience = self._until - future.get_loop().time()
            yield from asyncio.wait((future,), timeout=patience).__await__()
        except asyncio.CancelledError:
            self._note_cancel(future.get_loop())
        except Exception:
            return  # it is the call's to raise
        if self.cancels and not future.done() and future.get_loop().time() >= self._until:
            raise asyncio.CancelledError("the store has not answered")

    def _step_aside(self, waits_for: Any) -> Generator[Any, Any, Any]:
        try:
            return (yield waits_for)
        except asyncio.CancelledError:
            self._note_cancel(asyncio.get_running_loop())
            return None

    def _note_cancel(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self.cancels:
            self._until = loop.time() + _PATIENCE
        self.cancels += 1
        if self.cancels > _MAX_CANCELS:
            raise asyncio.CancelledError("cancelled again and again")


async def insist(call: Callable[[], Awaitable[_T]], goes_on: GoesOn) -> _T:
    """Ask a store until it answers; for what may be asked twice. A call that is under way is not cancelled.

    Args:
        call: asks it.
        goes_on: whether to try again.

    Raises:
        StoreError: it did not answer, and nobody goes on.
    """
    tries = 0
    while True:
        asked = Undisturbed(call())
        try:
            return await asked
        except StoreError as error:
            tries += 1
            if asked.cancels or not goes_on(tries, error):
                raise
            await pause(tries)


async def commit_surely(
    store: Store,
    commit: Commit,
    goes_on: GoesOn,
    refused: Callable[[], None] | None = None,
    *,
    looks_up: bool = True,
) -> tuple[CommitResult, bool]:
    """Commit, and find out whether it was stored, however often the answer is lost.

    Being cancelled does not stop this: a turn of which nobody knows whether it is stored cannot be followed up. What
    was cancelled on its way is asked for again, undisturbed.

    Args:
        store: where to.
        commit: what is stored; sent unchanged each time.
        goes_on: whether to try again.
        refused: called when it is certain that nothing was stored, before it is tried again.
        looks_up: whoever asks has to know where its messages stand in the log.

    Returns:
        The answer, and whether it was had at the first try. If it was not, and the commit is stored, its messages
        were looked up in the log, if that was asked for, and the version is not known: others may have committed since.

    Raises:
        StoreError: it is not known whether the commit is stored.
    """
    tries = 0
    is_certain, is_cancelled = True, False
    while True:
        asked = store.commit(commit)  # each costs a tenth of a turn more undisturbed, and hardly one is ever cancelled
        try:
            result = await (Undisturbed(asked) if is_cancelled else asked)
            if tries and result.answer is Answer.DONE:
                # There is only one who asked: what was done is what was asked for before.
                found = Undisturbed(_appended(store, commit, is_cancelled)) if looks_up else _unknown(commit)
                result = CommitResult(Answer.OK, None, await found)
        except asyncio.CancelledError:
            if is_cancelled:
                raise
            tries, is_certain, is_cancelled = tries + 1, False, True
        except StoreError as error:
            tries += 1
            is_certain &= isinstance(error, StoreFull)
            if is_cancelled or not goes_on(tries, error):
                raise
            if is_certain and refused is not None:
                refused()
            await pause(tries)
        else:
            return result, not tries


async def _appended(store: Store, commit: Commit, is_cancelled: bool) -> Sequence[Position | None]:
    """Find the messages of a commit; but not for a loop that ends, and all that was in flight on it."""
    if is_cancelled and ends_the_loop(asyncio.get_running_loop()):
        return [None] * len(commit.messages)
    return await positions(store, commit.messages, commit.partition, commit.handled)


async def _unknown(commit: Commit) -> Sequence[Position | None]:
    return [None] * len(commit.messages)


async def positions(
    store: Store, events: Sequence[Event], partition: int = -1, after: Position | None = None
) -> list[Position | None]:
    """Find events in the log; those that are not there, or handled already, have no position.

    Args:
        store: whose log.
        events: what to look for.
        partition: of one partition it is known that they stand behind `after`.
        after: a position in that partition's log.
    """
    wanted = {(event.source, event.id) for event in events}
    found: dict[tuple[str, str], Position] = {}
    for number in {partition_of(event.subject, store.partitions) for event in events}:
        async for entry in read_all(store, number, after if number == partition else None):
            if (key := (entry.event.source, entry.event.id)) in wanted:
                found[key] = entry.position
                if len(found) == len(wanted):
                    break
    return [found.get((event.source, event.id)) for event in events]


async def read_all(store: Store, partition: int, after: Position | None = None) -> AsyncIterator[LogEntry]:
    """Go through all pending events of a partition, oldest first; or those that stand behind a position."""
    entries = await store.read(partition, after, _READ_BATCH)
    while entries:
        for entry in entries:
            yield entry
        entries = await store.read(partition, entries[-1].position, _READ_BATCH)
