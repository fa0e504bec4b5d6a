"""Where functions stand, and the source they were made from.

Belongs here: from a live function to its place, its text and its syntax tree. It must not know what the code means.
Nothing here raises over code that cannot be found: it returns None, because a rule may be made of anything.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any, Final, TypeAlias

__all__ = ["Definition", "Place", "condition_text", "definition_of", "innermost", "is_foreign", "place_of", "shown"]

Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

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
    seen: set[int] = set()
    while id(function) not in seen:
        seen.add(id(function))
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, MethodType):
            function = function.__func__
        elif isinstance(wrapped := inspect.getattr_static(function, "__wrapped__", None), Callable):  # type: ignore[arg-type]
            function = wrapped
        elif not isinstance(function, FunctionType | type) and isinstance(
            call := inspect.getattr_static(type(function), "__call__", None), FunctionType
        ):
            function = call
    return function


def place_of(function: Any) -> Place | None:
    """Return where a function stands, without its decorators; None for what was not written in Python."""
    found = innermost(function)
    code = getattr(found, "__code__", None)
    if not isinstance(code, CodeType):
        return None
    definition = definition_of(found)
    return Place(shown(code.co_filename), code.co_firstlineno if definition is None else definition.lineno)


def shown(file: str) -> str:
    """Return a path as people know it: from the current directory, if it is below that."""
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return file


def definition_of(function: Any) -> Definition | None:
    """Return the syntax tree of a function of Python code, or None if its source is not there."""
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return None
    for candidate in _definitions(code.co_filename, getattr(function, "__module__", None) or "").get(_key(code), ()):
        if not isinstance(candidate, ast.Lambda) or _is_of(candidate, code):
            return candidate
    return None


def _key(code: CodeType) -> tuple[str, int]:
    return code.co_name, code.co_firstlineno


@functools.lru_cache(maxsize=512)
def _definitions(file: str, module: str) -> dict[tuple[str, int], list[Definition]]:
    """Return all functions of a file, by name and first line."""
    lines = linecache.getlines(file, getattr(sys.modules.get(module), "__dict__", None))
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError, RecursionError):
        return {}
    found: dict[tuple[str, int], list[Definition]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda):
            found.setdefault(("<lambda>", node.lineno), []).append(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found.setdefault((node.name, first), []).append(node)
    return found


def _is_of(candidate: ast.Lambda, code: CodeType) -> bool:
    """Tell which of several lambdas on a line it is: the one whose body holds exactly what the code was made of."""
    spans = list(_spans(code))
    if not spans:
        return True
    body = candidate.body
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    return first == (body.lineno, body.col_offset) and last == (body.end_lineno, body.end_col_offset)


def _spans(code: CodeType) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    for line, end_line, column, end_column in code.co_positions():
        if None not in (line, end_line, column, end_column) and end_column:
            yield (line, column), (end_line, end_column)  # type: ignore[misc]


def condition_text(test: Callable[..., Any]) -> str:
    """Return the source of a condition on one line: the body of a lambda, the name of a function."""
    found = innermost(test)
    definition = definition_of(found)
    if isinstance(definition, ast.Lambda):
        text = ast.unparse(definition.body)
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    name = getattr(found, "__qualname__", None) or type(found).__qualname__
    return str(name).rpartition("<locals>.")[2]


def is_foreign(function: Any) -> bool:
    """Tell whether a function is of the standard library or of the engine, so that nobody wants to look into it."""
    module = str(getattr(function, "__module__", None) or "")
    top = module.partition(".")[0]
    if top == _OURS:
        return not module.startswith(_OWN)
    return top in sys.stdlib_module_names and top != "__main__"
