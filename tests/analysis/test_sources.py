"""Where functions stand, and the source of conditions."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from onwhen.analysis import Place, condition_text, place_of
from onwhen.analysis._sources import definition_of, is_foreign

HERE = str(Path(__file__))
FIRST, SECOND = (lambda ctx: ctx.payload["a"] == 1), (lambda ctx: ctx.payload["b"] == 2)


def decorator(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


@decorator
def decorated(ctx: Any) -> None:
    """Stands two lines below its decorator's line."""


class Callable:
    def __call__(self, ctx: Any) -> None: ...


def line_of(text: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.strip().startswith(text))


def test_a_function_is_where_its_def_is() -> None:
    """Behind decorators, partials and objects; the path is short if it is below the current directory."""
    for function in (decorated, functools.partial(decorated, 1)):
        place = place_of(function)
        assert place is not None
        assert Path(place.file).resolve() == Path(HERE).resolve()
        assert place.line == line_of("def decorated")
    place = place_of(Callable())
    assert place is not None
    assert place.line == line_of("def __call__")
    assert str(Place("a.py", 3)) == "a.py:3"


def test_what_was_not_written_in_python_has_no_place() -> None:
    """Nor a definition."""
    assert place_of(len) is None
    assert definition_of(len) is None


def test_lambdas_on_one_line_are_told_apart() -> None:
    """By where in the line they are."""
    assert condition_text(FIRST) == 'ctx.payload["a"] == 1'
    assert condition_text(SECOND) == 'ctx.payload["b"] == 2'
    pair = [lambda x: x, lambda x: x + 1]
    assert [condition_text(one) for one in pair] == ["x", "x + 1"]


def test_a_condition_that_is_a_function_is_called_by_its_name() -> None:
    """A long lambda is cut short, one without source has no more than a name."""

    def is_late(ctx: Any) -> bool:
        return True

    assert condition_text(is_late) == "is_late"
    shown = condition_text(
        lambda ctx: (
            ctx.payload["a long name of a key"] == ctx.payload["another long name of a key"]
            and ctx.payload["one more long name of a key"] == ctx.payload["and one more long name of a key"]
            and ctx.subject.name == "ticket:1"
        )
    )
    assert len(shown) == 200
    assert shown.endswith("...")
    assert condition_text(eval("lambda ctx: True")) == "lambda"


def test_the_standard_library_and_the_engine_are_not_looked_into() -> None:
    """What is written as users write is."""
    from onwhen.engine.bus import EventBus

    assert is_foreign(functools.wraps)
    assert is_foreign(EventBus.emit)
    assert not is_foreign(decorated)
