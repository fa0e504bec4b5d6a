"""What is measured: the cases, and the numbers that all contenders share.

Belongs here: data only. It must not import what is measured, because every contender's environment reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["CASES", "LEVEL", "MANY", "MIDDLEWARES", "SUBJECT", "TEMPERATURES", "THRESHOLD", "Case", "case_named"]

SUBJECT: Final = "device:7"
MANY: Final = 1_000
"""How many rules, each on an event type of its own, the second case has (a count)."""
MIDDLEWARES: Final = 3
LEVEL: Final = 20
"""What each event says; the conditions ask for more than THRESHOLD, so every rule fires."""
THRESHOLD: Final = 10
TEMPERATURES: Final = (85, 95)
"""Written in turn, so that each write is a change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to measure.

    Attributes:
        name: how it is called on the command line.
        title: how it is called in tables.
        work: what happens for each event, in one sentence.
        aim: how many times as fast as the peer onwhen wants to be (a ratio).
    """

    name: str
    title: str
    work: str
    aim: float


CASES: Final = (
    Case(
        name="rule",
        title="one event, one rule",
        work="An event is emitted to one async rule, whose condition on the payload holds.",
        aim=2.0,
    ),
    Case(
        name="many",
        title="1,000 rules, 3 middlewares",
        work="The same with 1,000 rules on 1,000 event types, emitted in turn, and 3 middlewares around each rule.",
        aim=100.0,
    ),
    Case(
        name="reaction",
        title="a change and a reaction",
        work="An event is emitted to an async rule that sets a property, and the change to an async rule with a "
        "condition on the new value.",
        aim=1.5,
    ),
)


def case_named(name: str) -> Case:
    """Return a case.

    Raises:
        LookupError: there is none of this name.
    """
    for case in CASES:
        if case.name == name:
            return case
    raise LookupError(f"no case {name!r}; there are {', '.join(case.name for case in CASES)}")
