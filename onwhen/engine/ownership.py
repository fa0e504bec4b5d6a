"""Which partitions a worker should own, and for how long it may trust that it does: pure functions.

It must not know of stores, nor how a partition is taken or handed over.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random
from typing import Final

__all__ = ["TRUST", "candidates", "fair_share", "surplus"]

TRUST: Final = 0.6  # of a lease, from when it was asked for: clocks of two machines do not run at the same speed


def fair_share(worker: str, living: Sequence[str], partitions: int) -> int:
    """Return how many partitions a worker should own.

    Shares differ by one at most. A worker that has its share keeps what it has, whichever others come and go: only
    what is too much moves.

    Args:
        worker: its id.
        living: ids of all workers that live; it counts as one of them.
        partitions: how many there are (a count).
    """
    all_living = sorted({*living, worker})
    least, more = divmod(partitions, len(all_living))
    return least + (all_living.index(worker) < more)


def surplus(owned: Collection[int], share: int) -> list[int]:
    """Return the partitions that a worker should hand over, highest first."""
    return sorted(owned, reverse=True)[: max(0, len(owned) - share)]


def candidates(partitions: int, owned: Collection[int], worker: str, round: int) -> list[int]:
    """Return the partitions that a worker may try to take, in its own order, so that not all try the same first.

    Args:
        partitions: how many there are (a count).
        owned: those that it has, or has just had.
        worker: its id.
        round: how often it has tried before (a count).
    """
    others = [number for number in range(partitions) if number not in owned]
    Random(f"{worker} {round}").shuffle(others)
    return others
