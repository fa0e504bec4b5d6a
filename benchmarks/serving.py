"""A worker's side: prepare one case, then run a round of events whenever it is asked to, and say how long that took.

Belongs here: the loop that is timed, which is the same for all contenders. It must not import any of them, because
every contender's environment runs it; so it keeps to the standard library.

One JSON object per line: first `{"contender", "version", "python"}`; then, for each number of events that is read
from standard input, `{"nanoseconds", "on_cpu"}`. The end of the input ends the worker.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import platform
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

__all__ = ["Program", "Tally", "serve"]


class Tally:
    """Counts how often the rules that end a case have run, so that no contender can be fast by doing nothing."""

    __slots__ = ("fired",)

    def __init__(self) -> None:
        self.fired = 0


class Program:
    """One case, made ready in one contender.

    Args:
        emit: the contender's own way to emit an event and wait until it is handled.
        arguments: what it is called with, one tuple an event; begun again at the end.
        tally: raised by one for each event, by the last rule that it reaches.
    """

    def __init__(self, emit: Callable[..., Awaitable[Any]], arguments: Iterable[tuple[Any, ...]], tally: Tally) -> None:
        self._emit = emit
        self._arguments: Iterator[tuple[Any, ...]] = itertools.cycle(list(arguments))
        self._tally = tally

    async def round(self, events: int) -> tuple[int, int]:
        """Emit some events, one after the other.

        Args:
            events: how many (a count).

        Returns:
            Wall-clock time, and how much of it was spent on a CPU, in nanoseconds. The garbage collector runs as it
            does in production.

        Raises:
            RuntimeError: not every event has reached its rule exactly once.
        """
        emit, tally = self._emit, self._tally
        calls = list(itertools.islice(self._arguments, events))
        before = tally.fired
        start, start_on_cpu = time.perf_counter_ns(), time.process_time_ns()
        for arguments in calls:
            await emit(*arguments)
        nanoseconds, on_cpu = time.perf_counter_ns() - start, time.process_time_ns() - start_on_cpu
        if tally.fired - before != events:
            raise RuntimeError(f"{events} events were emitted, but the rule ran {tally.fired - before} times")
        return nanoseconds, on_cpu


def serve(contender: str, version: str, cases: Mapping[str, Callable[[], Program]]) -> None:
    """Be a worker: run the case that the command line names until the input ends.

    Args:
        contender: what is measured.
        version: which version of it.
        cases: how to prepare each case, by its name.
    """
    program = cases[sys.argv[1]]()
    _say(contender=contender, version=version, python=platform.python_version())
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            nanoseconds, on_cpu = runner.run(program.round(int(line)))
            _say(nanoseconds=nanoseconds, on_cpu=on_cpu)


def _say(**facts: str | int) -> None:
    print(json.dumps(facts), flush=True)
