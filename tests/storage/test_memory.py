"""The store in memory: what the storage contract asks for, and what it forgets."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from onwhen import Event, VirtualClock, create_memory_storage
from onwhen.engine.partitions import partition_of
from onwhen.engine.store import (
    Accepted,
    Answer,
    Commit,
    CommitResult,
    DeadLetter,
    Failure,
    Retry,
    Store,
    StoreStats,
    SubjectWrite,
    Timer,
)
from onwhen.storage import MemoryStore

NOON = datetime(2026, 11, 5, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ERROR = Failure(type="LookupError", message="not there")


def event(id: str, subject: str = "a", source: str = "/desk") -> Event:
    return Event("opened", subject, id=id, source=source)


def retry(of: Event, rule: str = "r.f", due: datetime = NOON) -> Retry:
    return Retry(
        subject=of.subject,
        event=of,
        rule=rule,
        attempt=2,
        due=due,
        in_order=True,
        first_failed=NOON,
        failure=ERROR,
    )


def letter(id: str, of: Event) -> DeadLetter:
    return DeadLetter(
        id=id, subject=of.subject, event=of, rule="r.f", failure=ERROR, attempts=1, first_failed=NOON, time=NOON
    )


def timer(key: str, due: datetime, subject: str = "a", target: str = "a") -> Timer:
    return Timer(subject=subject, key=key, due=due, event=event(f"{subject}/{key}/{due}", target))


async def commit(store: Store, subject: str = "a", **fields: Any) -> CommitResult:
    """Commit on what is stored now, unless told otherwise."""
    fields.setdefault("version", (await store.load(subject)).version)
    return await store.commit(
        Commit(partition=partition_of(subject, store.partitions), subject=subject, **fields),
    )


async def write(store: Store, subject: str = "a", **properties: bytes) -> CommitResult:
    return await commit(store, subject, write=SubjectWrite(set=properties))


@pytest.fixture
async def store() -> MemoryStore:
    store = create_memory_storage()
    await store.open(VirtualClock(NOON))
    return store


async def pending(store: Store, partition: int = 0) -> list[str]:
    return [entry.event.id for entry in await store.read(partition, None, 100)]


def test_it_is_a_store() -> None:
    """It has everything that the contract names; a count out of range is refused."""
    store: Store = create_memory_storage(partitions=4)
    assert store.partitions == 4
    with pytest.raises(ValueError, match="partitions=0"):
        create_memory_storage(partitions=0)
    with pytest.raises(ValueError, match="dedup_window=-1"):
        MemoryStore(dedup_window=-1)


# -- the log


async def test_accepted_events_are_pending_in_order(store: MemoryStore) -> None:
    """They are read from the start, or after a position, so many at a time."""
    await store.append(0, [event("1"), event("2", "b")])
    await store.append(0, [event("3")])
    assert await pending(store) == ["1", "2", "3"]
    first = (await store.read(0, None, 1))[0]
    assert [entry.event.id for entry in await store.read(0, first.position, 1)] == ["2"]
    assert [entry.event.id for entry in await store.read(0, first.position, 9)] == ["2", "3"]


async def test_an_event_is_accepted_once(store: MemoryStore) -> None:
    """A second one of the same source and id is not, also within one call; it is told where the first one stands."""
    (one,) = await store.append(0, [event("1")])
    assert await store.append(0, [event("1"), event("2"), event("2")]) == [
        Accepted(one.position, is_new=False),
        Accepted((await store.read(0, one.position, 1))[0].position),
        Accepted((await store.read(0, one.position, 1))[0].position, is_new=False),
    ]
    assert (await store.append(0, [event("1", source="/other")]))[0].is_new
    await commit(store, handled=one.position)
    assert await store.append(0, [event("1")]) == [Accepted(None, is_new=False)]


async def test_ids_are_remembered_within_the_window() -> None:
    """So many of the latest; with a window of 0, none."""
    store = create_memory_storage(dedup_window=2)
    for id in "1231":
        assert (await store.append(0, [event(id)]))[0].is_new
    assert not (await store.append(0, [event("1")]))[0].is_new
    store = create_memory_storage(dedup_window=0)
    for _ in range(2):
        assert (await store.append(0, [event("1")]))[0].is_new


async def test_ids_that_are_yet_to_be_made_are_like_no_other(store: MemoryStore) -> None:
    """Such events are accepted without making one, and use no room in the window."""
    fresh = Event("opened", "a")
    await store.append(0, [fresh])
    assert not fresh.has_id
    assert len(store._seen) == 0


# -- the commit


async def test_a_commit_stores_all_of_it(store: MemoryStore) -> None:
    """The subject, what it sends, its timers, retries and dead letters; and the event is not pending any more."""
    (accepted,) = await store.append(0, [event("1")])
    result = await commit(
        store,
        handled=accepted.position,
        write=SubjectWrite(set={"n": b"1"}, set_ext={"by": b'"me"'}, schema=3),
        messages=[event("2"), event("3", "b")],
        timers=[timer("sla", NOON + HOUR)],
        retries=[retry(event("1"))],
        dead=[letter("d", event("1"))],
    )
    assert result.answer is Answer.OK
    assert await pending(store) == ["2", "3"]
    assert [entry.position for entry in await store.read(0, None, 9)] == list(result.appended)
    record = await store.load("a")
    assert (record.properties, record.ext, record.schema) == ({"n": b"1"}, {"by": b'"me"'}, 3)
    assert record.version == result.version
    stats = await store.stats()
    assert stats == StoreStats(subjects=1, pending=2, timers=1, retries=1, parked=0, dead=1, oldest=stats.oldest)


async def test_writes_name_what_changes(store: MemoryStore) -> None:
    """What is not mentioned stays; what is deleted goes, if it is there."""
    await write(store, a=b"1", b=b"2")
    await commit(store, write=SubjectWrite(set={"c": b"3"}, delete=["a", "gone"], delete_ext=["gone"]))
    assert (await store.load("a")).properties == {"b": b"2", "c": b"3"}


async def test_what_was_loaded_does_not_change(store: MemoryStore) -> None:
    """A record is a copy."""
    await write(store, a=b"1")
    record = await store.load("a")
    await write(store, a=b"2")
    assert record.properties == {"a": b"1"}


async def nothing_happened(store: Store, before: StoreStats, **fields: Any) -> Answer:
    """Commit with everything in it, and return an answer that stored nothing."""
    result = await commit(
        store,
        write=SubjectWrite(set={"bad": b"1"}),
        messages=[event("bad")],
        timers=[timer("bad", NOON)],
        dead=[letter("bad", event("bad"))],
        **fields,
    )
    assert await store.stats() == before
    assert "bad" not in (await store.load("a")).properties
    return result.answer


async def test_a_version_that_has_moved_is_a_conflict(store: MemoryStore) -> None:
    """Nothing is stored. What is not stored has no version; what was removed never gets an old one back."""
    (accepted,) = await store.append(0, [event("1")])
    first = await write(store, n=b"1")
    await write(store, n=b"2")
    stats = await store.stats()
    for version in (None, first.version, "other"):
        assert await nothing_happened(store, stats, version=version, handled=accepted.position) is Answer.CONFLICT
    assert await pending(store) == ["1"]
    assert (await commit(store, write=SubjectWrite(remove=True))).version is None
    assert (await store.load("a")).version is None
    again = await write(store, n=b"1")
    assert again.version != first.version


async def test_what_is_done_is_not_done_again(store: MemoryStore) -> None:
    """An event that was handled, a retry that was run, a dead letter that was revived, an id that was used: DONE."""
    (accepted,) = await store.append(0, [event("1")])
    waiting = retry(event("1"))
    await commit(store, handled=accepted.position, retries=[waiting], dead=[letter("d", event("1"))], id=None)
    await commit(store, retried=waiting.key)
    await commit(store, revived=["d"])
    await commit(store, id="once")
    stats = await store.stats()
    for done in ({"handled": accepted.position}, {"retried": waiting.key}, {"revived": ["d"]}, {"id": "once"}):
        assert await nothing_happened(store, stats, **done) is Answer.DONE
        assert await nothing_happened(store, stats, version="moved", **done) is Answer.DONE


async def test_a_retry_may_be_set_again_by_the_commit_that_ran_it(store: MemoryStore) -> None:
    """The next attempt takes the place of the one that failed."""
    await commit(store, retries=[retry(event("1"))])
    result = await commit(store, retried=retry(event("1")).key, retries=[retry(event("1"), due=NOON + HOUR)])
    assert result.answer is Answer.OK
    assert [waiting.due async for waiting in store.retries(0)] == [NOON + HOUR]


async def test_retries_are_told_apart_by_source_id_and_rule(store: MemoryStore) -> None:
    """And listed by when they are due."""
    several = [
        retry(event("1"), due=NOON + 2 * HOUR),
        retry(event("1", source="/other"), due=NOON + HOUR),
        retry(event("1"), "r.g", due=NOON),
        retry(event("1"), due=NOON + 3 * HOUR),  # takes the first one's place
    ]
    await commit(store, retries=several)
    assert [waiting async for waiting in store.retries(0)] == [several[2], several[1], several[3]]


# -- timers


async def test_timers_that_are_due_move_to_the_log(store: MemoryStore) -> None:
    """Earliest first, equal ones as they were set; the rest say when the next one is due."""
    clock = VirtualClock(NOON)
    await store.open(clock)
    await commit(store, timers=[timer("c", NOON + 2 * HOUR), timer("a", NOON + HOUR), timer("b", NOON + HOUR)])
    promoted = await store.promote(0)
    assert (promoted.entries, promoted.next_due) == ([], NOON + HOUR)
    clock.advance(HOUR)
    promoted = await store.promote(0)
    assert [entry.event.id.split("/")[1] for entry in promoted.entries] == ["a", "b"]
    assert promoted.next_due == NOON + 2 * HOUR
    assert list(await store.read(0, None, 9)) == list(promoted.entries)
    assert (await store.promote(0)).entries == []
    clock.advance(HOUR)
    assert (await store.promote(0)).next_due is None


async def test_a_timer_is_one_per_subject_and_key(store: MemoryStore) -> None:
    """A later one replaces it, `cancelled` takes it back, `cancel_all` all of a subject's, before new ones are set."""
    await commit(store, timers=[timer("x", NOON + HOUR), timer("y", NOON + HOUR)])
    await commit(store, "b", timers=[timer("x", NOON + HOUR, "b")])
    await commit(store, timers=[timer("x", NOON + 2 * HOUR)], cancelled=["y", "gone"])
    assert [(one.subject, one.due) async for one in store.timers()] == [("b", NOON + HOUR), ("a", NOON + 2 * HOUR)]
    await commit(store, timers=[timer("z", NOON + 3 * HOUR)], cancel_all=True)
    assert [one.key async for one in store.timers("a")] == ["z"]
    assert [one.key async for one in store.timers("b")] == ["x"]
    assert (await store.promote(0)).next_due == NOON + HOUR


async def test_a_timer_to_another_partition() -> None:
    """Its event goes into the log of the subject that it is addressed to."""
    store = create_memory_storage(partitions=8)
    await store.open(VirtualClock(NOON))
    setter, target = next(
        (one, other) for one in "abcdefgh" for other in "abcdefgh" if partition_of(one, 8) != partition_of(other, 8)
    )
    await commit(store, setter, timers=[timer("k", NOON, setter, target)])
    promoted = await store.promote(partition_of(setter, 8))
    assert list(await store.read(partition_of(target, 8), None, 9)) == list(promoted.entries)


async def test_replaced_timers_leave_no_rubbish(store: MemoryStore) -> None:
    """A timer that is put off a hundred thousand times needs no more room than one."""
    for number in range(5000):
        await commit(store, timers=[timer("sla", NOON + HOUR * (number + 1))])
        await commit(store, cancelled=["gone"])
    assert len(store._agendas[0]) < 200
    assert (await store.promote(0)).next_due == NOON + 5000 * HOUR
    await commit(store, cancelled=["sla"])
    assert store._timers == {}


# -- what is listed


async def test_subjects_are_listed_by_name() -> None:
    """In order of code points, of all partitions, those whose name starts with a prefix; removed ones are not there."""
    store = create_memory_storage(partitions=4)
    names = ["ticket:2", "ticket:10", "customer:1", "ticket:é", "ticket:", "zebra"]
    for name in names:
        await write(store, name, n=b"1")
    await write(store, "ticket:gone", n=b"1")
    await commit(store, "ticket:gone", write=SubjectWrite(remove=True))
    assert [record.name async for record in store.subjects()] == sorted(names)
    assert [record.name async for record in store.subjects("ticket:")] == [
        "ticket:",
        "ticket:10",
        "ticket:2",
        "ticket:é",
    ]
    assert [record.name async for record in store.subjects("x")] == []


async def test_subjects_may_go_while_they_are_listed(store: MemoryStore) -> None:
    """Listing them does not hold anything up, nor break."""
    for name in "abc":
        await write(store, name, n=b"1")
    seen = []
    async for record in store.subjects():
        seen.append(record.name)
        await commit(store, "b", write=SubjectWrite(remove=True))
    assert seen == ["a", "c"]


async def test_dead_letters(store: MemoryStore) -> None:
    """Listed oldest first, found by id, discarded once."""
    letters = [letter(id, event(id)) for id in "cab"]
    for one in letters:
        await commit(store, dead=[one])
    assert [one async for one in store.dead_letters()] == letters
    assert await store.dead_letter("a") == letters[1]
    assert await store.dead_letter("x") is None
    assert await store.discard("a")
    assert not await store.discard("a")
    assert [one.id async for one in store.dead_letters()] == ["c", "b"]


async def test_closing_keeps_everything(store: MemoryStore) -> None:
    """The same store may be opened again, by another bus; closing what is not open is no error."""
    await write(store, n=b"1")
    await store.close()
    await store.close()
    await store.open(VirtualClock(NOON))
    assert (await store.load("a")).properties == {"n": b"1"}
