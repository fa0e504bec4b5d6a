"""The verbs of contexts, buses and subjects, and methods of what a property holds.

Belongs here: what each of them does. It must not know what other calls do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final

from onwhen.analysis._changes import set_property
from onwhen.analysis._effects import Deferral, Emission
from onwhen.analysis._expressions import formatted
from onwhen.analysis._frames import Arguments
from onwhen.analysis._passing import call_unknown
from onwhen.analysis._texts import HOLE, Text
from onwhen.analysis._values import (
    NOTHING,
    UNKNOWN,
    Closure,
    Live,
    Mark,
    Property,
    Sequence,
    SubjectOf,
    Values,
    Verb,
    attribute_of,
    classes_named,
    constants,
    copied,
    item_of,
    lives,
    of,
    texts,
    union,
)
from onwhen.engine.bus import EventBus
from onwhen.engine.fields import TypedCodec
from onwhen.engine.subjects import Subject

if TYPE_CHECKING:
    from onwhen.analysis._reader import Reader

__all__ = ["WholeEvent", "call_verb", "emit_by_bus"]

_MUTATORS: Final = frozenset(
    {
        *("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse", "__setitem__", "__delitem__"),
        *("update", "setdefault", "popitem", "add", "discard", "difference_update", "intersection_update"),
        *("symmetric_difference_update", "appendleft", "popleft", "extendleft", "rotate"),
    }
)
_LARGEST: Final = 24  # entries of a dict that are looked at (a count)
_ALWAYS: Final = frozenset({"append", "insert", "appendleft"})  # the value is another one afterwards
_PLAIN: Final = frozenset(name for kind in (str, bytes, int, float, list, dict, set) for name in dir(kind)) - _MUTATORS


class WholeEvent(Sequence):
    """An event that is made in the code: its type, and its subject."""

    __slots__ = ()


def call_verb(reader: Reader, verb: Verb, arguments: Arguments, shown: str) -> Values:
    owner, name = verb.owner, verb.name
    if owner is Mark.CTX:
        return _OF_CONTEXT[name](reader, arguments)
    if owner is EventBus:
        return emit_by_bus(reader, arguments, shown)
    if isinstance(owner, SubjectOf):
        return _call_of_subject(reader, owner, name, arguments, shown)
    if isinstance(owner, Property):
        return _call_in_property(reader, owner, name, arguments, shown)
    if isinstance(owner, Live):
        return _call_of_dict(owner, name, arguments)
    if isinstance(owner, Text):
        return frozenset({formatted(owner, r"\{[^{}]*\}")}) if name == "format" else frozenset({Text.of(HOLE)})
    if owner is Mark.UNKNOWN and name in ("emit", "append"):
        emitted = _as_event(arguments) is not None
        if emitted or (name == "emit" and len(arguments.positional) >= 2 and _first_text(arguments) is not None):
            with reader.maybe():
                return emit_by_bus(reader, arguments, shown)
    return call_unknown(reader, arguments, shown)


def _call_of_dict(owner: Live, name: str, arguments: Arguments) -> Values:
    """Return what a method of a dict that is there gives."""
    held: dict[Any, Any] = owner.value
    if name == "get":
        key, default = (*arguments.positional, of(None), of(None))[:2]
        return union((item_of(owner, key), default))
    if len(held) > _LARGEST:
        return UNKNOWN
    pairs = {"keys": held, "values": held.values(), "items": held.items()}[name]
    found = tuple(map(of, pairs)) if name != "items" else tuple(frozenset({Sequence((of(k), of(v)))}) for k, v in pairs)
    return frozenset({Sequence(found)})


def _first_text(arguments: Arguments) -> Text | None:
    first = arguments.positional[0]
    return next((value for value in first if isinstance(value, Text) and not value.is_unknown), None)


def _emit(reader: Reader, arguments: Arguments) -> Values:
    given = arguments.bind("event_type", "data", "subject")
    is_timer = not _is_none(given.get("delay")) or not _is_none(given.get("at"))
    _note_emissions(
        reader, given.get("event_type"), given.get("subject"), arguments.is_open, is_timer, given.get("key")
    )
    return UNKNOWN


def emit_by_bus(reader: Reader, arguments: Arguments, shown: str) -> Values:
    given = arguments.bind("event", "subject", "data")
    whole = _as_event(arguments)
    if whole is not None:
        types, target = whole.elements
        _note_emissions(reader, types, target, False, False, None)
    elif arguments.is_open or {"event", "subject"} <= set(given):
        _note_emissions(reader, given.get("event"), given.get("subject"), arguments.is_open, False, None)
    else:
        reader.unseen(f"calls {shown} with an event that cannot be told")
    return UNKNOWN


def _as_event(arguments: Arguments) -> Sequence | None:
    """Return type and subject of a whole event that is passed, if that is what is passed."""
    first = arguments.bind("event").get("event", NOTHING)
    return next((one for one in first if isinstance(one, WholeEvent)), None)


def _note_emissions(
    reader: Reader, types: Values | None, target: Values | None, is_open: bool, is_timer: bool, key: Values | None
) -> None:
    options = texts(types) if types is not None else (Text.of(HOLE),)
    targets = _targets(target, is_open)
    keys = None if _is_none(key) else texts(key or UNKNOWN)[0]
    for event_type in options:
        for to in targets:
            with reader.maybe(len(options) * len(targets) > 1):
                reader.note(
                    Emission(
                        type=event_type,
                        target=to,
                        is_timer=is_timer,
                        key=keys,
                        is_certain=True,
                        place=reader.place,
                    )
                )


def _targets(values: Values | None, is_open: bool) -> tuple[Text | None, ...]:
    if values is None:
        return (Text.of(HOLE),) if is_open else (None,)
    found: list[Text | None] = []
    for value in values:
        if isinstance(value, SubjectOf):
            found.append(None if value.is_own else Text.of(value.cls._prefix, HOLE))
        elif isinstance(value, Live) and value.value is None:
            found.append(None)
        else:
            found.append(value if isinstance(value, Text) else Text.of(HOLE))
    return tuple(sorted(dict.fromkeys(found), key=str)) or (Text.of(HOLE),)


def _is_none(values: Values | None) -> bool:
    return values is None or (len(values) == 1 and lives(values) == (None,))


def _defer(reader: Reader, arguments: Arguments) -> Values:
    reader.note(Deferral(is_certain=True, place=reader.place))
    return UNKNOWN


def _read(reader: Reader, arguments: Arguments) -> Values:
    found: list[Values] = []
    for name in texts(arguments.bind("subject").get("subject", UNKNOWN)):
        cls, *others = classes_named(name, reader.known.book)
        found.append(UNKNOWN if others else frozenset({SubjectOf(cls, is_own=False)}))
    return union(found)


_OF_CONTEXT: Final[Mapping[str, Callable[[Reader, Arguments], Values]]] = {
    "emit": _emit,
    "defer": _defer,
    "read": _read,
}


# -- the subject -------------------------------------------------------------------------------------------------


def _call_of_subject(reader: Reader, owner: SubjectOf, name: str, arguments: Arguments, shown: str) -> Values:
    if name in ("get", "has"):
        given = arguments.bind("name", "default")
        names = texts(given.get("name", UNKNOWN))
        with reader.maybe(len(names) > 1, is_doubtful=True):
            found = union(reader.look(owner, one, is_question=name == "has") for one in names)
        default = given.get("default", NOTHING) - UNKNOWN
        return union((found, default)) if name == "get" else UNKNOWN
    if name in ("set", "delete"):
        if owner.is_own:
            _set_or_delete(reader, name, arguments)
        return UNKNOWN
    if name == "flush":
        if owner.is_own:
            reader.write(Text.of(HOLE), "flush")
        return UNKNOWN
    if name in ("load", "keys"):  # to ask keys() is to ask the subject
        return frozenset({owner})
    if name in dir(Subject):
        return UNKNOWN
    held = attribute_of(owner.cls, name)
    method = next(iter(lives(held)), None)
    if isinstance(method, MethodType):
        return reader.call(held, arguments, shown)
    is_static = not isinstance(vars(_owner_of(owner.cls, name)).get(name), FunctionType)
    with_self = arguments if is_static else replace(arguments, positional=(frozenset({owner}), *arguments.positional))
    return reader.call(held, with_self, shown)


def _owner_of(cls: type, name: str) -> type:
    return next((base for base in cls.__mro__ if name in vars(base)), cls)


def _set_or_delete(reader: Reader, verb: str, arguments: Arguments) -> None:
    given = arguments.bind("name", "value") if verb == "set" else arguments.bind("name")
    names = texts(given.get("name", UNKNOWN))
    known = constants(given.get("muted", NOTHING))
    muted = known is not None and all(known)
    source = reader.argument(1, "value")
    for name in names:
        with reader.maybe(len(names) > 1, is_doubtful=True):
            if verb == "delete":
                reader.write(name, "delete", is_muted=muted)
            else:
                set_property(reader, name, given.get("value", UNKNOWN), source, muted=muted)
    for function in given.get("value", NOTHING) if verb == "set" else ():
        if isinstance(function, Closure) or callable(getattr(function, "value", None)):
            reader.call(frozenset({function}), Arguments((UNKNOWN,)), "")


def _call_in_property(reader: Reader, owner: Property, name: str, arguments: Arguments, shown: str) -> Values:
    codec = reader.known.subject._codec
    field = codec.fields.get(str(owner.name)) if isinstance(codec, TypedCodec) else None
    if field is not None and field.plain:
        return UNKNOWN
    if name in _MUTATORS:
        reader.write(owner.name, "change", change="always" if name in _ALWAYS else "unknown")
        return frozenset({replace(owner, is_whole=False)})
    if name in _PLAIN:
        if name == "copy":
            return copied(owner)
        return frozenset({replace(owner, is_whole=False)}) if name in ("get", "values", "items") else UNKNOWN
    if field is not None or not isinstance(codec, TypedCodec):
        reader.unseen(f"calls {shown}(), which may change property {owner.name}")
    return UNKNOWN
