"""The write-ahead log: copied into the file when there is nothing to do, and kept from growing."""

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from onwhen import SystemClock
from onwhen.storage import SqliteStore, create_sqlite_storage
from onwhen.storage.sqlite import _database, _files, _worker
from onwhen.storage.sqlite._database import Database
from tests.storage.sqlite.sqlites import commit, event, inside, names_in, opened, pending, write


def size_of(path: Path, suffix: str) -> int:
    return (path.parent / f"{path.name}{suffix}").stat().st_size


async def fill(store: SqliteStore, rounds: int, subjects: int = 200) -> None:
    for n in range(rounds):
        await asyncio.gather(*(write(store, f"s{m}", n=b'"%s"' % (b"%d" % n * 500)) for m in range(subjects)))


def checkpoints(patch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that each checkpoint from now on is added to."""
    seen: list[str] = []
    original = Database.checkpoint

    def checkpoint(self: Database, mode: str = "PASSIVE") -> None:
        seen.append(mode)
        original(self, mode)

    patch.setattr(Database, "checkpoint", checkpoint)
    return seen


async def test_the_log_is_copied_when_there_is_nothing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while somebody waits, and not for a few pages."""
    monkeypatch.setattr(_database, "_IDLE_PAGES", 50)
    monkeypatch.setattr(_worker, "_MOMENT", 0.01)
    async with opened(tmp_path / "a.db") as store:
        seen = checkpoints(monkeypatch)
        await write(store, n=b"1")
        before = size_of(tmp_path / "a.db", "")
        assert seen == []
        await store.append(0, [event(f"{n}", data="x" * 4000) for n in range(200)])
        deadline = time.monotonic() + 20
        while size_of(tmp_path / "a.db", "") <= before + 200 * 4000 and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        assert size_of(tmp_path / "a.db", "") > before + 200 * 4000
        assert seen == ["PASSIVE"]


async def test_the_log_does_not_grow_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past a certain size it is copied between two transactions, and begun anew."""
    monkeypatch.setattr(_database, "_MOST_PAGES", 300)
    async with opened(tmp_path / "a.db") as store:
        await fill(store, 5)
        settled = size_of(tmp_path / "a.db", "-wal")
        await fill(store, 40)
        assert size_of(tmp_path / "a.db", "-wal") <= max(settled, 300 * 4096 * 4)


@pytest.mark.parametrize("guard", ["pages of a transaction", "size of the log"])
async def test_the_log_does_not_grow_when_the_load_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guard: str
) -> None:
    """Thousands of events in a transaction take few pages each; one that is alone in its transaction takes several.

    So what was learned from the first ones is not all that counts.
    """
    monkeypatch.setattr(_database, "_MOST_PAGES", 300)
    if guard == "size of the log":
        monkeypatch.setattr(_database, "_FEWEST", 0)
        monkeypatch.setattr(_database, "_LOOK_EVERY", 10)
        monkeypatch.setattr(_files, "KEPT_WAL", 300 * 4096)
    async with opened(tmp_path / "a.db") as store:
        for part in range(3):
            await store.append(0, [event(f"{part}/{n}") for n in range(5000)])
        assert await inside(store, lambda database: database._ratio) < 0.1
        for n in range(1000):
            await write(store, f"s{n * 7919 % 1000}", n=b"1", m=b"2")
        assert size_of(tmp_path / "a.db", "-wal") <= 300 * 4096 * 4


async def test_a_checkpoint_that_fails_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the log is stored; nobody is told of an error, and it is tried again."""
    monkeypatch.setattr(_database, "_MOST_PAGES", 1)
    path = tmp_path / "a.db"
    async with opened(path) as store:
        assert store._worker is not None
        tries: list[str] = []

        def refuse(database: Database) -> None:
            execute = database.execute

            def failing(sql: str, *args: object) -> sqlite3.Cursor:
                if "wal_checkpoint" in sql:
                    tries.append(sql)
                    raise sqlite3.OperationalError("database or disk is full")
                return execute(sql, *args)

            database.execute = failing  # type: ignore[assignment]

        await store._ask(refuse)
        for n in range(20):
            await store.append(0, [event(f"{n}")])
        assert len(tries) > 3
        assert len(await pending(store)) == 20
    async with opened(path) as store:
        assert len(await pending(store)) == 20


async def test_somebody_who_reads_for_long_does_not_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it closed uncleanly: the log then stays beside the file, with what is not copied yet."""
    monkeypatch.setattr(_database, "_MOST_PAGES", 100)
    monkeypatch.setattr(_database, "_CLOSE_WAIT", 10)
    async with opened(tmp_path / "a.db") as store:
        await fill(store, 1)
        with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as reader:
            reader.execute("PRAGMA query_only = ON")
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM subjects").fetchone()
            await fill(store, 5)
            assert reader.execute("SELECT max(length(value)) FROM properties").fetchone() == (502,)
            await store.close()
            assert "a.db-wal" in names_in(tmp_path)
    store = create_sqlite_storage(tmp_path / "a.db")
    assert await store.open(SystemClock())
    await store.close()
    async with opened(tmp_path / "a.db") as store:
        assert (await store.stats()).subjects == 200
    assert names_in(tmp_path) == {"a.db", "a.db-lock"}


async def test_what_somebody_who_read_has_held_back_is_copied_when_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waiting for the next one who writes."""
    monkeypatch.setattr(_database, "_MOST_PAGES", 100)
    monkeypatch.setattr(_database, "_IDLE_PAGES", 50)
    monkeypatch.setattr(_worker, "_MOMENT", 0.01)
    async with opened(tmp_path / "a.db") as store:
        await write(store, n=b"1")
        with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as reader:
            reader.execute("PRAGMA query_only = ON")
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM subjects").fetchone()
            seen = checkpoints(monkeypatch)
            await store.append(0, [event(f"{n}", data="x" * 4000) for n in range(200)])
            deadline = time.monotonic() + 20
            while not seen and time.monotonic() < deadline:
                await asyncio.sleep(0.005)
            assert size_of(tmp_path / "a.db", "") < 200 * 4000
        while size_of(tmp_path / "a.db", "") < 200 * 4000 and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        assert size_of(tmp_path / "a.db", "") >= 200 * 4000


async def test_one_who_reads_for_long_does_not_make_every_commit_try_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again when as much was written in addition, not each time, though all of it is still to be copied."""
    monkeypatch.setattr(_database, "_MOST_PAGES", 100)
    async with opened(tmp_path / "a.db") as store:
        with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as reader:
            reader.execute("PRAGMA query_only = ON")
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM subjects").fetchone()
            seen = checkpoints(monkeypatch)
            for n in range(300):
                await write(store, f"s{n}", n=b"1")
            assert 3 <= len(seen) < 50


async def test_the_file_does_not_grow_with_what_was_handled(tmp_path: Path) -> None:
    """Room that events and old accepted ids took is used again."""
    async with opened(tmp_path / "a.db", dedup_window=500) as store:
        sizes = []
        for round in range(6):
            for part in range(4):
                accepted = await store.append(0, [event(f"{round}/{part}/{n}", data="x" * 500) for n in range(200)])
                await asyncio.gather(*(_handle(store, answer.position) for answer in accepted))
            sizes.append(await store._ask(lambda at: at.execute("PRAGMA page_count").fetchone()[0]))
        assert sizes[-1] <= sizes[1] * 1.1


async def _handle(store: SqliteStore, position: int | None) -> None:
    await commit(store, "a", version=None, handled=position)
