"""Where functions stand, and whose they are.

Belongs here: places, and what `onwhen.engine.sources` finds, as it is shown in graphs and findings. It must not know
what the code means. Nothing here raises over code that cannot be found: a rule may be made of anything.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import Any, Final

from onwhen.engine.sources import Definition, called, definition_of, name_of, shown, written

__all__ = ["Definition", "Place", "condition_text", "definition_of", "innermost", "is_foreign", "place_of", "shown"]

_LONGEST: Final = 200  # characters of a condition's source that are shown (a count)
_OWN: Final = ("onwhen.middleware", "onwhen.rulesets")  # of ours, what is made of rules and middleware as users write
_OURS: Final = "onwhen"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A line of source.

    Attributes:
        file: path of the file, from the current directory if it is below that.
        line: number of the line, from 1; 0 if it is not known.
    """

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


def innermost(function: Any) -> Any:
    """Return what stands behind decorators, partials, methods and objects that are called."""
    return called(function).function


def place_of(function: Any) -> Place | None:
    """Return where a function stands, without its decorators; None for what was not written in Python."""
    found = innermost(function)
    code = getattr(found, "__code__", None)
    if not isinstance(code, CodeType):
        return None
    definition = definition_of(found)
    return Place(shown(code.co_filename), code.co_firstlineno if definition is None else definition.lineno)


def condition_text(test: Callable[..., Any]) -> str:
    """Return the source of a condition on one line: the body of a lambda, the name of a function."""
    found = innermost(test)
    definition = definition_of(found)
    return written(definition.body, found, _LONGEST) if isinstance(definition, ast.Lambda) else name_of(found)


def is_foreign(function: Any) -> bool:
    """Tell whether a function is of the standard library or of the engine, so that nobody wants to look into it."""
    module = str(getattr(function, "__module__", None) or "")
    top = module.partition(".")[0]
    if top == _OURS:
        return not module.startswith(_OWN)
    return top in sys.stdlib_module_names and top != "__main__"
