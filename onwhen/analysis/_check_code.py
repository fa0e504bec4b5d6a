"""Properties and events in the code of rules that nobody has, handles or emits.

Belongs here: findings about single effects. It must not know how code is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Final

from onwhen.analysis._effects import Emission, Read, Write
from onwhen.analysis._findings import Finding, Severity, finding, suggestion
from onwhen.analysis._flow import reach
from onwhen.analysis._sources import Place
from onwhen.analysis._survey import SeenMiddleware, SeenRule, Survey
from onwhen.analysis._texts import Text, is_glob, meets
from onwhen.analysis._values import classes_of
from onwhen.engine.events import SUBJECT_DELETED, SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED
from onwhen.engine.fields import TypedCodec
from onwhen.engine.subjects import Subject

__all__ = ["events", "unknown", "unknown_properties"]

_RESERVED: Final = (SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED, SUBJECT_DELETED)
_LIKENESS: Final = 0.9  # of two event types (a ratio); below it they are two words


# -- properties --------------------------------------------------------------------------------------------------


def unknown_properties(survey: Survey) -> Iterator[Finding]:
    """Find properties in the code of rules that the class of their subjects does not have."""
    for rule in survey.rules:
        reads = (*rule.asked.reads, *rule.reading.reads)
        asked = {read.property for read in reads if read.is_question}  # who asks first does nothing if it is not there
        for read in reads:
            if (problem := _problem(read, read.subject)) is not None:
                is_doubtful = read.is_doubtful or read.property in asked
                severity: Severity = "warning" if is_doubtful else "error"
                verb = "asks for" if read.is_question else "reads"
                yield finding("unknown-property", severity, rule, f"{verb} {problem}", read.place)
        for write in rule.reading.writes:
            if (problem := _problem(write, rule.rule.subject)) is not None:
                is_doubtful = write.is_doubtful or (write.property in asked and not write.is_certain)
                verb = {"set": "sets", "delete": "deletes"}.get(write.verb, "changes")
                severity = "warning" if is_doubtful else "error"
                yield finding("unknown-property", severity, rule, f"{verb} {problem}", write.place)


def _problem(access: Read | Write, subject: type[Subject]) -> str | None:
    codec, name = subject._codec, str(access.property)
    if access.is_narrowed or not access.property.is_exact or not isinstance(codec, TypedCodec):
        return None
    if any(not isinstance(cls._codec, TypedCodec) or name in cls._codec.declared for cls in classes_of(subject)):
        return None
    if name in codec.computed:
        return None if isinstance(access, Read) else f"{codec.owner}.{name}, which is computed; set what it is made of"
    if name in dir(subject):
        is_read = isinstance(access, Read) and access.is_question
        return None if is_read else f"{codec.owner}.{name}, which is no property; every subject has that name itself"
    advice = suggestion(name, codec.declared) or f"it declares {', '.join(codec.declared)}"
    return f"{name!r}, and {codec.owner} has no such property; {advice}"


# -- events ------------------------------------------------------------------------------------------------------


def events(survey: Survey, is_closed: bool, external: Sequence[str]) -> Iterator[Finding]:
    """Find events that nobody handles, that nobody emits, or that go to the wrong subjects.

    Args:
        survey: the rules.
        is_closed: nothing comes from outside or goes there, but what is external.
        external: types, or globs, of events that do.
    """
    severity: Severity = "warning" if is_closed else "info"
    for who, emission in survey.emissions():
        if not emission.type.is_unknown:
            yield from _unhandled(survey, who, emission, severity, external)
    yield from _unemitted(survey, severity, external)


def _unhandled(
    survey: Survey,
    who: SeenRule | SeenMiddleware,
    emission: Emission,
    severity: Severity,
    external: Sequence[str],
) -> Iterator[Finding]:
    hearers = [rule for rule in survey.rules if _listens(rule, emission)]
    source = who.rule.subject if isinstance(who, SeenRule) else who.subject
    if hearers:
        if all(reach(emission.target, source, rule.rule.subject, survey.book) == "never" for rule in hearers):
            to = f"{emission.target}" if emission.target is not None else f"its own subject ({_named(source)})"
            wanted = hearers[0].rule.subject
            yield finding(
                "misaddressed-event",
                "warning",
                who,
                f"sends {emission.type} to {to}, but {hearers[0].id} is for {_named(wanted)}; give "
                f"subject= a name that begins with {wanted._prefix!r}",
                emission.place,
            )
        return
    if any(meets(emission.type, glob) != "never" for glob in external):
        return
    meant = _meant(survey, str(emission.type)) if emission.type.is_exact else ""
    if meant:
        message = f"emits {emission.type}, which no rule is for; did you mean {meant!r}, which no rule emits?"
        yield finding("unhandled-event", "warning", who, message, emission.place)
    elif not (isinstance(who, SeenMiddleware) and who.is_ours):
        message = f"emits {emission.type}, which no rule is for; if it is for others, say so with --external"
        yield finding("unhandled-event", severity, who, message, emission.place)


def _listens(rule: SeenRule, emission: Emission) -> bool:
    return any(not one.properties and meets(emission.type, one.pattern) != "never" for one in rule.rule.triggers)


def _named(cls: type[Subject]) -> str:
    return "all subjects" if cls is Subject else cls.__qualname__


def _meant(survey: Survey, type: str) -> str:
    """Return the type that nobody emits and that somebody who wrote this may have meant."""
    handled = {trigger.pattern for rule in survey.rules for trigger in rule.rule.triggers if not trigger.properties}
    waiting = [one for one in handled if not is_glob(one) and not _is_emitted(survey, one)]
    near = get_close_matches(type, sorted(waiting), n=1, cutoff=_LIKENESS)
    return near[0] if near else ""


def _is_emitted(survey: Survey, pattern: str) -> bool:
    return any(not one.type.is_unknown and meets(one.type, pattern) != "never" for _, one in survey.emissions())


def _unemitted(survey: Survey, severity: Severity, external: Sequence[str]) -> Iterator[Finding]:
    told: set[str] = set()
    for rule in survey.rules:
        for trigger in rule.rule.triggers:
            pattern = trigger.pattern
            if pattern in told or any(meets(Text.of(type), pattern) != "never" for type in _RESERVED):
                continue
            told.add(pattern)
            is_external = any(glob == pattern or meets(Text.of(pattern), glob) == "always" for glob in external)
            if not is_external and not _is_emitted(survey, pattern):
                message = (
                    f"is for {pattern}, which no rule is seen to emit; if it comes from outside, say so with --external"
                )
                yield finding("unemitted-event", severity, rule, message)


# -- what cannot be told -----------------------------------------------------------------------------------------


def unknown(survey: Survey) -> Iterator[Finding]:
    """Find what the code of rules does that cannot be told from it; what several share is told once."""
    first: dict[tuple[Place, str], Finding] = {}
    others: Counter[tuple[Place, str]] = Counter()
    for found in _unknown(survey):
        key = found.place or Place("?", 0), found.message
        others[key] += key in first
        first.setdefault(key, found)
    for key, found in first.items():
        count = f"; {others[key]} more use the same code" if others[key] else ""
        yield replace(found, message=found.message + count)


def _unknown(survey: Survey) -> Iterator[Finding]:
    every: tuple[SeenRule | SeenMiddleware, ...] = (*survey.rules, *survey.middleware)
    for who in every:
        for emission in who.reading.emissions:
            if emission.type.is_unknown:
                message = "emits an event whose type cannot be told from the code; a constant could be"
                yield finding("unknown", "info", who, message, emission.place)
        for write in who.reading.writes:
            if write.property.is_unknown and write.verb != "flush":
                message = "changes a property whose name cannot be told from the code; a constant could be"
                yield finding("unknown", "info", who, message, write.place)
        for unseen in (*who.reading.unseen, *(who.asked.unseen if isinstance(who, SeenRule) else ())):
            yield finding("unknown", "info", who, f"{unseen.what}, so what that does is not known", unseen.place)
