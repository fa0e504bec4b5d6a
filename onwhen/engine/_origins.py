"""Where something is declared, and whether that is the same declaration once more.

Belongs here: what a module that is imported twice looks like. It must not know what is declared.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import partial
from types import CodeType
from typing import Any, Final, NamedTuple

__all__ = ["Origin", "is_reimport", "place_of"]

_OWN_FRAMES: Final = ("onwhen.engine.rules", "onwhen.engine.handlers")


class Origin(NamedTuple):
    """Where something is declared: in which code, and for a rule also of which function."""

    scope: CodeType
    namespace: dict[str, Any]
    function: CodeType | None = None

    @classmethod
    def of_caller(cls) -> Origin:
        """Return where the code outside of the engine stands that has led here."""
        frame = sys._getframe(1)
        while frame.f_globals.get("__name__") in _OWN_FRAMES and frame.f_back is not None:
            frame = frame.f_back
        return cls(frame.f_code, frame.f_globals)

    def with_code(self, function: Callable[..., Any]) -> Origin:
        """Return the same place, for a function that is declared there."""
        return self._replace(function=_code_of(function))


def is_reimport(new: Origin, old: Origin) -> bool:
    """Tell a module that was run again from a second declaration in it, and from a loop around one.

    A module that is imported again, be it by another name, reloaded, or a notebook's cell that is run again, is
    compiled again, into other code objects. What it declares has the name that it had, but maybe not the line.
    """
    if new.scope is old.scope or new.scope.co_qualname != old.scope.co_qualname:
        return False
    if new.scope.co_filename != old.scope.co_filename and new.namespace is not old.namespace:
        return False
    if new.function is None or old.function is None:
        return new.function is old.function
    return new.function is not old.function and new.function.co_qualname == old.function.co_qualname


def _code_of(function: Any) -> CodeType | None:
    function = inspect.unwrap(function.func if isinstance(function, partial) else function)
    return getattr(function, "__code__", None)


def place_of(function: Callable[..., Any]) -> str:
    """Say where a function stands, for an error message."""
    code = _code_of(function)
    return f"{code.co_qualname} ({code.co_filename}:{code.co_firstlineno})" if code is not None else repr(function)
