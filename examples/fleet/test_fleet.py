"""The help desk on several workers ends as it does in one process; and the pieces of the example."""

import asyncio
import gzip
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console

from examples.fleet import __main__ as fleet
from examples.fleet.crew import Crew, Member, WorkerEnded
from examples.fleet.desk import Desk
from examples.fleet.screen import Figures, Screen, picture
from examples.fleet.watch import Seen, Watch, quiet
from examples.helpdesk.__main__ import LOG
from examples.helpdesk.rules import SLA, customers, tickets
from onwhen import Event, EventBus, SystemClock, Worker
from onwhen.engine.partitions import partition_of
from onwhen.engine.shared import PartitionState, SharedStore
from onwhen.engine.store import Commit
from onwhen.storage.redis import create_redis_storage
from onwhen.testing.servers import RedisServer

START = datetime(2013, 3, 1, 9, tzinfo=UTC)
PATIENCE = 30.0  # seconds that anything may take on a busy machine


def test_with_a_worker_killed_every_two_seconds_it_ends_as_in_one_process(tmp_path: Path) -> None:
    """Four years of events, three workers: the final state of every subject is the same, to the byte."""
    dump = tmp_path / "fleet.ndjson"
    arguments = ("--workers", "3", "--kill-every", "2", "--seconds", "8", "--dump", str(dump))
    ended = subprocess.run(
        [sys.executable, "-m", "examples.fleet", *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    *happened, _, _, _, _, verdict = ended.stdout.splitlines()
    assert verdict == "They are the same, to the byte."
    killed = [line for line in happened if "is killed in the middle of its work" in line]
    assert len(killed) >= 3, "it is to be shown that this does no harm"
    assert f"21,348 events, 3 workers, {len(killed)} times one was killed; 455 timers fired, 0 left over,\n" in (
        ended.stdout
    )
    assert "\n0 dead letters, 4,975 subjects.\n" in ended.stdout
    assert len(dump.read_bytes().splitlines()) == 4_975


def test_ctrl_c_ends_it_and_its_workers() -> None:
    """With the exit code that a shell has for it, and nothing is left running."""
    started = subprocess.Popen(
        [sys.executable, "-m", "examples.fleet", "--seconds", "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert started.stdout is not None
    said = b""
    while b"the first events are sent" not in said:
        line = started.stdout.readline()
        assert line, "it has ended"
        said += line
    workers = [int(process) for process in re.findall(rb"is started, process (\d+)", said)]
    assert len(workers) == 3
    started.send_signal(signal.SIGINT)
    _, errors = started.communicate(timeout=60)
    assert (started.returncode, errors) == (130, b"")
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_a_difference_is_found(tmp_path: Path) -> None:
    """One byte is enough, and both files are named with what they have."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b'{"subject":"ticket:1"}\n')
    other.write_bytes(b'{"subject":"ticket:2"}\n')
    said = io.StringIO()
    assert fleet.compared(one, other, Console(file=said)) == 1
    assert "They are NOT the same." in said.getvalue()
    assert fleet.compared(one, one, Console(file=said)) == 0


@pytest.mark.parametrize("arguments", [["--workers", "0"], ["--seconds", "0"], ["--kill-every", "-1"]])
def test_nonsense_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is started."""
    with pytest.raises(SystemExit, match="2"):
        fleet.main(arguments)
    assert "there is at least one worker" in capsys.readouterr().err


# -- the desk


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
async def bus(server: RedisServer) -> AsyncIterator[EventBus]:
    """A bus that sends, and a worker beside it, on a server that is empty."""
    server.ask("FLUSHALL")

    def new() -> EventBus:
        return EventBus(tickets, customers, store=create_redis_storage(server.url, partitions=4))

    async with new() as sender, Worker(new(), lease=5.0):
        yield sender


def step(type: str, after: timedelta, ticket: str = "ticket:1", **differences: str) -> Event:
    data = dict.fromkeys(("resource", "customer", "product", "workgroup", "service_level", "seriousness"), "acme")
    return Event(
        f"ticket.{type}", ticket, data | differences, id=f"{ticket} {after}", source="/desk", time=START + after
    )


async def played(bus: EventBus, *events: Event) -> Desk:
    """Send events as the desk does, and wait until all is handled."""
    desk = Desk(bus, rate=1_000.0)
    async with asyncio.timeout(PATIENCE):
        await desk.play(events)
    await fleet.until(lambda: quiet(cast(SharedStore, bus.store)), "everything to be handled")
    return desk


async def test_a_promise_is_broken_when_recorded_time_has_come_to_it(bus: EventBus) -> None:
    """Not before, and before what happens later; whoever the ticket belongs to then is told of it."""
    desk = await played(
        bus,
        step("insert_ticket", timedelta(0), customer="acme"),
        step("wait", SLA - timedelta(seconds=1), customer="duff"),
        step("closed", SLA + timedelta(seconds=1), customer="globex"),
    )
    assert desk.fired == 1
    ticket = await bus.read("ticket:1")
    assert (ticket.get("overdue"), ticket.get("customer")) == (True, "globex")
    assert (await bus.read("customer:duff")).get("breaches") == 1
    assert [timer async for timer in bus.store.timers()] == []


async def test_a_promise_that_was_kept_is_not_broken(bus: EventBus) -> None:
    """The ticket was resolved in time, to the second."""
    desk = await played(
        bus,
        step("insert_ticket", timedelta(0)),
        step("resolve_ticket", SLA - timedelta(seconds=1)),
        step("closed", SLA + timedelta(days=1)),
    )
    assert desk.fired == 0
    assert (await bus.read("ticket:1")).get("overdue") is False
    assert (await bus.read("ticket:1")).ext["resolved"] == (START + SLA - timedelta(seconds=1)).isoformat()


async def test_promises_whose_time_has_not_come_stay(bus: EventBus) -> None:
    """At the end of the log as in the middle of it; others go on."""
    desk = await played(
        bus,
        step("insert_ticket", timedelta(0)),
        step("insert_ticket", timedelta(days=2), "ticket:2"),
        step("wait", SLA, "ticket:3"),
    )
    assert desk.fired == 1
    assert sorted([timer.subject async for timer in bus.store.timers()]) == ["ticket:2", "ticket:3"]


def test_the_log_is_in_the_order_of_time() -> None:
    """Which the desk relies on."""
    times = [event.time for event in fleet.logged()]
    with gzip.open(LOG) as lines:
        assert len(times) == sum(1 for _ in lines)
    assert times == sorted(time for time in times if time is not None)


# -- whether all is done


async def test_it_is_not_quiet_while_a_message_is_on_its_way(server: RedisServer) -> None:
    """Both logs are empty then; but something will come."""
    store = create_redis_storage(server.url, "quiet", partitions=4)
    sender, receiver = (
        next(n for n in map(str, range(100)) if partition_of(n, 4) == partition) for partition in (0, 1)
    )
    await store.open(SystemClock())
    try:
        assert await quiet(store)
        message = Event("note", receiver, id="1", source="/desk", time=START)
        await store.commit(Commit(partition=0, subject=sender, messages=[message], id="sent"))
        assert not await quiet(store)
        outbox = await store.outgoing(0, None, 10)
        assert (await store.deliver(0, 1, None, outbox)).is_accepted
        assert not await quiet(store)
        (entry,) = await store.read(1, None, 10)
        await store.commit(Commit(partition=1, subject=receiver, handled=entry.position))
        assert await quiet(store)
        seen = await Watch(store).look()
        assert (seen.backlog, seen.handled, seen.workers) == (0, 1, [])
    finally:
        await store.close()


# -- the crew


async def test_who_is_killed_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of all work may come while the next worker is being started: then nobody is killed any more."""
    crew = Crew(("nowhere",), tmp_path)
    is_hiring = asyncio.Event()

    async def hire() -> Member:
        is_hiring.set()
        await asyncio.Event().wait()
        raise AssertionError("it is cancelled before")

    monkeypatch.setattr(crew, "hire", hire)
    crew.members.append(
        cast(Member, member := SimpleNamespace(killed=None, kill=lambda: setattr(member, "killed", 1.0)))
    )
    killing = asyncio.create_task(fleet.kill_one(crew, Screen(Console(file=io.StringIO()))))
    await is_hiring.wait()
    killing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await killing
    assert crew.killed == 0


async def test_a_worker_that_ends_on_its_own_is_noticed(tmp_path: Path) -> None:
    """With what it has said."""
    crew = Crew(("nowhere", "--store", "redis://127.0.0.1:1"), tmp_path)
    member = await crew.hire()
    async with asyncio.timeout(PATIENCE):
        await member.wait()
    with pytest.raises(WorkerEnded, match=r"worker-1 has ended on its own:\nonwhen: there is no module"):
        crew.check()
    await crew.leave()


# -- the screen


def figures(partitions: int = 4, backlog: int = 0) -> Figures:
    """Two workers, of which the first was killed a moment ago; and one that has just been started."""
    states = [
        PartitionState(
            partition=number,
            owner=("worker-1", "worker-2", None)[number % 3],
            expires=1.0,
            backlog=backlog * number,
            oldest=None,
            appended=100,
            outgoing=0,
        )
        for number in range(partitions)
    ]
    seen = Seen(partitions=states, rates=[25.0] * partitions, handled=1_234, workers=["worker-2"])
    crew = [member(f"worker-{number}") for number in (1, 2, 3)]
    crew[0].killed = time.monotonic()
    return Figures(seen=seen, crew=crew, time=START, sent=1_000, total=21_348, fired=7)


def member(name: str) -> Member:
    return Member(name, cast(asyncio.subprocess.Process, SimpleNamespace(pid=4711, returncode=None)))


@pytest.mark.parametrize(("width", "height"), [(80, 28), (100, 50), (200, 30)])
def test_the_picture_fits_its_screen(width: int, height: int) -> None:
    """Whatever there is to show; what there is no room for is counted."""
    said = io.StringIO()
    news = ["  1.0 s  worker-1 is killed in the middle of its work; worker-4 takes its place, process 4711"] * 6
    Console(file=said, width=width).print(picture(figures(partitions=64, backlog=1_000), news, height))
    shown = said.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    assert len(shown.splitlines()) <= height
    assert f"and {64 - max(4, height - 22)} more" in shown
    for told in ("01 Mar 2013  1,000 of 21,348 events sent, 7 promises broken", "its leases still run", "starts"):
        assert told in shown
    assert "63,000" in shown, "those with the longest backlogs are shown"


def test_on_a_terminal_the_picture_moves() -> None:
    """The latest one stays when it is over."""
    said = io.StringIO()
    with Screen(Console(file=said, width=120, height=50, force_terminal=True)) as screen:
        screen.show(figures(backlog=3))
        screen.show(figures(backlog=0))
    assert "\x1b[?25l" in said.getvalue(), "the cursor is hidden meanwhile"
    assert said.getvalue().endswith("\x1b[?25h")


def test_in_a_pipe_there_are_lines() -> None:
    """What happens at once, and figures now and then; nothing that moves."""
    said = io.StringIO()
    with Screen(Console(file=said, width=80)) as screen:
        screen.tell("worker-1 is started, process 1")
        for _ in range(3):
            screen.show(figures())
    first, second = said.getvalue().splitlines()
    assert first.endswith("s  worker-1 is started, process 1")
    assert second.endswith(
        "Mar 2013  sent 1,000  handled 1,234 (100/s)  backlog 0  partitions: nobody 1, worker-1 2, worker-2 1"
    )
