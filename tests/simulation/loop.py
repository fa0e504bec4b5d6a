"""An event loop on virtual time, without threads or I/O, and a clock on the same time.

Belongs here: when what runs. Callbacks that are ready run first in, first out, as asyncio promises; when nothing is
ready, time jumps to the next moment for which something was asked, and what falls on the same moment comes in an
order that is drawn by lot, because asyncio promises none. It must not know of buses, stores or processes.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import warnings
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final

__all__ = ["EPOCH", "SimClock", "SimLoop", "moment", "seconds_of"]

EPOCH: Final = datetime(2024, 1, 1, tzinfo=UTC)
_MOST_AWAITS: Final = 30  # at which a coroutine may wait while it comes to its end (a count)


def moment(seconds: float) -> datetime:
    """Return the moment that lies so many seconds after the simulation's first one."""
    return EPOCH + timedelta(microseconds=round(seconds * 1_000_000))


def seconds_of(moment: datetime) -> float:
    """Return how many seconds after the simulation's first moment another one lies."""
    return (moment - EPOCH).total_seconds()


class SimLoop(asyncio.AbstractEventLoop):
    """Runs callbacks of one process, until it is told to stop for good.

    Args:
        start: the time at first (seconds).
        chance: draws the order of what falls on the same moment.
    """

    def __init__(self, start: float, chance: random.Random) -> None:
        self.steps = 0
        self.complaints: list[dict[str, Any]] = []
        self._now = start
        self._chance = chance
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, float, int, asyncio.TimerHandle]] = []
        self._numbers = count()
        self._running = False
        self._tasks: list[asyncio.Task[Any]] = []

    # -- what asyncio and the engine ask for

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.complaints.append(context)

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, self._chance.random(), next(self._numbers), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Leave it where it is; a cancelled one does nothing."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, **options)
        self._tasks.append(task)
        return task

    # -- what a simulation asks for

    def run(self, is_over: Callable[[], bool], most: int) -> bool:
        """Run callbacks until `is_over`, which is asked before each; False if nothing is left to run before.

        Args:
            is_over: whether to stop.
            most: how many callbacks may be run in all (a count).

        Raises:
            RuntimeError: there were more.
        """
        asyncio._set_running_loop(self)
        self._running = True
        try:
            while not is_over():
                if not self._ready and not self._wait():
                    return False
                handle = self._ready.popleft()
                if not handle._cancelled:
                    self.steps += 1
                    if self.steps > most:
                        raise RuntimeError(f"no rest after {most} callbacks")
                    handle._run()
            return True
        finally:
            self._running = False
            asyncio._set_running_loop(None)

    def _wait(self) -> bool:
        """Let time pass until something is ready."""
        timers = self._timers
        while timers and timers[0][3]._cancelled:
            heapq.heappop(timers)
        if not timers:
            return False
        self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(timers)[3])
        return True

    def wipe(self) -> None:
        """Let go of the coroutines of a loop that has ended, so that none of them ever complains of that."""
        asyncio._set_running_loop(self)  # what they do at their end reaches nobody any more, but it looks for a loop
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of what they begin, and nobody awaits
                for task in self._tasks:
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    if not task.done():
                        _end(task.get_coro())
        finally:
            asyncio._set_running_loop(None)
        self._tasks.clear()
        self._ready.clear()
        self._timers.clear()


class _Gone(BaseException):
    """Told to code whose process has ended."""


def _end(coro: Coroutine[Any, Any, Any]) -> None:
    """End a coroutine, also one that waits for something before it ends; `close` complains of that."""
    with suppress(BaseException):  # a group of tasks wraps it, and what comes of it reaches nobody
        for _ in range(_MOST_AWAITS):
            coro.throw(_Gone())


class SimClock:
    """The clock of the engine on the time of a loop.

    Args:
        loop: whose time it shows.
        ahead: by how much the clock is wrong (seconds).
    """

    def __init__(self, loop: SimLoop, ahead: float = 0.0) -> None:
        self._loop = loop
        self._ahead = ahead

    def now(self) -> datetime:
        """Return the current moment, aware, in UTC."""
        return moment(self._loop.time() + self._ahead)

    def alarm(self, when: datetime, ring: Callable[[], None]) -> Callable[[], None]:
        """Call `ring` at `when`."""
        return self._loop.call_at((when - EPOCH).total_seconds() - self._ahead, ring).cancel
