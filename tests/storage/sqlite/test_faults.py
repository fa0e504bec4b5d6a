"""Commits whose outcome is not known, transactions that cannot begin, threads that there are not, files of others."""

import asyncio
import signal
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onwhen import SystemClock
from onwhen.errors import StoreCorrupt, StoreError, StoreFull, StoreInUse
from onwhen.storage import SqliteStore, create_sqlite_storage
from onwhen.storage.sqlite import _failures
from onwhen.storage.sqlite._database import Database
from onwhen.storage.sqlite._worker import Worker
from tests.storage.sqlite.sqlites import event, inside, opened, pending, run_apart, write

only_on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="made with what Linux has")

UNSURE = {
    "fsync": sqlite3.SQLITE_IOERR_FSYNC,
    "shmsize": sqlite3.SQLITE_IOERR_SHMSIZE,
    "shmmap": sqlite3.SQLITE_IOERR_SHMMAP,
    "memory": sqlite3.SQLITE_NOMEM,
}


async def refusing(store: SqliteStore, statement: str, *codes: int) -> list[str]:
    """Have a statement fail as often as there are codes; return a list that each is added to that begins or ends."""
    seen: list[str] = []

    def refuse(database: Database) -> None:
        execute, left = database.execute, iter(codes)

        def failing(sql: str, *args: Any) -> sqlite3.Cursor:
            if sql.startswith(("BEGIN", "COMMIT", "ROLLBACK", "UPDATE meta SET reserved = reserved + 1")):
                seen.append(sql.split()[0])
            if sql.startswith(statement) and (code := next(left, None)) is not None:
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = code
                raise error
            return execute(sql, *args)

        database.execute = failing  # type: ignore[assignment]

    await inside(store, refuse)
    return seen


LAST_PAGES_UNINDEXED = """
import ctypes, errno, _sqlite3
from onwhen.errors import StoreError, StoreFull

# SQLite lets programs replace the system calls that it makes (sqlite3_vfs.xSetSystemCall).
library = ctypes.CDLL(_sqlite3.__file__)
Find = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)
arguments = (ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
Write = ctypes.CFUNCTYPE(*arguments, use_errno=True)
PWrite = ctypes.CFUNCTYPE(*arguments, ctypes.c_int64, use_errno=True)
vfs = Find(("sqlite3_vfs_find", library))(None)
# Three numbers and padding; three pointers; twelve calls of version 1 and one of 2; then xSetSystemCall.
where = vfs + 16 + 3 * 8 + 13 * 8
Set = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
set_call = Set(ctypes.c_void_p.from_address(where).value)
is_full = False

def is_refused(file):
    ctypes.set_errno(errno.ENOSPC)
    return is_full and os.readlink(f"/proc/self/fd/{file}").endswith("-shm")

@Write
def write_at_end(file, content, size):
    return -1 if is_refused(file) else os.write(file, ctypes.string_at(content, size))

@PWrite
def write_at(file, content, size, offset):
    return -1 if is_refused(file) else os.pwrite(file, ctypes.string_at(content, size), offset)

# Which one it uses depends on how it was built.
for name, call in {b"write": write_at_end, b"pwrite": write_at, b"pwrite64": write_at}.items():
    set_call(vfs, name, ctypes.cast(call, ctypes.c_void_p))

async def main():
    global is_full
    store = create_sqlite_storage(path)
    await store.open(SystemClock())
    await store.append(0, [event("1")])
    is_full = True
    try:
        # More pages than the first part of the index has room for.
        await store.append(0, [event("2", data="x" * (4100 * 4096))])
    except StoreError as error:
        print(type(error).__name__, error.__cause__.sqlite_errorname)
    print(await pending(store), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


@only_on_linux
async def test_what_was_refused_does_not_come_back_after_a_crash(tmp_path: Path) -> None:
    """All of it is in the log, only not in the log's index: the next one to open the file would find it stored.

    So nothing is said to be not stored, and nothing is answered, before that end of the log is written over.
    """
    done = await asyncio.to_thread(run_apart, LAST_PAGES_UNINDEXED, tmp_path / "a.db")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout.splitlines() == ["StoreError SQLITE_IOERR_SHMSIZE", "['1']"]
    async with opened(tmp_path / "a.db") as store:
        assert await pending(store) == ["1"]


@pytest.mark.parametrize("code", UNSURE.values(), ids=UNSURE.keys())
async def test_a_commit_that_may_be_stored_is_not_said_to_be_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Not even on a full disk; before the next transaction, one that only reads too, the log's end is written over."""
    monkeypatch.setattr(_failures, "_is_full", lambda _: True)
    async with opened(tmp_path / "a.db") as store:
        seen = await refusing(store, "COMMIT", code)
        with pytest.raises(StoreError, match=r"a\.db: .* it is not known whether this is stored") as caught:
            await store.append(0, [event("1")])
        assert type(caught.value) is StoreError
        assert seen == ["BEGIN", "COMMIT", "ROLLBACK"]
        log = (tmp_path / "a.db-wal").read_bytes()
        assert await pending(store) == []
        assert seen[3:] == ["BEGIN", "UPDATE", "COMMIT"]
        assert (tmp_path / "a.db-wal").read_bytes() != log
        assert (await store.append(0, [event("1")]))[0].is_new
        assert await pending(store) == ["1"]
        assert seen[6:] == ["BEGIN", "COMMIT"]


async def test_those_who_shared_it_are_stored_all_the_same(tmp_path: Path) -> None:
    """The end of the log is written over, so that it is known that they are not; then each is done again."""
    async with opened(tmp_path / "a.db") as store:
        await refusing(store, "COMMIT", sqlite3.SQLITE_IOERR_FSYNC)
        found = await asyncio.gather(*(store.append(0, [event(f"{n}")]) for n in range(5)))
        assert all(accepted.is_new for (accepted,) in found)
        assert await pending(store) == [f"{n}" for n in range(5)]


async def test_nothing_is_answered_while_it_is_not_known(tmp_path: Path) -> None:
    """A disk that fails on: all who ask are told so at once, and none of them that there is merely no room."""
    async with opened(tmp_path / "a.db") as store:
        seen = await refusing(store, "COMMIT", sqlite3.SQLITE_IOERR_FSYNC, *[sqlite3.SQLITE_FULL] * 2)
        with pytest.raises(StoreError):
            await store.append(0, [event("1")])
        seen.clear()
        calls: list[Any] = [store.append(0, [event(f"{n}")]) for n in range(1, 9)]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(answer) for answer in found} == {StoreError}
        assert len(set(map(id, found))) == 8
        assert seen.count("BEGIN") == 2  # the second after a checkpoint, which may have made room
        assert (await store.append(0, [event("1")]))[0].is_new
        assert await pending(store) == ["1"]


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE])
async def test_a_commit_that_was_not_written_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """For want of room, then: that is said, and there is nothing to write over."""
    monkeypatch.setattr(_failures, "_is_full", lambda _: True)
    async with opened(tmp_path / "a.db") as store:
        seen = await refusing(store, "COMMIT", code, code)
        with pytest.raises(StoreFull):
            await store.append(0, [event("1")])
        assert await pending(store) == []
        assert "UPDATE" not in seen


async def test_a_transaction_that_cannot_begin_is_tried_once_for_all(tmp_path: Path) -> None:
    """Each try may take seconds. Who only reads needs no lock, and is answered."""
    async with opened(tmp_path / "a.db") as store:
        await inside(store, lambda at: at.execute("PRAGMA busy_timeout = 1").fetchone())
        seen = await refusing(store, "")
        other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        calls: list[Any] = [store.append(0, [event(f"{n}")]) for n in range(20)]
        found = await asyncio.gather(store.load("a"), *calls, pending(store), return_exceptions=True)
        other.close()
        assert not isinstance(found[0], BaseException)
        assert found[-1] == []
        assert {type(answer) for answer in found[1:-1]} == {StoreInUse}
        assert seen.count("BEGIN") == 1
        assert (await write(store, n=b"1")).version is not None


# -- the thread


async def test_who_asks_while_it_fails_to_open_is_answered(tmp_path: Path) -> None:
    """As everybody after that is."""
    (tmp_path / "a.db").write_bytes(b"x" * 100)
    store = create_sqlite_storage(tmp_path / "a.db")
    opening = asyncio.ensure_future(store.open(SystemClock()))
    await asyncio.sleep(0)
    asked = asyncio.ensure_future(store.append(0, [event("1")]))
    found = await asyncio.wait_for(asyncio.gather(opening, asked, return_exceptions=True), 10)
    assert [type(answer) for answer in found] == [StoreCorrupt, StoreError]


async def test_a_thread_that_cannot_be_started_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for it; once there is one to be had, the store is opened."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    store = create_sqlite_storage(tmp_path / "a.db")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(StoreError, match=r"a\.db: no thread could be started for it \(can't start new thread\)"):
            await asyncio.wait_for(store.open(SystemClock()), 10)
    await asyncio.wait_for(store.close(), 10)
    assert await asyncio.wait_for(store.open(SystemClock()), 10)
    await store.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_thread_that_ends_unexpectedly_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those either whose calls it had taken already."""
    store = create_sqlite_storage(tmp_path / "a.db")
    await store.open(SystemClock())
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_work", lambda *_: 1 / 0)
        calls: list[Any] = [store.append(0, [event(f"{n}")]) for n in range(3)]
        found = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
        assert [type(answer) for answer in found] == [StoreError] * 3
    assert not await store.open(SystemClock())
    assert await pending(store) == []
    await store.close()


# -- files of others


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory whose permissions a test may change."""
    path = tmp_path / "place"
    path.mkdir()
    yield path
    path.chmod(0o755)


OPEN = """
give_up_privileges()
async def main():
    async with opened(path, read_only=READ_ONLY) as store:
        print(await pending(store))
try:
    asyncio.run(main())
except Exception as error:
    print(type(error).__name__, error)
"""


@only_on_linux
@pytest.mark.parametrize("suffix", ["", "-lock", "-wal", "-shm"])
async def test_a_file_that_may_not_be_written_is_named(place: Path, suffix: str) -> None:
    """With its owner and what to do: somebody else has looked at the store, say, and left the file behind."""
    async with opened(place / "a.db") as store:
        await store.append(0, [event("1")])
    name = place / f"a.db{suffix}"
    name.touch()
    name.chmod(0o444)
    done = await asyncio.to_thread(run_apart, OPEN.replace("READ_ONLY", "False"), place / "a.db")
    assert done.stdout.startswith(
        f"StoreError {name}: it belongs to user {name.owner()}, and this process may not write"
    )
    assert "give it to the user that runs the program (chown); do not remove it" in done.stdout
    name.chmod(0o644)
    async with opened(place / "a.db") as store:
        assert await pending(store) == ["1"]


@only_on_linux
def test_looking_on_needs_a_place_for_what_lies_beside_the_file(place: Path) -> None:
    """If nobody has it open, that has to be made; if somebody has, it is there."""
    path, look = place / "a.db", OPEN.replace("READ_ONLY", "True")
    with asyncio.Runner() as runner:
        store = create_sqlite_storage(path)
        runner.run(store.open(SystemClock()))
        runner.run(store.append(0, [event("1")]))
        place.chmod(0o555)
        done = run_apart(look, path)
        assert done.stdout == "['1']\n", done.stderr
        place.chmod(0o755)
        runner.run(store.close())
    place.chmod(0o555)
    done = run_apart(look, path)
    assert done.stdout.startswith(f"StoreError {path}: nobody has it open, and this process may not write to {place}.")
    path.chmod(0)
    assert "and this process may not read it" in run_apart(look, path).stdout
