"""The reference pages say what the code says: settings, command line, errors."""

from __future__ import annotations

import builtins
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from onwhen import errors
from onwhen.settings import Settings

PAGES = Path(__file__).parents[2] / "docs" / "reference"


def read(page: str) -> str:
    return (PAGES / page).read_text()


# -- settings --------------------------------------------------------------------------------------------------


def shown(default: Any) -> str:
    if default is None:
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
    """A description ends with its unit in parentheses; after that at most how to leave it unset."""
    assert re.search(r"\([a-zA-Z0-9 ]+\)(; unset .*)?$", Settings.model_fields[name].description or "")


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


def test_the_page_has_every_option_with_its_default() -> None:
    """The table of options is what the command really takes."""
    from onwhen.cli._main import app

    words = {None: ("none", "unset"), False: ("off",)}
    arguments = [argument for argument in app["replay"].assemble_argument_collection() if argument.name[:2] == "--"]
    rows = dict(re.findall(r"^\| `(--[a-z-]+)` \| (.*?) \|", read("cli.md"), re.MULTILINE))
    assert list(rows) == [argument.name for argument in arguments]
    for argument in arguments:
        default = argument.field_info.default
        assert rows[argument.name] in words.get(default, (f"`{default}`",)), argument.name


def test_the_page_has_every_command() -> None:
    """Each command has a heading with its usage."""
    from onwhen.cli._main import app

    commands = [name for name in app if not name.startswith("-")]
    assert re.findall(r"^## `onwhen (\w+) ", read("cli.md"), re.MULTILINE) == commands
