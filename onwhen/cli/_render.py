"""What a person sees of a replay: its progress, and the tables at the end.

Belongs here: words, columns and colours. It must not know how the figures came about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from onwhen.cli._figures import ReplayReport, RuleFigures
from onwhen.cli._forms import clean

__all__ = ["clean", "progress_on", "summary"]

_ROWS: Final = 30
_MESSAGE: Final = 160  # characters of an error that are shown
_REFRESH: Final = 0.1  # seconds


@contextmanager
def progress_on(console: Console, total: int | None, own_stdout: bool) -> Iterator[Callable[[ReplayReport], None]]:
    """Show the progress of a replay on a terminal, and nothing elsewhere.

    Args:
        console: where.
        total: how much there is to read (bytes), None if that is not known.
        own_stdout: whether standard output is the same terminal, so that what rules print goes above the bar.
    """
    if not console.is_terminal:
        yield lambda _: None
        return
    shown = Progress(
        SpinnerColumn(),
        TextColumn("{task.fields[events]:,} events"),
        *((BarColumn(), TaskProgressColumn()) if total else ()),
        TextColumn("{task.fields[rate]:,.0f} events/s"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        redirect_stdout=own_stdout,
    )
    began = last = monotonic()

    def update(report: ReplayReport) -> None:
        nonlocal last
        now = monotonic()
        if now - last >= _REFRESH:
            last = now
            rate = report.events / (now - began)
            shown.update(task, completed=report.bytes, events=report.events, rate=rate)

    with shown:
        task = shown.add_task("", total=total, events=0, rate=0.0)
        yield update


def summary(report: ReplayReport) -> RenderableType:
    """Return the figures as tables."""
    parts: list[RenderableType] = []
    if report.types:
        parts.append(_types(report))
    if report.rules:
        parts.append(_rules(report))
    elif report.events and not report.is_for_workers:
        parts.append(Text("No rule matched any of these events.", style="yellow"))
    if report.dead:
        parts.append(_dead(report))
    parts.append(_totals(report))
    parts += [Text(note, style="yellow") for note in _notes(report)]
    return Group(*parts)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(columns[0], overflow="fold")
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def _number(value: int) -> str:
    return f"{value:,}" if value else "·"


def _types(report: ReplayReport) -> Table:
    table = _table("Events by type", "type", "events", "messages", "timers fired")
    rows = sorted(report.types.items(), key=lambda item: (-item[1].read, -item[1].messages, -item[1].timers, item[0]))
    for name, figures in rows[:_ROWS]:
        table.add_row(Text(clean(name)), _number(figures.read), _number(figures.messages), _number(figures.timers))
    _add_more(table, len(rows), "types")
    return table


def _rules(report: ReplayReport) -> Table:
    columns = ["fired", "skipped", "stopped", "failed", "retries"]
    if any(figures.postponed for figures in report.rules.values()):  # few apps put rules off
        columns.insert(3, "postponed")
    table = _table("Rules", "rule", *columns)
    rows = sorted(report.rules.items(), key=lambda item: (-item[1].failed, -item[1].fired, item[0]))
    for name, figures in rows[:_ROWS]:
        table.add_row(Text(clean(name or "(whole event)")), *(_rule(figures, column) for column in columns))
    _add_more(table, len(rows), "rules")
    return table


def _rule(figures: RuleFigures, column: str) -> RenderableType:
    number = getattr(figures, column)
    return Text(_number(number), style="red" if column == "failed" and number else "")


def _dead(report: ReplayReport) -> Table:
    table = Table(title="Dead letters", title_justify="left", title_style="bold red")
    table.add_column("rule", overflow="fold")
    table.add_column("count", justify="right")
    table.add_column("error, and the first event it was about", overflow="fold")
    rows = sorted(report.dead.items(), key=lambda item: (-item[1].count, item[0]))
    for (rule, kind), figures in rows[:_ROWS]:
        first = figures.first
        message = clean(first.failure.message)
        shown = message if len(message) <= _MESSAGE else message[: _MESSAGE - 1] + "…"
        where = clean(f"{first.event.type} to {first.subject}, id {first.event.id}")
        table.add_row(Text(clean(rule or "(whole event)")), f"{figures.count:,}", Text(f"{kind}: {shown}\n{where}"))
    _add_more(table, len(rows), "kinds")
    return table


def _add_more(table: Table, rows: int, what: str) -> None:
    if rows > _ROWS:
        table.add_row(Text(f"and {rows - _ROWS:,} more {what}", style="italic"))


def _totals(report: ReplayReport) -> Table:
    table = Table(title="Replay", title_justify="left", title_style="bold", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rows: list[tuple[str, str]] = [("events", f"{report.events:,}")]
    if report.first is not None and report.last is not None:
        rows.append(("from", report.first.isoformat(sep=" ", timespec="seconds")))
        rows.append(("to", report.last.isoformat(sep=" ", timespec="seconds")))
    if report.late:
        rows.append(("late", f"{report.late:,}"))
    if report.done_before:
        rows.append(("done before", f"{report.done_before:,}"))
    rows += [
        ("duplicates", f"{report.duplicates:,}"),
        ("rejects", f"{report.rejects:,}"),
    ]
    if not report.is_for_workers:  # else it is they who know
        rows += [
            ("messages", f"{report.messages:,}"),
            ("timers set", f"{report.timers_set:,}"),
            ("timers fired", f"{report.timers_fired:,}"),
        ]
    rows += [
        ("timers pending", f"{report.timers_pending:,}"),
        ("retries waiting", f"{report.retries_waiting:,}"),
        ("dead letters", f"{report.dead_letters:,}"),
        ("subjects", f"{report.subjects:,}"),
        ("seconds", f"{report.seconds:,.2f}"),
        ("events/s", f"{report.rate:,.0f}"),
    ]
    for name, value in rows:
        bad = name in ("rejects", "dead letters") and value != "0"
        table.add_row(name, value, style="red" if bad else "")
    return table


def _notes(report: ReplayReport) -> Iterator[str]:
    if report.late:
        older = "1 event is" if report.late == 1 else f"{report.late:,} events are"
        yield f"{older} older than one before and handled at that later time; sort the input by time if that matters."
    if report.is_for_workers:
        yield "The workers have run the rules; what failed is told by 'onwhen deadletters list' and 'onwhen retries'."
    if report.endless:
        yield f"Draining was given up, because rules keep setting timers: {report.endless}."
    for name in report.others:
        yield f"{clean(name)} does not begin as what was replayed under its name before; all of it was replayed."
    if report.dead_before:
        letters = "1 dead letter was" if report.dead_before == 1 else f"{report.dead_before:,} dead letters were"
        yield f"{letters} in the store before."
    for broken in report.broken:
        yield f"{clean(broken)}."
    if report.stopped:
        yield f"Stopped: {clean(report.stopped)}."
