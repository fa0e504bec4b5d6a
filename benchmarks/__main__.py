"""`python -m benchmarks`: measure, and show the figures."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.cases import CASES, case_named
from benchmarks.environments import python_for
from benchmarks.report import Machine, Result, page, table
from benchmarks.rounds import ROOT, BenchmarkError, Contender, Effort, measure

_PAGE = ROOT / "docs" / "performance.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks; return an exit code. Missing an aim is a figure to read, not a failure."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.report and (options.alone or options.case):
        parser.error("--report writes a page about all cases and the peer; leave out --alone and --case")
    try:
        effort = Effort(rounds=options.rounds, seconds=options.seconds)
        contenders = [Contender(python=sys.executable, module="benchmarks.workers.onwhen")]
        if not options.alone:
            python = options.peer or python_for("krules")
            contenders.append(Contender(python=python, module="benchmarks.workers.krules"))
        results = asyncio.run(_measure(options.case or [case.name for case in CASES], contenders, effort))
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    machine = _machine()
    print(table(results, machine, effort))
    if options.report:
        _PAGE.write_text(page(results, machine, effort))
    return 0


async def _measure(names: Sequence[str], contenders: Sequence[Contender], effort: Effort) -> list[Result]:
    results = []
    for name in names:
        case = case_named(name)
        print(f"{case.title} ...", file=sys.stderr)
        own, *peers = await measure(case, contenders, effort)
        results.append(Result(case=case, own=own, peer=peers[0] if peers else None))
    return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure onwhen next to a peer.")
    effort = Effort()
    parser.add_argument(
        "--case", action="append", choices=[case.name for case in CASES], help="this case only; may be repeated"
    )
    parser.add_argument(
        "--rounds", type=int, default=effort.rounds, help="rounds to run of each (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=effort.seconds, help="length of a round in seconds (default: %(default)s)"
    )
    whom = parser.add_mutually_exclusive_group()
    whom.add_argument("--alone", action="store_true", help="measure onwhen without a peer")
    whom.add_argument("--peer", metavar="PYTHON", help="an interpreter that has the peer installed already")
    parser.add_argument(
        "--report", action="store_true", help=f"write the figures to {_PAGE.relative_to(ROOT).as_posix()}"
    )
    return parser


def _machine() -> Machine:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(cpu=_cpu(), cores=cores, system=platform.system(), day=datetime.now(UTC).date())


def _cpu() -> str:
    """Return the CPU's model name; the standard library knows it on no system for certain."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    if sys.platform == "darwin":
        command = ("sysctl", "-n", "machdep.cpu.brand_string")
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
