"""Checking rules: all that can be found wrong with them without running them.

Belongs here: which checks there are. It must not know how any of them works.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onwhen.analysis._check_cascades import cascades, muted_triggers
from onwhen.analysis._check_code import events, unknown, unknown_properties
from onwhen.analysis._check_triggers import duplicate_triggers, never_fires
from onwhen.analysis._findings import Finding, in_order
from onwhen.analysis._survey import Survey

__all__ = ["check"]


def check(survey: Survey, *, is_closed: bool = False, external: Sequence[str] = ()) -> tuple[Finding, ...]:
    """Return what is wrong with rules, or worth knowing of them; the worst first.

    Args:
        survey: the rules.
        is_closed: events come from these rules and go to them, but for those that are external; what nobody emits
            or handles is a warning then.
        external: types, or globs, of events that come from outside or go there.
    """
    return in_order(_all(survey, is_closed, external))


def _all(survey: Survey, is_closed: bool, external: Sequence[str]) -> Iterator[Finding]:
    yield from cascades(survey)
    yield from never_fires(survey)
    yield from muted_triggers(survey)
    yield from duplicate_triggers(survey)
    yield from unknown_properties(survey)
    yield from events(survey, is_closed, external)
    yield from unknown(survey)
