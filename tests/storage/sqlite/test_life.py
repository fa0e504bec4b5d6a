"""A store in a file: opened, closed, killed, and taken up again."""

import asyncio
import gc
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from onwhen import EventBus, RuleSet, Subject, SystemClock, VirtualClock
from onwhen.engine.store import Commit
from onwhen.errors import StoreError, StoreInUse
from onwhen.storage import create_sqlite_storage
from tests.storage.sqlite.sqlites import NOON, event, inside, names_in, opened, pending, pragma, run_apart, write

NOTHING_BESIDE = {"a.db", "a.db-lock"}


def test_a_store_is_made_without_touching_the_disk(tmp_path: Path) -> None:
    """The file comes with `open`; a relative name is taken from where the store was made."""
    store = create_sqlite_storage(tmp_path / "a.db", partitions=3)
    assert (store.partitions, store.volatile, list(tmp_path.iterdir())) == (3, False, [])
    assert repr(store) == f"<SqliteStore {tmp_path / 'a.db'}>"


async def test_what_is_stored_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    """By another store too; closed, it is one file and its lock."""
    async with opened(tmp_path / "a.db") as store:
        await store.append(0, [event("1"), event("2", data={"n": 2**70})])
        version = (await write(store, n=b"1")).version
    assert names_in(tmp_path) == NOTHING_BESIDE
    async with opened(tmp_path / "a.db") as store:
        assert await pending(store) == ["1", "2"]
        assert (await store.read(0, None, 2))[1].event.data == {"n": 2**70}
        record = await store.load("a")
        assert (record.properties, record.version) == ({"n": b"1"}, version)
        assert not (await store.append(0, [event("1")]))[0].is_new


async def test_numbers_are_not_used_again(tmp_path: Path) -> None:
    """Positions and versions go on where the one before has stopped, even if nothing of it is left."""
    numbers = []
    for _ in range(3):
        async with opened(tmp_path / "a.db") as store:
            version = (await write(store, n=b"1")).version
            (accepted,) = await store.append(0, [event(f"{len(numbers)}")])
            numbers += [version, accepted.position]
    assert numbers == sorted(set(numbers))


async def test_a_partition_that_there_is_not_is_refused(tmp_path: Path) -> None:
    """Nothing would ever read what was put there."""
    async with opened(tmp_path / "a.db", partitions=2) as store:
        for partition in (-1, 2):
            for call in (
                store.append(partition, [event("1")]),
                store.read(partition, None, 9),
                store.promote(partition, None),
                store.starting(partition, {}),
                store.bookmark(partition, "file"),
                store.commit(Commit(partition=partition, subject="a")),
            ):
                with pytest.raises(StoreError, match=rf"a\.db: there is no partition {partition}, only 0 to 1"):
                    await call
            with pytest.raises(StoreError, match="there is no partition"):
                store.retries(partition)
        assert (await store.stats()).pending == 0


async def test_it_says_whether_it_was_closed(tmp_path: Path) -> None:
    """A new one counts as closed; open again without being closed, for another event loop, it was not."""
    store = create_sqlite_storage(tmp_path / "a.db")
    assert await store.open(VirtualClock(NOON))
    assert not await store.open(VirtualClock(NOON))
    await store.close()
    assert await store.open(VirtualClock(NOON))
    await store.close()


async def test_what_a_killed_process_was_answered_is_there(tmp_path: Path) -> None:
    """Killed by a signal that nobody can catch, it has not closed; its lock is gone with it."""
    done = run_apart(
        """
async def main():
    store = create_sqlite_storage(path)
    await store.open(SystemClock())
    for n in range(100):
        await store.append(0, [event(f"{n}")])
        await write(store, n=b"%d" % n)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
""",
        tmp_path / "a.db",
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    store = create_sqlite_storage(tmp_path / "a.db")
    assert not await store.open(SystemClock())
    assert await pending(store) == [f"{n}" for n in range(100)]
    assert (await store.load("a")).properties == {"n": b"99"}
    assert await inside(store, pragma("integrity_check")) == "ok"
    await store.close()
    assert await store.open(SystemClock())
    await store.close()


@pytest.mark.parametrize("at", ["_files._sync", "_files.os.replace", "_schema.bring_up"])
async def test_a_process_killed_while_it_makes_the_file_leaves_none(tmp_path: Path, at: str) -> None:
    """Whenever that is: the next one makes it anew, and what is left of the first try is gone."""
    done = run_apart(
        f"""
from onwhen.storage.sqlite import _files, _schema
def killed(*_): os.kill(os.getpid(), signal.SIGKILL)
_files.bring_up = killed if {at!r}.endswith("bring_up") else _files.bring_up
{at} = killed
asyncio.run(create_sqlite_storage(path).open(SystemClock()))
""",
        tmp_path / "a.db",
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "a.db").exists()
    assert (tmp_path / "a.db-new").exists()
    async with opened(tmp_path / "a.db") as store:
        await write(store, n=b"1")
    assert names_in(tmp_path) == NOTHING_BESIDE


@pytest.mark.parametrize("ending", ["pass", "sys.exit(3)", "1 / 0"])
def test_an_interpreter_that_ends_without_closing_it_does_not_hang(tmp_path: Path, ending: str) -> None:
    """Nothing is lost, and nothing is said about it; but it counts as not closed."""
    done = run_apart(
        f"""
async def main():
    global store
    store = create_sqlite_storage(path)
    await store.open(SystemClock())
    await store.append(0, [event("1")])
asyncio.run(main())
print("stored")
{ending}
""",
        tmp_path / "a.db",
        "-X",
        "dev",
        "-W",
        "error",
    )
    assert done.stdout == "stored\n"
    assert ("ZeroDivisionError" in done.stderr) == ("1 / 0" in ending)
    assert "Warning" not in done.stderr

    async def look() -> tuple[bool, list[str]]:
        store = create_sqlite_storage(tmp_path / "a.db")
        was_closed = await store.open(SystemClock())
        found = await pending(store)
        await store.close()
        return was_closed, found

    assert asyncio.run(look()) == (False, ["1"])


async def test_one_that_nobody_refers_to_any_more_lets_go_of_its_file(tmp_path: Path) -> None:
    """Forgotten without being closed, it does not keep others from the file; it counts as not closed."""
    store = create_sqlite_storage(tmp_path / "a.db")
    await store.open(SystemClock())
    await store.append(0, [event("1")])
    del store
    gc.collect()
    again = create_sqlite_storage(tmp_path / "a.db")
    assert not await again.open(SystemClock())
    assert await pending(again) == ["1"]
    await again.close()


def test_it_is_used_from_one_event_loop_after_the_other(tmp_path: Path) -> None:
    """A loop that has ended is not waited for; a call that was under way on it has taken effect or not."""
    store = create_sqlite_storage(tmp_path / "a.db")

    async def begin() -> None:
        await store.open(SystemClock())
        await store.append(0, [event("1")])
        tasks = [asyncio.create_task(store.append(0, [event(f"late {n}")])) for n in range(3)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()

    async def go_on() -> list[str]:
        assert not await store.open(SystemClock())
        found = await pending(store)
        await store.close()
        return found

    asyncio.run(begin())
    assert asyncio.run(go_on()) == ["1", "late 0", "late 1", "late 2"]


async def test_closing_it_finishes_what_was_asked_before(tmp_path: Path) -> None:
    """And doing it again, or at the same time, does nothing more."""
    store = create_sqlite_storage(tmp_path / "a.db")
    await store.close()
    await store.open(SystemClock())
    asked = [asyncio.ensure_future(store.append(0, [event(f"{n}")])) for n in range(50)]
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    assert all(task.done() and task.result()[0].is_new for task in asked)
    await store.close()
    assert names_in(tmp_path) == NOTHING_BESIDE


async def test_being_cancelled_while_it_closes_leaves_it_closed(tmp_path: Path) -> None:
    """Whoever opens it next waits until that is so."""
    store = create_sqlite_storage(tmp_path / "a.db")
    await store.open(SystemClock())
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert await store.open(SystemClock())
    await store.close()


async def test_calls_are_refused_when_it_is_not_open(tmp_path: Path) -> None:
    """Before it was opened and after it was closed; the message says what to do."""
    store = create_sqlite_storage(tmp_path / "a.db")
    for _ in range(2):
        for call in (store.load("a"), store.append(0, [event("1")]), store.stats(), anext(store.subjects())):
            with pytest.raises(StoreError, match="is not open; a bus opens it"):
                await call
        await store.open(SystemClock())
        await store.close()


async def test_a_second_one_in_this_process_is_refused(tmp_path: Path) -> None:
    """By whatever name it goes: two that write would not know of each other."""
    (tmp_path / "link.db").symlink_to(tmp_path / "a.db")
    async with opened(tmp_path / "a.db") as store:
        for name in ("a.db", "link.db", "../" + tmp_path.name + "/a.db"):
            with pytest.raises(StoreInUse, match=r"a\.db: this process has it open for writing; close it there"):
                await create_sqlite_storage(tmp_path / name).open(SystemClock())
        assert (await write(store, n=b"1")).version is not None
    async with opened(tmp_path / "link.db") as store:
        assert (await store.load("a")).properties == {"n": b"1"}


async def test_a_second_process_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    """The file stays as it is, and the first one goes on."""
    code = """
try:
    asyncio.run(create_sqlite_storage(path).open(SystemClock()))
except Exception as error:
    print(type(error).__name__, error)
"""
    async with opened(tmp_path / "a.db") as store:
        done = await asyncio.to_thread(run_apart, code, tmp_path / "a.db")
        assert done.stdout.startswith("StoreInUse")
        assert f"process {os.getpid()} has it open for writing" in done.stdout
        await write(store, n=b"1")
    assert (await asyncio.to_thread(run_apart, code, tmp_path / "a.db")).stdout == ""


def _used_in_child(path: str, answers: "multiprocessing.SimpleQueue[str]") -> None:
    async def use() -> None:
        for store in (_parent, create_sqlite_storage(path)):
            assert store is not None
            try:
                await asyncio.wait_for(store.append(0, [event("child")]) if store is _parent else _open(store), 20)
            except Exception as error:
                answers.put(f"{type(error).__name__}: {error}")
        assert _parent is not None
        await _parent.close()

    asyncio.run(use())


async def _open(store: object) -> None:
    await store.open(SystemClock())  # type: ignore[attr-defined]


_parent = None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked there")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_is_another_one(tmp_path: Path) -> None:
    """The store stays with the parent: the child is refused, does not hang, and does not keep the lock."""
    global _parent
    path, context = str(tmp_path / "a.db"), multiprocessing.get_context("fork")
    _parent = store = create_sqlite_storage(path)
    answers = context.SimpleQueue()
    with asyncio.Runner() as runner:
        runner.run(store.open(SystemClock()))
        child = context.Process(target=_used_in_child, args=(path, answers))
        child.start()
        assert "opened by a parent process" in answers.get()
        assert f"StoreInUse: {path}: process {os.getpid()}" in answers.get()
        child.join(30)
        assert child.exitcode == 0
        runner.run(store.append(0, [event("1")]))
        runner.run(store.close())
    _parent = None


class Counter(Subject, prefix="counter:"):
    n: int = 0


rules = RuleSet("counting", subject=Counter)


@rules.on("go")
def count(ctx) -> None:  # type: ignore[no-untyped-def]
    ctx.subject.n += 1


async def test_a_bus_runs_on_it(tmp_path: Path) -> None:
    """What was accepted and not handled when a bus was left is handled by the next one."""
    async with opened(tmp_path / "a.db") as store:
        await store.append(0, [event("left")])
        await store.append(0, [event("1").replace(type="go", subject="counter:1")])
    async with EventBus(rules, store=create_sqlite_storage(tmp_path / "a.db")) as bus:
        await bus.idle()
        for _ in range(10):
            assert (await bus.emit("go", "counter:1")).status == "handled"
        assert (await bus.read("counter:1")).dict() == {"n": 11}
        assert (await bus.store.stats()).pending == 0


async def test_a_file_knows_how_much_it_remembers(tmp_path: Path) -> None:
    """Who opens it without a window of his own, as commands do, does not change that of the program."""

    async def are_new(ids: str, **options: int) -> list[bool]:
        async with opened(tmp_path / "a.db", **options) as store:
            return [one.is_new for one in await store.append(0, [event(id) for id in ids])]

    assert await are_new("123", dedup_window=2) == [True, True, True]
    assert await are_new("231") == [False, False, True]
    assert await are_new("1", dedup_window=1) == [False]
    assert await are_new("31") == [True, True]
