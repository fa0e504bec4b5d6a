"""The help desk on several workers: one is killed now and then, and nothing is lost, done twice, or out of order.

Run it with `make fleet`, or `python -m examples.fleet`. It starts a Redis-compatible server and the workers, sends
four years of events, kills and replaces workers meanwhile, and compares what is stored in the end with what
`onwhen replay` makes of the same events in one process.
"""

import argparse
import asyncio
import gzip
import hashlib
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from examples.fleet.crew import Crew, WorkerEnded
from examples.fleet.desk import Desk
from examples.fleet.screen import Figures, Screen
from examples.fleet.watch import Watch, quiet
from examples.helpdesk.__main__ import LOG
from examples.helpdesk.rules import customers, tickets
from onwhen import Event, EventBus
from onwhen.cli._dump import dump_subjects
from onwhen.storage.redis import create_redis_storage
from onwhen.testing.servers import RedisServer

RULES: Final = "examples.helpdesk.rules"
PREFIX: Final = "fleet"
LOOK: Final = 0.25  # seconds between two looks at the fleet
PATIENCE: Final = 120.0  # seconds for something that has to happen


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done.

    Attributes:
        workers: how many there are at a time (a count).
        partitions: into how many partitions the subjects are divided (a count).
        seconds: how long the sending takes, if the workers take what is sent.
        kill_every: seconds from one kill of a worker to the next; 0 for none.
        lease: how long a worker that is gone keeps its partitions (seconds).
        dump: where to write the final state; None for nowhere.
    """

    workers: int
    partitions: int
    seconds: float
    kill_every: float
    lease: float
    dump: Path | None


def main(arguments: list[str] | None = None) -> int:
    """Run it.

    Returns:
        The exit code: 0 if both states are the same to the byte.
    """
    try:
        return asyncio.run(run(planned(arguments), Console()))
    except KeyboardInterrupt:
        return 130  # as a shell has it
    except BaseExceptionGroup as errors:
        ended = errors.subgroup(WorkerEnded)
        if ended is None:
            raise
        print(f"fleet: {ended.exceptions[0]}", file=sys.stderr)
        return 1


def planned(arguments: list[str] | None) -> Plan:
    parser = argparse.ArgumentParser(prog="python -m examples.fleet", description="The help desk on several workers.")
    parser.add_argument("--workers", type=int, default=3, help="how many there are at a time (3)")
    parser.add_argument("--partitions", type=int, default=16, help="how many there are (16)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long the sending takes (30)")
    parser.add_argument("--kill-every", type=float, default=5.0, help="seconds from kill to kill; 0 for none (5)")
    parser.add_argument("--lease", type=float, default=1.5, help="seconds until partitions are taken over (1.5)")
    parser.add_argument("--dump", type=Path, default=None, help="write the final state of every subject to this file")
    plan = Plan(**vars(parser.parse_args(arguments)))
    if min(plan.workers, plan.partitions) < 1 or min(plan.seconds, plan.lease) <= 0 or plan.kill_every < 0:
        parser.error("there is at least one worker, and one partition; times are more than 0 seconds")
    return plan


async def run(plan: Plan, console: Console) -> int:
    """Play the log to a fleet, and compare what is stored in the end with what one process makes of it.

    Returns:
        The exit code.
    """
    events = logged()
    with tempfile.TemporaryDirectory(prefix="onwhen-fleet-") as folder:
        ours, alone = plan.dump or Path(folder, "fleet.ndjson"), Path(folder, "alone.ndjson")
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(RedisServer(appendonly=True, appendfsync="always"))
            store = create_redis_storage(server.url, PREFIX, partitions=plan.partitions)
            bus = await stack.enter_async_context(EventBus(tickets, customers, store=store))
            crew = Crew(
                (RULES, "--store", f"{server.url}?key_prefix={PREFIX}", "--lease", f"{plan.lease:g}"), Path(folder)
            )
            stack.push_async_callback(crew.leave)
            desk = Desk(bus, len(events) / plan.seconds)
            with Screen(console) as screen:
                await play(plan, events, desk, crew, Watch(store), screen)
            with ours.open("wb") as out:
                subjects = await dump_subjects(bus, out)
            left = await store.stats()
        console.print(
            f"{desk.sent:,} events, {plan.workers} workers, {crew.killed} times one was killed; {desk.fired:,} timers "
            f"fired, {left.timers} left over,\n{left.dead} dead letters, {subjects:,} subjects.",
            highlight=False,
            soft_wrap=True,
        )
        await replay_alone(alone)
        return compared(ours, alone, console)


def logged() -> list[Event]:
    """The events of the log, in the order of their times."""
    with gzip.open(LOG, "rb") as lines:
        return [Event.from_json(line) for line in lines]


# -- while it runs


async def play(plan: Plan, events: list[Event], desk: Desk, crew: Crew, watch: Watch, screen: Screen) -> None:
    """Have the desk send all events, kill workers meanwhile, and show it, until all is handled."""

    async def show() -> None:
        crew.check()
        seen = await watch.look()
        screen.show(
            Figures(seen=seen, crew=crew.members, time=desk.now, sent=desk.sent, total=len(events), fired=desk.fired)
        )

    async with asyncio.TaskGroup() as group:
        looking = group.create_task(again_and_again(LOOK, show))
        for _ in range(plan.workers):
            member = await crew.hire()
            screen.tell(f"{member.name} is started, process {member.pid}")
        await until(lambda: has_owners(watch), "every partition to have an owner")
        screen.tell("every partition has an owner; the first events are sent")
        killing = group.create_task(again_and_again(plan.kill_every, lambda: kill_one(crew, screen)))
        await desk.play(events)
        screen.tell(f"all {len(events):,} events are sent")
        await until(lambda: quiet(watch.store), "everything to be handled")
        screen.tell("everything is handled")
        killing.cancel()
        looking.cancel()


async def kill_one(crew: Crew, screen: Screen) -> None:
    """Kill the worker that has been there for longest, and start another."""
    old = next(member for member in crew.members if member.killed is None)
    new = await crew.hire()
    old.kill()  # what awaits is before it: who ends the killing in between has not one killed that nobody told of
    screen.tell(f"{old.name} is killed in the middle of its work; {new.name} takes its place, process {new.pid}")


async def has_owners(watch: Watch) -> bool:
    return all(state.owner is not None for state in await watch.store.partition_states())


async def again_and_again(pause: float, do: Callable[[], Awaitable[None]]) -> None:
    """Do something after each pause (seconds); with none, never."""
    while pause > 0:
        await asyncio.sleep(pause)
        await do()


async def until(is_so: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until something is so."""
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                if await is_so():
                    return
                await asyncio.sleep(LOOK)
    except TimeoutError:
        raise TimeoutError(f"waited {PATIENCE:g} s for {what}") from None


# -- at the end


async def replay_alone(dump: Path) -> None:
    """Have `onwhen replay` make what one process in memory makes of the same events, in their own time."""
    command = ("replay", RULES, str(LOG), "--time", "event", "--dump", str(dump))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "onwhen", *command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    if code := await process.wait():
        raise RuntimeError(f"onwhen {' '.join(command)}: exit code {code}")


def compared(ours: Path, alone: Path, console: Console) -> int:
    """Say whether two files are the same to the byte."""
    for path, whose in ((ours, "of the fleet"), (alone, "of onwhen replay")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        console.print(f"final state {whose:16}  {path.stat().st_size:,} bytes  {digest[:32]}", highlight=False)
    if ours.read_bytes() == alone.read_bytes():
        console.print("They are the same, to the byte.", style="bold green")
        return 0
    console.print("They are NOT the same.", style="bold red")
    return 1


if __name__ == "__main__":
    sys.exit(main())
