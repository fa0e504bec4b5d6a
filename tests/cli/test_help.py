"""What `onwhen` says of itself, and what it takes to say it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


def test_help_and_version(cli: Cli) -> None:
    """Both on standard output, with exit code 0."""
    assert "replay" in cli("--help").out
    told = cli("replay", "--help")
    for option in ("APP", "FILE", "--time", "--drain", "--dump", "--rejects", "--strict"):
        assert option in told.out
    version = cli("--version")
    assert (told.code, version.code) == (0, 0)
    assert version.out.startswith("onwhen 0.")


COMMANDS = [
    ["replay"],
    *([name] for name in ("worker", "emit", "partitions")),
    *(["subjects", name] for name in ("list", "get", "history")),
    *([name] for name in ("timers", "retries", "log", "stats")),
    *(["deadletters", name] for name in ("list", "show", "replay", "discard")),
    *(["parked", name] for name in ("list", "resume", "skip")),
    ["migrate"],
    ["explain"],
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_how_it_is_used(onwhen: Cli, command: list[str]) -> None:
    """With what it takes, and what that is for."""
    ended = onwhen(*command, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"Usage: onwhen {' '.join(command)} ")
    rows = re.findall(r"^│ (?:\* )? *(--[a-z-]+(?: [A-Z]+)?|[A-Z]+) +(\S.*)$", ended.out, re.MULTILINE)
    assert all(re.search("[a-z]", text) for _, text in rows)
    assert {name.split()[0] for name, _ in rows} >= ({"--store"} if command != ["replay"] else {"APP"})


def test_groups_of_commands_say_what_is_in_them(onwhen: Cli) -> None:
    """By themselves too."""
    for group, names in (("subjects", "get history list"), ("deadletters", "discard list"), ("parked", "resume skip")):
        for arguments in ([group], [group, "--help"]):
            ended = onwhen(*arguments)
            assert ended.code == 0
            assert all(f"│ {name} " in ended.out for name in names.split())


@pytest.mark.parametrize(
    "arguments", [["subject"], ["subjects", "show"], ["stats", "--colour"], ["log", "--limit", "x"]]
)
def test_a_command_that_is_none(onwhen: Cli, arguments: list[str]) -> None:
    """Is named."""
    ended = onwhen(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert arguments[-1] in ended.err


def test_help_flows(cli: Cli) -> None:
    """No line ends before it is full, at any width."""
    for columns in (80, 100):
        told = [row.rstrip() for row in cli("replay", "--help", COLUMNS=str(columns)).out.splitlines()]
        first, last = told.index(next(row for row in told if row.startswith("Reads"))), told.index("", 5)
        for row, after in pairwise(told[first:last]):
            assert len(f"{row} {after.split()[0]}") > columns
    cells = " ".join(" ".join(told).replace("│", " ").split())
    assert "an EventBus or a container; or a module," in cells


def test_help_imports_nothing_slow(environment: Mapping[str, str]) -> None:
    """Settings, containers and drivers are for the commands that need them."""
    code = (
        "import sys\n"
        "from onwhen.cli._main import run\n"
        "assert run(['--help']) == 0\n"
        "assert run(['replay', '--help']) == 0\n"
        "assert run(['deadletters', 'replay', '--help']) == 0\n"
        "assert run(['migrate', '--help']) == 0\n"
        "assert run(['worker', '--help']) == 0\n"
        "assert run(['emit', '--help']) == 0\n"
        "slow = {'pydantic_settings', 'dependency_injector', 'redis', 'rich.progress', 'rich.markdown', 'uuid_utils'}\n"
        "slow |= {'onwhen.storage.sqlite', 'pydantic', 'starlette', 'uvicorn'}\n"
        "print(sorted(slow & set(sys.modules)), file=sys.stderr)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    assert ended.stderr.decode() == "[]\n"


def test_the_missing_extra_is_named(shop: Path, cli: Cli, environment: Mapping[str, str]) -> None:
    """With what to install."""
    (shop / "cyclopts.py").write_text("raise ModuleNotFoundError('No module named cyclopts', name='cyclopts')")
    ended = cli("--help", PYTHONPATH=f"{shop}{os.pathsep}{environment['PYTHONPATH']}")
    assert (ended.code, ended.out) == (2, "")
    assert "pip install 'onwhen[cli]'" in ended.err
