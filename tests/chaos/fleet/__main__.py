"""Chaos on a fleet from the command line: `python -m tests.chaos.fleet --only kills --seed 1`.

Belongs here: options, and what is printed.
"""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from onwhen.testing.servers import find_server
from tests.chaos.fleet.parts import PARTS, SHORT, Part
from tests.chaos.fleet.run import Fleet, Violation


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.fleet", description=__doc__)
    parser.add_argument("--only", choices=sorted({*PARTS, *SHORT}), help="one part of it")
    parser.add_argument("--short", action="store_true", help="a little of everything")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="what the moments are drawn from")
    options = parser.parse_args()
    logging.getLogger("onwhen").setLevel(logging.ERROR)  # most servers here keep nothing on a disk, and are meant to
    parts = SHORT if options.short else PARTS
    parts = {name: part for name, part in parts.items() if options.only in (None, name)}
    sys.stdout.write(f"{find_server().name}, seed {options.seed}\n")
    accepted = events = 0
    for name, part in parts.items():
        fleet = _run(name, part, options.seed)
        if fleet is None:
            return 1
        accepted += fleet.figures["events"]
        events += fleet.figures["all events"]
    sys.stdout.write(f"{accepted:,} events accepted, {events:,} with messages and timers; 0 violations\n")
    return 0


def _run(name: str, part: Part, seed: int) -> Fleet | None:
    folder, began = Path(tempfile.mkdtemp(prefix=f"onwhen-fleet-{name}-")), time.monotonic()
    fleet = Fleet(part, folder, seed)

    def tell(so_far: Fleet) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{name}: {_told(so_far)}\x1b[K")
            sys.stderr.flush()

    try:
        with fleet:
            fleet.run(tell)
    except Violation as violation:
        sys.stdout.write(f"{name}, seed {seed}, after {_told(fleet)}: {violation}\nall is kept in {folder}\n")
        return None
    seconds = time.monotonic() - began
    figures = ", ".join(f"{count:,} {what}" for what, count in fleet.figures.items())
    sys.stdout.write(f"{name}: {_told(fleet)}; at rest: {figures}; 0 violations in {seconds:.0f} s\n")
    sys.stdout.flush()
    shutil.rmtree(folder)
    return fleet


def _told(fleet: Fleet) -> str:
    counts = {**fleet.done, **{f"by {way}": n for way, n in fleet.ways.items()}}
    counts |= {f"restarts ({why})": count for why, count in fleet.restarts.items()}
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


if __name__ == "__main__":
    sys.exit(main())
