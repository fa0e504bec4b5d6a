"""Lists and facts on standard output: tables on a terminal, aligned text in a pipe, JSON for scripts.

Belongs here: how rows become lines, a page at a time, so that a list may be of any length. It must not know what
the rows are about.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from onwhen.cli._forms import clean, cut, json_line
from onwhen.cli._options import UsageError
from onwhen.cli._terminal import is_utf8

__all__ = ["Column", "Output", "say", "show_facts", "show_json", "show_rows", "show_text"]

T = TypeVar("T")

_SCREEN: Final = 100  # rows that a terminal is shown unless it asks for more (a count)
_PAGE: Final = 200  # rows that are laid out together (a count)
_CELL: Final = 200  # characters of a cell that a terminal is shown (a count)
_NARROWEST: Final = 10  # characters of a column that can be broken into lines, if it has so many (a count)
_WIDEST: Final = 60  # characters that aligned text leaves for a column (a count); more goes over its edge


class Column(NamedTuple, Generic[T]):
    """One column of a list.

    Attributes:
        title: its heading.
        cell: what stands in it, made of what the row is about; cleaned and cut where it is shown.
        number: it holds numbers, or what is as short; never broken into lines.
        most: how many characters of it are shown outside of JSON (a count); None for all.
        short: how many characters of it a terminal is shown (a count), because they are enough to go on with; they
            are not broken into lines.
    """

    title: str
    cell: Callable[[T], str]
    number: bool = False
    most: int | None = None
    short: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """How a list was asked for.

    Attributes:
        as_json: one JSON object a line.
        limit: how many rows at most (a count); None for all, or for as many as a terminal is shown.
        all: a terminal too is shown all of them.

    Raises:
        UsageError: the limit is no count.
    """

    as_json: bool = False
    limit: int | None = None
    all: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit}: must be at least 1")


def say(text: str) -> None:
    """Tell something beside the data: on standard error."""
    print(clean(text), file=sys.stderr)


async def show_rows(
    rows: AsyncIterator[T],
    columns: Sequence[Column[T]],
    facts: Callable[[T], Mapping[str, Any]],
    output: Output,
    none: str = "",
) -> None:
    """Show a list.

    Args:
        rows: what it is of; closed afterwards, if it can be.
        columns: how a person sees a row.
        facts: how a script sees a row.
        output: how it was asked for.
        none: what to say if there is nothing in it; nothing at all if that is empty.
    """
    on_terminal = _is_terminal() and not output.as_json
    limit = output.limit or (_SCREEN if on_terminal and not output.all else None)
    page: _Page = _Tables(columns) if on_terminal else _Aligned(columns)
    count = 0
    try:
        async for row in rows:
            if count == limit:
                if on_terminal and output.limit is None:
                    page.end()
                    say(f"These are the first {limit}; there are more: --limit N shows N, a pipe or --json gets all.")
                break
            count += 1
            if output.as_json:
                show_json(facts(row))
            else:
                page.add([_cell(column, row) for column in columns])
    finally:
        if isinstance(rows, AsyncGenerator):
            await rows.aclose()
    page.end()
    if not count and none and not output.as_json:
        say(none)


def show_json(value: Any) -> None:
    """Show a value as JSON, on one line; if not all of it can be shown as it is, in ASCII."""
    print(json_line(value, ascii=not is_utf8()))


def show_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Show a few facts under each other, each with its name."""
    if _is_terminal():
        _print_table([("", False, True), ("", False, False)], facts, header=False)
        return
    width = max(len(name) for name, _ in facts)
    for name, text in facts:
        print(f"{name:{width}}  {clean(text)}".rstrip())


def show_text(title: str, text: str) -> None:
    """Show a text of several lines under a title."""
    print(f"\n{title}")
    for line in text.splitlines():
        print(f"  {clean(line)}".rstrip())


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _cell(column: Column[T], row: T) -> str:
    text = clean(column.cell(row))
    return text if column.most is None else cut(text, column.most)


class _Page(Protocol):
    def add(self, cells: Sequence[str]) -> None: ...

    def end(self) -> None: ...


class _Aligned:
    """Text in columns; once a column has become wider it stays so."""

    def __init__(self, columns: Sequence[Column[Any]]) -> None:
        self._columns = columns
        self._widths = [0] * len(columns)
        self._lines: list[Sequence[str]] = [[column.title for column in columns]]
        self._is_empty = True

    def add(self, cells: Sequence[str]) -> None:
        self._is_empty = False
        self._lines.append(cells)
        if len(self._lines) >= _PAGE:
            self._write()

    def end(self) -> None:
        if not self._is_empty:
            self._write()

    def _write(self) -> None:
        from rich.cells import cell_len

        for line in self._lines:
            for at, cell in enumerate(line):
                self._widths[at] = min(_WIDEST, max(self._widths[at], cell_len(cell)))
        for line in self._lines:
            cells = []
            for cell, width, column in zip(line, self._widths, self._columns, strict=True):
                gap = " " * (width - cell_len(cell))
                cells.append(gap + cell if column.number else cell + gap)
            print("  ".join(cells).rstrip())
        self._lines.clear()


class _Tables:
    """Tables for a terminal."""

    def __init__(self, columns: Sequence[Column[Any]]) -> None:
        self._titles = [(column.title, column.number, column.short is not None) for column in columns]
        self._shorts = [column.short for column in columns]
        self._rows: list[Sequence[str]] = []

    def add(self, cells: Sequence[str]) -> None:
        shown = zip(cells, self._shorts, strict=True)
        self._rows.append([cut(cell, _CELL) if short is None else cell[:short] for cell, short in shown])
        if len(self._rows) >= _PAGE:
            self.end()

    def end(self) -> None:
        if self._rows:
            _print_table(self._titles, self._rows)
        self._rows.clear()


def _print_table(
    columns: Sequence[tuple[str, bool, bool]], rows: Sequence[Sequence[str]], *, header: bool = True
) -> None:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(show_header=header)
    least = 1  # what the table needs to show anything of each column: its borders, and then some of each
    for at, (title, number, whole) in enumerate(columns):
        width = max(cell_len(title), *(cell_len(clean(row[at])) for row in rows))
        width = width if number or whole else min(width, _NARROWEST)
        least += width + 3
        table.add_column(
            title, justify="right" if number else "left", overflow="fold", no_wrap=number or whole, min_width=width
        )
    if console.width < least:
        _print_blocks([title for title, _, _ in columns], rows)
        return
    for row in rows:
        cells = [Text(clean(cell)) for cell in row]
        if not header:
            cells[0].stylize("bold")
        table.add_row(*cells)
    console.print(table)


def _print_blocks(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print row after row, each cell on a line of its own, which the terminal may break as it likes."""
    for number, row in enumerate(rows):
        if number and any(titles):
            print()
        names = titles if any(titles) else row[:1]
        for name, cell in zip(names, row[-len(names) :], strict=True):
            print(f"{name}: {clean(cell)}".rstrip())
