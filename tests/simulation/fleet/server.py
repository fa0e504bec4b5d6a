"""A model of a server that several processes share, small and synchronous; and the store on it that a process sees.

Belongs here: partitions side by side, who lives, and whoever waits for work. It is as good as Redis to the engine: the
store contract and the contract of shared stores are run on it. It must not know of faults; see `connection`.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import count

from onwhen.engine.clock import Clock, SystemClock
from onwhen.engine.events import Event
from onwhen.engine.partitions import partition_of
from onwhen.engine.shared import Acquired, Delivered, Fired, Outgoing, PartitionState, Renewed, Token, WorkerState
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
    Timer,
)
from onwhen.errors import StoreError
from onwhen.storage._cells import checked
from tests.simulation.fleet.partition import Partition

__all__ = ["ModelStore", "Server"]


class Server:
    """All partitions, and what is kept besides.

    Args:
        partitions: how many there are (a count).
        clocks: of each partition's server; None to take the time from whoever opens a store on it.
        chance: what versions and positions are drawn from.
        window: how many accepted events and commits a partition remembers (a count).
        most: how many pending events a partition may have (a count).
        history: how many commits are kept to be looked at (a count).
        explanations: how many explanations a partition keeps (a count).
        keep: how many earlier states of a partition are kept to be set back to (a count).
    """

    def __init__(
        self,
        partitions: int,
        *,
        clocks: Sequence[Clock] | None = None,
        chance: random.Random | None = None,
        window: int = 10_000,
        most: int = 1 << 40,
        history: int = 0,
        explanations: int = 1_000,
        keep: int = 0,
    ) -> None:
        self.clock: Clock = SystemClock()
        numbers = count(1)
        self.partitions = [
            Partition(
                number,
                partitions,
                now=partial(self._now, number, clocks),
                chance=chance or random.Random(number),
                numbers=numbers,
                window=window,
                most=most,
                explanations=explanations,
                keep=keep,
            )
            for number in range(partitions)
        ]
        self.history: deque[HistoryEntry] = deque(maxlen=history)
        self.cells: dict[str, tuple[bytes, datetime]] = {}  # value, and when it is over
        self._workers: dict[str, tuple[str, datetime]] = {}
        self._listeners: dict[object, Callable[[], None]] = {}

    def _now(self, number: int, clocks: Sequence[Clock] | None) -> datetime:
        return (self.clock if clocks is None else clocks[number]).now()

    def use(self, clock: Clock) -> None:
        """Take the time from a clock, if no other was given."""
        self.clock = clock

    def of(self, subject: str) -> Partition:
        """Return the partition of a subject."""
        return self.partitions[partition_of(subject, len(self.partitions))]

    # -- workers

    def beat(self, worker: str, note: str, ttl: float) -> Sequence[str]:
        """Note that a worker lives; see `SharedStore.beat`."""
        if ttl > 0:
            self._workers[worker] = note, self.partitions[0].now() + timedelta(seconds=ttl)
        else:
            self._workers.pop(worker, None)
        return [state.id for state in self.workers()]

    def workers(self) -> Sequence[WorkerState]:
        """Return who lives; see `SharedStore.workers`."""
        now = self.partitions[0].now()
        self._workers = {id: state for id, state in self._workers.items() if state[1] > now}
        return [
            WorkerState(id=id, note=note, expires=(expires - now) / timedelta(seconds=1))
            for id, (note, expires) in sorted(self._workers.items())
        ]

    # -- cells

    def exchange(self, key: str, expected: bytes | None, new: bytes | None, ttl: float) -> Cell:
        """Put a value in the place of another one; see `Store.exchange`."""
        checked(key, expected, new, ttl)
        now = self.partitions[0].now()
        value, until = self.cells.get(key, (None, now))
        value = value if until > now else None
        if value != expected:
            return Cell(value, now)
        if new is None:
            self.cells.pop(key, None)
        else:
            self.cells[key] = new, now + timedelta(seconds=ttl)
        return Cell(new, now)

    # -- waiting

    def listen(self, key: object, wake: Callable[[], None]) -> None:
        """Have somebody called each time that something may have come to a log."""
        self._listeners[key] = wake

    def leave(self, key: object) -> None:
        """Call him no more."""
        self._listeners.pop(key, None)

    def wake(self) -> None:
        """Call all who listen."""
        for wake in list(self._listeners.values()):
            wake()


class ModelStore:
    """One process's store on a server, with a connection on which nothing goes wrong.

    Args:
        server: what keeps everything.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._parts = server.partitions

    @property
    def partitions(self) -> int:
        return len(self._parts)

    @property
    def volatile(self) -> bool:
        return False

    async def open(self, clock: Clock) -> bool:
        self.server.use(clock)
        return True

    async def close(self) -> None: ...

    def _check(self, partition: int) -> Partition:
        if not 0 <= partition < len(self._parts):
            raise StoreError(f"there is no partition {partition}, only 0 to {len(self._parts) - 1}")
        return self._parts[partition]

    # -- the contract of every store

    async def append(
        self, partition: int, events: Sequence[Event], bookmarks: Mapping[str, str] | None = None
    ) -> Sequence[Accepted]:
        answers = self._check(partition).append(events, bookmarks)
        self.server.wake()
        return answers

    async def bookmark(self, partition: int, name: str) -> str | None:
        return self._check(partition).state.bookmarks.get(name)

    async def starting(self, partition: int, starts: Mapping[Position | RetryKey, int]) -> None:
        self._check(partition).starting(starts)

    async def read(self, partition: int, after: Position | None, limit: int) -> Sequence[LogEntry]:
        return self._check(partition).read(after, limit)

    async def load(self, subject: str) -> SubjectRecord:
        stored = self.server.of(subject).state.subjects.get(subject)
        return stored or SubjectRecord(name=subject, properties={}, ext={})

    async def commit(self, commit: Commit) -> CommitResult:
        part = self._parts[commit.partition]
        entry = _history_of(part, commit) if self.server.history.maxlen else None
        result = part.commit(commit)
        if result.answer is Answer.OK:
            if entry is not None:
                self.server.history.append(entry)
            if commit.messages:
                self.server.wake()
        return result

    async def promote(self, partition: int, after: Position | None) -> Promoted:
        promoted = self._check(partition).promote(after)
        self.server.wake()
        return promoted

    async def retries(self, partition: int) -> AsyncIterator[Retry]:
        for retry in self._check(partition).retries():
            yield retry

    async def timers(self, subject: str | None = None) -> AsyncIterator[Timer]:
        parts = self._parts if subject is None else [self.server.of(subject)]
        found = [entry for part in parts for entry in part.state.timers.values()]
        for _, _, timer in sorted(found, key=lambda entry: entry[:2]):
            if subject in (None, timer.subject):
                yield timer

    async def subjects(self, prefix: str = "") -> AsyncIterator[SubjectRecord]:
        names = sorted(name for part in self._parts for name in part.state.subjects if name.startswith(prefix))
        for name in names:
            stored = self.server.of(name).state.subjects.get(name)
            if stored is not None:
                yield stored

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        found = [entry for part in self._parts for entry in part.state.dead.values()]
        for _, letter in sorted(found, key=lambda entry: entry[0]):
            yield letter

    async def dead_letter(self, id: str) -> DeadLetter | None:
        found = [part.state.dead[id][1] for part in self._parts if id in part.state.dead]
        return found[0] if found else None

    async def discard(self, dead_letter: str) -> bool:
        return sum(part.discard(dead_letter) for part in self._parts) > 0

    async def history(self, subject: str) -> AsyncIterator[HistoryEntry]:
        for entry in reversed(tuple(self.server.history)):
            if entry.subject == subject:
                yield entry

    async def explanations(
        self, *, correlation: str | None = None, subject: str | None = None
    ) -> AsyncIterator[Explanation]:
        found = [explanation for part in self._parts for explanation in part.state.explanations.values()]
        for explanation in sorted(found, key=lambda explanation: explanation.time):
            if correlation in (None, explanation.correlation) and subject in (None, explanation.subject):
                yield explanation

    async def exchange(self, key: str, expected: bytes | None, new: bytes | None, ttl: float) -> Cell:
        return self.server.exchange(key, expected, new, ttl)

    async def stats(self) -> StoreStats:
        states = [part.state for part in self._parts]
        retries = [retry for part in self._parts for retry in part.retries()]
        parked = sum(retry.parked for retry in retries)
        return StoreStats(
            subjects=sum(len(state.subjects) for state in states),
            pending=sum(len(state.log) for state in states),
            timers=sum(len(state.timers) for state in states),
            retries=len(retries) - parked,
            parked=parked,
            dead=sum(len(state.dead) for state in states),
            oldest=min((entry.accepted for state in states for entry in state.log.values()), default=None),
        )

    # -- and of one that is shared

    async def acquire(self, partition: int, token: Token, worker: str, lease: float) -> Acquired | None:
        return self._check(partition).acquire(token, worker, lease)

    async def renew(self, tokens: Mapping[int, Token], lease: float) -> Mapping[int, Renewed]:
        found = {number: self._check(number).renew(token, lease) for number, token in tokens.items()}
        return {number: renewed for number, renewed in found.items() if renewed is not None}

    async def release(self, partition: int, token: Token) -> bool:
        return self._check(partition).release(token)

    async def beat(self, worker: str, note: str, ttl: float) -> Sequence[str]:
        return self.server.beat(worker, note, ttl)

    async def workers(self) -> Sequence[WorkerState]:
        return self.server.workers()

    async def partition_states(self) -> Sequence[PartitionState]:
        return [part.look() for part in self._parts]

    async def tail(self, partition: int, after: Position | None, limit: int, timeout: float) -> Sequence[LogEntry]:
        part = self._check(partition)
        if found := part.read(after, limit):
            return found
        more: asyncio.Future[Sequence[LogEntry]] = asyncio.get_running_loop().create_future()

        def look() -> None:
            if not more.done() and (found := part.read(after, limit)):
                more.set_result(found)

        self.server.listen(more, look)
        try:
            async with asyncio.timeout(timeout):
                return await more
        except TimeoutError:
            return ()
        finally:
            self.server.leave(more)

    async def fire(self, partition: int) -> Fired:
        fired = self._check(partition).fire()
        self.server.wake()
        return fired

    async def pending(self, partition: int, positions: Collection[Position]) -> Collection[Position]:
        return self._check(partition).pending(positions)

    async def waiting(self, partition: int, keys: Collection[str]) -> Collection[str]:
        return self._check(partition).waiting(keys)

    async def outgoing(self, partition: int, after: Position | None, limit: int) -> Sequence[Outgoing]:
        return self._check(partition).outgoing(after, limit)

    async def deliver(
        self, source: int, target: int, expected: Position | None, messages: Sequence[Outgoing]
    ) -> Delivered:
        delivered = self._check(target).deliver(source, expected, messages)
        self.server.wake()
        return delivered

    async def trim(self, partition: int, token: Token, upto: Position) -> bool:
        return self._check(partition).trim(token, upto)


def _history_of(part: Partition, commit: Commit) -> HistoryEntry:
    """Return what is kept of a commit; to be made before that takes away what it was about."""
    event, rule, state = None, "", part.state
    if commit.handled in state.log:
        event = state.log[commit.handled].event
    elif commit.retried in state.retries:
        retry = state.retries[commit.retried][2]
        event, rule = retry.event, retry.rule
    return HistoryEntry(time=part.now(), subject=commit.subject, event=event, rule=rule, write=commit.write)
