"""Moments as whole microseconds since the epoch, by which middleware decides exactly.

Belongs here: the way there and back. It must not know of clocks.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["iso", "micros", "span"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def micros(moment: datetime) -> int:
    """Return an aware moment as microseconds since the epoch."""
    return (moment - _EPOCH) // _MICROSECOND


def span(microseconds: int) -> timedelta:
    """Return so many microseconds; nothing if there are less than none."""
    return timedelta(microseconds=max(microseconds, 0))


def iso(moment: int) -> str:
    """Return so many microseconds since the epoch as a moment in ISO 8601, UTC."""
    return (_EPOCH + timedelta(microseconds=moment)).isoformat()
