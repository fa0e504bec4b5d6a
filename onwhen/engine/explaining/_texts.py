"""Values as short texts for people: bounded, on one line, and whatever they are.

Belongs here: from a value to a text. It must not know where the value is from. Nothing here raises over a value, and
of a large text or container only the beginning is looked at; another type's own `__repr__` takes as long as it takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from onwhen.engine.values import FrozenDict, FrozenList

__all__ = ["SHOWN", "error_text", "one_line", "short"]

SHOWN: Final = 120
"""Characters of a value that are shown (a count)."""

_DEEPEST: Final = 8  # containers within containers (a count)
_ERROR: Final = 500  # characters of an error (a count)
_DICTS: Final = (dict, FrozenDict)
_BRACKETS: Final[Mapping[Any, tuple[str, str]]] = {
    list: ("[", "]"),
    FrozenList: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}


def short(value: Any, most: int = SHOWN) -> str:
    """Return a value as Python would write it, cut to so many characters.

    Args:
        value: what is shown; its own `__repr__` is asked, unless it is a plain value or container.
        most: characters (a count).
    """
    try:
        text = _written(value, most, _DEEPEST)
    except Exception as error:
        text = f"<{type(value).__qualname__}, whose repr raised {type(error).__qualname__}>"
    return one_line(text, most)


def error_text(error: BaseException) -> str:
    """Return the class and the message of an error, on one line."""
    try:
        message = str(error)
    except Exception as broken:
        message = f"(its text cannot be had: {type(broken).__qualname__})"
    name = type(error).__qualname__
    return one_line(f"{name}: {message}" if message else name, _ERROR)


def one_line(text: str, most: int) -> str:
    """Return text with what is not printable escaped, cut to so many characters (a count)."""
    if len(text) > most:
        text = f"{text[: most - 3]}..."
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def _written(value: Any, most: int, deep: int) -> str:
    kind: Any = type(value)
    if kind is str or kind is bytes:
        return repr(value[: most + 1])
    if kind is int and value.bit_length() > 4 * most:
        return f"<an int of {value.bit_length():,} bits>"
    if kind in _DICTS:
        return "{...}" if not deep else f"{{{_joined(_pairs(value, most, deep), most)}}}"
    if kind in _BRACKETS:
        first, last = _BRACKETS[kind]
        if not value:
            return repr(value)
        if not deep:
            return f"{first}...{last}"
        inside = _joined((_written(item, most, deep - 1) for item in value), most)
        return f"{first}{inside}{',' if kind is tuple and len(value) == 1 else ''}{last}"
    if kind.__repr__ is object.__repr__:  # its address would be another one each time
        return f"<{kind.__module__}.{kind.__qualname__} object>"
    return repr(value)


def _pairs(value: dict[Any, Any], most: int, deep: int) -> Iterator[str]:
    for key, item in value.items():
        yield f"{_written(key, most, 1)}: {_written(item, most, deep - 1)}"


def _joined(parts: Iterable[str], most: int) -> str:
    """Join parts with commas, no more of them than can be shown."""
    found: list[str] = []
    length = 0
    for part in parts:
        found.append(part)
        length += len(part) + 2
        if length > most:
            break
    return ", ".join(found)
