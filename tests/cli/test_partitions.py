"""`onwhen partitions`: who owns what, what waits there, and who lives."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from onwhen.cli._partitions import Sample
from onwhen.engine.shared import PartitionState
from onwhen.testing.servers import RedisServer
from tests.cli import stores
from tests.cli.fleets import APP, SECONDS, Started, make

Launch = Callable[..., Started]
Onwhen = Callable[..., Any]


def state(partition: int, appended: int, backlog: int) -> PartitionState:
    """A partition of which only this matters."""
    return PartitionState(
        partition=partition, owner=None, expires=0.0, backlog=backlog, oldest=None, appended=appended, outgoing=0
    )


def test_rates_are_of_what_was_handled() -> None:
    """Not of what has come; a partition that has lost its latest events in a fail-over has no negative rate."""
    now = datetime.now(UTC)
    before = Sample(at=10.0, now=now, partitions=[state(0, 10, 4), state(1, 5, 0), state(2, 9, 0)], workers=[])
    after = Sample(at=12.0, now=now, partitions=[state(0, 30, 4), state(1, 9, 4), state(2, 7, 0)], workers=[])
    assert after.rates(before) == {0: 10.0, 1: 0.0, 2: 0.0}
    assert before.rates(before) == {}


def test_people_see_partitions_workers_and_a_sum(launch: Launch, onwhen: Onwhen) -> None:
    """Each with what is worth knowing; below them all in one line."""
    launch("worker", APP, "--id", "desk", "--own", "0-2").says("owns 3 of 4")
    for _ in range(2):
        assert onwhen("emit", "order.placed", "order:2").code == 0  # of partition 3, which nobody owns
    ended = onwhen("partitions")
    assert (ended.code, ended.err) == (0, "")
    heading, *rows, empty, title, worker, end, total = ended.out.splitlines()
    assert heading.split() == ["partition", "owner", "lease", "backlog", "oldest", "events/s", "outbox"]
    assert [row.split()[:2] for row in rows] == [["0", "desk"], ["1", "desk"], ["2", "desk"], ["3", "-"]]
    assert rows[3].split()[2:4] == ["-", "2"]
    assert (empty, end, title.split()) == ("", "", ["worker", "partitions", "expires", "note"])
    assert worker.split()[:2] == ["desk", "3"]
    assert worker.endswith(f"{APP}, process {worker.split()[-3]} on {os.uname().nodename}")
    assert total == "1 worker, 4 partitions, 1 without an owner, backlog 2, 0.0 events/s"


def test_scripts_get_one_object(launch: Launch, onwhen: Onwhen) -> None:
    """Ages and leases as numbers of seconds."""
    launch("worker", APP, "--id", "desk", "--own", "0-2").says("owns 3 of 4")
    assert onwhen("emit", "order.placed", "order:2").code == 0
    facts = json.loads(onwhen("partitions", "--json").out)
    assert list(facts) == ["time", "backlog", "rate", "partitions", "workers"]
    assert [one["owner"] for one in facts["partitions"]] == ["desk", "desk", "desk", None]
    last = facts["partitions"][3]
    assert list(last) == [
        "partition",
        "owner",
        "lease_seconds",
        "backlog",
        "oldest",
        "oldest_age_seconds",
        "appended",
        "rate",
        "outbox",
    ]
    assert (last["backlog"], last["appended"], last["lease_seconds"]) == (1, 1, 0.0)
    assert 0 < facts["partitions"][0]["lease_seconds"] <= 10
    assert 0.5 < last["oldest_age_seconds"] < 60
    [worker] = facts["workers"]
    assert (worker["worker"], worker["partitions"]) == ("desk", 3)


def test_they_can_be_watched(launch: Launch, deployment: Mapping[str, str], tmp_path: Path) -> None:
    """Sample after sample, until somebody ends it; with the rate since the one before."""
    launch("worker", APP).says("owns 4 of 4")
    command = [sys.executable, "-m", "onwhen", "partitions", "--watch", "--every", "0.2", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path, env=_environment()) as watching:
        assert watching.stdout is not None
        samples = [json.loads(watching.stdout.readline()) for _ in range(3)]
        watching.terminate()
    assert [len(sample["partitions"]) for sample in samples] == [4, 4, 4]
    assert samples[0]["time"] < samples[1]["time"] < samples[2]["time"]


def test_watching_outlives_the_server(made: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever watches a fail-over is told that nobody answers, and then sees on."""
    with RedisServer(appendonly=True) as server:
        monkeypatch.setenv("ONWHEN_STORE", f"{server.url}?patience=0.1")
        asyncio.run(make())
        command = [sys.executable, "-m", "onwhen", "partitions", "--watch", "--every", "0.2", "--json"]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, **output, cwd=tmp_path, env=_environment()) as watching:  # type: ignore[call-overload]
            limit = threading.Timer(SECONDS, watching.kill)
            limit.start()
            told = iter(watching.stdout)
            assert next(told).startswith(b"{")
            server.kill()
            assert any(not line.startswith(b"{") for line in told)
            server.start()
            assert any(line.startswith(b"{") for line in told)
            watching.kill()
            limit.cancel()


def test_a_terminal_shows_the_latest_at_its_top(launch: Launch, tmp_path: Path) -> None:
    """Each sample takes the place of the one before; Ctrl-C ends it."""
    launch("worker", APP).says("owns 4 of 4")
    ours, terminal = pty.openpty()
    command = [sys.executable, "-m", "onwhen", "partitions", "--watch", "--every", "0.2"]
    settings = {**_environment(), "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, cwd=tmp_path, env=settings) as it:
        os.close(terminal)
        shown = b""
        while shown.count(b"\x1b[H\x1b[J") < 3:
            assert select.select([ours], [], [], SECONDS)[0], shown
            shown += os.read(ours, 4096)
        it.send_signal(signal.SIGINT)
        with suppress(OSError):  # when it has ended, the terminal is gone
            while more := os.read(ours, 4096):
                shown += more
    os.close(ours)
    assert it.returncode == 130
    assert b"partition" in shown
    assert b"Traceback" not in shown


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(stores.__file__).parents[2])}


def test_a_store_without_workers(store: Path, onwhen: Onwhen) -> None:
    """A file belongs to one program, so nobody shares anything there."""
    stores.fill(store)
    ended = onwhen("partitions")
    assert (ended.code, ended.out) == (2, "")
    assert "onwhen stats" in ended.err


def test_a_store_that_is_not_there(deployment: object, onwhen: Onwhen) -> None:
    """Is not made by looking for it."""
    for _ in range(2):
        ended = onwhen("partitions")
        assert (ended.code, ended.out) == (2, "")
        assert "there is nothing under" in ended.err


@pytest.mark.parametrize("every", ["0", "-1", "nan", "1e9"])
def test_times_that_cannot_be(deployment: object, onwhen: Onwhen, every: str) -> None:
    """Are refused."""
    assert onwhen("partitions", "--watch", "--every", every).code == 2
