"""Cascades that may not end, and reactions that nothing sets off.

Belongs here: findings about who sets off whom. It must not know how that is found out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from onwhen.analysis._cycles import Cycle, cycles_of
from onwhen.analysis._findings import Finding, Severity, finding
from onwhen.analysis._flow import Step, reacts, steps_of
from onwhen.analysis._survey import SeenRule, Survey

__all__ = ["cascades", "muted_triggers"]

_SEVERITIES: Final[dict[str, Severity]] = {"endless": "error", "guarded": "warning", "later": "info"}


def cascades(survey: Survey) -> Iterator[Finding]:
    """Find rules that set off each other in a circle."""
    rules = {rule.id: rule for rule in survey.rules}
    steps = steps_of(survey)
    for cycle in cycles_of(steps, {rule.id: rule.reading.writes for rule in survey.rules}):
        first = cycle.steps[0]
        yield finding("cascade", _SEVERITIES[cycle.grade], rules[first.source], _told(cycle), first.place)


def _told(cycle: Cycle) -> str:
    way = " -> ".join([*(part for step in cycle.steps for part in (step.source, _via(step))), cycle.steps[0].source])
    if cycle.grade == "later":
        return (
            f"{way}: it comes back to itself after a time, for as long as no condition ends that; fine for a schedule"
        )
    has_reactions = any(step.kind == "reaction" for step in cycle.steps)
    has_messages = any(step.kind == "message" for step in cycle.steps)
    ends = "a chain of 64 messages" if has_messages else "256 reactions"
    ways_out = []
    if has_reactions:
        ways_out.append("write the property muted, or leave it out by a condition")
    if has_messages:
        ways_out.append("send the event with a delay, or under a condition that does not hold for ever")
    if cycle.grade == "endless":
        return f"{way}: it never ends, the engine would cut it off after {ends}; {'; or '.join(ways_out)}"
    return f"{way}: it ends only if a condition or a value ends it, or is cut off after {ends}; see that one does"


def _via(step: Step) -> str:
    mark = {"timer": " (timer)", "deferral": " (put off)"}.get(step.kind, "")
    through = f" (by middleware {step.through})" if step.through else ""
    return f"{step.via}{mark}{through}"


def muted_triggers(survey: Survey) -> Iterator[Finding]:
    """Find reactions to properties that rules do change, but only muted."""
    for rule in survey.rules:
        for trigger in rule.rule.triggers:
            for name in trigger.properties:
                alone = replace(rule, rule=replace(rule.rule, triggers=[replace(trigger, properties=(name,))]))
                seen, muted = _writers(survey, alone)
                if muted and not seen:
                    told = (
                        f"{', '.join(dict.fromkeys(muted))} {'change' if len(set(muted)) > 1 else 'changes'} it muted"
                    )
                    yield finding(
                        "muted-trigger",
                        "warning",
                        rule,
                        f"{trigger}: {told}, and no other rule changes it, so only a change from outside fires "
                        f"this; leave out muted=True if it is meant to",
                    )


def _writers(survey: Survey, rule: SeenRule) -> tuple[bool, list[str]]:
    """Return whether any rule sets off a reaction, and the ids of those that would, were they not muted."""
    muted: list[str] = []
    for other in survey.rules:
        for write in other.reading.writes:
            if write.property.is_unknown or reacts(write, other.rule.subject, rule) != "never":
                return True, muted
            if write.is_muted and reacts(replace(write, is_muted=False), other.rule.subject, rule) != "never":
                muted.append(other.id)
    return False, muted
