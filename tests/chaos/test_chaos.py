"""Real processes that are really killed: nothing that was accepted is lost, and nothing is done twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")


def test_nothing_is_lost_by_25_kills() -> None:
    """While it opens, under load, at a checkpoint, idle and while it closes; `make chaos` kills 500 times."""
    seed = random.randrange(1_000_000)
    ended = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--kills", "25", "--seed", str(seed)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")},  # it slows all down
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ended.returncode == 0, (
        f"{ended.stdout}\n{ended.stderr}\nagain: python -m tests.chaos --kills 25 --seed {seed}"
    )
    assert "25 kills" in ended.stdout
    assert "0 violations" in ended.stdout
