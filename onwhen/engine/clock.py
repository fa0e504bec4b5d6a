"""Time, as the engine sees it: one injected clock that answers in aware UTC.

Belongs here: what a clock is, the real one and the one that is moved by hand. It must not know of buses,
timers or stores; those ask a clock, a clock asks nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

__all__ = ["Clock", "SystemClock", "VirtualClock"]

_LONGEST: Final = 60.0  # seconds; event loops count them, and notice neither a clock that is set nor a sleeping machine


class Clock(Protocol):
    """What the engine asks of time. Timers, retries, `ctx.now` and dead letters use nothing else."""

    def now(self) -> datetime:
        """Return the current moment, aware, in UTC."""
        ...

    def alarm(self, when: datetime, ring: Callable[[], None]) -> Callable[[], None]:
        """Arrange for `ring` to be called on the running event loop; return a function that cancels it.

        Whoever is rung asks again what time it is: a clock may ring before `when`. One that is moved by hand may
        never ring: whoever moves it runs what has become due.
        """
        ...


class SystemClock:
    """The machine's clock; alarms ring on the running event loop."""

    def now(self) -> datetime:
        """Return the current moment, aware, in UTC."""
        return datetime.now(UTC)

    def alarm(self, when: datetime, ring: Callable[[], None]) -> Callable[[], None]:
        """Call `ring` at `when`, or within a minute if that is earlier, as long as the running loop lives."""
        seconds = (when - self.now()).total_seconds()
        return asyncio.get_running_loop().call_later(min(max(seconds, 0.0), _LONGEST), ring).cancel


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

    def until(self, to: timedelta | datetime) -> datetime:
        """Return the moment that is `to` from now, or `to` itself if it is a moment.

        Raises:
            ValueError: `to` is a negative duration, or a moment without a time zone.
        """
        if isinstance(to, datetime):
            return _utc(to)
        if to < timedelta(0):
            raise ValueError(f"a clock cannot be moved backwards, by {to}")
        return self._now + to

    def move_to(self, moment: datetime) -> None:
        """Move to `moment`; a moment in the past is ignored, because time does not run backwards."""
        self._now = max(self._now, _utc(moment))

    def advance(self, by: timedelta) -> None:
        """Move forward.

        Raises:
            ValueError: `by` is negative.
        """
        self._now = self.until(by)


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone; give an aware datetime, e.g. datetime.now(UTC)")
    return moment.astimezone(UTC)


def _nothing() -> None:
    """Cancel an alarm that was never set."""
