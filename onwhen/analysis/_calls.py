"""Calls: of verbs, and of functions, which are followed where their source is there.

Belongs here: which kind of callee is treated how. It must not know of statements, nor how names are resolved.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final

from onwhen.analysis._builtins import BUILTINS
from onwhen.analysis._frames import Arguments, Frame
from onwhen.analysis._passing import call_passed, call_unknown
from onwhen.analysis._sources import Definition, definition_of, is_foreign
from onwhen.analysis._values import UNKNOWN, Closure, Live, Mark, Property, Values, Verb, attribute_of, lives, of
from onwhen.analysis._verbs import call_verb, emit_by_bus
from onwhen.engine.bus import EventBus

if TYPE_CHECKING:
    from onwhen.analysis._reader import Reader

__all__ = ["call"]

_BUS_METHODS: Final = (EventBus.emit, EventBus.append)
_SHUFFLERS: Final = frozenset(
    {"shuffle", "heappush", "heappop", "heapify", "heapreplace", "heappushpop", "insort", "insort_left", "insort_right"}
)


def call(reader: Reader, function: Any, arguments: Arguments, shown: str) -> Values:
    """Return what a call gives, and note what it does.

    Args:
        reader: who asks, and is told.
        function: what is called.
        arguments: what is passed.
        shown: the callee as it stands in the code.
    """
    if isinstance(function, Verb):
        return call_verb(reader, function, arguments, shown)
    if isinstance(function, Closure):
        return _call_closure(reader, function, arguments)
    if isinstance(function, Live):
        return _call_live(reader, function.value, arguments, shown)
    if function is Mark.NEXT:
        reader.goes_on |= reader.is_reached
        return UNKNOWN
    if isinstance(function, Property) and function.name.is_unknown:
        reader.unseen(f"calls {shown}(), which may be any method of the subject")
        return UNKNOWN
    return call_unknown(reader, arguments, shown)


# -- functions ---------------------------------------------------------------------------------------------------


def _call_closure(reader: Reader, function: Closure, arguments: Arguments) -> Values:
    frame: Frame = function.frame
    frame.called.add(id(function.node))
    defaults = _defaults_of(function.node, reader)
    return reader.follow((function, frame.state()), lambda: frame.inner(function.node), defaults, arguments)


def _defaults_of(node: Definition, reader: Reader) -> dict[str, Values]:
    given = node.args
    named = [*given.posonlyargs, *given.args]
    found = dict(zip([one.arg for one in named][len(named) - len(given.defaults) :], given.defaults, strict=True))
    found |= {
        one.arg: value for one, value in zip(given.kwonlyargs, given.kw_defaults, strict=True) if value is not None
    }
    return {name: reader.value(value) for name, value in found.items()}


def _call_live(reader: Reader, function: Any, arguments: Arguments, shown: str) -> Values:
    if isinstance(function, MethodType):
        if function.__func__ in _BUS_METHODS:
            return emit_by_bus(reader, arguments, shown)
        bound = replace(arguments, positional=(of(function.__self__), *arguments.positional))
        return _call_live(reader, function.__func__, bound, shown)
    if isinstance(function, functools.partial):
        named = {name: of(value) for name, value in function.keywords.items()} | dict(arguments.named)
        passed = (*(of(value) for value in function.args), *arguments.positional)
        return _call_live(reader, function.func, Arguments(passed, tuple(named.items()), arguments.is_open), shown)
    builtin = BUILTINS.get(function) if isinstance(function, FunctionType | type | type(len)) else None
    if builtin is not None:
        return builtin(reader, function, arguments, shown)
    if not isinstance(function, FunctionType | type) and not is_foreign(type(function)):
        method = attribute_of(function, "__call__")
        if any(isinstance(one, MethodType) for one in lives(method)):
            return reader.call(method, arguments, shown)
    if is_foreign(function) or (not isinstance(function, FunctionType | type) and is_foreign(type(function))):
        return _call_foreign(reader, function, arguments, shown)
    if not isinstance(function, FunctionType):
        return call_unknown(reader, arguments, shown)
    definition = _definition_of(function)
    if definition is None:
        if wrapped := getattr(function, "__wrapped__", None):
            with reader.maybe():
                return _call_live(reader, wrapped, arguments, shown)
        return call_unknown(reader, arguments, shown, "whose source is not there")
    reader.seen.add(function.__code__)
    return reader.follow(function, lambda: Frame.of_function(function, definition), _live_defaults(function), arguments)


@functools.lru_cache(maxsize=1024)
def _definition_of(function: FunctionType) -> Definition | None:
    """Remember what functions are made of: to tell whether a source is really theirs takes a while."""
    return definition_of(function)


def _live_defaults(function: FunctionType) -> dict[str, Values]:
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    values = function.__defaults__ or ()
    found = dict(zip(names[len(names) - len(values) :], values, strict=True)) | (function.__kwdefaults__ or {})
    return {name: of(value) for name, value in found.items()}


def _call_foreign(reader: Reader, function: Any, arguments: Arguments, shown: str) -> Values:
    """Note what a function of the standard library does with what it is given: it may call it."""
    if getattr(function, "__name__", "") in _SHUFFLERS:
        for value in (value for values in arguments.all() for value in values):
            if isinstance(value, Property):
                reader.write(value.name, "change")
    call_passed(reader, arguments)
    return UNKNOWN
