"""What statements mean to a reader.

Belongs here: one function per kind of statement. It must not know what expressions mean.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from onwhen.analysis._changes import is_step, set_property
from onwhen.analysis._expressions import added, imported
from onwhen.analysis._shapes import is_broad, is_for_missing
from onwhen.analysis._sources import is_foreign
from onwhen.analysis._texts import Text
from onwhen.analysis._values import (
    CTX,
    UNKNOWN,
    Closure,
    Property,
    Sequence,
    SubjectOf,
    Values,
    is_of_ours,
    items,
    lives,
    of,
    property_in,
    union,
)

if TYPE_CHECKING:
    from onwhen.analysis._reader import Reader

__all__ = ["STATEMENTS", "store"]

_ROUNDS: Final = 4  # how often a loop is gone through until its names are settled (a count)


def _on_function_def(reader: Reader, node: Any) -> None:
    for decorator in node.decorator_list:
        reader.value(decorator)
    reader.current.assign(node.name, frozenset({reader.closure(node)}))


def _on_class_def(reader: Reader, node: ast.ClassDef) -> None:
    reader.current.assign(node.name, UNKNOWN)
    for name in ast.walk(node):
        if isinstance(name, ast.Name) and is_of_ours(reader.current.lookup(name.id)):
            reader.unseen(f"uses {name.id} in class {node.name}, which is not read")
            return


def _on_return(reader: Reader, node: ast.Return) -> None:
    reader.current.returned.append(of(None) if node.value is None else reader.value(node.value))


def _on_assign(reader: Reader, node: ast.Assign) -> None:
    values = reader.value(node.value)
    for target in node.targets:
        store(reader, target, values, node.value)


def _on_ann_assign(reader: Reader, node: ast.AnnAssign) -> None:
    if node.value is not None:
        store(reader, node.target, reader.value(node.value), node.value)


def _on_aug_assign(reader: Reader, node: ast.AugAssign) -> None:
    more = reader.value(node.value)
    if isinstance(node.target, ast.Name):
        held = reader.current.lookup(node.target.id)
        grows = any(isinstance(one, Sequence) for one in more)
        for one in held:
            if isinstance(one, Property) and grows:
                reader.write(one.name, "change")
        reader.current.assign(node.target.id, added(held, more, node.op))
        return
    step = isinstance(node.op, ast.Add | ast.Sub) and is_step(more)
    reader.value(node.target)
    store(reader, node.target, UNKNOWN, None, "always" if step else "unknown")


def _on_delete(reader: Reader, node: ast.Delete) -> None:
    for target in node.targets:
        if isinstance(target, ast.Attribute):
            for owner in reader.value(target.value):
                if isinstance(owner, SubjectOf) and owner.is_own:
                    reader.write(Text.of(target.attr), "delete")
                elif (inside := property_in(owner)) is not None:
                    reader.write(inside.name, "change")
        elif isinstance(target, ast.Subscript):
            _change_in(reader, reader.value(target.value))
            reader.value(target.slice)


def _on_if(reader: Reader, node: ast.If) -> None:
    reader.value(node.test)
    before, on_all, states = reader.goes_on, True, []
    start = reader.current.names
    for branch in (node.body, node.orelse):
        reader.goes_on, reader.current.names = False, dict(start)
        with reader.maybe(is_reached=True):
            reader.block(branch)
        on_all = on_all and reader.goes_on
        if not (branch and isinstance(branch[-1], ast.Return | ast.Raise)):
            states.append(reader.current.names)
    reader.current.join(*(states or (start,)))
    reader.goes_on = before or on_all


def _on_for(reader: Reader, node: Any) -> None:
    values = items(reader.value(node.iter))
    _loop(reader, node, lambda: store(reader, node.target, values, None))


def _on_while(reader: Reader, node: ast.While) -> None:
    reader.value(node.test)
    _loop(reader, node, lambda: None)


def _loop(reader: Reader, node: Any, begin: Callable[[], None]) -> None:
    """Go through a loop until its names are settled; those that never are stand for anything."""
    frame = reader.current
    with reader.maybe():
        for again in range(_ROUNDS + 1):
            before = dict(frame.names)
            begin()
            reader.block(node.body)
            frame.join(before, frame.names)
            if frame.names == before:
                break
            if again == _ROUNDS - 1:
                for name, values in frame.names.items():
                    if values != before.get(name):
                        frame.names[name] = (values & CTX) | UNKNOWN
        reader.block(node.orelse)


def _on_with(reader: Reader, node: Any) -> None:
    caught: list[ast.expr] = []
    may_catch = False
    for item in node.items:
        entered = reader.value(item.context_expr)
        if item.optional_vars is not None:
            kept = frozenset(one for one in entered if isinstance(one, SubjectOf))
            store(reader, item.optional_vars, kept or UNKNOWN, None)
        if isinstance(item.context_expr, ast.Call):
            managers = reader.value(item.context_expr.func)
            caught += item.context_expr.args if suppress in lives(managers) else ()
            may_catch |= any(isinstance(one, Closure) for one in managers)
            may_catch |= not all(map(is_foreign, lives(managers)))
    with _catching(reader, caught, bool(caught) or may_catch):
        reader.block(node.body)


@contextmanager
def _catching(reader: Reader, caught: list[Any], is_caught: bool) -> Iterator[None]:
    """Take what is seen in here as something that may be cut short by an error, if errors are caught."""
    frame = reader.current
    before = frame.is_narrowed
    frame.is_narrowed |= is_for_missing(caught)
    with reader.maybe(is_caught, is_reached=True, is_doubtful=is_broad(caught)):
        yield
    frame.is_narrowed = before


def _on_try(reader: Reader, node: Any) -> None:
    frame = reader.current
    start, caught = dict(frame.names), [handler.type for handler in node.handlers]
    with _catching(reader, caught, bool(caught)):
        reader.block(node.body)
    failed = frame.names
    frame.names = dict(failed)
    with reader.maybe(bool(caught), is_reached=True):
        reader.block(node.orelse)
    states = [frame.names]
    with reader.maybe():
        for handler in node.handlers:
            frame.join(start, failed)
            if handler.name:
                frame.assign(handler.name, UNKNOWN)
            reader.block(handler.body)
            states.append(frame.names)
    frame.join(*states)
    reader.block(node.finalbody)


def _on_match(reader: Reader, node: ast.Match) -> None:
    subject, frame = reader.value(node.subject), reader.current
    states = [frame.names]
    with reader.maybe():
        for case in node.cases:
            frame.names = dict(states[0])
            for one in ast.walk(case.pattern):
                name = getattr(one, "name", None) or getattr(one, "rest", None)
                if isinstance(name, str):
                    is_whole = one is case.pattern or isinstance(one, ast.MatchAs)
                    frame.assign(name, union((subject, UNKNOWN)) if is_whole else UNKNOWN)
            if case.guard is not None:
                reader.value(case.guard)
            reader.block(case.body)
            states.append(frame.names)
    frame.join(*states)


def _on_import(reader: Reader, node: Any) -> None:
    for alias in node.names:
        reader.current.assign(
            alias.asname or alias.name.partition(".")[0], imported(node, alias, reader.current.namespace)
        )


def store(reader: Reader, target: ast.expr, values: Values, source: ast.expr | None, change: Any = None) -> None:
    if isinstance(target, ast.Name):
        reader.current.assign(target.id, values)
    elif isinstance(target, ast.Tuple | ast.List):
        _unpack(reader, target.elts, values)
    elif isinstance(target, ast.Starred):
        store(reader, target.value, UNKNOWN, None)
    elif isinstance(target, ast.Attribute):
        for owner in reader.value(target.value):
            if isinstance(owner, SubjectOf):
                if owner.is_own:
                    set_property(reader, Text.of(target.attr), values, source, change=change)
            elif (inside := property_in(owner)) is not None:
                reader.write(inside.name, "change")
            elif is_of_ours(values):
                reader.unseen(f"keeps the context or the subject in .{target.attr}")
    elif isinstance(target, ast.Subscript):
        _change_in(reader, reader.value(target.value))
        reader.value(target.slice)
        if is_of_ours(values):
            reader.unseen("keeps the context or the subject in a collection")


def _unpack(reader: Reader, targets: list[ast.expr], values: Values) -> None:
    for at, target in enumerate(targets):
        found = []
        for one in values:
            if isinstance(one, Sequence) and len(one.elements) == len(targets):
                found.append(one.elements[at])
            elif isinstance(held := next(iter(lives(frozenset({one}))), None), tuple) and len(held) == len(targets):
                found.append(of(held[at]))
            else:
                found.append(items(frozenset({one})))
        store(reader, target, union(found) if found else UNKNOWN, None)


def _change_in(reader: Reader, owners: Values) -> None:
    for owner in owners:
        if (inside := property_in(owner)) is not None:
            reader.write(inside.name, "change")


STATEMENTS: Final[Mapping[type[ast.stmt], Callable[[Reader, Any], None]]] = {
    ast.FunctionDef: _on_function_def,
    ast.ClassDef: _on_class_def,
    ast.Return: _on_return,
    ast.Assign: _on_assign,
    ast.AnnAssign: _on_ann_assign,
    ast.AugAssign: _on_aug_assign,
    ast.Delete: _on_delete,
    ast.If: _on_if,
    ast.For: _on_for,
    ast.While: _on_while,
    ast.With: _on_with,
    ast.Try: _on_try,
    ast.Match: _on_match,
    ast.Import: _on_import,
    ast.AsyncFunctionDef: _on_function_def,
    ast.AsyncFor: _on_for,
    ast.AsyncWith: _on_with,
    ast.TryStar: _on_try,
    ast.ImportFrom: _on_import,
}
"""What is done with each kind of statement; in all others, only their parts matter."""
