"""How a bus ends, and what it leaves to the next one: loops that end in the middle, stores that are down or full."""

import asyncio
from typing import Any

import pytest

from onwhen import Context, EventBus, Limits, RetryPolicy, RuleSet, create_memory_storage, create_sqlite_storage
from onwhen.engine.events import Event
from onwhen.engine.store import Commit, CommitResult, Store
from onwhen.errors import StoreError, StoreFull
from tests.engine.buses import until, value
from tests.engine.stores import Flaky

pytestmark = pytest.mark.usefixtures("no_pauses")


class Down(Flaky):
    """A store that can be switched off."""

    is_down = False

    async def _call(self, name: str, call: Any) -> Any:
        if self.is_down and name != "open":
            raise StoreError("it is down")
        return await super()._call(name, call)


def test_loops_that_end_in_the_middle_are_no_crashes(tmp_path: Any) -> None:
    """The process has not ended: what was under way is begun again each time, and never taken for poison."""
    rules, begun = RuleSet("rules"), []

    @rules.on("slow")
    async def slow(ctx: Context) -> None:
        begun.append(ctx.event.id)
        await asyncio.sleep(3600)

    bus = EventBus(rules, store=create_sqlite_storage(tmp_path / "a.db"))

    async def main(first: bool) -> int:
        await bus.start()
        if first:
            await bus.append("slow", "a")
        seen = len(begun)
        await until(lambda: len(begun) > seen or first)
        return (await bus.store.stats()).dead

    assert [asyncio.run(main(number == 0)) for number in range(6)] == [0] * 6
    asyncio.run(bus.store.close())
    assert len(begun) >= 6


async def test_nobody_waits_for_a_bus_that_is_closed() -> None:
    """What is left in a store that is down is left to the next bus; emitters behind it are let go, and told so."""
    rules, gate = RuleSet("rules"), asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda loop, details: None)

    @rules.on("go")
    async def go(ctx: Context) -> None:
        await gate.wait()

    store = Down(create_memory_storage())
    bus = EventBus(rules, store=store)
    await bus.start()
    emitting = [asyncio.create_task(bus.emit("go", "a", number)) for number in range(3)]
    appended = await bus.append("go", "a", 3)
    store.is_down = True
    gate.set()
    await bus.close()
    async with asyncio.timeout(5):
        receipts = [await task for task in emitting]
        assert {receipt.status for receipt in (*receipts, await appended.handled())} == {"accepted"}
    assert (await store.store.stats()).pending == 4


async def test_nothing_more_is_begun_once_the_store_is_given_up() -> None:
    """While the bus closes: rules would have effects outside for nothing."""
    rules, begun, gate = RuleSet("rules"), list[str](), asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda loop, details: None)

    @rules.on("go")
    async def go(ctx: Context) -> None:
        begun.append(ctx.subject.name)
        await gate.wait()

    store = Down(create_memory_storage())
    bus = EventBus(rules, store=store, limits=Limits(max_concurrent_turns=2))
    await bus.start()
    for number in range(10):
        await bus.append("go", f"s{number}")
    store.is_down = True
    gate.set()
    async with asyncio.timeout(5):
        await bus.close()
    assert begun == ["s0", "s1"]


class Small(Flaky):
    """A store that has no room for what a certain event leads to, until there is some."""

    has_room = False

    async def commit(self, commit: Commit) -> CommitResult:
        if not self.has_room and any(event.type == "large" for event in commit.messages):
            raise StoreFull("there is no room")
        return await super().commit(commit)


async def test_what_finds_no_room_keeps_nobody_else_waiting() -> None:
    """It is tried again and again; other subjects go on."""
    rules = RuleSet("rules")
    asyncio.get_running_loop().set_exception_handler(lambda loop, details: None)

    @rules.on("grow")
    def grow(ctx: Context) -> None:
        ctx.emit("large")

    @rules.on("small", "large")
    def count(ctx: Context) -> None:
        ctx.subject.set("n", lambda n: (n or 0) + 1)

    store = Small(create_memory_storage())
    async with asyncio.timeout(5), EventBus(rules, store=store) as bus:
        growing = await bus.append("grow", "a")
        for _ in range(3):
            await bus.emit("small", "b")
        assert await value(bus, "b", "n") == 3
        store.has_room = True
        await growing.handled()
        assert await value(bus, "a", "n") == 1


@pytest.mark.parametrize("limit", [1, 1000])
async def test_a_retry_that_is_due_does_not_wait_for_all_others(limit: int) -> None:
    """Also where one turn is run at a time: under load there is always another event."""
    rules, order = RuleSet("rules"), list[str]()

    @rules.on("fails", retry=RetryPolicy(attempts=2, delay=Limits().retry.delay * 0, jitter=0))
    def fails(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise LookupError
        order.append("retry")

    @rules.on("work")
    async def work(ctx: Context) -> None:
        await asyncio.sleep(0)
        order.append("work")

    store = Flaky(create_memory_storage())
    async with asyncio.timeout(5), EventBus(rules, store=store, limits=Limits(max_concurrent_turns=limit)) as bus:
        await bus.append("fails", "a")
        for number in range(200):
            await bus.append("work", f"s{number % 50}")
        await bus.idle()
    assert order.index("retry") < 100


async def test_suspects_come_first_whatever_their_partition_is(store: Store) -> None:
    """They are handled one by one; the backlog of another partition is not to be handled like that."""
    rules, order = RuleSet("rules"), list[str]()

    @rules.on("go")
    def go(ctx: Context) -> None:
        order.append(ctx.subject.name)

    durable = Flaky(create_memory_storage(partitions=2))
    bus = EventBus(rules, store=durable)
    names = [f"s{number}" for number in range(40)]
    here = [name for name in names if bus_partition(name) == 0]
    (there,) = [name for name in names if bus_partition(name) == 1][:1]
    await durable.store.open(bus.clock)
    await durable.store.append(0, [Event("go", name) for name in here])
    await durable.store.append(1, [Event("go", there)])
    await durable.store.starting(1, {(await durable.store.read(1, None, 1))[0].position: 2})
    async with bus:
        await bus.idle()
    assert order[0] == there


def bus_partition(name: str) -> int:
    from onwhen.engine.partitions import partition_of

    return partition_of(name, 2)


async def test_a_store_that_fails_at_once_when_it_is_opened() -> None:
    """Its error is what `start` raises, also if it has not even waited for anything."""

    class Broken(Flaky):
        async def open(self, clock: Any) -> bool:
            raise StoreError("no such place")

    with pytest.raises(StoreError, match="no such place"):
        await EventBus(store=Broken(create_memory_storage())).start()


def test_a_program_ends_soon_though_much_is_pending() -> None:
    """What is in flight is waited for, and nothing is looked up for what nobody will do."""
    rules = RuleSet("rules")

    @rules.on("go")
    async def go(ctx: Context) -> None:
        await asyncio.sleep(0)
        ctx.emit("went", None, "b")

    store = Flaky(create_memory_storage())

    async def main() -> None:
        bus = EventBus(rules, store=store)
        await asyncio.gather(*(bus.append("go", f"s{number}") for number in range(3000)))

    asyncio.run(main())
    assert store.calls.count("read") < 20
