"""How many turns a second: the engine on a SQLite file, and the bare loop that stores the same.

Belongs here: one recording of a real run for each load, then rounds in which all contenders take turns. It must not
know how the figures are shown.
"""

from __future__ import annotations

import asyncio
import gc
import pickle
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from benchmarks.durable import raw, tape
from benchmarks.durable.load import Load, Program
from benchmarks.durable.places import copied
from benchmarks.rounds import BenchmarkError
from onwhen import create_memory_storage, create_sqlite_storage
from onwhen.engine.clock import SystemClock

__all__ = ["Case", "Floors", "Rates", "Recorded", "Round", "measure", "record", "replay", "template"]

_RAW_SECONDS: Final = 0.25  # how long each of the two floors is measured in a round


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to measure.

    Attributes:
        load: what is emitted.
        synchronous: how surely a commit is on the disk when it is answered; None for the store in memory.
    """

    load: Load
    synchronous: Literal["FULL", "NORMAL"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What the store has asked SQLite for in one run.

    Attributes:
        packed: all of it, from when the file was opened; as bytes, so that the garbage collector has not to go
            through it while something else is measured.
        start: index of the first entry that is timed.
        end: index after the last one.
        turns: how many turns were handled in between (a count).
        commits: how many transactions were committed in between (a count).
        rate: turns per second meanwhile; close to that of the other rounds if recording has changed nothing.
    """

    packed: bytes
    start: int
    end: int
    turns: int
    commits: int
    rate: float

    @property
    def turns_per_commit(self) -> float:
        """How many turns came to lie in one transaction, on average; each has two parts, accepted and handled."""
        return self.turns / self.commits

    def entries(self) -> tuple[list[tape.Entry], list[tape.Entry]]:
        """Return what came before that which is timed, and that itself."""
        entries: list[tape.Entry] = pickle.loads(self.packed)
        return entries[: self.start], entries[self.start : self.end]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What a number of turns took.

    Attributes:
        rate: turns per second.
        on_cpu: seconds on a CPU per turn, all threads together; a busy machine changes it less than the rate.
    """

    rate: float
    on_cpu: float


@dataclass(slots=True, kw_only=True)
class Rates:
    """What was measured for a case.

    Attributes:
        case: what.
        recorded: the run that the bare loop repeats; None for the store in memory.
        engine: rounds through the bus.
        bare: rounds of the bare loop; empty for the store in memory.
    """

    case: Case
    recorded: Recorded | None
    engine: list[Round] = field(default_factory=list)
    bare: list[Round] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Floors:
    """What the machine can do, once a round: commits of one small row, and 4 KiB made sure of, each per second."""

    commits: list[float] = field(default_factory=list)
    syncs: list[float] = field(default_factory=list)


def measure(cases: Sequence[Case], rounds: int, directory: Path) -> tuple[list[Rates], Floors]:
    """Measure all cases, and what the machine can do, in turn.

    Args:
        cases: what to measure.
        rounds: how often (a count).
        directory: where the files are put.

    Returns:
        Figures of each case, in the same order; entry `i` of each was measured in the same round.

    Raises:
        BenchmarkError: something was not stored, or a bare loop has not stored the same as the engine.
    """
    empty = template(directory)
    found = []
    for case in cases:
        recorded = None if case.synchronous is None else record(case, empty)
        found.append(Rates(case=case, recorded=recorded))
    floors = Floors()
    for _ in range(rounds):
        with raw.sync_steps(directory / "raw") as step:
            floors.syncs.append(raw.while_it_lasts(step, _RAW_SECONDS))
        with raw.commit_steps(directory / "raw.db") as step:
            floors.commits.append(raw.while_it_lasts(step, _RAW_SECONDS))
        for rates in found:
            rates.engine.append(_engine(rates.case, empty))
            if rates.recorded is not None:
                rates.bare.append(replay(rates.recorded, empty))
    return found, floors


def template(directory: Path) -> Path:
    """Make the file of a store that holds nothing yet."""
    path = directory / "empty.db"

    async def make() -> None:
        store = create_sqlite_storage(path)
        await store.open(SystemClock())
        await store.close()

    asyncio.run(make())
    return path


def record(case: Case, empty: Path) -> Recorded:
    """Run the engine once, and record what its store asks SQLite for; then make sure that the tape stores the same.

    Raises:
        BenchmarkError: it does not.
    """
    assert case.synchronous is not None
    with ExitStack() as stack:
        path = stack.enter_context(copied(empty, "recorded.db"))
        with tape.recording() as entries:
            program = Program(create_sqlite_storage(path, synchronous=case.synchronous), case.load.subjects)
            start, end, taken = asyncio.run(_timed(program, case.load, entries))
        again = stack.enter_context(copied(empty, "again.db"))
        with tape.played(again) as connection:
            tape.run(connection, entries)
        if tape.contents(again) != tape.contents(path):
            raise BenchmarkError("the bare loop has not stored the same as the engine; their figures do not compare")
    return Recorded(
        packed=pickle.dumps(entries),
        start=start,
        end=end,
        turns=case.load.turns,
        commits=tape.transactions(entries[start:end]),
        rate=taken.rate,
    )


def replay(recorded: Recorded, empty: Path) -> Round:
    """Run the bare loop on a file of its own."""
    head, timed = recorded.entries()
    with copied(empty, "bare.db") as path, tape.played(path) as connection:
        tape.run(connection, head)
        gc.disable()  # nothing at all around the SQL
        try:
            stopwatch = _Stopwatch()
            tape.run(connection, timed)
            return stopwatch.round(recorded.turns)
        finally:
            gc.enable()


def _engine(case: Case, empty: Path) -> Round:
    if case.synchronous is None:
        return asyncio.run(_timed(Program(create_memory_storage(), case.load.subjects), case.load, ()))[2]
    with copied(empty, "engine.db") as path:
        program = Program(create_sqlite_storage(path, synchronous=case.synchronous), case.load.subjects)
        return asyncio.run(_timed(program, case.load, ()))[2]


async def _timed(program: Program, load: Load, entries: Sequence[tape.Entry]) -> tuple[int, int, Round]:
    """Emit a load; return where on the tape it begins and ends, and what it took."""
    async with program.bus:
        await program.warm_up()
        start, stopwatch = len(entries), _Stopwatch()
        await program.emit(load)
        return start, len(entries), stopwatch.round(load.turns)


class _Stopwatch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._start, self._on_cpu = time.perf_counter(), time.process_time()

    def round(self, turns: int) -> Round:
        """Return what these turns took."""
        on_cpu, seconds = time.process_time() - self._on_cpu, time.perf_counter() - self._start
        return Round(rate=turns / seconds, on_cpu=on_cpu / turns)
