"""Chaos from the command line: `python -m tests.chaos --kills 500 --seed 1`.

Belongs here: options, and what is printed.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.run import Chaos, Violation


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=500, help="how many processes to kill (count)")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="what the moments are drawn from")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="onwhen-chaos-"))
    chaos, began = Chaos(folder, options.seed), time.monotonic()

    def tell(so_far: Chaos) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{so_far.killed.total():,} kills {so_far.figures}\x1b[K")
            sys.stderr.flush()

    try:
        chaos.run(options.kills, tell)
    except Violation as violation:
        sys.stdout.write(
            f"seed {options.seed}, after {chaos.killed.total()} kills: {violation}\nall is kept in {folder}\n"
        )
        return 1
    seconds = time.monotonic() - began
    moments = ", ".join(f"{count} {moment}" for moment, count in sorted(chaos.killed.items()))
    figures = ", ".join(f"{count:,} {what}" for what, count in chaos.figures.items())
    sys.stdout.write(
        f"seed {options.seed}: {chaos.killed.total():,} kills ({moments}), {chaos.ended} ended by themselves\n"
        f"at rest: {figures}\n"
        f"0 violations in {seconds:.0f} s\n"
    )
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
