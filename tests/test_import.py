"""Importing onwhen: light, complete, and with nothing happening on the way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import onwhen

HEAVY = {
    "cloudevents",
    "cyclopts",
    "dependency_injector",
    "opentelemetry",
    "prometheus_client",
    "pydantic_settings",
    "pytest",
    "redis",
    "rich",
    "sqlite3",
    "uuid_utils",
}


def loaded_after(code: str) -> set[str]:
    """Run code in a process of its own and return the top-level modules that are loaded then.

    Coverage is not measured in there, because that loads modules of its own.
    """
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"],
        cwd=Path(onwhen.__file__).parents[1],
        env=plain,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_importing_it_loads_nothing_heavy() -> None:
    """Libraries that not every program needs are loaded by those that do."""
    assert loaded_after("import onwhen") & HEAVY == set()


def test_running_rules_loads_what_is_needed_and_no_more() -> None:
    """An event bus in memory needs ids, and nothing else of these."""
    code = (
        "import asyncio, onwhen\n"
        "bus = onwhen.EventBus(store=onwhen.create_memory_storage())\n"
        "print(end='') if asyncio.run(bus.emit('a', 'b')).event.id else None\n"
    )
    assert loaded_after(code) & HEAVY == {"uuid_utils"}


@pytest.mark.parametrize(("name", "library"), [("Container", "dependency_injector"), ("Settings", "pydantic_settings")])
def test_slow_parts_are_loaded_when_they_are_asked_for(name: str, library: str) -> None:
    """`from onwhen import Container` works as for any other name."""
    assert library in loaded_after(f"from onwhen import {name}")


def test_every_public_name_is_there() -> None:
    """`__all__` is sorted as ruff sorts it, has no doubles, and each name leads to something; `dir` shows them."""
    assert len(set(onwhen.__all__)) == len(onwhen.__all__)
    for name in onwhen.__all__:
        assert getattr(onwhen, name) is not None
    assert set(onwhen.__all__) <= set(dir(onwhen))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """As for any module."""
    with pytest.raises(AttributeError, match="'onwhen' has no attribute 'Nothing'"):
        _ = onwhen.Nothing
    with pytest.raises(ImportError):
        exec("from onwhen import Nothing")


def test_it_is_typed() -> None:
    """The marker for type checkers is in the package."""
    assert (Path(onwhen.__file__).parent / "py.typed").exists()
