"""What one commit of the engine should say, compared with what it does say.

Belongs here: pure functions on a commit, what it is about, and what was stored before. They must not know of the
history before, nor of what the store answered.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from onwhen.engine.events import SUBJECT_PROPERTY_CHANGED, Event
from onwhen.engine.store import Commit, DeadLetter, Retry
from tests.simulation.model import DEFAULTS, Expected, Failed, Mail, Values, is_typed, turn
from tests.simulation.rules import DELAY, POLICIES

__all__ = [
    "Handling",
    "Violation",
    "judge_end_of_parking",
    "judge_revival",
    "judge_session",
    "judge_turn",
    "values_after",
]

_MOST_JITTER: Final = 1.1  # of a policy's delay, and doubled for each attempt
_ROUNDING: Final = timedelta(microseconds=2)


class Violation(Exception):
    """The promise is broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handling:
    """What a turn's commit is about.

    Attributes:
        event: what was handled.
        retry: the waiting retry that was run; None if the event was handled for the first time.
        since: when the event was accepted, or when the retry was due.
        now: when the commit took effect.
        starts: how often the handling was noted to begin (a count).
        asked: ids of the events that rules have asked to be sent, so far.
        killers: ids of the events whose rules have killed a process, so far; "" if it was chance.
        stood_still: more time may have passed meanwhile than the rules have slept.
    """

    event: Event
    retry: Retry | None
    since: datetime
    now: datetime
    starts: int
    asked: Collection[str]
    killers: Collection[str]
    stood_still: bool = False


def judge_turn(commit: Commit, before: Values, about: Handling) -> None:
    """Compare the commit of a turn with the model's turn.

    Raises:
        Violation: they differ.
    """
    event, retry = about.event, about.retry
    late = _late_rules(commit) if about.stood_still else ()
    if retry is None or not retry.rule:
        expected = turn(commit.subject, before, event, late=late)
        if "" in late:
            expected = Expected(dict(before), is_late=True)
    else:
        expected = turn(commit.subject, before, event, retry.rule, retry.attempt, retry.first_attempt, late)
    if expected.is_poison or any(letter.failure.type.endswith("PoisonEvent") for letter in commit.dead):
        _judge_poison(commit, about)
        return
    if expected.is_late:
        expected.failed.append(_late(event, retry))
    _same("values", values_after(before, commit), expected.values, commit)
    _same("messages", [_mail(message) for message in commit.messages], expected.messages, commit)
    _same("timers", {timer.key: _mail(timer.event) for timer in commit.timers}, _undated(expected), commit)
    _same("cancelled timers", sorted(commit.cancelled), sorted(expected.cancelled), commit)
    _same("deletion", commit.cancel_all, expected.flushed, commit)
    _same("failures", _failures(commit), _sorted(expected.failed), commit)
    _judge_times(commit, expected, about)
    for sent in (*commit.messages, *(timer.event for timer in commit.timers)):
        if sent.id not in about.asked:
            raise Violation(f"{sent!r} was sent by no rule")


def _late_rules(commit: Commit) -> Collection[str]:
    """Return the rules that a commit says were late; "" for the turn as a whole."""
    set_aside = [(one.rule, one.failure) for one in (*commit.retries, *commit.dead)]
    return {rule for rule, failure in set_aside if failure.type.endswith("RuleTimeout")}


def _judge_poison(commit: Commit, about: Handling) -> None:
    event, retry = about.event, about.retry
    if about.starts < 3:
        raise Violation(f"{event!r} was called poison after {about.starts} starts")
    if event.id not in about.killers and "" not in about.killers:
        raise Violation(f"{event!r} was called poison, but has killed nothing, and nothing else has")
    rule = "" if retry is None else retry.rule
    if [letter.rule for letter in commit.dead] != [rule] or commit.write or commit.messages or commit.retries:
        raise Violation(f"{event!r} kills its process, and left more than a dead letter: {commit}")


def _judge_times(commit: Commit, expected: Expected, about: Handling) -> None:
    """A turn begins at some moment after what it is about, and before its commit; its delays count from then."""
    for timer in commit.timers:
        delay = timedelta(seconds=expected.timers[timer.key].delay or 0.0)
        if not about.since + delay - _ROUNDING <= timer.due <= about.now + delay + _ROUNDING:
            raise Violation(
                f"the timer {timer.key} of {timer.subject} was set for {timer.due}, which is not {delay} on"
            )
    for retry in commit.retries:
        wait = DELAY * 2 ** (retry.attempt - 1 - retry.first_attempt)
        earliest, latest = about.since + wait, about.now + wait * _MOST_JITTER + _ROUNDING
        if not retry.parked and not earliest <= retry.due <= latest:
            raise Violation(f"{retry.rule} is to be run again at {retry.due}, not between {earliest} and {latest}")


def judge_revival(commit: Commit, letter: DeadLetter) -> None:
    """A dead letter that is replayed becomes a retry, with a number that was not used before.

    Raises:
        Violation: it becomes something else.
    """
    again = [(retry.event, retry.rule, retry.attempt) for retry in commit.retries]
    if again != [(letter.event, letter.rule, letter.attempts + 1)]:
        raise Violation(
            f"the dead letter of {letter.rule} on {letter.event!r}, dead after {letter.attempts} attempts, is "
            f"replayed as {again}"
        )


def judge_end_of_parking(commit: Commit, retry: Retry) -> None:
    """What is parked is resumed, or given up; it is never run by itself.

    Raises:
        Violation: it was.
    """
    again = [(one.event, one.rule, one.attempt, one.parked) for one in commit.retries]
    given_up = [(one.event, one.rule, one.attempts) for one in commit.dead]
    is_resumed = again == [(retry.event, retry.rule, retry.attempt, False)] and not given_up
    is_skipped = given_up == [(retry.event, retry.rule, retry.attempt - 1)] and not again
    if commit.write or commit.messages or not (is_resumed or is_skipped):
        raise Violation(f"the parked {retry.rule} of {retry.subject} ended otherwise than it may: {commit}")


def judge_session(commit: Commit, before: Values) -> str:
    """A session adds to a number and leaves a note that says which one it is, and how much it adds.

    Returns:
        Which one it is.

    Raises:
        Violation: it has done something else.
    """
    if commit.write is None or "note" not in commit.write.set:
        raise Violation(f"a commit that nobody has asked for: {commit}")
    note = json.loads(commit.write.set["note"])
    tag, _, amount = note.partition("+")
    old = {**(DEFAULTS if is_typed(commit.subject) else {}), **before}
    new = {"n": (old.get("n") or 0) + int(amount), "note": note}
    _same("values", values_after(before, commit), {**before, **new}, commit)
    wanted = [
        Mail(
            SUBJECT_PROPERTY_CHANGED,
            commit.subject,
            {"property_name": name, "old_value": old.get(name), "value": value},
        )
        for name, value in new.items()
    ]
    _same("messages", [_mail(message) for message in commit.messages], wanted, commit)
    return str(tag)


def _same(what: str, found: Any, wanted: Any, commit: Commit) -> None:
    if what == "values" and is_typed(commit.subject):
        found, wanted = DEFAULTS | found, DEFAULTS | wanted
    if found != wanted:
        raise Violation(f"{what} of a turn of {commit.subject}:\n  found  {found}\n  wanted {wanted}")


def values_after(before: Values, commit: Commit) -> Values:
    """Return the properties of a subject after a commit."""
    write = commit.write
    if write is None:
        return before
    if write.remove:
        return {}
    gone = set(write.delete)
    kept = {name: value for name, value in before.items() if name not in gone}
    return kept | {name: json.loads(text) for name, text in write.set.items()}


def _mail(event: Event) -> Mail:
    return Mail(event.type, event.subject, event.data)


def _undated(expected: Expected) -> dict[str, Mail]:
    return {key: Mail(mail.type, mail.subject, mail.data) for key, mail in expected.timers.items()}


def _on(event: Event) -> str:
    data = event.data
    return f"n={data['value']}" if event.type == SUBJECT_PROPERTY_CHANGED else data["tag"]


def _failures(commit: Commit) -> list[Failed]:
    retries = [
        Failed(retry.rule, _on(retry.event), retry.attempt - 1, False, retry.in_order, retry.parked)
        for retry in commit.retries
    ]
    dead = [Failed(letter.rule, _on(letter.event), letter.attempts, True) for letter in commit.dead]
    return _sorted(retries + dead)


def _late(event: Event, retry: Retry | None) -> Failed:
    """Return what is left of a turn that took too long."""
    if retry is None or not retry.rule:
        return Failed("", _on(event), 1 if retry is None else retry.attempt, True)
    attempts, in_order, parks = POLICIES[retry.rule.partition(".")[2]]
    is_last = retry.attempt - retry.first_attempt + 1 >= attempts
    return Failed(retry.rule, _on(event), retry.attempt, is_last and not parks, in_order, is_last and parks)


def _sorted(failed: Iterable[Failed]) -> list[Failed]:
    def plain(one: Failed) -> Failed:
        return Failed(one.rule, one.on, one.attempt, True) if one.dead else one

    return sorted(map(plain, failed), key=lambda one: (one.dead, one.rule, one.on, one.attempt))
