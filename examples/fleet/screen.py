"""What is shown of a fleet: a picture that moves on a terminal, a line now and then elsewhere.

Belongs here: how it looks. It must not know where the figures are from.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Final, Self

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from examples.fleet.crew import Member
from examples.fleet.watch import Seen

__all__ = ["Figures", "Screen", "picture"]

WIDTH: Final = 100
_BAR: Final = 24  # characters
_NEWS: Final = 6
_FEWEST: Final = 4  # partitions that are shown, however small the screen is
_OTHER_LINES: Final = 22  # that are shown besides
_LINES: Final = 2.0  # seconds between two lines
_COLOURS: Final = ("cyan", "magenta", "yellow", "green", "blue", "red")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is shown.

    Attributes:
        seen: the fleet.
        crew: its workers, and those that were killed, oldest first.
        time: how far the recorded time has come; None before it has begun.
        sent: events that were sent so far (a count).
        total: how many there are in all.
        fired: timers that were fired so far (a count).
    """

    seen: Seen
    crew: Sequence[Member]
    time: datetime | None
    sent: int
    total: int
    fired: int


@dataclass(slots=True)
class Screen:
    """Shows figures and news; to be entered with `with`.

    Args:
        console: where.
    """

    console: Console
    _began: float = field(default_factory=time.monotonic)
    _news: deque[str] = field(default_factory=lambda: deque(maxlen=_NEWS))
    _live: Live | None = None
    _next_line: float = 0.0

    def __enter__(self) -> Self:
        self.console.width = min(self.console.width, WIDTH)
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, news: str) -> None:
        """Show something that has happened."""
        line = f"{self._seconds():5.1f} s  {news}"
        self._news.append(line)
        if self._live is None:
            self._print(line)

    def show(self, figures: Figures) -> None:
        """Show how things stand."""
        if self._live is not None:
            self._live.update(picture(figures, self._news, self.console.height), refresh=True)
        elif self._seconds() >= self._next_line:
            self._next_line = self._seconds() + _LINES
            self._print(f"{self._seconds():5.1f} s  {_line(figures)}")

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _seconds(self) -> float:
        return time.monotonic() - self._began


def picture(figures: Figures, news: Iterable[str], height: int) -> Group:
    """What is shown on a terminal.

    Args:
        figures: how things stand.
        news: what has happened lately.
        height: how many lines there are to fill.
    """
    colours = {member.name: _COLOURS[n % len(_COLOURS)] for n, member in enumerate(figures.crew)}
    rows = max(_FEWEST, height - _OTHER_LINES)
    told = Text("\n".join(news), style="dim", no_wrap=True, overflow="ellipsis")
    return Group(_headline(figures), _partitions(figures.seen, colours, rows), _workers(figures, colours), told)


def _headline(figures: Figures) -> Text:
    when = f"{figures.time:%d %b %Y}" if figures.time is not None else "before the first event"
    return Text.assemble(
        (when, "bold"),
        f"  {figures.sent:,} of {figures.total:,} events sent, {figures.fired:,} promises broken, "
        f"{figures.seen.handled:,} handled, {figures.seen.rate:,.0f} a second",
    )


def _partitions(seen: Seen, colours: dict[str, str], rows: int) -> Table:
    """The partitions; those with the longest backlogs, if there are too many for the screen."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("partition", justify="right")
    shown.add_column("owner", min_width=10)
    shown.add_column("backlog", justify="right", min_width=7)
    shown.add_column("", width=_BAR)
    shown.add_column("events/s", justify="right", min_width=8)
    longest = max((state.backlog for state in seen.partitions), default=0)
    first = sorted(seen.partitions, key=lambda state: state.backlog, reverse=True)[:rows]
    for state in sorted(first, key=lambda state: state.partition):
        owner = Text(state.owner or "nobody", colours.get(state.owner or "", "bold red"))
        bar = "█" * -(-_BAR * state.backlog // max(longest, _BAR))
        shown.add_row(str(state.partition), owner, f"{state.backlog:,}", bar, f"{seen.rates[state.partition]:,.0f}")
    if len(first) < len(seen.partitions):
        shown.caption = f"and {len(seen.partitions) - len(first):,} more"
    return shown


def _workers(figures: Figures, colours: dict[str, str]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("worker", "process", "partitions", ""):
        shown.add_column(name, justify="right" if name in ("process", "partitions") else "left")
    owned = figures.seen.owned()
    alive = [member for member in figures.crew if member.killed is None]
    dead = [member for member in figures.crew if member.killed is not None]
    for member in (*dead[-2:], *alive):
        has = owned.get(member.name, 0)
        shown.add_row(Text(member.name, colours[member.name]), str(member.pid), str(has), _state(member, has, figures))
    return shown


def _state(member: Member, has: int, figures: Figures) -> str:
    if member.killed is not None:
        ago = time.monotonic() - member.killed
        return f"killed {ago:.1f} s ago" + (", its leases still run" if has else "")
    if member.name not in figures.seen.workers:
        return "starts"
    return "works" if has else "waits for partitions"


def _line(figures: Figures) -> str:
    when = f"{figures.time:%b %Y}" if figures.time is not None else "--- ----"
    owned = ", ".join(f"{name or 'nobody'} {count}" for name, count in sorted(figures.seen.owned().items()))
    return (
        f"{when}  sent {figures.sent:,}  handled {figures.seen.handled:,} ({figures.seen.rate:,.0f}/s)  "
        f"backlog {figures.seen.backlog:,}  partitions: {owned}"
    )
