"""One seed of a fleet from beginning to end: drawn, lived through and judged.

Belongs here: what a caller needs to run seeds and to read what came of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.simulation.fleet.checker import FleetChecker
from tests.simulation.fleet.history import Story
from tests.simulation.fleet.plan import FleetPlan, fleet_plan_of
from tests.simulation.fleet.world import FleetWorld

__all__ = ["FleetResult", "report_of", "simulate_fleet"]


@dataclass(frozen=True, slots=True)
class FleetResult:
    """What came of a seed; `violation` is empty if all was well."""

    plan: FleetPlan
    story: Story
    violation: str
    seconds: float

    def lines(self) -> list[str]:
        """Return the whole story."""
        return self.story.lines()

    def report(self) -> str:
        """Return what there is to say of a seed that failed, with how to see it again."""
        trace = "\n".join(f"  {line:.300}" for line in self.story.lines(latest=40))
        return (
            f"seed {self.plan.seed}: {self.violation}\n{self.plan}\nthe last steps:\n{trace}\n"
            f"again, with the whole story: python -m tests.simulation --fleet --seed {self.plan.seed}"
        )


def simulate_fleet(seed: int) -> FleetResult:
    """Run a seed."""
    plan = fleet_plan_of(seed)
    world = FleetWorld(plan)
    violation = _said(world.run)
    checker = FleetChecker(plan.partitions, plan.skew)
    emitted = [action.tag for action in plan.actions if action.event is not None]
    # What has gone wrong on the way is the reason of what is wrong at the end, most often.
    violation = _said(lambda: checker.go_through(world.story.notes)) or violation
    violation = violation or _said(lambda: checker.conclude([part.state for part in world.server.partitions], emitted))
    return FleetResult(plan, world.story, violation, world.time)


def _said(part: Callable[[], None]) -> str:
    """Do something; return what is said if it fails. Whatever it is, it belongs to this seed."""
    try:
        part()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def report_of(seed: int) -> tuple[int, str]:
    """Run a seed; return it, and what there is to say if it failed. Called in other processes."""
    result = simulate_fleet(seed)
    return seed, result.report() if result.violation else ""
