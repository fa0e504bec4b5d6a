"""Which partition a subject belongs to: a pure function of its name, the same in every process and release.

Belongs here: that, and what a text such as `0-15,20` or `3/8` means. It must not know who owns a partition, nor what is
kept in one. Python's own `hash` differs from process to process, so it is of no use here.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from typing import Final

__all__ = ["owned", "partition_of"]

_HOW: Final = "give partitions, such as 0-15,20, or a place among equals, such as 3/8 or worker-3/8"


def partition_of(subject: str, partitions: int) -> int:
    """Return the partition of a subject.

    Args:
        subject: name of the subject.
        partitions: how many partitions there are (at least 1).

    Returns:
        A number from 0 to `partitions - 1`: CRC-32 (ISO 3309) of the name's UTF-8, modulo `partitions`.
    """
    return zlib.crc32(subject.encode()) % partitions


def owned(text: str, partitions: int) -> frozenset[int]:
    """Return the partitions that a text means.

    Args:
        text: numbers and ranges of them (`0-15,20`); or the place of a worker, from 0, and how many there are (`3/8`),
            for every eighth partition. Before the place there may be a name and a hyphen, as in the host names of a
            StatefulSet: `worker-3/8`.
        partitions: how many there are.

    Raises:
        ValueError: the text means nothing, or nothing that is there; the message says what could be meant.
    """
    place = re.fullmatch(r"(?:.*-)?(\d{1,9})/(\d{1,9})", text, re.ASCII)
    if place is not None:
        own = _every(int(place[1]), int(place[2]), partitions)
    else:
        own = frozenset(number for part in text.split(",") for number in _range(part))
    beyond = sorted(number for number in own if number >= partitions)
    if beyond:
        raise ValueError(f"there is no partition {beyond[0]}; there are {partitions}, from 0 on")
    return own


def _every(place: int, workers: int, partitions: int) -> frozenset[int]:
    if not workers:
        raise ValueError(_HOW)
    if place >= workers:
        raise ValueError(f"places are counted from 0, so the last of {workers} is {workers - 1}")
    if place >= partitions:
        raise ValueError(f"there are {partitions} partitions, so nothing is left for that place")
    return frozenset(range(place, partitions, workers))


def _range(part: str) -> Iterable[int]:
    found = re.fullmatch(r"\s*(\d{1,6})(?:\s*-\s*(\d{1,6}))?\s*", part, re.ASCII)
    if found is None:
        raise ValueError(_HOW)
    first = int(found[1])
    last = first if found[2] is None else int(found[2])
    if last < first:
        raise ValueError(f"{part.strip()} ends before it begins")
    return range(first, last + 1)
