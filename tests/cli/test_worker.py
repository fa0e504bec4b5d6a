"""`onwhen worker`: how it starts, what it tells, how it ends, and what it does when it hangs."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from onwhen.testing.servers import RedisServer
from tests.cli.fleets import APP, Started, leave, until

Launch = Callable[..., Started]
Onwhen = Callable[..., Any]

OWNS_ALL = r"owns 4 of 4 partitions: 0-3\n"


def properties(onwhen: Onwhen, subject: str) -> Any:
    """Properties of a subject as they are stored; nothing if it is not there."""
    ended = onwhen("subjects", "get", subject, "--json")
    return json.loads(ended.out)["properties"] if ended.code == 0 else {}


# -- it works


def test_it_runs_rules_until_it_is_told_to_end(launch: Launch, onwhen: Onwhen) -> None:
    """It says how it starts and what it owns; told to end it hands that over, for the next one to take at once."""
    worker = launch("worker", APP, "--id", "desk", "--lease", "3600")
    worker.says(r"Z desk: runs 8 rules of tests.cli.fleets:shop, 4 partitions on redis://127.0.0.1:\d+/0\n")
    worker.says(r"Z desk: " + OWNS_ALL)
    assert onwhen("emit", "order.placed", "order:1", "--wait", "20").code == 0
    assert properties(onwhen, "order:1") == {"count": 1, "by": worker.process.pid}
    worker.send(signal.SIGTERM)
    assert worker.ends() == 0
    worker.says(r"desk: ended, after 1 turn\n")
    launch("worker", APP, "--lease", "3600").says(OWNS_ALL)


def test_workers_share_and_take_over(launch: Launch, onwhen: Onwhen) -> None:
    """A second one gets half; when the first is killed, it gets all once the lease is over."""
    first = launch("worker", APP, "--lease", "1.5", "--id", "first")
    first.says(OWNS_ALL)
    second = launch("worker", APP, "--lease", "1.5", "--id", "second")
    second.says("second: owns 2 of 4 partitions")
    first.says("first: owns 2 of 4 partitions")
    first.send(signal.SIGKILL)
    second.says(OWNS_ALL)
    assert onwhen("emit", "order.placed", "order:1", "--wait", "20").code == 0


def test_what_is_owned_can_be_said(launch: Launch) -> None:
    """By numbers, or by a place among equals, as a StatefulSet gives it in the name of a pod."""
    launch("worker", APP, "--own", "0,2-3").says(r"owns 3 of 4 partitions: 0,2-3\n")
    launch("worker", APP, "--own", "desk-1/3").says(r"owns 1 of 4 partitions: 1\n")


def test_the_password_is_not_told(launch: Launch, tmp_path: Path) -> None:
    """Neither by the worker nor by what it says if it cannot connect."""
    users = ["app on >hush-hush ~* &* +@all"]
    with RedisServer(acl=users) as server:
        worker = launch("worker", APP, "--store", server.url_of("app", "hush-hush"))
        worker.says(OWNS_ALL)
        worker.says(r"partitions on redis://app:\*\*\*@127.0.0.1")
        wrong = launch("worker", APP, "--store", server.url_of("app", "hush-wrong"))
        assert wrong.ends() in (1, 2)
        worker.send(signal.SIGTERM)
        assert worker.ends() == 0
    assert "hush" not in worker.told + wrong.told
    assert "Traceback" not in wrong.told


# -- it cannot be run as given


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--lease", "0"], "--lease 0: must be more than 0 seconds"),
        (["--grace", "inf"], "--grace inf: must be more than 0 seconds"),
        (["--partitions", "0"], "--partitions 0: must be at least 1"),
        (["--processes", "0"], "--processes 0: must be from 1 to 256"),
        (["--processes", "2", "--own", "1"], "--own is for one process"),
        (["--processes", "2", "--health-port", "65535"], "ports up to 65536 would be needed"),
        (["--id", "a\nb"], "without control characters"),
        (["--own", "0-9"], "there is no partition 4; there are 4"),
        (["--health-host", "192.0.2.1", "--health-port", "0"], "cannot listen on 192.0.2.1:0"),
        (["--store", "sqlite:///depot.db"], "workers share a store on a server"),
        (["--store", "memory://"], "workers share a store on a server"),
        (["--store", "redis:"], "no kind of store"),
    ],
)
def test_options_that_cannot_be(deployment: object, onwhen: Onwhen, options: list[str], told: str) -> None:
    """Are refused with the reason, before anything is begun."""
    ended = onwhen("worker", APP, *options)
    assert (ended.code, ended.out) == (2, "")
    assert told in ended.err


def test_partitions_are_not_changed_by_the_way(launch: Launch, onwhen: Onwhen) -> None:
    """How many there are is said when the store is made; another number afterwards is refused."""
    worker = launch("worker", APP)
    worker.says(OWNS_ALL)
    ended = onwhen("worker", APP, "--partitions", "8")
    assert ended.code == 2
    assert "4 partitions, not 8" in ended.err


def test_an_app_without_rules_and_a_server_that_is_not_there(deployment: object, onwhen: Onwhen) -> None:
    """The one is for who typed it, the other may be there in a minute: so they have exit codes of their own."""
    assert onwhen("worker", "tests.cli.fleets:nothing").code == 2
    ended = onwhen("worker", APP, "--store", "redis://127.0.0.1:1/0?patience=0.1")
    assert ended.code == 1
    assert "127.0.0.1:1" in ended.err


# -- it ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_under_way_is_finished(launch: Launch, onwhen: Onwhen, number: signal.Signals) -> None:
    """The first signal lets a turn go to its end, and be stored."""
    worker = launch("worker", APP)
    worker.says(OWNS_ALL)
    assert onwhen("emit", "order.slow", "order:1").code == 0
    until(lambda: Path("slow").exists())
    worker.send(number)
    worker.says("finishes what is under way, and hands its partitions over")
    leave("go on")
    assert worker.ends() == 0
    assert properties(onwhen, "order:1")["count"] == 100


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_it_at_once(launch: Launch, onwhen: Onwhen, number: signal.Signals, code: int) -> None:
    """The event is pending then, for whoever takes over."""
    worker = launch("worker", APP)
    worker.says(OWNS_ALL)
    assert onwhen("emit", "order.slow", "order:1").code == 0
    until(lambda: Path("slow").exists())
    worker.send(number)
    worker.says("finishes what is under way")
    worker.send(number)
    assert worker.ends() == code
    assert json.loads(onwhen("stats", "--json").out)["pending"] == 1


def test_the_grace_period_ends(launch: Launch, onwhen: Onwhen) -> None:
    """A turn that takes longer is cut short, and the exit code says so."""
    worker = launch("worker", APP, "--grace", "0.5")
    worker.says(OWNS_ALL)
    assert onwhen("emit", "order.slow", "order:1").code == 0
    until(lambda: Path("slow").exists())
    worker.send(signal.SIGTERM)
    assert worker.ends() == 143
    worker.says("was cut short; what was under way is handled again by whoever takes over")
    assert json.loads(onwhen("stats", "--json").out)["pending"] == 1


def test_it_ends_though_a_rule_blocks_the_event_loop(launch: Launch, onwhen: Onwhen) -> None:
    """The loop cannot hear a signal then, but the process can."""
    worker = launch("worker", APP, "--grace", "0.5")
    worker.says(OWNS_ALL)
    assert onwhen("emit", "order.blocked", "order:1").code == 0
    until(lambda: Path("blocked").exists())
    worker.send(signal.SIGTERM)
    assert worker.ends() == 143


def test_it_ends_though_a_thread_goes_on(launch: Launch, onwhen: Onwhen) -> None:
    """Python would wait for it for ever, though its turn was cut short long ago."""
    worker = launch("worker", APP, "--grace", "0.5")
    worker.says(OWNS_ALL)
    assert onwhen("emit", "order.threaded", "order:1").code == 0
    until(lambda: Path("threaded").exists())
    worker.send(signal.SIGTERM)
    assert worker.ends() == 143
    worker.says("was cut short")


# -- its health


def test_it_tells_its_health(launch: Launch, onwhen: Onwhen) -> None:
    """It is ready with its share; not while an event waits for too long; and it is not while it ends."""
    worker = launch("worker", APP, "--health-port", "0", "--max-age", "0.5", "--id", "desk")
    url = worker.says(r"health at (http://127.0.0.1:\d+)\n")[1]
    with httpx.Client(base_url=url, timeout=10, trust_env=False) as client:
        assert client.get("/live").status_code == 200
        until(lambda: client.get("/ready").status_code == 200)
        facts = client.get("/ready").json()
        assert (facts["worker"], facts["owned"], facts["share"]) == ("desk", [0, 1, 2, 3], 4)
        assert onwhen("emit", "order.slow", "order:1").code == 0
        until(lambda: client.get("/ready").status_code == 503)
        assert re.match(r"the oldest pending event is \d+ s old", client.get("/ready").json()["reason"])
        assert client.get("/live").status_code == 200
        worker.send(signal.SIGTERM)
        until(lambda: client.get("/ready").json()["reason"] == "it ends")
        leave("go on")
    assert worker.ends() == 0


# -- it hangs


def test_a_rule_that_blocks_starts_the_process_again(launch: Launch, onwhen: Onwhen) -> None:
    """It says which rule, at which event, and where in it; then all goes on in the same process, begun anew."""
    worker = launch("worker", APP, "--stall", "0.5", "--lease", "1", "--id", "desk")
    worker.says(OWNS_ALL)
    assert onwhen("emit", "order.blocked", "order:1").code == 0
    worker.says(
        r"Z desk: the rule shop.block blocks the event loop at order.blocked to order:1: it has not turned for \d+ s; "
        r"this process starts again\n"
    )
    worker.says(r"    .*fleets.py\", line \d+, in block\n")
    leave("go on")
    worker.says(OWNS_ALL, times=2)
    until(lambda: properties(onwhen, "order:1") == {"count": 1000})
    assert worker.process.poll() is None


def test_an_event_that_blocks_each_time_is_set_aside(launch: Launch, onwhen: Onwhen) -> None:
    """After a few starts nobody begins it any more: it is a dead letter, and the others go on."""
    worker = launch("worker", APP, "--stall", "0.5", "--lease", "1")
    worker.says(OWNS_ALL)
    assert onwhen("emit", "order.blocked", "order:1").code == 0
    assert onwhen("emit", "order.placed", "order:1", "--wait", "30").code == 0
    [letter] = [json.loads(line) for line in onwhen("deadletters", "list", "--json").out.splitlines()]
    assert (letter["event"]["type"], letter["error"]["type"]) == ("order.blocked", "onwhen.errors.PoisonEvent")
    assert (
        worker.told.count("this process starts again") == 4
    )  # one that nobody suspected it of, and three that were noted


def test_it_does_not_start_again_for_ever(launch: Launch, onwhen: Onwhen) -> None:
    """After ten times in an hour it ends, for somebody else to decide."""
    before = ",".join(f"{time.time() - 60 * minutes:.0f}" for minutes in range(50, 0, -5))
    worker = launch("worker", APP, "--stall", "0.5", _ONWHEN_RESTARTS=before)
    worker.says(OWNS_ALL)
    assert onwhen("emit", "order.blocked", "order:1").code == 0
    assert worker.ends() == 75
    worker.says("this process was started again too often for that, and ends")


def test_a_server_that_goes_away_is_waited_for(launch: Launch, onwhen: Onwhen) -> None:
    """If it is away for so long that the worker starts again, it waits on, and goes on when the server is back."""
    with RedisServer(appendonly=True, appendfsync="always") as server:
        url = server.url + "?patience=0.1"
        worker = launch("worker", APP, "--stall", "3", "--store", url, "--lease", "1")
        worker.says(OWNS_ALL)
        server.kill()
        worker.says("the store has not answered for .*this process starts again")
        worker.says("the store cannot be opened, which is tried again: ")
        server.start()
        worker.says(OWNS_ALL, times=2)
        assert onwhen("emit", "order.placed", "order:1", "--wait", "30", "--store", url).code == 0
    assert "Traceback" not in worker.told


def test_a_server_that_does_not_come_back_is_given_up(launch: Launch) -> None:
    """The worker ends as with all else that has it start again too often."""
    before = ",".join(f"{time.time() - 60 * minutes:.0f}" for minutes in range(50, 0, -5))
    with RedisServer() as server:
        url = server.url
    worker = launch("worker", APP, "--stall", "0.5", "--store", url + "?patience=0.1", _ONWHEN_RESTARTS=before)
    assert worker.ends() == 75
    worker.says(
        "the store could not be opened for 0.5 s: .*; this process was started again too often for that, and ends"
    )
    assert "Traceback" not in worker.told
