"""Rules: functions with triggers, conditions and options, in named sets.

Belongs here: how rules are declared and what a declaration says. It must not know how rules are found for an
event (`rulebook`), run (`turns`), or what a middleware is made of (`chain`).
"""

from __future__ import annotations

import inspect
import re
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from onwhen.engine.events import SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED
from onwhen.engine.fields import TypedCodec
from onwhen.engine.retries import RetryPolicy
from onwhen.engine.subjects import Subject
from onwhen.errors import DuplicateRule, RuleDefinitionError

if TYPE_CHECKING:
    from onwhen.engine.chain import Middleware

__all__ = ["ANY", "Condition", "Rule", "RuleSet", "Trigger", "changed", "deleted", "when"]

_F = TypeVar("_F", bound=Callable[..., Any])


class _Any:
    """The type of `ANY`."""

    def __repr__(self) -> str:
        return "ANY"


ANY: Final = _Any()
"""Stands for "whatever the value", because None is a value."""


# -- conditions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """A predicate on the context; `str()` of it says which one it is."""

    test: Callable[[Any], Any]
    is_async: bool

    def __str__(self) -> str:
        return _described(self.test)


def when(*tests: Callable[[Any], Any]) -> Callable[[_F], _F]:
    """Let a rule run only if conditions hold; above or below `@on`.

    Args:
        *tests: functions of the context, sync or async; all have to return something true. Several `@when` are
            tested from the top down.

    A test that raises is a failure of the rule, never a silent "no".
    """
    for test in tests:
        if not callable(test):
            raise RuleDefinitionError(f"@when takes functions of the context, not {test!r}")
    added = [Condition(test, inspect.iscoroutinefunction(test)) for test in tests]

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


# -- triggers ----------------------------------------------------------------------------------------------------


class Guard(Protocol):
    """What a trigger still asks once an event's type and property fit."""

    def __call__(self, ctx: Any) -> bool:
        """Tell whether the trigger fires."""
        ...


@dataclass(frozen=True, slots=True)
class Trigger:
    """What makes a rule be considered.

    Attributes:
        pattern: event type, exact or a glob (`*`, `?`, `[...]`; case counts, `*` also spans dots).
        properties: for property events, the properties it is about; empty for all.
        from_: value or predicate that the old value has to fit.
        to: value or predicate that the new value has to fit.
    """

    pattern: str
    properties: tuple[str, ...] = ()
    from_: Any = ANY
    to: Any = ANY

    @property
    def is_glob(self) -> bool:
        """Whether the pattern stands for more than one event type."""
        return any(sign in self.pattern for sign in "*?[")

    @property
    def guard(self) -> Guard | None:
        """What is left to test on the context, or None."""
        return None if self.from_ is ANY and self.to is ANY else self._fits

    def _fits(self, ctx: Any) -> bool:
        return _value_fits(self.from_, ctx.old_value) and _value_fits(self.to, ctx.new_value)

    def __str__(self) -> str:
        if not self.properties and self.guard is None:
            return self.pattern
        verb = "changed" if self.pattern == SUBJECT_PROPERTY_CHANGED else "deleted"
        parts = [repr(name) for name in self.properties]
        for word, wanted in (("from_", self.from_), ("to", self.to)):
            if wanted is not ANY:
                parts.append(f"{word}={_described(wanted) if callable(wanted) else repr(wanted)}")
        return f"{verb}({', '.join(parts)})"


def changed(*properties: str, from_: Any = ANY, to: Any = ANY) -> Trigger:
    """Trigger on a change of a property.

    Args:
        *properties: their names; none means any property.
        from_: the old value, or a predicate on it. The old value is None if there was none.
        to: the new value, or a predicate on it.
    """
    return Trigger(SUBJECT_PROPERTY_CHANGED, _names(properties), from_, to)


def deleted(*properties: str, from_: Any = ANY) -> Trigger:
    """Trigger on the deletion of a property.

    Args:
        *properties: their names; none means any property.
        from_: the value it had, or a predicate on it.
    """
    return Trigger(SUBJECT_PROPERTY_DELETED, _names(properties), from_)


def _names(properties: Sequence[Any]) -> tuple[str, ...]:
    for name in properties:
        if not isinstance(name, str) or not name:
            raise RuleDefinitionError(f"changed() and deleted() take names of properties, not {name!r}")
    return tuple(properties)


def _value_fits(wanted: Any, value: Any) -> bool:
    if wanted is ANY:
        return True
    return bool(wanted(value)) if callable(wanted) else bool(wanted == value)


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
        if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", name):
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
        self._middleware = tuple(middleware)
        self._retry = retry
        self._timeout = _seconds(timeout)
        self._rules: dict[str, Rule] = {}
        self._watchers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._origin = _origin_of_frame(sys._getframe(1))

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
            *triggers: event types (exact, or globs such as `ticket.*`), `changed(...)`, `deleted(...)`; one of
                them is enough. A second `@on` on the same function adds triggers to the same rule.
            name: second part of the rule's id; by default the function's name.
            priority: rules of higher priority run first; equal ones in order of registration.
            middleware: wrapped around this rule, innermost of all, outermost first.
            retry: what happens when it fails.
            timeout: how long one run may take, in seconds or as a timedelta.

        Raises:
            DuplicateRule: another function has this id.
            RuleDefinitionError: a trigger cannot be used.
        """
        parsed = [self._trigger(trigger) for trigger in triggers]
        if not parsed:
            raise RuleDefinitionError(f"rule set {self.name!r}: @on needs an event type, changed(...) or deleted(...)")

        def register(function: _F) -> _F:
            conditions = _conditions_of(function)
            id = f"{self.name}.{name or function.__name__}"
            known = self._rules.get(id)
            if known is not None and known.function is function:
                known.triggers.extend(parsed)
            else:
                if known is not None and not _is_reimport(_origin(function), _origin(known.function)):
                    raise DuplicateRule(id, _place(known.function), _place(function))
                self._rules[id] = Rule(
                    id=id,
                    function=function,
                    subject=self.subject,
                    triggers=parsed,
                    conditions=conditions,
                    priority=priority,
                    middleware=(*self._middleware, *middleware),
                    retry=retry or self._retry,
                    timeout=_seconds(timeout) or self._timeout,
                )
            for watcher in self._watchers:
                watcher.invalidate()
            return function

        return register

    def is_reimport_of(self, other: RuleSet) -> bool:
        """Tell whether both were made by the same statement, because their module was imported twice."""
        return _is_reimport(self._origin, other._origin)

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
    if seconds is not None and not seconds > 0:
        raise RuleDefinitionError(f"timeout={timeout!r} must be more than 0 seconds")
    return seconds


# -- where a declaration stands ------------------------------------------------------------------------------------

_Origin = tuple[CodeType, str, int, str]


def _origin(function: Callable[..., Any]) -> _Origin | None:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code and (code, code.co_filename, code.co_firstlineno, code.co_qualname)


def _origin_of_frame(frame: FrameType) -> _Origin:
    return frame.f_code, frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname


def _is_reimport(new: _Origin | None, old: _Origin | None) -> bool:
    """Tell an import that ran again from a loop that registers one function many times.

    Both declare the same lines; but an import that runs again has compiled them again, into another code object.
    """
    return new is not None and old is not None and new[0] is not old[0] and new[1:] == old[1:]


def _place(function: Callable[..., Any]) -> str:
    origin = _origin(function)
    return f"{origin[3]} ({origin[1]}:{origin[2]})" if origin else repr(function)


def _described(test: Callable[..., Any]) -> str:
    code = getattr(test, "__code__", None)
    if code is None or test.__name__ != "<lambda>":
        return getattr(test, "__qualname__", repr(test))
    return f"lambda at {code.co_filename.rpartition('/')[2]}:{code.co_firstlineno}"
