"""Full disks, damaged files, events that kill their process, turns under way: each with the real thing."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from onwhen import SystemClock
from onwhen.engine.store import DeadLetter, StoreStats
from onwhen.errors import StoreCorrupt
from onwhen.storage import create_sqlite_storage
from tests.chaos.cases import NOTES, SUBJECTS, bus_on

SECONDS = 60.0  # how long anything here may take on a busy machine
ROOM = 700_000  # bytes; less than half of what all the notes take


class Process:
    """A case in a process of its own; what it tells is read line by line."""

    def __init__(self, case: str, path: Path, *, file_size: int | None = None, **environment: str) -> None:
        def limit() -> None:
            if file_size is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))

        self._popen = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.cases", case, str(path)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # The limit would hold for what is measured as well.
            env={**{k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}, **environment},
            preexec_fn=limit,
        )
        self.told: list[str] = []

    @property
    def id(self) -> int:
        return self._popen.pid

    def until(self, what: str, times: int = 1) -> str:
        """Wait until it has told something so often; return the last line."""
        deadline = time.monotonic() + SECONDS
        assert self._popen.stdout is not None
        while times:
            line = self._popen.stdout.readline()
            assert line, f"it has ended: {self._popen.communicate()[1]}"
            assert time.monotonic() < deadline, f"it has told {self.told[-5:]} only"
            self.told.append(line.rstrip("\n"))
            times -= line.startswith(what)
        return self.told[-1]

    def end(self) -> int:
        """Wait for its end; return its exit code, or minus a signal's number."""
        out, err = self._popen.communicate(timeout=SECONDS)
        self.told += out.splitlines()
        self.code, self.err = self._popen.returncode, err
        return self.code

    def kill(self) -> None:
        self._popen.kill()
        self.end()


@pytest.fixture
def started() -> Iterator[Callable[..., Process]]:
    """Starts cases; what still runs at the end of the test is killed."""
    processes: list[Process] = []

    def start(*arguments: Any, **options: Any) -> Process:
        processes.append(Process(*arguments, **options))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


def content(path: Path) -> tuple[dict[str, list[str]], list[DeadLetter], StoreStats]:
    """What the subjects have seen, what is dead, and how much is left; and the file is whole."""

    async def read() -> tuple[dict[str, list[str]], list[DeadLetter], StoreStats]:
        store = create_sqlite_storage(path, read_only=True)
        await store.open(SystemClock())
        try:
            seen = {record.name: json.loads(record.properties["seen"]) async for record in store.subjects()}
            return seen, [letter async for letter in store.dead_letters()], await store.stats()
        finally:
            await store.close()

    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return asyncio.run(read())


def finish(started: Callable[..., Process], path: Path) -> None:
    """Have all done that is left to do."""
    process = started("rest", path)
    assert process.end() == 0, process.err


# -- no room


class Quota:
    """A limit on the size of files, which needs no rights."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "f.db"
        self.options = {"file_size": ROOM}

    def make_room(self, process: Process) -> None:
        resource.prlimit(process.id, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def end(self) -> None:
        """Nothing is left of it."""


class Disk:
    """A disk of its own, in memory; who is not root has none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "disk"
        self._folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={2 * ROOM}", "tmpfs", self._folder], check=True)
        self.path = self._folder / "f.db"
        self.options: dict[str, Any] = {}

    def make_room(self, process: Process) -> None:
        subprocess.run(["mount", "-o", "remount,size=100m", self._folder], check=True)

    def end(self) -> None:
        subprocess.run(["umount", self._folder], check=True)


def can_mount() -> bool:
    if os.name != "posix" or os.geteuid():
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


@pytest.fixture(
    params=[Quota, pytest.param(Disk, marks=pytest.mark.skipif(not can_mount(), reason="only root may mount a disk"))]
)
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Quota | Disk]:
    """A place with little room for a store."""
    place = request.param(tmp_path)
    yield place
    place.end()


@pytest.mark.parametrize("killed", [False, True])
def test_without_room_nothing_accepted_is_lost_and_with_room_it_goes_on(
    small: Quota | Disk, started: Callable[..., Process], killed: bool
) -> None:
    """Who emits is told; what was accepted is handled once there is room, also by the next process."""
    process = started("fill", small.path, **small.options)
    full = process.until("full")
    assert "there is no room left" in full
    assert "Make room" in full
    accepted = {line.removeprefix("accepted ") for line in process.told if line.startswith("accepted ")}
    assert 0 < len(accepted) < NOTES
    if killed:
        process.kill()
        small.make_room(process) if isinstance(small, Disk) else None
        finish(started, small.path)
    else:
        small.make_room(process)
        assert process.end() == 0, process.err
        accepted = {str(number) for number in range(NOTES)}
    seen, dead, stats = content(small.path)
    times = Counter(id.removeprefix("n") for ids in seen.values() for id in ids)
    assert set(times.values()) == {1}
    assert accepted <= times.keys()
    assert len(times.keys() - accepted) <= 1  # the one that was stored when it could not be told any more
    assert (dead, stats.pending) == ([], 0)


# -- damage


def leave(path: Path, started: Callable[..., Process]) -> None:
    """Leave a store as a killed process leaves it, with all of it in the file itself."""
    process = started("fill", path)
    assert process.end() == 0, process.err
    process = started("work", path, CASES_SLOW="1")
    process.until("begun", SUBJECTS)
    process.kill()
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.mark.parametrize("damage", ["cut", "cut to a page", "emptied", "overwritten", "header", "text"])
def test_a_damaged_file_is_told_and_left_as_it_is(tmp_path: Path, started: Callable[..., Process], damage: str) -> None:
    """A copy may be better than what can be made of it; that is for its owner to decide."""
    path = tmp_path / "f.db"
    leave(path, started)
    whole = path.read_bytes()
    middle = len(whole) // 2 // 4096 * 4096
    path.write_bytes(
        {
            "cut": whole[: middle + 1000],
            "cut to a page": whole[:4096],
            "emptied": b"",
            "overwritten": b"".join(
                b"\xa5" * 4096 if page % 5 == 3 else whole[page * 4096 : page * 4096 + 4096]
                for page in range(len(whole) // 4096)
            ),
            "header": b"\0" * 100 + whole[100:],
            "text": b"What I did on my holidays\n" * 300,
        }[damage]
    )
    before = path.read_bytes()

    async def open() -> None:
        async with bus_on(path):
            pass

    for _ in range(2):
        with pytest.raises(StoreCorrupt, match=r"f\.db: .*[Rr]estore it from a copy"):
            asyncio.run(open())
        assert path.read_bytes() == before


# -- what kills its process, and what is under way when something does


@pytest.mark.parametrize("how", ["event", "retry", "message", "timer"])
def test_an_event_that_kills_its_process_is_dead_after_three_starts(
    tmp_path: Path, started: Callable[..., Process], how: str
) -> None:
    """All else is handled once, before it or after, also what its own subject was sent later.

    The starts that count are those after somebody was killed: of the first one nobody knew that it mattered.
    """
    path, deaths = tmp_path / "f.db", 0
    while (process := started(how, path)).end():  # which emits all of it again, under the same ids
        assert process.code == -signal.SIGKILL, process.err
        assert process.told[-1] == "kill"
        deaths += 1
        assert deaths < 6, "it is tried again and again"
    assert deaths == 4
    seen, (letter,), stats = content(path)
    assert (letter.event.type, letter.failure.type) == ("kill", "onwhen.errors.PoisonEvent")
    assert "was to begin again 3 times" in letter.failure.message
    assert (stats.pending, stats.retries, stats.timers) == (0, 0, 0)
    ids = [id for subject in ("s0", "s1", "s2") for id in seen[subject]]
    assert sorted(ids) == sorted(f"{when}{number}" for when in "ab" for number in range(10))
    assert seen["victim"] == (["lead", "after"] if how in ("message", "timer") else ["after"])
    for subject in ("s0", "s1", "s2"):
        assert seen[subject] == sorted(seen[subject])


def test_turns_under_way_are_begun_anew(tmp_path: Path, started: Callable[..., Process]) -> None:
    """What they had done so far was stored nowhere, so it is done once."""
    path = tmp_path / "f.db"
    process = started("work", path, CASES_SLOW="1")
    process.until("begun", SUBJECTS)
    process.kill()
    seen, _, stats = content(path)
    assert (seen, stats.pending) == ({}, SUBJECTS)
    finish(started, path)
    seen, dead, stats = content(path)
    assert seen == {f"s{number}": [f"w{number}"] for number in range(SUBJECTS)}
    assert (dead, stats.pending) == ([], 0)
