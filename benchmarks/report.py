"""What the figures say: medians, spreads, ratios pair by pair; as a table for the terminal and as a page.

Belongs here: pure functions from series to text. It must not measure anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from statistics import median
from textwrap import fill

from benchmarks.cases import Case
from benchmarks.rounds import Effort, Series

__all__ = ["Machine", "Result", "page", "table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where and when it was measured.

    Attributes:
        cpu: the model's name.
        cores: how many the process may use (a count).
        system: operating system.
        day: the day, in UTC.
    """

    cpu: str
    cores: int
    system: str
    day: date


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One case, measured: onwhen, and the peer if there was one."""

    case: Case
    own: Series
    peer: Series | None

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times as fast as the peer onwhen was, turn by turn; empty without a peer."""
        if self.peer is None:
            return ()
        pairs = zip(self.own.nanoseconds, self.peer.nanoseconds, strict=True)
        return tuple(peer / own for own, peer in pairs)


def table(results: Sequence[Result], machine: Machine, effort: Effort) -> str:
    """Return the figures for a terminal.

    Args:
        results: at least one.
        machine: where they were measured.
        effort: how they were measured.
    """
    rows = [_head(results[0]), *(_row(result) for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, _line(["-" * width for width in widths], widths))
    said = [_conditions(results[0], machine), _method(effort), *_caution(results)]
    return "\n".join([*said, "", *lines])


def page(results: Sequence[Result], machine: Machine, effort: Effort) -> str:
    """Return the figures as a page of the documentation; see `table` for the arguments."""
    rows = [_head(results[0]), *(_row(result) for result in results)]
    rows.insert(1, ["---", *["---:"] * (len(rows[0]) - 1)])
    grid = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    work = "\n".join(fill(f"- **{one.case.title}.** {one.case.work}", 120, subsequent_indent="  ") for one in results)
    introduction = fill(f"{_INTRODUCTION} {_conditions(results[0], machine)}", 120)
    reading = fill(" ".join([_method(effort), _READING, *_caution(results)]), 120)
    return _PAGE.format(introduction=introduction, table=grid, reading=reading, work=work)


def _head(result: Result) -> list[str]:
    names = [result.own.contender] + ([result.peer.contender] if result.peer else [])
    head = ["case"]
    for name in names:
        head += [name, "spread"]
    return head + (["ratio", "spread", "aim"] if result.peer else [])


def _row(result: Result) -> list[str]:
    row = [result.case.title, *_times(result.own)]
    if result.peer is not None:
        ratios = result.ratios
        row += _times(result.peer)
        low, high = _quartiles(ratios)
        row += [_ratio(median(ratios)), f"{_ratio(low)} to {_ratio(high)}", f"{result.case.aim:g}x"]
    return row


def _times(series: Series) -> list[str]:
    low, high = _quartiles(series.nanoseconds)
    return [f"{median(series.nanoseconds):,.0f} ns", f"{low:,.0f} to {high:,.0f}"]


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the middle half: of what lies below the median, and above it, the median."""
    ordered = sorted(values)
    half = (len(ordered) + 1) // 2
    return median(ordered[:half]), median(ordered[-half:])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
    return "  ".join(padded).rstrip()


def _conditions(result: Result, machine: Machine) -> str:
    names = " and ".join(f"{series.contender} {series.version}" for series in (result.own, result.peer) if series)
    pythons = " and ".join(sorted({series.python for series in (result.own, result.peer) if series}))
    cores = "1 core" if machine.cores == 1 else f"{machine.cores} cores"
    return f"{names}; Python {pythons}, {machine.system}, {machine.cpu}, {cores}; {machine.day}."


def _caution(results: Sequence[Result]) -> list[str]:
    """Return what has to be said if the figures were taken while other programs were at work, else nothing."""
    least = min(series.on_cpu for result in results for series in (result.own, result.peer) if series)
    if least > 0.97:
        return []
    return [f"The machine was busy: other programs took up to {1 - least:.0%} of the time; only the ratios are of use."]


def _method(effort: Effort) -> str:
    return (
        f"Nanoseconds per event: the median of {effort.rounds} rounds of about {effort.seconds:g} s, and the middle "
        f"half of them."
    )


_INTRODUCTION = "How long one event takes, from the call of `emit` until it is handled, on one core."
_READING = (
    "A ratio of 2x means that onwhen handles two events in the time in which the peer handles one; below 1x it is the "
    "slower one. Ratios are taken turn by turn, then the same median and middle half."
)
_PAGE = """\
# Performance

<!-- Written by `python -m benchmarks --report`; what is changed here by hand is lost with the next one. -->

{introduction}

{table}

{reading}

## What is measured

{work}

onwhen runs as `EventBus(rules, store=create_memory_storage())`: every event is checked and frozen, appended to the
store's log, handled in a turn that is committed at once with its changes, and answered with a receipt that says what
each rule did.

krules-framework runs in the set-up that costs it least: its default storage keeps nothing, one subject object serves
all events, and what a rule sets stays in that object's cache and is never stored. So it does less for each event than
onwhen does, and less than an application would need; the ratios are on the cautious side.

Both are called in a plain loop, one `await emit(...)` after the other, with the garbage collector on, as in
production. Each round checks that the last rule ran once for each event.

## How

Each contender is a process of its own, on the same Python, and has the case ready before anything is timed. The number
of events in a round is found for each, which warms it up; one more round each is thrown away. Then rounds are run in
turn, one of onwhen, one of the peer, and so on, so that a machine that becomes busier slows both. Figures of another
machine differ; ratios differ much less.

To measure on yours: `make bench`. The peer is installed into an environment of its own, in `.bench`, with the versions
that `benchmarks/peers/krules.txt` names. `python -m benchmarks --help` lists what can be chosen, `--report` writes
this page.
"""
