"""`onwhen check`: what is wrong with an app, for people and for CI."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]

APP = """
from onwhen import RuleSet, Subject, changed, when

class Door(Subject, prefix="door:"):
    opened: int = 0
    locked: bool = False

doors = RuleSet("doors", subject=Door)
"""
ERROR = """
@doors.on(changed("opened"))
def count(ctx):
    ctx.subject.opened += 1
"""
WARNING = """
@doors.on("door.locked")
def lock(ctx):
    ctx.subject.set("locked", True, muted=True)

@doors.on(changed("locked"))
def tell(ctx):
    pass
"""
NOTE = """
@doors.on("door.closed")
def close(ctx):
    ctx.emit("bell.rung")
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Writes an app, for this process as well, which forgets it afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(*parts: str) -> None:
        (tmp_path / "doors.py").write_text(APP + "".join(parts))

    yield write
    sys.modules.pop("doors", None)


def test_a_finding_is_a_line_with_its_place(app: Callable[..., None], cli: Cli) -> None:
    """As compilers write them; the summary goes to standard error."""
    app(ERROR)
    ended = cli("check", "doors")
    assert ended.code == 1
    assert ended.out.startswith("doors.py:12: error[cascade] doors.count: doors.count -> opened -> doors.count: ")
    assert ended.err == "1 error\n"


@pytest.mark.parametrize(
    ("parts", "options", "code", "summary"),
    [
        ((), [], 0, "nothing found"),
        ((NOTE,), [], 0, "2 notes"),
        ((NOTE,), ["--strict"], 0, "2 notes"),
        ((NOTE,), ["--closed"], 0, "2 warnings"),
        ((NOTE,), ["--closed", "--strict"], 1, "2 warnings"),
        ((NOTE,), ["--closed", "--strict", "--external", "bell.*", "--external", "door.closed"], 0, "nothing found"),
        ((WARNING,), [], 0, "1 warning, 1 note"),
        ((WARNING,), ["--strict"], 1, "1 warning, 1 note"),
        ((ERROR, WARNING, NOTE), [], 1, "1 error, 1 warning, 3 notes"),
    ],
)
def test_the_exit_code_is_for_ci(
    app: Callable[..., None], onwhen: Cli, parts: tuple[str, ...], options: list[str], code: int, summary: str
) -> None:
    """1 for an error, with --strict for a warning too; never for a note."""
    quiet = "\n@doors.on(changed('opened'), name='quiet')\ndef quiet(ctx): pass\n"
    app(quiet, *parts)
    ended = onwhen("check", "doors", *options)
    assert (ended.code, ended.err) == (code, f"{summary}\n")


def test_json_is_one_object(app: Callable[..., None], onwhen: Cli) -> None:
    """With counts, and for each finding its code, severity, rule, place and message."""
    app(ERROR, NOTE)
    ended = onwhen("check", "doors", "--format", "json")
    facts = json.loads(ended.out)
    assert (ended.code, ended.err) == (1, "")
    assert (facts["format"], facts["version"], facts["app"]) == ("onwhen.check", 1, "doors")
    assert facts["counts"] == {"error": 1, "warning": 0, "info": 2}
    first = facts["findings"][0]
    assert {name: first[name] for name in ("code", "severity", "rule", "file", "line")} == {
        "code": "cascade",
        "severity": "error",
        "rule": "doors.count",
        "file": "doors.py",
        "line": 12,
    }
    assert "it never ends" in first["message"]


def test_the_same_app_is_always_told_alike(app: Callable[..., None], cli: Cli) -> None:
    """Whatever order sets are in."""
    app("\n@doors.on('x')\n@when(lambda ctx: ctx.subject.opened in {'a', 'b', 'c', 'd'})\ndef rule(ctx): pass\n")
    first, second = (cli("check", "doors", PYTHONHASHSEED=seed).out for seed in ("1", "4"))
    assert "is never 'a' or 'b' or 'c' or 'd'" in first
    assert first == second


def test_no_code_of_a_rule_is_run(app: Callable[..., None], cli: Cli) -> None:
    """Nor a condition or a middleware."""
    app(
        """
async def boom(ctx, next):
    raise SystemExit("was run")

@doors.on("x", middleware=[boom])
@when(lambda ctx: exit(3))
def rule(ctx):
    raise SystemExit("was run")
"""
    )
    assert cli("check", "doors").code == 0


def test_what_cannot_be_done_is_told(app: Callable[..., None], onwhen: Cli) -> None:
    """With exit code 2."""
    app(ERROR)
    for arguments in (["nowhere"], ["doors:windows"], ["doors", "--format", "xml"]):
        ended = onwhen("check", *arguments)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err


def test_names_do_nothing_to_a_terminal(app: Callable[..., None], onwhen: Cli) -> None:
    """Whatever is in them."""
    app("\n@doors.on('a')\ndef rule(ctx):\n    ctx.emit('\\x1b[31mred')\n")
    assert "\x1b" not in onwhen("check", "doors").out
