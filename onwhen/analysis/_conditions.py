"""What the conditions of a rule let through, as far as their code says it plainly.

Belongs here: comparisons with constants, and what they leave over. It must not know where events come from.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any, Final

from onwhen.analysis._frames import Arguments, Frame
from onwhen.analysis._reader import Known, Reader
from onwhen.analysis._sources import Place, definition_of, innermost, place_of
from onwhen.analysis._texts import Text, meets_prefix
from onwhen.analysis._values import CTX, Mark, Property, Values, constants, items
from onwhen.engine.rules import Condition

__all__ = ["ALL", "Claim", "Filter", "Names", "filter_of"]


@dataclass(frozen=True, slots=True)
class Names:
    """Some names, or all but some.

    Attributes:
        only: these; None for all.
        without: these not.
        prefixes: of each of these, it begins with one.
        without_prefixes: it begins with none of these.
    """

    only: frozenset[Any] | None = None
    without: frozenset[Any] = frozenset()
    prefixes: tuple[tuple[str, ...], ...] = ()
    without_prefixes: tuple[str, ...] = ()

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        return self == Names()

    def __contains__(self, name: object) -> bool:
        if name in self.without or (self.only is not None and name not in self.only):
            return False
        if not isinstance(name, str):  # to ask how it begins is an error
            return not self.prefixes and not self.without_prefixes
        return all(map(name.startswith, self.prefixes)) and not name.startswith(self.without_prefixes)

    def __and__(self, other: Names) -> Names:
        only = other.only if self.only is None else self.only if other.only is None else self.only & other.only
        prefixes = tuple(dict.fromkeys((*self.prefixes, *other.prefixes)))
        return Names(only, self.without | other.without, prefixes, self.without_prefixes + other.without_prefixes)

    def may_be(self, text: Text) -> bool:
        """Tell whether a text that is known in part may be one of them."""
        if text.is_exact:
            return str(text) in self
        begins = all(any(meets_prefix(text, one) != "never" for one in each) for each in self.prefixes)
        return begins and not text.prefix.startswith(self.without_prefixes)


@dataclass(frozen=True, slots=True)
class Claim:
    """A value that a condition asks for.

    Attributes:
        property: whose; None for the new value of the property that the event is about.
        values: any of these.
        text: how the condition says it.
        place: where.
    """

    property: str | None
    values: tuple[Any, ...]
    text: str
    place: Place | None


@dataclass(frozen=True, slots=True)
class Filter:
    """What conditions let through.

    Attributes:
        properties: names that `ctx.property_name` may be.
        event_types: what `ctx.event_type` may be.
        claims: values that are asked for.
        asks_more: there is something else in them.
        is_never: one of them is always false.
    """

    properties: Names = Names()
    event_types: Names = Names()
    claims: tuple[Claim, ...] = ()
    asks_more: bool = False
    is_never: bool = False

    @property
    def is_guard(self) -> bool:
        """Whether it may stop what its names let through."""
        return self.asks_more or self.is_never or bool(self.claims)

    def __and__(self, other: Filter) -> Filter:
        return Filter(
            self.properties & other.properties,
            self.event_types & other.event_types,
            self.claims + other.claims,
            self.asks_more or other.asks_more,
            self.is_never or other.is_never,
        )


ALL: Final = Filter()
_MORE: Final = Filter(asks_more=True)


def filter_of(conditions: Iterable[Condition], known: Known) -> Filter:
    """Return what several conditions together let through."""
    found = ALL
    for condition in conditions:
        try:
            found = found & _of_condition(condition.test, known)
        except RecursionError:
            found = found & _MORE
    return found


def _of_condition(test: Any, known: Known) -> Filter:
    function = innermost(test)
    definition = definition_of(function)
    if not isinstance(function, FunctionType) or definition is None or function is not test:
        return _MORE
    body = _returned(definition)
    if body is None:
        return _MORE
    asked = Known(known.subject, known.book, frozenset({Mark.EVENT_TYPE}), frozenset({Mark.PROPERTY_NAME}))
    reader = Reader(asked)
    frame = Frame.of_function(function, definition)
    frame.bind(Arguments((CTX,)), {})
    reader.frame, reader.at = frame, body
    found = ALL
    for atom in _atoms(body):
        found = found & _of_atom(reader, atom, place_of(test))
    return found


def _returned(definition: Any) -> ast.expr | None:
    """Return the one expression that a function is made of."""
    if isinstance(definition, ast.Lambda):
        return definition.body
    body = definition.body
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    return body[0].value if len(body) == 1 and isinstance(body[0], ast.Return) else None


def _atoms(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for one in node.values:
            yield from _atoms(one)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "bool" and node.args:
        yield from _atoms(node.args[0])
    else:
        yield node


def _of_atom(reader: Reader, node: ast.expr, place: Place | None) -> Filter:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return _negated(_of_atom(reader, node.operand, place))
    if isinstance(node, ast.Constant):
        return ALL if node.value else Filter(is_never=True)
    if isinstance(node, ast.Call):
        return _of_call(reader, node)
    if not isinstance(node, ast.Compare) or len(node.ops) != 1:
        return _MORE
    left, op, right = reader.value(node.left), node.ops[0], reader.value(node.comparators[0])
    if isinstance(op, ast.Eq | ast.NotEq | ast.Is | ast.IsNot):
        if constants(left) is not None and constants(right) is None:
            left, right = right, left
        wanted = constants(right)
        if wanted is not None and len(wanted) != 1:
            return _MORE
    elif isinstance(op, ast.In | ast.NotIn):
        wanted = _members(right)
    else:
        return _MORE
    if wanted is None:
        return _MORE
    found = _asked(left, wanted, ast.unparse(node), place)
    return _negated(found) if isinstance(op, ast.NotEq | ast.NotIn | ast.IsNot) else found


def _of_call(reader: Reader, node: ast.Call) -> Filter:
    """Return what `startswith` of a name lets through."""
    if not (isinstance(node.func, ast.Attribute) and node.func.attr == "startswith" and len(node.args) == 1):
        return _MORE
    argument = reader.value(node.args[0])
    wanted = constants(argument) or constants(items(argument)) or ()
    prefixes = tuple(sorted(one for one in wanted if isinstance(one, str)))
    if not prefixes or len(prefixes) != len(wanted):
        return _MORE
    return _for(reader.value(node.func.value), Names(prefixes=(prefixes,)))


def _for(asked: Values, names: Names) -> Filter:
    """Return a condition on the property or the type of an event; anything else asks more."""
    if asked == {Mark.PROPERTY_NAME}:
        return Filter(properties=names)
    return Filter(event_types=names) if asked == {Mark.EVENT_TYPE} else _MORE


def _members(values: Values) -> tuple[Any, ...] | None:
    """Return what is in a collection of constants; of a string, its parts would count too."""
    return None if any(constants(frozenset({one})) is not None for one in values) else constants(items(values))


def _asked(left: Values, wanted: tuple[Any, ...], text: str, place: Place | None) -> Filter:
    one = next(iter(left)) if len(left) == 1 else None
    try:
        names = Names(only=frozenset(wanted))
    except TypeError:
        return _MORE
    if one is Mark.NEW_VALUE:
        return Filter(claims=(Claim(None, wanted, text, place),))
    if isinstance(one, Property) and one.is_whole and one.name.is_exact:
        return Filter(claims=(Claim(str(one.name), wanted, text, place),))
    return _for(left, names)


def _negated(found: Filter) -> Filter:
    if found.is_guard or (found.properties.is_all and found.event_types.is_all):
        return _MORE
    return replace(found, properties=_others(found.properties), event_types=_others(found.event_types))


def _others(names: Names) -> Names:
    if names.only is not None:
        return Names(without=names.only)
    if names.without:
        return Names(only=names.without)
    if names.prefixes:
        return Names(without_prefixes=names.prefixes[0])
    return Names(prefixes=(names.without_prefixes,)) if names.without_prefixes else names
