"""Numbers behind a layout: how far apart things go, and how often lines cross.

Belongs here: pure functions on numbers. It must not know of boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["crossings_of", "spread"]


def crossings_of(first: tuple[list[int], list[int]], second: tuple[list[int], list[int]]) -> int:
    """Count how often a line of the first crosses one of the second, which is below it; on both sides."""
    count = 0
    for upper, lower in zip(first, second, strict=True):
        for a in upper:
            for b in lower:
                if a > b:
                    count += 1
    return count


def spread(wanted: Sequence[float], apart: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return numbers in order, at least so far apart, as near to those wanted as can be (pool adjacent violators)."""
    offsets = [0.0]
    for gap in apart:
        offsets.append(offsets[-1] + gap)
    blocks: list[tuple[float, float, int]] = []  # mean, weight, how many
    for want, offset, weight in zip(wanted, offsets, weights, strict=True):
        mean, heavy, many = want - offset, weight, 1
        while blocks and blocks[-1][0] > mean:
            other, other_heavy, other_many = blocks.pop()
            mean = (mean * heavy + other * other_heavy) / (heavy + other_heavy)
            heavy, many = heavy + other_heavy, many + other_many
        blocks.append((mean, heavy, many))
    flat = [mean for mean, _, many in blocks for _ in range(many)]
    return [mean + offset for mean, offset in zip(flat, offsets, strict=True)]
