"""Who sets off whom: from what each rule does to the rules that hear of it.

Belongs here: the same matching as the engine's, on what is known in part. It must not know what is made of the steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

from onwhen.analysis._effects import Emission, Write
from onwhen.analysis._sources import Place
from onwhen.analysis._survey import SeenMiddleware, SeenRule, Survey
from onwhen.analysis._texts import Meeting, Text, meets
from onwhen.analysis._values import classes_named
from onwhen.engine.events import SUBJECT_DELETED, SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED
from onwhen.engine.fields import TypedCodec
from onwhen.engine.rulebook import Rulebook
from onwhen.engine.rules import ANY
from onwhen.engine.subjects import Subject
from onwhen.engine.triggers import Trigger

__all__ = ["Step", "are_related", "hears", "reach", "reacts", "steps_of"]


_UNBOUNDED: Final = frozenset({int, float, Decimal, list, deque, Any, object, NoneType})


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rule may set off another.

    Attributes:
        source: id of the one.
        target: id of the other; maybe the same.
        via: the event type or the property, as people call it.
        kind: how: a property that changes, a message, a timer, or a run that is put off.
        write: what changed, for a reaction.
        is_certain: whenever the one ends well, the other is run.
        through: name of the middleware that sends, if it is not the rule.
        place: where the one does it.
    """

    source: str
    target: str
    via: str
    kind: Literal["reaction", "message", "timer", "deferral"]
    write: Write | None = None
    is_certain: bool
    through: str = ""
    place: Place | None

    @property
    def is_later(self) -> bool:
        """Whether time passes on the way."""
        return self.kind in ("timer", "deferral")


def steps_of(survey: Survey) -> tuple[Step, ...]:
    """Return all steps between the rules of a survey, in order."""
    return tuple(step for rule in survey.rules for step in _from(rule, survey))


def _from(rule: SeenRule, survey: Survey) -> Iterator[Step]:
    for write in rule.reading.writes:
        for other in survey.rules:
            meeting = reacts(write, rule.rule.subject, other)
            if meeting != "never":
                yield Step(
                    source=rule.id,
                    target=other.id,
                    via="deletion" if write.verb == "flush" else str(write.property),
                    kind="reaction",
                    write=write,
                    is_certain=meeting == "always" and not rule.reading.refuses and _always_changes(write, rule),
                    place=write.place,
                )
    senders: list[SeenRule | SeenMiddleware] = [rule, *(one for one in rule.around if not one.is_ours)]
    for sender in senders:
        for emission in sender.reading.emissions:
            for other in survey.rules:
                meeting = hears(emission, rule.rule.subject, other, survey.book)
                if meeting != "never":
                    yield Step(
                        source=rule.id,
                        target=other.id,
                        via=str(emission.type),
                        kind="timer" if emission.is_timer else "message",
                        is_certain=meeting == "always"
                        and emission.is_certain
                        and sender is rule
                        and not rule.reading.refuses,
                        through="" if isinstance(sender, SeenRule) else sender.name,
                        place=emission.place,
                    )
    for deferral in rule.reading.deferrals:
        yield Step(
            source=rule.id, target=rule.id, via="itself", kind="deferral", is_certain=False, place=deferral.place
        )


def _always_changes(write: Write, rule: SeenRule) -> bool:
    """Tell whether a property has another value each time that a rule has ended well.

    What is changed in place is looked at when the rule has ended: another change may have put it right by then. And a
    property that does not take every value comes to one that it refuses, or that its validators put right.
    """
    if write.verb == "change":
        every = [one for one in rule.reading.writes if one.property == write.property]
    else:
        every = [write]
    takes_all = _takes_all(rule.rule.subject, str(write.property))
    return write.is_certain and takes_all and all(one.change == "always" for one in every)


def _takes_all(subject: type[Subject], name: str) -> bool:
    """Tell whether a property takes any number, or a list of any length."""
    codec = subject._codec
    if not isinstance(codec, TypedCodec) or name not in codec.declared:
        return True
    field = next((one for one in codec.model.model_fields.values() if one.alias == name), None)
    if field is None:
        return False
    kind = field.annotation
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return not field.metadata and {get_origin(one) or one for one in kinds} <= _UNBOUNDED


# -- messages ----------------------------------------------------------------------------------------------------


def hears(emission: Emission, source: type[Subject], rule: SeenRule, book: Rulebook) -> Meeting:
    """Tell whether a rule is run on what is emitted.

    Args:
        emission: what; one of an unknown type is heard by nobody, because nobody can tell.
        source: class of the subject on which the emitting rule is run.
        rule: who may hear it.
        book: what knows the classes of subjects.
    """
    if emission.type.is_unknown or None not in rule.filter.properties or rule.filter.is_never:
        return "never"
    found: Meeting = "never"
    for trigger in rule.rule.triggers:
        if not trigger.properties:
            found = _better(found, _worse(meets(emission.type, trigger.pattern), _unguarded(trigger)))
    types = rule.filter.event_types
    if not types.may_be(emission.type):
        return "never"
    there = reach(emission.target, source, rule.rule.subject, book)
    return _worse(found, there, "always" if _runs(rule) and (types.is_all or emission.type.is_exact) else "maybe")


def reach(target: Text | None, source: type[Subject], wanted: type[Subject], book: Rulebook) -> Meeting:
    """Tell whether what is addressed to a name comes to a subject of a class.

    Args:
        target: the name; None for the subject of the one that emits.
        source: class of that.
        wanted: the class asked for.
        book: what knows the classes of subjects.
    """
    if target is None:
        return are_related(source, wanted)
    possible = classes_named(target, book)
    fitting = {cls for cls in possible if issubclass(cls, wanted)}
    return "always" if fitting == possible else "maybe" if fitting else "never"


def are_related(source: type[Subject], wanted: type[Subject]) -> Meeting:
    """Tell whether a subject of one class, which is all that is known of it, is of another."""
    if issubclass(source, wanted):
        return "always"
    return "maybe" if issubclass(wanted, source) else "never"


# -- reactions ---------------------------------------------------------------------------------------------------


def reacts(write: Write, source: type[Subject], rule: SeenRule) -> Meeting:
    """Tell whether a rule is run because of a change of a property.

    Args:
        write: the change; one of an unknown property is seen by nobody, because nobody can tell.
        source: class of the subject on which the changing rule is run.
        rule: who may react to it.
    """
    is_flush = write.verb == "flush"
    if write.is_muted or rule.filter.is_never or (write.property.is_unknown and not is_flush):
        return "never"
    type = SUBJECT_PROPERTY_DELETED if write.verb in ("delete", "flush") else SUBJECT_PROPERTY_CHANGED
    found: Meeting = "never"
    for trigger in rule.rule.triggers:
        found = _better(found, _of_trigger(write, type, trigger))
        if is_flush and not trigger.properties and None in rule.filter.properties:
            found = _better(found, meets(Text.of(SUBJECT_DELETED), trigger.pattern))
    names, types = rule.filter.properties, rule.filter.event_types
    if type not in types and not (is_flush and SUBJECT_DELETED in types):
        return "never"
    if not names.may_be(write.property):
        return "never"
    if not is_flush and _contradicts(rule, write):
        return "never"
    certain: Meeting = "always" if _runs(rule) and write.property.is_exact and not is_flush else "maybe"
    return _worse(found, are_related(source, rule.rule.subject), certain)


def _of_trigger(write: Write, type: str, trigger: Trigger) -> Meeting:
    if meets(Text.of(type), trigger.pattern) == "never":
        return "never"
    names: Meeting = "always"
    if trigger.properties:
        names = "never"
        for name in trigger.properties:
            names = _better(names, meets(write.property, name))
    if write.change == "constant" and not _may_be(write.value, trigger.to):
        return "never"
    return _worse(names, _unguarded(trigger))


def _contradicts(rule: SeenRule, write: Write) -> bool:
    """Tell whether a condition asks for another value than the one that is set."""
    return write.change == "constant" and any(
        claim.property is None and write.value not in claim.values for claim in rule.filter.claims
    )


def _may_be(value: Any, wanted: Any) -> bool:
    return wanted is ANY or callable(wanted) or bool(value == wanted)


def _unguarded(trigger: Trigger) -> Meeting:
    return "always" if trigger.guard is None else "maybe"


def _runs(rule: SeenRule) -> bool:
    """Tell whether nothing holds a rule back that is considered."""
    return not rule.filter.is_guard and all(one.goes_on for one in rule.around)


_ORDER: tuple[Meeting, ...] = ("never", "maybe", "always")


def _worse(*meetings: Meeting) -> Meeting:
    return min(meetings, key=_ORDER.index)


def _better(*meetings: Meeting) -> Meeting:
    return max(meetings, key=_ORDER.index)
