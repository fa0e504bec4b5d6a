"""A simulated world: processes that follow one another on one store, until all that was asked for is done.

Belongs here: chance, faults and time over the lives of processes. It must not know what is right; see `checker`.
"""

from __future__ import annotations

import gc
import os
import random
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from unittest.mock import patch

import uuid_utils

from onwhen.engine.partitions import partition_of
from onwhen.engine.store import Commit, Store, SubjectWrite
from tests.simulation.history import Called, History, Record
from tests.simulation.plan import Action, Faults, Plan
from tests.simulation.process import Process
from tests.simulation.store import Core, inline

__all__ = ["Fate", "World", "chance_is_drawn_from", "without_collections"]


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one call to the store.

    Attributes:
        kind: "fine", or a fault: "before", "lost", "late" or "killed"; see `Faults`.
        there: how long until it is done (seconds).
        back: how long until the answer after that (seconds); of one that is late, the share of the way there.
        error: which one it is, if it is one.
    """

    kind: str
    there: float
    back: float
    error: str = "not done"


class World:
    """Everything that outlives a process.

    Args:
        plan: what happens.
        store: what keeps everything.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan = plan
        self.chance = random.Random(plan.seed + 1)
        self.history = History()
        self.done: set[str] = set()
        self.is_quiet = False
        self.replayed: set[str] = set()
        self.resumed: Counter[str] = Counter()
        self.core = Core(store, self)
        self._process: Process | None = None
        self._processes: list[Process] = []
        self._called: Counter[str] = Counter()
        self._strikes: Counter[str] = Counter()

    @property
    def time(self) -> float:
        """How long the world has existed (seconds)."""
        return self._process.loop.time() if self._process is not None else 0.0

    def run(self) -> None:
        """Let one process follow the other until all is done.

        Raises:
            RuntimeError: it never comes to rest.
        """
        kills = [*self.plan.faults.kills]
        with chance_is_drawn_from(self.chance), without_collections():
            try:
                for number in count(1):
                    if number > 60:
                        raise RuntimeError("one process after the other ends before all is done")
                    process = Process(self, number, kills.pop(0) if kills else 0)
                    self._process, before = process, self._process
                    del before
                    self._processes.append(process)
                    if process.live():
                        return
                    self.core.crash()
            finally:
                for process in self._processes:
                    process.loop.wipe()

    def note(self, record: Record) -> None:
        """Write history."""
        self.history.add(record)

    # -- faults

    def fate(self, what: str, writes: bool) -> Fate:
        """Draw what becomes of a call to the store."""
        faults, chance, time = self.plan.faults, self.chance, self.time
        longest = faults.latency * (30 if faults.slow[0] <= time < faults.slow[1] else 1)
        there, back = longest * chance.random(), longest * chance.random()
        if self.is_quiet or what == "close":
            return Fate("fine", there, back)
        if writes and faults.full[0] <= time < faults.full[1]:
            return Fate("before", there, back, "full")
        return self._faulty(faults, chance.random(), there, back, writes)

    def _faulty(self, faults: Faults, drawn: float, there: float, back: float, writes: bool) -> Fate:
        for kind in ("before", "lost", "late", "killed"):
            probability = getattr(faults, kind)
            if drawn < probability:
                if kind in ("late", "killed") and not writes:
                    return Fate("before", there, back)
                if kind == "late":
                    there, back = there + self.chance.random(), self.chance.random()
                return Fate(kind, there, back)
            drawn -= probability
        return Fate("fine", there, back)

    def strikes(self, what: str) -> int:
        """Count how often something has come so far as to kill its process."""
        self._strikes[what] += 1
        return self._strikes[what]

    # -- what is asked for

    def open_actions(self) -> list[Action]:
        """Return what is still to be asked for."""
        return [action for action in self.plan.actions if action.tag not in self.done]

    def calls(self, what: str, tag: str, process: int) -> int:
        """Note a call from outside, and count those about the same."""
        self.note(Called(self.time, what, tag, process))
        self._called[tag] += 1
        return self._called[tag]

    def write_past(self, action: Action) -> None:
        """Write to a subject as somebody does who knows of no engine."""
        store = self.core.store
        record = inline(store.load(action.subject))
        commit = Commit(
            partition=partition_of(action.subject, store.partitions),
            subject=action.subject,
            version=record.version,
            write=SubjectWrite(set={"alien": b"%d" % int(action.tag[1:])}, schema=record.schema),
            id=f"stranger {action.tag}",
        )
        inline(self.core.commit(commit, "stranger"))


@contextmanager
def chance_is_drawn_from(chance: random.Random) -> Iterator[None]:
    """Have all that is left to chance drawn from one source: jitter, and the ids of events and commits."""

    def uuid7() -> str:
        return f"{chance.getrandbits(128):032x}"

    def uniform(low: float, high: float) -> float:
        return chance.uniform(low, high)

    def untold(*_: object, **__: object) -> list[str]:
        return ["(not told)"]

    with (
        patch.object(traceback, "format_exception", untold),  # a fifth of the time would go into it
        patch.object(os, "urandom", lambda size: chance.getrandbits(8 * size).to_bytes(size, "big")),
        patch.object(uuid_utils, "uuid7", uuid7),
        patch.object(random, "uniform", uniform),
    ):
        yield


@contextmanager
def without_collections() -> Iterator[None]:
    """Keep the garbage collector from ending the coroutines of dead processes at moments of its own choice."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
