"""What metrics count while rules run: plain numbers, each at hand after one look into a dict.

Belongs here: counting, and the bounds on how many names are counted apart. It must not know how any of it is shown, nor
of Prometheus: all that runs for each event is here, and is to cost next to nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, TypeAlias

from onwhen.engine.events import SUBJECT_DELETED, SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED
from onwhen.engine.outcomes import Outcome
from onwhen.engine.rulebook import Rulebook
from onwhen.errors import Postponed

__all__ = ["OTHER", "Counts", "Distribution", "Durations"]

OTHER: Final = "(other)"
"""Stands for all types of events that are not counted apart."""

_RESERVED: Final = (SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED, SUBJECT_DELETED)

_Labelled: TypeAlias = "dict[tuple[str, str], int]"


class Distribution:
    """How many of some durations were how long.

    Args:
        bounds: upper bounds of the buckets, ascending (seconds).

    Attributes:
        counts: how many were at most as long as each bound, and longer than the one before; the last, longer than all.
        sum: all of them together (seconds).
    """

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def note(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.sum += seconds


class Durations(dict[str, Distribution]):
    """Distributions by name; one that is not there yet is made.

    Args:
        bounds: of all of them.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds

    def __missing__(self, name: str) -> Distribution:
        made = self[name] = Distribution(self._bounds)
        return made


class Counts:
    """Turns and runs of rules, by what came of them, and how long they took.

    Args:
        bounds: of the buckets (seconds).
        most_types: types of events that are counted apart (a count).

    Attributes:
        turns: type of event and outcome -> turns (a count).
        runs: rule and outcome -> runs (a count).
        turn_durations: by type of event.
        rule_durations: by rule.
    """

    def __init__(self, bounds: Sequence[float], most_types: int) -> None:
        self.turns: _Labelled = {}
        self.runs: _Labelled = {}
        self.turn_durations = Durations(bounds)
        self.rule_durations = Durations(bounds)
        self._most_types = most_types
        self._types: set[str] = set()

    def type_of(self, event_type: str, subject: str, rulebook: Rulebook) -> str:
        """Return the name under which a type of event is counted.

        Types come from outside, and there is no end to them: one that no rule is for has no name of its own, nor has
        one that comes when there are too many.
        """
        if event_type in self._types:
            return event_type
        if len(self._types) < self._most_types and (
            event_type in _RESERVED or rulebook.match(event_type, rulebook.subject_type(subject))
        ):
            self._types.add(event_type)
            return event_type
        return OTHER

    def note(self, rulebook: Rulebook, outcome: Outcome) -> None:
        """Count a turn that was committed, and all that ran in it."""
        event, error, word = outcome.event, outcome.error, "handled"
        runs = self.runs
        key: tuple[str, str]
        for run in outcome.runs:
            if run.rule:
                key = (run.rule, run.status)
                runs[key] = runs.get(key, 0) + 1
            elif run.status == "stopped":
                word = "stopped"
        if error is not None:
            word = "postponed" if isinstance(error, Postponed) else "failed"
        key = (self.type_of(event.type, event.subject, rulebook), word)
        self.turns[key] = self.turns.get(key, 0) + 1
