"""The commands for a store, and the file: one that is not there, in use, at work, large; and how a command ends."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
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

from onwhen import SystemClock
from onwhen.engine.store import Commit, SubjectWrite
from onwhen.storage import create_sqlite_storage
from tests.cli import stores

Onwhen = Callable[..., Any]

SECONDS = 30.0  # how long anything here may take on a busy machine

LOOKING = [
    ["subjects", "list"],
    ["subjects", "get", "parcel:1"],
    ["subjects", "history", "parcel:1"],
    ["timers"],
    ["log"],
    ["stats"],
    ["deadletters", "list"],
    ["deadletters", "show", "0123"],
    ["parked", "list"],
    ["migrate", stores.APP, "--dry-run"],
]
WRITING = [
    ["deadletters", "replay", stores.APP, "--all"],
    ["deadletters", "discard", "--all"],
    ["parked", "resume", stores.APP, "--all"],
    ["parked", "skip", "--all"],
    ["migrate", stores.APP],
]

HOSTILE = "parcel:\x1b[2J\x1b]0;title\x07\n\u202e\x9b" + "x" * 10_000


def wait_until(what: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Poll, but not for ever, and not after a process has ended."""
    deadline = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < deadline, "it did not come to that in time"
        assert process.poll() is None, "the command has ended"
        time.sleep(0.01)


@pytest.fixture
def start(store: Path, environment: Mapping[str, str]) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """The command as a process of its own, left running; killed at the end of the test if need be."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = subprocess.Popen(
            [sys.executable, "-m", "onwhen", *arguments],
            stdin=subprocess.DEVNULL,
            cwd=store.parent,
            env={**environment, "ONWHEN_STORE": "sqlite:///depot.db", "COLUMNS": "100"},
            **options,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


# -- which store


@pytest.mark.parametrize("command", LOOKING + WRITING)
def test_a_store_that_is_not_there_is_not_made(store: Path, onwhen: Onwhen, command: list[str]) -> None:
    """By no command; the error names the file."""
    ended = onwhen(*command)
    assert (ended.code, ended.out) == (2, "")
    assert f"{store.resolve()}: there is no such file; look at --store" in ended.err
    assert list(store.parent.iterdir()) == []


@pytest.mark.parametrize("command", LOOKING + WRITING)
def test_a_store_has_to_be_named(
    store: Path, onwhen: Onwhen, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """By the option or the setting; the one in memory, which is the default elsewhere, has nothing to show."""
    monkeypatch.delenv("ONWHEN_STORE")
    ended = onwhen(*command)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "onwhen: no store is named; add --store sqlite:///FILE or redis://HOST, or set ONWHEN_STORE\n"
    assert onwhen(*command, "--store", "memory://").code == 2


def test_the_option_goes_before_the_setting(store: Path, onwhen: Onwhen) -> None:
    """Another file, here with a name that needs an escape."""
    stores.fill(store.with_name("an other.db"), ("parcel.sent", "parcel:1"))
    assert json.loads(onwhen("stats", "--json", "--store", "sqlite:///an%20other.db").out)["subjects"] == 1


@pytest.mark.parametrize("url", ["depot.db", "mysql://localhost", "sqlite:///", "sqlite:///depot.db?colour=red"])
def test_an_address_that_is_none(store: Path, onwhen: Onwhen, url: str) -> None:
    """Is an error that says what is known."""
    ended = onwhen("stats", "--store", url)
    assert (ended.code, ended.out) == (2, "")
    assert url in ended.err


@pytest.mark.parametrize("content", [b"", b"something else entirely, " * 1000])
def test_a_file_that_is_no_store(store: Path, onwhen: Onwhen, content: bytes) -> None:
    """Is left as it is."""
    store.write_bytes(content)
    for command in (["stats"], ["deadletters", "discard", "--all"]):
        ended = onwhen(*command)
        assert (ended.code, ended.out) == (2, "")
        assert str(store.resolve()) in ended.err
    assert store.read_bytes() == content


def test_what_is_damaged_is_told_where_it_is_found(store: Path, onwhen: Onwhen) -> None:
    """What comes before it is shown; the exit code says that this is not all."""
    stores.accept(store, *(("parcel.sent", f"parcel:{number}") for number in range(1000)))
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("UPDATE log SET event = '{' WHERE position = (SELECT max(position) FROM log)")
    ended = onwhen("log", "--json")
    assert ended.code == 1
    assert len(ended.out.splitlines()) >= 500
    assert "cannot be read" in ended.err


# -- in use


@pytest.mark.parametrize("command", WRITING)
async def test_who_writes_needs_the_file_alone(store: Path, start: Any, command: list[str]) -> None:
    """While a program has it open, nothing is done, and the error says whose it is."""
    used = create_sqlite_storage(store)
    await used.open(SystemClock())
    process = start(*command)
    out, err = await asyncio.to_thread(process.communicate, timeout=SECONDS)
    assert (process.returncode, out) == (2, b"")
    assert f"process {os.getpid()} has it open for writing; stop it first" in err.decode()
    assert ("or look with --dry-run" in err.decode()) == (command[0] == "migrate")
    await used.close()


async def test_who_looks_disturbs_nobody(store: Path, start: Any) -> None:
    """Every command that only looks works while a program writes on, and sees what it has written."""
    used = create_sqlite_storage(store)
    await used.open(SystemClock())
    written, ended = 0, asyncio.Event()

    async def write() -> None:
        nonlocal written
        while not ended.is_set():
            name, number = f"parcel:{written:06}", str(written)
            await used.commit(
                Commit(partition=0, subject=name, write=SubjectWrite(set={"weight": b"1"}), id=number),
            )
            written += 1

    writing = asyncio.create_task(write())
    for command in (
        ["subjects", "list", "--json"],
        ["stats"],
        ["log"],
        ["timers"],
        ["migrate", stores.APP, "--dry-run"],
    ):
        before = written
        process = start(*command)
        out, err = await asyncio.to_thread(process.communicate, timeout=SECONDS)
        assert process.returncode == 0, err
        assert written > before
        if "subjects" in command:
            names = [json.loads(line)["subject"] for line in out.splitlines()]
            assert names == [f"parcel:{number:06}" for number in range(len(names))]
            assert len(names) >= before
    ended.set()
    await writing
    await used.close()


_DIE = """
import asyncio, os, sys
from onwhen import SystemClock
from onwhen.storage import create_sqlite_storage
async def main():
    await create_sqlite_storage(sys.argv[1]).open(SystemClock())
    os._exit(9)
asyncio.run(main())
"""


async def was_closed(store: Path) -> bool:
    """Tell whether the one that had a store open last has closed it; from now on it is."""
    used = create_sqlite_storage(store)
    answer = await used.open(SystemClock())
    await used.close()
    return answer


async def test_a_crash_is_not_covered_up(store: Path, environment: Mapping[str, str], start: Any) -> None:
    """Commands without rules between a crash and the next start: that still knows that there was one."""
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", _DIE, str(store), env=environment)
    assert await killed.wait() == 9
    for command in (["deadletters", "discard", "--all"], ["parked", "skip", "--all"], ["stats"]):
        process = start(*command)
        _, err = await asyncio.to_thread(process.communicate, timeout=SECONDS)
        assert process.returncode == 0, err
    assert not await was_closed(store)
    assert await was_closed(store)


# -- large


def fill_with_subjects(store: Path, names: list[str], note: bytes = b'"\\u001b[2J"') -> None:
    """Make subjects with a property."""

    async def write() -> None:
        used = create_sqlite_storage(store)
        await used.open(SystemClock())
        for begin in range(0, len(names), 1000):
            commits = (
                Commit(partition=0, subject=name, write=SubjectWrite(set={"note": note}), id=name)
                for name in names[begin : begin + 1000]
            )
            await asyncio.gather(*(used.commit(commit) for commit in commits))
        await used.close()

    asyncio.run(write())


_PEAK = """
import resource, sys
from pathlib import Path
from onwhen.cli._main import run

def peak():
    status = Path("/proc/self/status")  # of this program alone; elsewhere the figure includes what forked it
    if status.exists():
        (row,) = [row for row in status.read_text().splitlines() if row.startswith("VmHWM")]
        return int(row.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

code = run(sys.argv[1:])
print(peak(), file=sys.stderr)
sys.exit(code)
"""


def test_a_list_takes_no_more_memory_for_being_long(store: Path, environment: Mapping[str, str]) -> None:
    """Nor does a table of it."""
    peaks: list[int] = []
    for number in (1_000, 15_000):
        fill_with_subjects(store, [f"parcel:{n:06}" for n in range(number)], b'"%s"' % (b"x" * 2_000))
        for options in (["--json"], []):
            ended = subprocess.run(
                [sys.executable, "-c", _PEAK, "subjects", "list", "--store", f"sqlite:///{store}", *options],
                capture_output=True,
                env=environment,
                timeout=SECONDS,
            )
            assert ended.returncode == 0, ended.stderr
            assert len(ended.stdout.splitlines()) == number + (not options)
            peaks.append(int(ended.stderr))
    assert max(peaks) - min(peaks) < 8_000_000, peaks  # bytes, most of them SQLite's cache; the list has 30,000,000


@pytest.mark.parametrize("options", [["--json"], []])
def test_whoever_reads_may_have_seen_enough(store: Path, start: Any, options: list[str]) -> None:
    """`| head`: the command ends, and complains about nothing."""
    fill_with_subjects(store, [f"parcel:{number:06}" for number in range(5000)])
    process = start("subjects", "list", *options)
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(SECONDS) == 1
    assert process.stderr.read() == b""


def test_ctrl_c_while_a_list_is_shown(store: Path, start: Any) -> None:
    """Ends it with the exit code that shells know."""
    fill_with_subjects(store, [f"parcel:{number:06}" for number in range(5000)])
    process = start("subjects", "list")
    assert process.stdout.readline()  # and the pipe is full soon
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert b"Traceback" not in err


def test_ctrl_c_while_rules_are_run(store: Path, start: Any, onwhen: Onwhen) -> None:
    """The command ends even if a rule does not; its event is still there, and nobody takes that for a crash."""
    stores.accept(store, ("parcel.stuck", "parcel:1"))
    process = start("deadletters", "replay", stores.APP, "--all")
    wait_until((store.parent / "stuck").exists, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert "1 event is pending" in onwhen("log").out
    assert asyncio.run(was_closed(store))


# -- on a terminal


def on_terminal(start: Any, *arguments: str) -> tuple[int, str]:
    """Run the command on a terminal of its own; return its exit code and all it shows."""
    ours, its = pty.openpty()
    process = start(*arguments, stdout=its, stderr=its)
    os.close(its)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # it was closed at the other end
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    return process.wait(SECONDS), shown.decode()


def test_a_terminal_gets_tables(store: Path, start: Any) -> None:
    """With colours of ours at most, whatever is in the store."""
    fill_with_subjects(store, [HOSTILE, "parcel:1"])
    code, shown = on_terminal(start, "subjects", "list")
    assert code == 0
    assert "│ parcel:1 " in shown
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r\n", "").isprintable()
    assert len(shown.splitlines()) < 20
    code, shown = on_terminal(start, "subjects", "get", HOSTILE)
    assert code == 0
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r\n", "").isprintable()
    assert shown.count("x") >= 10_000


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_pipe_gets_nothing_harmful(store: Path, onwhen: Onwhen, options: list[str]) -> None:
    """It may end on a terminal all the same."""
    fill_with_subjects(store, [HOSTILE])
    for command in (["subjects", "list"], ["subjects", "get", HOSTILE], ["timers", HOSTILE], ["parked", "list"]):
        ended = onwhen(*command, *options)
        assert ended.code == 0
        assert (ended.out + ended.err).replace("\n", "").isprintable()
    ended = onwhen("subjects", "get", HOSTILE + "\x1b[2J")
    assert ended.code == 2
    assert ended.err.replace("\n", "").isprintable()
