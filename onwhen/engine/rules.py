"""Rules: functions with triggers, conditions and options, in named sets.

Belongs here: how rules are declared and what a declaration says. It must not know how rules are found for an
event (`rulebook`), run (`turns`), or what a middleware is made of (`chain`).
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from onwhen.engine._origins import Origin, is_reimport, place_of
from onwhen.engine.chain import Middleware, check
from onwhen.engine.fields import TypedCodec
from onwhen.engine.retries import RetryPolicy
from onwhen.engine.subjects import Subject
from onwhen.engine.triggers import ANY, Trigger, changed, deleted, described, is_generator
from onwhen.errors import DuplicateRule, RuleDefinitionError

__all__ = ["ANY", "Condition", "Rule", "RuleSet", "Trigger", "changed", "deleted", "when"]

_F = TypeVar("_F", bound=Callable[..., Any])


# -- conditions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """A predicate on the context, sync or async; `str()` of it says which one it is."""

    test: Callable[[Any], Any]

    def __str__(self) -> str:
        return described(self.test)


def when(*tests: Callable[[Any], Any]) -> Callable[[_F], _F]:
    """Let a rule run only if conditions hold; above or below `@on`.

    Args:
        *tests: functions of the context, sync or async; all have to return something true. Several `@when` are
            tested from the top down.

    A test that raises is a failure of the rule, never a silent "no".
    """
    for test in tests:
        if not callable(test) or is_generator(test):
            raise RuleDefinitionError(f"@when takes functions of the context, not {test!r}")
    added = [Condition(test) for test in tests]

    def declare(function: _F) -> _F:
        _conditions_of(function)[:0] = added
        return function

    return declare


def _conditions_of(function: Callable[..., Any]) -> list[Condition]:
    """Return the one list of a function's conditions; its rules share it, so `@when` may come later than `@on`."""
    try:
        return function.__dict__.setdefault("__onwhen_conditions__", [])  # type: ignore[no-any-return]
    except AttributeError:
        raise RuleDefinitionError(f"a rule must be a function, not {function!r}") from None


# -- rules and their sets ----------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False, kw_only=True)
class Rule:
    """One declared rule.

    Attributes:
        id: stable id, `ruleset.name`.
        function: what it runs.
        subject: class of the subjects it is for; `Subject` for all.
        triggers: what makes it be considered; one of them is enough.
        conditions: what all has to hold then.
        priority: higher ones run first; equal ones in order of registration.
        middleware: its own, innermost, outermost first.
        retry: what happens when it fails; None for the engine's default.
        timeout: how long one run may take, in seconds; None for the engine's default.
    """

    id: str
    function: Callable[[Any], Any]
    subject: type[Subject]
    triggers: list[Trigger]
    conditions: list[Condition]
    priority: int = 0
    middleware: tuple[Middleware, ...] = ()
    retry: RetryPolicy | None = None
    timeout: float | None = None

    def __str__(self) -> str:
        return self.id


class RuleSet:
    """A named group of rules.

    Args:
        name: first part of the ids of its rules; letters, digits, `_`, `-` and dots.
        subject: class of the subjects that its rules are for; by default all subjects.
        middleware: wrapped around each of its rules, inside the bus's own, outermost first.
        retry: default for its rules.
        timeout: default for its rules, in seconds or as a timedelta.

    Raises:
        RuleDefinitionError: the name or the class cannot be used.
    """

    def __init__(
        self,
        name: str,
        subject: type[Subject] = Subject,
        *,
        middleware: Sequence[Middleware] = (),
        retry: RetryPolicy | None = None,
        timeout: float | timedelta | None = None,
    ) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", name):
            raise RuleDefinitionError(f"rule set name {name!r}: use letters, digits, '_', '-' and dots")
        if not (isinstance(subject, type) and issubclass(subject, Subject)):
            raise RuleDefinitionError(f"rule set {name!r}: subject={subject!r} is not a class that extends Subject")
        if subject is not Subject and not subject._prefix:
            raise RuleDefinitionError(
                f"rule set {name!r}: {subject.__qualname__} has no prefix to know its subjects by; "
                f"declare class {subject.__qualname__}(Subject, prefix=...)"
            )
        self.name = name
        self.subject = subject
        self._middleware = _checked(middleware)
        self._retry = _policy(retry)
        self._timeout = _seconds(timeout)
        self._rules: dict[str, Rule] = {}
        self._origins: dict[str, Origin] = {}
        self._watchers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._origin = Origin.of_caller()

    def on(
        self,
        *triggers: str | Trigger,
        name: str | None = None,
        priority: int = 0,
        middleware: Sequence[Middleware] = (),
        retry: RetryPolicy | None = None,
        timeout: float | timedelta | None = None,
    ) -> Callable[[_F], _F]:
        """Register the decorated function as a rule.

        Args:
            *triggers: event types (exact, or globs such as `ticket.*`; `*` alone is every event, property events
                included), `changed(...)`, `deleted(...)`; one of them is enough. A second `@on` on the same function
                adds triggers to the same rule; its options have to be the same, or left out.
            name: second part of the rule's id; by default the function's name.
            priority: rules of higher priority run first; equal ones in order of registration.
            middleware: wrapped around this rule, innermost of all, outermost first.
            retry: what happens when it fails.
            timeout: how long one run may take, in seconds or as a timedelta.

        Raises:
            DuplicateRule: another function has this id.
            RuleDefinitionError: a trigger, an option or the function cannot be used.
        """
        parsed = [self._trigger(trigger) for trigger in triggers]
        if not parsed:
            raise RuleDefinitionError(f"rule set {self.name!r}: @on needs an event type, changed(...) or deleted(...)")
        if not isinstance(priority, int):
            raise RuleDefinitionError(f"rule set {self.name!r}: priority={priority!r} must be a whole number")
        options: dict[str, Any] = {
            "priority": priority,
            "middleware": (*self._middleware, *_checked(middleware)),
            "retry": _policy(retry) or self._retry,
            "timeout": _seconds(timeout) or self._timeout,
        }
        origin = Origin.of_caller()

        def register(function: _F) -> _F:
            conditions = _conditions_of(function)
            id = f"{self.name}.{_checked_name(name, function)}"
            known = self._rules.get(id)
            if known is not None and known.function is function:
                self._extend(known, parsed, options)
            else:
                declared = origin.with_code(function)
                if known is not None and not is_reimport(declared, self._origins[id]):
                    raise DuplicateRule(id, place_of(known.function), place_of(function))
                self._rules[id] = Rule(
                    id=id, function=function, subject=self.subject, triggers=parsed, conditions=conditions, **options
                )
                self._origins[id] = declared
            for watcher in self._watchers:
                watcher.invalidate()
            return function

        return register

    def _extend(self, rule: Rule, triggers: Sequence[Trigger], options: Mapping[str, Any]) -> None:
        """Add what one more `@on` says to a rule."""
        left_out = {"priority": 0, "middleware": self._middleware, "retry": self._retry, "timeout": self._timeout}
        for option, value in options.items():
            if value == left_out[option]:
                continue
            if (given := getattr(rule, option)) not in (value, left_out[option]):
                raise RuleDefinitionError(
                    f"rule {rule.id}: two @on give it {option}={given!r} and {option}={value!r}; give it in one of them"
                )
            setattr(rule, option, value)
        rule.triggers.extend(triggers)

    def is_reimport_of(self, other: RuleSet) -> bool:
        """Tell whether both are the same rule set, because its module was imported twice."""
        return is_reimport(self._origin, other._origin)

    def watch(self, watcher: Any) -> None:
        """Call `watcher.invalidate()` whenever a rule is added."""
        self._watchers.add(watcher)

    def _trigger(self, trigger: str | Trigger) -> Trigger:
        if isinstance(trigger, str) and trigger:
            return Trigger(trigger)
        if not isinstance(trigger, Trigger):
            raise RuleDefinitionError(
                f"rule set {self.name!r}: @on takes event types, changed(...) or deleted(...), not {trigger!r}"
            )
        codec = self.subject._codec
        if isinstance(codec, TypedCodec):
            for property in trigger.properties:
                if property not in codec.fields:
                    raise RuleDefinitionError(f"rule set {self.name!r}, {trigger}: {codec.unknown('', property)}"[:500])
        return trigger

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules.values())

    def __len__(self) -> int:
        return len(self._rules)

    def __repr__(self) -> str:
        return f"RuleSet({self.name!r}, {len(self)} rules for {self.subject.__name__})"


def _seconds(timeout: float | timedelta | None) -> float | None:
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if seconds is not None and not (type(seconds) in (int, float) and seconds > 0):
        raise RuleDefinitionError(f"timeout={timeout!r} must be more than 0, as a number of seconds or a timedelta")
    return seconds


def _policy(retry: RetryPolicy | None) -> RetryPolicy | None:
    if retry is not None and not isinstance(retry, RetryPolicy):
        raise RuleDefinitionError(f"retry={retry!r} must be a RetryPolicy(...)")
    return retry


def _checked(middleware: Sequence[Middleware]) -> tuple[Middleware, ...]:
    for one in middleware:
        check(one)
    return tuple(middleware)


def _checked_name(name: str | None, function: Callable[..., Any]) -> str:
    if is_generator(function):
        raise RuleDefinitionError(f"{place_of(function)} has a yield in it; a rule is a plain or an async function")
    name = name if name is not None else getattr(function, "__name__", "")
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise RuleDefinitionError(
            f"{place_of(function)} has no name that a rule could be known by; give it one: on(..., name=...), "
            f"of letters, digits, '_', '-' and dots"
        )
    return name
