"""Asking a store again: how long to wait after an error, and what a commit has come to whose answer was lost.

Belongs here: what the engine does about `StoreError`, which never says whether the effect took place. It must
not know what a commit is about, nor who waits for it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeAlias, TypeVar

from onwhen.engine.events import Event
from onwhen.engine.partitions import partition_of
from onwhen.engine.store import Answer, Commit, CommitResult, LogEntry, Position, Store
from onwhen.errors import StoreError

__all__ = ["TRIES", "GoesOn", "a_few_times", "commit_surely", "insist", "pause", "positions", "read_all"]

_T = TypeVar("_T")

GoesOn: TypeAlias = Callable[[int, StoreError], bool]
"""Asked after each failure, with how often it was tried (a count) and the error, whether to try again."""

_READ_BATCH: Final = 1000  # log entries that are asked for at once (a count)
TRIES: Final = 5  # how often a store is asked on behalf of somebody who waits for the answer (a count)
_MAX_CANCELS: Final = 10  # of one commit that is in flight
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
    return tries < TRIES


async def insist(call: Callable[[], Awaitable[_T]], goes_on: GoesOn) -> _T:
    """Ask a store until it answers; for what may be asked twice.

    Args:
        call: asks it.
        goes_on: whether to try again.

    Raises:
        StoreError: it did not answer, and nobody goes on.
    """
    tries = 0
    while True:
        try:
            return await call()
        except StoreError as error:
            tries += 1
            if not goes_on(tries, error):
                raise
            await pause(tries)


async def commit_surely(store: Store, commit: Commit, goes_on: GoesOn) -> tuple[CommitResult, bool]:
    """Commit, and find out whether it was stored, however often the answer is lost.

    Being cancelled does not stop this: a turn of which nobody knows whether it is stored cannot be followed up. The
    answer is asked for once more, and then returned; only who is cancelled again and again is let go.

    Args:
        store: where to.
        commit: what is stored; sent unchanged each time.
        goes_on: whether to try again.

    Returns:
        The answer, and whether it was had at the first try. If it was not, and the commit is stored, its messages
        were looked up in the log, and the version is not known: others may have committed since.

    Raises:
        StoreError: it is not known whether the commit is stored.
    """
    tries = 0
    cancels, failed = 0, False
    while True:
        try:
            if failed:
                failed = False
                await pause(tries)
            result = await store.commit(commit)
            if tries and result.answer is Answer.DONE:
                # There is only one who asked: what was done is what was asked for before.
                result = CommitResult(Answer.OK, None, await positions(store, commit.messages))
        except asyncio.CancelledError:
            tries, cancels = tries + 1, cancels + 1
            if cancels > _MAX_CANCELS:
                raise
        except StoreError as error:
            tries, failed = tries + 1, True
            if not goes_on(tries, error):
                raise
        else:
            return result, not tries


async def positions(store: Store, events: Sequence[Event]) -> list[Position | None]:
    """Find events in the log; those that are not there, or handled already, have no position."""
    wanted = {(event.source, event.id) for event in events}
    found: dict[tuple[str, str], Position] = {}
    for partition in {partition_of(event.subject, store.partitions) for event in events}:
        async for entry in read_all(store, partition):
            if (key := (entry.event.source, entry.event.id)) in wanted:
                found[key] = entry.position
    return [found.get((event.source, event.id)) for event in events]


async def read_all(store: Store, partition: int) -> AsyncIterator[LogEntry]:
    """Go through all pending events of a partition, oldest first."""
    entries = await store.read(partition, None, _READ_BATCH)
    while entries:
        for entry in entries:
            yield entry
        entries = await store.read(partition, entries[-1].position, _READ_BATCH)
