"""Timers and retries of an open bus: when the next one is due, and how they are started then.

Belongs here: what is done when the clock rings. It must not know how work is handled; due work is put into the lanes.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextvars import Context
from datetime import datetime

from onwhen.engine.agenda import Agenda
from onwhen.engine.clock import Clock, VirtualClock
from onwhen.engine.dispatch import Dispatcher
from onwhen.engine.store import Retry
from onwhen.engine.work import Work

__all__ = ["Schedule"]


class Schedule:
    """Starts what becomes due.

    Args:
        clock: where the time comes from.
        loop: the event loop.
        context: context variables of what timers and retries lead to.
        promote: has the store move timers that are due to the log, and tells whether there were any.
        dispatcher: whose lanes retries are put into.
        submit: puts a retry for which nobody waits into its lane.
    """

    def __init__(
        self,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        promote: Callable[[], Awaitable[bool]],
        dispatcher: Dispatcher[Work],
        submit: Callable[[Work], None],
    ) -> None:
        self.agenda = Agenda(clock, self._ring)
        self._clock = clock
        self._loop = loop
        self._context = context
        self._promote = promote
        self._dispatcher = dispatcher
        self._submit = submit
        # Where all is done by its order, a replay is to do the same again: then retries come after all else.
        self._rank = math.inf if isinstance(clock, VirtualClock) else 0.0

    @property
    def next_due(self) -> datetime | None:
        """When the next timer or retry is due, as far as is known; None if nothing waits."""
        return self.agenda.next_due

    async def begin(self) -> None:
        """Start what is due already, whatever the store holds."""
        self.agenda.timer(self._clock.now())  # the store is to say which ones there are
        await self.run()

    async def run(self) -> bool:
        """Start what has become due, also if whoever waits for that is cancelled; False if there was nothing."""
        found: asyncio.Future[bool] = self._loop.create_future()
        self._dispatcher.start(self._run(found), self._context.copy())
        return await asyncio.shield(found)

    def _ring(self) -> None:
        self._dispatcher.start(self._run(self._loop.create_future()), self._context.copy())

    async def _run(self, answer: asyncio.Future[bool]) -> None:
        self._dispatcher.expect(ahead=True)
        try:
            found = await self._start_due()
            if found:
                self.agenda.arm()
            else:
                self.agenda.arm_later()
            answer.set_result(found)
        except BaseException as error:
            if not self._loop.is_running():
                raise  # it is gone, and this is only being cleared away
            self.agenda.ask_again()
            answer.set_exception(error)
            answer.exception()  # perhaps nobody waits for it
            if not isinstance(error, Exception):
                raise
        finally:
            self._dispatcher.expected(ahead=True)

    async def _start_due(self) -> bool:
        timers_are_due = self.agenda.take_due_timers()
        found = timers_are_due and await self._promote()
        for retry in self.agenda.take_due_retries():
            found = True
            self._start(retry)
        self._dispatcher.pump()
        return found

    def _start(self, retry: Retry) -> None:
        work = Work(retry.event, self._context, retry=retry, rank=self._rank)
        if retry.in_order:
            self._dispatcher.submit_urgent(retry.subject, work)
        else:
            self._submit(work)
