"""`python -m benchmarks.durable.soak`: a mixed load at full rate for minutes, to see whether anything grows.

Belongs here: a load in which every event leads to something that can be counted, a line of figures now and then, and
the count at the end. What it prints is Markdown, to be pasted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks.durable.places import on_disk, size
from benchmarks.rounds import BenchmarkError
from onwhen import Context, EventBus, Receipt, RetryPolicy, RuleSet, Subject, create_sqlite_storage

__all__ = ["Line", "Soak", "main"]

_SUBJECTS: Final = 1_000
_HALLS: Final = 10
_MESSAGE, _TIMER, _RETRY, _APPEND = 20, 50, 100, 10  # each so many events lead to one, or are appended only
_UNHANDLED: Final = 100  # events that may have been appended and not be handled yet (a count)
_SETTLING: Final = 60.0  # seconds that what is left at the end may take
_MIB: Final = 1024 * 1024
_HEAD: Final = ("seconds", "turns/s", "RSS MiB", "file MiB", "WAL MiB", "pending", "timers", "retries", "dead")


class Device(Subject, prefix="device:"):
    level: int = -1
    readings: int = 0
    checks: int = 0
    mended: int = 0


class Hall(Subject, prefix="hall:"):
    notices: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """How things stood at one moment.

    Attributes:
        seconds: since the beginning.
        rate: turns per second since the line before.
        rss: bytes of memory that the process had; where that is not known, the most that it has ever had.
        file: bytes of the database.
        wal: bytes of its write-ahead log.
        pending: events accepted and not handled (a count).
        timers: timers that were set (a count).
        retries: rules that waited to be run again (a count).
        dead: dead letters (a count).
    """

    seconds: float
    rate: float
    rss: int
    file: int
    wal: int
    pending: int
    timers: int
    retries: int
    dead: int

    def row(self) -> str:
        """Return it as a row of a table."""
        sizes = (f"{bytes / _MIB:.1f}" for bytes in (self.rss, self.file, self.wal))
        counts = (f"{number:,}" for number in (self.pending, self.timers, self.retries, self.dead))
        return _row((f"{self.seconds:.0f}", f"{self.rate:,.0f}", *sizes, *counts))


class Soak:
    """A bus under a mixed load.

    Args:
        path: the database; it is made.
        synchronous: how surely a commit is on the disk when it is answered.
        emitters: how many wait for a receipt at the same time (a count).
    """

    def __init__(self, path: Path, synchronous: Literal["FULL", "NORMAL"], emitters: int) -> None:
        self._path = path
        self._emitters = emitters
        self._numbers = count()
        self._due: Counter[str] = Counter()  # what the emitted events have to lead to
        self._turns = 0
        self._start = self._last = time.monotonic()
        self._turns_then = 0
        self._is_over = False
        self.bus = EventBus(_devices(), _halls(), store=create_sqlite_storage(path, synchronous=synchronous))
        self.bus.observe(self._count)

    def _count(self, _: object) -> None:
        self._turns += 1

    async def run(self, seconds: float, every: float) -> list[Line]:
        """Emit for so long, and print a line every so often; then wait for what is left, and count.

        Raises:
            BenchmarkError: something was lost, done twice, or is left.
        """
        lines = []
        async with self.bus, asyncio.TaskGroup() as group:
            for _ in range(self._emitters):
                group.create_task(self._emit())
            group.create_task(self._append())
            while self._last - self._start < seconds:
                await asyncio.sleep(min(every, max(self._start + seconds - self._last, 0.01)))
                lines.append(await self._line())
                print(lines[-1].row(), flush=True)
            self._is_over = True
        return lines

    async def _emit(self) -> None:
        while not self._is_over:
            number = next(self._numbers)
            self._note(number)
            await self.bus.emit("device.measured", f"device:{number % _SUBJECTS}", {"level": number})

    async def _append(self) -> None:
        """Be a producer that does not wait for its events to be handled, only for there not to be too many."""
        unhandled: list[Receipt] = []
        while not self._is_over:
            number = next(self._numbers)
            self._note(number)
            unhandled.append(
                await self.bus.append("device.measured", f"device:{number % _SUBJECTS}", {"level": number})
            )
            if len(unhandled) == _UNHANDLED:
                for receipt in unhandled:
                    await receipt.handled()
                unhandled.clear()

    def _note(self, number: int) -> None:
        self._due["readings"] += 1
        self._due["notices"] += number % _MESSAGE == 0
        self._due["checks"] += number % _TIMER == 0
        self._due["mended"] += number % _RETRY == 0

    async def _line(self) -> Line:
        stats = await self.bus.store.stats()
        now, turns = time.monotonic(), self._turns
        line = Line(
            seconds=now - self._start,
            rate=(turns - self._turns_then) / (now - self._last),
            rss=_rss(),
            file=size(self._path),
            wal=size(self._path, "-wal"),
            pending=stats.pending,
            timers=stats.timers,
            retries=stats.retries,
            dead=stats.dead,
        )
        self._last, self._turns_then = now, turns
        return line

    async def settled(self) -> Counter[str]:
        """Wait until nothing is left to be done, and compare what was done with what had to be.

        Returns:
            What was done, as counts.

        Raises:
            BenchmarkError: they differ, or something is left.
        """
        async with self.bus:
            deadline = time.monotonic() + _SETTLING
            while (stats := await self.bus.store.stats()).pending or stats.timers or stats.retries:
                if time.monotonic() > deadline:
                    raise BenchmarkError(f"after {_SETTLING:.0f} s at rest this is left: {stats}")
                await asyncio.sleep(0.05)
            done: Counter[str] = Counter()
            for name in (*(f"device:{n}" for n in range(_SUBJECTS)), *(f"hall:{n}" for n in range(_HALLS))):
                subject: Any = await self.bus.read(name)
                done.update({key: subject.get(key, 0) for key in self._due if key in subject})
        if stats.dead or any(done[key] != self._due[key] for key in self._due):
            raise BenchmarkError(f"{dict(self._due)} had to be done, {dict(done)} was, with {stats.dead} dead letters")
        return done


def _devices() -> RuleSet:
    devices = RuleSet("devices", subject=Device)

    @devices.on("device.measured")
    def measure(ctx: Context[Device]) -> None:
        number = ctx.payload["level"]
        ctx.subject.level = number
        ctx.subject.readings += 1
        if number % _MESSAGE == 0:
            ctx.emit("hall.noticed", {"level": number}, subject=f"hall:{number // _MESSAGE % _HALLS}")
        if number % _TIMER == 0:
            ctx.emit("device.checked", delay=timedelta(seconds=1))

    @devices.on("device.measured", retry=RetryPolicy(attempts=3, delay=timedelta(milliseconds=50)))
    def mend(ctx: Context[Device]) -> None:
        if ctx.payload["level"] % _RETRY:
            return
        if ctx.attempt == 1:
            raise ConnectionError("not the first time")
        ctx.subject.mended += 1

    @devices.on("device.checked")
    def check(ctx: Context[Device]) -> None:
        ctx.subject.checks += 1

    return devices


def _halls() -> RuleSet:
    halls = RuleSet("halls", subject=Hall)

    @halls.on("hall.noticed")
    def notice(ctx: Context[Hall]) -> None:
        ctx.subject.notices += 1

    return halls


def _rss() -> int:
    """Return the memory of this process in bytes."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource  # not on Windows

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _row(cells: Sequence[str]) -> str:
    widths = [max(len(name), 8) for name in _HEAD]
    return f"| {' | '.join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))} |"


def summary(lines: Sequence[Line], warm_up: float, done: Counter[str]) -> str:
    """Return what to remember of it.

    Args:
        lines: at least one.
        warm_up: seconds after which memory is expected to stay as it is.
        done: what was done, as counts.
    """
    warm = [line for line in lines if line.seconds >= warm_up] or [lines[-1]]
    first, last = warm[0], warm[-1]
    turns = sum(line.rate for line in warm) / len(warm)
    rates = sorted(line.rate for line in warm)
    return "\n".join(
        [
            f"Turns per second: {turns:,.0f} on average ({rates[0]:,.0f} to {rates[-1]:,.0f} from line to line).",
            f"RSS: {first.rss / _MIB:.1f} MiB after {first.seconds:.0f} s, {last.rss / _MIB:.1f} MiB after "
            f"{last.seconds:.0f} s ({(last.rss - first.rss) / _MIB:+.1f}); most {max(x.rss for x in warm) / _MIB:.1f}.",
            f"File: {first.file / _MIB:.1f} MiB, then {last.file / _MIB:.1f}; WAL: at most "
            f"{max(line.wal for line in warm) / _MIB:.1f}; pending: at most {max(line.pending for line in warm):,}.",
            f"At the end everything was done exactly once: {done['readings']:,} events, {done['notices']:,} messages, "
            f"{done['checks']:,} timers, {done['mended']:,} retries; no dead letter.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak; return an exit code, which is 1 if anything was lost or done twice."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durable.soak", description="A mixed load for minutes.")
    parser.add_argument("--minutes", type=float, default=10.0, help="default: %(default)s")
    parser.add_argument("--warm-up", type=float, default=30.0, help="in seconds (default: %(default)s)")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between lines (default: %(default)s)")
    parser.add_argument("--emitters", type=int, default=256, help="at the same time (default: %(default)s)")
    parser.add_argument("--synchronous", choices=("FULL", "NORMAL"), default="FULL", help="default: %(default)s")
    parser.add_argument("--directory", type=Path, help="on the disk to be measured (default: .bench)")
    options = parser.parse_args(arguments)
    print(_row(_HEAD))
    print(f"| {' | '.join('-' * (max(len(name), 8) - 1) + ':' for name in _HEAD)} |", flush=True)
    try:
        with on_disk(options.directory) as directory:
            soak = Soak(directory / "soak.db", options.synchronous, options.emitters)
            lines = asyncio.run(_run(soak, options.minutes * 60, options.every))
            done = asyncio.run(soak.settled())
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"\n{summary(lines, options.warm_up, done)}")
    return 0


async def _run(soak: Soak, seconds: float, every: float) -> list[Line]:
    return await soak.run(seconds, every)


if __name__ == "__main__":
    sys.exit(main())
