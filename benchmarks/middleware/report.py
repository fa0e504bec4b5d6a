"""What the figures say: for each middleware, what it adds to an event, turn by turn.

Belongs here: pure functions from series to text. It must not measure anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from textwrap import fill

from benchmarks.durable.figures import grid, ratio, ratios, spread
from benchmarks.middleware.variants import BARE, Variant
from benchmarks.report import Machine
from benchmarks.rounds import Effort, Series

__all__ = ["Cost", "heading", "page", "table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One variant, measured beside the bare bus."""

    variant: Variant
    own: Series
    bare: Series

    @property
    def added(self) -> tuple[float, ...]:
        """How much more CPU time an event took than with the bare bus, turn by turn, in nanoseconds."""
        pairs = zip(self.own.cpu, self.bare.cpu, strict=True)
        return tuple(own - bare for own, bare in pairs)


def heading(costs: Sequence[Cost], machine: Machine, effort: Effort, versions: Mapping[str, str]) -> str:
    """Return where, when and how it was measured.

    Args:
        costs: at least one.
        machine: where.
        effort: how much.
        versions: of the libraries that take part, by their names.
    """
    bare = costs[0].bare
    cores = "1 core" if machine.cores == 1 else f"{machine.cores} cores"
    others = ", ".join(f"{name} {version}" for name, version in versions.items())
    told = f"onwhen {bare.version}, {others}; Python {bare.python}, {machine.system}, {machine.cpu}, {cores}; "
    told += (
        f"{machine.day}. CPU time per event: the median of {effort.rounds} rounds of about {effort.seconds:g} s, "
        f"and the middle half of them. Differences and ratios to the bare bus are taken turn by turn, then the same."
    )
    least = min(series.on_cpu for cost in costs for series in (cost.own, cost.bare))
    if least <= 0.97:
        told += f" The machine was busy: other programs had up to {1 - least:.0%} of the time, which slows caches too."
    return told


def table(costs: Sequence[Cost]) -> str:
    """Return what each variant adds, below the bare bus."""
    bare = costs[0].bare.cpu
    rows = [[BARE.title, f"{median(bare):,.0f}", spread(bare), "", "", ""]]
    for cost in costs:
        own, added = cost.own.cpu, cost.added
        more, times = (f"{median(added):+,.0f}", spread(added)), ratio(ratios(own, cost.bare.cpu))
        rows.append([cost.variant.title, f"{median(own):,.0f}", spread(own), *more, times])
    head = ("around one rule", "CPU, ns per event", "middle half", "more", "middle half", "times the bare bus")
    return grid(head, rows)


def page(heading: str, table: str) -> str:
    """Return the figures as a part of the documentation."""
    return f"{_PAGE}\n{table}\n\n{fill(heading, 120)}\n"


_PAGE = """\
## What middleware costs

One event to one async rule with a condition that holds, over a store in memory, one `await bus.emit(...)` after the
other; with nothing around it, and with one middleware, or those that most services run with. Nothing fails, and
nothing is held back: this is what a protection costs while all is well. Each variant is a process of its own; a turn
runs a round of each, so that a machine that becomes busier slows all. What counts is the process's CPU time, which
for work that waits for nothing is how long it takes. `make bench-middleware` measures on your machine.
"""
