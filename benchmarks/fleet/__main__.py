"""`python -m benchmarks.fleet`: measure workers over Redis, and show the figures."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.environments import python_for
from benchmarks.fleet import report, rest, throughput
from benchmarks.fleet.processes import Contender
from benchmarks.fleet.server import described, started, used_memory
from benchmarks.machines import this_machine
from benchmarks.pages import PAGE, write_fleet
from benchmarks.rounds import ROOT, BenchmarkError
from onwhen.testing.servers import RedisServer

_PARTS: Final = ("peers", "partitions", "workers", "backlog", "rest")
_PARTITIONS: Final = (1, 4, 16, 64)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks; return an exit code. Missing an aim is a figure to read, not a failure."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.report and options.part:
        parser.error("--report writes about all parts; leave out --part")
    load = _load_averages()
    try:
        if min(options.rounds, options.backlog, options.samples) < 1 or not 0 < options.seconds <= 20:
            raise BenchmarkError("rounds, backlog and samples have to be at least 1, a round at most 20 seconds")
        with started(options.server, options.fsync) as server:
            what = described(server, options.fsync)
            tables = [asyncio.run(_measured(part, options, server)) for part in options.part or _PARTS]
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    load += _load_averages()
    heading = report.heading(this_machine(), platform.python_version(), what, load)
    print(heading)
    for table in tables:
        print(f"\n{table}")
    if options.report:
        write_fleet(report.page(heading, tables))
    return 0


async def _measured(part: str, options: argparse.Namespace, server: RedisServer) -> str:
    """Measure one part on an empty server; return its table."""
    print(f"{part} ...", file=sys.stderr)
    server.ask("FLUSHALL")
    rounds, seconds, url = options.rounds, options.seconds, server.url
    floor = Contender(python=sys.executable, module="floor")
    match part:
        case "peers":
            peers = [Contender(python=python_for(name), module=name) for name in ("krules", "faststream")]
            return report.throughput_table(
                await throughput.measure([throughput.onwhen(), floor, *peers], rounds, seconds, url)
            )
        case "partitions":
            found = await throughput.measure([throughput.onwhen(n) for n in _PARTITIONS], rounds, seconds, url)
            return report.partitions_table(list(zip(_PARTITIONS, found, strict=True)))
        case "workers":
            two = await throughput.two_workers(rounds, 2 * seconds, url)
            return report.two_table(two, this_machine().cores)
        case "backlog":
            return report.backlog_table(await throughput.backlog(options.backlog, url, lambda: used_memory(server)))
        case _:
            return report.latency_table(await rest.measure(options.samples, options.pause / 1000, url, floor))


def _load_averages() -> list[tuple[float, float, float]]:
    return [os.getloadavg()] if hasattr(os, "getloadavg") else []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fleet",
        description="Measure workers over Redis next to peers and a hand-written loop.",
    )
    parser.add_argument("--part", action="append", choices=_PARTS, help="this part only; may be repeated")
    parser.add_argument("--rounds", type=int, default=5, help="of each (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a round (default: %(default)s)")
    parser.add_argument("--backlog", type=int, default=1_000_000, help="events in the long one (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=1_000, help="of each latency (default: %(default)s)")
    parser.add_argument("--pause", type=float, default=3.0, help="before each, in milliseconds (default: %(default)s)")
    parser.add_argument("--server", type=Path, metavar="PROGRAM", help="the server to start (default: as the tests)")
    parser.add_argument(
        "--fsync", choices=("always", "everysec", "no"), default="everysec", help="default: %(default)s"
    )
    parser.add_argument(
        "--report", action="store_true", help=f"write the figures to {PAGE.relative_to(ROOT).as_posix()}"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
