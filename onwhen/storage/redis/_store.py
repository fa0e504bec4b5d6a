"""The store in Redis, as the engine sees it.

Belongs here: the storage contract, and that of stores that are shared, each call handed to what knows how it is done.
It must not know of keys or commands.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Final

from onwhen.engine.clock import Clock
from onwhen.engine.events import Event
from onwhen.engine.promise import Promise
from onwhen.engine.shared import Acquired, Delivered, Fired, Outgoing, PartitionState, Renewed, Token, WorkerState
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
from onwhen.errors import SettingError, StoreError
from onwhen.storage._cells import checked
from onwhen.storage.redis import _scripts
from onwhen.storage.redis._commits import job_of
from onwhen.storage.redis._deployment import MOST_PARTITIONS, Deployment
from onwhen.storage.redis._encoding import cell_of, cell_word
from onwhen.storage.redis._lanes import Kind
from onwhen.storage.redis._listing import Listing
from onwhen.storage.redis._log import Log
from onwhen.storage.redis._ownership import Outbox, Ownership
from onwhen.storage.redis._past import Past

__all__ = ["RedisStore"]

_MOST_KEPT: Final = 1 << 40  # accepted events, or commits, that are remembered


class RedisStore:
    """Keeps everything in Redis, where many processes have it open at once. What a call has answered is there.

    Args:
        url: where.
        key_prefix: what all names of keys start with.
        partitions: how many there are (a count); None for as many as before.
        dedup_window: how many accepted events each partition remembers (a count); None for as before.
        history: how many commits each partition keeps (a count).
        explanations: how many explanations each partition keeps (a count).
        max_backlog: how many pending events a partition takes (a count).
        read_only: do not make one that is not there; see `create_redis_storage`, which makes it, for all of these.

    Raises:
        SettingError: an argument is out of range.
    """

    def __init__(
        self,
        url: str,
        key_prefix: str = "onwhen",
        *,
        partitions: int | None = None,
        dedup_window: int | None = None,
        history: int = 0,
        explanations: int = 1_000,
        max_backlog: int = 100_000,
        read_only: bool = False,
    ) -> None:
        kept = (dedup_window or 0, history, explanations, max_backlog - 1)
        if not 1 <= (partitions or 1) <= MOST_PARTITIONS or partitions == 0 or min(kept) < 0 or max(kept) > _MOST_KEPT:
            raise SettingError(
                f"partitions={partitions} must be 1 to {MOST_PARTITIONS}, dedup_window={dedup_window}, "
                f"history={history} and explanations={explanations} at least 0, max_backlog={max_backlog} at least 1, "
                f"and each at most {_MOST_KEPT:,}",
                settings=("partitions", "dedup_window", "history", "explanations", "max_backlog"),
            )
        self._deployment = Deployment(url, key_prefix, partitions, dedup_window, read_only=read_only)
        self._history = history
        self._explanations = explanations
        self._log = Log(self._deployment, max_backlog)
        self._listing = Listing(self._deployment)
        self._past = Past(self._deployment)
        self._ownership = Ownership(self._deployment)
        self._outbox = Outbox(self._deployment)
        self._commit_kind = Kind(_scripts.COMMIT)

    @property
    def partitions(self) -> int:
        """How many partitions there are.

        Raises:
            StoreError: nobody has said, and it is not open yet.
        """
        if self._deployment.partitions is None:
            raise StoreError(f"{self!r}: how many partitions there are is known when it is open")
        return self._deployment.partitions

    @property
    def volatile(self) -> bool:
        """What was answered outlives the process."""
        return False

    # -- life

    async def open(self, clock: Clock) -> bool:
        """Connect, and find the deployment or make it; see `Store.open`. The time is that of Redis.

        Raises:
            StoreFormatError: it is no deployment of onwhen, of another version, or has other `partitions`.
            StoreError: the server cannot be reached, or is not fit to keep one.
        """
        deployment = self._deployment
        if await deployment.open():
            self._listing.abandon()
        self._log.open()
        head = (deployment.window, self._history)
        self._commit_kind = Kind(_scripts.COMMIT, head, is_many=True, has_token=True)
        return True

    async def close(self) -> None:
        """Let go of the connections; what was stored stays."""
        await self._listing.close()
        await self._deployment.close()

    # -- the log

    async def append(
        self, partition: int, events: Sequence[Event], bookmarks: Mapping[str, str] | None = None
    ) -> Sequence[Accepted]:
        """Accept events; see `Store.append`.

        Raises:
            StoreBusy: the partition has too many pending events.
            StoreFull: the server has no memory left.
        """
        return await self._log.append(partition, events, bookmarks)

    async def bookmark(self, partition: int, name: str) -> str | None:
        """Return how far a source was read; see `Store.bookmark`."""
        return await self._log.bookmark(partition, name)

    async def starting(self, partition: int, starts: Mapping[Position | RetryKey, int]) -> None:
        """Note how often handling has begun; see `Store.starting`."""
        await self._log.starting(partition, starts)

    async def read(self, partition: int, after: Position | None, limit: int) -> Sequence[LogEntry]:
        """Return pending events; see `Store.read`."""
        return await self._log.read(partition, after, limit)

    async def promote(self, partition: int, after: Position | None) -> Promoted:
        """Move due timers to the log; see `Store.promote`."""
        return await self._log.promote(partition, after)

    async def pending(self, partition: int, positions: Collection[Position]) -> Collection[Position]:
        """Return those that are pending; see `SharedStore.pending`."""
        return await self._log.pending(partition, positions)

    async def waiting(self, partition: int, keys: Collection[str]) -> Collection[str]:
        """Return those whose retries are there; see `SharedStore.waiting`."""
        return await self._log.waiting(partition, keys)

    async def tail(self, partition: int, after: Position | None, limit: int, timeout: float) -> Sequence[LogEntry]:
        """Return pending events, as soon as there are any; see `SharedStore.tail`."""
        return await self._log.tail(partition, after, limit, timeout)

    async def fire(self, partition: int) -> Fired:
        """Move due timers to the log; see `SharedStore.fire`."""
        return await self._log.fire(partition)

    # -- subjects, and the commit of a turn

    async def load(self, subject: str) -> SubjectRecord:
        """Return a subject; see `Store.load`."""
        return await self._listing.load(subject)

    def commit(self, commit: Commit) -> Promise[CommitResult]:
        """Store one turn's effects; see `Store.commit`."""
        try:
            deployment = self._deployment
            partition = commit.partition
            job = job_of(
                commit,
                deployment.part(partition),
                self._commit_kind,
                self.partitions,
                deployment.version,
                with_history=self._history > 0,
                explanations=self._explanations,
            )
            return deployment.lane(partition).begin(job)
        except StoreError as error:
            refused: Promise[CommitResult] = Promise()
            refused.fail(error)
            return refused

    def subjects(self, prefix: str = "") -> AsyncIterator[SubjectRecord]:
        """Go through the stored subjects; see `Store.subjects`."""
        return self._listing.subjects(prefix)

    # -- timers, retries, dead letters, the past, cells, and counts

    def timers(self, subject: str | None = None) -> AsyncIterator[Timer]:
        """Go through the timers; see `Store.timers`."""
        return self._listing.timers(subject)

    def retries(self, partition: int) -> AsyncIterator[Retry]:
        """Go through the waiting retries; see `Store.retries`."""
        return self._listing.retries(partition)

    def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """Go through the dead letters; see `Store.dead_letters`."""
        return self._listing.dead_letters()

    async def dead_letter(self, id: str) -> DeadLetter | None:
        """Return a dead letter; see `Store.dead_letter`."""
        return await self._listing.dead_letter(id)

    async def discard(self, dead_letter: str) -> bool:
        """Remove a dead letter; see `Store.discard`."""
        return await self._listing.discard(dead_letter)

    def history(self, subject: str) -> AsyncIterator[HistoryEntry]:
        """Go through what was done to a subject; see `Store.history`. Each partition keeps its own latest entries."""
        return self._past.history(subject)

    def explanations(self, *, correlation: str | None = None, subject: str | None = None) -> AsyncIterator[Explanation]:
        """Go through the explanations; see `Store.explanations`."""
        return self._past.explanations(correlation, subject)

    async def exchange(self, key: str, expected: bytes | None, new: bytes | None, ttl: float) -> Cell:
        """Put a value in the place of another one; see `Store.exchange`."""
        name, time = checked(key, expected, new, ttl)
        self._deployment.part(0)  # raises if it is not open
        words = (cell_word(expected), cell_word(new), time)
        cell = self._deployment.keys.cell(name)
        return cell_of(await self._deployment.connection.run(_scripts.EXCHANGE, [cell], words))

    async def stats(self) -> StoreStats:
        """Return how much is kept; see `Store.stats`."""
        return await self._listing.stats()

    # -- shared

    async def acquire(self, partition: int, token: Token, worker: str, lease: float) -> Acquired | None:
        """Take a partition; see `SharedStore.acquire`."""
        return await self._ownership.acquire(partition, token, worker, lease)

    async def renew(self, tokens: Mapping[int, Token], lease: float) -> Mapping[int, Renewed]:
        """Make leases run from now on; see `SharedStore.renew`."""
        return await self._ownership.renew(tokens, lease)

    async def release(self, partition: int, token: Token) -> bool:
        """Hand a partition over; see `SharedStore.release`."""
        return await self._ownership.release(partition, token)

    async def beat(self, worker: str, note: str, ttl: float) -> Sequence[str]:
        """Say that a worker lives; see `SharedStore.beat`."""
        return await self._ownership.beat(worker, note, ttl)

    async def workers(self) -> Sequence[WorkerState]:
        """Return the workers that live; see `SharedStore.workers`."""
        return await self._ownership.workers()

    async def partition_states(self) -> Sequence[PartitionState]:
        """Return what each partition looks like; see `SharedStore.partition_states`."""
        return await self._ownership.states()

    async def outgoing(self, partition: int, after: Position | None, limit: int) -> Sequence[Outgoing]:
        """Return messages of the outbox; see `SharedStore.outgoing`."""
        return await self._outbox.outgoing(partition, after, limit)

    async def deliver(
        self, source: int, target: int, expected: Position | None, messages: Sequence[Outgoing]
    ) -> Delivered:
        """Append messages to the log of another partition; see `SharedStore.deliver`."""
        return await self._outbox.deliver(source, target, expected, messages)

    async def trim(self, partition: int, token: Token, upto: Position) -> bool:
        """Remove messages from the outbox; see `SharedStore.trim`."""
        return await self._outbox.trim(partition, token, upto)

    def __repr__(self) -> str:
        return f"<RedisStore {self._deployment.keys.prefix!r} on {self._deployment.connection}>"
