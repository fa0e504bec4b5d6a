"""What a store holds when it is opened, and how to go on if the process before was killed.

Belongs here: reading what is pending, and who of it is suspected of having killed the process. It must not know
how work is done.

Only the first pending event of a subject, and retries that are due, can have been at work when the process ended.
After the first such end all of these go on as usual, but it is noted that they have begun. What is still there after
the next one has begun at least twice: from then on such suspects are handled before all else, one by one, and each
beginning is noted before it happens. So whatever kills the process every time is found, and what only stood beside it
is handled. The price is paid by suspects of a second crash in a row, and by nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Final, TypeAlias

import msgspec

from onwhen.engine.clock import Clock, VirtualClock
from onwhen.engine.partitions import partition_of
from onwhen.engine.resend import a_few_times, insist, read_all
from onwhen.engine.store import LogEntry, Position, Retry, RetryKey, Store
from onwhen.engine.work import Work
from onwhen.errors import PoisonEvent

__all__ = ["Held", "Suspects", "read_begun", "read_held"]

_IN_LINE: Final = 2  # events of a subject that an owner may be sure to have had in memory (a count)
_MAX_STARTS: Final = 3  # after so many, an event that is still there has killed the process each time (a count)

_Starts: TypeAlias = "Mapping[Position | RetryKey, int]"


class Held(msgspec.Struct, kw_only=True):
    """What a store holds of one partition.

    Attributes:
        partition: its number.
        retries: waiting and parked ones, earliest due first.
        pending: events that are not handled yet, oldest first.
        suspected: what had begun when two processes in a row were killed -> how often it will have begun when it does
            so now.
    """

    partition: int
    retries: list[Retry]
    pending: list[LogEntry]
    suspected: _Starts = {}


async def read_held(store: Store, clock: Clock) -> list[Held]:
    """Read what a store holds of each partition.

    A virtual clock is moved on to when the latest of what is pending was accepted: time does not run back.
    """
    found = []
    for partition in range(store.partitions):
        retries = [retry async for retry in store.retries(partition)]
        pending = [entry async for entry in read_all(store, partition)]
        found.append(Held(partition=partition, retries=retries, pending=pending))
    if isinstance(clock, VirtualClock):
        for held in found:
            for entry in held.pending:
                clock.move_to(entry.accepted)
    return found


async def read_begun(store: Store, partition: int, most: int) -> Held:
    """Read what can have been at work when the owner of a partition was killed, and not much more.

    An owner reads its log ahead, past subjects that wait and long lines of others, until it has so much in memory.

    Args:
        store: where it is.
        partition: which.
        most: how many events an owner has in memory at most (a count).

    Returns:
        All retries, and the first pending event of each subject of which there can have been a turn.
    """
    retries = [retry async for retry in store.retries(partition)]
    passed = {retry.subject for retry in retries if retry.in_order}
    lines: dict[str, int] = {}
    pending = []
    async for entry in read_all(store, partition):
        subject = entry.event.subject
        if most <= 0:
            break
        if subject in passed:
            continue
        if subject not in lines:
            pending.append(entry)
        lines[subject] = line = lines.get(subject, 0) + 1
        most -= line <= _IN_LINE
    return Held(partition=partition, retries=retries, pending=pending)


def may_have_run(held: Held, now: datetime) -> _Starts:
    """Return what can have been at work when a process was killed, and how often it was noted to begin so far."""
    found: dict[Position | RetryKey, int] = {}
    passed = set()  # subjects of which no later event can have been
    for retry in held.retries:
        if retry.in_order:
            passed.add(retry.subject)
        if retry.due <= now and not retry.parked:
            found[retry.key] = retry.starts
    for entry in held.pending:
        if entry.event.subject not in passed:
            passed.add(entry.event.subject)
            found[entry.position] = entry.starts
    return found


class Suspects:
    """Sees to it that what may have killed the process is handled alone.

    Args:
        store: where beginnings are noted.
        one_by_one: called with True when turns are to be run one by one from now on, and with False when not any more.
    """

    def __init__(self, store: Store, one_by_one: Callable[[bool], None]) -> None:
        self._store = store
        self._one_by_one = one_by_one
        self._count = 0

    async def find(self, held: Sequence[Held], now: datetime) -> None:
        """Note in each `Held` what is suspected, and in the store what begins after a crash for the first time.

        Raises:
            StoreError: the store does not answer.
        """
        for one in held:
            begun = may_have_run(one, now)
            one.suspected = {which: starts + 1 for which, starts in begun.items() if starts}
            first = {which: 1 for which, starts in begun.items() if not starts}
            if first:
                await insist(partial(self._store.starting, one.partition, first), a_few_times)

    def enter(self, works: Sequence[Work]) -> None:
        """Count work on suspects that is about to be started."""
        self._count += len(works)
        if works:
            self._one_by_one(True)

    async def begin(self, work: Work, starts: int) -> PoisonEvent | None:
        """Note that the handling of a suspect begins; if it has begun too often already, return why it must not.

        Raises:
            StoreError: the store does not answer.
        """
        if starts > _MAX_STARTS:
            return PoisonEvent(
                f"{work.event.type} to {work.event.subject}: after a crash its handling was to begin again "
                f"{starts - 1} times, and each time the process ended before it was done; see what its rules do "
                f"(memory, native code, a signal), mend that, and replay this dead letter"
            )
        which = work.retry.key if work.retry is not None else work.position
        assert which is not None
        await self._store.starting(partition_of(work.event.subject, self._store.partitions), {which: starts})
        return None

    def leave(self, work: Work) -> None:
        """Count work on a suspect out; it is done, or will be done again."""
        work.starts = None
        self._count -= 1
        if not self._count:
            self._one_by_one(False)
