"""`python -m benchmarks.middleware`: measure what each middleware adds to an event, and show the figures."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

from benchmarks.machines import this_machine
from benchmarks.middleware.report import Cost, heading, page, table
from benchmarks.middleware.variants import BARE, VARIANTS, Variant, variant_named
from benchmarks.pages import PAGE, write_middleware
from benchmarks.rounds import ROOT, BenchmarkError, Contender, Effort, measure_in_turn

_LIBRARIES: Final = ("opentelemetry-sdk", "prometheus-client")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks; return an exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.report and options.variant:
        parser.error("--report writes about all variants; leave out --variant")
    variants = [variant_named(name) for name in options.variant] if options.variant else list(VARIANTS)
    try:
        effort = Effort(rounds=options.rounds, seconds=options.seconds)
        costs = asyncio.run(_measure(variants, effort))
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    told = heading(costs, this_machine(), effort, {name: version(name) for name in _LIBRARIES})
    print(f"{told}\n\n{table(costs)}")
    if options.report:
        write_middleware(page(told, table(costs)))
    return 0


async def _measure(variants: Sequence[Variant], effort: Effort) -> list[Cost]:
    print(f"{len(variants)} variants, {effort.rounds} rounds of each ...", file=sys.stderr)
    contender = Contender(python=sys.executable, module="benchmarks.middleware.worker")
    bare, *others = await measure_in_turn([(contender, one) for one in (BARE, *variants)], effort)
    return [Cost(variant=variant, own=own, bare=bare) for variant, own in zip(variants, others, strict=True)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.middleware", description="Measure what each middleware adds to an event."
    )
    names = [variant.name for variant in VARIANTS]
    parser.add_argument("--variant", action="append", choices=names, help="this one only; may be repeated")
    parser.add_argument("--rounds", type=int, default=25, help="of each (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a round (default: %(default)s)")
    parser.add_argument(
        "--report", action="store_true", help=f"write the figures to {PAGE.relative_to(ROOT).as_posix()}"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
