"""How lists look: tables on a terminal, aligned text in a pipe, JSON for scripts; whatever is in them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from onwhen.cli import _listing
from onwhen.cli._listing import Column, Output, show_facts, show_rows, show_text
from onwhen.cli._options import UsageError

HOSTILE = ["\x1b[2J\x1b]0;title\x07", "a\nb\r\tc", "\u202etxt.exe", "\x9b31m", "x" * 10_000, "[red]no markup[/red]", ""]

COLUMNS = (
    Column[str]("name", lambda row: row),
    Column[str]("length", lambda row: str(len(row)), number=True),
    Column[str]("again", lambda row: row, most=10),
)


async def show(rows: list[str], columns: Any = COLUMNS, **options: Any) -> int:
    """Show a list; return how much of it was asked for."""
    asked = 0

    async def each() -> AsyncGenerator[str, None]:
        nonlocal asked
        for row in rows:
            asked += 1
            yield row

    await show_rows(each(), columns, lambda row: {"name": row}, Output(**options), "There is none.")
    return asked


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output says that it is a terminal, 80 columns wide."""
    monkeypatch.setattr(_listing, "_is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")


async def test_text_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers to the right; nothing behind the last column."""
    await show(["a", "long name"])
    assert capsys.readouterr().out == (
        "name       length  again\n"
        "a               1  a\n"
        "long name       9  long name\n"
    )  # fmt: skip


async def test_wide_signs_are_two_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """So what stands behind them is aligned as well."""
    await show(["日本", "abcd"])
    assert capsys.readouterr().out.splitlines()[1:] == ["日本       2  日本", "abcd       4  abcd"]


@pytest.mark.parametrize("as_json", [False, True])
async def test_nothing_in_a_list_acts_on_a_terminal(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    """One line for each row, of printable signs; and no text is lost in a pipe."""
    await show(HOSTILE, as_json=as_json)
    rows = capsys.readouterr().out.splitlines()[not as_json :]
    assert len(rows) == len(HOSTILE)
    assert all(row.isprintable() for row in rows)
    assert "x" * 10_000 in rows[4]
    assert max(map(len, rows[:4])) < 200  # a long name does not make the others wide


async def test_nor_in_a_table(terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    """There long texts are cut, and brackets are no markup."""
    await show(HOSTILE)
    rows = capsys.readouterr().out.splitlines()
    assert all(row.isprintable() for row in rows)
    assert all(len(row) <= 80 for row in rows)
    assert len(rows) < 40
    assert "[red]no markup[/red]" in rows[-3]


async def test_a_terminal_is_shown_a_hundred_rows(terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    """And told that there are more, which are not even read; if there are."""
    assert await show([f"row {number}" for number in range(1000)]) == 101
    told = capsys.readouterr()
    assert ("row 99" in told.out, "row 100" in told.out) == (True, False)
    assert "the first 100" in told.err
    await show([f"row {number}" for number in range(100)])
    assert capsys.readouterr().err == ""


async def test_as_many_rows_as_were_asked_for(terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal too."""
    for options, shown in (({"limit": 500}, [True, False]), ({"all": True}, [True, True])):
        await show([f"row {number}" for number in range(1000)], **options)
        told = capsys.readouterr()
        assert [row in told.out for row in ("row 499 ", "row 500 ")] == shown
        assert told.err == ""


async def test_a_pipe_gets_all(capsys: pytest.CaptureFixture[str]) -> None:
    """Unless fewer were asked for."""
    for options, count in (({}, 1000), ({"limit": 999}, 999)):
        await show([f"row {number}" for number in range(1000)], **options)
        assert len(capsys.readouterr().out.splitlines()) == count + 1
        await show([f"row {number}" for number in range(1000)], as_json=True, **options)
        assert len(capsys.readouterr().out.splitlines()) == count


async def test_some_cells_are_shorter_on_a_terminal(terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Such as ids, of which the beginning is enough."""
    await show(["0123456789"], [Column[str]("id", lambda row: row, short=4)])
    out = capsys.readouterr().out
    assert ("0123" in out, "01234" in out) == (True, False)


async def test_an_empty_list_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error; scripts get nothing at all."""
    await show([])
    assert capsys.readouterr() == ("", "There is none.\n")
    await show([], as_json=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_a_count(limit: int) -> None:
    """Nothing at all cannot be meant."""
    with pytest.raises(UsageError, match="at least 1"):
        Output(limit=limit)


def test_facts_and_texts(capsys: pytest.CaptureFixture[str]) -> None:
    """Under each other, aligned; what is in them is harmless."""
    show_facts([("id", "1"), ("longer", "a\x1b[2Jb\n")])
    show_text("Story", "one\n  two\x1b\n")
    assert capsys.readouterr().out == "id      1\nlonger  a\\x1b[2Jb\\n\n\nStory\n  one\n    two\\x1b\n"


def test_facts_on_a_terminal(terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    """A table; a long text is shown whole, on several lines."""
    show_facts([("id", "y" * 300), ("name", "\x1b[2J")])
    out = capsys.readouterr().out
    assert out.count("y") == 300
    assert "\\x1b[2J" in out
    assert all(line.isprintable() for line in out.splitlines())
