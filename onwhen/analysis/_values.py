"""What an expression in somebody's code can stand for, as far as a look at the code can tell.

Belongs here: the kinds of such values, and what is known of live objects without running anything. It must not
know how code is read.
"""

from __future__ import annotations

import ast
import enum
import inspect
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from onwhen.analysis._texts import HOLE, Text, meets_prefix
from onwhen.engine.rulebook import Rulebook
from onwhen.engine.subjects import Subject

__all__ = [
    "CTX",
    "NOTHING",
    "UNKNOWN",
    "Closure",
    "Live",
    "Mark",
    "Property",
    "Sequence",
    "SubjectOf",
    "Values",
    "Verb",
    "attribute_of",
    "classes_named",
    "classes_of",
    "constants",
    "copied",
    "is_of_ours",
    "item_of",
    "items",
    "lives",
    "of",
    "property_in",
    "texts",
    "union",
]

_MOST: Final = 24  # things that one expression may stand for (a count); more are unknown


class Mark(enum.Enum):
    """Values that have nothing more to them."""

    CTX = "the context"
    NEXT = "the rest of a chain"
    EXT = "the extended properties"
    EVENT_TYPE = "the type of the event"
    PROPERTY_NAME = "the property that an event is about"
    NEW_VALUE = "its value after the change"
    OLD_VALUE = "its value before"
    UNKNOWN = "?"


@dataclass(frozen=True, slots=True)
class SubjectOf:
    """A subject.

    Attributes:
        cls: its class.
        is_own: it is the turn's own, and no snapshot of another.
    """

    cls: type[Subject]
    is_own: bool = True


@dataclass(frozen=True, slots=True)
class Property:
    """What a property of the turn's subject holds, or something in it; changing it in place changes the property."""

    name: Text
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class Verb:
    """A method of the context, of the subject or of a bus, or one of something in a property.

    Attributes:
        owner: what it is of.
        name: how it is called.
    """

    owner: Any
    name: str


@dataclass(frozen=True, slots=True)
class Live:
    """An object that is there: a module's constant, a function, a default."""

    value: Any = field(compare=False)
    key: Any

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True, slots=True)
class Sequence:
    """A tuple, list or set that stands in the code."""

    elements: tuple[Values, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Closure:
    """A function that stands in a function, with the names that it sees."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    frame: Any


Values: TypeAlias = frozenset[Any]

CTX: Final[Values] = frozenset({Mark.CTX})
UNKNOWN: Final[Values] = frozenset({Mark.UNKNOWN})
NOTHING: Final[Values] = frozenset()


def of(value: Any) -> Values:
    """Return a live object as what it stands for."""
    if isinstance(value, str):
        return frozenset({Text.of(str.__str__(value))})
    if type(value) in (int, float, bool, bytes, type(None)):
        return frozenset({Live(value, (type(value), value))})
    if isinstance(value, types.MethodType):  # made anew whenever it is asked for
        return frozenset({Live(value, ("method", id(value.__func__), id(value.__self__)))})
    return frozenset({Live(value, id(value))})


def union(found: Iterable[Values]) -> Values:
    """Return all that one of these may be."""
    every: frozenset[Any] = frozenset().union(*found)
    return every if len(every) <= _MOST else (every & CTX) | UNKNOWN


def texts(values: Values) -> tuple[Text, ...]:
    """Return the strings that something may be, in a fixed order; what may be something else too is unknown text."""
    found = {value if isinstance(value, Text) else Text.of(HOLE) for value in values}
    return tuple(sorted(found or {Text.of(HOLE)}, key=str))


def lives(values: Values) -> tuple[Any, ...]:
    """Return the live objects among these."""
    return tuple(value.value for value in values if isinstance(value, Live))


def constants(values: Values) -> tuple[Any, ...] | None:
    """Return the plain values that something may be, in a fixed order, or None if it may be something else too."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, Text) and value.is_exact:
            found.append(str(value))
        elif isinstance(value, Live) and (_is_constant(value)):
            found.append(value.value)
        else:
            return None
    return tuple(sorted(found, key=lambda one: one._name_ if isinstance(one, enum.Enum) else repr(one))) or None


def _is_constant(value: Live) -> bool:
    return isinstance(value.value, enum.Enum) or (isinstance(value.key, tuple) and isinstance(value.key[0], type))


def attribute_of(value: Any, name: str) -> Values:
    """Return an attribute of a live object without running any code of its class."""
    if isinstance(value, types.ModuleType):
        namespace = vars(value)
        return of(namespace[name]) if name in namespace else UNKNOWN
    try:
        found = inspect.getattr_static(value, name)
    except (AttributeError, TypeError, ValueError):
        return UNKNOWN
    if isinstance(value, enum.Enum):
        if name in ("value", "name"):
            return of(value.value if name == "value" else value.name)
    elif isinstance(found, types.MemberDescriptorType) and not isinstance(value, type):
        try:
            return of(found.__get__(value, type(value)))
        except AttributeError:
            return UNKNOWN
    if isinstance(found, staticmethod):
        return of(found.__func__)
    if isinstance(found, classmethod):
        return of(types.MethodType(found.__func__, value if isinstance(value, type) else type(value)))
    if isinstance(found, types.FunctionType):
        is_method = not isinstance(value, type) and name not in getattr(value, "__dict__", {})
        return of(types.MethodType(found, value) if is_method else found)
    return UNKNOWN if hasattr(type(found), "__get__") and not isinstance(found, type) else of(found)


def is_of_ours(values: Values) -> bool:
    """Tell whether something may be the context, the subject, or a verb of theirs: whoever has it can do anything."""
    return any(
        value is Mark.CTX
        or (isinstance(value, SubjectOf) and value.is_own)
        or (isinstance(value, Verb) and (value.owner is Mark.CTX or isinstance(value.owner, SubjectOf | type)))
        or (isinstance(value, Sequence) and any(map(is_of_ours, value.elements)))
        for value in values
    )


def property_in(owner: Any) -> Property | None:
    """Return the property that something is in, be it an attribute of what it holds."""
    if isinstance(owner, Property):
        return owner
    return owner.owner if isinstance(owner, Verb) and isinstance(owner.owner, Property) else None


def classes_of(subject: type[Subject]) -> list[type[Subject]]:
    """Return a class of subjects and all that extend it."""
    return [subject, *(found for cls in subject.__subclasses__() for found in classes_of(cls))]


def classes_named(name: Text, book: Rulebook) -> set[type[Subject]]:
    """Return the classes that the subject of a name, as far as that is known, may be of."""
    return {book.subject_type(name.prefix)} | {
        cls for cls in book.subject_types if meets_prefix(name, cls._prefix) == "maybe"
    }


def copied(value: Any) -> Values:
    """Return a copy of something: what is in it is the same, but to change the copy changes nothing."""
    return frozenset({Sequence((items(frozenset({value})),)) if isinstance(value, Property) else value})


def items(values: Values) -> Values:
    """Return what a loop over one of these gives."""
    found: list[Values] = []
    for value in values:
        if isinstance(value, Sequence):
            found.extend(value.elements)
        elif isinstance(value, Live) and type(value.value) in (tuple, list, set, frozenset, dict):
            found.extend(map(of, value.value) if len(value.value) <= _MOST else (UNKNOWN,))
        elif isinstance(value, Live) and isinstance(value.value, enum.EnumType):
            found.extend(map(of, value.value.__members__.values()))
        elif isinstance(value, Property):
            found.append(frozenset({Property(value.name, is_whole=False)}))
        else:
            found.append(UNKNOWN)
    return union(found)


def item_of(value: Any, keys: Values) -> Values:
    """Return what stands at a key of a sequence or of a live dict, list or tuple."""
    known = constants(keys)
    if isinstance(value, Sequence):
        whole = [key for key in known or () if type(key) is int and -len(value.elements) <= key < len(value.elements)]
        return union(value.elements[key] for key in whole) if known and len(whole) == len(known) else items({value})  # type: ignore[arg-type]
    if not isinstance(value, Live) or type(value.value) not in (dict, list, tuple, types.MappingProxyType):
        return UNKNOWN
    held = value.value
    if known is None:
        every = held.values() if isinstance(held, Mapping) else held
        return union(of(one) for one in every) if 0 < len(every) <= _MOST else UNKNOWN
    found: list[Values] = []
    for key in known:
        try:
            found.append(of(held[key]))
        except (KeyError, IndexError, TypeError):
            continue  # it would raise there
    return union(found) if found else UNKNOWN
