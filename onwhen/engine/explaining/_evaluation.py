"""Expressions of a condition, evaluated once more without running anything that anybody else has written.

Belongs here: what may be read, which operators and methods are known to do nothing but return a value, and of which
types. It must not know where expressions come from. A computed property is the one exception: it is run, on a copy.
"""

from __future__ import annotations

import ast
import enum
import operator
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from inspect import getattr_static
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType, NoneType
from typing import Any, Final
from uuid import UUID

from onwhen.engine.bag import ABSENT
from onwhen.engine.events import Event
from onwhen.engine.explaining._sights import Sight, Unseen
from onwhen.engine.subjects import ExtendedProperties, Subject
from onwhen.engine.values import FrozenDict, FrozenList

__all__ = ["READS", "evaluate", "truth"]

READS: Final = frozenset({"get", "get_ext", "get_metadata", "has", "keys"})
"""Methods that only read, of a context, a subject, or a JSON object."""

_NUMBERS: Final = (bool, int, float, Decimal)
_ATOMS: Final = frozenset({*_NUMBERS, str, bytes, NoneType, date, datetime, time, timedelta, UUID})
_DICTS: Final = frozenset[Any]((dict, FrozenDict))
_LISTS: Final[frozenset[Any]] = frozenset({list, tuple, FrozenList})
_CONTAINERS: Final[frozenset[Any]] = frozenset({*_DICTS, *_LISTS, set, frozenset})
_INDEXED: Final[frozenset[Any]] = frozenset({*_DICTS, *_LISTS, str, bytes, ExtendedProperties})
_MOST: Final = 1_000  # elements of a container that are compared (a count)
_OF_STR: Final = frozenset({"startswith", "endswith", "lower", "upper", "strip", "casefold", "isdigit", "isalpha"})
_COMPARISONS: Final[Mapping[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda one, other: one in other,
    ast.NotIn: lambda one, other: one not in other,
}
_OPERATIONS: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def evaluate(node: ast.expr, names: dict[str, Any]) -> Any:
    """Return the value of an expression.

    Args:
        node: the expression.
        names: what its names stand for; a name that it assigns is added.

    Raises:
        Unseen: it cannot be had without running what might do something.
        Exception: what the expression raises.
    """
    how = _HOW.get(type(node))
    if how is None:
        raise Unseen
    return how(node, names)


def truth(value: Any) -> bool:
    """Return whether a value counts as true.

    Raises:
        Unseen: it is of a type that may have its own idea of that.
    """
    if type(value) in _ATOMS or type(value) in _CONTAINERS:
        return bool(value)
    if isinstance(value, Subject) and type(value).__bool__ is Subject.__bool__:
        return True
    raise Unseen


# -- kinds of expressions ------------------------------------------------------------------------------------------


def _constant(node: ast.Constant, names: dict[str, Any]) -> Any:
    return node.value


def _name(node: ast.Name, names: dict[str, Any]) -> Any:
    try:
        found = names[node.id]
    except KeyError:
        raise Unseen from None
    return evaluate(found, names) if isinstance(found, ast.expr) else found


def _attribute(node: ast.Attribute, names: dict[str, Any]) -> Any:
    return _attribute_of(evaluate(node.value, names), node.attr)


def _attribute_of(value: Any, name: str) -> Any:
    if isinstance(value, Sight):
        return value.read(name)
    if name.startswith("__"):
        raise Unseen
    if isinstance(value, Subject):
        return _of_subject(value, name)
    if isinstance(value, enum.EnumMeta):
        found: Any = value.__members__.get(name, ABSENT)
    elif isinstance(value, enum.Enum) and name in ("name", "value"):
        found = value._name_ if name == "name" else value._value_
    elif isinstance(value, Event) and isinstance(vars(Event).get(name), property):
        found = getattr(value, name)
    elif isinstance(value, ModuleType):
        found = vars(value).get(name, ABSENT)
    else:
        found = _static(value, name)
    if found is ABSENT:
        raise Unseen
    return found


def _of_subject(subject: Subject, name: str) -> Any:
    if name == "name":
        return subject.name
    if name == "ext":
        return subject.ext
    if name in subject._taken and name not in subject._codec.computed:
        raise Unseen  # a method, of ours or of theirs
    return getattr(subject, name)


def _static(value: Any, name: str) -> Any:
    """Return an attribute that is there as it is: nothing has to be called for it."""
    kind: Any = type(value)
    if kind not in _ATOMS and not isinstance(value, type) and kind.__getattribute__ is not object.__getattribute__:
        raise Unseen
    found = getattr_static(value, name, ABSENT)
    if type(found) in (MemberDescriptorType, GetSetDescriptorType):
        return found.__get__(value, kind)
    return ABSENT if hasattr(type(found), "__get__") else found


def _subscript(node: ast.Subscript, names: dict[str, Any]) -> Any:
    value, index = evaluate(node.value, names), evaluate(node.slice, names)
    if type(value) not in _INDEXED or not (type(index) in _ATOMS or type(index) is slice):
        raise Unseen
    return value[index]


def _slice(node: Any, names: dict[str, Any]) -> Any:
    parts = (node.lower, node.upper, node.step)
    return slice(*(None if part is None else evaluate(part, names) for part in parts))


def _call(node: ast.Call, names: dict[str, Any]) -> Any:
    if any(isinstance(one, ast.Starred) for one in node.args) or any(one.arg is None for one in node.keywords):
        raise Unseen
    arguments = [evaluate(one, names) for one in node.args]
    named = {str(one.arg): evaluate(one.value, names) for one in node.keywords}
    if isinstance(node.func, ast.Name):
        if node.func.id == "len" and "len" not in names and len(arguments) == 1 and not named:
            (value,) = arguments
            if type(value) in _CONTAINERS or type(value) in (str, bytes):
                return len(value)
        raise Unseen
    if not isinstance(node.func, ast.Attribute):
        raise Unseen
    value, verb = evaluate(node.func.value, names), node.func.attr
    if isinstance(value, Sight):
        known = verb == "get_metadata"
        value = value.ctx
    elif isinstance(value, Subject):
        known = verb in READS and getattr(type(value), verb, None) is getattr(Subject, verb, ABSENT)
    else:
        kind = type(value)
        known = (kind in _DICTS or kind is ExtendedProperties) and verb in ("get", "keys")
        known = known or (kind is str and verb in _OF_STR)
    if not known or not all(type(one) in _ATOMS for one in arguments[:1]):
        raise Unseen
    return getattr(value, verb)(*arguments, **named)


def _compare(node: ast.Compare, names: dict[str, Any]) -> Any:
    left, result = evaluate(node.left, names), True
    for sign, right_node in zip(node.ops, node.comparators, strict=True):
        right = evaluate(right_node, names)
        if isinstance(sign, ast.Is | ast.IsNot):
            result = (left is right) is isinstance(sign, ast.Is)
        elif isinstance(right, Subject) and isinstance(sign, ast.In | ast.NotIn) and type(left) is str:
            result = right.has(left) is isinstance(sign, ast.In)
        else:
            if not (_is_plain(left) and _is_plain(right)):
                raise Unseen
            result = _COMPARISONS[type(sign)](left, right)
        if not result:
            break
        left = right
    return result


def _is_plain(value: Any) -> bool:
    """Tell whether to compare a value runs nothing but Python's own code."""
    kind = type(value)
    if kind in _ATOMS:
        return True
    if kind in _CONTAINERS:
        inside = value.values() if kind in _DICTS else value
        return len(value) <= _MOST and all(type(one) in _ATOMS or _is_plain(one) for one in inside)
    return isinstance(value, enum.Enum) and not isinstance(getattr_static(kind, "__eq__", None), FunctionType)


def _boolean(node: ast.BoolOp, names: dict[str, Any]) -> Any:
    value: Any = None
    for one in node.values:
        value = evaluate(one, names)
        if truth(value) is isinstance(node.op, ast.Or):
            break
    return value


def _unary(node: ast.UnaryOp, names: dict[str, Any]) -> Any:
    value = evaluate(node.operand, names)
    if isinstance(node.op, ast.Not):
        return not truth(value)
    if isinstance(node.op, ast.USub) and type(value) in (*_NUMBERS, timedelta):
        return -value
    raise Unseen


def _binary(node: ast.BinOp, names: dict[str, Any]) -> Any:
    left, right = evaluate(node.left, names), evaluate(node.right, names)
    how = _OPERATIONS.get(type(node.op))
    moments = (*_NUMBERS, date, datetime, timedelta)
    if how is None or type(left) not in moments or type(right) not in moments:
        raise Unseen
    return how(left, right)


def _choice(node: ast.IfExp, names: dict[str, Any]) -> Any:
    return evaluate(node.body if truth(evaluate(node.test, names)) else node.orelse, names)


def _walrus(node: ast.NamedExpr, names: dict[str, Any]) -> Any:
    value = names[node.target.id] = evaluate(node.value, names)
    return value


def _elements(node: Any, names: dict[str, Any]) -> Any:
    found = [evaluate(one, names) for one in node.elts]
    if isinstance(node, ast.Set):
        if all(type(one) in _ATOMS for one in found):
            return set(found)
        raise Unseen
    return tuple(found) if isinstance(node, ast.Tuple) else found


_HOW: Final[Mapping[type[ast.AST], Callable[[Any, dict[str, Any]], Any]]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Attribute: _attribute,
    ast.Subscript: _subscript,
    ast.Slice: _slice,
    ast.Call: _call,
    ast.Compare: _compare,
    ast.BoolOp: _boolean,
    ast.UnaryOp: _unary,
    ast.BinOp: _binary,
    ast.IfExp: _choice,
    ast.NamedExpr: _walrus,
    ast.List: _elements,
    ast.Tuple: _elements,
    ast.Set: _elements,
}
