"""How much may wait for its end at the same time, of all that several dispatchers have begun.

Belongs here: who may begin more, and in which order. It must not know what the work is, nor what it waits for.

What a turn has made is still in the CPU's cache if its end comes soon: a worker with 200 turns that wait for their
commits needs a quarter less time for each than one with 1,000 (decision 0014). And commits of one partition share a
script, so it is better to begin many of one partition than a few of each.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

__all__ = ["Room"]

_BURST: Final = 64  # begun by one dispatcher before it is another one's turn, if there is room (a count)
_STANDSTILL: Final = 0.002  # seconds without an end, after which it is the ends that take long, and more is begun
_MOST: Final = 1 << 20  # so many are never begun (a count)


class Beginner(Protocol):
    """Who wants to begin more: a dispatcher."""

    def pump(self) -> None:
        """Begin what is ready, as far as there is room."""
        ...

    def ready(self) -> int:
        """Return how much is ready (a count)."""
        ...


class Room:
    """Room for work that waits, shared by dispatchers; who finds none is called when there is some again.

    Where the wait is long, as over a slow network, little room would mean to stand still: it grows until that is not
    so, and shrinks again.

    Args:
        least: how much may wait at the same time in any case (a count).
        loop: the event loop.
    """

    def __init__(self, least: int, loop: asyncio.AbstractEventLoop) -> None:
        self._least = self._limit = least
        self._loop = loop
        self._taken = 0
        self._ends = 0
        self._waiting: deque[Beginner] = deque()
        self._called: Beginner | None = None
        self._watch: asyncio.TimerHandle | None = None

    def is_there(self, who: Beginner) -> bool:
        """Tell whether one more may be begun; if not, `who` is called later."""
        if self._taken < self._limit and (not self._waiting or self._called is who):
            return True
        if who not in self._waiting:
            self._waiting.append(who)
            if self._watch is None:
                self._watch = self._loop.call_later(_STANDSTILL, self._look, self._ends)
        return False

    def take(self) -> None:
        """Note that something waits for its end."""
        self._taken += 1

    def leave(self) -> None:
        """Note that something has come to its end."""
        self._taken -= 1
        self._ends += 1
        if self._limit > self._least and self._taken < self._limit // 4:
            self._limit = max(self._limit // 2, self._least)
        if self._waiting and self._called is None:
            self._call()

    def forget(self, who: Beginner) -> None:
        """Call somebody no more; what was taken has come to its end otherwise."""
        if who in self._waiting:
            self._waiting.remove(who)

    def _call(self) -> None:
        """Call those who wait, each once there is room for much of what it has."""
        while self._waiting and self._limit - self._taken >= min(_BURST, max(self._waiting[0].ready(), 1)):
            self._called = self._waiting.popleft()
            try:
                self._called.pump()
            finally:
                self._called = None

    def _look(self, ends: int) -> None:
        """Make more room, if nothing has come to its end for a while though others wait."""
        self._watch = None
        if not self._waiting:
            return
        if self._ends == ends:
            self._limit = min(self._limit * 2, _MOST)
            self._call()
        if self._waiting:
            self._watch = self._loop.call_later(_STANDSTILL, self._look, self._ends)
