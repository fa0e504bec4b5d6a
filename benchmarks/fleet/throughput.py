"""Events per second out of a backlog, contender by contender, round by round.

Belongs here: the order of rounds. It must not know who the contenders are, nor how figures are shown.

The rounds of all contenders alternate, and ratios are taken within a round: a machine that gets busier meanwhile slows
all of them.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from benchmarks.fleet.load import SUBJECTS, subject_of
from benchmarks.fleet.processes import Contender, Started, Taken
from benchmarks.rounds import BenchmarkError
from onwhen.engine.partitions import partition_of

__all__ = ["Backlog", "Series", "Two", "backlog", "measure", "onwhen", "two_workers"]

_PARTITIONS: Final = 16
_CHUNK: Final = 50_000  # events of a long backlog that are loaded at a time (a count)
_LONGEST: Final = 150.0  # seconds after which the rest of a long backlog is left


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What one contender took.

    Attributes:
        name: its name.
        version: its version.
        rounds: one entry a round; entry `i` of all contenders was measured in the same turn.
    """

    name: str
    version: str
    rounds: tuple[Taken, ...]

    @property
    def rates(self) -> tuple[float, ...]:
        """Events per second, round by round."""
        return tuple(taken.rate for taken in self.rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Two:
    """One worker, and two that share the partitions.

    Attributes:
        one: events per second of the one, round by round.
        both: of the two together.
        cores: how many cores the two and the server used together (a count).
    """

    one: tuple[float, ...]
    both: tuple[float, ...]
    cores: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """A long backlog, and how it went.

    Attributes:
        made: how many there were (a count).
        events: how many were handled (a count); fewer if that took too long.
        loading: how long it took to append them (seconds).
        seconds: how long it took to handle them.
        pieces: events per second of each tenth of those that were handled.
        memory: of the worker's process: at the start, after each tenth (bytes).
        server: of the server: with the backlog, and at the end (bytes).
    """

    made: int
    events: int
    loading: float
    seconds: float
    pieces: tuple[float, ...]
    memory: tuple[int, ...]
    server: tuple[int, int]


def onwhen(partitions: int = _PARTITIONS) -> Contender:
    """Return the worker over a store with so many partitions."""
    return Contender(python=sys.executable, module="onwhen", arguments=(str(partitions),))


async def measure(contenders: Sequence[Contender], rounds: int, seconds: float, url: str) -> list[Series]:
    """Measure contenders in turn.

    Args:
        contenders: whom; the order is the order within each turn.
        rounds: how many of each, after the warm-up (a count).
        seconds: how long a round shall take.
        url: address of the server that they share.

    Returns:
        One series a contender, in the same order.

    Raises:
        BenchmarkError: one failed.
    """
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(Started.start(contender, url)) for contender in contenders]
        events = [await contender.calibrate(seconds) for contender in started]
        taken: list[list[Taken]] = [[] for _ in started]
        for _ in range(rounds):
            for contender, number, found in zip(started, events, taken, strict=True):
                found.append(await contender.round(number))
        return [
            Series(name=contender.name, version=contender.version, rounds=tuple(found))
            for contender, found in zip(started, taken, strict=True)
        ]


async def two_workers(rounds: int, seconds: float, url: str) -> Two:
    """Compare one worker with two that own half of the partitions each; arguments as for `measure`.

    Two are taken from when the first of them is warm until the last event of both is handled, so that what the less
    busy half does not do at the end counts against them.
    """
    halves = [list(range(0, _PARTITIONS, 2)), list(range(1, _PARTITIONS, 2))]
    async with Started.start(onwhen(), url) as first, Started.start(onwhen(), url) as second:
        number = round(await first.calibrate(seconds) / SUBJECTS + 1) * SUBJECTS
        one, both, cores = [], [], []
        loaded = 2 * SUBJECTS + number
        own = [sum(partition_of(subject_of(n), _PARTITIONS) in half for n in range(SUBJECTS)) for half in halves]
        for _ in range(rounds):
            await first.ask(do="load", first=0, events=loaded)
            alone = await first.ask(do="drain", warm=2 * SUBJECTS, events=number, own=halves[0] + halves[1])
            one.append(alone["events"] / (alone["ended"] - alone["began"]))
            await first.ask(do="load", first=0, events=loaded)
            answers = await asyncio.gather(
                *(
                    worker.ask(do="drain", warm=2 * count, events=number // SUBJECTS * count, own=half)
                    for worker, half, count in zip((first, second), halves, own, strict=True)
                )
            )
            wall = max(answer["ended"] for answer in answers) - min(answer["began"] for answer in answers)
            both.append(sum(answer["events"] for answer in answers) / wall)
            on_server = max(answer["server"] for answer in answers)
            cores.append((sum(answer["on_cpu"] for answer in answers) + on_server) / wall)
        return Two(one=tuple(one), both=tuple(both), cores=tuple(cores))


async def backlog(events: int, url: str, used: Callable[[], int], longest: float = _LONGEST) -> Backlog:
    """Have one worker handle a long backlog that another process has made.

    Args:
        events: how many (a count).
        url: address of the server.
        used: tells how much memory the server uses (bytes).
        longest: what is left after this time is left (seconds).

    Raises:
        BenchmarkError: the worker failed, or has handled nothing.
    """
    async with Started.start(onwhen(), url) as worker:
        async with Started.start(onwhen(), url) as loader:
            began = asyncio.get_running_loop().time()
            for first in range(0, events, _CHUNK):
                await loader.ask(do="load", first=first, events=min(_CHUNK, events - first))
            loading = asyncio.get_running_loop().time() - began
        full = used()
        answer = await worker.ask(2 * _LONGEST, do="drain", events=events, own=None, most=longest)
    course: list[tuple[float, int, int]] = answer["course"]
    handled = course[-1][1]
    if not handled:
        raise BenchmarkError(f"a worker has handled nothing of its backlog in {longest:.0f} s")
    tenths = (handled * n // 10 for n in range(1, 11))
    marks = [course[0], *(next(entry for entry in course if entry[1] >= tenth) for tenth in tenths)]
    return Backlog(
        made=events,
        events=handled,
        loading=loading,
        seconds=course[-1][0] - course[0][0],
        pieces=tuple(
            (done - before) / (end - start) for (start, before, _), (end, done, _) in pairwise(marks) if end > start
        ),
        memory=tuple(memory for _, _, memory in marks),
        server=(full, used()),
    )
