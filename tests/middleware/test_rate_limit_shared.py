"""A rate limit that workers share: who may go is decided once, whatever becomes of calls on their way."""

import asyncio
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from onwhen import Context, EventBus, RetryPolicy, RuleSet, VirtualClock
from onwhen.middleware import RateLimit
from onwhen.middleware._gcra import Pace, Queue
from onwhen.middleware._limits import Together
from onwhen.middleware._shared import Shared, cell_key
from tests.middleware.cells import Far, World

START = datetime(2024, 2, 29, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MILLISECOND = timedelta(milliseconds=1)


def limit_of(store: Far, pace: Pace) -> Together:
    return Together(pace, Shared(store, store.clock, "limit", Queue))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.sampled_from(["", "l", "x", "lx"]))
def test_no_more_pass_than_for_one_worker_alone(seed: int, burst: int, faults: str) -> None:
    """Four workers whose clocks differ by hours, and whose calls overtake each other and lose their answers."""
    pace = Pace(5_000, burst)
    passed = list[int]()

    async def main() -> None:
        world = World(seed, START)
        await world.open()
        limits = [limit_of(world.worker(ahead=n * HOUR, faults=faults), pace) for n in range(4)]

        async def call(number: int) -> None:
            limit, again = limits[number % 4], False
            for _ in range(world.chance.randrange(30)):
                await asyncio.sleep(0)
            while True:
                permit, moment = await limit.take(again=again, waits=True)
                if not permit.wait:
                    passed.append(moment)
                    return
                again, due = True, moment + permit.wait
                while (await limit_time(limit)) < due:
                    await asyncio.sleep(0)

        async def limit_time(limit: Together) -> int:
            return limit._shared.now()

        async with asyncio.timeout(20):
            calls = [asyncio.create_task(call(number)) for number in range(24)]
            while not all(done.done() for done in calls):
                world.advance(world.chance.choice([0, 0, 0.1, 0.5]) * MILLISECOND)
                await asyncio.sleep(0)
            await asyncio.gather(*calls)

    asyncio.run(main())
    assert len(passed) == 24
    passed.sort()
    for first in range(24):
        for last in range(first, 24):
            assert last - first + 1 <= burst + (passed[last] - passed[first]) / pace.interval


async def test_it_costs_one_call_per_run() -> None:
    """And one to begin with."""
    world = World(0, START)
    await world.open()
    store = world.worker()
    limit = limit_of(store, Pace(1_000, 100))
    for _ in range(50):
        await limit.take(again=False, waits=True)
    assert store.calls == 51


async def test_many_at_once_are_not_in_their_own_way() -> None:
    """Those of one process go one after the other."""
    world = World(0, START)
    await world.open()
    store = world.worker()
    limit = limit_of(store, Pace(1_000, 100))
    await asyncio.gather(*(limit.take(again=False, waits=True) for _ in range(50)))
    assert store.calls == 51


async def test_a_hundred_workers_at_once_keep_it_together() -> None:
    """Each decides in the end, however often others are faster; none takes that for a store that does not answer."""
    world = World(0, START)
    await world.open()
    limits = [limit_of(world.worker(), Pace(1_000_000, 250)) for _ in range(100)]

    async def take(limit: Together) -> list[bool]:
        return [(await limit.take(again=False, waits=True))[0].wait == 0 for _ in range(5)]

    async with asyncio.timeout(60):
        taken = await asyncio.gather(*(take(limit) for limit in limits))
    assert sum(map(sum, taken)) == 250
    assert not any(limit._alone_until for limit in limits)


async def test_a_lost_answer_is_not_counted_twice() -> None:
    """The call that is sent again is known for the one that it is."""
    world = World(0, START)
    await world.open()
    pace = Pace(1_000_000, 10)
    limit = limit_of(world.worker(faults="l"), pace)
    taken = [(await limit.take(again=False, waits=False))[0].wait for _ in range(12)]
    assert [wait == 0 for wait in taken] == [True] * 10 + [False] * 2


async def test_while_the_store_does_not_answer_each_goes_on_alone() -> None:
    """From what it knows; and together again when it does."""
    world = World(0, START)
    await world.open()
    stores = [world.worker(), world.worker()]
    limits = [limit_of(store, Pace(1_000_000, 4)) for store in stores]
    for limit in limits:
        await limit.take(again=False, waits=False)
    for store in stores:
        store.calls, store.is_down = 0, True
    alone = [[(await limit.take(again=False, waits=False))[0].wait == 0 for _ in range(4)] for limit in limits]
    assert alone == [[True, True, True, False], [True, True, False, False]]
    assert [store.calls for store in stores] == [2, 2]  # once, and once again; then it is let alone for a second
    for limit, store in zip(limits, stores, strict=True):
        store.is_down = False
        limit._alone_until = 0
    world.advance(timedelta(seconds=10))
    together = [(await limits[n % 2].take(again=False, waits=False))[0].wait == 0 for n in range(6)]
    assert together == [True] * 4 + [False] * 2


async def test_two_buses_share_one_by_its_key() -> None:
    """Two that have the same store open; a key of any length is fine."""
    world = World(0, START)
    await world.open()
    calls = list[str]()
    buses = list[EventBus]()
    for number in range(2):
        rules = RuleSet("shop", retry=RetryPolicy(jitter=0, in_order=False))
        limit = RateLimit(2, shared=True, when_exceeded="drop", key=lambda ctx: "host" * 1_000)

        @rules.on("call", middleware=[limit])
        def call(ctx: Context) -> None:
            calls.append(ctx.subject.name)

        buses.append(EventBus(rules, store=world.worker(), clock=VirtualClock(START + number * HOUR)))
    for bus in buses:
        async with bus:
            await bus.emit("call", "order:1")
            await bus.emit("call", "order:2")
    assert calls == ["order:1", "order:2"]


def test_a_key_that_no_store_takes_has_a_cell_of_its_own() -> None:
    """Plain ones can be read by whoever looks into the store."""
    assert cell_key("limit", "bank") == "onwhen.limit/bank"
    names = {cell_key("limit", key) for key in ("é" * 400, "é" * 401, "\ud800", "a\nb")}
    assert len(names) == 4
    assert all(len(name.encode()) < 512 and name.isprintable() for name in names)
