"""How long one `emit` takes on a durable bus that has nothing else to do, beside what the disk takes.

Belongs here: single steps, a pause before each, one of each kind in turn. It must not know how the figures are shown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.durable import raw, tape
from benchmarks.durable.load import SUBJECTS, Load, Program
from benchmarks.durable.places import copied
from benchmarks.durable.turns import Case, record, template
from benchmarks.rounds import BenchmarkError
from onwhen import create_sqlite_storage

__all__ = ["SETTLE", "Latencies", "measure", "pieces"]

SETTLE: Final = 30_000
"""Turns after which the write-ahead log has its full size and is written over, as in a service that has been up for a
while; before, the file grows, and one that grows is slower to make sure of (a count)."""
_LOG: Final = 16 * 1024 * 1024  # bytes of that size
_SETTLED: Final = 0.5  # seconds after which a bus has come to rest, and its store has made its checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """How long each step took, in seconds, one figure a turn; entry `i` of all was measured in the same turn.

    Attributes:
        emit: an event accepted and handled, with two commits (synchronous=FULL).
        bare: the SQL of one such event in a bare loop.
        commit: one small row committed by SQLite (synchronous=FULL).
        sync: 4 KiB appended to a file and made sure of.
    """

    emit: tuple[float, ...]
    bare: tuple[float, ...]
    commit: tuple[float, ...]
    sync: tuple[float, ...]


def measure(
    samples: int, pause: float, directory: Path, *, subjects: int = SUBJECTS, settle: int = SETTLE
) -> Latencies:
    """Measure latencies at rest.

    Args:
        samples: how many of each kind (a count).
        pause: seconds in which nothing happens before each.
        directory: where the files are put.
        subjects: how many subjects the events go to in turn (a count).
        settle: how many turns the engine has had before (a count).
    """
    empty = template(directory)
    recorded = record(Case(load=Load(emitters=1, turns=samples, subjects=subjects), synchronous="FULL"), empty)
    head, timed = recorded.entries()
    parts = iter(pieces(timed, samples))
    with ExitStack() as stack:
        bare = stack.enter_context(tape.played(stack.enter_context(copied(empty, "bare.db", log=_LOG))))
        tape.run(bare, head)
        bare.execute("PRAGMA wal_checkpoint").fetchall()  # the engine has had one when it is at rest
        steps = [
            lambda: tape.run(bare, next(parts)),
            stack.enter_context(raw.commit_steps(directory / "raw.db")),
            stack.enter_context(raw.sync_steps(directory / "raw")),
        ]
        path = stack.enter_context(copied(empty, "engine.db"))
        return asyncio.run(_taken(Program(create_sqlite_storage(path), subjects), steps, samples, pause, settle))


def pieces(entries: Sequence[tape.Entry], turns: int) -> list[Sequence[tape.Entry]]:
    """Cut what a single emitter has led to into its turns: each goes up to its second commit.

    Raises:
        BenchmarkError: that is not how many turns there were.
    """
    found: list[Sequence[tape.Entry]] = []
    start = commits = 0
    for index, (_, sql, _) in enumerate(entries):
        commits += sql == "COMMIT"
        if commits == 2:
            found.append(entries[start : index + 1])
            start, commits = index + 1, 0
    if len(found) != turns or commits:
        raise BenchmarkError(f"{turns} turns of two commits each were to be recorded, not {len(found)}")
    return found


async def _taken(
    program: Program, steps: Sequence[Callable[[], None]], samples: int, pause: float, settle: int
) -> Latencies:
    taken: list[list[float]] = [[] for _ in range(1 + len(steps))]
    async with program.bus:
        await program.warm_up()
        await program.emit(Load(emitters=256, turns=settle))
        await asyncio.sleep(_SETTLED)
        for _ in range(samples):
            await asyncio.sleep(pause)
            start = time.perf_counter()
            await program.one()
            taken[0].append(time.perf_counter() - start)
            for step, series in zip(steps, taken[1:], strict=True):
                await asyncio.sleep(pause)
                series.append(raw.timed(step))
    emit, bare, commit, sync = map(tuple, taken)
    return Latencies(emit=emit, bare=bare, commit=commit, sync=sync)
