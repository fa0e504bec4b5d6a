"""What is due when: the next timer and the waiting retries, with one alarm for the earliest of them.

It must not know what a timer or a retry leads to; the bus takes what is due from here.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from datetime import datetime
from itertools import count

from onwhen.engine.clock import Clock
from onwhen.engine.store import Retry

__all__ = ["Agenda"]


class Agenda:
    """Knows what comes next, and has the clock ring for it.

    Args:
        clock: where the time comes from.
        ring: called when something has become due.
    """

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self.next_timer: datetime | None = None
        self._clock = clock
        self._ring = ring
        self._retries: list[tuple[datetime, int, Retry]] = []
        self._numbers = count()
        self._alarm: tuple[datetime, Callable[[], None]] | None = None

    def timer(self, due: datetime) -> None:
        """Note that a timer was set."""
        if self.next_timer is None or due < self.next_timer:
            self.next_timer = due
            self.arm()

    def retry(self, retry: Retry) -> None:
        """Note that a retry waits."""
        heapq.heappush(self._retries, (retry.due, next(self._numbers), retry))
        self.arm()

    @property
    def next_due(self) -> datetime | None:
        """When the next thing is due; a timer that was cancelled since may make it early."""
        retry = self._retries[0][0] if self._retries else None
        if retry is None or self.next_timer is None:
            return retry or self.next_timer
        return min(retry, self.next_timer)

    def timers_are_due(self) -> bool:
        """Tell whether the store has timers to promote."""
        return self.next_timer is not None and self.next_timer <= self._clock.now()

    def take_due_retries(self) -> list[Retry]:
        """Take out the retries that are due, earliest first."""
        now, taken = self._clock.now(), []
        while self._retries and self._retries[0][0] <= now:
            taken.append(heapq.heappop(self._retries)[2])
        return taken

    def arm(self) -> None:
        """Set the alarm for what comes next."""
        due = self.next_due
        if self._alarm is not None:
            if self._alarm[0] == due:
                return
            self.disarm()
        if due is not None:
            self._alarm = (due, self._clock.alarm(due, self._rung))

    def disarm(self) -> None:
        """Take the alarm back."""
        if self._alarm is not None:
            self._alarm[1]()
            self._alarm = None

    def clear(self) -> None:
        """Forget everything; the store knows it."""
        self.disarm()
        self.next_timer = None
        self._retries.clear()

    def _rung(self) -> None:
        self._alarm = None
        self._ring()
