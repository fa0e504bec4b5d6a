"""Buses over stores that outlive them, on a clock that is moved: for middleware that keeps what it knows in a store."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from onwhen import EventBus, RuleSet, VirtualClock, create_memory_storage, create_sqlite_storage
from onwhen.engine.store import DeadLetter, Store, Timer

NOON = datetime(2026, 11, 5, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class Place:
    """A store, of which a bus is opened again and again.

    Args:
        store: makes it, or returns the same one.
    """

    def __init__(self, store: Callable[[], Store]) -> None:
        self.store = store
        self.clock = VirtualClock(NOON)

    @asynccontextmanager
    async def bus(self, *rule_sets: RuleSet, **options: Any) -> AsyncIterator[EventBus]:
        """Open a bus on what is stored."""
        async with EventBus(*rule_sets, store=self.store(), clock=self.clock, **options) as bus:
            yield bus


def place_of(kind: str, folder: Path) -> Place:
    """Return a place in memory, or in a file."""
    if kind == "sqlite":
        return Place(lambda: create_sqlite_storage(folder / "events.db"))
    memory = create_memory_storage()
    return Place(lambda: memory)


async def timers(bus: EventBus, subject: str) -> list[Timer]:
    """Return the timers of a subject."""
    return [timer async for timer in bus.store.timers(subject)]


async def dead(bus: EventBus) -> list[DeadLetter]:
    """Return the dead letters."""
    return [letter async for letter in bus.dead_letters()]
