"""Run simulated worlds: `python -m tests.simulation --seeds 10000 --first 1`, or one with its trace: `--seed 17`.

With `--fleet`, worlds of many workers on a store that they share.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from tests.simulation import run as alone
from tests.simulation.fleet import run as fleet

_ReportOf: TypeAlias = "Callable[[int], tuple[int, str]]"

_CHUNK = 25  # seeds that a process takes at once (a count)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says; return 1 if a world has broken the promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many worlds (2000)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one (0)")
    parser.add_argument("--step", type=int, default=1, help="from one seed to the next (1)")
    parser.add_argument("--seed", type=int, help="run this one only, and print its whole trace")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="how many at a time (all cores)")
    parser.add_argument("--most", type=int, default=10, help="stop when so many have failed (10)")
    parser.add_argument("--fleet", action="store_true", help="many workers on one store that they share")
    chosen = parser.parse_args(arguments)
    if chosen.seed is not None:
        result = (fleet.simulate_fleet if chosen.fleet else alone.simulate)(chosen.seed)
        _say("\n".join(result.lines()))
        _say(result.report() if result.violation else f"seed {chosen.seed}: all is well")
        return 1 if result.violation else 0
    seeds = range(chosen.first, chosen.first + chosen.seeds * chosen.step, chosen.step)
    return _run_all(fleet.report_of if chosen.fleet else alone.report_of, seeds, chosen.processes, chosen.most)


def _run_all(report_of: _ReportOf, seeds: range, processes: int, most: int) -> int:
    began, done, failed = time.perf_counter(), 0, list[int]()
    for done, (seed, report) in enumerate(_reports(report_of, seeds, processes), start=1):
        if report:
            failed.append(seed)
            _say(report + "\n")
            if len(failed) >= most:
                break
        if done % 1000 == 0:
            sys.stderr.write(f"{done} worlds, {len(failed)} failed\n")
    seconds = time.perf_counter() - began
    _say(f"{done} worlds in {seconds:.0f} s; failed: {failed or 'none'}")
    return 1 if failed else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _reports(report_of: _ReportOf, seeds: range, processes: int) -> Iterator[tuple[int, str]]:
    if processes <= 1:
        yield from map(report_of, seeds)
        return
    # Processes of their own, not forks: a fork would share what this one has imported and drawn.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(report_of, seeds, _CHUNK)


if __name__ == "__main__":
    sys.exit(main())
