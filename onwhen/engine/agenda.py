"""What is due when: the next timer and the waiting retries, with one alarm for the earliest of them.

It must not know what a timer or a retry leads to; the pipeline takes what is due from here.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import count
from typing import Final

from onwhen.engine.clock import Clock
from onwhen.engine.store import Retry

__all__ = ["Agenda"]

_AGAIN: Final = timedelta(milliseconds=50)


class Agenda:
    """Knows what comes next, and has the clock ring for it; what is due at once rings at once.

    Args:
        clock: where the time comes from.
        ring: called when something has become due.
    """

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._next_timer: datetime | None = None
        self._retries: list[tuple[datetime, int, Retry]] = []
        self._numbers = count()
        self._alarm: tuple[datetime, Callable[[], None]] | None = None
        self._is_armed = False
        self._is_closed = False
        self._is_noted = False  # that a timer was set since the store was last asked

    def timer(self, due: datetime) -> None:
        """Note that a timer is set."""
        self._is_noted = True
        self.stored_timer(due)

    def stored_timer(self, due: datetime) -> None:
        """Note what the store says the next timer is."""
        if self._next_timer is None or due < self._next_timer:
            self._next_timer = due
            self._set_alarm()

    def retry(self, retry: Retry) -> None:
        """Note that a retry waits."""
        heapq.heappush(self._retries, (retry.due, next(self._numbers), retry))
        self._set_alarm()

    @property
    def next_due(self) -> datetime | None:
        """When the next thing is due; a timer that was cancelled since may make it early."""
        retry = self._retries[0][0] if self._retries else None
        if retry is None or self._next_timer is None:
            return retry or self._next_timer
        return min(retry, self._next_timer)

    def take_due_timers(self) -> bool:
        """Tell whether the store has timers to promote.

        From here on the agenda knows of no timer: whoever asked notes what the store says the next one is, and
        timers that are set meanwhile are noted as well. It does not ring until it is armed again: the store may know of
        one that is due by our clock and not by its own, and would be asked for it without a pause.
        """
        if self._next_timer is None or self._next_timer > self._clock.now():
            return False
        self._next_timer = None
        self._is_armed = self._is_noted = False
        return True

    def take_due_retries(self) -> list[Retry]:
        """Take out the retries that are due, earliest first."""
        now, taken = self._clock.now(), []
        while self._retries and self._retries[0][0] <= now:
            taken.append(heapq.heappop(self._retries)[2])
        return taken

    def arm(self) -> None:
        """Ring from now on."""
        self._is_armed = True
        self._set_alarm()

    def arm_later(self) -> None:
        """Ring from now on, but not at once: the store's clock is behind ours, and has found nothing due.

        It was not asked about a timer that was set since; so if there is one, it rings at once all the same.
        """
        self._is_armed = True
        self._set_alarm(None if self._is_noted else self._clock.now() + _AGAIN)

    def ask_again(self) -> None:
        """Ring from now on, but not at once, to ask the store about timers: it could not be asked."""
        self._is_noted = False
        self.stored_timer(self._clock.now())
        self.arm_later()

    def disarm(self) -> None:
        """Ring no more, whatever is noted from now on, and whoever arms it."""
        self._is_closed = True
        if self._alarm is not None:
            self._alarm[1]()
            self._alarm = None

    def _set_alarm(self, earliest: datetime | None = None) -> None:
        due = self.next_due
        if not self._is_armed or self._is_closed or due is None:
            return
        if earliest is not None:
            due = max(due, earliest)
        if self._alarm is not None:
            if self._alarm[0] == due > self._clock.now():  # else it should have rung, and a virtual clock never does
                return
            self._alarm[1]()
            self._alarm = None
        if due <= self._clock.now():
            self._ring()
        else:
            self._alarm = (due, self._clock.alarm(due, self._rung))

    def _rung(self) -> None:
        self._alarm = None
        self._ring()
