"""All rules of a rulebook, read: the one thing that graphs and findings are made of.

Belongs here: which code belongs to a rule, and what is known of its runs. It must not know what is made of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from onwhen.analysis._conditions import Filter, filter_of
from onwhen.analysis._effects import NOTHING_SEEN, Effect, Emission, Reading, Write, passed_on, uncertain
from onwhen.analysis._reader import Known, read
from onwhen.analysis._sources import Place, condition_text, innermost, is_foreign, place_of
from onwhen.analysis._texts import HOLE, Text
from onwhen.analysis._values import UNKNOWN, Values, of, union
from onwhen.engine.chain import Middleware, name_of
from onwhen.engine.rulebook import Rulebook
from onwhen.engine.rules import Rule
from onwhen.engine.subjects import Subject

__all__ = ["SeenMiddleware", "SeenRule", "Survey", "survey"]

_OURS: Final = "onwhen."
_ALTERNATIVES: Final = "_alternatives"  # of a Fallback
_NAMES: Final = "_properties"  # of what is remembered by a LastGood
_RUNNERS: Final = frozenset({"Debug", "ErrorEvents", "Fallback", "Logging", "Metrics", "Retry", "Timeout", "Tracing"})
"""Of ours, those that always run what they are wrapped around."""
_EMITTED: Final = {"CircuitBreaker": ("circuit.opened", "circuit.half_opened", "circuit.closed")}
"""Of ours, what those emit in whose code it cannot be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenMiddleware:
    """A middleware, read.

    Attributes:
        subject: class of the subjects of all rules that it is around.
        name: how outcomes call it.
        place: where it stands.
        reading: what it does by itself; of ours, only what it emits.
        goes_on: it runs what it is wrapped around, unless it fails.
        is_ours: it comes with onwhen.
    """

    name: str
    subject: type[Subject]
    place: Place | None
    reading: Reading
    goes_on: bool
    is_ours: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRule:
    """A rule, read.

    Attributes:
        rule: the rule.
        place: where it stands.
        reading: what its function does, and what fallbacks do in place of it.
        conditions: source of its conditions, in order.
        asked: what its conditions look at.
        filter: what they let through.
        around: the middleware around it, outermost first.
    """

    rule: Rule
    place: Place | None
    reading: Reading
    conditions: tuple[str, ...]
    asked: Reading
    filter: Filter
    around: tuple[SeenMiddleware, ...]

    @property
    def id(self) -> str:
        """Stable id of the rule."""
        return self.rule.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """All rules of a rulebook, and the middleware around them.

    Attributes:
        book: where they are from.
        rules: in order of registration.
        middleware: what is around any of them, each once.
    """

    book: Rulebook
    rules: tuple[SeenRule, ...]
    middleware: tuple[SeenMiddleware, ...]

    def emissions(self) -> Iterator[tuple[SeenRule | SeenMiddleware, Emission]]:
        """Go through all that is emitted, with who does."""
        every: tuple[SeenRule | SeenMiddleware, ...] = (*self.rules, *self.middleware)
        for one in every:
            for emission in one.reading.emissions:
                yield one, emission


def survey(book: Rulebook) -> Survey:
    """Read all rules of a rulebook; none of their code is run."""
    around = {rule: (*book.around("event"), *_around(rule, book)) for rule in book.rules()}
    classes: dict[int, list[type[Subject]]] = {}
    for rule, every in around.items():
        for one in every:
            classes.setdefault(id(one), []).append(rule.subject)
    met: dict[int, SeenMiddleware] = {}
    for every in around.values():
        for one in every:
            if id(one) not in met:
                met[id(one)] = _of_middleware(one, book, _common(classes[id(one)]))
    rules = tuple(_of_rule(rule, book, every, tuple(met[id(one)] for one in every)) for rule, every in around.items())
    return Survey(book=book, rules=rules, middleware=tuple(met.values()))


def _common(classes: Sequence[type[Subject]]) -> type[Subject]:
    """Return the class that all subjects are of."""
    return next(cls for cls in classes[0].__mro__ if all(issubclass(one, cls) for one in classes))


def _around(rule: Rule, book: Rulebook) -> tuple[Middleware, ...]:
    """Return the middleware around a rule, outermost first; some is only around certain rules."""
    for trigger in rule.triggers:
        for match in book.match(trigger.pattern, rule.subject, (*trigger.properties, "")[0]):
            if match.rule is rule:
                return match.middleware
    return (*book.around("rule"), *rule.middleware)


def _of_rule(
    rule: Rule, book: Rulebook, middleware: Sequence[Middleware], around: tuple[SeenMiddleware, ...]
) -> SeenRule:
    known = Known(rule.subject, book, _types(rule), _properties(rule))
    asked = [read(condition.test, known) for condition in rule.conditions]
    own = read(rule.function, known)
    return SeenRule(
        rule=rule,
        place=place_of(rule.function),
        reading=Reading.of([*_effects(own), *_instead(middleware, known)], refuses=own.refuses),
        conditions=tuple(condition_text(condition.test) for condition in rule.conditions),
        asked=Reading.of([effect for seen in asked for effects in (seen.reads, seen.unseen) for effect in effects]),
        filter=filter_of(rule.conditions, known),
        around=around,
    )


def _effects(reading: Reading) -> tuple[Effect, ...]:
    return (*reading.emissions, *reading.writes, *reading.reads, *reading.deferrals, *reading.unseen)


def _instead(middleware: Sequence[Any], known: Known) -> Iterator[Effect]:
    """Go through what fallbacks do in place of a rule."""
    for one in middleware:
        for alternative in getattr(one, _ALTERNATIVES, ()):
            for effect in _effects(read(alternative, known)):
                named = getattr(alternative, _NAMES, ())
                if isinstance(effect, Write) and effect.property.is_unknown and isinstance(named, tuple):
                    for name in named:
                        yield uncertain(replace(effect, property=Text.of(name)))
                else:
                    yield uncertain(passed_on(effect, is_narrowed=False, is_doubtful=True))


def _types(rule: Rule) -> Values:
    """Return what the type of the event of a rule may be."""
    return union(frozenset({_text(trigger.pattern)}) for trigger in rule.triggers)


def _text(pattern: str) -> Text:
    return Text.of(HOLE) if "?" in pattern or "[" in pattern else Text.between(pattern.split("*"))


def _properties(rule: Rule) -> Values:
    """Return what the property may be that the event of a rule is about."""
    named = [name for trigger in rule.triggers for name in trigger.properties]
    return union(of(name) for name in named) if all(trigger.properties for trigger in rule.triggers) else UNKNOWN


def _of_middleware(one: Any, book: Rulebook, subject: type[Subject]) -> SeenMiddleware:
    found = innermost(one)
    is_ours = str(getattr(type(one) if is_foreign(found) else found, "__module__", "")).startswith(_OURS)
    place = place_of(one)
    reading = read(one, Known(subject, book), is_middleware=True)
    if is_ours:  # how it works is ours to know: what matters is what it sends
        has_own = not hasattr(one, _ALTERNATIVES)  # what those do is seen with the rule that they stand in for
        seen = [emission for emission in reading.emissions if has_own and not emission.type.is_unknown]
        seen += [_declared(name, place) for name in _EMITTED.get(type(one).__name__, ())]
        unique = {str(emission.type): emission for emission in seen}
        reading = replace(NOTHING_SEEN, emissions=tuple(unique.values()), goes_on=type(one).__name__ in _RUNNERS)
    return SeenMiddleware(
        name=name_of(one),
        subject=subject,
        place=place,
        reading=reading,
        goes_on=reading.goes_on and not reading.refuses,
        is_ours=is_ours,
    )


def _declared(name: str, place: Place | None) -> Emission:
    return Emission(type=Text.of(name), is_certain=False, place=place or Place("?", 0))
