"""No statement reads a whole table to find a few rows, however many there are."""

import sqlite3
from datetime import timedelta
from pathlib import Path

from onwhen.engine.store import Commit, DeadLetter, Failure, Retry, SubjectWrite, Timer
from onwhen.storage import SqliteStore
from onwhen.testing.store_contract._bench import explained
from tests.storage.sqlite.sqlites import NOON, event, inside, opened

TABLES = ("log", "accepted", "bookmarks", "subjects", "properties", "timers", "retries", "dead", "history")
TABLES = (*TABLES, "cells", "explanations")
COUNTS = ("SELECT count(*)",)  # nothing but reading a table, or an index of it, counts its rows


async def use_everything(store: SqliteStore) -> None:
    """Call all that the contract has, so that every statement is run."""
    failure = Failure(type="E", message="m")
    retry = Retry(
        subject="a", event=event("1"), rule="r", attempt=2, due=NOON, in_order=True, first_failed=NOON, failure=failure
    )
    letters = [
        DeadLetter(
            id=id, subject="a", event=event("1"), rule="r", failure=failure, attempts=1, first_failed=NOON, time=NOON
        )
        for id in ("d1", "d2")
    ]
    timers = [Timer(subject="a", key=f"k{n}", due=NOON + n * timedelta(hours=1), event=event(f"t{n}")) for n in (0, 1)]
    accepted = await store.append(0, [event("1"), event("2")], {"file": "7"})
    await store.append(0, [event("2"), event("3")])
    await store.starting(0, {accepted[0].position or 0: 1})
    everything = {"set": {"n": b"1", "m": b"2"}, "delete": ["x"], "set_ext": {"by": b"1"}, "delete_ext": ["y"]}
    first = await store.commit(
        Commit(
            partition=0,
            subject="a",
            handled=accepted[0].position,
            write=SubjectWrite(**everything),
            messages=[event("m", "b")],
            timers=timers,
            cancelled=["none"],
            retries=[retry],
            dead=letters,
            explanation=explained("1"),
        )
    )
    await store.starting(0, {retry.key: 1})
    assert len([found async for found in store.retries(0)]) == 1
    assert len([found async for found in store.timers()]) == 2
    assert len([found async for found in store.timers("a")]) == 2
    assert len([found async for found in store.dead_letters()]) == 2
    many = SubjectWrite(set={f"p{n}": b"1" for n in range(40)})
    second = await store.commit(
        Commit(partition=0, subject="a", version=first.version, retried=retry.key, revived=["d1"], id="c", write=many)
    )
    explanation = explained("2", time=NOON)
    await store.commit(Commit(partition=0, subject="a", version=second.version, id="e", explanation=explanation))
    for asked in ({}, {"correlation": "c"}, {"subject": "a"}, {"correlation": "c", "subject": "a"}):
        assert len([found async for found in store.explanations(**asked)]) == 1
    for expected, new in ((None, b"1"), (b"1", b"2"), (b"2", None)):
        assert (await store.exchange("k", expected, new, 60.0)).value == new
    assert len((await store.promote(0, None)).entries) == 1
    await store.commit(Commit(partition=0, subject="a", version=0, handled=accepted[1].position))
    assert await store.discard("d2")
    assert await store.dead_letter("d2") is None
    assert [found.name async for found in store.subjects("a")] == ["a"]
    assert len([found async for found in store.history("a")]) == 1
    await store.bookmark(0, "file")
    await store.read(0, None, 10)
    await store.load("a")
    await store.stats()
    removal = SubjectWrite(remove=True)
    await store.commit(Commit(partition=0, subject="a", version=second.version, write=removal, cancel_all=True))


async def test_every_statement_finds_its_rows_by_an_index(tmp_path: Path) -> None:
    """In the words of SQLite: it searches, and does not scan; nor does it sort what an index has in order."""
    seen: list[str] = []
    async with opened(tmp_path / "a.db", history=1, explanations=1, dedup_window=3) as store:
        await inside(store, lambda database: database._connection.set_trace_callback(seen.append))
        await use_everything(store)
        await inside(store, lambda database: database._connection.set_trace_callback(None))
    statements = {text for text in seen if text.startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))}
    assert len(statements) > 50
    connection = sqlite3.connect(tmp_path / "a.db")
    for text in statements:
        if text.startswith(COUNTS) or " meta" in text:
            continue  # the table `meta` has one row
        plan = " / ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}"))
        assert ("was_timer = 1" in text) == ("log_timers" in plan), (text, plan)
        assert not any(f"SCAN {table}" in plan for table in TABLES), (text, plan)
        # What is sorted is one page of subjects, or the timers of one subject.
        assert "TEMP B-TREE" not in plan or "SCAN s /" in plan or "subject=?" in plan, (text, plan)
    connection.close()
