"""Processes that end badly in one certain way: `python -m tests.chaos.cases CASE FILE`.

Belongs here: what each of them does. It must not know who starts it, nor what has to be true afterwards.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from onwhen import Context, EventBus, Limits, RetryPolicy, RuleSet
from onwhen.errors import StoreFull
from onwhen.storage import create_sqlite_storage

__all__ = ["LOAD", "NOTES", "SUBJECTS", "bus_on", "main"]

NOTES: Final = 60  # events that the full disk is filled with (a count)
LOAD: Final = "x" * 20_000
SUBJECTS: Final = 40  # that are worked on when the process is killed (a count)
_MOMENT: Final = timedelta(milliseconds=10)

cases = RuleSet("cases")


def count(ctx: Context[Any]) -> None:
    """Keep what was handled; what is handled twice is there twice."""
    event = ctx.event
    assert event is not None
    ctx.subject.set("seen", lambda seen: [*(seen or []), event.id])


@cases.on("note")
def note(ctx: Context[Any]) -> None:
    """Counts, and stores what takes room."""
    count(ctx)
    ctx.subject.set(f"load {ctx.payload['n']}", LOAD)


@cases.on("plain")
def plain(ctx: Context[Any]) -> None:
    """Counts."""
    count(ctx)


@cases.on("slow")
async def slow(ctx: Context[Any]) -> None:
    """Is under way for as long as somebody waits for that."""
    count(ctx)
    tell("begun")
    if os.environ.get("CASES_SLOW"):
        await asyncio.Event().wait()


@cases.on("lead to")
async def lead_to(ctx: Context[Any]) -> None:
    """Leads to what kills, as a message or a timer."""
    count(ctx)
    if ctx.payload == "message":
        await ctx.emit("kill", subject="victim")
    else:
        await ctx.emit("kill", delay=_MOMENT)


@cases.on("kill", retry=RetryPolicy(attempts=5, delay=_MOMENT))
def kill(ctx: Context[Any]) -> None:
    """Ends the process; of a retry, at the second attempt."""
    if ctx.payload == "retry" and ctx.attempt == 1:
        raise ConnectionError("not yet")
    tell("kill")
    os.kill(os.getpid(), signal.SIGKILL)


def tell(what: str) -> None:
    """Say how far it is."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def bus_on(path: str | Path) -> EventBus:
    """Return a bus with the rules of all cases."""
    return EventBus(cases, store=create_sqlite_storage(path), limits=Limits(max_concurrent_turns=100))


async def fill(bus: EventBus) -> None:
    """Append until all is accepted; when there is no room, say so, and try again a moment later."""
    for number in range(NOTES):
        while True:
            try:
                await bus.append("note", f"s{number % 7}", {"n": number, "load": LOAD}, id=f"n{number}")
            except StoreFull as error:
                tell(f"full {number} {error}")
            else:
                tell(f"accepted {number}")
                break
    await bus.idle()


async def work(bus: EventBus) -> None:
    """Have many turns under way at once."""
    await asyncio.gather(*(bus.append("slow", f"s{n}", id=f"w{n}") for n in range(SUBJECTS)))
    await bus.idle()


def poison(how: str) -> Callable[[EventBus], Awaitable[None]]:
    """Return a case: among others, one event that kills the process."""

    async def run(bus: EventBus) -> None:
        for number in range(10):
            await bus.append("plain", f"s{number % 3}", id=f"a{number}")
        if how in ("message", "timer"):
            await bus.append("lead to", "victim", how, id="lead")
        else:
            await bus.append("kill", "victim", how, id="kill")
        for number in range(10):
            await bus.append("plain", f"s{number % 3}", id=f"b{number}")
        await bus.append("plain", "victim", id="after")
        await rest(bus)

    return run


async def rest(bus: EventBus) -> None:
    """Wait until nothing is left to be done."""
    while True:
        await bus.idle()
        stats = await bus.store.stats()
        if not (stats.pending or stats.timers or stats.retries):
            return
        await asyncio.sleep(0.01)


CASES: Final[dict[str, Callable[[EventBus], Awaitable[None]]]] = {
    "fill": fill,
    "work": work,
    "rest": rest,
    **{how: poison(how) for how in ("event", "retry", "message", "timer")},
}


async def main(case: str, path: str) -> None:
    """Live a case."""
    async with bus_on(path) as bus:
        await CASES[case](bus)
    tell("done")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
