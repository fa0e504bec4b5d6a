"""The wire between a process and the one that supervises it: signs of life one way, and the end of it the other.

Belongs here: what goes over the wire, seen from both ends. It must not know what either process does.
"""

from __future__ import annotations

import os
import signal
from collections.abc import MutableMapping
from typing import Final

__all__ = ["WIRE", "Supervised"]

WIRE: Final = "_ONWHEN_SUPERVISED"
"""Environment variable that tells a process the number of the file that it sends signs of life to."""


class Supervised:
    """The end of the wire that the supervised process has; false if nobody supervises it.

    Args:
        wire: file number to write to; None if there is none.
    """

    def __init__(self, wire: int | None) -> None:
        self._wire = wire
        self._is_alone = False

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> Supervised:
        """Return what the environment of this process says; what the process starts is told nothing of it."""
        told = environment.pop(WIRE, None)
        if told is None:
            return cls(None)
        wire = int(told)
        os.set_inheritable(wire, False)
        os.set_blocking(wire, False)
        return cls(wire)

    def __bool__(self) -> bool:
        return self._wire is not None

    def look(self) -> None:
        """Give a sign of life; if the other end is gone, stop as if that had said so."""
        if self._wire is None or self._is_alone:
            return
        try:
            os.write(self._wire, b".")
        except BlockingIOError:  # it has not read for long; it has enough to read, then
            return
        except OSError:
            self._is_alone = True
            os.kill(os.getpid(), signal.SIGTERM)
