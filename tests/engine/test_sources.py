"""From a callable to its source: which definition it was made of, and where errors were raised."""

import ast
import asyncio
import functools
import json
import marshal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onwhen.engine.sources import called, definition_of, name_of, place_of_error, written

HERE = "test_sources.py"


def loaded(path: Path, source: str, text: str = "", *, stored: bool = False) -> dict[str, Any]:
    """Run source as a module is, write it (or another text) to its file, and return its names."""
    path.write_text(text or source)
    code = compile(source, str(path), "exec")
    names: dict[str, Any] = {}
    exec(marshal.loads(marshal.dumps(code)) if stored else code, names)
    return names


def text_of(function: Any) -> str:
    definition = definition_of(function)
    return "" if definition is None else ast.unparse(definition)


# -- the definition that is run -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "edited"),
    [
        ("return n > 3", "return n > 5"),
        ("return n > 3", "return n < 3"),
        ("return n > limit", "return n > other"),
        ("return [x for x in n if x > 3]", "return [x for x in n if x > 5]"),
        ("return n == 1", "return n == True"),
        ("x = 1\n    return n", "return n"),
    ],
)
def test_a_function_whose_file_was_edited_since_has_no_definition(tmp_path: Path, run: str, edited: str) -> None:
    """What stands there now is not what runs; this is so in a worker whose next version was installed over it."""
    source, now = (f"def test(n):\n    {body}\n" for body in (run, edited))
    assert text_of(loaded(tmp_path / "a.py", source)["test"]) == source.strip()
    assert definition_of(loaded(tmp_path / "b.py", source, now)["test"]) is None


@pytest.mark.parametrize("number", range(30))
def test_a_set_of_constants_is_in_no_order(tmp_path: Path, number: int) -> None:
    """Python may keep it in another order in a compiled file than it has when the source is compiled again."""
    words = ", ".join(f"'status-{number}-{one}'" for one in range(7))
    names = loaded(tmp_path / "a.py", f"test = lambda n: n in {{{words}}}\n", stored=True)
    assert definition_of(names["test"]) is not None


FUNCTIONS = """
def decorated(function, other=None):
    return function

def around():
    count = 0
    class Inner:
        def method(self):
            nonlocal count
            self.__hidden = super().__init__()
            return count
    def nested(n, default=lambda x: x + 1, *, named=lambda x: x + 2):
        nonlocal count
        class Local:
            name: str = "local"
        count = count + len(n)
        return Local
    return nested, Inner.method, lambda n, default=lambda x: x: (n, default, count)

@decorated
def short(n): pass

@functools.partial(decorated, other=lambda n: n)
async def waiting(n: int) -> object:
    # a comment
    inner: str = await n
    yield inner
"""


def test_functions_of_every_kind_are_found(tmp_path: Path) -> None:
    """Nested ones, with names from around them, in classes, decorated, async, with lambdas among their defaults."""
    for first in ("import functools\n", "from __future__ import annotations\nimport functools\n"):
        names = loaded(tmp_path / "a.py", first + FUNCTIONS)
        for function in (*names["around"](), names["short"], names["waiting"], names["decorated"]):
            definition = definition_of(function)
            assert definition is not None
            assert getattr(definition, "name", "<lambda>") == function.__name__


def test_the_standard_library_is_found() -> None:
    """As a sample of what people write."""
    for module in (argparse_functions() + json_functions())[:200]:
        assert definition_of(module) is not None, module


def argparse_functions() -> list[Any]:
    import argparse

    return [one for one in vars(argparse.ArgumentParser).values() if type(one) is type(argparse_functions)]


def json_functions() -> list[Any]:
    return [json.dumps, json.loads, json.JSONEncoder.iterencode, asyncio.run, functools.wraps]


def test_an_expression_is_cut() -> None:
    """To as many characters as are asked for."""
    test = lambda ctx: ctx.payload["number"]  == 1  # fmt: skip # noqa: E731
    definition = definition_of(test)
    assert isinstance(definition, ast.Lambda)
    assert written(definition.body, test) == 'ctx.payload["number"]  == 1'
    assert written(definition.body, test, 12) == "ctx.paylo..."


# -- what is behind a callable --------------------------------------------------------------------------------------


def test_what_is_around_a_function_is_taken_off() -> None:
    """Caches and other objects that say what they wrap, too; a class is what it is."""

    def plain(n: Any) -> Any:
        return n

    cached = called(functools.lru_cache(plain))
    assert (cached.function, cached.is_decorated) == (plain, True)
    assert called(functools.partial(plain, 1)).before == (1,)
    assert not called(plain).is_decorated
    assert called(Path).function is Path
    assert name_of(plain) == "plain"
    assert name_of(lambda: 1) == "lambda"


def test_what_wraps_itself_has_an_end() -> None:
    """However it was made."""

    def plain() -> None: ...

    plain.__wrapped__ = plain  # type: ignore[attr-defined]
    assert called(plain).function is plain


# -- where an error was raised ----------------------------------------------------------------------------------------


def raised(what: Callable[[], Any]) -> BaseException:
    try:
        what()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_an_error_is_where_the_application_was_last() -> None:
    """Not deep in a library that it has called; nowhere if none of it was on the way."""
    error = raised(lambda: json.loads("{"))
    assert place_of_error(error).rpartition(":")[0].endswith(HERE)
    assert place_of_error(raised(functools.partial(json.loads, "{"))).rpartition(":")[0].endswith(HERE)
    assert place_of_error(ValueError("never raised")) == ""
    assert place_of_error(None) == ""
