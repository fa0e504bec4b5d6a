"""`onwhen worker --processes N`: several workers, looked after by one process."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from onwhen.cli._ending import RESTARTS, restarts
from onwhen.cli._supervisor import delay_before, how
from onwhen.cli._worker_options import WorkerOptions
from tests.cli.fleets import APP, Started, leave, until

Launch = Callable[..., Started]
Onwhen = Callable[..., Any]

OWNS_HALF = r"owns 2 of 4 partitions: [0-9,-]+\n"


def children(started: Started) -> list[psutil.Process]:
    """Processes that a supervisor has started, by age."""
    return sorted(psutil.Process(started.process.pid).children(), key=lambda process: process.create_time())


def both_work(started: Started) -> None:
    """Wait until two workers share the partitions."""
    for name in ("desk-0", "desk-1"):
        started.says(f"{name}: {OWNS_HALF}")


# -- pure parts


def test_waits_grow_and_are_bounded() -> None:
    """A process that ends at once, each time, is not started all the time."""
    assert [delay_before(deaths) for deaths in (1, 2, 3, 7, 8, 1000)] == [0.5, 1.0, 2.0, 30.0, 30.0, 30.0]


def test_a_process_starts_itself_again_ten_times_in_an_hour() -> None:
    """Those longer ago do not count."""
    environment: dict[str, str] = {}
    for minute in range(10):
        handed_down = restarts(environment, 1_000_000 + 60 * minute)
        assert handed_down is not None
        environment = {RESTARTS: handed_down}
    assert restarts(environment, 1_000_000 + 600) is None
    later = restarts(environment, 1_000_000 + 4_060)
    assert later == "1000480,1000540,1004060"


def test_each_process_has_its_own_name_and_port() -> None:
    """The others options are those of all."""
    options = WorkerOptions(app="shop", store="redis://h", processes=3, id="desk", health_port=8080, lease=2.5)
    typed = [list(each.arguments()) for each in options.each()]
    assert [[word for word in words if "desk" in word or "port" in word] for words in typed] == [
        ["--id=desk-0", "--health-port=8080"],
        ["--id=desk-1", "--health-port=8081"],
        ["--id=desk-2", "--health-port=8082"],
    ]
    assert all(words[:3] == ["worker", "shop", "--store=redis://h"] and "--lease=2.5" in words for words in typed)
    assert not any("--processes" in word for words in typed for word in words)
    free = WorkerOptions(app="shop", processes=2, health_port=0)
    assert [(each.id, each.health_port) for each in free.each()] == [(None, 0), (None, 0)]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (0, "ended"),
        (1, "ended with exit code 1"),
        (75, "made no progress"),
        (-9, "was killed by SIGKILL"),
        (-99, "was killed by signal 99"),
    ],
)
def test_how_a_process_has_ended_is_said(code: int, told: str) -> None:
    """By the name of the signal, if it has one."""
    assert how(code) == told


# -- real processes


def test_several_workers_from_one_command(launch: Launch, onwhen: Onwhen) -> None:
    """They share the partitions; one signal ends them all, each in peace."""
    started = launch("worker", APP, "--processes", "2", "--id", "desk", "--health-port", "0")
    started.says("supervisor-[0-9]+: starts 2 workers of tests.cli.fleets:shop")
    both_work(started)
    urls = {started.says(rf"{name}: runs .* health at (http://\S+)")[1] for name in ("desk-0", "desk-1")}
    assert len(urls) == 2
    for url in urls:
        until(lambda url=url: httpx.get(f"{url}/ready", trust_env=False).status_code == 200)
    assert onwhen("emit", "order.placed", "order:1", "--wait", "20").code == 0
    started.send(signal.SIGTERM)
    assert started.ends() == 0
    for name in ("desk-0", "desk-1"):
        started.says(f"{name}: ended, after")


def test_one_that_is_killed_is_started_again(launch: Launch) -> None:
    """With what killed it; the other goes on."""
    started = launch("worker", APP, "--processes", "2", "--id", "desk", "--lease", "1")
    both_work(started)
    killed = children(started)[0]
    killed.kill()
    started.says(rf"worker \d \(process {killed.pid}\) was killed by SIGKILL; it is started again in 0.5 s")
    until(lambda: len(children(started)) == 2 and killed.pid not in [child.pid for child in children(started)])
    started.says(r"desk-\d: runs", times=3)
    started.send(signal.SIGINT)
    assert started.ends() == 0


def test_one_that_ends_by_itself_is_started_again(launch: Launch) -> None:
    """Whoever wants fewer workers tells so the one that looks after them."""
    started = launch("worker", APP, "--processes", "1", "--id", "desk")
    started.says("desk-0: owns 4 of 4")
    [child] = children(started)
    child.terminate()
    started.says(rf"worker 0 \(process {child.pid}\) ended; it is started again in 0.5 s")
    started.says("desk-0: owns 4 of 4", times=2)


def test_one_that_blocks_is_started_again(launch: Launch, onwhen: Onwhen) -> None:
    """Its own watchdog sees it first, and ends the process."""
    started = launch("worker", APP, "--processes", "1", "--id", "desk", "--stall", "0.5", "--lease", "1")
    started.says("desk-0: owns 4 of 4")
    assert onwhen("emit", "order.blocked", "order:1").code == 0
    started.says("desk-0: the rule shop.block blocks the event loop .*; this process ends, to be started again\n")
    leave("go on")
    started.says(r"worker 0 \(process \d+\) made no progress; it is started again in 0.5 s")
    started.says("desk-0: owns 4 of 4", times=2)


def test_one_that_does_not_even_look_is_killed(launch: Launch, onwhen: Onwhen) -> None:
    """Code in C may hold on to the interpreter; there is a stack all the same, and then a new process."""
    started = launch("worker", APP, "--processes", "1", "--id", "desk", "--stall", "0.5", "--lease", "1")
    started.says("desk-0: owns 4 of 4")
    assert onwhen("emit", "order.locked", "order:1").code == 0
    until(lambda: Path("locked").exists())
    leave("go on")
    started.says(r"worker 0 \(process \d+\) has given no sign of life for \d s")
    started.says(r"Fatal Python error: Aborted")
    started.says(r'fleets.py", line \d+ in lock')
    started.says(r"was killed by SIGABRT; it is started again in 0.5 s")
    started.says("desk-0: owns 4 of 4", times=2)


def test_they_end_when_nobody_looks_after_them_any_more(launch: Launch) -> None:
    """A supervisor that is killed leaves no workers that nobody knows of."""
    started = launch("worker", APP, "--processes", "2", "--id", "desk")
    both_work(started)
    left = children(started)
    started.send(signal.SIGKILL)
    _, alive = psutil.wait_procs(left, timeout=30)
    assert not alive
    for name in ("desk-0", "desk-1"):
        started.says(f"{name}: finishes what is under way")


def test_one_that_does_not_end_is_killed(launch: Launch) -> None:
    """Some seconds after its grace period; it may be stopped, so that it hears no signal."""
    started = launch("worker", APP, "--processes", "1", "--id", "desk", "--grace", "0.5")
    started.says("desk-0: owns 4 of 4")
    [child] = children(started)
    child.suspend()
    started.send(signal.SIGTERM)
    started.says(rf"worker 0 \(process {child.pid}\) does not end, and is killed")
    assert started.ends() == 137


def test_a_second_signal_reaches_them_too(launch: Launch, onwhen: Onwhen) -> None:
    """And the exit code says that something was cut short."""
    started = launch("worker", APP, "--processes", "2", "--id", "desk")
    both_work(started)
    assert onwhen("emit", "order.slow", "order:1").code == 0
    until(lambda: Path("slow").exists())
    started.send(signal.SIGTERM)
    started.says("ends, once its workers have finished what is under way")
    started.send(signal.SIGTERM)
    assert started.ends() == 143


@pytest.mark.parametrize(
    "arguments", [("worker", "tests.cli.fleets:nothing"), ("worker", APP, "--store", "sqlite:///depot.db")]
)
def test_what_cannot_be_run_is_not_tried_again(launch: Launch, arguments: tuple[str, ...]) -> None:
    """It would not become better by that."""
    started = launch(*arguments, "--processes", "2")
    assert started.ends() == 2
    assert "it is started again" not in started.told


def test_a_server_that_is_not_there_is_tried_again(launch: Launch) -> None:
    """It may be there in a while; told to end meanwhile, it does."""
    started = launch("worker", APP, "--processes", "1", "--store", "redis://127.0.0.1:1/0?patience=0.1")
    started.says(r"ended with exit code 1; it is started again in 0.5 s")
    started.says(r"ended with exit code 1; it is started again in 1 s")
    started.send(signal.SIGTERM)
    assert started.ends() in (0, 1)
    assert not re.search("Traceback", started.told)
