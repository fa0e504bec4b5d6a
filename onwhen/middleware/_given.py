"""Options of middleware that decides by time and may be shared: choices, names, and durations in microseconds.

Belongs here: checks beside those in `_options`. It must not know what the options are for.
"""

from __future__ import annotations

from typing import Any, TypeVar

from onwhen.errors import RuleDefinitionError
from onwhen.middleware._options import Duration, seconds

__all__ = ["microseconds", "name", "one_of"]

T = TypeVar("T")


def microseconds(value: Duration, option: str, *, zero: bool = False) -> int:
    """Return a duration in microseconds, at least one of them; see `_options.seconds` for the arguments."""
    given = seconds(value, option, zero=zero)
    return round(given * 1e6) or int(given > 0)


def name(value: Any, option: str) -> str:
    """Return a name, "" for None, or raise `RuleDefinitionError`."""
    if value is None:
        return ""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise RuleDefinitionError(f"{option}={value!r:.80} must be a printable text, or None")
    return str.__str__(value)


def one_of(value: T, option: str, *allowed: T) -> T:
    """Return one of a few values, or raise `RuleDefinitionError`."""
    if not any(value is one or (isinstance(one, str) and value == one) for one in allowed):
        raise RuleDefinitionError(f"{option}={value!r:.80} must be {' or '.join(map(repr, allowed))}")
    return value
