"""onwhen: a worker on a fleet's store, and what its figures are taken with.

What is asked of it, by `do`: `round`, as of every contender; `load`, make a backlog and leave it; `drain`, handle what
others have left, with what it took over time; `arrive`, handle what comes one at a time, with the moment at which each
commit was answered.
"""

from __future__ import annotations

import asyncio
import math
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from benchmarks.fleet.load import BATCH, EVENT_TYPE, PREFIX, SUBJECTS, Contents, subject_of
from benchmarks.fleet.serving import Progress, ServerClock, say, serve
from onwhen import Context, Event, EventBus, RuleSet, Subject, Worker, __version__, partition_of
from onwhen.engine.promise import Promise
from onwhen.engine.store import Answer, Commit, CommitResult
from onwhen.errors import StoreError
from onwhen.storage.redis import create_redis_storage

_LOOK: Final = 0.005  # seconds between looks at how far the worker is
_MOST: Final = 5_000_000  # pending events at which producers are told to wait; more than is ever loaded
_STALLED: Final = 60.0  # seconds without an event, after which it is given up


class Device(Subject, prefix=PREFIX):
    level: int = -1
    readings: int = 0


def rules() -> RuleSet:
    """Return the one rule."""
    devices = RuleSet("devices", subject=Device)

    @devices.on(EVENT_TYPE)
    def measure(ctx: Context[Device]) -> None:
        ctx.subject.level = ctx.payload["level"]
        ctx.subject.readings += 1

    return devices


class Fleet:
    """A worker whenever there is work, and the store in between.

    Args:
        url: address of the Redis server.
        partitions: how many partitions the store has (a count).
    """

    name, version, warm = "onwhen", __version__, 2 * SUBJECTS

    def __init__(self, url: str, partitions: int) -> None:
        self._url, self._partitions = url, partitions
        self._server = ServerClock(url)

    def store(self) -> Any:
        """Return the store, to be opened."""
        prefix = f"onwhen{self._partitions}"
        return create_redis_storage(self._url, prefix, partitions=self._partitions, max_backlog=_MOST)

    async def load(self, first: int, events: int) -> None:
        """Append events as `emit` makes them, numbered from `first`; each partition gets its own in batches."""
        waiting: list[list[Event]] = [[] for _ in range(self._partitions)]
        async with EventBus(store=self.store()) as bus:
            for start in range(first, first + events, BATCH * self._partitions):
                now = datetime.now(UTC)
                for number in range(start, min(start + BATCH * self._partitions, first + events)):
                    event = Event(EVENT_TYPE, subject_of(number), {"level": number}, time=now)
                    waiting[partition_of(event.subject, self._partitions)].append(event)
                full = [(n, batch) for n, batch in enumerate(waiting) if batch]
                await asyncio.gather(*(bus.store.append(n, batch) for n, batch in full))
                for _, batch in full:
                    batch.clear()

    async def drain(
        self, progress: Progress, own: Sequence[int] | None = None, most: float = math.inf
    ) -> list[tuple[float, int, int]]:
        """Let a worker handle what is pending, until `progress` has seen all of it.

        Args:
            progress: told how many are handled.
            own: partitions that the worker owns; None for its share.
            most: what is left after this time is left (seconds).

        Returns:
            Every half second or so: the moment (seconds), events handled (a count), memory of the process (bytes).
        """
        course = [(time.perf_counter(), 0, _memory())]
        async with Worker(EventBus(rules(), store=self.store()), own=own) as worker:
            while not progress.is_over and time.perf_counter() < course[0][0] + most:
                progress.reach(worker.status().turns)
                now, handled, _ = course[-1]
                if time.perf_counter() - now > 0.5 and progress.handled > handled:
                    course.append((time.perf_counter(), progress.handled, _memory()))
                elif time.perf_counter() - now > _STALLED:
                    raise RuntimeError(f"{progress.handled} handled, and nothing for a while: {worker.status()}")
                await asyncio.sleep(_LOOK)
            course.append((time.perf_counter(), progress.handled, _memory()))
        return course

    async def contents(self) -> Contents:
        """Return what is stored now of each subject."""
        async with EventBus(store=self.store()) as bus:
            return {
                record.name: (int(record.properties["level"]), int(record.properties["readings"]))
                async for record in bus.store.subjects(PREFIX)
            }

    # -- what is asked apart from rounds

    async def more(self, command: Mapping[str, Any]) -> None:
        """Do it, and answer."""
        match command:
            case {"do": "load", "first": first, "events": events}:
                await self.load(first, events)
                say(loaded=events)
            case {"do": "drain", "events": events, "own": own, "most": most}:
                progress = Progress(0, events, self._server)
                say(course=await self.drain(progress, own, most))
            case {"do": "drain", "warm": warm, "events": events, "own": own}:
                progress = Progress(warm, events, self._server)
                await self.drain(progress, own)
                say(**progress.taken())
            case {"do": "arrive", "events": events}:
                await self._arrive(events)
            case _:
                raise ValueError(f"not known: {command}")

    async def _arrive(self, events: int) -> None:
        """Handle events one at a time; say when it is ready, and for each when its commit was answered."""
        store, moments = self.store(), list[float]()
        commit, is_over = store.commit, asyncio.Event()

        def timed(turn: Commit) -> Promise[CommitResult]:
            told: Promise[CommitResult] = Promise()

            def answered(answer: Promise[CommitResult]) -> None:
                try:
                    result = answer.result()
                except StoreError as error:
                    told.fail(error)
                    return
                if result.answer is Answer.OK:
                    moments.append(time.perf_counter())
                    if len(moments) == events:
                        is_over.set()
                told.keep(result)

            commit(turn).then(answered)
            return told

        store.commit = timed
        async with Worker(EventBus(rules(), store=store)) as worker, asyncio.timeout(None) as limit:
            limit.reschedule(asyncio.get_running_loop().time() + _STALLED)
            while not worker.status().is_ready:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK)
            limit.reschedule(None)
            say(ready=True)
            await is_over.wait()
        say(moments=moments)


def _memory() -> int:
    """Return the memory of this process that lies in RAM (bytes)."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # not Linux: the most that it ever was
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def main() -> None:
    url, partitions = sys.argv[1:]
    fleet = Fleet(url, int(partitions))
    await serve(fleet, url, fleet.more)


if __name__ == "__main__":
    asyncio.run(main())
