"""`onwhen replay` into a store that workers share: it sends, waits, and tells what they have left."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from onwhen.engine.clock import SystemClock
from onwhen.engine.events import Event
from onwhen.engine.partitions import partition_of
from onwhen.engine.store import Commit
from onwhen.settings import Settings
from onwhen.storage import create_storage
from tests.cli.fleets import APP, Started, leave, until

Launch = Callable[..., Started]
Line = Callable[..., bytes]
Cli = Callable[..., Any]


@pytest.fixture
def replay(deployment: Mapping[str, str], cli: Cli) -> Callable[..., Any]:
    """The command, into the deployment; as a process, because it waits for as long as it takes."""

    def run(*arguments: str) -> Any:
        return cli("replay", APP, *arguments, "--store", deployment["ONWHEN_STORE"], **deployment)

    return run


def rows(text: str) -> dict[str, str]:
    """The two columns of the last table."""
    cells = [[cell.strip() for cell in row.strip("│ ").split("│")] for row in text.splitlines() if row.startswith("│")]
    return {row[0]: row[1] for row in cells if len(row) == 2}


def test_workers_handle_what_is_replayed(launch: Launch, replay: Cli, line: Line) -> None:
    """The dump is made when they have; run again, everything was done before."""
    launch("worker", APP).says("owns 4 of 4")
    events = [line("order.placed", f"order:{number % 20}") for number in range(300)]
    Path("events.ndjson").write_bytes(b"".join(events))
    ended = replay("events.ndjson", "--dump", "state")
    assert ended.code == 0
    assert (rows(ended.out)["events"], rows(ended.out)["subjects"]) == ("300", "20")
    assert "The workers have run the rules" in ended.out
    assert "No rule matched" not in ended.out
    counts = [json.loads(text)["properties"]["count"] for text in Path("state").read_text().splitlines()]
    assert counts == [15] * 20
    again = replay("events.ndjson", "--dump", "state.again")
    assert (again.code, rows(again.out)["done before"], rows(again.out)["events"]) == (0, "300", "0")
    assert Path("state.again").read_bytes() == Path("state").read_bytes()


def test_what_failed_counts(launch: Launch, replay: Cli, line: Line) -> None:
    """Dead letters are in the figures and the exit code; what is parked keeps nobody waiting."""
    launch("worker", APP).says("owns 4 of 4")
    types = ("order.printed", "order.weighed", "order.placed")
    Path("events.ndjson").write_bytes(b"".join(line(type, "order:1") for type in types))
    ended = replay("events.ndjson")
    assert (ended.code, rows(ended.out)["dead letters"], rows(ended.out)["retries waiting"]) == (1, "1", "0")


def test_it_waits_for_what_takes_long(launch: Launch, replay: Cli, line: Line, deployment: Mapping[str, str]) -> None:
    """It says so; Ctrl-C ends the waiting, and the same command waits on."""
    launch("worker", APP).says("owns 4 of 4")
    Path("events.ndjson").write_bytes(line("order.slow", "order:1"))
    command = ("replay", APP, "events.ndjson", "--store", deployment["ONWHEN_STORE"])
    cut_short = launch(*command)
    cut_short.says("All is sent; 1 event is pending, and this waits for the workers to handle what is.")
    until(lambda: Path("slow").exists())
    cut_short.send(signal.SIGINT)
    assert cut_short.ends() == 130
    to_the_end = launch(*command)
    to_the_end.says("All is sent; 1 event is pending")
    leave("go on")
    assert to_the_end.ends() == 0


def test_nobody_lives(made: None, launch: Launch, line: Line, deployment: Mapping[str, str]) -> None:
    """That is told, and what was sent waits for a worker as well."""
    Path("events.ndjson").write_bytes(line("order.placed", "order:1"))
    replaying = launch("replay", APP, "events.ndjson", "--store", deployment["ONWHEN_STORE"])
    replaying.says("No worker is alive; start one with 'onwhen worker'.")
    launch("worker", APP)
    assert replaying.ends() == 0


def test_recorded_time_is_for_one_process(replay: Cli, made: None, line: Line) -> None:
    """Nobody can move the clocks of workers."""
    Path("events.ndjson").write_bytes(line())
    ended = replay("events.ndjson", "--time", "event")
    assert (ended.code, ended.out) == (2, "")
    assert "workers go by the clock of their machines" in ended.err


def test_a_deployment_has_to_be_there(replay: Cli, line: Line) -> None:
    """Without workers nobody would handle what is sent."""
    Path("events.ndjson").write_bytes(line())
    ended = replay("events.ndjson")
    assert (ended.code, ended.out) == (2, "")
    assert "there is nothing under" in ended.err


# -- at rest


async def test_what_is_under_way_between_partitions_is_not_at_rest(made: None) -> None:
    """Though no event is pending anywhere; it is once the message has come, and was handled."""
    from onwhen.cli._rest import is_at_rest

    settings = Settings()
    store: Any = create_storage(settings.store, **settings.storage())
    await store.open(SystemClock())
    assert await is_at_rest(store)
    source, target = partition_of("order:1", 4), partition_of("order:2", 4)
    assert source != target
    message = Event("order.placed", "order:2", source="/shop", time=SystemClock().now())
    await store.commit(Commit(partition=source, subject="order:1", messages=[message], id="c1"))
    assert (await store.stats()).pending == 0
    assert not await is_at_rest(store)
    [outgoing] = await store.outgoing(source, None, 10)
    assert (await store.deliver(source, target, None, [outgoing])).is_accepted
    assert not await is_at_rest(store)
    [entry] = await store.read(target, None, 10)
    await store.commit(Commit(partition=target, subject="order:2", handled=entry.position))
    assert await is_at_rest(store)
    await store.close()
