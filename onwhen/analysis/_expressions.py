"""What expressions stand for.

Belongs here: one function per kind of expression. It must not know of statements, nor what calls do.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from onwhen.analysis._frames import Arguments
from onwhen.analysis._texts import HOLE, Text
from onwhen.analysis._values import (
    CTX,
    UNKNOWN,
    Mark,
    Sequence,
    SubjectOf,
    Values,
    Verb,
    attribute_of,
    copied,
    item_of,
    items,
    lives,
    of,
    property_in,
    texts,
    union,
)
from onwhen.engine.bus import EventBus
from onwhen.engine.subjects import Subject

if TYPE_CHECKING:
    from onwhen.analysis._reader import Reader

__all__ = ["EXPRESSIONS", "added", "attribute", "formatted", "imported"]


def _of_constant(reader: Reader, node: ast.Constant) -> Values:
    return of(node.value)


def _of_name(reader: Reader, node: ast.Name) -> Values:
    return reader.current.lookup(node.id)


def _of_joined_str(reader: Reader, node: ast.JoinedStr) -> Values:
    found = [Text(())]
    for part in node.values:
        is_plain = isinstance(part, ast.FormattedValue) and part.format_spec is None and part.conversion in (-1, 115)
        options = texts(reader.value(part.value if isinstance(part, ast.FormattedValue) else part))
        if isinstance(part, ast.FormattedValue) and not is_plain:
            options = (Text.of(HOLE),)
        found = [Text.concat((begun, more)) for begun in found for more in options][:16]
    return frozenset(found)


def _of_bin_op(reader: Reader, node: ast.BinOp) -> Values:
    return added(reader.value(node.left), reader.value(node.right), node.op)


def added(left: Values, right: Values, op: ast.operator) -> Values:
    if isinstance(op, ast.Add) and any(isinstance(one, Text) for one in left | right):
        return union(frozenset({Text.concat((one, other))}) for one in texts(left) for other in texts(right))
    if isinstance(op, ast.Add) and any(isinstance(one, Sequence) for one in left | right):
        return frozenset({Sequence((union((items(left), items(right))),))})
    if isinstance(op, ast.Mod) and any(isinstance(one, Text) for one in left):
        return union(frozenset({formatted(one, r"%[^a-zA-Z%]*[a-zA-Z]")}) for one in texts(left))
    return UNKNOWN


def _of_attribute(reader: Reader, node: ast.Attribute) -> Values:
    return union(attribute(reader, owner, node.attr) for owner in reader.value(node.value))


def attribute(reader: Reader, owner: Any, name: str) -> Values:
    """Return an attribute of something."""
    if owner is Mark.CTX:
        return _of_context(reader, name)
    if owner is Mark.NEXT:
        return frozenset({owner})  # next.attempt is next as well
    if isinstance(owner, SubjectOf):
        return _of_subject(reader, owner, name)
    if (inside := property_in(owner)) is not None:
        return frozenset({Verb(replace(inside, is_whole=False), name)})
    if owner is EventBus:
        return frozenset({Verb(owner, name)}) if name in ("emit", "append") else UNKNOWN
    if owner is Mark.UNKNOWN or owner is Mark.EXT or isinstance(owner, Text):
        return frozenset({Verb(owner, name)})
    held = lives(frozenset({owner}))
    if held and isinstance(held[0], EventBus) and name in ("emit", "append"):
        return frozenset({Verb(EventBus, name)})
    if held and type(held[0]) is dict and name in ("get", "keys", "values", "items"):
        return frozenset({Verb(owner, name)})
    return attribute_of(held[0], name) if held else UNKNOWN


def _of_context(reader: Reader, name: str) -> Values:
    if name == "subject":
        return frozenset({SubjectOf(reader.known.subject)})
    if name in ("emit", "defer", "read"):
        return frozenset({Verb(Mark.CTX, name)})
    if name == "around":
        return CTX
    if name == "bus":
        return frozenset({EventBus})
    return reader.known.attributes.get(name, UNKNOWN)


def _of_subject(reader: Reader, owner: SubjectOf, name: str) -> Values:
    cls = owner.cls
    if name == "name":
        return frozenset({Text.of(cls._prefix, HOLE)})
    if name == "ext":
        return frozenset({Mark.EXT})
    if name in cls._codec.declared or (name not in dir(cls) and not name.startswith("_")):
        return reader.look(owner, Text.of(name))
    static = next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)
    if isinstance(static, property) and name not in dir(Subject):
        return reader.call(of(static.fget), Arguments((frozenset({owner}),)), f".{name}")
    if callable(static) or isinstance(static, staticmethod | classmethod):
        return frozenset({Verb(owner, name)})
    return UNKNOWN if static is None else of(static)


def _of_subscript(reader: Reader, node: ast.Subscript) -> Values:
    key = reader.value(node.slice)
    found = []
    for owner in reader.value(node.value):
        inside = property_in(owner)
        if inside is None:
            found.append(item_of(owner, key))
        else:
            found.append(
                copied(inside) if isinstance(node.slice, ast.Slice) else frozenset({replace(inside, is_whole=False)})
            )
    return union(found)


def _of_call(reader: Reader, node: ast.Call) -> Values:
    functions = reader.value(node.func)
    positional: list[Values] = []
    named: list[tuple[str, Values]] = []
    is_open = False
    for argument in node.args:
        if not isinstance(argument, ast.Starred):
            positional.append(reader.value(argument))
            continue
        passed = reader.value(argument.value)
        one = next(iter(passed)) if len(passed) == 1 else None
        if isinstance(one, Sequence):
            positional.extend(one.elements)
        else:
            is_open = True
    for keyword in node.keywords:
        values = reader.value(keyword.value)
        if keyword.arg is None:
            is_open = is_open or bool(values)
        else:
            named.append((keyword.arg, values))
    before, reader.at = reader.at, node
    try:
        return reader.call(functions, Arguments(tuple(positional), tuple(named), is_open), ast.unparse(node.func)[:80])
    finally:
        reader.at = before


def _of_await(reader: Reader, node: ast.Await) -> Values:
    return reader.value(node.value)


def _of_named_expr(reader: Reader, node: ast.NamedExpr) -> Values:
    values = reader.value(node.value)
    reader.store(node.target, values, node.value)
    return values


def _of_if_exp(reader: Reader, node: ast.IfExp) -> Values:
    reader.value(node.test)
    with reader.maybe():
        return union((reader.value(node.body), reader.value(node.orelse)))


def _of_bool_op(reader: Reader, node: ast.BoolOp) -> Values:
    found = [reader.value(node.values[0])]
    with reader.maybe():
        found.extend(reader.value(one) for one in node.values[1:])
    return union(found)


def _of_compare(reader: Reader, node: ast.Compare) -> Values:
    reader.value(node.left)
    for op, other in zip(node.ops, node.comparators, strict=True):
        compared = reader.value(other)
        if isinstance(op, ast.In | ast.NotIn):
            for subject in compared:
                if isinstance(subject, SubjectOf):
                    for name in texts(reader.value(node.left)):
                        reader.look(subject, name, is_question=True)
    return UNKNOWN


def _of_tuple(reader: Reader, node: Any) -> Values:
    elements = [reader.value(one.value if isinstance(one, ast.Starred) else one) for one in node.elts]
    if any(isinstance(one, ast.Starred) for one in node.elts):
        return UNKNOWN
    return frozenset({Sequence(tuple(elements))})


def _of_dict(reader: Reader, node: ast.Dict) -> Values:
    reader.children(node)
    keys = tuple(reader.value(key) if key is not None else UNKNOWN for key in node.keys)
    return frozenset({Sequence(keys)})


def _of_lambda(reader: Reader, node: ast.Lambda) -> Values:
    return frozenset({reader.closure(node)})


def _of_list_comp(reader: Reader, node: Any) -> Values:
    with reader.maybe():
        for clause in node.generators:
            reader.store(clause.target, items(reader.value(clause.iter)), None)
            for test in clause.ifs:
                reader.value(test)
        if isinstance(node, ast.DictComp):
            return frozenset({Sequence((reader.value(node.key), reader.value(node.value))[:1])})
        return frozenset({Sequence((reader.value(node.elt),))})


def formatted(template: Text, holes: str) -> Text:
    """Return a template with something unknown in place of what a pattern finds."""
    if not template.is_exact:
        return Text.of(HOLE)
    return Text.between(re.split(holes, str(template)))


def imported(node: Any, alias: ast.alias, namespace: Mapping[str, Any]) -> Values:
    """Return what an import inside of a function gives, if the module is there already."""
    if isinstance(node, ast.Import):
        name = alias.name if alias.asname else alias.name.partition(".")[0]
        module = sys.modules.get(name)
        return UNKNOWN if module is None else of(module)
    package = str(namespace.get("__package__") or "")
    base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
    name = ".".join(part for part in (base, node.module or "") if part)
    module = sys.modules.get(name)
    if not isinstance(module, ModuleType):
        return UNKNOWN
    if alias.name in vars(module):
        return of(vars(module)[alias.name])
    inner = sys.modules.get(f"{name}.{alias.name}")
    return UNKNOWN if inner is None else of(inner)


EXPRESSIONS: Final[Mapping[type[ast.expr], Callable[[Reader, Any], Values]]] = {
    ast.Constant: _of_constant,
    ast.Name: _of_name,
    ast.JoinedStr: _of_joined_str,
    ast.BinOp: _of_bin_op,
    ast.Attribute: _of_attribute,
    ast.Subscript: _of_subscript,
    ast.Call: _of_call,
    ast.Await: _of_await,
    ast.NamedExpr: _of_named_expr,
    ast.IfExp: _of_if_exp,
    ast.BoolOp: _of_bool_op,
    ast.Compare: _of_compare,
    ast.Tuple: _of_tuple,
    ast.Dict: _of_dict,
    ast.Lambda: _of_lambda,
    ast.ListComp: _of_list_comp,
    ast.List: _of_tuple,
    ast.Set: _of_tuple,
    ast.SetComp: _of_list_comp,
    ast.GeneratorExp: _of_list_comp,
    ast.DictComp: _of_list_comp,
}
"""What each kind of expression stands for; of all others, nobody knows."""
