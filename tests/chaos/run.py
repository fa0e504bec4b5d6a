"""Killing a service again and again: when, how often, and what is looked at in between.

Belongs here: processes and signals. It must not know what the service does, nor what is right.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NoReturn, TypeAlias

from tests.chaos.judge import Ledger, judge
from tests.chaos.service import Mode, Orders, serve

__all__ = ["Chaos", "Violation"]

_PATIENCE: Final = 90.0  # seconds until something has to happen, on a busy machine
_LOOK: Final = 10  # kills between two looks at the store (a count)
_REST: Final = 50  # kills between two rests (a count)

Moment: TypeAlias = Literal["opening", "load", "checkpoint", "idle", "closing"]

# When to kill: what to wait for, how many times, and how long at most to wait then (seconds).
_MOMENTS: Final[dict[Moment, tuple[Mode, str, int, float]]] = {
    "opening": ("load", "o", 1, 0.03),
    "load": ("load", "r", 1, 0.5),
    "checkpoint": ("load", "c", 12, 0.003),
    "idle": ("idle", "i", 1, 0.15),
    "closing": ("close", "x", 1, 0.03),
}
_WEIGHTS: Final = (2, 6, 3, 1, 1)


class Violation(Exception):
    """The promise is broken."""


@dataclass
class Chaos:
    """A store, and processes on it that are killed.

    Attributes:
        folder: where all is kept.
        seed: what the moments are drawn from. The same seed does not kill at the same instruction again.
        killed: moment -> how often a process was killed then (a count).
        ended: processes that came to their end before they could be killed (a count).
        figures: what the latest look at the store has found (counts).
    """

    folder: Path
    seed: int
    killed: Counter[Moment] = field(default_factory=Counter)
    ended: int = 0
    figures: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._ledger = Ledger()
        self._path = self.folder / "chaos.db"
        self._notes = self.folder / "ledger"
        self._notes.touch()
        self._partitions = self._random.choice((1, 3))

    def run(self, kills: int, progress: Callable[[Chaos], None]) -> None:
        """Kill so many processes, and look at what they leave.

        Raises:
            Violation: it is not what it should be.
        """
        while (done := self.killed.total()) < kills:
            self._one()
            progress(self)
            if done != self.killed.total() and not (done + 1) % _REST:
                self._rest()
            elif done != self.killed.total() and not (done + 1) % _LOOK:
                self._look(at_rest=False)
        self._rest()

    def _one(self) -> None:
        (moment,) = self._random.choices(list(_MOMENTS), _WEIGHTS)
        mode, letter, times, longest = _MOMENTS[moment]
        busy = moment == "checkpoint" or self._random.random() < 0.2
        child = self._start(mode, busy=busy)
        try:
            found = child.wait_for(letter, self._random.randint(1, times))
            if found:
                time.sleep(self._random.uniform(0, longest))
        finally:
            code = child.kill()
        if code == -signal.SIGKILL:
            self.killed[moment] += 1
        elif code == 0 and mode == "close":
            self.ended += 1
        else:
            raise Violation(f"a process has ended with code {code}; see its error above")
        self._ledger.read(self._notes)

    def _rest(self) -> None:
        child = self._start("finish", busy=False)
        try:
            is_done = child.wait_for("d", 1)
        finally:
            code = child.kill()
        if not is_done or code not in (0, -signal.SIGKILL):
            raise Violation(f"left alone, it did not come to rest; code {code}")
        self._look(at_rest=True)

    def _start(self, mode: Mode, *, busy: bool) -> _Child:
        ledger = self._ledger

        def run(told: int) -> NoReturn:
            serve(
                Orders(
                    path=str(self._path),
                    ledger=str(self._notes),
                    told=told,
                    numbers=[last + 1 for last in ledger.last],
                    session=ledger.begun,
                    mode=mode,
                    partitions=self._partitions,
                    synchronous=synchronous,
                    busy=busy,
                )
            )

        synchronous: Literal["FULL", "NORMAL"] = self._random.choice(("FULL", "NORMAL"))
        return _Child(run)

    def _look(self, *, at_rest: bool) -> None:
        def look(told: int) -> NoReturn:
            try:
                answer = asyncio.run(judge(self._path, self._ledger, at_rest=at_rest))
            except Exception as error:
                answer = [f"{type(error).__name__}: {error}"], {}
            with os.fdopen(told, "w") as out:
                json.dump(answer, out)
            os._exit(0)

        # In a process of its own: one that has had SQLite open had better not be forked.
        child = _Child(look)
        answer = child.all()
        child.kill()
        wrong, self.figures = json.loads(answer)
        if wrong:
            more = f"\n  and {len(wrong) - 20} more" if len(wrong) > 20 else ""
            raise Violation("\n  ".join(["the store is not as it should be:", *wrong[:20]]) + more)


class _Child:
    """A forked process, and a pipe on which it tells how far it is.

    Args:
        run: what it does, with the writing end of the pipe.
    """

    def __init__(self, run: Callable[[int], NoReturn]) -> None:
        self._told, telling = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._told)
            run(telling)
        os.close(telling)

    def wait_for(self, letter: str, times: int) -> bool:
        """Wait until it has told a letter so many times; False if it ends before.

        Raises:
            Violation: it does neither.
        """
        while times > 0:
            ready, _, _ = select.select([self._told], [], [], _PATIENCE)
            if not ready:
                raise Violation(f"a process does nothing for {_PATIENCE:g} s; it should have told {letter!r}")
            told = os.read(self._told, 64)
            if not told:
                return False
            times -= told.count(letter.encode())
        return True

    def all(self) -> bytes:
        """Return all that it tells until it ends."""
        with os.fdopen(os.dup(self._told), "rb") as pipe:
            return pipe.read()

    def kill(self) -> int:
        """Kill it, if it has not ended; return its exit code, or minus the signal's number."""
        os.kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        os.close(self._told)
        return os.waitstatus_to_exitcode(status)
