"""The forms in which commands show moments, durations and JSON, harmless to a terminal whatever they hold.

Belongs here: from a value to a text. It must not know where on the screen it goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from onwhen.engine import values
from onwhen.engine.store import Failure

__all__ = ["ago", "clean", "cut", "error_text", "json_line", "json_of", "rfc3339", "seconds_text", "shortly"]

_ERROR: Final = 80  # characters of an error that a list shows (a count)
_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def clean(text: str) -> str:
    """Return text that does nothing to a terminal: what is not printable is escaped."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def cut(text: str, most: int) -> str:
    """Return text, shortened to so many characters if it has more."""
    return text if len(text) <= most else text[: most - 1] + "…"


def error_text(failure: Failure) -> str:
    """Return an error for a list: its class, without the module, and its message."""
    return cut(f"{failure.type.rpartition('.')[2]}: {failure.message}", _ERROR)


def rfc3339(moment: datetime) -> str:
    """Write a moment in UTC, with its microseconds (RFC 3339)."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"


def shortly(moment: datetime) -> str:
    """Write a moment in UTC for people: RFC 3339 as well, but to the second."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def ago(moment: datetime, now: datetime) -> float:
    """Return how long ago a moment was (seconds, to the microsecond); negative if it is to come."""
    return (now - moment).total_seconds()


def seconds_text(seconds: float) -> str:
    """Write a duration in its two largest units, such as `2 h 5 min`; one that is not positive as `0 s`."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in _UNITS:
        number, left = divmod(left, size)
        if number or parts:
            parts.append(f"{number} {unit}" if number else "")
    return " ".join(filter(None, parts[:2])) or "0 s"


def json_of(texts: Mapping[str, bytes]) -> dict[str, msgspec.Raw]:
    """Return stored values for `json_line`, each exactly as it is stored."""
    return {name: msgspec.Raw(text) for name, text in texts.items()}


def json_line(value: Any, *, ascii: bool = False) -> str:
    """Write a value as JSON on one line; what is not printable is escaped, so it is harmless to a terminal as well.

    Args:
        value: what is written.
        ascii: escape all that is not ASCII too.
    """
    text = values.encode(value).decode()
    if text.isprintable() and (text.isascii() or not ascii):
        return text
    return "".join(sign if (sign < "\x7f" if ascii else sign.isprintable()) else _escaped(sign) for sign in text)


def _escaped(sign: str) -> str:
    units = sign.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
