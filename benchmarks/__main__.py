"""`python -m benchmarks`: measure, and show the figures."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from benchmarks.cases import CASES, case_named
from benchmarks.environments import python_for
from benchmarks.machines import this_machine
from benchmarks.pages import PAGE, write_main
from benchmarks.report import Result, page, table
from benchmarks.rounds import ROOT, BenchmarkError, Contender, Effort, measure


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
    machine = this_machine()
    print(table(results, machine, effort))
    if options.report:
        write_main(page(results, machine, effort))
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
        "--report", action="store_true", help=f"write the figures to {PAGE.relative_to(ROOT).as_posix()}"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
