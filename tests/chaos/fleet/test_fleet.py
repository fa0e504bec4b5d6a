"""A fleet of real worker processes on real servers, all of which are really killed; `make chaos-fleet` does more."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.fleet.parts import PARTS, SHORT

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the processes are forked, and die with each other")


@pytest.mark.parametrize("part", SHORT)
def test_nothing_is_lost_doubled_or_out_of_order(part: str) -> None:
    """Workers, servers and masters end, stand still and move; a fail-over costs the latest at most."""
    seed = random.randrange(1_000_000)
    command = [sys.executable, "-m", "tests.chaos.fleet", "--short", "--only", part, "--seed", str(seed)]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")},  # it slows all down
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}\nagain: {' '.join(command[1:])}"
    assert "0 violations" in ended.stdout
    for fault, count in SHORT[part].faults.items():
        if fault != "drop":
            assert f"{count} {fault}" in ended.stdout


def test_the_long_form_has_what_was_promised() -> None:
    """So many of each fault, and half a million events."""
    faults: dict[str, int] = {}
    for part in PARTS.values():
        for fault, count in part.faults.items():
            faults[fault] = faults.get(fault, 0) + count
    promised = {"kill": 200, "stop": 100, "crash": 50, "drop": 2_000, "fail over": 40, "move": 20, "flush": 50}
    assert {fault: faults[fault] for fault in promised} == promised
    assert sum(part.events for part in PARTS.values()) >= 500_000
