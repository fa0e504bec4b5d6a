"""`python -m benchmarks.durable`: measure the durable store, and show the figures."""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.durable import rest, turns
from benchmarks.durable.load import SUBJECTS, Load
from benchmarks.durable.places import on_disk
from benchmarks.durable.report import heading, latency_table, turns_table
from benchmarks.machines import this_machine
from benchmarks.rounds import BenchmarkError

_TURNS_EACH: Final = 200  # of an emitter in a round, at most (a count)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks; return an exit code. Missing an aim is a figure to read, not a failure."""
    options = _parser().parse_args(arguments)
    load = _load_averages()
    try:
        tables = _measured(options)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    load += _load_averages()
    print(heading(this_machine(), platform.python_version(), sqlite3.sqlite_version, load))
    for table in tables:
        print(f"\n{table}")
    return 0


def _measured(options: argparse.Namespace) -> list[str]:
    if min(options.rounds, options.turns, options.samples, options.subjects, *options.emitters) < 1:
        raise BenchmarkError("rounds, turns, samples, subjects and emitters have to be at least 1")
    tables = []
    with on_disk(options.directory) as directory:
        if options.part in ("turns", "all"):
            print("turns per second ...", file=sys.stderr)
            found, floors = turns.measure(
                cases(options.emitters, options.turns, options.subjects), options.rounds, directory
            )
            tables.append(turns_table(found, floors))
        if options.part in ("rest", "all"):
            print("latency at rest ...", file=sys.stderr)
            taken = rest.measure(
                options.samples, options.pause / 1000, directory, subjects=options.subjects, settle=options.settle
            )
            tables.append(latency_table(taken, options.rounds))
    return tables


def cases(emitters: Sequence[int], most: int, subjects: int) -> list[turns.Case]:
    """Return what is measured: each number of emitters with FULL, the largest also with NORMAL and in memory.

    Args:
        emitters: how many, one case each.
        most: turns in a round of the largest (a count); few emitters get fewer, because each of them waits for the
            disk.
        subjects: how many subjects the events go to in turn (a count).
    """
    loads = [Load(emitters=n, turns=min(most, n * _TURNS_EACH), subjects=subjects) for n in sorted(emitters)]
    found = [turns.Case(load=load, synchronous="FULL") for load in loads]
    return [*found, turns.Case(load=loads[-1], synchronous="NORMAL"), turns.Case(load=loads[-1], synchronous=None)]


def _load_averages() -> list[tuple[float, float, float]]:
    return [os.getloadavg()] if hasattr(os, "getloadavg") else []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.durable", description="Measure the SQLite store next to what the disk can do."
    )
    parser.add_argument("--part", choices=("turns", "rest", "all"), default="all", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="of each (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=10_000, help="in a round, at most (default: %(default)s)")
    parser.add_argument(
        "--emitters", type=int, nargs="+", default=[1, 16, 256], help="at the same time (default: 1 16 256)"
    )
    parser.add_argument("--subjects", type=int, default=SUBJECTS, help="in turn (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=1_000, help="of each latency (default: %(default)s)")
    parser.add_argument("--pause", type=float, default=3.0, help="before each, in milliseconds (default: %(default)s)")
    settle = "turns before the latencies; 0 to see a store that was just made (default: %(default)s)"
    parser.add_argument("--settle", type=int, default=rest.SETTLE, help=settle)
    parser.add_argument("--directory", type=Path, help="on the disk to be measured (default: .bench)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
