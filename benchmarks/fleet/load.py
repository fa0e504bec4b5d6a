"""What every contender has to do: 1,000 subjects, and one rule that changes two properties of one.

Belongs here: data only. It must not import what is measured, because every contender's environment reads it.
"""

from __future__ import annotations

from typing import Final, TypeAlias

__all__ = ["BATCH", "EVENT_TYPE", "PREFIX", "SUBJECTS", "Contents", "contents_after", "subject_of"]

SUBJECTS: Final = 1_000
"""How many subjects the events go to in turn (a count)."""
PREFIX: Final = "device:"
EVENT_TYPE: Final = "device.measured"
BATCH: Final = 500
"""Events in one append while a backlog is made (a count)."""

Contents: TypeAlias = dict[str, tuple[int, int]]
"""Subject -> the level that was set last, and how often one was."""


def subject_of(number: int) -> str:
    """Return whom the event of this number goes to; its level is its number, so each event is a change."""
    return f"{PREFIX}{number % SUBJECTS}"


def contents_after(events: int) -> Contents:
    """Return what has to be stored after so many events, counted from 0."""
    return {
        f"{PREFIX}{n}": (n + (events - 1 - n) // SUBJECTS * SUBJECTS, (events - 1 - n) // SUBJECTS + 1)
        for n in range(min(SUBJECTS, events))
    }
