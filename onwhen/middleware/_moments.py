"""Moments as whole microseconds since the epoch, by which middleware decides exactly.

Belongs here: the way there and back. It must not know what is decided.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from onwhen.engine.context import Context

__all__ = ["AGREE", "delay_for", "iso", "micros"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

AGREE: Final = 5_000_000
"""Microseconds by which what workers know of one clock may differ, at most; who is behind by more was set back.

It is more than the time for which an answer of a store may be on its way (`_shared`).
"""


def micros(moment: datetime) -> int:
    """Return an aware moment as microseconds since the epoch."""
    return (moment - _EPOCH) // _MICROSECOND


def delay_for(ctx: Context[Any], wait: int) -> timedelta:
    """Return what `Postponed` has to say to put a run off for so many microseconds: its delay counts from the turn."""
    return timedelta(microseconds=max(wait + micros(ctx.bus.clock.now()) - micros(ctx.now), 0))


def iso(moment: int) -> str:
    """Return so many microseconds since the epoch as a moment in ISO 8601, UTC."""
    return (_EPOCH + timedelta(microseconds=moment)).isoformat()
