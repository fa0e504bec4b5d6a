"""A bus over a store that several processes share: events are accepted here, and handled by workers.

Belongs here: everything of a bus that is open on one event loop and runs no rules: the same face as `Pipeline`, for
whoever emits, stores subjects, or looks after what failed. It must not know of turns, nor who owns which partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from contextvars import Context, copy_context
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from onwhen.engine.arrivals import Arrivals
from onwhen.engine.awaiting import Awaiting
from onwhen.engine.dispatch import Dispatcher
from onwhen.engine.intake import Intake
from onwhen.engine.opening import Opening
from onwhen.engine.outcomes import Receipt
from onwhen.engine.outside import OutsideCommits
from onwhen.engine.parking import Parking
from onwhen.engine.partitions import partition_of
from onwhen.engine.resend import a_few_times
from onwhen.engine.shared import SharedStore
from onwhen.engine.store import Commit, CommitResult
from onwhen.engine.work import Cascade, Work
from onwhen.errors import BusClosed

if TYPE_CHECKING:
    from onwhen.engine.bus import EventBus

__all__ = ["Producer"]

_K = TypeVar("_K", int, str)


class Producer:
    """A bus, open on one event loop, over a store that others handle.

    Args:
        bus: whose store, clock and limits are used.
        store: the bus's store.
        loop: the event loop; everything here is called on its thread.
        context: context variables of what nobody has just asked for.
    """

    def __init__(self, bus: EventBus, store: SharedStore, loop: asyncio.AbstractEventLoop, context: Context) -> None:
        self.loop = loop
        self.context = context
        self.is_open = False
        self.is_closing = False
        self._bus = bus
        self._store = store
        self._dispatcher: Dispatcher[Work] = Dispatcher(_nothing_is_handled_here, 1, loop)  # for what is under way
        self.parking = Parking(bus, self._dispatcher, a_few_times, context)
        self._pending = Awaiting(store.pending, self._start)
        self._retries = Awaiting(store.waiting, self._start)
        self._intakes: Sequence[Intake] = ()
        self._outside = OutsideCommits(
            store,
            self._dispatcher,
            Arrivals(self._accepted),
            self.ready,
            _nothing_ahead,
            _forget,
            a_few_times,
            others_handle=True,
        )
        self._opening = Opening(self._dispatcher, context, self._read, self._go_on, self._failed)
        self._early: list[Work] = []  # what came before the store was open, and its partitions known
        self._closing = asyncio.Lock()

    # -- life

    async def ready(self) -> None:
        """Wait until the store is open."""
        if self.is_open:
            return
        await asyncio.shield(self._opening.begin())

    async def _read(self) -> Sequence[Intake]:
        await self._store.open(self._bus.clock)
        # One after the other per partition, so each has its own line; what they accept needs no order among them.
        return [
            Intake(
                n,
                self._store,
                Arrivals(self._accepted),
                self.ready,
                _nothing_ahead,
                a_few_times,
                self._bus.tally,
                others_handle=True,
            )
            for n in range(self._store.partitions)
        ]

    async def _go_on(self, intakes: Sequence[Intake]) -> None:
        self._intakes, self.is_open = intakes, True
        early, self._early = self._early, []
        for work in early:
            self._take_in(work)

    def _failed(self, error: BaseException) -> None:
        early, self._early = self._early, []
        for work in early:
            work.fail(error)

    async def idle(self) -> None:
        """Wait until all that was emitted here is accepted; whether it is handled, each receipt knows."""
        await self._dispatcher.idle()

    @property
    def pending(self) -> int:
        """How many events are about to be accepted (a count)."""
        return len(self._early) + sum(1 for line in self._intakes for _ in line.work())

    async def close(self) -> None:
        """Wait until all is accepted, and let go of the store."""
        self.is_closing = True
        async with self._closing:
            await self.idle()
            self._dispatcher.cancel()  # whoever waits for what others handle
            self._dispatcher.close()
            self.is_open = False
            await self._store.close()

    def abandon(self) -> None:
        """Let go of whoever waits, because the event loop has ended."""
        for work in (*self._early, *(work for intake in self._intakes for work in tuple(intake.work()))):
            work.settle()

    def forget(self, subject: str | None = None) -> None:
        """Nothing: no state is kept here; owners notice by its version that a subject was written."""

    # -- accepting

    def accept(
        self,
        event: Any,
        receipt: Receipt,
        cascade: Cascade,
        now: datetime | None = None,
        bookmark: tuple[str, str] | None = None,
        explain: bool = False,
    ) -> None:
        """Take an event in; the cascade is told when it is accepted. Whether it is explained, the workers decide."""
        self._put(Work(event, copy_context(), None, receipt, cascade, bookmark=bookmark))

    async def append(
        self, event: Any, receipt: Receipt, bookmark: tuple[str, str] | None, explain: bool = False
    ) -> None:
        """Take an event in, and wait until it is accepted.

        Raises:
            BaseException: why it is not known to be accepted.
        """
        cascade = Cascade()
        self._put(Work(event, copy_context(), None, receipt, cascade, bookmark=bookmark))
        await cascade.settled()

    def _put(self, work: Work) -> None:
        if self.is_open:
            self._take_in(work)
            return
        self._early.append(work)
        self._opening.begin()

    def _take_in(self, work: Work) -> None:
        intake = self._intakes[partition_of(work.event.subject, self._store.partitions)]
        if intake.put(work):
            self._dispatcher.start(self._run(intake), work.context.copy())

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._dispatcher.start(coroutine, self.context.copy())

    async def _run(self, intake: Intake) -> None:
        self._dispatcher.expect()
        try:
            await intake.run()
        finally:
            self._dispatcher.expected()

    def _accepted(self, works: Sequence[Work]) -> None:
        """Let those go who wait for these; their receipts know how to find out more."""
        for work in works:
            if (receipt := work.receipt) is not None:
                partition = partition_of(work.event.subject, self._store.partitions)
                if work.retry is not None:
                    receipt._settled = partial(self._gone, receipt, self._retries, partition, work.retry.key)
                elif work.position is not None:
                    receipt._settled = partial(self._gone, receipt, self._pending, partition, work.position)
            work.settle()

    async def _gone(self, receipt: Receipt, awaiting: Awaiting[_K], partition: int, which: _K) -> None:
        """Wait until something is not in the store any more, so that it is handled.

        Raises:
            StoreError: the store does not answer.
            BusClosed: the bus was closed.
        """
        if not self.is_open:
            raise BusClosed("the bus is closed; wait for what it has sent before that")
        await awaiting.gone(partition, which)
        receipt.status = "handled"

    # -- commits

    async def commit(self, commit: Commit) -> tuple[CommitResult, bool, list[Receipt]]:
        """Commit what does not come from a turn; see `OutsideCommits.commit`. What is in it, workers handle."""
        return await self._outside.commit(commit)

    # -- time

    @property
    def next_due(self) -> datetime | None:
        """None: timers and retries are the workers'."""
        return None

    async def run_due(self) -> bool:
        """Start nothing; see `next_due`."""
        return False


async def _nothing_is_handled_here(work: Work) -> None:
    raise AssertionError("a producer has no lanes")


async def _nothing_ahead(subjects: Iterable[str]) -> None:
    """Nothing is handled before it is in the log, so nothing is ahead of it."""


def _forget(subject: str) -> None:
    """No state is kept here."""
