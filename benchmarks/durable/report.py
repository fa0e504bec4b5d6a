"""What the durable figures say, as text: tables with the aims beside them.

Belongs here: pure functions from figures to Markdown. It must not measure anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

from benchmarks.durable.figures import chunks, grid, percentile, rate, ratio, ratios, spread, times
from benchmarks.durable.rest import Latencies
from benchmarks.durable.turns import Floors, Rates, Round
from benchmarks.report import Machine

__all__ = ["heading", "latency_table", "turns_table"]

_AIM: Final = "Aims with synchronous=FULL and 256 emitters: 10,000 turns/s, and 0.50 of the bare loop."
_READING: Final = (
    "Turns per second: the median of the rounds, and the middle half of them. The bare loop runs the same SQL with the "
    "same parameters in the same transactions, recorded from a real run, with nothing around it; the ratio is taken "
    "round by round. A turn has two parts, accepted and handled, which may lie in different commits. CPU is per turn, "
    "all threads together."
)
_LATENCY_AIM: Final = "Aim: p99 of emit below 3 times p99 of the sync. An emit makes two commits, one after the other."


def heading(machine: Machine, python: str, sqlite: str, load: Sequence[tuple[float, float, float]]) -> str:
    """Return where and when it was measured, and how busy the machine was.

    Args:
        machine: where.
        python: version of Python.
        sqlite: version of SQLite.
        load: the load averages of the system before and after, if it knows them.
    """
    cores = "1 core" if machine.cores == 1 else f"{machine.cores} cores"
    text = f"Python {python}, SQLite {sqlite}, {machine.system}, {machine.cpu}, {cores}; {machine.day}."
    if load:
        text += f" Load average {load[0][0]:.1f} before, {load[-1][0]:.1f} after (this program makes about 1.5 of it)."
    return text


def turns_table(rates: Sequence[Rates], floors: Floors) -> str:
    """Return turns per second, case by case, and what the machine can do."""
    head = (
        "turns per second",
        "emitters",
        "engine",
        "middle half",
        "bare loop",
        "middle half",
        "ratio",
        "turns/commit",
        "CPU, engine",
        "CPU, bare",
    )
    rows = [_turns_row(one) for one in rates]
    raw = (
        f"The machine: {rate(floors.syncs)} times a second 4 KiB appended and made sure of ({spread(floors.syncs)}); "
        f"{rate(floors.commits)} commits of one small row ({spread(floors.commits)})."
    )
    return "\n".join([grid(head, rows), "", raw, _READING, _AIM, *_caution(rates)])


def _turns_row(rates: Rates) -> tuple[str, ...]:
    case = rates.case
    name = "in memory" if case.synchronous is None else f"SQLite, {case.synchronous}"
    engine, bare = [one.rate for one in rates.engine], [one.rate for one in rates.bare]
    own = (name, f"{case.load.emitters:,}", rate(engine), spread(engine))
    if rates.recorded is None:
        return (*own, "", "", "", "", _on_cpu(rates.engine), "")
    group = f"{rates.recorded.turns_per_commit:.1f}"
    beside = (rate(bare), spread(bare), ratio(ratios(engine, bare)), group)
    return (*own, *beside, _on_cpu(rates.engine), _on_cpu(rates.bare))


def _on_cpu(rounds: Sequence[Round]) -> str:
    return f"{median(one.on_cpu for one in rounds) * 1e6:.0f} µs"


def _caution(rates: Sequence[Rates]) -> list[str]:
    """Return what has to be said if the recorded runs were not like the others."""
    found = [one.recorded.rate / median(turn.rate for turn in one.engine) for one in rates if one.recorded is not None]
    if not found or (min(found) > 0.8 and max(found) < 1.25):
        return []
    return [f"Recorded runs were {min(found):.2f} to {max(found):.2f} times as fast as the others: measure again."]


def latency_table(taken: Latencies, rounds: int) -> str:
    """Return the latencies at rest, and how many times the disk's own each is.

    Args:
        taken: all of them.
        rounds: into how many pieces they are cut, to see how much the ratios vary (a count).
    """
    head = ("one at a time, at rest", "p50", "p99", "longest", "p50 to sync's p50", "p99 to sync's p99")
    series = (
        ("emit, accepted and handled (FULL)", taken.emit),
        ("the same SQL in a bare loop: two commits", taken.bare),
        ("one commit of one small row (FULL)", taken.commit),
        ("4 KiB appended and made sure of: sync", taken.sync),
    )
    rows = [_latency_row(name, values, taken.sync, rounds) for name, values in series]
    count = (
        f"{len(taken.emit):,} of each, in turn, each after a pause; the ratios are medians of {rounds} parts of them."
    )
    return "\n".join([grid(head, rows), "", f"{count} {_LATENCY_AIM}"])


def _latency_row(name: str, values: Sequence[float], floor: Sequence[float], rounds: int) -> tuple[str, ...]:
    own, floors = chunks(values, rounds), chunks(floor, rounds)
    beside = [
        ratio(ratios([percentile(one, share) for one in own], [percentile(one, share) for one in floors]))
        for share in (0.5, 0.99)
    ]
    return (name, times(percentile(values, 0.5)), times(percentile(values, 0.99)), times(max(values)), *beside)
