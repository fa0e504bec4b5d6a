"""Which partitions a worker is told to own: `0-15,20`, or its place among equals, `3/8`.

Belongs here: reading and writing such texts. It must not know what a worker does with them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from onwhen.cli._options import UsageError

__all__ = ["owned", "ranges"]

_HOW = "give partitions, such as 0-15,20, or a place among equals, such as 3/8 or worker-3/8"


def owned(text: str, partitions: int) -> frozenset[int]:
    """Return the partitions that a text means.

    Args:
        text: numbers and ranges of them (`0-15,20`); or the place of a worker, from 0, and how many there are (`3/8`),
            for every eighth partition. Before the place there may be a name and a hyphen, as in the host names of a
            StatefulSet: `worker-3/8`.
        partitions: how many there are.

    Raises:
        UsageError: the text means nothing, or nothing that is there.
    """
    place = re.fullmatch(r"(?:.*-)?(\d{1,9})/(\d{1,9})", text, re.ASCII)
    if place is not None:
        own = _every(int(place[1]), int(place[2]), partitions, text)
    else:
        own = frozenset(number for part in text.split(",") for number in _range(part, text))
    beyond = sorted(number for number in own if number >= partitions)
    if beyond:
        raise UsageError(f"--own {text}: there is no partition {beyond[0]}; there are {partitions}, from 0 on")
    return own


def _every(place: int, workers: int, partitions: int, text: str) -> frozenset[int]:
    if place >= workers:
        raise UsageError(f"--own {text}: places are counted from 0, so the last of {workers} is {workers - 1}")
    if place >= partitions:
        raise UsageError(f"--own {text}: there are {partitions} partitions, so nothing is left for that place")
    return frozenset(range(place, partitions, workers))


def _range(part: str, text: str) -> Iterable[int]:
    found = re.fullmatch(r"\s*(\d{1,6})(?:\s*-\s*(\d{1,6}))?\s*", part, re.ASCII)
    if found is None:
        raise UsageError(f"--own {text}: {_HOW}")
    first = int(found[1])
    last = first if found[2] is None else int(found[2])
    if last < first:
        raise UsageError(f"--own {text}: {part.strip()} ends before it begins")
    return range(first, last + 1)


def ranges(numbers: Collection[int]) -> str:
    """Write numbers shortly, in order: `0-3,7`; none as `none`."""
    parts: list[str] = []
    start = end = -1
    for number in sorted(numbers):
        if parts and number == end + 1:
            end = number
            parts[-1] = f"{start}-{end}"
        else:
            start = end = number
            parts.append(str(number))
    return ",".join(parts) or "none"
