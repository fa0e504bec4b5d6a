"""The way of timers that are due into the log, and from there into the lanes.

Belongs here: asking the store to move them, so that none is missed or taken twice, whichever answer is lost. It must
not know when to ask (`agenda`), nor what a timer leads to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context
from datetime import datetime
from functools import partial

from onwhen.engine.arrivals import Arrivals, Call
from onwhen.engine.resend import GoesOn, insist
from onwhen.engine.store import Position, Store
from onwhen.engine.tally import Tally
from onwhen.engine.work import Work
from onwhen.errors import StoreError

__all__ = ["Promotion"]


class Promotion:
    """Has due timers moved to the log.

    Args:
        store: where they are.
        arrivals: where they go.
        next_due: called with when the next timer of a partition is due.
        log_ahead: called with names of subjects before anything of theirs is put into the log.
        goes_on: whether to ask the store again.
        context: context variables of what timers lead to.
        tally: what has fired is counted here.
    """

    def __init__(
        self,
        store: Store,
        arrivals: Arrivals,
        next_due: Callable[[datetime], None],
        log_ahead: Callable[[Iterable[str]], Awaitable[None]],
        goes_on: GoesOn,
        context: Context,
        tally: Tally,
    ) -> None:
        self._store = store
        self._arrivals = arrivals
        self._next_due = next_due
        self._log_ahead = log_ahead
        self._goes_on = goes_on
        self._context = context
        self._tally = tally
        self._known: list[Position | None] = [None] * store.partitions
        self._lock = asyncio.Lock()
        self._is_lost = False

    def known(self, partition: int, position: Position) -> None:
        """Note up to where what stands in the log is known already."""
        self._known[partition] = position

    async def run(self, active: Iterable[str]) -> bool:
        """Move what is due; False if nothing was.

        Args:
            active: subjects that are worked on.
        """
        async with self._lock:
            await self._log_ahead(active)
            several = self._store.partitions > 1
            # Timers of one partition may go to the log of another: what is appended there meanwhile comes after them.
            call, works = self._arrivals.calling(), list[Work]()
            call.late = several
            try:
                # Also to one that was asked before: then all are asked again.
                while await self._sweep(call, works):
                    pass
            except StoreError:
                pass  # the bus is closing
            finally:
                self._tally.timers_fired += len(works)
                self._arrivals.arrived(call, works)
        return bool(works)

    async def _sweep(self, call: Call, works: list[Work]) -> bool:
        """Ask for each partition; tell whether more may have come to one that was asked before."""
        again = False
        for partition in range(self._store.partitions):
            again |= await insist(partial(self._promote, call, works, partition), self._goes_on)
        return again

    async def _promote(self, call: Call, works: list[Work], partition: int) -> bool:
        try:
            promoted = await self._store.promote(partition, self._known[partition])
        except StoreError:
            call.late = self._is_lost = True
            raise
        if promoted.entries:
            self._known[partition] = promoted.entries[-1].position
        if promoted.next_due is not None:
            self._next_due(promoted.next_due)
        works += [Work(entry.event, self._context, position=entry.position) for entry in promoted.entries]
        was_lost, self._is_lost = self._is_lost, False
        return promoted.elsewhere or (was_lost and self._store.partitions > 1)
