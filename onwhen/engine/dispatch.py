"""Lanes: one piece of work at a time per subject, many subjects at once, up to a limit.

Belongs here: order and concurrency. It must not know what the work is, nor what a store or a rule is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from onwhen.engine._eager import EagerStarter

__all__ = ["Dispatcher"]

_W = TypeVar("_W")


class _Lane(Generic[_W]):
    """The work of one subject, in order."""

    __slots__ = ("active", "holds", "name", "urgent", "work")

    def __init__(self, name: str) -> None:
        self.name = name
        self.work: deque[_W] = deque()
        self.urgent: deque[_W] = deque()
        self.holds = 0
        self.active = False

    def next(self) -> _W | None:
        """Take the next piece of work, or None if there is none that may be done now."""
        if self.urgent:
            return self.urgent.popleft()
        if self.work and not self.holds:
            return self.work.popleft()
        return None


class Dispatcher(Generic[_W]):
    """Hands work to a function, in order per subject.

    Args:
        handle: does one piece of work. What it raises ends the lane's turn and reaches whoever set it off.
        limit: how many subjects are worked on at the same time (a count).
    """

    def __init__(self, handle: Callable[[_W], Coroutine[Any, Any, None]], limit: int) -> None:
        self._handle = handle
        self._limit = limit
        self._lanes: dict[str, _Lane[_W]] = {}
        self._ready: deque[_Lane[_W]] = deque()
        self._active = 0
        self._expected = 0
        self._pumping = False
        self._starter = EagerStarter()
        self._idle: list[asyncio.Future[None]] = []

    def submit(self, subject: str, work: _W) -> bool:
        """Put work at the end of a subject's lane; False if the lane is held, so that it has to wait."""
        lane = self._lane(subject)
        lane.work.append(work)
        if lane.holds:
            return False
        self._set_off(lane)
        return True

    def submit_urgent(self, subject: str, work: _W) -> None:
        """Put work ahead of everything else of a subject, a hold included."""
        lane = self._lane(subject)
        lane.urgent.append(work)
        self._set_off(lane)

    def hold(self, subject: str) -> Iterable[_W]:
        """Let a subject's work wait until as many `release` as `hold` calls were made; return what waits."""
        lane = self._lane(subject)
        lane.holds += 1
        return tuple(lane.work)

    def release(self, subject: str) -> None:
        """Take one hold of a subject back."""
        lane = self._lanes.get(subject)
        if lane is None or not lane.holds:
            return
        lane.holds -= 1
        self._set_off(lane)

    def is_held(self, subject: str) -> bool:
        """Tell whether a subject's work has to wait."""
        lane = self._lanes.get(subject)
        return lane is not None and lane.holds > 0

    def forget(self) -> None:
        """Drop all work that waits; it is safe in the store's log."""
        self._ready.clear()
        for lane in self._lanes.values():
            lane.work.clear()
            lane.urgent.clear()
        self._lanes = {name: lane for name, lane in self._lanes.items() if lane.active}

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine as turns are run: now, and on its own if it suspends."""
        self._starter.start(coroutine)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count something that will submit work as work, for `idle`."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1
            self._wake_idle()

    async def idle(self) -> None:
        """Wait until nothing is worked on, nothing is ready and nothing is about to be."""
        while self._active or self._ready or self._expected:
            waiter = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            await waiter

    def _lane(self, subject: str) -> _Lane[_W]:
        lane = self._lanes.get(subject)
        if lane is None:
            lane = self._lanes[subject] = _Lane(subject)
        return lane

    def _set_off(self, lane: _Lane[_W]) -> None:
        if lane.active:
            return
        lane.active = True
        self._ready.append(lane)
        self._pump()

    def _pump(self) -> None:
        """Start lanes that are ready. Work that sets off other lanes does not nest: it is taken up here."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._ready and self._active < self._limit:
                self._active += 1
                self._starter.start(self._drain(self._ready.popleft()))
        finally:
            self._pumping = False

    async def _drain(self, lane: _Lane[_W]) -> None:
        try:
            while (work := lane.next()) is not None:
                await self._handle(work)
        finally:
            lane.active = False
            if not (lane.work or lane.urgent or lane.holds):
                self._lanes.pop(lane.name, None)
            self._active -= 1
            if self._ready:
                self._pump()
            else:
                self._wake_idle()

    def _wake_idle(self) -> None:
        if self._idle and not (self._active or self._ready or self._expected):
            waiters, self._idle = self._idle, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
