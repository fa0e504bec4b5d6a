"""Why rules run and do not run, noted while it happens: which turns are explained, and what each rule was asked.

Belongs here: the choice of turns, and the tests of a rule with notes of them. It must not know how the notes are told
or kept. What is tested, in which order, and what comes of it is the same as where nobody takes notes.
"""

from __future__ import annotations

from hashlib import blake2b
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final

from onwhen.engine.explaining._conditions import Asked, Result, condition_asked, trigger_asked
from onwhen.engine.triggers import Guard, Trigger

if TYPE_CHECKING:
    from onwhen.engine.context import Context
    from onwhen.engine.outcomes import RuleRun
    from onwhen.engine.rulebook import Match

__all__ = ["fits", "is_sampled", "note_failure"]

_ALL: Final = 2.0**64


def is_sampled(correlation_id: str, share: float) -> bool:
    """Tell whether a cascade is in the sample; all processes say the same of it.

    Args:
        correlation_id: of its events.
        share: how many of all cascades are in the sample (0 to 1).
    """
    if share >= 1 or share <= 0:
        return share > 0
    digest = blake2b(correlation_id.encode(), digest_size=8, person=b"onwhen.explain").digest()
    return int.from_bytes(digest, "big") < share * _ALL


async def fits(match: Match, ctx: Context[Any], run: RuleRun) -> bool:
    """Tell whether a rule's trigger fits the values and its conditions hold, and note in its run why or why not."""
    notes: list[Asked] = []
    try:
        return _trigger_fits(match, ctx, run, notes) and await _conditions_hold(match, ctx, run, notes)
    finally:
        guards = sum(note.kind == "trigger" for note in notes)
        notes[guards:guards] = [_guard_asked(one, ctx, "not reached") for one in match.guards[guards:]]
        conditions = match.rule.conditions[len(notes) - len(match.guards) :]
        notes.extend(condition_asked(one.test, ctx, "not reached") for one in conditions)
        run.tests = tuple(notes)


def _trigger_fits(match: Match, ctx: Context[Any], run: RuleRun, notes: list[Asked]) -> bool:
    fitting = not match.guards
    for guard in match.guards:
        try:
            fitting = guard(ctx)
        except BaseException as error:
            notes.append(_guard_asked(guard, ctx, "raised", error))
            raise
        notes.append(_guard_asked(guard, ctx, "held" if fitting else "did not hold"))
        if fitting:
            break
    if not fitting:
        run.status = "skipped"
    return fitting


async def _conditions_hold(match: Match, ctx: Context[Any], run: RuleRun, notes: list[Asked]) -> bool:
    for condition in match.rule.conditions:
        try:
            holds = condition.test(ctx)
            if holds.__class__ is not bool and isawaitable(holds):
                holds = await holds
            holds = bool(holds)
        except BaseException as error:
            run.condition = condition
            notes.append(condition_asked(condition.test, ctx, "raised", error))
            raise
        notes.append(condition_asked(condition.test, ctx, "held" if holds else "did not hold"))
        if not holds:
            run.status, run.condition = "skipped", condition
            return False
    return True


def note_failure(match: Match, ctx: Context[Any], run: RuleRun, *, is_of_trigger: bool) -> None:
    """Note what a rule that has failed was asked, if nobody took notes when it was.

    The values are those after the run was undone.

    Args:
        match: the rule.
        ctx: what it was run with.
        run: where to note it; its condition is the one that raised, or None.
        is_of_trigger: a predicate of its trigger raised.
    """
    if run.tests:
        return
    if is_of_trigger:
        guards: Result = "raised" if len(match.guards) == 1 else "unknown"
    else:
        guards = "held" if len(match.guards) == 1 else "unknown"
    error = run.error
    notes = [_guard_asked(guard, ctx, guards, error if guards == "raised" else None) for guard in match.guards]
    result: Result = "not reached" if is_of_trigger else "held"
    for condition in match.rule.conditions:
        if condition is run.condition:
            notes.append(condition_asked(condition.test, ctx, "raised", error))
            result = "not reached"
        else:
            notes.append(condition_asked(condition.test, ctx, result))
    run.tests = tuple(notes)


def _guard_asked(guard: Guard, ctx: Context[Any], result: Result, error: BaseException | None = None) -> Asked:
    trigger = getattr(guard, "__self__", None)
    assert isinstance(trigger, Trigger)
    return trigger_asked(trigger, ctx, result, error)
