"""The measuring side: workers that are asked for rounds in turn.

Belongs here: processes, calibration and the order of rounds. It must not know what is measured, nor how the
figures are shown.

The rounds of two contenders alternate, A B A B, and are compared pair by pair: a machine that gets slower or
busier meanwhile slows both halves of a pair.
"""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

__all__ = ["ROOT", "BenchmarkError", "Contender", "Effort", "Named", "Series", "Worker", "measure", "measure_in_turn"]

ROOT: Final = Path(__file__).resolve().parent.parent
_ANSWER_TIMEOUT: Final = 120.0
"""How long a worker may take to get ready or to run a round, in seconds; a round is meant to take a fraction of one."""


class BenchmarkError(Exception):
    """The measurement could not be made; the message says why."""


class Named(Protocol):
    """A case: something that workers know by a name."""

    @property
    def name(self) -> str:
        """What a worker is told to get ready."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Something to measure.

    Attributes:
        python: the interpreter that has it installed.
        module: the worker, run with `-m` from the root of the repository.
    """

    python: str
    module: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much to measure.

    Attributes:
        rounds: how many for each contender and case, after the warm-up (a count).
        seconds: how long a round shall take.
    """

    rounds: int = 15
    seconds: float = 0.2

    def __post_init__(self) -> None:
        if self.rounds < 1 or not 0 < self.seconds <= 60:
            raise BenchmarkError(f"{self.rounds} rounds of {self.seconds} s: at least 1 round, of at most 60 seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What one contender took for one case.

    Attributes:
        contender: its name.
        version: its version.
        python: version of the interpreter that ran it.
        events: how many events a round had (a count).
        nanoseconds: time per event, one entry a round, in the order in which they were run.
        on_cpu: the share of that time in which it had a CPU, 0 to 1; what is missing, other programs took.
        cpu: CPU time per event, one entry a round as above, in nanoseconds.
    """

    contender: str
    version: str
    python: str
    events: int
    nanoseconds: tuple[float, ...]
    on_cpu: float
    cpu: tuple[float, ...] = ()


class Worker:
    """A process that has one case of one contender ready; made with `Worker.start`."""

    def __init__(self, process: Process, module: str, hello: dict[str, Any]) -> None:
        self._process = process
        self._module = module
        self.contender = str(hello["contender"])
        self.version = str(hello["version"])
        self.python = str(hello["python"])

    @classmethod
    @asynccontextmanager
    async def start(cls, contender: Contender, case: Named) -> AsyncIterator[Self]:
        """Run a worker for as long as the block lasts.

        Raises:
            BenchmarkError: it could not get ready.
        """
        command = (contender.python, "-m", contender.module, case.name)
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, cwd=ROOT)
        try:
            yield cls(process, contender.module, await _answer(process, contender.module))
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def round(self, events: int) -> tuple[int, int]:
        """Let it emit `events` events; return how long that took, and how much of it on a CPU, in nanoseconds.

        Raises:
            BenchmarkError: it failed, or took far too long.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % events)
        answer = await _answer(self._process, self._module)
        return int(answer["nanoseconds"]), int(answer["on_cpu"])

    async def calibrate(self, seconds: float) -> int:
        """Return how many events make a round of about `seconds`; finding out warms the worker up."""
        events, wanted = 1, seconds * 1e9
        while True:
            took, _ = await self.round(events)
            if took >= wanted / 2:
                break
            events *= min(max(round(wanted / max(took, 1)), 2), 10)
        return max(round(events * wanted / took), 1)


async def measure(case: Named, contenders: Sequence[Contender], effort: Effort) -> list[Series]:
    """Measure a case, the contenders in turn; see `measure_in_turn`."""
    return await measure_in_turn([(contender, case) for contender in contenders], effort)


async def measure_in_turn(pairs: Sequence[tuple[Contender, Named]], effort: Effort) -> list[Series]:
    """Measure contenders with a case each, in turn.

    Args:
        pairs: whom, and what of it; the order is the order within each turn.
        effort: how much.

    Returns:
        One series a pair, in the same order; entry `i` of each was measured in the same turn.

    Raises:
        BenchmarkError: a worker failed.
    """
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(Worker.start(*pair)) for pair in pairs]
        events = [await worker.calibrate(effort.seconds) for worker in workers]
        for worker, number in zip(workers, events, strict=True):
            await worker.round(number)
        taken: list[list[tuple[int, int]]] = [[] for _ in workers]
        for _ in range(effort.rounds):
            for worker, number, times in zip(workers, events, taken, strict=True):
                times.append(await worker.round(number))
        return [
            Series(
                contender=worker.contender,
                version=worker.version,
                python=worker.python,
                events=number,
                nanoseconds=tuple(nanoseconds / number for nanoseconds, _ in times),
                on_cpu=min(sum(on_cpu for _, on_cpu in times) / sum(nanoseconds for nanoseconds, _ in times), 1.0),
                cpu=tuple(on_cpu / number for _, on_cpu in times),
            )
            for worker, number, times in zip(workers, events, taken, strict=True)
        ]


async def _answer(process: Process, module: str) -> dict[str, Any]:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT):
            line = await process.stdout.readline()
    except TimeoutError:
        raise BenchmarkError(f"{module} has not answered for {_ANSWER_TIMEOUT:.0f} seconds") from None
    if not line:
        raise BenchmarkError(f"{module} has ended by itself; what it says about that is above")
    answer: dict[str, Any] = json.loads(line)
    return answer
