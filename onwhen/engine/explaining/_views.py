"""What the source of a condition says: which expression it is, of which operands, and what it looks at.

Belongs here: what is worked out once for each function. It must not know of contexts, nor evaluate anything.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType
from typing import Final, NamedTuple

from onwhen.engine.explaining._evaluation import READS
from onwhen.engine.sources import Definition, definition_of, place_of_code, written

__all__ = ["View", "view_of"]


class View(NamedTuple):
    """What the source of a function says.

    Attributes:
        place: file and line.
        body: the expression that it returns, if it does nothing else.
        is_lambda: it has no name.
        parameters: names of those that may be given by position.
        globals: names that may be of its module.
        aliases: local names that stand for an expression.
        operands: of the `and` or `or` that it is: text, expression, and what is looked at in it.
        is_or: it is an `or`.
        looked_at: all that is looked at, by text.
    """

    place: str
    body: str
    is_lambda: bool
    parameters: tuple[str, ...]
    globals: frozenset[str]
    aliases: Mapping[str, ast.expr]
    operands: tuple[tuple[str, ast.expr, frozenset[str]], ...]
    is_or: bool
    looked_at: Mapping[str, ast.expr]


def view_of(function: FunctionType) -> View | None:
    """Return what the source of a function says; None if that is not there."""
    key = function.__code__, function.__code__.co_filename  # the same code in another file is equal to it
    known = _VIEWS.get(key, False)
    if known is False:
        if len(_VIEWS) >= _MOST_VIEWS:
            _VIEWS.clear()
        try:
            found = definition_of(function)
            known = None if found is None else _view(function, found)
        except Exception:  # source may be anything, and nobody is to fail because of it
            known = None
        _VIEWS[key] = known
    return known  # type: ignore[return-value]


_VIEWS: Final[dict[tuple[CodeType, str], View | None]] = {}
_MOST_VIEWS: Final = 10_000


def _view(function: FunctionType, node: Definition) -> View:
    code = function.__code__
    returned = _returned(node)
    stored = {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and not isinstance(one.ctx, ast.Load)}
    parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    inner = {one.arg for one in ast.walk(node) if isinstance(one, ast.arg)} - set(parameters)
    free = {*code.co_freevars, *_globals(code)} - set(dir(builtins))
    roots = (set(parameters) | free) - stored - inner
    aliases = {} if isinstance(node, ast.Lambda) else _aliases(node, roots)
    looked_at: dict[str, ast.expr] = {}
    for part in [node.body] if isinstance(node, ast.Lambda) else node.body:
        _collect(part, roots | set(aliases), looked_at)
    operands: list[tuple[str, ast.expr, frozenset[str]]] = []
    if isinstance(returned, ast.BoolOp):
        for operand in returned.values:
            own: dict[str, ast.expr] = {}
            _collect(operand, roots | set(aliases), own)
            operands.append((written(operand, function), operand, frozenset(own)))
    return View(
        place_of_code(code),
        "" if returned is None else written(returned, function),
        isinstance(node, ast.Lambda),
        code.co_varnames[: code.co_argcount],
        frozenset(_globals(code)),
        aliases,
        tuple(operands),
        isinstance(returned, ast.BoolOp) and isinstance(returned.op, ast.Or),
        looked_at,
    )


def _globals(code: CodeType) -> Iterator[str]:
    """Go through the names that code looks up elsewhere, with that of comprehensions in it; and of attributes."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _globals(inner)


def _returned(node: Definition) -> ast.expr | None:
    """Return the expression that a function is, if it is nothing else."""
    if isinstance(node, ast.Lambda):
        return node.body
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    return body[0].value if len(body) == 1 and isinstance(body[0], ast.Return) else None


def _aliases(node: ast.FunctionDef | ast.AsyncFunctionDef, roots: set[str]) -> dict[str, ast.expr]:
    """Return the local names that are assigned once, and stand for what is looked at."""
    times: dict[str, int] = {}
    for one in ast.walk(node):
        if isinstance(one, ast.Name) and not isinstance(one.ctx, ast.Load):
            times[one.id] = times.get(one.id, 0) + 1
    found: dict[str, ast.expr] = {}
    for statement in node.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if times[name] == 1:
                if _is_look(value, roots | set(found)):
                    found[name] = value
    return found


def _collect(node: ast.AST, roots: set[str], found: dict[str, ast.expr]) -> None:
    """Add the longest expressions that only look at something, by their text."""
    if isinstance(node, ast.expr) and _is_look(node, roots):
        found.setdefault(ast.unparse(node), node)
        for nested in _indexes(node):
            if not isinstance(nested, ast.Constant):
                _collect(nested, roots, found)
    elif isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name):
            _collect(node.func.value if isinstance(node.func, ast.Attribute) else node.func, roots, found)
        for argument in (*node.args, *node.keywords):
            _collect(argument, roots, found)
    else:
        for child in ast.iter_child_nodes(node):
            _collect(child, roots, found)


def _is_look(node: ast.AST, roots: set[str]) -> bool:
    """Tell whether an expression is a way from a name through attributes, items and methods that only read."""
    match node:
        case ast.Name(id=name, ctx=ast.Load()):
            return name in roots
        case ast.Attribute(value=value, ctx=ast.Load()):
            return _is_look(value, roots)
        case ast.Subscript(value=value, slice=index, ctx=ast.Load()):
            return _is_look(value, roots) and _is_index(index, roots)
        case ast.Call(func=ast.Attribute(value=value, attr=verb), args=arguments, keywords=named):
            if verb not in READS or not _is_look(value, roots):
                return False
            return all(_is_index(one, roots) for one in (*arguments, *(one.value for one in named)))
    return False


def _is_index(node: ast.expr, roots: set[str]) -> bool:
    match node:
        case ast.Constant() | ast.UnaryOp(op=ast.USub(), operand=ast.Constant()):
            return True
        case ast.Slice(lower=lower, upper=upper, step=step):
            return all(part is None or _is_index(part, roots) for part in (lower, upper, step))
    return _is_look(node, roots)


def _indexes(node: ast.expr) -> Iterator[ast.expr]:
    """Go through what stands in brackets and parentheses along the way."""
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Subscript):
            yield node.slice
        elif isinstance(node, ast.Call):
            yield from node.args
            yield from (one.value for one in node.keywords)
            node = node.func
        node = node.value  # type: ignore[attr-defined]
