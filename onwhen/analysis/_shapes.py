"""What can be told from the shape of code alone.

Belongs here: questions about syntax trees. It must not know what names stand for.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Final

__all__ = ["asks", "is_broad", "is_for_missing", "may_leave", "refuses"]

_KEPT: Final = 4096  # answers about the same tree, which is read again and again (a count)
_TESTS: Final = frozenset({"isinstance", "hasattr", "issubclass", "type", "getattr"})
_MISSING: Final = frozenset({"AttributeError", "PropertyError", "UnknownProperty"})
_BROAD: Final = frozenset({"Exception", "BaseException", "OnwhenError"})


@lru_cache(maxsize=_KEPT)
def asks(node: Any) -> bool:
    """Tell whether a function asks what something is, before it does something with it."""
    return any(
        isinstance(one, ast.MatchClass)
        or (isinstance(one, ast.Call) and isinstance(one.func, ast.Name) and one.func.id in _TESTS)
        for one in ast.walk(node)
    )


@lru_cache(maxsize=_KEPT)
def may_leave(statement: ast.stmt) -> bool:
    """Tell whether what comes after a statement may not be reached although nothing fails."""
    waiting: list[tuple[ast.AST, bool]] = [(statement, False)]
    while waiting:
        one, is_in_loop = waiting.pop()
        if isinstance(one, ast.Return):
            return True
        if isinstance(one, ast.Break | ast.Continue) and not is_in_loop:
            return True
        if not isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef | ast.expr):
            inside = is_in_loop or isinstance(one, ast.For | ast.AsyncFor | ast.While)
            waiting.extend((child, inside) for child in ast.iter_child_nodes(one))
    return False


@lru_cache(maxsize=_KEPT)
def refuses(node: Any) -> bool:
    """Tell whether a function may fail on purpose; to raise an error on that was caught is nothing new."""
    return any(isinstance(one, ast.Assert) or (isinstance(one, ast.Raise) and one.exc) for one in ast.walk(node))


def is_for_missing(caught: Iterable[ast.expr | None]) -> bool:
    """Tell whether what is caught are properties that are not there."""
    return not _MISSING.isdisjoint(_names(caught))


def is_broad(caught: Iterable[ast.expr | None]) -> bool:
    """Tell whether what is caught may be anything."""
    return not _BROAD.isdisjoint(_names(caught))


def _names(caught: Iterable[ast.expr | None]) -> Iterator[str]:
    for error in caught:
        if error is None:
            yield "BaseException"
        else:
            yield from (getattr(one, "id", getattr(one, "attr", "")) for one in ast.walk(error))
