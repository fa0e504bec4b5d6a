"""One event loop for many simulated machines: what belongs to one that is dead never runs, what stands still waits.

Belongs here: whose turn it is to run. It must not know what machines do; each callback belongs to the machine in whose
context it was asked for, and those of nobody are the servers' and the world's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from tests.simulation.loop import SimLoop
from tests.simulation.rules import HERE

__all__ = ["FleetLoop", "Standing"]


class Standing(Protocol):
    """What a machine says of a callback."""

    def admits(self, handle: asyncio.Handle) -> bool:
        """Tell whether it is to be run now; else the machine has it, to run it later or never."""
        ...


class FleetLoop(SimLoop):
    """Runs the callbacks of all machines, in the order in which they become ready."""

    def resume(self, handles: list[asyncio.Handle]) -> None:
        """Run what has waited while its machine stood still."""
        self._ready.extend(handles)

    def run(self, is_over: Callable[[], bool], most: int) -> bool:
        """Run callbacks until `is_over`; see `SimLoop.run`."""
        asyncio._set_running_loop(self)
        self._running = True
        ready = self._ready
        try:
            while not is_over():
                if not ready and not self._wait():
                    return False
                handle = ready.popleft()
                if handle._cancelled:
                    continue
                machine: Standing | None = handle._context.get(HERE)  # type: ignore[attr-defined]
                if machine is not None and not machine.admits(handle):
                    continue
                self.steps += 1
                if self.steps > most:
                    raise RuntimeError(f"no rest after {most} callbacks")
                handle._run()
            return True
        finally:
            self._running = False
            asyncio._set_running_loop(None)
