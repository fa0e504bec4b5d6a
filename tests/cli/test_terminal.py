"""Standard output as it may be: of another encoding, closed, narrow; and a command that is interrupted early."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from onwhen.cli import _listing
from onwhen.cli._forms import json_line
from onwhen.cli._listing import Column, show_facts, show_rows
from tests.cli import stores

Cli = Callable[..., Any]

STORE = ("--store", "sqlite:///depot.db")


@pytest.fixture
def depot(tmp_path: Path) -> Path:
    """A store with a subject, a dead letter and a pending event that have signs of all kinds in them."""
    path = tmp_path / "depot.db"
    stores.fill(path, ("parcel.said", "parcel:é💥漢", "ü"), ("parcel.labelled", "parcel:é💥漢"))
    stores.accept(path, ("parcel.said", "parcel:é💥漢", "ü"))
    return path


# -- encodings


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_the_encoding_does_not_have_is_escaped(depot: Path, environment: Mapping[str, str], encoding: str) -> None:
    """No command ends at a sign; JSON stays JSON."""
    settings = {**environment, "ONWHEN_STORE": f"sqlite:///{depot}", "PYTHONIOENCODING": encoding}

    def told(*command: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "onwhen", *command], capture_output=True, env=settings, timeout=60
        )
        assert (ended.returncode, ended.stderr) == (0, b"")
        return ended.stdout.decode(encoding)

    for command in (["subjects", "list"], ["subjects", "get", "parcel:é💥漢"], ["deadletters", "list"]):
        shown = "parcel:é💥漢".encode(encoding, "backslashreplace").decode(encoding)
        assert shown in told(*command)
        text = told(*command, "--json")
        assert "parcel:é💥漢" in (json.loads(text)["subject"])
        assert text.isascii() == (encoding != "utf-8")


def test_json_in_ascii() -> None:
    """As JSON escapes signs: those above U+FFFF are two of its characters."""
    text = json_line({"a": "é💥\x1b\x7f"}, ascii=True)
    assert text == '{"a":"\\u00e9\\ud83d\\udca5\\u001b\\u007f"}'
    assert json.loads(text) == {"a": "é💥\x1b\x7f"}


# -- closed


@pytest.mark.parametrize("command", [["stats"], ["stats", "--json"], ["deadletters", "discard", "--all"], ["--help"]])
def test_an_output_that_is_closed(depot: Path, cli: Cli, environment: Mapping[str, str], command: list[str]) -> None:
    """Is told, with exit code 1, and nothing is done."""
    ended = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", sys.executable, "-m", "onwhen", *command],
        stderr=subprocess.PIPE,
        cwd=depot.parent,
        env={**environment, "ONWHEN_STORE": "sqlite:///depot.db"},
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (1, b"onwhen: cannot write output: it is closed\n")
    assert json.loads(cli("stats", "--json", *STORE).out)["dead_letters"] == 1


def test_errors_that_nobody_wants(depot: Path, environment: Mapping[str, str]) -> None:
    """With standard error closed, they do not go to standard output, which is for data."""
    for command, code in ((["stats", "--json"], 0), (["subjects", "get", "parcel:9"], 2)):
        ended = subprocess.run(
            ["sh", "-c", '"$@" 2>&-', "sh", sys.executable, "-m", "onwhen", *command, *STORE],
            stdout=subprocess.PIPE,
            cwd=depot.parent,
            env=environment,
            timeout=60,
        )
        assert (ended.returncode, ended.stdout.startswith(b"{")) == (code, not code)
        assert ended.stdout == b"" or not code


# -- interrupted


@pytest.mark.parametrize("module", ["cyclopts", "rich"])
def test_ctrl_c_while_it_is_imported(tmp_path: Path, environment: Mapping[str, str], module: str) -> None:
    """Ends the command as at any other time."""
    (tmp_path / f"{module}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    ended = subprocess.run(
        [sys.executable, "-m", "onwhen", "--version"],
        capture_output=True,
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": os.pathsep.join((str(tmp_path), environment["PYTHONPATH"]))},
        timeout=60,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"", b"")


def test_ctrl_c_while_the_app_is_imported(depot: Path, cli: Cli) -> None:
    """The same; the store was not opened."""
    (depot.parent / "slow.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    ended = cli("deadletters", "replay", "slow", "--all", *STORE)
    assert (ended.code, ended.out, ended.err) == (130, "", "")


# -- narrow


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output says that it is a terminal, 20 columns wide."""
    monkeypatch.setattr(_listing, "_is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")


COLUMNS = (
    Column[str]("subject", lambda row: row),
    Column[str]("rule", lambda row: "depot.print_label"),
    Column[str]("error", lambda row: "ConnectionError: no \x1b[2Jprinter"),
)


async def test_a_list_on_a_narrow_terminal(narrow: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Row after row, each cell with its name: nothing is left out."""

    async def rows() -> Any:
        for name in ("parcel:1", "parcel:2"):
            yield name

    await show_rows(rows(), COLUMNS, lambda row: {}, _listing.Output())
    error = "rule: depot.print_label\nerror: ConnectionError: no \\x1b[2Jprinter\n"
    assert capsys.readouterr().out == f"subject: parcel:1\n{error}\nsubject: parcel:2\n{error}"


def test_facts_on_a_narrow_terminal(narrow: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its name, whole."""
    show_facts([("subjects", "1,234,567"), ("oldest pending", "2 d 5 h old")])
    assert capsys.readouterr().out == "subjects: 1,234,567\noldest pending: 2 d 5 h old\n"


async def test_a_table_that_has_room_is_one(
    narrow: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From ten signs a column on, and each column gets so many."""

    async def rows() -> Any:
        yield "parcel:1"

    for columns, is_table in ((38, True), (37, False)):
        monkeypatch.setenv("COLUMNS", str(columns))
        await show_rows(rows(), COLUMNS, lambda row: {}, _listing.Output())
        out = capsys.readouterr().out
        assert ("│" in out) == is_table
        assert not is_table or all(len(line) <= columns for line in out.splitlines())
