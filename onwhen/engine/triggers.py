"""Triggers: what makes a rule be considered for an event.

Belongs here: the declaration, and the part of it that asks for values. It must not know of rules, nor how they are
found by their triggers (`rulebook`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from onwhen.engine.events import SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED
from onwhen.errors import RuleDefinitionError

__all__ = ["ANY", "Guard", "Trigger", "changed", "deleted", "described", "is_generator"]


class _Any:
    """The type of `ANY`."""

    def __repr__(self) -> str:
        return "ANY"


ANY: Final = _Any()
"""Stands for "whatever the value", because None is a value."""


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
                parts.append(f"{word}={described(wanted) if callable(wanted) else repr(wanted)}")
        return f"{verb}({', '.join(parts)})"


def changed(*properties: str, from_: Any = ANY, to: Any = ANY) -> Trigger:
    """Trigger on a change of a property.

    Args:
        *properties: their names; none means any property.
        from_: the old value, or a predicate on it. The old value is None if there was none.
        to: the new value, or a predicate on it.
    """
    return Trigger(SUBJECT_PROPERTY_CHANGED, _names(properties), _wanted(from_), _wanted(to))


def deleted(*properties: str, from_: Any = ANY) -> Trigger:
    """Trigger on the deletion of a property.

    Args:
        *properties: their names; none means any property.
        from_: the value it had, or a predicate on it.
    """
    return Trigger(SUBJECT_PROPERTY_DELETED, _names(properties), _wanted(from_))


def _names(properties: Sequence[Any]) -> tuple[str, ...]:
    for name in properties:
        if not isinstance(name, str) or not name:
            raise RuleDefinitionError(f"changed() and deleted() take names of properties, not {name!r}")
    return tuple(properties)


def _wanted(wanted: Any) -> Any:
    if inspect.iscoroutinefunction(wanted) or is_generator(wanted):
        raise RuleDefinitionError(f"from_= and to= take values or plain functions of the value, not {wanted!r}")
    return wanted


def _value_fits(wanted: Any, value: Any) -> bool:
    if wanted is ANY:
        return True
    return bool(wanted(value)) if callable(wanted) else bool(wanted == value)


# -- functions that users pass -------------------------------------------------------------------------------------


def described(test: Callable[..., Any]) -> str:
    """Say which function it is: its name, or where a lambda stands."""
    code = getattr(test, "__code__", None)
    if code is None or test.__name__ != "<lambda>":
        return getattr(test, "__qualname__", repr(test))
    return f"lambda at {code.co_filename.rpartition('/')[2]}:{code.co_firstlineno}"


def is_generator(function: Any) -> bool:
    """Tell whether a function has a yield in it, so that calling it runs nothing and gives something true."""
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
