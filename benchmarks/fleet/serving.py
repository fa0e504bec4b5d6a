"""A contender's side: make a backlog, handle it whenever it is asked to, and say how long that took.

Belongs here: the stopwatch and the talk with the measuring side, which are the same for all contenders. It must not
import any of them, because every contender's environment runs it; so it keeps to the standard library and redis-py,
which all of them have.

One JSON object per line: first `{"contender", "version"}`; then, for each round that is asked for, what
`Progress.taken` returns. The end of the input ends the contender.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

from redis import Redis

from benchmarks.fleet.load import Contents, contents_after

__all__ = ["Program", "Progress", "ServerClock", "say", "serve"]

_STALLED = 60.0
"""After this time without the last event, a contender gives up (seconds); a round is meant to take about one."""


_GENERATIONS = (10_000, 10, 10)
"""What the guide for operators tells a service with thousands of events a second to set; all contenders have it."""


class ServerClock:
    """How much CPU time the Redis server has used.

    Args:
        url: address of the server.
    """

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(url)

    def seconds(self) -> float:
        """Return the CPU time of the server's process so far (seconds)."""
        info: Any = self._redis.info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


class Progress:
    """A stopwatch that runs from when the first events are handled until the last one is.

    Args:
        warm: events that are handled before the time counts (a count): connections, caches, compiled classes.
        events: events that count (a count).
        server: asked for the server's CPU time at both ends.
    """

    def __init__(self, warm: int, events: int, server: ServerClock) -> None:
        self._warm, self._total, self._server = warm, warm + events, server
        self._done = asyncio.Event()
        self._start: tuple[int, float, float, float] | None = None
        self._end: tuple[int, float, float, float] | None = None
        self.handled = 0

    @property
    def is_over(self) -> bool:
        """Whether the last one is handled."""
        return self._end is not None

    def add(self, handled: int = 1) -> None:
        """Note that so many more are handled, for good."""
        self.reach(self.handled + handled)

    def reach(self, handled: int) -> None:
        """Note how many are handled by now (a count)."""
        self.handled = handled
        if self._start is None and handled >= self._warm:
            self._start = self._now()
        if self._end is None and handled >= self._total:
            self._end = self._now()
            self._done.set()

    async def finished(self) -> None:
        """Wait for the last one.

        Raises:
            RuntimeError: it has not come for a minute.
        """
        try:
            async with asyncio.timeout(_STALLED):
                await self._done.wait()
        except TimeoutError:
            raise RuntimeError(f"{self.handled} of {self._total} handled after {_STALLED:.0f} s") from None

    def taken(self) -> dict[str, float]:
        """Return the events that count; when they began and ended, and the CPU time of both processes (seconds)."""
        if self._start is None or self._end is None:
            raise RuntimeError(f"{self.handled} of {self._total} handled: there is nothing to tell")
        handled, _, on_cpu, server = (end - start for start, end in zip(self._start, self._end, strict=True))
        return {"events": handled, "began": self._start[1], "ended": self._end[1], "on_cpu": on_cpu, "server": server}

    def _now(self) -> tuple[int, float, float, float]:
        return self.handled, time.perf_counter(), time.process_time(), self._server.seconds()


class Program(Protocol):
    """A contender, connected and ready."""

    name: str
    version: str
    warm: int
    """Events before the time counts (a count)."""

    async def load(self, first: int, events: int) -> None:
        """Put events into whatever it takes them from; their numbers run on from `first`."""
        ...

    async def drain(self, progress: Progress) -> object:
        """Handle all of them, and note them in `progress`; return when that has seen the last one."""
        ...

    async def contents(self) -> Contents:
        """Return what is stored now of each subject."""
        ...


async def serve(program: Program, url: str, more: Callable[[Mapping[str, Any]], Awaitable[None]] | None = None) -> None:
    """Be a contender until the input ends.

    Args:
        program: who.
        url: address of the Redis server.
        more: does, and answers, what is asked apart from rounds.
    """
    gc.set_threshold(*_GENERATIONS)
    server, number = ServerClock(url), 0
    say(contender=program.name, version=program.version)
    async for command in _commands():
        if command["do"] != "round":
            assert more is not None
            await more(command)
            continue
        events = command["events"]
        await program.load(number, program.warm + events)
        number += program.warm + events
        progress = Progress(program.warm, events, server)
        await program.drain(progress)
        if await program.contents() != contents_after(number):
            raise RuntimeError(f"{program.name}: what is stored is not what {number} events make")
        say(**progress.taken())


async def _commands() -> AsyncIterator[dict[str, Any]]:
    """Go through what is asked for, each a JSON object in a line."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield json.loads(line)


def say(**facts: Any) -> None:
    """Answer with a JSON object in a line."""
    print(json.dumps(facts), flush=True)
