"""`onwhen replay --store`: processes that are killed and interrupted, and files that cannot be used."""

from __future__ import annotations

import gzip
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from examples.helpdesk.__main__ import LOG

Line = Callable[..., bytes]
Cli = Callable[..., Any]

SECONDS = 60.0  # how long anything here may take on a busy machine
STORE = ("--store", "sqlite:///f.db")
DESKS = ("tests.cli.desks:mortal", "in.ndjson", "--time", "event", "--drain")


def wait_until(what: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < deadline, "it did not come to that in time"
        assert process.poll() is None, "the command has ended"
        time.sleep(0.01)


@pytest.fixture
def start(shop: Path, environment: Mapping[str, str]) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """The replay, started and left running; killed at the end of the test if need be."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "onwhen", "replay", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=shop,
            env=environment,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def rows(text: str) -> dict[str, str]:
    """The two columns of the last table."""
    cells = [[cell.strip() for cell in row.strip("│ ").split("│")] for row in text.splitlines() if row.startswith("│")]
    return {row[0]: row[1] for row in cells if len(row) == 2}


def was_closed(path: Path) -> bool:
    """Whether whoever had the store open last has closed it, so that nothing is suspected of a crash."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        return file.execute("SELECT is_open FROM meta").fetchone() == (0,)


def helpdesk(number: int) -> bytes:
    """The first events of the help desk, and two lines that are none."""
    with gzip.open(LOG) as lines:
        events = [next(lines) for _ in range(number)]
    return b"".join([*events[: number // 3], b'{"bad"\n', *events[number // 3 :], b"[]\n"])


# -- stopped and started again


def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(shop: Path, cli: Cli) -> None:
    """15 times and more, with SIGKILL: state and rejects are those of a run in memory, byte for byte."""
    (shop / "in.ndjson").write_bytes(helpdesk(250))
    whole = cli("replay", *DESKS, "--dump", "whole", "--rejects", "whole.rejects")
    assert (whole.code, rows(whole.out)["events"]) == (1, "250")
    assert int(rows(whole.out)["dead letters"]) > 5
    assert int(rows(whole.out)["timers fired"]) > 50

    kills, lives = 0, 0.2
    while kills < 15 or lives:
        lives = 0.2 if kills < 15 else 0.0
        arguments = ("replay", *DESKS, *STORE, "--dump", "state", "--rejects", "rejects")
        ended = cli(*arguments, **({"DESKS_LIVE_FOR": str(lives)} if lives else {}))
        assert ended.code in ((1, -signal.SIGKILL) if lives else (1,)), ended.err
        if ended.code == 1:
            assert (shop / "state").read_bytes() == (shop / "whole").read_bytes()
            assert (shop / "rejects").read_bytes() == (shop / "whole.rejects").read_bytes()
            if lives:  # it was done before it could be killed often enough: once more, from the beginning
                for path in shop.glob("f.db*"):
                    path.unlink()
        else:
            kills += 1
    assert was_closed(shop / "f.db")
    again = cli("replay", *DESKS, *STORE, "--dump", "again")
    assert (rows(again.out)["events"], rows(again.out)["done before"]) == ("0", "250")
    assert "dead letters were in the store before." in again.out
    assert (shop / "again").read_bytes() == (shop / "whole").read_bytes()


def test_killed_while_it_writes_the_dump_it_writes_it_again(
    start: Callable[..., subprocess.Popen[bytes]], shop: Path, cli: Cli, line: Line
) -> None:
    """Here into a pipe that nobody empties; all the rest was done, and is not done again."""
    (shop / "in.ndjson").write_bytes(b"".join(line(subject=f"order:{n}") for n in range(2000)))
    os.mkfifo(shop / "pipe")
    process = start("shop", "in.ndjson", *STORE, "--dump", "pipe")
    with (shop / "pipe").open("rb") as pipe:
        assert pipe.read(100)
        process.kill()
        process.wait(SECONDS)
    ended = cli("replay", "shop", "in.ndjson", *STORE, "--dump", "state")
    assert (ended.code, rows(ended.out)["done before"]) == (0, "2,000")
    assert len((shop / "state").read_bytes().splitlines()) == 2000


@pytest.mark.parametrize("mode", ["now", "event"])
def test_ctrl_c_closes_the_store_and_waits_for_no_rule_that_hangs(
    start: Callable[..., subprocess.Popen[bytes]], shop: Path, cli: Cli, line: Line, mode: str
) -> None:
    """Code 130; that event is no suspect, and the next run begins with it, only to hang again."""
    lines = [line(), line("order.item", data={"count": 1}), line("order.hang"), line("order.shipped")]
    for events in ("2", "0"):
        process = start("shop", *STORE, "--time", mode, "--dump", "state")
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"".join(lines[:3]))
        process.stdin.flush()
        wait_until((shop / "hanging").exists, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
        out = process.stdout.read().decode()
        if mode == "event":  # else what is counted may still be under way
            assert rows(out)["events"] == events
        assert "Interrupted; these are the figures so far." in out
        assert "Run it again with the same arguments, and it goes on from here. No dump was written." in out
        assert was_closed(shop / "f.db")
        (shop / "hanging").unlink()

    source = (shop / "shop.py").read_text().replace("await asyncio.Event().wait()", "")
    (shop / "shop.py").write_text(source)
    ended = cli("replay", "shop", *STORE, "--time", mode, "--dump", "state", stdin=b"".join(lines))
    assert (ended.code, rows(ended.out)["done before"], rows(ended.out)["events"]) == (0, "3", "1")
    order = json.loads((shop / "state").read_text().splitlines()[-1])
    assert order["properties"] == {"status": "shipped", "items": 1, "late": False}


def test_in_the_time_of_the_machine_each_event_is_accepted_once(shop: Path, cli: Cli, line: Line) -> None:
    """Many at a time, with SIGKILL now and then, and no id that the store could know them by."""
    (shop / "counting.py").write_text(
        "from onwhen import RuleSet\n"
        "from tests.cli.desks import Dying\n"
        "counts, dying = RuleSet('counts'), Dying()\n"
        "@counts.on('order.*')\n"
        "async def count(ctx):\n"
        "    ctx.subject.set('n', lambda n: (n or 0) + 1)\n"
        "    await ctx.emit('total.counted', subject='total')\n"
        "@counts.on('total.counted')\n"
        "def total(ctx):\n"
        "    ctx.subject.set('n', lambda n: (n or 0) + 1)\n"
    )
    (shop / "in.ndjson").write_bytes(b"".join(line(subject=f"order:{n % 7}") for n in range(1000)))
    kills, code = 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        lives = {"DESKS_LIVE_FOR": "0.3"} if kills < 4 else {}
        ended = cli("replay", "counting", "in.ndjson", *STORE, "--dump", "-", ONWHEN_DEDUP_WINDOW="0", **lives)
        code, kills = ended.code, kills + (ended.code != 0)
    assert code == 0
    assert kills
    state = [json.loads(row) for row in ended.out.splitlines()]
    assert {row["subject"]: row["properties"]["n"] for row in state}["total"] == 1000
    assert sum(row["properties"]["n"] for row in state) == 2000


@pytest.mark.parametrize("mode", ["now", "event"])
@pytest.mark.parametrize("what", ["events", "state"])
def test_without_room_it_says_so_and_goes_on_when_there_is_some(
    shop: Path,
    cli: Cli,
    line: Line,
    environment: Mapping[str, str],
    mode: str,
    what: str,
) -> None:
    """An event that is not accepted ends it with code 1. One that is waits for room, for as long as the user does."""
    (shop / "loads.py").write_text(
        "from onwhen import RuleSet\n"
        "loads = RuleSet('loads')\n"
        "@loads.on('load')\n"
        "def load(ctx):\n"
        "    ctx.subject.set(f\"load {ctx.payload['n']}\", 'x' * ctx.payload['size'])\n"
    )
    load = {"events": {"size": 1, "more": "y" * 20_000}, "state": {"size": 20_000}}[what]
    lines = [line("load", f"order:{n % 3}", {"n": n, **load}) for n in range(100)]
    (shop / "in").write_bytes(b"".join(lines))
    arguments = ["replay", "loads", "in", "--time", mode, "--dump", "state"]
    assert cli(*arguments).code == 0
    (shop / "state").rename(shop / "whole")

    command = f"ulimit -S -f 700; exec {sys.executable} -m onwhen {' '.join((*arguments, *STORE))} > out 2> err"
    (shop / "err").touch()
    unmeasured = {name: value for name, value in environment.items() if not name.startswith("COVERAGE")}
    with subprocess.Popen(["sh", "-c", command], cwd=shop, env=unmeasured) as process:
        deadline = time.monotonic() + SECONDS
        while process.poll() is None and b"The replay waits for that" not in (shop / "err").read_bytes():
            assert time.monotonic() < deadline, process.kill()
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        code = process.wait(SECONDS)
    err = (shop / "err").read_text()
    assert "Traceback" not in err, err
    if code:  # events that are handled at once take no room for long
        assert code in (1, 130)
        assert "there is no room left" in err
        assert not (shop / "state").exists()
    else:
        assert (what, mode) == ("events", "event")
    assert cli(*arguments, *STORE).code == 0
    assert (shop / "state").read_bytes() == (shop / "whole").read_bytes()


# -- what cannot be done


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("f.db", "--store: store 'f.db': no kind of store; known are memory://, sqlite:///relative.db"),
        ("sqlite://f.db", "'f.db' has no meaning there"),
        ("sqlite:///f.db?synchronous=OFF", "synchronous=OFF must be FULL or NORMAL"),
        ("sqlite:///no/such/folder/f.db", "no/such/folder"),
        ("sqlite:///empty.db", "empty.db"),
        ("sqlite:///shop.py", "shop.py"),
    ],
)
def test_a_store_that_cannot_be_used_is_told(shop: Path, cli: Cli, line: Line, url: str, told: str) -> None:
    """In one sentence, with code 2; nothing is done, and no file is touched."""
    (shop / "empty.db").touch()
    before = (shop / "shop.py").read_text()
    ended = cli("replay", "shop", "--store", url, stdin=line())
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("onwhen: ")
    assert told in ended.err
    assert "Traceback" not in ended.err
    assert (shop / "shop.py").read_text() == before
    assert (shop / "empty.db").read_bytes() == b""


def test_a_store_that_is_in_use_is_told(
    start: Callable[..., subprocess.Popen[bytes]], shop: Path, cli: Cli, line: Line
) -> None:
    """With the id of the process that has it."""
    process = start("shop", *STORE, "--rejects", "rejects")
    assert process.stdin is not None
    process.stdin.write(line("order.hang"))
    process.stdin.flush()
    wait_until((shop / "hanging").exists, process)
    ended = cli("replay", "shop", *STORE, stdin=line())
    assert (ended.code, ended.out) == (2, "")
    assert str(process.pid) in ended.err


@pytest.mark.parametrize("option", ["--dump", "--rejects"])
def test_the_store_is_not_overwritten(shop: Path, cli: Cli, line: Line, option: str) -> None:
    """By a slip of the hand."""
    ended = cli("replay", "shop", *STORE, option, "./f.db", stdin=line())
    assert ended.code == 2
    assert "would overwrite the store" in ended.err


def test_input_that_was_changed_is_told(shop: Path, cli: Cli, line: Line) -> None:
    """Its lines would be passed over as done."""
    lines = [line(subject=f"order:{n}") for n in range(3)]
    (shop / "in").write_bytes(b"".join(lines))
    assert cli("replay", "shop", "in", *STORE).code == 0
    (shop / "in").write_bytes(lines[0] + lines[2])
    ended = cli("replay", "shop", "in", *STORE, "--dump", "state")
    assert (ended.code, ended.out) == (2, "")
    assert "in: has 2 lines, but 3 of it were replayed into this store before" in ended.err
    assert was_closed(shop / "f.db")
    assert not (shop / "state").exists()


def test_a_store_in_memory_is_as_none(shop: Path, cli: Cli, line: Line) -> None:
    """It is said for scripts that set it."""
    data = line()
    assert (
        cli("replay", "shop", "--dump", "-", "--store", "memory://", stdin=data).out
        == cli("replay", "shop", "--dump", "-", stdin=data).out
    )
