"""The store in memory: what it does besides the storage contract (see `test_contract`), and what it forgets."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from onwhen import Event, VirtualClock, create_memory_storage
from onwhen.engine.store import Answer, Commit, Store, SubjectWrite, Timer
from onwhen.errors import SettingError, StoreError
from onwhen.storage import MemoryStore

NOON = datetime(2026, 11, 5, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def event(id: str) -> Event:
    return Event("opened", "a", id=id, source="/desk")


async def commit(store: Store, **fields: Any) -> None:
    """Commit on what is stored now."""
    version = (await store.load("a")).version
    result = await store.commit(Commit(partition=0, subject="a", version=version, **fields))
    assert result.answer is Answer.OK


@pytest.fixture
async def store() -> MemoryStore:
    store = create_memory_storage()
    await store.open(VirtualClock(NOON))
    return store


def test_it_is_a_volatile_store() -> None:
    """It has everything that the contract names, and all of it goes with the process."""
    store: Store = create_memory_storage(partitions=4)
    assert store.partitions == 4
    assert store.volatile


def test_counts_out_of_range_are_refused() -> None:
    """The message names them."""
    with pytest.raises(SettingError, match="partitions=0"):
        create_memory_storage(partitions=0)
    with pytest.raises(SettingError, match="dedup_window=-1"):
        MemoryStore(dedup_window=-1)
    with pytest.raises(SettingError, match=f"history={10**30}"):
        MemoryStore(history=10**30)
    with pytest.raises(SettingError, match="history=-1"):
        MemoryStore(history=-1)
    with pytest.raises(SettingError, match="explanations=-1"):
        create_memory_storage(explanations=-1)


async def test_a_partition_that_there_is_not_is_refused(store: MemoryStore) -> None:
    """Also one that counts from the end, as lists take it."""
    for partition in (-1, store.partitions):
        with pytest.raises(StoreError, match=f"there is no partition {partition}, only 0 to "):
            await store.append(partition, [event("1")])
        with pytest.raises(StoreError, match="there is no partition"):
            await store.read(partition, None, 9)
    assert (await store.stats()).pending == 0


async def test_it_answers_at_once(store: MemoryStore) -> None:
    """Whoever calls is not suspended, which is what the engine relies on where a store is volatile."""
    clock = VirtualClock(NOON)
    write = Commit(partition=0, subject="a", write=SubjectWrite(set={"n": b"1"}), messages=[event("2")])
    for call in (
        store.append(0, [event("1")], {"file": "1"}),
        store.commit(write),
        store.promote(0, None),
        store.read(0, None, 9),
        store.load("a"),
        store.starting(0, {1: 1}),
        store.bookmark(0, "file"),
        store.dead_letter("d"),
        store.discard("d"),
        store.exchange("k", None, b"1", 60.0),
        store.stats(),
        store.close(),
        store.open(clock),
    ):
        with pytest.raises(StopIteration):
            call.send(None)


async def test_it_may_be_used_before_it_is_opened() -> None:
    """It needs nothing but the time, and that is the machine's until it is told another clock."""
    store = create_memory_storage()
    before = datetime.now(UTC)
    await store.append(0, [event("1")])
    (entry,) = await store.read(0, None, 9)
    assert before <= entry.accepted <= datetime.now(UTC)


async def test_ids_that_are_yet_to_be_made_are_like_no_other(store: MemoryStore) -> None:
    """Such events are accepted without making one, and use no room in the window."""
    fresh = Event("opened", "a")
    await store.append(0, [fresh])
    assert not fresh.has_id
    assert len(store._seen) == 0


async def test_replaced_timers_leave_no_rubbish(store: MemoryStore) -> None:
    """A timer that is put off thousands of times needs no more room than one."""
    for number in range(5000):
        due = NOON + HOUR * (number + 1)
        await commit(store, timers=[Timer(subject="a", key="sla", due=due, event=event(f"{number}"))])
        await commit(store, cancelled=["gone"])
    assert len(store._agendas[0]) < 200
    assert (await store.promote(0, None)).next_due == NOON + 5000 * HOUR
    await commit(store, cancelled=["sla"])
    assert store._timers == {}


async def test_handled_events_leave_no_rubbish(store: MemoryStore) -> None:
    """However many have come and gone, behind one that waits; timers that have moved to the log too."""
    await store.append(0, [event("first")])
    for number in range(2000):
        timer = Timer(subject="a", key="t", due=NOON, event=event(f"t{number}"))
        (accepted,) = await store.append(0, [event(f"{number}")])
        await commit(store, handled=accepted.position, timers=[timer])
        (moved,) = (await store.promote(0, None)).entries
        await commit(store, handled=moved.position)
    assert [entry.event.id for entry in await store.read(0, None, 9)] == ["first"]
    assert len(store._orders[0]) < 200
    assert len(store._promoted[0]) < 200


async def test_cells_that_are_over_leave_no_rubbish() -> None:
    """However many there were, and though nobody asks for them again."""
    store, clock = create_memory_storage(), VirtualClock(NOON)
    await store.open(clock)
    await store.exchange("stays", None, b"1", 1e6)
    for number in range(5000):
        await store.exchange(f"{number}", None, b"1", 1.0)
        clock.advance(timedelta(seconds=0.1))
        await store.exchange(f"gone {number}", None, b"1", 1.0)
        await store.exchange(f"gone {number}", b"1", None, 1.0)
    assert len(store._cells) < 200
    assert (await store.exchange("stays", b"1", b"2", 1e6)).value == b"2"
