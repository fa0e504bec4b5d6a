"""What happened, as text: every turn with its rules, what each did, and why others did not.

Belongs here: how outcomes are put into words. It must not know how a test got them, nor of pytest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from onwhen.engine.events import Event
from onwhen.engine.outcomes import Outcome, RuleRun
from onwhen.engine.rules import Rule, RuleSet
from onwhen.engine.state import Change
from onwhen.engine.store import Timer

__all__ = ["Chapter", "describe_event", "describe_timer", "tell"]

_LATEST: Final = 25  # turns that are told; a failing test is about the last of them
_SHOWN: Final = 100  # characters of a value


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
    data = "" if event.data is None else f" {_short(event.data)}"
    return f"{event.type} to {event.subject}{data}"


def describe_timer(timer: Timer) -> str:
    """Return what a timer will send, and when, on one line."""
    named = "" if timer.key == timer.event.id else f"{timer.key!r} of {timer.subject}: "
    return f"{named}{describe_event(timer.event)}, due {timer.due.isoformat(' ')}"


def _turn(chapter: Chapter, rule_sets: Sequence[RuleSet]) -> Iterator[str]:
    outcome = chapter.outcome
    yield f"{chapter.time.isoformat(' ', 'seconds')}  {describe_event(outcome.event)}"
    if not outcome.runs and outcome.error is None:
        names = ", ".join(rule_set.name for rule_set in rule_sets)
        yield f"    no rule is for this event and subject (rule sets: {names})"
    width = max((len(run.rule) for run in outcome.runs), default=0)
    status = max((len(run.status) for run in outcome.runs), default=0)
    rules = {rule.id: rule for rule_set in rule_sets for rule in rule_set}
    for run in outcome.runs:
        named = f"{run.status:{max(status + 1, 8)}}{run.rule:{width}}"
        yield f"    {named}{_because(run)}{_result(run, rules.get(run.rule))}".rstrip()
    if outcome.error is not None:
        yield f"    the event failed as a whole, nothing of it was kept: {_error(outcome.error)}"


def _because(run: RuleRun) -> str:
    if not run.property:
        return ""
    return f"  ({run.property} was changed{f' by {run.cause}' if run.cause else ''})"


def _result(run: RuleRun, rule: Rule | None) -> str:
    parts: list[str] = []
    if run.status == "skipped":
        parts.append(_missing(run, rule))
    if run.status == "stopped":
        parts.append(f"middleware {run.stopped_by} did not go on")
    if run.error is not None:
        parts.append(_error(run.error))
        if run.handled:
            parts.append("a middleware caught it")
        elif run.retry_at is not None and run.status == "postponed":
            parts.append(f"again at {run.retry_at.isoformat(' ', 'seconds')}")
        elif run.retry_at is not None:
            parts.append(f"attempt {run.attempt + 1} at {run.retry_at.isoformat(' ', 'seconds')}")
        else:
            parts.append("dead letter")
    parts.extend(_change(change) for change in run.changes)
    parts.extend(f"sent {describe_event(event)}" for event in run.messages)
    parts.extend(f"set timer {describe_timer(timer)}" for timer in run.timers)
    parts.extend(f"cancelled timer {key!r}" for key in run.cancelled)
    return f"  {'; '.join(parts)}" if parts else ""


def _missing(run: RuleRun, rule: Rule | None) -> str:
    if run.condition is not None:
        return f"condition {run.condition} did not hold"
    triggers = [] if rule is None else [str(trigger) for trigger in rule.triggers if trigger.guard is not None]
    return f"the values do not fit {' or '.join(triggers) or 'its trigger'}"


def _change(change: Change) -> str:
    if change.kind == "flushed":
        return "deleted the subject"
    if change.kind == "deleted":
        return f"deleted {change.property} (was {_short(change.old)})"
    return f"{change.property}: {_short(change.old)} -> {_short(change.new)}{' (muted)' if change.muted else ''}"


def _error(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
