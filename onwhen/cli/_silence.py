"""For how long something has said nothing, counted only while whoever listens was awake.

It must not know what is listened to.
"""

from __future__ import annotations

from time import monotonic

__all__ = ["Silence"]


class Silence:
    """Adds up time without a sign of life.

    A process that was stopped, or a machine that slept, hears nothing meanwhile; that does not count.

    Args:
        pause: time between two looks (seconds); of a longer one only twice as much is counted.
    """

    def __init__(self, pause: float) -> None:
        self._longest = 2 * pause
        self._before = monotonic()
        self._seconds = 0.0
        self._signs: object = None

    def look(self, signs: object) -> float:
        """Return for how long there was no sign (seconds).

        Args:
            signs: what changes with each sign of life, such as how many there were.
        """
        now = monotonic()
        passed, self._before = now - self._before, now
        if signs != self._signs:
            self._signs, self._seconds = signs, 0.0
        else:
            self._seconds += min(passed, self._longest)
        return self._seconds
