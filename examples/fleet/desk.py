"""The desk: sends the recorded events to the workers, in less time than they took, and keeps the desk's clock.

Workers run on the real clock, so a promise of 30 days is a timer that is due in 30 real days. The years of the log
pass here: when the recorded time has come to the end of a promise, the desk fires that timer, if it is still set. It
does so between the ticket's events, where `onwhen replay --time event` does it; nothing else has to wait.
"""

import asyncio
import time
from collections import deque
from collections.abc import Coroutine, Iterable
from datetime import datetime
from typing import Any, Final, TypeAlias

from examples.helpdesk.rules import SLA
from onwhen import Event, EventBus, Receipt
from onwhen.engine.partitions import partition_of
from onwhen.engine.store import Answer, Commit, Timer
from onwhen.errors import StoreBusy

__all__ = ["Desk"]

_WINDOW: Final = 1_000  # events that are on their way to the store at once (a count)
_PATIENCE: Final = 120.0  # seconds for a ticket's events to be handled, and for the store to take something
_AGAIN: Final = 0.1  # seconds

_Step: TypeAlias = asyncio.Task[Receipt | None]  # something that is done with a ticket


class Desk:
    """Plays a log to the workers of a store.

    Args:
        bus: a bus on that store; it only sends.
        rate: how many events are sent in a second, if the workers take them.

    Attributes:
        now: how far the recorded time has come; None before the first event.
        sent: events that were accepted (a count).
        fired: promises whose timer was fired (a count).
    """

    def __init__(self, bus: EventBus, rate: float) -> None:
        self.now: datetime | None = None
        self.sent = 0
        self.fired = 0
        self._bus = bus
        self._rate = rate
        self._window = asyncio.Semaphore(_WINDOW)
        self._latest: dict[str, _Step] = {}
        self._promises: deque[tuple[datetime, str]] = deque()  # in order of time: they all last equally long

    async def play(self, events: Iterable[Event]) -> None:
        """Send all of them, each ticket's in their order, and fire the timers that are due on the way.

        Args:
            events: in the order of their times.
        """
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, event in enumerate(events, 1):
                await asyncio.sleep(max(began + number / self._rate - time.monotonic(), 0.0))
                await self._window.acquire()
                assert event.time is not None
                self.now = event.time
                self._look_at_promises(group)
                if event.subject not in self._latest:
                    self._promises.append((event.time + SLA, event.subject))
                self._next(group, event.subject, self._send(event, self._latest.get(event.subject)))

    def _next(self, group: asyncio.TaskGroup, ticket: str, doing: Coroutine[Any, Any, Receipt | None]) -> None:
        """Begin what is to be done with a ticket; it waits for what was begun before."""
        self._latest[ticket] = group.create_task(doing)

    async def _send(self, event: Event, before: _Step | None) -> Receipt:
        try:
            if before is not None:
                await before
            async with asyncio.timeout(_PATIENCE):
                receipt = await self._accepted(event)
            self.sent += 1
            return receipt
        finally:
            self._window.release()

    async def _accepted(self, event: Event) -> Receipt:
        while True:
            try:
                return await self._bus.append(event)
            except StoreBusy:  # the workers are behind, and nothing was stored
                await asyncio.sleep(_AGAIN)

    # -- the promises

    def _look_at_promises(self, group: asyncio.TaskGroup) -> None:
        while self._promises and self.now is not None and self._promises[0][0] <= self.now:
            due, ticket = self._promises.popleft()
            self._next(group, ticket, self._look(ticket, due, self._latest[ticket]))

    async def _look(self, ticket: str, due: datetime, before: _Step) -> Receipt | None:
        """When all that came before is handled, fire the timer, if the ticket was not resolved."""
        receipt = await before
        if receipt is not None:
            await receipt.handled(timeout=_PATIENCE)
        async for timer in self._bus.store.timers(ticket):
            if timer.key == "sla":
                async with asyncio.timeout(_PATIENCE):
                    await self._fire(timer, due)
        return None

    async def _fire(self, timer: Timer, due: datetime) -> None:
        """Take a timer away, and send what it would have sent, in one commit."""
        event = timer.event.replace(time=due)
        answer = Answer.CONFLICT
        while answer is Answer.CONFLICT:  # somebody has written the ticket meanwhile
            record = await self._bus.store.load(timer.subject)
            commit = Commit(
                partition=partition_of(timer.subject, self._bus.store.partitions),
                subject=timer.subject,
                version=record.version,
                cancelled=[timer.key],
                messages=[event],
                id=f"fired {event.id}",
            )
            result, _, _ = await self._bus.commit_outside(commit)
            answer = result.answer
        self.fired += 1
