"""What is done under chaos: which event goes where, what its rules do with it, and what has to come of it.

Belongs here: pure functions of the number of an event. Rules ask them what to do, and the judge what must have been
done. They must not know of stores or processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from zlib import crc32

__all__ = ["ACCOUNTS", "EMITTERS", "ITEMS", "chance", "fails", "item_of", "mix", "next_of", "numbers_of"]

EMITTERS: Final = 12  # who emit at the same time, each one event after the other (a count)
ITEMS: Final = 50  # subjects that events are addressed to (a count)
ACCOUNTS: Final = 5  # subjects that are changed from outside (a count)


def item_of(emitter: int, number: int) -> int:
    """Return which item an event is addressed to: each one in turn."""
    return (number + 7 * emitter) % ITEMS


def next_of(emitter: int, number: int) -> int:
    """Return which item the message of an event is addressed to."""
    return (13 * number + emitter) % ITEMS


def numbers_of(emitter: int, item: int, last: int) -> Iterator[int]:
    """Go through the numbers of an emitter's events to an item, up to the last that was emitted."""
    return iter(range((item - 7 * emitter) % ITEMS, last + 1, ITEMS))


def chance(emitter: int, number: int, what: str) -> float:
    """Return a number from 0 to 1 that depends on the event alone."""
    return mix(emitter, number, what) / 0x100000000


def mix(emitter: int, number: int, what: str = "") -> int:
    """Return a number of 32 bits that stands for an event; the sum of many says which ones they are."""
    return crc32(f"{emitter}/{number}/{what}".encode())


def fails(emitter: int, number: int, rule: str) -> int:
    """Return how often a rule fails on an event; 99 stands for always."""
    lot = chance(emitter, number, rule)
    return 99 if lot < 0.004 else 2 if lot < 0.02 else 1 if lot < 0.08 else 0
