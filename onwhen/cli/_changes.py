"""What is worth telling of a worker while it runs: which partitions it owns, and whether it keeps up.

Belongs here: comparing how it is with how it was. It must not know where that is told.
"""

from __future__ import annotations

from typing import Final

from onwhen.cli._own import ranges
from onwhen.engine.status import WorkerStatus

__all__ = ["Changes"]

_PATIENCE: Final = 2.0  # seconds; what is over sooner, such as a partition on its way, is not told


class Changes:
    """Tells changes between looks at a worker."""

    def __init__(self) -> None:
        self._owned: tuple[frozenset[int], int] | None = None
        self._was_ready = True
        self._unready_since: float | None = None

    def of(self, status: WorkerStatus, now: float) -> list[str]:
        """Return what has changed, a line each.

        Args:
            status: how it is.
            now: when that is (seconds, monotonic).
        """
        told = []
        if (status.owned, status.share) != self._owned:
            self._owned = (status.owned, status.share)
            share = "" if len(status.owned) == status.share else f"; its share is {status.share}"
            numbers = ranges(status.owned)
            told.append(f"owns {len(status.owned)} of {status.partitions} partitions: {numbers}{share}")
        if status.is_ready:
            if not self._was_ready:
                told.append("is ready again")
            self._was_ready, self._unready_since = True, None
        elif self._unready_since is None:
            self._unready_since = now
        elif self._was_ready and now - self._unready_since >= _PATIENCE:
            self._was_ready = False
            told.append(f"is not ready: {status.reason}")
        return told
