"""The storage contract: what the engine asks of a store, as records, one commit and its four answers.

Belongs here: plain data and the `Store` protocol, which every backend implements and one contract suite
checks. It must not know how anything is kept, nor of rules: values are encoded JSON text, never user types.

What every store owes the engine. A method that raises `StoreError` says nothing about whether its effect took
place; the engine calls it again with the same arguments, and that does nothing twice. A store therefore keeps what
tells a second time from a first: the log entry that a commit removes, the retry or dead letter that it takes away,
the id of a commit that has none of these, and the ids of accepted events.

Calls that append to the log of one partition take effect in the order in which they are made. Their answers may
come in any order. One that has raised takes effect before any later call, or never; and a `read` sees what calls
before it have appended.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeAlias

import msgspec

from onwhen.engine.clock import Clock
from onwhen.engine.events import Event
from onwhen.engine.waiting import DeadLetter, Failure, Retry, RetryKey, Timer, key_of

__all__ = [
    "Accepted",
    "Answer",
    "Cell",
    "Commit",
    "CommitResult",
    "DeadLetter",
    "Explanation",
    "Failure",
    "HistoryEntry",
    "LogEntry",
    "Position",
    "Promoted",
    "Retry",
    "RetryKey",
    "Store",
    "StoreStats",
    "SubjectRecord",
    "SubjectWrite",
    "Timer",
    "Version",
    "key_of",
]

Position: TypeAlias = int
"""Where an accepted event stands in its partition's log: more than those that were accepted before, never reused."""

Version: TypeAlias = int | str
"""Which state of a subject this is; opaque, compared for equality only. One that is not stored has None."""


class Answer(enum.Enum):
    """What a store says to a commit; exactly one of these."""

    OK = "ok"
    """All of it is stored."""
    DONE = "done"
    """Nothing was stored, because it was before (a lost reply, a re-send), or somebody else handled the event."""
    CONFLICT = "conflict"
    """Nothing was stored, because the subject's version has moved on: load again, run again."""
    FENCED = "fenced"
    """Nothing was stored, because this worker no longer owns the partition."""


class LogEntry(msgspec.Struct, frozen=True):
    """An accepted event that is not handled yet.

    Attributes:
        position: where it stands in its partition's log.
        event: the event.
        accepted: when it was accepted, by the store's clock.
        starts: how often its handling was noted to begin (see `Store.starting`), a count.
    """

    position: Position
    event: Event
    accepted: datetime
    starts: int = 0


class Accepted(msgspec.Struct, frozen=True):
    """What became of an event that was to be accepted.

    Attributes:
        position: where it stands in the log of the partition that was named; None if it was accepted before and is
            not there, because it is handled, or because it went to another partition.
        is_new: whether it was accepted now; one of the same source and id that was accepted before is not.
    """

    position: Position | None
    is_new: bool = True


class SubjectRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A subject as it is stored.

    Attributes:
        name: name of the subject.
        properties: property -> its value as JSON text (UTF-8).
        ext: extended property -> its value as JSON text (UTF-8).
        version: which state this is; None if the subject is not stored.
        schema: schema version of the class that wrote the properties (see `Subject`).
    """

    name: str
    properties: Mapping[str, bytes]
    ext: Mapping[str, bytes]
    version: Version | None = None
    schema: int = 1


class SubjectWrite(msgspec.Struct, frozen=True, kw_only=True):
    """What a commit changes of its subject; names that are not mentioned stay as they are.

    A subject that is not stored is from then on, with or without properties.

    Attributes:
        set: property -> new value as JSON text.
        delete: properties to remove, none of which is set as well.
        set_ext: extended property -> new value as JSON text.
        delete_ext: extended properties to remove.
        schema: schema version of the class that writes.
        remove: remove the subject itself; then nothing is set.
    """

    set: Mapping[str, bytes] = {}
    delete: Sequence[str] = ()
    set_ext: Mapping[str, bytes] = {}
    delete_ext: Sequence[str] = ()
    schema: int = 1
    remove: bool = False


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a turn did what it did, for people who ask later.

    Attributes:
        time: when the turn was, by the engine's clock.
        subject: name of the subject of its commit.
        correlation: the correlation id of its event.
        event: id of the event.
        rule: id of the rule that was retried; "" if the event was handled for the first time.
        failed: whether something of it failed.
        body: all of it, as JSON text (UTF-8), which no store looks into.
    """

    time: datetime
    subject: str
    correlation: str
    event: str
    rule: str = ""
    failed: bool = False
    body: bytes


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """One turn's effects, to be stored together or not at all.

    Attributes:
        partition: partition of the subject.
        subject: name of the subject.
        version: the version that was loaded; another one now is a CONFLICT.
        token: the owner's token of this partition; another one now is FENCED. None where nobody can take over.
        handled: log entry that this turn handled, or None; not there any more is DONE.
        retried: waiting retry that this turn ran, or None; not there any more is DONE.
        write: changes of the subject, or None.
        messages: events to append to the log, in order.
        timers: timers to set or replace.
        cancelled: keys of timers of the subject to cancel, before `timers` are set.
        cancel_all: cancel every timer of the subject, before `timers` are set.
        retries: retries to wait for; each takes the place of one of the same key, and is the last in the order set.
        dead: dead letters to add; each takes the place of one of the same id, and is the youngest.
        revived: ids of dead letters to remove; one that is not there any more is DONE.
        id: unique id of a commit that does not handle or retry anything; one that is within the window (see `Store`)
            is DONE. None for all others.
        explanation: why the turn did what it did, or None. A store keeps the latest ones (see `Store.explanations`).
    """

    partition: int
    subject: str
    version: Version | None = None
    token: str | None = None
    handled: Position | None = None
    retried: RetryKey | None = None
    write: SubjectWrite | None = None
    messages: Sequence[Event] = ()
    timers: Sequence[Timer] = ()
    cancelled: Sequence[str] = ()
    cancel_all: bool = False
    retries: Sequence[Retry] = ()
    dead: Sequence[DeadLetter] = ()
    revived: Sequence[str] = ()
    id: str | None = None
    explanation: Explanation | None = None


class CommitResult(msgspec.Struct, frozen=True):
    """A store's answer; with OK also the subject's new version and where its messages went.

    Attributes:
        answer: one of four.
        version: version of the subject now, None if it is not stored (only with OK).
        appended: for each message its position in the log of its subject's partition, or None where that is not
            kept with this one and the message is under way; it is found by `read` later (only with OK).
    """

    answer: Answer
    version: Version | None = None
    appended: Sequence[Position | None] = ()


class Promoted(msgspec.Struct, frozen=True):
    """Timers that have become due and were moved to the log, and when the next one will be.

    Attributes:
        entries: pending events of the partition that were timers, in the order of the log.
        next_due: when the next timer that the partition's subjects have set will be due; None if there is none.
        elsewhere: whether this call has moved events to the logs of other partitions.
    """

    entries: Sequence[LogEntry]
    next_due: datetime | None
    elsewhere: bool = False


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What one commit has done to a subject; kept only by a store that was asked to.

    Attributes:
        time: when it was committed, by the store's clock.
        subject: name of the subject.
        event: what was handled; None for a commit outside a turn.
        rule: id of the rule that was retried; "" if the event was handled for the first time, or there was none.
        write: what was changed; None if nothing was.
    """

    time: datetime
    subject: str
    event: Event | None = None
    rule: str = ""
    write: SubjectWrite | None = None


class Cell(msgspec.Struct, frozen=True):
    """A small value that all processes share which have the store open; see `Store.exchange`.

    Attributes:
        value: what is there; None if nothing is.
        time: the moment of that, by the store's clock.
    """

    value: bytes | None
    time: datetime


class StoreStats(msgspec.Struct, frozen=True, kw_only=True):
    """How much a store holds, as counts.

    Attributes:
        subjects: stored subjects.
        pending: accepted events that are not handled yet.
        timers: timers that are set.
        retries: retries that wait, parked ones not among them.
        parked: retries that are parked.
        dead: dead letters.
        oldest: when the oldest pending event was accepted, by the store's clock; None if none is pending.
    """

    subjects: int
    pending: int
    timers: int
    retries: int
    parked: int
    dead: int
    oldest: datetime | None = None


class Store(Protocol):
    """What keeps subjects, the log of accepted events, timers, retries and dead letters.

    The log *is* the list of pending work: a commit removes the event that it handled. Every method may be
    called again after a lost reply: `append` is idempotent per event source and id, and `commit` answers DONE.

    Both look into the window: the latest `dedup_window` (a count that the store was made with) of the events that
    `append` has accepted and of the ids of commits, in a partition or in all of them together. A volatile store
    leaves out events that have no id yet: they are like no other. Messages and timers are neither looked for in the
    window nor put there: they come to the log with a commit or a promotion, which happens once.

    All text may hold any character that UTF-8 can; names differ if any of their characters does. Moments are aware.

    Whoever goes through a list holds up nobody who writes: what is there all the time is listed once and in order,
    what comes or goes meanwhile may be listed or not.

    Every method that does I/O raises `StoreError`, and nothing else, when it cannot do what it is asked; only
    `exchange` raises `ValueError` too, for what no store takes.
    """

    @property
    def partitions(self) -> int:
        """How many partitions there are; fixed for the life of the stored data."""
        ...

    @property
    def volatile(self) -> bool:
        """Whether all is lost with the process, and every call answered at once and for certain.

        Then what can be handled at once need not be put into the log before.
        """
        ...

    async def open(self, clock: Clock) -> bool:
        """Make ready for use; called again without `close` when the event loop of the call before has ended.

        Stores without a clock of their own take the time from `clock`.

        Returns:
            Whether it was closed in between: False if whoever had it open last never did, because the process was
            killed perhaps, and something that it was doing may be the reason. True for a new one.
        """
        ...

    async def close(self) -> None:
        """Let go of what `open` took, if anything; what was stored stays."""
        ...

    async def append(
        self, partition: int, events: Sequence[Event], bookmarks: Mapping[str, str] | None = None
    ) -> Sequence[Accepted]:
        """Accept events, in order: once this returns they are kept until handled.

        Args:
            partition: whose log they go to.
            events: all of them, or none if this raises.
            bookmarks: name of a source that the events were read from -> how far it was read with them; stored
                together with them, in place of what was stored under that name.

        Returns:
            For each event what became of it, as if each were appended alone; one of the same source and id as
            another in the window is not accepted again.
        """
        ...

    async def bookmark(self, partition: int, name: str) -> str | None:
        """Return what was last stored under a name by `append`; None if nothing was."""
        ...

    async def starting(self, partition: int, starts: Mapping[Position | RetryKey, int]) -> None:
        """Note that the handling of pending events and waiting retries begins, before it does.

        Args:
            partition: whose they are.
            starts: which -> how often it has begun, this time included (a count). What is not there is left out.
        """
        ...

    async def read(self, partition: int, after: Position | None, limit: int) -> Sequence[LogEntry]:
        """Return up to `limit` pending events after a position, oldest first."""
        ...

    async def load(self, subject: str) -> SubjectRecord:
        """Return a subject as it is stored now; one that is not stored is empty with version None."""
        ...

    def commit(self, commit: Commit) -> Awaitable[CommitResult]:
        """Store one turn's effects, all or nothing.

        The checks are made in this order: format and token (FENCED), then what was handled, retried, revived or
        stored under this id (DONE), then the version (CONFLICT).

        What is returned is awaited once. A store that returns an `asyncio.Future` spares a worker a task for each turn.
        """
        ...

    async def promote(self, partition: int, after: Position | None) -> Promoted:
        """Move the timers that are due, by the store's clock, to the log; earliest first, then in the order set.

        A timer belongs to the partition of the subject that set it. Its event may be addressed to a subject of
        another partition; it goes to that log, as a message does. Of very many, a store may move the first ones only;
        then `next_due` is not later than now.

        Args:
            partition: whose timers are moved.
            after: entries up to this position are known already; None if none is.

        Returns:
            The pending entries of this partition's log that were timers and stand after that position, also those
            that an earlier call has moved: its answer may have been lost.
        """
        ...

    def retries(self, partition: int) -> AsyncIterator[Retry]:
        """Go through the waiting and the parked retries, earliest due first, then in the order set."""
        ...

    def timers(self, subject: str | None = None) -> AsyncIterator[Timer]:
        """Go through the timers, earliest due first, then in the order set; of one subject if it is named."""
        ...

    def subjects(self, prefix: str = "") -> AsyncIterator[SubjectRecord]:
        """Go through the stored subjects whose name starts with `prefix`, in order of name (code points)."""
        ...

    def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """Go through the dead letters, oldest first."""
        ...

    async def dead_letter(self, id: str) -> DeadLetter | None:
        """Return a dead letter, or None if there is none of this id."""
        ...

    async def discard(self, dead_letter: str) -> bool:
        """Remove a dead letter for good; False if there is none of this id."""
        ...

    def history(self, subject: str) -> AsyncIterator[HistoryEntry]:
        """Go through what was done to a subject, latest first; nothing if the store keeps no history.

        A store that was made with `history=n` keeps the latest n entries of all subjects together. Those of a
        subject that was removed stay.
        """
        ...

    def explanations(self, *, correlation: str | None = None, subject: str | None = None) -> AsyncIterator[Explanation]:
        """Go through the explanations that are kept, oldest first; those of one correlation id or subject, if named.

        A store keeps the latest ones of each partition, as many as it was made with (`explanations`, a count; 1,000
        unless it was told otherwise, and with 0 none is added). They go by their time; where that was put back in a
        partition, a store may go by the order of the commits.
        """
        ...

    async def exchange(self, key: str, expected: bytes | None, new: bytes | None, ttl: float) -> Cell:
        """Put a value in the place of another one, if that is still there: compare and set, beside all subjects.

        The caller has won if and only if `value` of the answer is `new`. Asked again after a lost reply it does no
        harm if nobody else ever gives the same `new`: put something into it that is made anew for each call. One that
        has raised may take effect at any time after, if what it expects is there then.

        Args:
            key: which cell; text of up to 512 bytes in UTF-8. Differs from the name of any subject, whatever it is.
            expected: what has to be there; None for nothing. What is over its time is not there.
            new: what is there then, up to 64 KiB; None to remove it.
            ttl: how long it is there from now on, by the store's clock (seconds; more than 0, and 100 years at most).

        Returns:
            What is there afterwards, be it `new` or what was there before.

        Raises:
            ValueError: the key, a value or the time is out of these bounds; nothing was asked of the store.
        """
        ...

    async def stats(self) -> StoreStats:
        """Return how much is kept."""
        ...
