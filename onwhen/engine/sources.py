"""From a callable to its source: the function behind it, its place, and its syntax tree.

Belongs here: finding these, and telling several lambdas on one line apart. It must not know what the code means.
Nothing here raises over source that is not there, or is not what was run: then there is none.
"""

from __future__ import annotations
import __future__

import ast
import dis
import linecache
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from inspect import getattr_static
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any, Final, NamedTuple, TypeAlias

__all__ = [
    "Called",
    "Definition",
    "called",
    "definition_of",
    "name_of",
    "place_of_code",
    "place_of_error",
    "shown",
    "written",
]

Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
_OPERATORS: Final = ("BINARY_OP", "COMPARE_OP", "CONTAINS_OP", "IS_OP", "UNARY_")
_DEEPEST: Final = 100  # wrappers around a function (a count): what wraps itself has no end


# -- what is behind a callable ---------------------------------------------------------------------------------------


class Called(NamedTuple):
    """The function behind a callable, and what it is given before its other arguments.

    Attributes:
        function: a function of Python code, or what else it is.
        before: arguments by position.
        named: arguments by name.
        is_decorated: something is around it that may have changed what it returns.
    """

    function: Any
    before: tuple[Any, ...] = ()
    named: Mapping[str, Any] = {}
    is_decorated: bool = False


def called(function: Any) -> Called:
    """Return the function behind decorators, partials, methods and objects that are called."""
    if type(function) is FunctionType and "__wrapped__" not in function.__dict__:
        return Called(function)  # as almost all are: the general way takes ten times as long
    before: tuple[Any, ...] = ()
    named: Mapping[str, Any] = {}
    is_decorated = False
    for _ in range(_DEEPEST):
        if isinstance(function, partial):
            before, named, function = (*function.args, *before), {**function.keywords, **named}, function.func
        elif isinstance(function, MethodType):
            before, function = (function.__self__, *before), function.__func__
        elif callable(wrapped := getattr_static(function, "__wrapped__", None)):
            function, is_decorated = wrapped, True
        elif not isinstance(function, FunctionType | type) and isinstance(
            call := getattr_static(type(function), "__call__", None), FunctionType
        ):
            before, function = (function, *before), call
        else:
            break
    return Called(function, before, named, is_decorated)


def name_of(function: Any) -> str:
    """Return the name by which a function is known, without where it was made."""
    name = str(getattr(function, "__qualname__", None) or type(function).__qualname__)
    if isinstance(function, FunctionType) and function.__name__ == "__call__":
        name = name.removesuffix(".__call__")
    return "lambda" if name.endswith("<lambda>") else name.rpartition("<locals>.")[2]


def place_of_code(code: CodeType) -> str:
    """Return file and line of a piece of code."""
    return f"{shown(code.co_filename)}:{code.co_firstlineno}"


def place_of_error(error: BaseException | None) -> str:
    """Return file and line where an error was raised: the innermost that are of the application, if any are."""
    found, step = None, error.__traceback__ if error is not None else None
    while step is not None:
        if not _is_installed(step.tb_frame.f_code.co_filename, str(step.tb_frame.f_globals.get("__name__", ""))):
            found = step
        step = step.tb_next
    return "" if found is None else f"{shown(found.tb_frame.f_code.co_filename)}:{found.tb_lineno}"


@lru_cache(maxsize=1_024)
def _is_installed(file: str, module: str) -> bool:
    """Tell whether code is of the engine, of the standard library, or of a package that was installed."""
    top = module.partition(".")[0]
    if top == "onwhen" or (top in sys.stdlib_module_names and top != "__main__"):
        return True
    return bool(_INSTALLED.intersection(Path(file).parts))


def shown(file: str) -> str:
    """Return a path as people know it: from the current directory, if it is below that."""
    try:
        return _from(os.getcwd(), file)  # where the current directory was removed there is none
    except OSError:
        return file


@lru_cache(maxsize=1_024)
def _from(folder: str, file: str) -> str:
    with suppress(ValueError):
        return str(Path(file).relative_to(folder))
    return file


# -- its syntax tree ------------------------------------------------------------------------------------------------


def definition_of(function: Any) -> Definition | None:
    """Return the syntax tree of a function of Python code; None if its source is not there, or has changed."""
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return None
    linecache.checkcache(code.co_filename)
    candidates = _functions(_source(function)).get((code.co_name, code.co_firstlineno), ())
    found = [node for node in candidates if _is_of(node, code)]
    return found[0] if len(found) == 1 else None


def written(expression: ast.expr, function: Any, most: int = 300) -> str:
    """Return an expression in a function as it was written; one of several lines as if it had been written on one.

    Args:
        expression: a part of what `definition_of` has returned for the function.
        function: the function.
        most: characters; what is longer is cut (a count).
    """
    text = ast.get_source_segment(_source(function), expression)
    if text is None or "\n" in text:
        text = ast.unparse(expression)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _source(function: Any) -> str:
    return "".join(linecache.getlines(function.__code__.co_filename, getattr(function, "__globals__", None)))


@lru_cache(maxsize=256)
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


# -- whether it is the one that is run --------------------------------------------------------------------------------


def _is_of(node: Definition, code: CodeType) -> bool:
    """Tell whether code was made of a function: compiled once more, it has the same parts, names and constants.

    What writes code into functions when they are imported, as pytest does for each assert, leaves none that is theirs.
    """
    given = node.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    if tuple(names) != code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        return False
    try:
        return set(_traits(_compiled(node, code))) == set(_traits(code))
    except (SyntaxError, ValueError, RecursionError, MemoryError, IndexError):
        return False


def _compiled(node: Definition, code: CodeType) -> CodeType:
    """Compile a function alone, within another one that has the names that it takes from around it."""
    made: CodeType
    around = ast.parse(f"def _({', '.join(code.co_freevars)}): pass").body[0]
    assert isinstance(around, ast.FunctionDef)
    around.name = "(around)"  # as nothing else is called
    around.body = [ast.copy_location(ast.Expr(node), node) if isinstance(node, ast.Lambda) else node]
    flags = code.co_flags & __future__.annotations.compiler_flag
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whoever imports the module is warned
        made = compile(ast.Module([around], []), "<source>", "exec", flags, dont_inherit=True)
    while made.co_name != code.co_name:
        made = [one for one in made.co_consts if isinstance(one, CodeType)][-1]  # behind lambdas among its defaults
    return made


def _traits(code: CodeType) -> Iterator[Any]:
    """Go through what tells code apart: its operators, the places of its parts, its names, its constants.

    Inner functions are told apart by the same. The rest of the code may be another one for the same source.
    """
    for step in dis.get_instructions(code):
        if step.opname.startswith(_OPERATORS):
            yield step.opname, step.argrepr, step.positions
    for line, end_line, column, end_column in code.co_positions():
        if line is not None and end_line is not None and column is not None and end_column:
            yield line, column, end_line, end_column
    for name in (*code.co_names, *code.co_freevars):
        if "__" not in name:  # that is another one in a class
            yield name
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _traits(constant)
        elif not (isinstance(constant, str) and "<locals>" in constant):  # the full name of a class that is made here
            yield _kinds(constant)


def _kinds(constant: Any) -> Any:
    """Return a constant with its type, so that 1 is not True; what is in a set is in no order."""
    if isinstance(constant, tuple | frozenset):
        return type(constant), type(constant)(_kinds(one) for one in constant)
    return type(constant), repr(constant)
