"""A fleet of workers under load, and the faults that meet it.

Belongs here: processes, signals, when and how often. It must not know what the workers do, nor what is right.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from onwhen import SystemClock
from onwhen.storage.redis import create_redis_storage
from tests.chaos.fleet.judge import FleetLedger, is_at_rest, look
from tests.chaos.fleet.parts import Fault, Part
from tests.chaos.fleet.processes import Worker, running
from tests.chaos.fleet.workers import LOST, STALLED, Orders
from tests.chaos.fleet.world import World
from tests.chaos.run import Violation

__all__ = ["Fleet", "Violation"]

LEASE: Final = 1.0  # seconds
_PATIENCE: Final = 90.0  # seconds until something has to happen, on a busy machine
_LOOK: Final = 0.02  # seconds
_PREFIX: Final = "chaos"
_LOSE_ANSWERS: Final = frozenset[Fault]({"crash", "drop", "fail over", "move"})
_DROPS: Final = 25  # replies that are dropped in a row


@dataclass
class Fleet:
    """A part of the chaos.

    Attributes:
        part: what is to be done.
        folder: where all is kept.
        seed: what the moments are drawn from. The same seed does not hit at the same instruction again.
        done: fault -> how often it has happened (a count).
        restarts: what workers have said that were started again besides -> how often (a count).
        figures: what the latest look at the store has found (counts).
    """

    part: Part
    folder: Path
    seed: int
    done: Counter[Fault] = field(default_factory=Counter)
    ways: Counter[str] = field(default_factory=Counter)
    restarts: Counter[str] = field(default_factory=Counter)
    figures: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._world = World(self.part.kind, self._random, always=self.part.always)
        self._ledger = FleetLedger()
        self._notes = self.folder / "ledger"
        self._notes.touch()
        self._workers: list[Worker] = []
        self._started = 0
        self._told = b""
        self._stack = ExitStack()

    # -- life

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._world)
            self._starter = stack.enter_context(
                running("tests.chaos.fleet.workers", self.folder, errors=self.folder / "starter.log")
            )
            world, part = self._world, self.part
            self._producer = stack.enter_context(
                running(
                    "tests.chaos.fleet.producer",
                    *(world.url, _PREFIX, part.partitions, self._notes),
                    errors=self.folder / "producer.log",
                )
            )
            self._expect("ready")
            for _ in range(part.workers):
                self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            if worker.pid:
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
        self._stack.close()

    def run(self, progress: Callable[[Fleet], None]) -> None:
        """Do all of it.

        Raises:
            Violation: something is not as it should be.
        """
        faults = [fault for fault, count in self.part.faults.items() for _ in range(self._times(fault, count))]
        self._random.shuffle(faults)
        size = -(-len(faults) // self.part.rests)
        for rest in range(self.part.rests):
            self._say("go")
            for fault in faults[rest * size : (rest + 1) * size]:
                self._load(self._random.uniform(0.05, 0.4))
                self._meet(fault)
                progress(self)
            wanted = self.part.events * (rest + 1) // self.part.rests
            self._until(lambda wanted=wanted: self._accepted() >= wanted, f"{wanted} accepted events", 600.0)  # type: ignore[misc]
            self._rest()
            progress(self)

    @staticmethod
    def _times(fault: Fault, count: int) -> int:
        return -(-count // _DROPS) if fault == "drop" else count

    # -- load

    def _load(self, seconds: float) -> None:
        """Let the fleet work; whatever was done to it, events have to be accepted."""
        end, before = time.monotonic() + seconds, self._accepted()
        self._until(
            lambda: time.monotonic() > end and self._accepted() >= before + 20,
            "events to be accepted: nobody handles those that are",
        )

    def _accepted(self) -> int:
        self._ledger.read(self._notes)
        return self._ledger.accepted()

    def _rest(self) -> None:
        """Let all be done that was accepted, and look at the store."""
        self._say("hold")
        self._expect("held")
        asyncio.run(self._come_to_rest())
        self._ledger.read(self._notes)
        world = self._world
        wrong, self.figures = asyncio.run(
            look(world.direct, _PREFIX, world.masters(), self._ledger, world.losses, world.is_one)
        )
        if not _LOSE_ANSWERS & self.part.faults.keys():
            wrong += [f"{name} was emitted once, and is called a duplicate" for name in self._ledger.duplicates]
        if wrong:
            more = f"\n  and {len(wrong) - 20} more" if len(wrong) > 20 else ""
            raise Violation("\n  ".join(["the store is not as it should be:", *wrong[:20]]) + more)

    async def _come_to_rest(self) -> None:
        store = create_redis_storage(self._world.direct, _PREFIX)
        await store.open(SystemClock())
        try:
            deadline = time.monotonic() + _PATIENCE
            while not await is_at_rest(store):
                self._tend()
                if time.monotonic() > deadline:
                    states = await store.partition_states()
                    raise Violation(f"left alone, it did not come to rest: {await store.stats()}, {states}")
                await asyncio.sleep(_LOOK)
        finally:
            await store.close()

    # -- faults

    def _meet(self, fault: Fault) -> None:
        world = self._world
        if fault in ("kill", "leave"):
            worker = self._any()
            worker.is_meant = True
            os.kill(worker.pid, signal.SIGKILL if fault == "kill" else signal.SIGTERM)
            self.done[fault] += 1
        elif fault == "stop":
            self._stop()
        elif fault == "crash":
            world.crash()
            self.done[fault] += 1
        elif fault == "flush":
            world.forget_scripts()
            self.done[fault] += 1
        elif fault == "drop":
            self.done[fault] += world.drop_replies(_DROPS)
        elif fault == "fail over":
            self.ways[world.fail_over()] += 1
            self.done[fault] += 1
        else:
            world.move(f"{{{_PREFIX}:p{self._random.randrange(self.part.partitions)}}}")
            self.done[fault] += 1

    def _stop(self) -> None:
        """Stop a worker until somebody else has its partitions, and let it find out."""
        worker = self._any()
        os.kill(worker.pid, signal.SIGSTOP)
        try:
            self._load(LEASE * self._random.uniform(1.2, 2.0))
        finally:
            os.kill(worker.pid, signal.SIGCONT)
        self.done["stop"] += 1

    def _any(self) -> Worker:
        self._until(lambda: any(self._is_up(worker) for worker in self._workers), "a worker")
        return self._random.choice([worker for worker in self._workers if self._is_up(worker)])

    @staticmethod
    def _is_up(worker: Worker) -> bool:
        return bool(worker.pid) and not worker.is_meant

    # -- processes

    def _start(self) -> None:
        self._started += 1
        worker = Worker(f"w{self._started}")
        self._workers.append(worker)
        orders = Orders(
            name=worker.name,
            url=self._world.url,
            prefix=_PREFIX,
            lease=LEASE,
            turns=self._random.choice((20, 1000)),
        )
        self._send(self._starter, orders.line())

    def _tend(self) -> None:
        """Hear which processes have ended, and start others in their place."""
        if self._producer.poll() is not None:
            told = (self.folder / "producer.log").read_text()[-3000:]
            raise Violation(f"the producer has ended with code {self._producer.returncode}:\n{told}")
        assert self._starter.stdout is not None
        while select.select([self._starter.stdout], [], [], 0)[0]:
            got = os.read(self._starter.stdout.fileno(), 1 << 16)
            if not got:
                raise Violation(f"the starter has ended: {(self.folder / 'starter.log').read_text()[-3000:]}")
            *lines, self._told = (self._told + got).split(b"\n")
            for line in lines:
                what, one, other = line.decode().split()
                if what == "started":
                    next(worker for worker in self._workers if worker.name == one).pid = int(other)
                else:
                    self._ended(int(one), int(other))

    def _ended(self, pid: int, code: int) -> None:
        worker = next(worker for worker in self._workers if worker.pid == pid)
        self._workers.remove(worker)
        expected = (0, -signal.SIGKILL, -signal.SIGTERM) if worker.is_meant else (STALLED, LOST)
        if code not in expected:
            told = (self.folder / f"{worker.name}.log").read_text()[-4000:]
            raise Violation(f"worker {worker.name} has ended with code {code}:\n{told}")
        if not worker.is_meant:
            told = (self.folder / f"{worker.name}.log").read_text().splitlines()
            self.restarts[told[-1] if told else f"code {code}"] += 1
        self._start()

    def _until(self, is_so: Callable[[], bool], what: str, patience: float = _PATIENCE) -> None:
        deadline = time.monotonic() + patience
        while not is_so():
            self._tend()
            if time.monotonic() > deadline:
                raise Violation(f"waited {patience:g} s for {what}")
            time.sleep(_LOOK)

    def _say(self, what: str) -> None:
        self._send(self._producer, f"{what}\n")

    @staticmethod
    def _send(process: subprocess.Popen[bytes], line: str) -> None:
        assert process.stdin is not None
        process.stdin.write(line.encode())
        process.stdin.flush()

    def _expect(self, what: str) -> None:
        out = self._producer.stdout
        assert out is not None
        self._until(lambda: bool(select.select([out], [], [], 0)[0]), f"the producer to say {what!r}")
        line = out.readline()
        if line != f"{what}\n".encode():
            raise Violation(f"the producer says {line!r}: {(self.folder / 'producer.log').read_text()[-3000:]}")
