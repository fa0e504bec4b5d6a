"""Time, as the engine sees it: one injected clock that answers in aware UTC.

Belongs here: what a clock is, the real one and the one that is moved by hand. It must not know of buses,
timers or stores; those ask a clock, a clock asks nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

__all__ = ["Clock", "SystemClock", "VirtualClock"]


class Clock(Protocol):
    """What the engine asks of time. Timers, retries, `ctx.now` and dead letters use nothing else."""

    def now(self) -> datetime:
        """Return the current moment, aware, in UTC."""
        ...

    def alarm(self, when: datetime, ring: Callable[[], None]) -> Callable[[], None]:
        """Arrange for `ring` to be called once `when` has come; return a function that cancels it.

        A clock that is moved by hand may never ring: whoever moves it runs what has become due.
        """
        ...


class SystemClock:
    """The machine's clock; alarms ring on the running event loop."""

    def now(self) -> datetime:
        """Return the current moment, aware, in UTC."""
        return datetime.now(UTC)

    def alarm(self, when: datetime, ring: Callable[[], None]) -> Callable[[], None]:
        """Call `ring` at `when`, or at once if that has passed, as long as the running loop lives."""
        seconds = (when - self.now()).total_seconds()
        return asyncio.get_running_loop().call_later(max(0.0, seconds), ring).cancel


class VirtualClock:
    """A clock that stands still until it is moved; for tests and for replaying recorded events.

    Args:
        start: the first moment, aware. The default is the start of the Unix epoch.
    """

    def __init__(self, start: datetime = datetime(1970, 1, 1, tzinfo=UTC)) -> None:
        self._now = _utc(start)

    def now(self) -> datetime:
        """Return the moment that the clock was last moved to."""
        return self._now

    def alarm(self, when: datetime, ring: Callable[[], None]) -> Callable[[], None]:
        """Never ring: `EventBus.advance` moves this clock and runs what has become due."""
        return _nothing

    def move_to(self, moment: datetime) -> None:
        """Move to `moment`; a moment in the past is ignored, because time does not run backwards."""
        self._now = max(self._now, _utc(moment))

    def advance(self, by: timedelta) -> None:
        """Move forward.

        Raises:
            ValueError: `by` is negative.
        """
        if by < timedelta(0):
            raise ValueError(f"a clock cannot be moved backwards, by {by}")
        self._now += by


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone; give an aware datetime, e.g. datetime.now(UTC)")
    return moment.astimezone(UTC)


def _nothing() -> None:
    """Cancel an alarm that was never set."""
