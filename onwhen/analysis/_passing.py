"""What becomes of functions, contexts and subjects that are passed to code that cannot be read.

Belongs here: what such code may do with them. It must not know what calls that can be read mean.
"""

from __future__ import annotations

import functools
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from onwhen.analysis._frames import Arguments
from onwhen.analysis._values import UNKNOWN, Closure, Live, Values, Verb, is_of_ours

if TYPE_CHECKING:
    from onwhen.analysis._reader import Reader

__all__ = ["call_passed", "call_unknown"]


def call_passed(reader: Reader, arguments: Arguments) -> bool:
    """Call the functions among the arguments with the others; return whether that was all that is of ours."""
    passed = list(arguments.all())
    functions = [values for values in passed if any(map(_is_function, values))]
    others = tuple(values for values in passed if values not in functions)
    with reader.maybe():
        for values in functions:
            for function in values:
                if isinstance(function, Closure) or is_of_ours(frozenset({function})) or any(map(is_of_ours, others)):
                    reader.call(frozenset({function}), Arguments(others, is_open=not others), "")
    return bool(functions)


def _is_function(value: Any) -> bool:
    if isinstance(value, Live):
        return isinstance(value.value, FunctionType | MethodType | functools.partial)
    return isinstance(value, Closure) or (isinstance(value, Verb) and is_of_ours(frozenset({value})))


def call_unknown(reader: Reader, arguments: Arguments, shown: str, why: str = "which cannot be followed") -> Values:
    """Note that a function that cannot be followed is called; if it is given something of ours, it may do anything."""
    if not call_passed(reader, arguments) and any(map(is_of_ours, arguments.all())):
        reader.unseen(f"passes the context or the subject to {shown or 'a function'}(), {why}")
    return UNKNOWN
