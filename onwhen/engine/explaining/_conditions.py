"""Conditions, told: the source text of a test, what came of it, and the values that it looked at.

Belongs here: from a condition or trigger and a context to an account of it. It must not know when somebody wants one,
nor decide anything: what a test comes to is told to it, and nothing it does changes what a turn does.
"""

from __future__ import annotations

import ast
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final, Literal, TypeAlias

import msgspec

from onwhen.engine.context import Context
from onwhen.engine.events import Event
from onwhen.engine.explaining._evaluation import evaluate, truth
from onwhen.engine.explaining._sights import Sight, Unseen
from onwhen.engine.explaining._texts import error_text, one_line, short
from onwhen.engine.explaining._views import View, view_of
from onwhen.engine.rules import Condition
from onwhen.engine.sources import Called, called, name_of, place_of_code
from onwhen.engine.subjects import Subject
from onwhen.engine.triggers import Trigger
from onwhen.errors import RuleTimeout

__all__ = ["Asked", "Part", "Result", "Value", "condition_asked", "condition_text", "trigger_asked"]

Result: TypeAlias = Literal["held", "did not hold", "raised", "not reached", "unknown"]
"""What came of a test; "unknown" only where it cannot be told without running it once more."""

_MOST_VALUES: Final = 20  # of one condition (a count)
_MOST_PARTS: Final = 20  # of one condition (a count)
_TEXT: Final = 300  # characters of a text (a count)


class Value(msgspec.Struct, frozen=True):
    """What a condition looked at.

    Attributes:
        text: the expression.
        value: what it came to, as a short text.
        raised: that is an error.
    """

    text: str
    value: str
    raised: bool = False


class Part(msgspec.Struct, frozen=True):
    """One operand of the `and` or `or` that a condition is, as far as it can be told which of them it was."""

    text: str
    result: Result


class Asked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One trigger or condition of a rule, and what came of it.

    Attributes:
        kind: which of the two.
        text: a trigger as it was declared; the expression of a lambda; the name of a function; of one that is behind a
            decorator, that it is.
        result: what came of it.
        place: file and line.
        body: of a function that only returns an expression, that.
        parts: of an `and` or `or`, its operands.
        values: what it looked at; read again right after it, or after a failed rule was undone.
        error: what it raised.
    """

    kind: Literal["trigger", "condition"]
    text: str
    result: Result
    place: str = ""
    body: str = ""
    parts: tuple[Part, ...] = ()
    values: tuple[Value, ...] = ()
    error: str = ""


def trigger_asked(trigger: Trigger, ctx: Context[Any], result: Result, error: BaseException | None = None) -> Asked:
    """Tell of a trigger that asks for values."""
    try:
        return _trigger_asked(trigger, ctx, result, error)
    except Exception:  # whatever it is like, the turn goes on
        return Asked(kind="trigger", text="(a trigger that cannot be told)", result=result)


def condition_asked(
    test: Callable[[Any], Any], ctx: Context[Any], result: Result, error: BaseException | None = None
) -> Asked:
    """Tell of a condition that was tested just now, or was not reached."""
    try:
        return _condition_asked(test, ctx, result, error)
    except Exception:
        return Asked(kind="condition", text="(a condition that cannot be told)", result=result)


def condition_text(test: Callable[[Any], Any]) -> str:
    """Say which condition it is: the expression of a lambda, or the name of a function, and where that stands."""
    try:
        about = called(test)
        view = view_of(about.function) if isinstance(about.function, FunctionType) else None
        if view is None:
            return one_line(str(Condition(test)), _TEXT)
        text = view.body if view.is_lambda else name_of(about.function)
        return f"{text}{', decorated' if about.is_decorated else ''} ({view.place})"
    except Exception:
        return "(a condition that cannot be told)"


def _trigger_asked(trigger: Trigger, ctx: Context[Any], result: Result, error: BaseException | None) -> Asked:
    values: tuple[Value, ...] = ()
    if result != "not reached":
        sight = Sight(ctx)
        values = tuple(
            _value(words, lambda name=name: sight.read(name))  # type: ignore[misc]
            for words, name in (("old value", "old_value"), ("new value", "new_value"))
        )
    predicates = [view_of(one) for one in (trigger.from_, trigger.to) if isinstance(one, FunctionType)]
    return Asked(
        kind="trigger",
        text=one_line(str(trigger), _TEXT),
        result=result,
        body=" and ".join(view.body for view in predicates if view is not None and view.body),
        values=values,
        error="" if error is None else error_text(error),
    )


def _condition_asked(
    test: Callable[[Any], Any], ctx: Context[Any], result: Result, error: BaseException | None
) -> Asked:
    about = called(test)
    function = about.function
    name = one_line(name_of(function), _TEXT)
    raised = "" if error is None else _cut_off(error) or error_text(error)
    view = view_of(function) if isinstance(function, FunctionType) else None
    if view is None:
        place = place_of_code(function.__code__) if isinstance(function, FunctionType) else ""
        return Asked(kind="condition", text=name, result=result, place=place, error=raised)
    parts: tuple[Part, ...] = ()
    values: tuple[Value, ...] = ()
    if result != "not reached":
        try:
            parts, reached = _parts(view, _names(about, view, Sight(ctx)), result, about.is_decorated)
            values = tuple(_values(view, _names(about, view, Sight(ctx)), reached))
        except Exception:  # whatever the code is like, the turn goes on; its text is told all the same
            parts, values = (), ()
    text, body = (view.body, "") if view.is_lambda else (name, view.body)
    if about.is_decorated:  # what is around it may have turned its result around
        text, body = f"{text}, decorated", ""
    return Asked(
        kind="condition",
        text=text,
        result=result,
        place=view.place,
        body=body,
        parts=parts,
        values=values,
        error=raised,
    )


def _cut_off(error: BaseException) -> str:
    """Say so of what a time-out has ended; that is no error of its own."""
    is_time_out = isinstance(error, CancelledError | RuleTimeout)
    return f"{type(error).__name__}: cut off before it returned" if is_time_out else ""


# -- what it sees now --------------------------------------------------------------------------------------------


def _names(about: Called, view: View, sight: Sight) -> dict[str, Any]:
    """Return what the names of a condition stand for."""
    function = about.function
    code = function.__code__
    module = function.__globals__
    names: dict[str, Any] = {name: module[name] for name in view.globals if name in module}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    defaults = function.__defaults__ or ()
    names.update(zip(view.parameters[len(view.parameters) - len(defaults) :], defaults, strict=True))
    names.update(function.__kwdefaults__ or {})
    names.update(about.named)
    names.update(zip(view.parameters, (*about.before, sight), strict=False))
    names.update(view.aliases)
    return names


def _values(view: View, names: dict[str, Any], looked_at: Iterable[str]) -> Iterator[Value]:
    reached = set(looked_at)
    count = 0
    for text, node in view.looked_at.items():
        if text not in reached or count >= _MOST_VALUES:
            continue
        try:
            value = _value(one_line(text, _TEXT), partial(_plain, node, names))
        except Unseen:
            continue
        count += 1
        yield value


def _plain(node: ast.expr, names: dict[str, Any]) -> Any:
    """Return the value of an expression, unless it is something that only leads to values."""
    value = evaluate(node, names)
    if isinstance(value, _WAYS) or (isinstance(node, ast.Name) and callable(value)):
        raise Unseen
    return value


_WAYS: Final = (Sight, Context, Subject, Event, ModuleType, FunctionType, BuiltinFunctionType, MethodType, type)


def _value(text: str, read: Callable[[], Any]) -> Value:
    try:
        return Value(text, short(read()))
    except Unseen:
        raise
    except Exception as error:
        return Value(text, error_text(error), raised=True)


def _parts(
    view: View, names: Mapping[str, Any], result: Result, is_decorated: bool
) -> tuple[tuple[Part, ...], Iterable[str]]:
    """Tell what came of each operand of an `and` or `or`, and what was looked at then.

    An operand that cannot be evaluated without running something is known all the same if only one result of it
    leads to that of the whole.
    """
    if not view.operands or is_decorated or len(view.operands) > _MOST_PARTS:
        return (), view.looked_at
    results = _operands(view, dict(names))
    ends: Result = "held" if view.is_or else "did not hold"
    passes: Result = "did not hold" if view.is_or else "held"
    unknown = [at for at, one in enumerate(results) if one == "unknown"]
    if unknown and result == passes:
        results = [passes if one == "unknown" else one for one in results]
    elif len(unknown) == 1 and result == ends and results.count(passes) == len(results) - 1:
        results[unknown[0]] = ends
        results[unknown[0] + 1 :] = ["not reached"] * (len(results) - unknown[0] - 1)
    if "unknown" not in results:
        whole = ends if ends in results else "raised" if "raised" in results else passes
        if whole != result:
            return (), view.looked_at  # it is not what it was when it was tested
    parts = tuple(Part(text, one) for (text, _, _), one in zip(view.operands, results, strict=True))
    reached = {
        text
        for (_, _, texts), one in zip(view.operands, results, strict=True)
        if one != "not reached"
        for text in texts
    }
    return parts, reached


def _operands(view: View, names: dict[str, Any]) -> list[Result]:
    results: list[Result] = []
    ends = ("raised", "not reached", "held" if view.is_or else "did not hold")
    for _, node, _ in view.operands:
        if results and results[-1] in ends and "unknown" not in results:
            results.append("not reached")
            continue
        try:
            results.append("held" if truth(evaluate(node, names)) else "did not hold")
        except Unseen:
            results.append("unknown")
        except Exception:
            results.append("raised")
    return results
