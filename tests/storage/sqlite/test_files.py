"""The file of a store: its name, and what is done about one that is not as it should be."""

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from onwhen import SystemClock
from onwhen.engine.store import Answer
from onwhen.errors import SettingError, StoreCorrupt, StoreError, StoreFormatError
from onwhen.storage import create_sqlite_storage
from onwhen.storage.sqlite import _files, _schema
from onwhen.testing.store_contract._bench import explained
from tests.storage.sqlite.sqlites import commit, event, inside, names_in, opened, pending, pragma, run_apart, write


async def made(path: Path, **options: Any) -> bytes:
    """Make a store with something in it, and return its file."""
    async with opened(path, **options) as store:
        for n in range(40):
            await write(store, f"s{n}", n=b'"%s"' % (b"x" * 500))
    return content_of(path) or b""


def content_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def spoil(path: Path, where: range) -> None:
    content = bytearray(path.read_bytes())
    content[where.start : where.stop] = b"\xa5" * len(where)
    path.write_bytes(content)


def copied_by_another_process(path: Path, directory: Path) -> None:
    """Copy a file and its log; a process that does so with a file of its own store lets go of the locks on it."""
    code = "import shutil, sys; [shutil.copy(sys.argv[1] + end, sys.argv[2]) for end in ('', '-wal')]"
    subprocess.run([sys.executable, "-c", code, path, directory], check=True, timeout=60)


def edited(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


async def refused(path: Path, error: type[StoreError], message: str, **options: Any) -> None:
    """Make sure that a file is refused for reading and for writing, and left as it is."""
    before = content_of(path)
    for read_only in (False, True):
        with pytest.raises(error, match=message) as caught:
            await create_sqlite_storage(path, read_only=read_only, **options).open(SystemClock())
        assert type(caught.value) is error
        assert str(path) in str(caught.value)
    assert content_of(path) == before


@pytest.mark.parametrize("name", ["a b.db", "50%.db", "what?x=1.db", "#1.db", "größe ✓.db", "a%20b", "'q\".db", "[*]"])
async def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    """As text or as a path, whatever is special about it elsewhere."""
    async with opened(tmp_path / name) as store:
        await store.append(0, [event("1")])
    assert names_in(tmp_path) == {name, f"{name}-lock"}
    again = create_sqlite_storage(str(tmp_path / name), read_only=True)
    await again.open(SystemClock())
    assert await pending(again) == ["1"]
    await again.close()


async def test_a_relative_name_is_taken_from_where_the_store_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going to another directory afterwards changes nothing."""
    monkeypatch.chdir(tmp_path)
    store = create_sqlite_storage("a.db")
    monkeypatch.chdir("/")
    await store.open(SystemClock())
    await store.close()
    assert names_in(tmp_path) == {"a.db", "a.db-lock"}


@pytest.mark.parametrize("name", ["", "a\0b", ":memory:", b"a.db"])
def test_what_names_no_file_is_refused(name: Any) -> None:
    """At once, and with where to turn for a store in memory."""
    with pytest.raises(SettingError, match="no name of a file; for a store in memory use create_memory_storage"):
        create_sqlite_storage(name)


@pytest.mark.parametrize(
    "options",
    [
        {"partitions": 0},
        {"partitions": 1 << 20},
        {"dedup_window": -1},
        {"dedup_window": 10**30},
        {"history": -1},
        {"history": 1 << 63},
        {"explanations": -1},
        {"explanations": 1 << 63},
        {"synchronous": "OFF"},
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    """At once; the message names the one."""
    with pytest.raises(SettingError, match=f"{next(iter(options))}="):
        create_sqlite_storage(tmp_path / "a.db", **options)


async def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """Most often its name is mistyped."""
    with pytest.raises(StoreError, match=r"there is no directory .*nowhere; make it first"):
        await create_sqlite_storage(tmp_path / "nowhere" / "a.db").open(SystemClock())
    with pytest.raises(StoreError, match=r"there is no such file; a store that is opened for writing makes one"):
        await create_sqlite_storage(tmp_path / "a.db", read_only=True).open(SystemClock())
    assert names_in(tmp_path) == set()


async def test_a_directory_is_no_file(tmp_path: Path) -> None:
    """Nor is anything else that is not one."""
    (tmp_path / "a.db").mkdir()
    await refused(tmp_path / "a.db", StoreError, "not a file")


async def test_a_directory_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    """With what the system says about it."""
    (tmp_path / "a.db-lock").mkdir()  # root may write everywhere, but not to this
    with pytest.raises(StoreError, match=r"a\.db: Is a directory; see that its directory can be read and written"):
        await create_sqlite_storage(tmp_path / "a.db").open(SystemClock())


@pytest.mark.skipif(sys.platform == "win32", reason="the size of files is not limited there")
@pytest.mark.parametrize("room", [0, 10_000, 40_000, 80_000])
def test_a_file_that_there_is_no_room_for_is_not_made(tmp_path: Path, room: int) -> None:
    """However far it comes, it is told, and nothing of it stays."""
    done = run_apart(
        f"""
import resource
from onwhen.errors import StoreError
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))
try:
    asyncio.run(create_sqlite_storage(path).open(SystemClock()))
except StoreError as error:
    print("refused:", error)
""",
        tmp_path / "a.db",
    )
    assert "rollback" not in done.stdout
    assert done.stdout.startswith("refused: "), done.stderr
    assert names_in(tmp_path) == {"a.db-lock"}


@pytest.mark.parametrize("size", [0, 1, 100, 511])
async def test_an_empty_or_short_file_is_damaged_not_new(tmp_path: Path, size: int) -> None:
    """A file of ours is whole or not there, so that something was lost."""
    whole = await made(tmp_path / "whole.db")
    (tmp_path / "a.db").write_bytes(whole[:size])
    await refused(tmp_path / "a.db", StoreCorrupt, f"{size} bytes are no store")


@pytest.mark.parametrize("missing", [1, 100, 4096, 20_000])
async def test_a_file_that_was_cut_short_is_damaged(tmp_path: Path, missing: int) -> None:
    """However little is missing."""
    whole = await made(tmp_path / "a.db")
    (tmp_path / "a.db").write_bytes(whole[:-missing])
    await refused(tmp_path / "a.db", StoreCorrupt, "cut short to|damaged")


@pytest.mark.parametrize("content", [b"\0" * 8192, b"hello, world\n" * 1000, b"SQLite format 4\0" + b"x" * 9000])
async def test_what_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    """It is left as it is: it may be dear to somebody."""
    (tmp_path / "a.db").write_bytes(content)
    await refused(tmp_path / "a.db", StoreCorrupt, "file is not a database|damaged")


async def test_a_database_of_others_is_refused_and_not_touched(tmp_path: Path) -> None:
    """Not even its journal is changed."""
    edited(tmp_path / "a.db", "CREATE TABLE theirs (x)", "INSERT INTO theirs VALUES (1)")
    await refused(tmp_path / "a.db", StoreFormatError, "a SQLite file, but no store of onwhen")
    assert names_in(tmp_path) == {"a.db", "a.db-lock"}


async def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """This version cannot know what is in there."""
    await made(tmp_path / "a.db")
    edited(tmp_path / "a.db", f"PRAGMA user_version = {len(_schema.STEPS) + 1}")
    await refused(tmp_path / "a.db", StoreFormatError, "written by a newer onwhen .*; upgrade")


async def test_another_number_of_partitions_is_refused(tmp_path: Path) -> None:
    """Subjects would be looked for in other partitions; who only looks is told the number of the file."""
    await made(tmp_path / "a.db", partitions=3)
    with pytest.raises(StoreFormatError, match="made for partitions=3, not 1; that cannot be changed later"):
        await create_sqlite_storage(tmp_path / "a.db").open(SystemClock())
    async with opened(tmp_path / "a.db", partitions=3) as store:
        assert (await store.stats()).subjects == 40
    async with opened(tmp_path / "a.db", read_only=True) as store:
        assert store.partitions == 3


async def test_a_file_without_what_describes_it_is_damaged(tmp_path: Path) -> None:
    """A row of one table says what the file is."""
    await made(tmp_path / "a.db")
    edited(tmp_path / "a.db", "DELETE FROM meta")
    await refused(tmp_path / "a.db", StoreCorrupt, "what describes it is missing")


async def test_damage_is_found_after_a_crash(tmp_path: Path) -> None:
    """A file that was not closed is looked over before it is used; until then nothing in it is changed."""
    await made(path := tmp_path / "a.db")
    edited(path, "UPDATE meta SET is_open = 1", "PRAGMA journal_mode = DELETE", "PRAGMA journal_mode = WAL")
    whole = bytearray(path.read_bytes())
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'properties'").fetchone()
    whole[(root - 1) * 4096 + 12 : root * 4096] = b"\xa5" * 4084
    path.write_bytes(whole)
    with pytest.raises(StoreCorrupt, match=r"damaged .*left as it is; restore it from a copy"):
        await create_sqlite_storage(tmp_path / "a.db").open(SystemClock())


async def test_what_a_killed_process_has_left_is_not_touched_if_it_is_damaged(tmp_path: Path) -> None:
    """Neither the file nor the write-ahead log beside it: together they may be of use to whoever repairs them."""
    await made(tmp_path / "a.db")
    done = run_apart(
        """
async def main():
    store = create_sqlite_storage(path)
    await store.open(SystemClock())
    await write(store, "s1", n=b"2")
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
""",
        tmp_path / "a.db",
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    spoil(tmp_path / "a.db", range(20 * 4096, 24 * 4096))
    before = [content_of(tmp_path / name) for name in ("a.db", "a.db-wal")]
    assert all(before)
    for _ in range(2):
        with pytest.raises(StoreCorrupt, match="damaged"):
            await create_sqlite_storage(tmp_path / "a.db").open(SystemClock())
    assert [content_of(tmp_path / name) for name in ("a.db", "a.db-wal")] == before


async def test_damage_that_is_met_later_is_told(tmp_path: Path) -> None:
    """By the call that meets it; the store goes on with what is not damaged."""
    await made(tmp_path / "a.db")
    async with opened(tmp_path / "a.db") as store:
        await store.append(0, [event("1")])
    edited(tmp_path / "a.db", "UPDATE log SET event = '{'")
    async with opened(tmp_path / "a.db") as store:
        with pytest.raises(StoreCorrupt, match=r"a\.db: what is stored cannot be read .*restore it from a copy"):
            await pending(store)
        assert (await store.stats()).pending == 1


async def test_where_no_log_can_be_kept_there_is_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared directories of other machines, most often; nothing is made there."""
    monkeypatch.setattr(_files, "_connection", lambda *_: sqlite3.connect(":memory:", isolation_level=None))
    with pytest.raises(StoreError, match=r"a\.db: no write-ahead log can be kept there; use a disk of this machine"):
        await create_sqlite_storage(tmp_path / "a.db").open(SystemClock())
    assert names_in(tmp_path) == {"a.db-lock"}


async def test_a_file_is_not_made_beside_what_is_left_of_another(tmp_path: Path) -> None:
    """The write-ahead log of a file that is gone would be taken for that of the new one."""
    (tmp_path / "a.db-wal").write_bytes(b"x" * 100)
    with pytest.raises(StoreCorrupt, match=r"the file is missing, but .*a\.db-wal is there and belongs to it"):
        await create_sqlite_storage(tmp_path / "a.db").open(SystemClock())
    assert (tmp_path / "a.db-wal").exists()
    assert not (tmp_path / "a.db").exists()


async def test_a_copy_of_the_files_of_a_running_store_is_a_store(tmp_path: Path) -> None:
    """A snapshot of the disk holds all that was answered: the file, and the log beside it."""
    (tmp_path / "copy").mkdir()
    async with opened(tmp_path / "a.db") as store:
        await store.append(0, [event("1")])
        copied_by_another_process(tmp_path / "a.db", tmp_path / "copy")
    async with opened(tmp_path / "copy" / "a.db") as store:
        assert await pending(store) == ["1"]


# -- versions of the format


def _with_notes(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE subjects ADD COLUMN note TEXT NOT NULL DEFAULT 'none'")


async def test_an_older_file_is_brought_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step, when it is opened for writing; what was in it stays."""
    await made(tmp_path / "a.db")
    before, steps = len(_schema.STEPS), [*_schema.STEPS, _with_notes]
    monkeypatch.setattr(_schema, "STEPS", steps)
    monkeypatch.setattr("onwhen.storage.sqlite._files.STEPS", steps)
    with pytest.raises(
        StoreFormatError, match=f"of an older format, {before}; open it for writing once to bring it up"
    ):
        await create_sqlite_storage(tmp_path / "a.db", read_only=True).open(SystemClock())
    for _ in range(2):
        async with opened(tmp_path / "a.db") as store:
            assert await inside(store, pragma("user_version")) == len(steps)
            note = await inside(store, lambda at: at.execute("SELECT DISTINCT note FROM subjects").fetchall())
            assert note == [("none",)]
            assert (await store.stats()).subjects == 40


async def test_a_step_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither does one that has succeeded before it in the same go."""

    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM subjects")
        connection.execute("INSERT INTO nowhere VALUES (1)")

    await made(tmp_path / "a.db")
    with monkeypatch.context() as patch:
        patch.setattr(_schema, "STEPS", steps := [*_schema.STEPS, _with_notes, fail])
        patch.setattr("onwhen.storage.sqlite._files.STEPS", steps)
        with pytest.raises(StoreError, match="no such table: nowhere"):
            await create_sqlite_storage(tmp_path / "a.db").open(SystemClock())
    async with opened(tmp_path / "a.db") as store:
        assert await inside(store, pragma("user_version")) == len(_schema.STEPS)
        assert (await store.stats()).subjects == 40


async def test_a_file_of_the_first_version_gets_what_came_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells and explanations; what was in it stays."""
    with monkeypatch.context() as patch:
        patch.setattr(_schema, "STEPS", first := _schema.STEPS[:1])
        patch.setattr("onwhen.storage.sqlite._files.STEPS", first)
        await made(tmp_path / "a.db")
    async with opened(tmp_path / "a.db") as store:
        assert (await store.exchange("k", None, b"1", 60.0)).value == b"1"
        assert (await commit(store, "s0", explanation=explained("1", subject="s0"))).answer is Answer.OK
        assert len([found async for found in store.explanations()]) == 1
        assert (await store.stats()).subjects == 40
