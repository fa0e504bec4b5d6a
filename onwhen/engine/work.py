"""A piece of work on its way through the bus, and what an emitter waits for.

It must not know how work is ordered or handled.
"""

from __future__ import annotations

import asyncio
from contextvars import Context

from onwhen.engine.events import Event
from onwhen.engine.outcomes import Receipt
from onwhen.engine.store import Position, Retry

__all__ = ["Cascade", "Work"]


class Cascade:
    """What an emitter waits for: its event, and every message that follows from it.

    Attributes:
        error: why nothing more can be waited for, if so.
        pending: events that are waited for (a count).
    """

    __slots__ = ("_waiter", "error", "pending")

    def __init__(self) -> None:
        self.pending = 1
        self.error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    def settle(self) -> None:
        """Note that one of the events needs no more waiting for."""
        self.pending -= 1
        waiter = self._waiter
        if not self.pending and waiter is not None and not (waiter.done() or waiter.get_loop().is_closed()):
            waiter.set_result(None)

    async def settled(self) -> None:
        """Wait until nothing is pending; being cancelled here stops the waiting and nothing else.

        Raises:
            BaseException: what `error` says.
        """
        if self.pending:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self.error is not None:
            raise self.error


class Work:
    """An event to be handled: from the log, or a retry of one rule.

    Args:
        event: the event.
        context: context variables of whoever caused it.
        position: where it stands in the log; None while it is not there, and for a retry.
        receipt: what is to say how it was handled.
        cascade: who waits for it.
        retry: the retry.
    """

    __slots__ = ("_cascade", "context", "event", "position", "receipt", "retry")

    def __init__(
        self,
        event: Event,
        context: Context,
        *,
        position: Position | None = None,
        receipt: Receipt | None = None,
        cascade: Cascade | None = None,
        retry: Retry | None = None,
    ) -> None:
        self.event = event
        self.context = context
        self.position = position
        self.receipt = receipt
        self.retry = retry
        self._cascade = cascade

    def child(self, event: Event, position: Position | None) -> Work:
        """Return the work on a message that this work has sent; whoever waits for this waits for that as well."""
        receipt = None
        if self.receipt is not None:
            receipt = Receipt(event)
            self.receipt.cascade.append(receipt)
        if self._cascade is not None:
            self._cascade.pending += 1
        return Work(event, self.context, position=position, receipt=receipt, cascade=self._cascade)

    def settle(self) -> None:
        """Let the emitter go on, as far as it waits for this."""
        cascade, self._cascade = self._cascade, None
        if cascade is not None:
            cascade.settle()

    def fail(self, error: BaseException) -> None:
        """Let the emitter go on, with an error."""
        if self._cascade is not None:
            self._cascade.error = error
        self.settle()
