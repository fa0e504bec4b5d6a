"""What the engine asks of a store that several processes share: who owns a partition, and what goes between them.

Belongs here: plain data and the `SharedStore` protocol, on top of `Store`. It must not know how anything is kept, nor
when a worker asks for what (`worker`, `tenure`, `relay`).

A partition has at most one owner. Owning it means to have its token: every commit of a turn names the token, and one
that is not the partition's token any more is FENCED. A lease, by the store's clock, says when somebody else may take
the partition over; it only spares work that would be fenced, the token alone keeps order.

What one partition's turns send to another stays in the outbox of the first, in the commit that sends it, until a relay
has delivered it. Partitions may lose their latest commits independently of each other (a fail-over of an asynchronous
replica), so what was delivered is kept for a while, and delivered again to whoever has lost it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeAlias, TypeGuard

import msgspec

from onwhen.engine.events import Event
from onwhen.engine.store import LogEntry, Position, Store

__all__ = [
    "Acquired",
    "Delivered",
    "Fired",
    "Outgoing",
    "PartitionState",
    "Renewed",
    "SharedStore",
    "Token",
    "WorkerState",
    "is_shared",
]

Token: TypeAlias = str
"""Who owns a partition, and since when: made anew for each time that it is acquired, never a plain counter."""


class Acquired(msgspec.Struct, frozen=True, kw_only=True):
    """A partition that is owned now.

    Attributes:
        was_released: the owner before has handed it over, or there was none; False if its lease ran out, perhaps
            because something that it was doing has killed it.
        touched: see `Renewed`.
    """

    was_released: bool
    touched: int


class Renewed(msgspec.Struct, frozen=True):
    """A lease that goes on.

    Attributes:
        touched: how often somebody without the token has set or taken away retries of the partition, or has put
            something into its outbox (a count): if it has changed, the owner has to look.
    """

    touched: int


class Fired(msgspec.Struct, frozen=True, kw_only=True):
    """Timers that have become due and were moved.

    Attributes:
        moved: how many, now (a count).
        next_due: when the next timer that the partition's subjects have set will be due; None if there is none.
        elsewhere: whether some of them went into the outbox, for other partitions.
    """

    moved: int
    next_due: datetime | None
    elsewhere: bool


class Outgoing(msgspec.Struct, frozen=True):
    """A message on its way to another partition.

    Attributes:
        position: where it stands in the outbox of the partition that sends it; order and identity, never reused.
        target: partition that it goes to.
        event: the event.
    """

    position: Position
    target: int
    event: Event


class Delivered(msgspec.Struct, frozen=True):
    """What a target says to a delivery.

    Attributes:
        is_accepted: all of it is in the target's log, now or from before. False if something else was expected.
        watermark: position, in the source's outbox, of the last message that the target has of it; None if it has none.
    """

    is_accepted: bool
    watermark: Position | None


class WorkerState(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that has said that it lives.

    Attributes:
        id: its name, unique.
        note: what it says of itself: host and process, for people.
        expires: seconds until it counts as dead if it says nothing more.
    """

    id: str
    note: str
    expires: float


class PartitionState(msgspec.Struct, frozen=True, kw_only=True):
    """What a partition looks like from outside.

    Attributes:
        partition: its number.
        owner: id of the worker that owns it, None if nobody does, or its lease has run out.
        expires: seconds until its owner's lease runs out; 0 if it has none.
        backlog: pending events (a count).
        oldest: when the oldest of them was accepted, by the store's clock; None if none is pending.
        appended: events that have ever come to its log (a count); without the backlog, those that were handled.
        outgoing: messages that lie in its outbox, delivered ones that are still kept among them (a count).
    """

    partition: int
    owner: str | None
    expires: float
    backlog: int
    oldest: datetime | None
    appended: int
    outgoing: int


class SharedStore(Store, Protocol):
    """A store that many processes have open at once.

    All calls may be made again after a lost reply, with the same arguments, as those of `Store`. If another server
    answers for a partition than the one that said that it was acquired, or that one was started again, calls of its
    owner raise `StoreError`: the other may lack what was stored last.

    A commit without a token is made by somebody who owns nothing, and is checked in all other ways. One that appends
    messages to the log of another partition puts them into the outbox; `CommitResult.appended` is None for them.

    `Store.open` returns True always: what may have killed a process is asked for each partition, see `Acquired`.
    """

    async def acquire(self, partition: int, token: Token, worker: str, lease: float) -> Acquired | None:
        """Take a partition that is free: released, never owned, or its lease has run out by the store's clock.

        Args:
            partition: which.
            token: who owns it from now on, unique. If it is the token already, the answer is that of the call before.
            worker: id of the worker, for people.
            lease: how long it is not given to anybody else, if it is not renewed (seconds).

        Returns:
            None if somebody else owns it.
        """
        ...

    async def renew(self, tokens: Mapping[int, Token], lease: float) -> Mapping[int, Renewed]:
        """Make leases run from now on; those that still have the token are in the answer, others are lost."""
        ...

    async def release(self, partition: int, token: Token) -> bool:
        """Hand a partition over to whoever comes first; False if it was not owned with this token any more."""
        ...

    async def beat(self, worker: str, note: str, ttl: float) -> Sequence[str]:
        """Say that a worker lives, and learn who else does.

        Args:
            worker: its id.
            note: what it says of itself.
            ttl: how long it counts as living if it says nothing more (seconds); 0 if it leaves.

        Returns:
            Ids of all that live, sorted.
        """
        ...

    async def workers(self) -> Sequence[WorkerState]:
        """Return the workers that live, by id."""
        ...

    async def partition_states(self) -> Sequence[PartitionState]:
        """Return what each partition looks like, by number."""
        ...

    async def tail(self, partition: int, after: Position | None, limit: int, timeout: float) -> Sequence[LogEntry]:
        """Return pending events as `read` does; if there are none, wait until there are.

        Args:
            partition: whose log.
            after: position up to which it is known; None for nothing.
            limit: how many to return at most (a count).
            timeout: how long to wait at most (seconds); then the answer is empty.
        """
        ...

    async def fire(self, partition: int) -> Fired:
        """Move the timers that are due, by the store's clock, as `promote` does, without returning them."""
        ...

    async def pending(self, partition: int, positions: Collection[Position]) -> Collection[Position]:
        """Return those positions whose events are still pending."""
        ...

    async def waiting(self, partition: int, keys: Collection[str]) -> Collection[str]:
        """Return those keys (see `Retry.key`) whose retries are still there, parked ones included."""
        ...

    async def outgoing(self, partition: int, after: Position | None, limit: int) -> Sequence[Outgoing]:
        """Return up to `limit` messages of the outbox after a position, oldest first."""
        ...

    async def deliver(
        self, source: int, target: int, expected: Position | None, messages: Sequence[Outgoing]
    ) -> Delivered:
        """Append messages of one partition's outbox to the log of another, in order.

        Those whose event, by source and id, was delivered within the last hour are left out. Without messages this
        only asks for the watermark.

        Args:
            source: whose outbox they are in.
            target: whose log they go to.
            expected: the target's watermark for this source; if it is another one, nothing is done.
            messages: all of them addressed to the target; the position of the last one is the new watermark.
        """
        ...

    async def trim(self, partition: int, token: Token, upto: Position) -> bool:
        """Remove messages from the outbox up to and with a position; False if the token is not the partition's."""
        ...


def is_shared(store: Store) -> TypeGuard[SharedStore]:
    """Tell whether several processes may have a store open at once, so that it is workers that handle its events."""
    return hasattr(store, "acquire")
