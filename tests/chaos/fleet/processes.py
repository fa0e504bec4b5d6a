"""Processes of the chaos on fleets, as the one sees them that has started them.

Belongs here: starting and ending. It must not know what they do.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Worker", "running"]

_ROOT: Final = Path(__file__).parents[3]


@dataclass
class Worker:
    """A worker process.

    Attributes:
        name: its id.
        pid: of its process; 0 until it is known.
        is_meant: it was killed, or told to leave, so that its end is no fault of its own.
    """

    name: str
    pid: int = 0
    is_meant: bool = False


class running:
    """A Python module as a process with pipes, killed at the end of the block; also when this process ends."""

    def __init__(self, module: str, *words: object, errors: Path) -> None:
        with errors.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, words)],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self._process

    def __exit__(self, *error: object) -> None:
        with self._process:  # closes its pipes
            self._process.kill()  # and what it has forked dies with it
