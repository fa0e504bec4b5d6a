"""Rules that can never fire, and triggers that do nothing.

Belongs here: what a trigger asks for and what there can be. It must not know who emits or changes what.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Final
from uuid import UUID

from onwhen.analysis._findings import Finding, finding, suggestion
from onwhen.analysis._survey import SeenRule, Survey
from onwhen.analysis._texts import Text, is_glob, meets
from onwhen.analysis._values import classes_of
from onwhen.engine._attributes import text
from onwhen.engine.events import SUBJECT_DELETED, SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED
from onwhen.engine.fields import TypedCodec
from onwhen.engine.rules import ANY
from onwhen.engine.subjects import Subject
from onwhen.engine.triggers import Trigger
from onwhen.errors import InvalidEvent

__all__ = ["duplicate_triggers", "never_fires"]

_PROPERTY_TYPES: Final = (SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED)
_RESERVED: Final = {
    SUBJECT_PROPERTY_CHANGED: "SUBJECT_PROPERTY_CHANGED",
    SUBJECT_PROPERTY_DELETED: "SUBJECT_PROPERTY_DELETED",
    SUBJECT_DELETED: "SUBJECT_DELETED",
}
_PLAIN: Final = (str, int, float, bool, bytes, type(None), Decimal, datetime, date, time, timedelta, UUID)
_LIKENESS: Final = 0.85  # of a reserved type and what was written (a ratio); below it is a word of its own


def never_fires(survey: Survey) -> Iterator[Finding]:
    """Find rules and triggers that can never fire."""
    for rule in survey.rules:
        why = _why_never(rule)
        if why:
            yield finding("never-fires", "error", rule, why)
            continue
        dead = [(trigger, why) for trigger in rule.rule.triggers if (why := _why_dead(trigger, rule))]
        is_all = len(dead) == len(rule.rule.triggers)
        for trigger, reason in dead:
            told = "" if is_all else f"trigger {trigger} never fires: "
            yield finding("never-fires", "error" if is_all else "warning", rule, told + reason)
        for trigger in rule.rule.triggers:
            if meant := _meant(trigger.pattern, survey):
                yield finding(
                    "never-fires",
                    "warning",
                    rule,
                    f"no event of the engine's is of type {trigger.pattern!r}; write onwhen.{meant}",
                )


def _meant(pattern: str, survey: Survey) -> str:
    """Return the name of the reserved type that a pattern nearly is."""
    if pattern in _RESERVED or is_glob(pattern):
        return ""
    near = get_close_matches(pattern.lower().replace("_", "-").replace(".", "-"), _RESERVED, n=1, cutoff=_LIKENESS)
    is_emitted = any(meets(emission.type, pattern) != "never" for _, emission in survey.emissions())
    return _RESERVED[near[0]] if near and not is_emitted else ""


def _why_never(rule: SeenRule) -> str:
    """Say why a rule's conditions never hold."""
    if rule.filter.is_never:
        return "one of its conditions is always false; take it out, or the rule"
    for claim in rule.filter.claims:
        if claim.property is not None and not _may_hold(rule.rule.subject, (claim.property,), claim.values):
            return f"the condition {claim.text} never holds, {_cannot_be(rule, claim.property, claim.values)}"
    return ""


def _why_dead(trigger: Trigger, rule: SeenRule) -> str:
    """Say why a trigger never fires, or that its rule's conditions never hold then."""
    return _dead_by_values(trigger, rule) or _dead_by_property(trigger, rule) or _dead_by_type(trigger, rule)


def _dead_by_values(trigger: Trigger, rule: SeenRule) -> str:
    subject = rule.rule.subject
    if trigger.from_ is not ANY and _is_plain(trigger.from_) and _is_plain(trigger.to) and trigger.from_ == trigger.to:
        return f"{trigger}: a change never leads to the value that was there; give from_ or to another one"
    for word, wanted in (("from_", trigger.from_), ("to", trigger.to)):
        if wanted is ANY or callable(wanted) or not trigger.properties or (word == "from_" and wanted is None):
            continue
        if not _may_hold(subject, trigger.properties, (wanted,)):
            return f"{trigger}: {_cannot_be(rule, trigger.properties[0], (wanted,))}"
    asked = [claim for claim in rule.filter.claims if claim.property is None]
    for claim in asked if trigger.properties and trigger.pattern == SUBJECT_PROPERTY_CHANGED else ():
        if not _may_hold(subject, trigger.properties, claim.values):
            return f"the condition {claim.text} never holds, {_cannot_be(rule, trigger.properties[0], claim.values)}"
        if _is_plain(trigger.to) and trigger.to is not ANY and trigger.to not in claim.values:
            return f"{trigger}: the condition {claim.text} asks for another value; take one of them out"
    return ""


def _dead_by_property(trigger: Trigger, rule: SeenRule) -> str:
    names = rule.filter.properties
    if names.is_all:
        return ""
    if trigger.properties:
        if not any(name in names for name in trigger.properties):
            return f"{trigger}: its conditions ask for another ctx.property_name; take one of them out"
        return ""
    if not any(meets(Text.of(type), trigger.pattern) != "never" for type in _PROPERTY_TYPES):
        if None in names:
            return ""
        return (
            f"its conditions ask for ctx.property_name, which is None on {trigger.pattern!r}; write "
            f"@on(changed(...)) with the property's name"
        )
    if names.only is not None:
        wanted = sorted(str(name) for name in names.only if name is not None)
        known = _declared(rule.rule.subject)
        if known is not None and not set(wanted) & known and None not in names:
            cls = rule.rule.subject.__qualname__
            shown = wanted[0] if wanted else ""
            return f"{cls} has no property {shown!r}, which its conditions ask for; {_advice(shown, known)}"
    return ""


def _dead_by_type(trigger: Trigger, rule: SeenRule) -> str:
    if not is_glob(trigger.pattern):
        try:
            text(trigger.pattern, "type")
        except InvalidEvent as error:
            return f"no event can be of this type: {error}"
    types = rule.filter.event_types
    options = types.only if types.only is not None else frozenset({trigger.pattern})
    if is_glob(trigger.pattern) and types.only is None:
        return ""
    if any(
        option in types and isinstance(option, str) and meets(Text.of(option), trigger.pattern) != "never"
        for option in options
    ):
        return ""
    return f"{trigger}: its conditions ask for another ctx.event_type; take one of them out"


# -- values ------------------------------------------------------------------------------------------------------


def _declared(subject: type[Subject]) -> set[str] | None:
    """Return the properties that subjects of a class may have, or None if they may have any."""
    codecs = [cls._codec for cls in classes_of(subject)]
    if not all(isinstance(codec, TypedCodec) for codec in codecs):
        return None
    return {name for codec in codecs for name in codec.declared}


def _may_hold(subject: type[Subject], properties: tuple[str, ...], values: tuple[Any, ...]) -> bool:
    """Tell whether one of these properties can have one of these values."""
    if _declared(subject) is None or not all(map(_is_plain, values)):
        return True
    return any(
        _accepts(cls._codec, name, value)
        for cls in classes_of(subject)
        for name in properties
        if name in cls._codec.declared
        for value in values
    ) or not any(name in (_declared(subject) or ()) for name in properties)


def _accepts(codec: Any, name: str, value: Any) -> bool:
    try:
        kept, _ = codec.accept("check", name, value)
        return bool(kept == value)
    except ValueError:  # PropertyValueError is one
        return False
    except Exception:  # a validator of somebody's own: whatever it means, it is not for us to say
        return True


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return type(value) in _PLAIN or isinstance(value, enum.Enum)


def _cannot_be(rule: SeenRule, property: str, values: tuple[Any, ...]) -> str:
    shown = " or ".join(f"{value!r:.60}" for value in values)
    codec: Any = rule.rule.subject._codec
    try:
        codec.accept("check", property, values[0])
    except ValueError as error:
        reason = str(error).rpartition("is refused: ")[2]
        return f"{codec.owner}.{property} is never {shown}: {reason}"
    return f"{codec.owner}.{property} is never {shown}, but what validation makes of it; ask for that"


def _advice(name: str, known: set[str]) -> str:
    return suggestion(name, known) or f"it has {', '.join(sorted(known))}"


# -- triggers that do nothing ------------------------------------------------------------------------------------


def duplicate_triggers(survey: Survey) -> Iterator[Finding]:
    """Find triggers that are covered by others of the same rule."""
    for rule in survey.rules:
        triggers = rule.rule.triggers
        for at, trigger in enumerate(triggers):
            for other_at, other in enumerate(triggers):
                is_same = trigger == other
                if at == other_at or (is_same and at < other_at) or not _covers(other, trigger):
                    continue
                if trigger.guard is not None and other.guard is None:
                    message = f"{trigger} asks for values, but {other} fires for all; take one of them out"
                    yield finding("duplicate-trigger", "warning", rule, message)
                else:
                    message = f"{trigger} is covered by {'the same one' if is_same else other}; take it out"
                    yield finding("duplicate-trigger", "info", rule, message)
                break


def _covers(wide: Trigger, narrow: Trigger) -> bool:
    if wide == narrow:
        return True
    if wide.guard is not None:
        return False
    if wide.properties and not (narrow.properties and set(narrow.properties) <= set(wide.properties)):
        return False
    if is_glob(narrow.pattern):
        return wide.pattern == narrow.pattern or wide.pattern == "*"
    return meets(Text.of(narrow.pattern), wide.pattern) == "always"
