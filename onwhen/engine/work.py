"""A piece of work on its way through the bus, and what an emitter waits for.

It must not know how work is ordered or handled.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextvars import Context
from datetime import datetime

import msgspec

from onwhen.engine.events import Event
from onwhen.engine.outcomes import Receipt
from onwhen.engine.store import CommitResult, Position, Retry

__all__ = ["Cascade", "Work", "pending"]


class Cascade(msgspec.Struct, eq=False):
    """What an emitter waits for: its event, and every message that follows from it.

    Attributes:
        error: why nothing more can be waited for, if so.
        pending: events that are waited for (a count).
        is_expected: somebody is about to wait.
    """

    pending: int = 1
    error: BaseException | None = None
    is_expected: bool = True
    _waiters: list[asyncio.Future[None]] = []

    def settle(self) -> None:
        """Note that one of the events needs no more waiting for."""
        self.pending -= 1
        if not self.pending and self._waiters:
            for waiter in self._waiters:
                if not (waiter.done() or waiter.get_loop().is_closed()):
                    waiter.set_result(None)

    def is_waited_for(self) -> bool:
        """Tell whether somebody waits, or is about to; one who was cancelled does not."""
        return self.is_expected if not self._waiters else not all(waiter.done() for waiter in self._waiters)

    async def settled(self) -> None:
        """Wait until nothing is pending; being cancelled here stops the waiting and nothing else.

        Raises:
            BaseException: what `error` says.
        """
        if self.pending:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        if self.error is not None:
            raise self.error


class Work(msgspec.Struct, eq=False):
    """An event to be handled: from the log, or a retry of one rule.

    Attributes:
        event: the event.
        context: context variables of whoever caused it.
        position: where it stands in the log; None while it is not there, and for a retry.
        receipt: what is to say how it was handled.
        cascade: who waits for it.
        retry: the retry.
        now: what the time is, for work that is done at once.
        cancels: how often a turn of it was cancelled (a count).
        unlogged: neither handled nor in the log yet, because the store cannot lose it before we do.
        bookmark: name of the source that it was read from, and how far that was read with it.
        accepted: waited for by who wants to know no more than that it was accepted.
        starts: how often its handling has begun, this time included, to be noted before it does (a count); None if
            that need not be known.
        is_accepted: it is known to be accepted, now or before.
        again: it was accepted before, so that it may be known already.
        rank: its order, if it has no position.
        since: when it was accepted, by the store's clock, if somebody wants to know how long it waits.
        explains: whoever emitted it wants to know why what happens does; of messages that follow from it, too.
    """

    event: Event
    context: Context
    position: Position | None = None
    receipt: Receipt | None = None
    cascade: Cascade | None = None
    retry: Retry | None = None
    now: datetime | None = None
    unlogged: bool = False
    cancels: int = 0
    bookmark: tuple[str, str] | None = None
    accepted: asyncio.Future[None] | None = None
    starts: int | None = None
    is_accepted: bool = False
    again: bool = False
    rank: float = math.inf
    since: datetime | None = None
    explains: bool = False

    @property
    def order(self) -> float:
        """Where it stands among all work, if only one piece is done at a time."""
        return self.position if self.position is not None else self.rank

    def child(self, event: Event, position: Position | None) -> Work:
        """Return the work on a message that this work has sent; whoever waits for this waits for that as well."""
        receipt = None
        if self.receipt is not None:
            receipt = Receipt(event)
            self.receipt.cascade.append(receipt)
        if self.cascade is not None:
            self.cascade.pending += 1
        return Work(
            event, self.context, position=position, receipt=receipt, cascade=self.cascade, explains=self.explains
        )

    def tell_accepted(self) -> None:
        """Tell whoever wants to know that it is accepted."""
        if self.accepted is not None and not (self.accepted.done() or self.accepted.get_loop().is_closed()):
            self.accepted.set_result(None)

    def duplicate(self) -> None:
        """Note that the event was accepted before; let the emitter go on."""
        if self.receipt is not None:
            self.receipt.status = "duplicate"
        self.settle()

    def settle(self) -> None:
        """Let the emitter go on, as far as it waits for this."""
        self.tell_accepted()
        cascade, self.cascade = self.cascade, None
        if cascade is not None:
            cascade.settle()

    def fail(self, error: BaseException) -> bool:
        """Let the emitter go on, with an error; False if nobody waits for this."""
        cascade = self.cascade
        if cascade is None:
            return False
        is_heard = cascade.is_waited_for()
        cascade.error = error
        self.settle()
        return is_heard


def pending(works: Sequence[Work], result: CommitResult) -> list[Work]:
    """Say of the messages of a commit where they stand in the log; return the work on those that are handled here."""
    found = []
    for work, position in zip(works, result.appended, strict=True):
        work.position = position
        if position is not None:
            found.append(work)
        else:
            work.settle()  # handled already, or on its way to where others handle it
    return found
