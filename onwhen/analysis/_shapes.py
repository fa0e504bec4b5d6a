"""What can be told from the shape of code alone.

Belongs here: questions about syntax trees. It must not know what names stand for.
"""

from __future__ import annotations

import ast
from typing import Any, Final

__all__ = ["asks", "is_for_missing", "may_leave"]

_TESTS: Final = frozenset({"isinstance", "hasattr", "issubclass", "type", "getattr"})
_MISSING: Final = frozenset({"AttributeError", "PropertyError", "UnknownProperty"})


def asks(node: Any) -> bool:
    """Tell whether a function asks what something is, before it does something with it."""
    return any(
        isinstance(one, ast.MatchClass)
        or (isinstance(one, ast.Call) and isinstance(one.func, ast.Name) and one.func.id in _TESTS)
        for one in ast.walk(node)
    )


def may_leave(statement: ast.stmt) -> bool:
    """Tell whether what comes after a statement may not be reached although nothing fails."""
    waiting: list[tuple[ast.AST, bool]] = [(statement, False)]
    while waiting:
        one, is_in_loop = waiting.pop()
        if isinstance(one, ast.Return | ast.Raise | ast.Assert):
            return True
        if isinstance(one, ast.Break | ast.Continue) and not is_in_loop:
            return True
        if not isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef | ast.expr):
            inside = is_in_loop or isinstance(one, ast.For | ast.AsyncFor | ast.While)
            waiting.extend((child, inside) for child in ast.iter_child_nodes(one))
    return False


def is_for_missing(handler: ast.ExceptHandler) -> bool:
    """Tell whether an except is for properties that are not there."""
    caught = ast.walk(handler.type) if handler.type is not None else ()
    return any(getattr(one, "id", getattr(one, "attr", "")) in _MISSING for one in caught)
