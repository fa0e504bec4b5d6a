"""What is asked at the same time is stored together, and each has its own answer."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from onwhen.engine.store import Answer, SubjectWrite
from onwhen.errors import StoreCorrupt, StoreError, StoreFull, StoreInUse
from onwhen.storage import SqliteStore
from onwhen.storage.sqlite import _database
from onwhen.storage.sqlite._database import Database
from onwhen.testing.store_contract._bench import explained
from tests.storage.sqlite.sqlites import NOON, commit, event, inside, opened, pending, write


async def statements(store: SqliteStore) -> list[str]:
    """Return a list that every statement is added to from now on."""
    seen: list[str] = []
    await inside(store, lambda database: database._connection.set_trace_callback(seen.append))
    return seen


def failing(patch: pytest.MonkeyPatch, method: str, error: Callable[[int], Exception | None]) -> list[int]:
    """Have a method of the database fail; return a list that each call is added to."""
    calls: list[int] = []
    original = getattr(Database, method)

    def run(self: Database, *args: Any, **options: Any) -> Any:
        calls.append(len(calls))
        failure = error(calls[-1])
        if failure is not None:
            raise failure
        return original(self, *args, **options)

    patch.setattr(Database, method, run)
    return calls


async def answers(*calls: Any) -> list[Any]:
    """Make calls at the same time; return what each has returned or raised."""
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_what_is_asked_at_once_is_stored_at_once(tmp_path: Path) -> None:
    """A hundred commits need one transaction, or few."""
    async with opened(tmp_path / "a.db") as store:
        seen = await statements(store)
        results = await asyncio.gather(*(commit(store, f"s{n}", version=None, id=f"{n}") for n in range(100)))
        assert {result.answer for result in results} == {Answer.OK}
        assert 1 <= sum(text == "COMMIT" for text in seen) <= 5


async def test_reading_needs_no_transaction(tmp_path: Path) -> None:
    """Nobody else writes to the file."""
    async with opened(tmp_path / "a.db") as store:
        await write(store, n=b"1")
        seen = await statements(store)
        await asyncio.gather(*(store.load("a") for _ in range(50)), store.stats())
        assert seen
        assert not any(text.startswith(("BEGIN", "COMMIT")) for text in seen)


async def test_calls_take_effect_in_the_order_in_which_they_are_made(tmp_path: Path) -> None:
    """A read that was asked for after a write sees it."""
    async with opened(tmp_path / "a.db") as store:
        calls = [store.append(0, [event(f"{n}")]) if n % 2 else store.read(0, None, 1000) for n in range(101)]
        found = await asyncio.gather(*calls)
        assert [len(entries) for entries in found[::2]] == list(range(51))
        assert await pending(store) == [f"{n}" for n in range(1, 101, 2)]


@pytest.mark.parametrize(
    "bad",
    [
        SubjectWrite(set={"n": b"\xff"}),
        SubjectWrite(set={"\ud800": b"1"}),
        SubjectWrite(set={"n": b"1"}, schema=2**70),
        SubjectWrite(set={"n": 1}),  # type: ignore[dict-item]
    ],
)
async def test_what_cannot_be_stored_fails_alone(tmp_path: Path, bad: SubjectWrite) -> None:
    """Those that were in the same transaction are stored, in order; nothing of the bad one is."""
    async with opened(tmp_path / "a.db") as store:
        calls = [store.append(0, [event(f"{n}")]) for n in range(20)]
        spoiled = commit(store, "b", version=None, write=bad, messages=[event("m", "b")])
        found = await answers(*calls[:10], spoiled, *calls[10:])
        assert isinstance(found.pop(10), StoreError)
        assert all(answer[0].is_new for answer in found)
        assert await pending(store) == [f"{n}" for n in range(20)]
        assert (await store.load("b")).version is None


async def test_explanations_are_counted_right_if_their_transaction_fails(tmp_path: Path) -> None:
    """It is done again without what has failed, and as many are kept as before."""

    def broken(database: Database) -> None:
        raise ZeroDivisionError

    async with opened(tmp_path / "a.db", explanations=2) as store:
        worker = store._worker
        assert worker is not None
        for number in range(5):
            explanation = explained(f"{number}", time=NOON + timedelta(seconds=number))
            gate = threading.Event()
            waiting = worker.ask(
                lambda database, gate=gate: gate.wait(60), writes=False
            )  # what comes is taken together
            explaining = asyncio.ensure_future(commit(store, version=None, id=f"{number}", explanation=explanation))
            await asyncio.sleep(0)
            spoiled = worker.ask(broken, writes=True)
            gate.set()
            await answers(waiting, explaining, spoiled)
            kept = [found.event async for found in store.explanations()]
            assert kept == [f"{n}" for n in range(max(0, number - 1), number + 1)]


async def test_one_that_fails_while_it_is_stored_does_not_undo_the_others(tmp_path: Path) -> None:
    """They are done again without it, all of them in few transactions, and in order."""

    def broken(database: Database) -> None:
        database.execute("DELETE FROM subjects")
        raise ZeroDivisionError

    async with opened(tmp_path / "a.db") as store:
        worker = store._worker
        assert worker is not None
        seen = await statements(store)
        for round in range(3):
            seen.clear()
            one = SubjectWrite(set={"n": b"1"})
            calls = [commit(store, f"s{round}/{n}", version=None, write=one) for n in range(20)]
            found = await answers(*calls[:10], worker.ask(broken, writes=True), *calls[10:])
            with pytest.raises(StoreError, match=r"a\.db: this cannot be stored: ZeroDivisionError"):
                raise found.pop(10)
            assert {answer.answer for answer in found} == {Answer.OK}
            assert "ROLLBACK" in seen
            assert sum(text == "COMMIT" for text in seen) < 10
        assert (await store.stats()).subjects == 60


async def test_nothing_is_answered_that_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the transaction cannot be committed, each is tried alone; not even a read has seen what was undone."""
    async with opened(tmp_path / "a.db") as store:
        calls = failing(monkeypatch, "commit", lambda n: sqlite3.OperationalError("disk I/O error") if n < 4 else None)
        found = await answers(
            store.append(0, [event("1")]),
            store.append(0, [event("2")]),
            store.read(0, None, 9),
            store.append(0, [event("3")]),
        )
        assert [type(answer) for answer in found] == [StoreError, StoreError, StoreError, list]
        assert len(calls) == 5
        assert await pending(store) == ["3"]


async def test_asking_again_after_an_error_does_what_it_would_have_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window of accepted events has no hole, and no number is given out twice."""
    async with opened(tmp_path / "a.db", dedup_window=3) as store:
        await store.append(0, [event("1"), event("2")])
        with monkeypatch.context() as patch:
            failing(patch, "commit", lambda _: sqlite3.OperationalError("disk I/O error"))
            for _ in range(2):
                with pytest.raises(StoreError, match="disk I/O error"):
                    await store.append(0, [event("3"), event("4")])
        new = await store.append(0, [event(id) for id in "234"])
        assert [answer.is_new for answer in new] == [False, True, True]
        assert [answer.is_new for answer in await store.append(0, [event("2"), event("1")])] == [False, True]
        positions = [entry.position for entry in await store.read(0, None, 10)]
        assert positions == sorted(set(positions))


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (sqlite3.SQLITE_FULL, StoreFull, r"there is no room left \(it\); nothing of this was stored. Make room"),
        (sqlite3.SQLITE_CORRUPT_INDEX, StoreCorrupt, r"damaged \(it\)"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StoreInUse, r"another process has locked it \(it\)"),
        (sqlite3.SQLITE_IOERR_FSYNC, StoreError, r"it; see that the file and its directory can be read and written"),
    ],
)
async def test_errors_of_the_driver_are_told_in_our_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: type[StoreError], message: str
) -> None:
    """With the file, what happened and what to do; the driver's own error is the cause."""
    failure = sqlite3.OperationalError("it")
    failure.sqlite_errorcode = code
    async with opened(tmp_path / "a.db") as store:
        with monkeypatch.context() as patch:
            failing(patch, "commit", lambda _: failure)
            with pytest.raises(StoreError, match=rf"a\.db: {message}") as caught:
                await write(store, n=b"1")
        assert type(caught.value) is error
        assert caught.value.__cause__ is failure
        assert (await write(store, n=b"1")).answer is Answer.OK


async def test_an_error_that_cannot_be_put_into_words_is_answered_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is left waiting, and the store goes on."""

    def speechless(error: Exception, path: str) -> StoreError:
        raise ZeroDivisionError

    async with opened(tmp_path / "a.db") as store:
        with monkeypatch.context() as patch:
            patch.setattr("onwhen.storage.sqlite._worker.translated", speechless)
            failing(patch, "commit", lambda _: sqlite3.OperationalError("odd"))
            with pytest.raises(StoreError, match=r"a\.db: odd"):
                await store.append(0, [event("1")])
        assert (await store.append(0, [event("1")]))[0].is_new


async def test_a_want_of_room_loses_nothing_and_passes(tmp_path: Path) -> None:
    """What was stored stays, what does not fit is refused, what fits is stored; with room it all goes on."""
    async with opened(tmp_path / "a.db") as store:
        await store.append(0, [event("1", data="x" * 20_000)])
        pages = await inside(store, lambda at: at.execute("PRAGMA page_count").fetchone()[0])
        await inside(store, lambda at: at.execute(f"PRAGMA max_page_count = {pages + 2}").fetchone())
        calls = (store.append(0, [event(id, data="x" * size)]) for id, size in [("2", 10), ("3", 99_999), ("4", 10)])
        small, large, last = await answers(*calls)
        assert small[0].is_new
        assert last[0].is_new
        assert isinstance(large, StoreFull)
        assert await pending(store) == ["1", "2", "4"]
        await inside(store, lambda at: at.execute("PRAGMA max_page_count = 1000000").fetchone())
        assert (await store.append(0, [event("3", data="x" * 99_999)]))[0].is_new
        assert await pending(store) == ["1", "2", "4", "3"]


async def test_room_in_the_log_is_used_again_before_anything_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the write-ahead log is copied and begun anew; what fits there then is stored."""
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    async with opened(tmp_path / "a.db") as store:
        copied = failing(monkeypatch, "checkpoint", lambda _: None)
        failing(monkeypatch, "commit", lambda n: full if n == 0 else None)
        found = await asyncio.gather(*(store.append(0, [event(f"{n}")]) for n in range(3)))
        assert all(answer[0].is_new for answer in found)
        assert len(copied) == 1


async def test_a_database_that_another_program_has_locked_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who writes to the file with other tools; when that ends, all goes on."""
    async with opened(tmp_path / "a.db") as store:
        await inside(store, lambda at: at.execute("PRAGMA busy_timeout = 1").fetchone())
        other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreInUse, match="another process has locked it"):
            await write(store, n=b"1")
        other.execute("ROLLBACK")
        other.close()
        assert (await write(store, n=b"1")).answer is Answer.OK


async def test_who_does_not_wait_any_more_does_not_hold_up_the_others(tmp_path: Path) -> None:
    """A call that is cancelled has taken effect or not; asked again, it does nothing twice."""
    async with opened(tmp_path / "a.db") as store:
        tasks = [asyncio.ensure_future(store.append(0, [event(f"{n}")])) for n in range(100)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        found = await answers(*tasks)
        assert all(answer[0].is_new for answer in found[1::2])
        for n in range(100):
            await store.append(0, [event(f"{n}")])
        assert sorted(map(int, await pending(store))) == list(range(100))


async def test_a_flood_is_stored_in_several_transactions(tmp_path: Path) -> None:
    """So that the first ones do not wait for the last."""
    async with opened(tmp_path / "a.db") as store:
        seen = await statements(store)
        await asyncio.gather(*(store.append(0, [event(f"{n}")]) for n in range(3_500)))
        assert sum(text == "COMMIT" for text in seen) >= 4
        assert (await store.stats()).pending == 3_500


async def test_numbers_are_set_aside_for_many_commits_at_once(tmp_path: Path) -> None:
    """The row that keeps them is written when they are used up, not each time."""
    async with opened(tmp_path / "a.db") as store:
        seen = await statements(store)
        for n in range(_database._RESERVED // 500 + 1):
            await store.append(0, [event(f"{n}/{m}") for m in range(500)])
        assert sum("UPDATE meta" in text for text in seen) == 2
