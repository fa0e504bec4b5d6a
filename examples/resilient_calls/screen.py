"""How two runs are shown side by side, and what is said of them in one line.

Belongs here: how it looks. It must not count anything.
"""

from collections.abc import Callable, Sequence
from typing import Final

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from examples.resilient_calls.service import ALLOWED
from examples.resilient_calls.stream import MOODS, Run

__all__ = ["CREDITS", "WIDTH", "mood_line", "picture", "verdict"]

WIDTH: Final = 100
_TIMELINE: Final = 76  # characters
_COLOURS: Final = {"well": "green", "flaky": "yellow", "down": "red", "hanging": "magenta", "garbled": "cyan"}
_ANSWERS: Final = (
    ("2", "answered well"),
    ("429", "429, too many calls"),
    ("404", "404, our own mistake"),
    ("5", "5xx"),
    ("none", "the caller had gone"),
)
CREDITS: Final = """\
Events: M. Polato, Dataset belonging to the help desk log of an Italian Company,
4TU.ResearchData, doi:10.4121/uuid:0c60edf1-6f83-4e75-9367-4c63b3e9d5bb. The service is made up.\
"""


def mood_line() -> Text:
    """How the service is while the events come in: one bar, in both runs the same."""
    line = Text()
    for (since, mood), (until, _) in zip(MOODS, [*MOODS[1:], (1.0, "")], strict=True):
        width = round(until * _TIMELINE) - round(since * _TIMELINE)
        line.append(mood.center(width, "▁"), f"bold {_COLOURS[mood]}")
    return line


def picture(bare: Run, protected: Run) -> Group:
    """Both runs, as two tables: what the service saw, and what became of the events."""
    runs = (bare, protected)
    return Group(
        _table("What the service saw", runs, _of_the_service()),
        _table("What became of the events", runs, _of_the_events()),
    )


def verdict(bare: Run, protected: Run) -> str:
    """What the difference comes to."""
    return (
        f"With protection the service was called {protected.seen.while_unwell} times while it could not answer, "
        f"instead of {bare.seen.while_unwell}; {protected.seen.duplicates} customers were told twice, instead of "
        f"{bare.seen.duplicates}; and {protected.dead['failed']} failures are left for a person, instead of "
        f"{bare.dead['failed']}."
    )


_Row = tuple[str, Callable[[Run], str]]


def _of_the_service() -> Sequence[_Row]:
    def answers(prefix: str) -> Callable[[Run], str]:
        return lambda run: _count(sum(n for status, n in run.seen.statuses.items() if status.startswith(prefix)))

    return (
        ("calls", lambda run: _count(sum(run.seen.calls.values()))),
        *((f"  {what}", answers(prefix)) for prefix, what in _ANSWERS),
        ("calls while it could not answer", lambda run: _count(run.seen.while_unwell)),
        ("most calls at a time", lambda run: _count(run.seen.peak)),
        (f"most calls in a second ({ALLOWED} allowed)", lambda run: _count(run.seen.busiest)),
        ("notices that a customer had before", lambda run: _count(run.seen.duplicates)),
        ("calls of its backup", lambda run: _count(run.seen.backup)),
    )


def _of_the_events() -> Sequence[_Row]:
    def levels(source: str) -> Callable[[Run], str]:
        return lambda run: _count(run.levels[source])

    return (
        ("events, those sent again included", lambda run: _count(run.events)),
        ("tickets with an answer of the service", levels("service")),
        ("  that was a moment old", levels("cache")),
        ("  from the backup", levels("backup")),
        ("  from the last good answer", levels("last good")),
        ("  by default, still", levels("default")),
        ("  without any", levels("nowhere")),
        ("tickets degraded for a while", lambda run: _count(run.guessed)),
        ("customers told that theirs is resolved", lambda run: f"{run.told} of {run.resolved}"),
        ("runs put off until later", lambda run: _count(run.runs["postponed"])),
        ("runs left out: sent again", lambda run: _count(run.runs["stopped"])),
        ("dead letters: the service had failed", lambda run: _count(run.dead["failed"])),
        ("dead letters: it knows no such customer", lambda run: _count(run.dead["unknown"])),
        ("times that the flag was switched", lambda run: _count(run.switches)),
        ("seconds until all was done", lambda run: f"{run.seconds:.1f}"),
    )


def _table(title: str, runs: Sequence[Run], rows: Sequence[_Row]) -> Table:
    shown = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("", min_width=42, no_wrap=True)
    for run in runs:
        name, style = ("protected", "green") if run.protected else ("bare", "yellow")
        shown.add_column(name, justify="right", min_width=10, no_wrap=True, style=style)
    for what, figure in rows:
        shown.add_row(what, *(figure(run) for run in runs))
    return shown


def _count(number: int) -> str:
    return f"{number:,}" if number else "-"
