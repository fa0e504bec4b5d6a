"""Cycles, named: how a cascade that does not end says which rules and properties it runs through.

Belongs here: pure functions from the causes of an occurrence or an event to a readable cycle. They must not
know what the limits are, nor what happens past them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from onwhen.engine import values
from onwhen.engine.events import Event

if TYPE_CHECKING:
    from onwhen.engine.occurrences import Occurrence

__all__ = ["TRAIL", "cycle_of_messages", "cycle_of_reactions", "trail"]

TRAIL: Final = "cascadetrail"
"""Extension attribute of a message deep in a chain, as JSON: the last rules and event types that led to it."""

_STEPS: Final = 16  # how much of a chain is remembered; ordinary messages are far from the limit and carry nothing


def cycle_of_reactions(occurrence: Occurrence) -> str:
    """Return the cycle that led to a property event, as `rule -> property -> rule`."""
    steps: list[str] = []
    current: Occurrence | None = occurrence
    while current is not None and current.parent is not None:
        steps += [current.property_name or current.type, current.cause[0]]
        current = current.parent
    return _cycle(steps[::-1])


def cycle_of_messages(event: Event) -> str:
    """Return the cycle that led to a message, as `rule -> event type -> rule`."""
    return _cycle(_steps_to(event))


def trail(cause: Event, limit: int, rule: str, event_type: str) -> str | None:
    """Return the trail of a message that a rule sends because of another, or None while it is far from the limit.

    Args:
        cause: what the rule was run on.
        limit: how deep a chain of messages may be.
        rule: id of the rule.
        event_type: type of the message.
    """
    if cause.depth < limit - _STEPS:
        return None
    return values.encode([*_steps_to(cause)[-2 * _STEPS :], rule, event_type]).decode()


def _steps_to(event: Event) -> list[str]:
    """Return what an event's trail says; it may have come from outside, so it may say anything."""
    try:
        steps = values.decode(str(event.extensions[TRAIL]).encode())
    except (KeyError, ValueError):
        return [event.type]
    return [str(step) for step in steps] if isinstance(steps, list) else [event.type]


def _cycle(steps: Sequence[str]) -> str:
    """Cut a way of (rule, what it caused) pairs down to its last time around, and what branches off from there."""
    for last in range(len(steps), 2, -2):
        for end in range(last - 2, 1, -2):
            if steps[end - 2 : end] == steps[last - 2 : last]:
                return " -> ".join([*steps[end:last], steps[end]]) + "".join(f", then {step}" for step in steps[last:])
    return " -> ".join(steps)
