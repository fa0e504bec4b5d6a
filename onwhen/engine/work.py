"""A piece of work on its way through the bus, and what an emitter waits for.

It must not know how work is ordered or handled.
"""

from __future__ import annotations

import asyncio

from onwhen.engine.events import Event
from onwhen.engine.outcomes import Receipt
from onwhen.engine.store import Position, Retry

__all__ = ["Cascade", "Work"]


class Cascade:
    """What an emitter waits for: its event, and every message that follows from it."""

    __slots__ = ("error", "pending", "waiter")

    def __init__(self) -> None:
        self.pending = 1
        self.error: BaseException | None = None
        self.waiter: asyncio.Future[None] | None = None

    def settle(self) -> None:
        """Note that one of the events needs no more waiting for."""
        self.pending -= 1
        if not self.pending and self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def settled(self) -> None:
        """Wait until nothing is pending; being cancelled here stops the waiting and nothing else."""
        if self.pending:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter
        if self.error is not None:
            raise self.error


class Work:
    """An event to be handled: from the log, or a retry of one rule."""

    __slots__ = ("cascade", "event", "position", "receipt", "retry")

    def __init__(
        self,
        event: Event,
        position: Position | None,
        receipt: Receipt | None = None,
        cascade: Cascade | None = None,
        retry: Retry | None = None,
    ) -> None:
        self.event = event
        self.position = position
        self.receipt = receipt
        self.cascade = cascade
        self.retry = retry

    def settle(self) -> None:
        """Let the emitter go on, as far as it waits for this."""
        cascade, self.cascade = self.cascade, None
        if cascade is not None:
            cascade.settle()
