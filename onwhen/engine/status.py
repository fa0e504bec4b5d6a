"""How a worker fares, as data and in words.

Belongs here: what is told of a worker. It must not know how that is found out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from onwhen.engine.tenure import Tenure

__all__ = ["WorkerStatus", "told_of"]

_TURNS_TOLD: Final = 3  # turns that a worker without progress names (a count)


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker fares.

    Attributes:
        id: its name among the workers.
        owned: partitions whose turns it runs.
        share: how many partitions it should own (a count).
        partitions: how many there are (a count).
        backlog: pending events of those that it owns, when it last looked (a count).
        oldest_age: for how long the oldest of them was pending then that could be handled (seconds); None if none
            could: what waits behind a retry or a parked rule waits for that.
        backlogs: partition -> pending events, of each partition that it owns or that is in `unowned` (a count).
        oldest_ages: partition -> the same of each of them (seconds), if there is such an event; of one in `unowned`,
            the age of the oldest pending event at all.
        unowned: partitions that no living worker owned when it last looked.
        is_ready: it owns its share, and the oldest pending event is not too old.
        reason: why it is not ready; "" if it is.
        turns: turns that it has committed (a count).
        last_progress_age: since when it has got nowhere though it had something to do (seconds).
    """

    id: str
    owned: frozenset[int]
    share: int
    partitions: int
    backlog: int
    oldest_age: float | None
    is_ready: bool
    reason: str
    turns: int
    last_progress_age: float
    backlogs: Mapping[int, int] = {}
    oldest_ages: Mapping[int, float] = {}
    unowned: frozenset[int] = frozenset()


def told_of(tenures: Iterable[Tenure]) -> str:
    """Return which turns are under way, the first ones by name."""
    works = [work for tenure in tenures for work in tenure.active()]
    told = [f"{work.event.type} to {work.event.subject}" for work in works[:_TURNS_TOLD]]
    more = len(works) - len(told)
    return ", ".join(told) + (f", and {more} more" if more > 0 else "")
