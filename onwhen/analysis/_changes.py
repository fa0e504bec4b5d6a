"""What a property is set to: a constant, another value each time, or who knows what.

Belongs here: telling these apart. It must not know of statements or calls.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from onwhen.analysis._texts import Text
from onwhen.analysis._values import Property, Values, constants, of

if TYPE_CHECKING:
    from onwhen.analysis._reader import Reader

__all__ = ["is_step", "set_property"]


def set_property(
    reader: Reader, name: Text, values: Values, source: ast.expr | None, *, muted: bool = False, change: Any = None
) -> None:
    """Note that a property is set to one of these."""
    known = constants(values)
    if change is not None:
        reader.write(name, "set", is_muted=muted, change=change)
    elif known is not None:
        for value in known:
            with reader.maybe(len(known) > 1):
                reader.write(name, "set", is_muted=muted, change="constant", value=_frozen(value))
    else:
        always = source is not None and _is_stepped(reader, name, source)
        reader.write(name, "set", is_muted=muted, change="always" if always else "unknown")


def _is_stepped(reader: Reader, name: Text, source: ast.expr) -> bool:
    """Tell whether an expression is the property's own value and a number more or less."""
    if isinstance(source, ast.Lambda) and source.args.args:
        parameter, source = source.args.args[0].arg, source.body
        own = {node.id for node in ast.walk(source) if isinstance(node, ast.Name)} == {parameter}
    else:
        own = isinstance(source, ast.BinOp) and Property(name) in reader.value(source.left)
    if not (own and isinstance(source, ast.BinOp) and isinstance(source.op, ast.Add | ast.Sub)):
        return False
    return isinstance(source.right, ast.Constant) and is_step(of(source.right.value))


def is_step(values: Values) -> bool:
    """Tell whether something that is added makes a difference."""
    known = constants(values)
    return known is not None and all(type(one) in (int, float) and one != 0 for one in known)


def _frozen(value: Any) -> Any:
    """Return a constant as something that can be compared and kept in a set."""
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value
