"""What a series of measurements says: medians, the middle half, percentiles, and tables of them.

Belongs here: arithmetic and text. It must not measure anything, nor know what was measured. Tables are Markdown, set
so that they can be read on a terminal and pasted into a page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

__all__ = ["chunks", "grid", "middle_half", "percentile", "rate", "ratio", "ratios", "spread", "times"]


def middle_half(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the middle half: of what lies below the median, and above it, the median."""
    ordered = sorted(values)
    half = (len(ordered) + 1) // 2
    return median(ordered[:half]), median(ordered[-half:])


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of the values that is not exceeded by this share of them (nearest rank).

    Args:
        values: at least one.
        share: more than 0, at most 1; 0.99 is the 99th percentile.
    """
    return sorted(values)[math.ceil(share * len(values)) - 1]


def chunks(values: Sequence[float], number: int) -> list[Sequence[float]]:
    """Cut a series into pieces of about the same length, as many as asked for, or as there are values."""
    number = min(number, len(values))
    return [values[n * len(values) // number : (n + 1) * len(values) // number] for n in range(number)]


def ratios(own: Sequence[float], other: Sequence[float]) -> tuple[float, ...]:
    """Return how many times the other the own one is, round by round: what slows both changes no ratio."""
    return tuple(mine / theirs for mine, theirs in zip(own, other, strict=True))


def rate(values: Sequence[float]) -> str:
    """Return the median of rates, per second."""
    return f"{median(values):,.0f}"


def spread(values: Sequence[float]) -> str:
    """Return the middle half of rates."""
    low, high = middle_half(values)
    return f"{low:,.0f} to {high:,.0f}"


def ratio(values: Sequence[float]) -> str:
    """Return the median of ratios and their middle half."""
    low, high = middle_half(values)
    return f"{median(values):.2f} ({low:.2f} to {high:.2f})"


def times(seconds: float) -> str:
    """Return a duration in milliseconds."""
    return f"{seconds * 1000:.2f} ms"


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the first column is text, the others are figures."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return f"| {' | '.join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)])} |"

    return "\n".join([line(head), line(rule), *map(line, rows)])
