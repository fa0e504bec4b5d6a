"""One seed from beginning to end: drawn, lived through and judged.

Belongs here: what a caller needs to run seeds and to read what came of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from onwhen.engine.clock import SystemClock
from onwhen.engine.store import Store
from onwhen.storage import create_memory_storage
from tests.simulation.checker import Content, check
from tests.simulation.files import InlineSqliteStore
from tests.simulation.history import History
from tests.simulation.plan import Plan, plan_of
from tests.simulation.store import inline
from tests.simulation.world import World

__all__ = ["Result", "report_of", "simulate"]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a seed; `violation` is empty if all was well."""

    plan: Plan
    history: History
    violation: str

    def lines(self) -> list[str]:
        """Return the whole trace."""
        return self.history.lines()

    def report(self) -> str:
        """Return what there is to say of a seed that failed, with how to see it again."""
        trace = "\n".join(f"  {line:.300}" for line in self.history.lines(latest=40))
        return (
            f"seed {self.plan.seed}: {self.violation}\n{self.plan}\nthe last steps:\n{trace}\n"
            f"again, with the whole trace: python -m tests.simulation --seed {self.plan.seed}"
        )


def simulate(seed: int) -> Result:
    """Run a seed, some of them on a file."""
    plan = plan_of(seed)
    if not plan.on_file:
        return _judged(plan, create_memory_storage(partitions=plan.partitions))
    with TemporaryDirectory(prefix="onwhen-simulation-", ignore_cleanup_errors=True) as directory:
        path = Path(directory, "simulated.db")
        store = InlineSqliteStore(path, partitions=plan.partitions, synchronous="NORMAL")
        try:
            return _judged(plan, store)
        finally:
            store.crash()


def report_of(seed: int) -> tuple[int, str]:
    """Run a seed; return it, and what there is to say if it failed. Called in other processes."""
    result = simulate(seed)
    return seed, result.report() if result.violation else ""


def _judged(plan: Plan, store: Store) -> Result:
    world = World(plan, store)
    try:
        world.run()
        inline(store.open(SystemClock()))
        emitted = [action.tag for action in plan.actions if action.event is not None]
        check(world.history.records, content_of(store), emitted, plan.partitions)
    except Exception as error:  # whatever it is, it belongs to this seed
        return Result(plan, world.history, f"{type(error).__name__}: {error}")
    return Result(plan, world.history, "")


def content_of(store: Store) -> Content:
    """Return what a store holds."""
    partitions = range(store.partitions)
    return Content(
        subjects={
            record.name: ({name: json.loads(text) for name, text in record.properties.items()}, record.version)
            for record in inline(_listed(store.subjects()))
        },
        pending=[entry for number in partitions for entry in inline(store.read(number, None, 100_000))],
        timers=inline(_listed(store.timers())),
        retries=[retry for number in partitions for retry in inline(_listed(store.retries(number)))],
        dead=inline(_listed(store.dead_letters())),
    )


async def _listed(items: Any) -> list[Any]:
    return [item async for item in items]
