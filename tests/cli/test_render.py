"""What a person reads at the end of a replay."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from onwhen import Event
from onwhen.cli._figures import DeadFigures, ReplayReport, RuleFigures, TypeFigures
from onwhen.cli._render import clean, summary
from onwhen.engine.store import DeadLetter, Failure

NOW = datetime(2024, 1, 1, tzinfo=UTC)


def shown(report: ReplayReport, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=120, **options)
    console.print(summary(report))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def dead(message: str) -> DeadFigures:
    letter = DeadLetter(
        id="e/r",
        subject="order:1",
        event=Event("order.placed", "order:1", id="e"),
        rule="orders.place",
        failure=Failure(type="ValueError", message=message),
        attempts=1,
        first_failed=NOW,
        time=NOW,
    )
    return DeadFigures(count=1, first=letter)


def test_long_tables_are_cut_and_say_so() -> None:
    """The most frequent types and the rules that failed come first."""
    report = ReplayReport(
        types={f"t{n:02}": TypeFigures(read=n) for n in range(40)},
        rules={f"r{n:02}": RuleFigures(fired=n, failed=n == 3) for n in range(40)},
    )
    text = shown(report)
    assert "and 10 more types" in text
    assert "and 10 more rules" in text
    assert "t39" in text
    assert "t09" not in text
    assert "r03" in text


def test_what_workers_did_is_not_told_as_nothing() -> None:
    """Only they know how many messages they have sent, and what they did with timers."""
    told = ("│ messages", "│ timers set", "│ timers fired")
    assert all(row in shown(ReplayReport()) for row in told)
    assert not any(row in shown(ReplayReport(is_for_workers=True)) for row in told)


def test_an_error_is_shown_on_one_line_and_cut() -> None:
    """With the event that it was about."""
    text = shown(ReplayReport(dead={("orders.place", "ValueError"): dead("no\nway " + "x " * 500)}, dead_letters=1))
    assert "ValueError: no\\nway x x x" in text
    assert "…" in text
    assert "order.placed to order:1, id e" in text
    assert len(text.splitlines()) < 40


def test_names_are_no_markup() -> None:
    """An event type may look like a colour."""
    text = shown(ReplayReport(types={"[red]t[/red]": TypeFigures(read=1)}, events=1), force_terminal=True)
    assert "[red]t[/red]" in text
    assert clean("a\x1b[2J\u202eb\n") == "a\\x1b[2J\\u202eb\\n"


def test_a_bus_without_a_fitting_rule_is_told() -> None:
    """All went well, but for nothing."""
    assert "No rule matched any of these events." in shown(ReplayReport(events=3))
    assert "No rule matched" not in shown(ReplayReport())


def test_notes_say_what_is_behind_a_figure() -> None:
    """Late events, timers without end, broken sources, an early stop."""
    text = shown(ReplayReport(late=1200, endless="10,001 turns", stopped="a:1 was rejected", broken=["b:2: cut off"]))
    assert "1,200 events are older" in text
    assert "b:2: cut off." in text
    assert "rules keep setting timers: 10,001 turns." in text
    assert "Stopped: a:1 was rejected." in text
    assert "1 event is older" in shown(ReplayReport(late=1))
