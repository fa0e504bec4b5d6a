"""From a function to its source: the syntax tree of this very function, and the text of it as it was written.

Belongs here: finding it, and telling several lambdas on one line apart. It must not know what the code means. Nothing
here raises over source that is not there, or is not what was run: then there is none.
"""

from __future__ import annotations

import ast
import linecache
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Final, TypeAlias

__all__ = ["Definition", "definition_of", "place_of_code", "written"]

Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

_Span: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
"""Line and column of a beginning and an end."""

_LONGEST: Final = 300  # characters of an expression that are shown (a count)


def place_of_code(code: CodeType) -> str:
    """Return file and line of a piece of code; the file from the current directory if it is below that."""
    file = code.co_filename
    with suppress(ValueError, OSError):
        file = str(Path(file).relative_to(Path.cwd()))
    return f"{file}:{code.co_firstlineno}"


def definition_of(function: FunctionType) -> tuple[Definition, str] | None:
    """Return the syntax tree of a function and the source of its file; None if that is not there, or has changed."""
    code = function.__code__
    linecache.checkcache(code.co_filename)
    source = "".join(linecache.getlines(code.co_filename, function.__globals__))
    found = [node for node in _functions(source).get((code.co_name, code.co_firstlineno), ()) if _is_of(node, code)]
    return (found[0], source) if len(found) == 1 else None


def written(expression: ast.expr, source: str) -> str:
    """Return an expression as it was written; one of several lines as if it had been written on one."""
    text = ast.get_source_segment(source, expression)
    if text is None or "\n" in text:
        text = ast.unparse(expression)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


@lru_cache(maxsize=64)
def _functions(source: str) -> dict[tuple[str, int], list[Definition]]:
    """Return all functions of a file, by name and first line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[tuple[str, int], list[Definition]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda):
            found.setdefault(("<lambda>", node.lineno), []).append(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found.setdefault((node.name, first), []).append(node)
    return found


def _is_of(node: Definition, code: CodeType) -> bool:
    """Tell whether code was made of a function: it has its parameters and names, and of a lambda every part."""
    given = node.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    if tuple(names) != code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        return False
    if isinstance(node, ast.Lambda):
        return _traits(_compiled(node)) == _traits(code)
    return {*code.co_names, *code.co_freevars} <= _names_of(node) | {name for name in code.co_names if "__" in name}


def _compiled(node: ast.Lambda) -> CodeType:
    """Compile a lambda alone; only how it comes to names of functions around it is then another way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whoever imports the module is warned
        code = compile(ast.Expression(node), "<lambda>", "eval")
    return next(one for one in code.co_consts if isinstance(one, CodeType))


def _traits(code: CodeType) -> tuple[set[_Span], set[str], list[str]]:
    """Return what tells lambdas apart: the places of their parts, their names, and their constants."""
    names = {name for name in _names(code) if "__" not in name}  # that is another one in a class
    return set(_spans(code)), names, [repr(one) for one in code.co_consts if not isinstance(one, CodeType)]


def _names(code: CodeType) -> Iterator[str]:
    """Go through the names that code uses and does not assign, with that of comprehensions in it."""
    yield from (*code.co_names, *code.co_freevars)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _spans(code: CodeType) -> list[_Span]:
    """Return what the instructions were made of, as far as each was made of something."""
    return [
        ((line, column), (end_line, end_column))
        for line, end_line, column, end_column in code.co_positions()
        if line is not None and end_line is not None and column is not None and end_column
    ]


def _names_of(node: Definition) -> set[str]:
    """Return every name in a function, of variables, attributes and keywords; a constant text may become one too."""
    names: set[str] = set()
    for one in ast.walk(node):
        if isinstance(one, ast.Name):
            names.add(one.id)
        elif isinstance(one, ast.Attribute):
            names.add(one.attr)
        elif isinstance(one, ast.alias):
            names.update((one.name, one.name.partition(".")[0], one.asname or ""))
        elif isinstance(one, ast.ImportFrom):
            names.add(one.module or "")
        elif isinstance(one, ast.keyword | ast.arg):
            names.add(one.arg or "")
        elif isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(one.name)
        elif isinstance(one, ast.Global | ast.Nonlocal):
            names.update(one.names)
    return names
