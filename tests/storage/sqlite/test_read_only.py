"""Looking at a file that somebody else may be writing to."""

import asyncio
from pathlib import Path

import pytest

from onwhen import SystemClock
from onwhen.engine.store import Commit
from onwhen.errors import StoreError
from onwhen.storage import create_sqlite_storage
from tests.storage.sqlite.sqlites import event, names_in, opened, pending, run_apart, write


async def test_any_number_look_on_while_one_writes(tmp_path: Path) -> None:
    """Each sees what was stored when it asks."""
    async with (
        opened(tmp_path / "a.db") as store,
        opened(tmp_path / "a.db", read_only=True) as one,
        opened(tmp_path / "a.db", read_only=True) as two,
    ):
        for n in range(5):
            await asyncio.gather(*(write(store, f"s{m}", n=b"%d" % n) for m in range(300)))
            for look in (one, two):
                assert {record.properties["n"] async for record in look.subjects()} == {b"%d" % n}
                assert (await look.stats()).subjects == 300


async def test_a_writer_begins_and_ends_while_one_looks_on(tmp_path: Path) -> None:
    """It does not wait for those who look, and they stay."""
    async with opened(tmp_path / "a.db") as store:
        await store.append(0, [event("1")])
    async with opened(tmp_path / "a.db", read_only=True) as look:
        assert await pending(look) == ["1"]
        async with opened(tmp_path / "a.db") as store:
            await store.append(0, [event("2")])
            assert await pending(look) == ["1", "2"]
        assert await pending(look) == ["1", "2"]
    async with opened(tmp_path / "a.db") as store:
        assert await pending(store) == ["1", "2"]
    assert names_in(tmp_path) == {"a.db", "a.db-lock"}


async def test_nothing_is_written_through_it(tmp_path: Path) -> None:
    """Each call that would is refused; opening and closing it leave no mark either."""
    async with opened(tmp_path / "a.db") as store:
        await store.append(0, [event("1")])
    before = (tmp_path / "a.db").stat().st_mtime_ns
    look = create_sqlite_storage(tmp_path / "a.db", read_only=True)
    assert await look.open(SystemClock())
    for call in (
        look.append(0, [event("2")]),
        look.commit(Commit(partition=0, subject="a")),
        look.promote(0, None),
        look.starting(0, {1: 1}),
        look.discard("d"),
    ):
        with pytest.raises(StoreError, match=r"a\.db: opened with read_only=True; nothing can be written"):
            await call
    await look.close()
    with pytest.raises(StoreError, match="is not open"):
        await look.discard("d")
    assert (tmp_path / "a.db").stat().st_mtime_ns == before


async def test_what_a_killed_process_has_left_can_be_looked_at(tmp_path: Path) -> None:
    """Before anybody opens it for writing, and without taking from that one that it was not closed."""
    run_apart(
        """
async def main():
    store = create_sqlite_storage(path)
    await store.open(SystemClock())
    await store.append(0, [event("1")])
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
""",
        tmp_path / "a.db",
    )
    async with opened(tmp_path / "a.db", read_only=True) as look:
        assert await pending(look) == ["1"]
    store = create_sqlite_storage(tmp_path / "a.db")
    assert not await store.open(SystemClock())
    assert await pending(store) == ["1"]
    await store.close()


async def test_it_is_open_for_looking_in_another_process(tmp_path: Path) -> None:
    """As a command does that lists what is in the file of a running service."""
    async with opened(tmp_path / "a.db") as store:
        await store.append(0, [event("1")])
        done = await asyncio.to_thread(
            run_apart,
            """
async def main():
    async with opened(path, read_only=True) as store:
        print(await pending(store))
asyncio.run(main())
""",
            tmp_path / "a.db",
        )
        assert done.stdout == "['1']\n", done.stderr
        assert (await store.append(0, [event("2")]))[0].is_new
