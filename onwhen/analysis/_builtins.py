"""Functions of Python's own that matter to a reader.

Belongs here: one function for each. It must not know what other calls do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from onwhen.analysis._changes import set_property
from onwhen.analysis._expressions import attribute
from onwhen.analysis._frames import Arguments
from onwhen.analysis._texts import HOLE, Text
from onwhen.analysis._values import (
    NOTHING,
    UNKNOWN,
    Property,
    Sequence,
    SubjectOf,
    Values,
    copied,
    is_of_ours,
    items,
    texts,
    union,
)
from onwhen.analysis._verbs import WholeEvent
from onwhen.engine.events import Event

if TYPE_CHECKING:
    from onwhen.analysis._reader import Reader

__all__ = ["BUILTINS"]

_Handler: TypeAlias = "Callable[[Reader, Any, Arguments, str], Values]"


def _getattr(reader: Reader, function: Any, arguments: Arguments, shown: str) -> Values:
    owners, names = (*arguments.positional, UNKNOWN, UNKNOWN)[:2]
    found: list[Values] = []
    for owner in owners:
        for name in texts(names):
            if isinstance(owner, SubjectOf) and not name.is_exact:
                found.append(reader.look(owner, name))
            else:
                found.append(attribute(reader, owner, str(name)) if name.is_exact else UNKNOWN)
    return union((*found, *arguments.positional[2:]))


def _setattr(reader: Reader, function: Any, arguments: Arguments, shown: str) -> Values:
    owners, names, values = (*arguments.positional, UNKNOWN, UNKNOWN, UNKNOWN)[:3]
    for owner in owners:
        if isinstance(owner, SubjectOf) and owner.is_own:
            options = texts(names)
            for name in options:
                with reader.maybe(len(options) > 1, is_doubtful=True):
                    set_property(reader, name, values, reader.argument(2, "value"))
        elif isinstance(owner, Property):
            reader.write(owner.name, "change")
        elif is_of_ours(values):
            reader.unseen("keeps the context or the subject in an attribute")
    return UNKNOWN


def _delattr(reader: Reader, function: Any, arguments: Arguments, shown: str) -> Values:
    owners, names = (*arguments.positional, UNKNOWN, UNKNOWN)[:2]
    for owner in owners:
        if isinstance(owner, SubjectOf) and owner.is_own:
            for name in texts(names):
                reader.write(name, "delete")
    return UNKNOWN


def _hasattr(reader: Reader, function: Any, arguments: Arguments, shown: str) -> Values:
    owners, names = (*arguments.positional, UNKNOWN, UNKNOWN)[:2]
    for owner in owners:
        if isinstance(owner, SubjectOf):
            for name in texts(names):
                reader.look(owner, name, is_question=True)
    return UNKNOWN


def _text(reader: Reader, function: Any, arguments: Arguments, shown: str) -> Values:
    first = arguments.positional[0] if arguments.positional else NOTHING
    return frozenset(texts(first)) if function is str and len(arguments.positional) == 1 else frozenset({Text.of(HOLE)})


def _elements(reader: Reader, function: Any, arguments: Arguments, shown: str) -> Values:
    first = arguments.positional[0] if arguments.positional else NOTHING
    if function is enumerate:
        return frozenset({Sequence((frozenset({Sequence((UNKNOWN, items(first)))}),))})
    if function is zip:
        return frozenset({Sequence((frozenset({Sequence(tuple(map(items, arguments.positional)))}),))})
    return union(map(copied, first)) if first else frozenset({Sequence(())})


def _map(reader: Reader, function: Any, arguments: Arguments, shown: str) -> Values:
    functions, *over = arguments.positional or (UNKNOWN,)
    with reader.maybe():
        return frozenset({Sequence((reader.call(functions, Arguments(tuple(map(items, over))), shown),))})


def _partial(reader: Reader, function: Any, arguments: Arguments, shown: str) -> Values:
    """Take a partial as called: what it is given later cannot be seen."""
    if not arguments.positional:
        return UNKNOWN
    with reader.maybe():
        reader.call(arguments.positional[0], replace(arguments.but_first(), is_open=True), shown)
    return UNKNOWN


def _event(reader: Reader, function: Any, arguments: Arguments, shown: str) -> Values:
    given = arguments.bind("type", "subject")
    return frozenset({WholeEvent((given.get("type", UNKNOWN), given.get("subject", UNKNOWN)))})


BUILTINS: Final[Mapping[Any, _Handler]] = {
    getattr: _getattr,
    setattr: _setattr,
    delattr: _delattr,
    hasattr: _hasattr,
    **dict.fromkeys((str, repr, format), _text),
    **dict.fromkeys((tuple, list, set, frozenset, sorted, reversed, iter, enumerate, zip), _elements),
    map: _map,
    functools.partial: _partial,
    Event: _event,
}
