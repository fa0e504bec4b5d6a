"""Where rate limits are kept: in this process, or in the store for all workers.

Belongs here: asking `_gcra` what to do, and keeping what it answers; what a worker does while the store does not
answer. It must not know of rules and events.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from onwhen.engine.clock import Clock
from onwhen.errors import StoreError
from onwhen.middleware._gcra import Pace, Permit, Queue, decide, idle
from onwhen.middleware._moments import micros
from onwhen.middleware._shared import Shared

__all__ = ["Limit", "Local", "Together"]

_MARGIN: Final = 60.0  # seconds that a cell is kept beyond its use
_PAUSE: Final = 1.0  # seconds for which a store that has not answered is not asked again


class Limit(Protocol):
    """One limit."""

    async def take(self, *, again: bool, waits: bool, moment: int = 0) -> tuple[Permit, int]:
        """Ask whether to go now.

        Args:
            again: see `_gcra.decide`.
            waits: see `_gcra.decide`.
            moment: it is at least so late (microseconds since the epoch): somebody has waited until then, by the event
                loop, whatever the clock says.

        Returns:
            The answer, and the moment by which it was given.
        """
        ...


class Local:
    """A limit of this process alone.

    Args:
        pace: what is allowed.
        clock: by which it goes.
    """

    __slots__ = ("_clock", "_pace", "_queue")

    def __init__(self, pace: Pace, clock: Clock) -> None:
        self._pace = pace
        self._clock = clock
        self._queue = idle

    async def take(self, *, again: bool, waits: bool, moment: int = 0) -> tuple[Permit, int]:
        """See `Limit.take`."""
        now = max(micros(self._clock.now()), moment)
        permit = decide(self._queue, self._pace, now, again=again, waits=waits)
        self._queue = permit.queue
        return permit, now


class Together:
    """A limit that all workers share; each decision is one compare and set, if nobody else decides at the same time.

    Args:
        pace: what is allowed.
        shared: where it is.
    """

    __slots__ = ("_alone_until", "_lock", "_loop", "_pace", "_shared")

    def __init__(self, pace: Pace, shared: Shared[Queue]) -> None:
        self._pace = pace
        self._shared = shared
        self._alone_until = 0.0  # by the event loop
        self._loop: asyncio.AbstractEventLoop | None = None

    async def take(self, *, again: bool, waits: bool, moment: int = 0) -> tuple[Permit, int]:
        """See `Limit.take`."""
        shared = self._shared
        answer = Permit(idle), 0

        def choose(known: Queue | None, now: int) -> Queue | None:
            nonlocal answer
            now = max(now, moment)
            permit = decide(known or idle, self._pace, now, again=again, waits=waits)
            answer = permit, now
            return permit.queue if permit.queue is not known else None

        loop = asyncio.get_running_loop()
        if loop.time() >= self._alone_until:
            if self._loop is not loop:  # a bus may be opened on one after the other
                self._loop, self._lock, self._alone_until = loop, asyncio.Lock(), 0.0
            async with self._lock:  # so that nobody is in the way of others of his own process
                try:
                    if loop.time() >= self._alone_until:
                        if shared.looked is None:
                            await shared.look()
                        await shared.change(choose, self._ttl)
                        return answer
                except StoreError:
                    self._alone_until = loop.time() + _PAUSE
        if (queue := choose(shared.known, shared.now())) is not None:
            shared.assume(queue)
        return answer

    def _ttl(self, queue: Queue) -> float:
        """Return how long a queue is of use (seconds)."""
        return max(max(queue.due, queue.back, queue.front) - self._shared.now(), 0) / 1e6 + _MARGIN
