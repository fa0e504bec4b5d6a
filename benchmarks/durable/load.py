"""What the durable store is measured with: 1,000 subjects, and one rule that changes two properties of one.

Belongs here: the rule, and emitters that wait for their receipts. It must not know which store is behind the bus, nor
how long anything takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Final

from benchmarks.rounds import BenchmarkError
from onwhen import Context, EventBus, RuleSet, Subject
from onwhen.engine.store import Store

__all__ = ["SUBJECTS", "Device", "Load", "Program"]

SUBJECTS: Final = 1_000
"""How many subjects the events go to in turn, unless something else is asked for (a count)."""


class Device(Subject, prefix="device:"):
    level: int = -1
    readings: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much is emitted.

    Attributes:
        emitters: how many wait for a receipt at the same time (a count).
        turns: how many events are emitted, all emitters together (a count).
        subjects: how many subjects they go to in turn (a count).
    """

    emitters: int
    turns: int
    subjects: int = SUBJECTS


class Program:
    """A bus with the rule, and those who emit.

    Args:
        store: where all of it is kept.
        subjects: how many subjects the events go to in turn (a count).
    """

    def __init__(self, store: Store, subjects: int = SUBJECTS) -> None:
        devices = RuleSet("devices", subject=Device)

        @devices.on("device.measured")
        def measure(ctx: Context[Device]) -> None:
            ctx.subject.level = ctx.payload["level"]
            ctx.subject.readings += 1
            self._fired += 1

        self.bus = EventBus(devices, store=store)
        self._subjects = subjects
        self._levels = count()
        self._fired = 0

    async def warm_up(self) -> None:
        """Make every subject, and see it a second time; from then on the engine knows its state."""
        await self.emit(Load(emitters=min(self._subjects, 256), turns=2 * self._subjects))

    async def emit(self, load: Load) -> None:
        """Emit events, and wait until all of them are handled.

        Raises:
            BenchmarkError: an event was not handled, or the rule has not run once for each.
        """
        before, levels = self._fired, islice(self._levels, load.turns)
        async with asyncio.TaskGroup() as group:
            for _ in range(load.emitters):
                group.create_task(self._emit(levels))
        if self._fired - before != load.turns:
            raise BenchmarkError(f"{load.turns} events were emitted, but the rule ran {self._fired - before} times")

    async def one(self) -> None:
        """Emit one event, and wait until it is handled."""
        await self._emit_one(next(self._levels))

    async def _emit(self, levels: Iterator[int]) -> None:
        for level in levels:
            await self._emit_one(level)

    async def _emit_one(self, level: int) -> None:
        """Emit the event that sets this level; no level is set twice, so that each is a change."""
        receipt = await self.bus.emit("device.measured", f"device:{level % self._subjects}", {"level": level})
        if receipt.status != "handled":
            raise BenchmarkError(f"{receipt.event.type} to {receipt.event.subject} is {receipt.status}, not handled")
