"""The reference pages say what the code says: settings, command line, errors."""

from __future__ import annotations

import builtins
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from onwhen import errors
from onwhen.settings import Settings

PAGES = Path(__file__).parents[2] / "docs" / "reference"


def read(page: str) -> str:
    return (PAGES / page).read_text()


# -- settings --------------------------------------------------------------------------------------------------


def shown(default: Any) -> str:
    if default is None or default == ():
        return "unset"
    if isinstance(default, timedelta):
        return f"`{default.total_seconds():g}`"
    return f"`{default}`"


def settings_rows() -> list[str]:
    prefix = Settings.model_config["env_prefix"]
    return [
        f"| `{prefix}{name.upper()}` | {shown(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]


def test_the_table_of_settings_is_the_class() -> None:
    """Each setting has its row: variable, default, meaning and unit, in the order of the class."""
    between = re.search(r"<!-- settings: .*? -->\n(.*?)\n<!-- end of settings -->", read("settings.md"), re.DOTALL)
    assert between is not None
    expected = "\n".join(settings_rows())
    assert between[1].splitlines()[2:] == settings_rows(), f"put this into docs/reference/settings.md:\n{expected}"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_names_its_unit(name: str) -> None:
    """A description ends with its unit in parentheses; after that at most how to take it away."""
    assert re.search(r"\([a-zA-Z0-9 ]+\)(; (unset|none) .*)?$", Settings.model_fields[name].description or "")


# -- errors ----------------------------------------------------------------------------------------------------


def rows_of_errors() -> dict[str, list[str]]:
    """Return the errors that the page explains, with the built-in errors that it says they are."""
    rows = re.findall(r"^\| `(\w+)` \|(.*?)\| (.*) \|$", read("errors.md"), re.MULTILINE)
    return {name: re.findall(r"`(\w+)`", also) for name, also, _ in rows}


def test_the_page_explains_every_error_and_no_other() -> None:
    """The rows are the classes of onwhen.errors, without the root, which the text explains."""
    assert sorted(rows_of_errors()) == sorted(set(errors.__all__) - {"OnwhenError"})


@pytest.mark.parametrize("name", sorted(set(errors.__all__) - {"OnwhenError"}))
def test_what_else_an_error_is(name: str) -> None:
    """The second column names the nearest built-in errors by which an `except` catches it."""
    kind: type = getattr(errors, name)
    candidates = [base for base in kind.__mro__ if getattr(builtins, base.__name__, None) is base]
    nearest = [
        base
        for base in candidates
        if base not in (Exception, BaseException, object)
        and not any(other is not base and issubclass(other, base) for other in candidates)
    ]
    assert rows_of_errors()[name] == [base.__name__ for base in nearest]


def test_attributes_on_the_page_exist() -> None:
    """What a row calls an attribute is set by the constructor of that error."""
    rows = re.findall(r"^\| `(\w+)` \|.*Attributes?: (.*?)\|$", read("errors.md"), re.MULTILINE)
    assert len(rows) >= 8
    for name, told in rows:
        named = set(re.findall(r"`([a-z]+)`", told))
        kind = getattr(errors, name)
        set_by_it = {word for base in kind.__mro__ if "__init__" in vars(base) for word in _assigned(base)}
        assert named, name
        assert named <= set_by_it, name


def _assigned(kind: type) -> tuple[str, ...]:
    code = getattr(vars(kind)["__init__"], "__code__", None)
    return code.co_names if code is not None else ()


# -- command line ----------------------------------------------------------------------------------------------


DEFAULTS: Final[Mapping[Any, Collection[str]]] = {None: ("none", "unset"), False: ("off",)}


def options_of(command: Any) -> dict[str, Any]:
    """Return what begins with two hyphens, with its default."""
    arguments = command.assemble_argument_collection()
    return {argument.name: argument.field_info.default for argument in arguments if argument.name[:2] == "--"}


def commands_of(app: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Go through the commands, those in groups too."""
    names = [name for name in app if not name.startswith("-")]
    if not names:
        yield path, app
    for name in names:
        yield from commands_of(app[name], *path, name)


def rows_of_options(text: str) -> dict[str, str]:
    return dict(re.findall(r"^\| `(--[a-z-]+)` \| (.*?) \|", text, re.MULTILINE))


WITH_TABLES: Final = ("replay", "worker", "emit", "partitions", "repartition", "graph", "check")
"""Commands whose options are in a table of their own; of all others, they are in the text."""


@pytest.mark.parametrize("command", WITH_TABLES)
def test_the_page_has_every_option_with_its_default(command: str) -> None:
    """The table of options is what the command really takes."""
    from onwhen.cli._main import app

    options = options_of(app[command])
    rows = rows_of_options(read("cli.md").partition(f"## `onwhen {command}")[2].partition("\n## ")[0])
    assert list(rows) == list(options)
    for name, default in options.items():
        assert rows[name] in DEFAULTS.get(default, (f"`{default}`",)), name


def test_the_page_has_every_option_of_the_commands_for_a_store() -> None:
    """Those that several share in a table, all others in the text of their section."""
    from onwhen.cli._main import app

    page = read("cli.md").partition("## Commands for a store")[2]
    shared = rows_of_options(page)
    told = set(re.findall(r"`(--[a-z-]+)`", page))
    taken: Counter[str] = Counter()
    for path, command in commands_of(app):
        if path[0] not in WITH_TABLES:
            options = options_of(command)
            assert "--store" in options, path
            taken.update(options.keys())
            for name in shared.keys() & options.keys():
                assert shared[name] in DEFAULTS[options[name]], (path, name)
    assert told == set(taken)
    assert all(taken[name] > 3 for name in shared)


def test_the_page_has_every_command() -> None:
    """Each command, or group of commands, has a heading; each command of a group, its usage."""
    from onwhen.cli._main import app

    page = read("cli.md")
    headings = set(re.findall(r"^## `onwhen (\w+)", page, re.MULTILINE))
    assert headings == {path[0] for path, _ in commands_of(app)}
    for path, command in commands_of(app):
        if path != ("replay",):
            assert f"| `{command.usage.strip().removeprefix('Usage: ')}` |" in page, path
