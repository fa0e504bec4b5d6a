"""JSON values: what they are, how they are checked, frozen, written and read.

The one place that knows what JSON can hold. It must not know what the values mean: events and subjects name
the place of a value in `where`, and turn the TypeError or ValueError from here into errors of their own.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import date, time
from decimal import Decimal
from enum import Enum
from math import isfinite, isinf
from types import NoneType
from typing import Any, Final, NoReturn

import msgspec

__all__ = [
    "ATOMS",
    "MAX_DEPTH",
    "FrozenDict",
    "FrozenList",
    "check",
    "decode",
    "encode",
    "freeze",
    "freeze_sound",
    "loads_strict",
    "thaw",
]

ATOMS: Final[frozenset[type]] = frozenset({str, int, float, bool, NoneType})
"""The exact types of the JSON values that hold no others."""

MAX_DEPTH: Final = 128
"""How many lists and objects may be nested in each other, as a count; more is refused."""

# Python (sys.set_int_max_str_digits) and msgspec refuse to read 4,300 characters of digits, sign included.
_MAX_DIGITS: Final = 4299
_HUGE: Final = 10**_MAX_DIGITS


class _Refusal(Exception):
    """What is wrong with a value; the steps that lead to it are added, innermost first, on the way out."""

    def __init__(self, kind: type[TypeError] | type[ValueError], reason: str) -> None:
        self.kind = kind
        self.reason = reason
        self.steps: list[Any] = []

    def at(self, where: str) -> TypeError | ValueError:
        path = [_step(step) for step in reversed(self.steps)]
        shown = "".join(path if len(path) <= 12 else [*path[:12], "..."])
        reason = (
            self.reason
            or f"nested more than {min(len(path) or MAX_DEPTH, MAX_DEPTH)} deep, or inside itself; flatten it"
        )
        return self.kind(f"{where}{shown}: {reason}")


def _step(step: Any) -> str:
    if type(step) is str and len(step) <= 40:
        return f".{step}" if step.isidentifier() else f"[{step!a}]"
    return f"[{ascii(step)[:40]}]"


# -- frozen values ---------------------------------------------------------------------------------------------


def _immutable(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
    plain = "dict" if isinstance(self, dict) else "list"
    raise TypeError(f"this is an event's data, immutable; copy it first: {plain}(...), or copy.deepcopy(...)")


class FrozenDict(dict[str, Any]):
    """An immutable JSON object; made by `freeze`. Its copies, also by pickle, are plain dicts."""

    __slots__ = ()

    __setitem__ = __delitem__ = __ior__ = _immutable
    clear = pop = popitem = setdefault = update = _immutable

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    copy = __copy__

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return {key: thaw(item) for key, item in self.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (), None, None, iter(self.items())


class FrozenList(list[Any]):
    """An immutable JSON array; made by `freeze`. Its copies, also by pickle, are plain lists."""

    __slots__ = ()

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _immutable
    append = clear = extend = insert = pop = remove = reverse = sort = _immutable

    def __copy__(self) -> list[Any]:
        return list(self)

    copy = __copy__

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        return [thaw(item) for item in self]

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (), None, iter(self)


_FROZEN: Final[frozenset[type]] = frozenset({FrozenDict, FrozenList})


def freeze(value: Any, where: str, max_depth: int = MAX_DEPTH) -> Any:
    """Copy a JSON value into one that nobody can change.

    Args:
        value: a JSON value; a tuple counts as a list, subclasses of dict and list as what they extend.
        where: what to call the value in an error, for example `data`.
        max_depth: how many lists and objects may be nested in each other, as a count.

    Returns:
        The value itself when it is an atom or frozen already, else a `FrozenDict` or `FrozenList`.

    Raises:
        TypeError: something in it is not a JSON value, or a key is not a str.
        ValueError: it holds NaN, an infinity, a lone surrogate or an integer of more than 4,299 digits, or it is
            nested more than `max_depth` deep. Both messages name the path: `data.items[3].price: ...`.
    """
    kind = type(value)
    if kind is dict:  # the common case: nothing nested, so one look and one shallow copy
        for key, item in value.items():
            if not (type(key) is str and key.isascii() and _is_sound(item)):
                break
        else:
            return FrozenDict(value)
    elif kind in _FROZEN:
        return value
    check(value, where, max_depth)
    return _frozen(value)


def _frozen(value: Any) -> Any:
    kind = type(value)
    if kind in ATOMS or kind in _FROZEN:
        return value
    if isinstance(value, dict):
        return FrozenDict({key: item if type(item) in ATOMS else _frozen(item) for key, item in value.items()})
    return FrozenList([item if type(item) in ATOMS else _frozen(item) for item in value])


def freeze_sound(value: Any) -> Any:
    """Copy what is known to be a JSON value into one that nobody can change; see `freeze`."""
    return _frozen(value)


def thaw(value: Any) -> Any:
    """Copy a JSON value, frozen or not, into plain dicts and lists that can be changed.

    Args:
        value: a JSON value; bytes, which an event's data may be instead, are returned as they are.

    Returns:
        A deep copy that shares nothing mutable with the value.
    """
    if type(value) in ATOMS:
        return value
    if isinstance(value, dict):
        return {key: thaw(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [thaw(item) for item in value]
    return value


# -- what JSON can hold ----------------------------------------------------------------------------------------


def check(value: Any, where: str, max_depth: int = MAX_DEPTH) -> None:
    """Refuse a value that JSON cannot hold, without copying it.

    Args:
        value: the value to check; a tuple counts as a list.
        where: what to call the value in an error, for example `data`.
        max_depth: how many lists and objects may be nested in each other, as a count.

    Raises:
        TypeError, ValueError: as `freeze` does.

    Source: RFC 8259; RFC 7493 (I-JSON) for surrogates and duplicate keys.
    """
    try:
        _check(value, max_depth)
    except _Refusal as refusal:
        raise refusal.at(where) from None


def _is_sound(value: Any) -> bool:
    """Whether it is an atom with nothing wrong about it."""
    kind = type(value)
    sound: bool
    if kind is str:
        sound = value.isascii() or _is_text(value)
    elif kind is float:
        sound = isfinite(value)
    elif kind is int:
        sound = -_HUGE < value < _HUGE
    else:
        sound = kind is bool or value is None
    return sound


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check(value: Any, room: int) -> None:
    if _is_sound(value):
        return
    if isinstance(value, dict):
        _check_items(value.items(), room, keyed=True)
    elif isinstance(value, list) or type(value) is tuple:
        _check_items(enumerate(value), room, keyed=False)
    else:
        raise _complaint(value)


def _check_items(items: Any, room: int, *, keyed: bool) -> None:
    if not room:
        raise _too_deep()
    step = None
    try:
        for step, item in items:
            if keyed and (type(step) is not str or not _is_sound(step)):
                raise _complaint_about_key(step)
            _check(item, room - 1)
    except _Refusal as refusal:
        refusal.steps.append(step)
        raise


def _too_deep() -> _Refusal:
    return _Refusal(ValueError, "")  # how deep is told by the steps that led there


def _complaint(value: Any) -> _Refusal:
    kind = type(value)
    if kind is float:
        return _Refusal(ValueError, f"JSON has no {value!r}; pass None or a string instead")
    if kind is int:
        return _Refusal(ValueError, f"an integer of more than {_MAX_DIGITS:,} digits; pass it as a string")
    if kind is str:
        return _Refusal(ValueError, "half a surrogate pair in a string; decode the text as it was encoded")
    return _Refusal(TypeError, f"{kind.__qualname__} is not a JSON value; {_advice(value)}")


def _complaint_about_key(key: Any) -> _Refusal:
    if type(key) is str:
        return _complaint(key)
    advice = "pass its .value" if isinstance(key, Enum) else "pass str(key)"
    return _Refusal(TypeError, f"this key is {type(key).__qualname__}, but JSON keys are str; {advice}")


def _advice(value: Any) -> str:
    match value:
        case Enum():
            return "pass its .value"
        case bool() | int() | float() | str():
            return f"pass a plain {type(value).__mro__[-2].__name__}"
        case Decimal():
            return "pass str(...) to keep it exact, or float(...)"
        case date() | time():
            return "pass its .isoformat()"
        case bytes() | bytearray() | memoryview():
            return "pass text, for example base64"
        case set() | frozenset():
            return "pass sorted(...)"
        case _ if hasattr(value, "model_dump"):
            return 'pass its .model_dump(mode="json")'
        case _:
            return "pass None, bool, int, float, str, or lists and dicts of these"


# -- JSON text -------------------------------------------------------------------------------------------------

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


def encode(value: Any) -> bytes:
    """Write a value as compact JSON.

    Args:
        value: a JSON value that `freeze` or `check` has let through; others may be written wrongly (NaN as null).

    Returns:
        UTF-8 text without white space, keys in the order of the dicts.
    """
    return _encode(value)


def decode(data: bytes) -> Any:
    """Read what `encode` wrote; integers of any size come back exact.

    Args:
        data: our own JSON, UTF-8. For JSON from elsewhere take `loads_strict`.

    Raises:
        ValueError: it is not JSON.
    """
    return _decode(data)


def loads_strict(data: bytes | str, where: str, *, max_depth: int = MAX_DEPTH) -> Any:
    """Read JSON from elsewhere, and refuse all that two readers could understand differently.

    Args:
        data: one JSON text; bytes are UTF-8. One byte order mark in front is skipped, as RFC 8259 section 8.1 allows.
        where: what to call the text in an error, for example `event`.
        max_depth: how many lists and objects may be nested in each other, as a count.

    Returns:
        A plain value that `check` lets through.

    Raises:
        ValueError: it is not UTF-8 or not JSON (with line and column), repeats a key (named), holds NaN, an infinity,
            a number too large for a float, or anything else that `check` refuses.

    Source: RFC 8259; RFC 7493 (I-JSON).
    """
    try:
        text = data if isinstance(data, str) else data.decode()
        value = _STRICT.decode(text.removeprefix("\ufeff"))
        _check(value, max_depth)
    except _Refusal as refusal:
        raise refusal.at(where) from None
    except UnicodeDecodeError as exc:
        raise ValueError(f"{where}: not UTF-8 at byte {exc.start}: {exc.reason}") from None
    except json.JSONDecodeError as exc:
        problem = exc.msg.removesuffix(" at")  # of some, it ends so
        raise ValueError(f"{where}: not JSON: {problem} at line {exc.lineno}, column {exc.colno}") from None
    except RecursionError:
        raise _too_deep().at(where) from None
    except ValueError:  # the only other one: int() has a limit
        raise ValueError(f"{where}: an integer of more than {_MAX_DIGITS:,} digits; write it as a string") from None
    return value


def _strict_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        [(repeated, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise _Refusal(ValueError, f"duplicate key {json.dumps(repeated[:40])}; keep one")
    return result


def _strict_float(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise _Refusal(ValueError, f"{text[:40]} is too large for a float; write it as a string")
    return number


def _strict_constant(text: str) -> NoReturn:
    raise _Refusal(ValueError, f"JSON has no {text}; write null or a string instead")


_STRICT: Final = json.JSONDecoder(
    object_pairs_hook=_strict_object, parse_float=_strict_float, parse_constant=_strict_constant
)
