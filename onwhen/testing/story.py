"""What happened, as text: every turn with its rules, what each did, and why others did not.

Belongs here: which turns are told, and what a test may have forgotten. It must not know how a test got them, nor of
pytest; how an outcome is put into words is `onwhen.engine.explaining.telling`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from onwhen.engine.events import Event
from onwhen.engine.explaining import account_of_event, account_of_outcome
from onwhen.engine.explaining.telling import Branch, headline, lines, of_turn
from onwhen.engine.outcomes import Outcome
from onwhen.engine.rules import RuleSet
from onwhen.engine.store import Timer

__all__ = ["Chapter", "describe_event", "describe_timer", "tell"]

_LATEST: Final = 25  # turns that are told; a failing test is about the last of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """One turn.

    Attributes:
        time: when it was committed, by the harness's clock.
        outcome: what came of it.
    """

    time: datetime
    outcome: Outcome


def tell(chapters: Sequence[Chapter], rule_sets: Sequence[RuleSet]) -> str:
    """Return what happened, the latest turns last.

    Args:
        chapters: the turns, in order.
        rule_sets: whose rules could have run.
    """
    if not rule_sets:
        return "no rules are included: name rule sets with @pytest.mark.onwhen(...) or harness.include(...)"
    if not chapters:
        return "nothing happened: no event was handled"
    lines = ["what happened:"]
    if len(chapters) > _LATEST:
        lines.append(f"  ({len(chapters) - _LATEST} earlier turns are not shown)")
    for chapter in chapters[-_LATEST:]:
        lines.extend(f"  {line}" for line in _turn(chapter, rule_sets))
    return "\n".join(lines)


def describe_event(event: Event) -> str:
    """Return type, receiver and data of an event on one line."""
    return headline(account_of_event(event))


def describe_timer(timer: Timer) -> str:
    """Return what a timer will send, and when, on one line."""
    named = "" if timer.key == timer.event.id else f"{timer.key!r} of {timer.subject}: "
    return f"{named}{describe_event(timer.event)}, due {timer.due.isoformat(' ')}"


def _turn(chapter: Chapter, rule_sets: Sequence[RuleSet]) -> Iterator[str]:
    outcome = chapter.outcome
    event = account_of_outcome(outcome)
    inside = [branch for turn in event.turns for branch in of_turn(turn)]
    if not outcome.runs and outcome.error is None:
        names = ", ".join(rule_set.name for rule_set in rule_sets)
        inside = [Branch(f"no rule is for this event and subject (rule sets: {names})", "note")]
    again = f" again, only {outcome.rule}" if outcome.rule else ""
    when = chapter.time.isoformat(" ", "seconds")
    return lines(Branch(f"{when}  {headline(event)}{again}", "event", inside))
