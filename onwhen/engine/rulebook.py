"""The index of all rules of a bus: which rules an event concerns, found without looking at the others.

Belongs here: rule sets taken in and out, the class of a subject by its name, and matching. It must not know
how a rule is run, nor what a turn is.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from onwhen.engine.chain import Call, Middleware, Scope, check, name_of
from onwhen.engine.rules import Rule, RuleSet
from onwhen.engine.subjects import Subject
from onwhen.engine.triggers import Guard, Trigger
from onwhen.errors import RuleDefinitionError

__all__ = ["Match", "Rulebook"]

_CACHE_LIMIT: Final = 20_000  # event types and property names come from outside; the memory for them is bounded


class Match(msgspec.Struct):
    """A rule that an event concerns.

    Attributes:
        rule: the rule.
        guards: what its triggers still ask; one of them is enough. Empty if there is nothing to ask.
        middleware: all that is wrapped around it, outermost first.
        call: the rule with all of that around it; composed at its first run and kept.
    """

    rule: Rule
    guards: tuple[Guard, ...]
    middleware: tuple[Middleware, ...]
    call: Call | None = None


class Rulebook:
    """Rule sets and middleware, indexed.

    Attributes:
        family: shared by a rulebook and its copies, so that a rule that emits through one of them is understood
            while another one runs it.
        event_chain: the middleware around whole events with the turn inside; composed by the first turn and kept.
    """

    def __init__(self) -> None:
        self.family = object()
        self._sets: dict[str, RuleSet] = {}
        self._around: dict[Scope, tuple[Middleware, ...]] = {"rule": (), "event": ()}
        self.event_chain: Call | None = None
        self._only: dict[int, frozenset[str]] = {}
        self._types: list[type[Subject]] = []
        self._order: dict[Rule, int] = {}
        self._exact: dict[str, list[tuple[Rule, Trigger]]] = {}
        self._by_property: dict[tuple[str, str], list[tuple[Rule, Trigger]]] = {}
        self._globs: list[tuple[re.Pattern[str], Rule, Trigger]] = []
        self._cache: dict[tuple[str, type[Subject], str], tuple[Match, ...]] = {}
        self._stale = False

    # -- what is in it

    def include(self, *rule_sets: RuleSet) -> None:
        """Take rule sets in, all or none; one that is in already stays as it is.

        Raises:
            RuleDefinitionError: another set has the name, or another class the prefix.
        """
        sets = dict(self._sets)
        for new in rule_sets:
            if not isinstance(new, RuleSet):
                raise RuleDefinitionError(f"include takes rule sets, not {new!r}")
            old = sets.get(new.name, new)
            if old is not new and not new.is_reimport_of(old):
                raise RuleDefinitionError(f"a rule set named {new.name!r} is included already; rename one of them")
            sets[new.name] = new
        _check_prefixes(sets.values())
        self._sets = sets
        for new in rule_sets:
            new.watch(self)
        self.invalidate()

    def exclude(self, *rule_sets: RuleSet) -> None:
        """Take rule sets out again; one that is not in is no error."""
        for gone in rule_sets:
            known = self._sets.get(gone.name)
            if known is not None and (known is gone or gone.is_reimport_of(known)):
                del self._sets[gone.name]
        self.invalidate()

    def use(self, middleware: Middleware, scope: Scope | None = None, only: Iterable[str] | None = None) -> None:
        """Wrap a middleware around every rule, or around every event; those used first are outermost.

        Args:
            middleware: what to wrap.
            scope: around what; None for what it says itself with an attribute `scopes`, or else around rules.
            only: ids of the rules that it is wrapped around, or globs of such; None for all. Used again with others,
                it is around both.

        Raises:
            RuleDefinitionError: it is no middleware, or cannot be wrapped around that.
        """
        check(middleware)
        scopes: tuple[Scope, ...] = getattr(middleware, "scopes", ("rule",)) if scope is None else (scope,)
        for one in scopes:
            if one not in self._around:
                raise RuleDefinitionError(f"scope={one!r} must be 'rule' or 'event'")
        if only is not None:
            if "rule" not in scopes:
                raise RuleDefinitionError(f"{name_of(middleware)} goes around whole events, so leave out only={only!r}")
            scopes, only = ("rule",), _globs(only)
        is_new = middleware not in self._around["rule"]
        for one in scopes:
            if middleware not in self._around[one]:
                self._around[one] += (middleware,)
        if only is None:
            if "rule" in scopes:
                self._only.pop(id(middleware), None)
        elif is_new or id(middleware) in self._only:
            self._only[id(middleware)] = self._only.get(id(middleware), frozenset()) | only
        self.invalidate()

    def drop(self, middleware: Middleware) -> None:
        """Take a middleware away again."""
        for scope, used in self._around.items():
            self._around[scope] = tuple(one for one in used if one is not middleware)
        self._only.pop(id(middleware), None)
        self.invalidate()

    @property
    def rule_sets(self) -> tuple[RuleSet, ...]:
        """The rule sets, in order of inclusion."""
        return tuple(self._sets.values())

    @property
    def subject_types(self) -> tuple[type[Subject], ...]:
        """The typed subject classes, longest prefix first."""
        self._build()
        return tuple(self._types)

    def stamped(self, extensions: Mapping[str, str | int | bool] | None) -> Mapping[str, str | int | bool] | None:
        """Return the extension attributes of an event that is emitted from outside of turns.

        Middleware around events that has a method `stamp(given) -> Mapping[str, str]` adds to those that were given.
        """
        for middleware in self._around["event"]:
            if (stamp := getattr(middleware, "stamp", None)) is not None:
                extensions = {**stamp(extensions or {}), **(extensions or {})}
        return extensions

    def around(self, scope: Scope) -> tuple[Middleware, ...]:
        """Return the middleware of a scope, outermost first."""
        return self._around[scope]

    def rules(self) -> Iterator[Rule]:
        """Go through all rules, in order of registration."""
        for rule_set in self._sets.values():
            yield from rule_set

    def invalidate(self) -> None:
        """Forget what was worked out, because a rule or a middleware came or went."""
        self._stale = True
        self.event_chain = None

    def copy(self) -> Rulebook:
        """Return another rulebook with the same rule sets and middleware."""
        twin = Rulebook()
        twin.family = self.family
        twin.include(*self._sets.values())
        for scope, used in self._around.items():
            for middleware in used:
                twin.use(middleware, scope, self._only.get(id(middleware)) if scope == "rule" else None)
        return twin

    # -- asking it

    def subject_type(self, name: str) -> type[Subject]:
        """Return the class of a subject: the one with the longest prefix that its name starts with, or `Subject`."""
        self._build()
        for cls in self._types:
            if name.startswith(cls._prefix):
                return cls
        return Subject

    def match(self, event_type: str, subject_type: type[Subject], property: str = "") -> tuple[Match, ...]:
        """Return the rules that an event concerns, in the order in which they run.

        Args:
            event_type: type of the event.
            subject_type: class of the subject it is addressed to.
            property: for property events, the property it is about.
        """
        if self._stale:
            self._build()
        key = (event_type, subject_type, property)
        found = self._cache.get(key)
        if found is None:
            if len(self._cache) >= _CACHE_LIMIT:
                self._cache.clear()
            found = self._cache[key] = tuple(self._find(*key))
        return found

    # -- working it out

    def _find(self, event_type: str, subject_type: type[Subject], property: str) -> Iterator[Match]:
        candidates = list(self._exact.get(event_type, ()))
        candidates += self._by_property.get((event_type, property), ())
        candidates += [(rule, trigger) for glob, rule, trigger in self._globs if glob.match(event_type)]
        triggers: dict[Rule, list[Trigger]] = {}
        for rule, trigger in candidates:
            if issubclass(subject_type, rule.subject):
                triggers.setdefault(rule, []).append(trigger)
        around = [(one, self._only.get(id(one))) for one in self.around("rule")]
        for rule in sorted(triggers, key=lambda rule: (-rule.priority, self._order[rule])):
            guards = [trigger.guard for trigger in triggers[rule]]
            asked = () if None in guards else tuple(guard for guard in guards if guard is not None)
            outer = tuple(one for one, only in around if only is None or _fits(rule, only))
            yield Match(rule, asked, outer + rule.middleware)

    def _build(self) -> None:
        if not self._stale:
            return
        self._stale = False
        self._cache.clear()
        self._exact, self._by_property, self._globs = {}, {}, []
        self._order = {rule: order for order, rule in enumerate(self.rules())}
        for rule in self._order:
            for trigger in rule.triggers:
                if trigger.is_glob:
                    self._globs.append((re.compile(fnmatch.translate(trigger.pattern)), rule, trigger))
                elif trigger.properties:
                    for property in trigger.properties:
                        self._by_property.setdefault((trigger.pattern, property), []).append((rule, trigger))
                else:
                    self._exact.setdefault(trigger.pattern, []).append((rule, trigger))
        types = {rule_set.subject for rule_set in self._sets.values()} - {Subject}
        self._types = sorted(types, key=lambda cls: (-len(cls._prefix), cls._prefix))


def _globs(only: Iterable[str]) -> frozenset[str]:
    found = frozenset((only,) if isinstance(only, str) else only)
    if not found or not all(isinstance(pattern, str) and pattern for pattern in found):
        raise RuleDefinitionError(f"only={only!r} must be ids of rules, or globs of such, as ['tickets.*']")
    return found


def _fits(rule: Rule, only: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(rule.id, pattern) for pattern in only)


def _check_prefixes(rule_sets: Iterable[RuleSet]) -> None:
    """Refuse two classes for the same subjects."""
    first: dict[str, RuleSet] = {}
    for new in rule_sets:
        other = first.setdefault(new.subject._prefix, new)
        if other.subject is not new.subject:
            raise RuleDefinitionError(
                f"rule set {new.name!r} is for {new.subject.__qualname__} and {other.name!r} for "
                f"{other.subject.__qualname__}, both with prefix {new.subject._prefix!r}; use one class for both (and "
                f"include all rule sets of a module at once, if it was imported again)"
            )
