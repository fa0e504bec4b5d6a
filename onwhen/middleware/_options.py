"""Options of middleware: what each of them takes for a duration, a count, a choice, a name, a key or a kind of error.

Belongs here: checks that more than one middleware makes of what it was given. It must not know any of them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, TypeAlias, TypeVar

from onwhen.engine.context import Context
from onwhen.engine.rules import Rule
from onwhen.errors import MiddlewareError, RuleDefinitionError

__all__ = [
    "LONGEST",
    "Duration",
    "ErrorTest",
    "Errors",
    "Key",
    "error_test",
    "key_function",
    "microseconds",
    "one_of",
    "only_one_of",
    "plain_name",
    "positive_int",
    "rule_of",
    "seconds",
]

Duration: TypeAlias = float | timedelta
"""A number of seconds, or a timedelta."""

Key: TypeAlias = "Callable[[Context[Any]], str]"
"""What tells apart the runs that a middleware is to keep apart."""

ErrorTest: TypeAlias = Callable[[BaseException], bool]
"""Tells whether an error is meant."""

Errors: TypeAlias = type[BaseException] | tuple[type[BaseException], ...] | ErrorTest
"""An exception class, a tuple of them, or a predicate on the error."""

T = TypeVar("T")

LONGEST: Final = 3_155_760_000.0
"""100 years, in seconds: no duration is longer, as everywhere in the engine."""


def seconds(value: Any, name: str, *, zero: bool = False) -> float:
    """Return a duration in seconds.

    Args:
        value: a number of seconds, or a timedelta; more than 0, and at most 100 years.
        name: which option it is, with the middleware before it: `Throttle: per`.
        zero: 0 is allowed too.

    Raises:
        RuleDefinitionError: it is none.
    """
    given = value.total_seconds() if isinstance(value, timedelta) else value
    if type(given) not in (int, float) or math.isnan(given) or not 0 <= given <= LONGEST or (not given and not zero):
        least = "at least 0" if zero else "more than 0"
        raise RuleDefinitionError(
            f"{name}={value!r:.80} must be {least} and at most 100 years, as a number of seconds or a timedelta"
        )
    return float(given)


def microseconds(value: Any, name: str, *, zero: bool = False) -> int:
    """Return a duration in whole microseconds, at least one unless it is 0; see `seconds` for the rest."""
    given = seconds(value, name, zero=zero)
    return round(given * 1e6) or int(given > 0)


def positive_int(value: Any, name: str, *, least: int = 1) -> int:
    """Return a count of at least `least`, or raise `RuleDefinitionError` with the option's name in it."""
    if type(value) is not int or value < least:
        raise RuleDefinitionError(f"{name}={value!r:.80} must be an int of at least {least}")
    return value


def one_of(value: T, name: str, *allowed: T) -> T:
    """Return one of a few values, or raise `RuleDefinitionError`."""
    if not any(value is one or (isinstance(one, str) and value == one) for one in allowed):
        raise RuleDefinitionError(f"{name}={value!r:.80} must be {' or '.join(map(repr, allowed))}")
    return value


def plain_name(value: Any, name: str) -> str:
    """Return a name, "" for None, or raise `RuleDefinitionError`."""
    if value is None:
        return ""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise RuleDefinitionError(f"{name}={value!r:.80} must be a printable text, or None")
    return str.__str__(value)


def key_function(key: Any, name: str) -> Key:
    """Return what makes the key of a run: the function that was given, or else the rule's id ("" around an event).

    The one returned raises `MiddlewareError` if the one given returns anything but a text.

    Raises:
        RuleDefinitionError: it is no function, or an async one.
    """
    if key is None:
        return _rule_id
    if not callable(key) or isinstance(key, type) or inspect.iscoroutinefunction(key):
        raise RuleDefinitionError(f"{name}={key!r:.80} must be a plain function of the context that returns a text")

    def checked(ctx: Context[Any]) -> str:
        made = key(ctx)
        if not isinstance(made, str):
            raise MiddlewareError(f"{name} has returned {made!r:.80}; it must return a text: wrap it in str(...)")
        return str.__str__(made)

    return checked


def error_test(errors: Any, name: str) -> ErrorTest:
    """Return a predicate on errors, made of exception classes or of a predicate; see `Errors`."""
    classes = errors if isinstance(errors, tuple) else (errors,)
    if classes and all(isinstance(one, type) and issubclass(one, BaseException) for one in classes):
        return lambda error: isinstance(error, classes)
    if not callable(errors) or isinstance(errors, type) or inspect.iscoroutinefunction(errors):
        raise RuleDefinitionError(f"{name}={errors!r:.80} must be exception classes, or a plain predicate on the error")

    def test(error: BaseException) -> bool:
        try:
            return bool(errors(error))
        except Exception as broken:
            error.add_note(f"it counts as not meant by {name}, because that has raised {broken!r}")
            return False

    return test


def rule_of(ctx: Context[Any], name: str) -> Rule:
    """Return the rule that is run, or raise `MiddlewareError` if the middleware is around a whole event."""
    if ctx.rule is None:
        raise MiddlewareError(f"{name} is for rules; bus.use({name}(...)) without scope='event' puts it around them")
    return ctx.rule


def only_one_of(ctx: Context[Any], name: str) -> Rule:
    """Return the rule that is run; refuse two of the same kind around it, which would share what they remember.

    Raises:
        MiddlewareError: there are two, or this is around a whole event.
    """
    rule, place = rule_of(ctx, name), f"onwhen.{name}"
    if ctx.get_metadata(place):
        raise MiddlewareError(f"there are two {name} around {rule}, and what they remember is one: take one away")
    ctx.set_metadata(place, True)
    return rule


def _rule_id(ctx: Context[Any]) -> str:
    return "" if ctx.rule is None else ctx.rule.id
