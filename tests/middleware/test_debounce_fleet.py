"""Debounce and throttle among workers: on a fleet whose members die and whose clocks disagree, and on a real Redis."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from onwhen import Context, EventBus, RuleSet, Worker, create_redis_storage
from onwhen.middleware import Debounce, Throttle
from onwhen.testing.servers import RedisServer
from tests.engine.fleets import Fleet, virtual

NAMES = [f"box:{number}" for number in range(6)]


def collecting(debounce: Debounce, throttle: Throttle) -> RuleSet:
    """A rule that keeps the batches that it is given, and one that keeps what it was run on when."""
    rules = RuleSet("search")

    @rules.on("typed", middleware=[debounce])
    def look(ctx: Context) -> None:
        batch = ctx.get_metadata("debounced", [ctx.event])
        ctx.subject.set("batches", [*ctx.subject.get("batches", []), [event.data for event in batch]])

    @rules.on("pressed", middleware=[throttle])
    def press(ctx: Context) -> None:
        ctx.subject.set("pressed", [*ctx.subject.get("pressed", []), [ctx.payload, ctx.now.timestamp()]])

    return rules


@pytest.mark.parametrize("ahead", [-3.0, 0.0, 3.0])
@pytest.mark.parametrize("deliver", ["last", "all"])
def test_workers_that_die_lose_nothing_and_do_nothing_twice(ahead: float, deliver: Any) -> None:
    """Whether the server's clock, which timers go by, is ahead of the workers' or behind them."""

    @virtual
    async def die() -> None:
        fleet = Fleet(ahead=ahead)
        rules = collecting(Debounce(5, deliver=deliver), Throttle(5, trailing=True))
        await fleet.member(rules).start()
        second = await fleet.member(rules).start()
        async with fleet.bus() as producer:
            for number in range(24):
                for name in NAMES:
                    await producer.emit("typed", name, number)
                    await producer.emit("pressed", name, number)
                await asyncio.sleep(7 if number % 6 == 5 else 0.5)
                if number in (3, 10):  # in the middle of a batch, and in the quiet after one
                    fleet.members[-1 if number == 3 else 0].kill()
                    await fleet.member(rules).start()
        assert second in fleet.members
        await asyncio.sleep(60)
        await fleet.rest()
        for name in NAMES:
            batches = fleet.value(name, "batches")
            handed_over = [number for batch in batches for number in batch]
            if deliver == "all":
                assert handed_over == list(range(24)), name
            else:
                assert handed_over == sorted(set(handed_over)), name
            assert handed_over[-1] == 23
            numbers, times = zip(*fleet.value(name, "pressed"), strict=True)
            assert numbers == tuple(sorted(set(numbers)))
            assert (numbers[0], numbers[-1]) == (0, 23)
            # A timer fires by the server's clock, so an interval may be as much shorter as that is ahead.
            assert all(b - a >= 5 - max(ahead, 0) - 0.01 for a, b in pairwise(times))

    die()


@virtual
async def test_timers_that_fire_while_they_are_set_anew_bring_nothing_twice() -> None:
    """The server's clock is ahead, and turns take so long that a timer fires in the middle of the next event's."""
    fleet = Fleet(ahead=3.0)
    rules = collecting(Debounce(3.3, deliver="all"), Throttle(5, trailing=True))

    @rules.on("typed", priority=1)
    async def slow(ctx: Context) -> None:
        await asyncio.sleep(0.4)

    await fleet.member(rules).start()
    async with fleet.bus() as producer:
        for number in range(40):
            await producer.append("typed", "box:1", number)
            await asyncio.sleep(0.1)
    await asyncio.sleep(60)
    await fleet.rest()
    batches = fleet.value("box:1", "batches")
    assert [number for batch in batches for number in batch] == list(range(40))


@virtual
async def test_a_timer_that_fires_before_a_later_event_takes_its_place_brings_nothing() -> None:
    """The later one was ahead of it in the log: what is throttled is run in order, or not at all."""
    fleet = Fleet()
    rules = collecting(Debounce(1), Throttle(5, trailing=True))

    @rules.on("busy")
    async def busy(ctx: Context) -> None:
        await asyncio.sleep(0.5)

    await fleet.member(rules).start()
    async with fleet.bus() as producer:
        await producer.emit("pressed", "box:1", 0)
        await producer.emit("pressed", "box:1", 1)
        await asyncio.sleep(4.8)
        await producer.append("busy", "box:1")
        await asyncio.sleep(0.1)
        await producer.append("pressed", "box:1", 2)
    await asyncio.sleep(60)
    await fleet.rest()
    assert [number for number, _ in fleet.value("box:1", "pressed")] == [0, 2]


async def test_on_redis_what_waits_outlives_its_worker(redis_server: RedisServer, key_prefix: str) -> None:
    """One takes the events, stops, and another one runs the rule once it is quiet."""
    rules = collecting(Debounce(0.3, deliver="all"), Throttle(1, trailing=True))

    def bus() -> EventBus:
        return EventBus(rules, store=create_redis_storage(redis_server.url, key_prefix, partitions=4))

    async with asyncio.timeout(30), bus() as producer:
        async with Worker(bus(), lease=5.0):
            receipts = [await producer.emit("typed", name, number) for number in range(5) for name in NAMES]
            receipts += [await producer.emit("pressed", name, number) for number in range(5) for name in NAMES]
            for receipt in receipts:
                await receipt.handled()
        async with Worker(bus(), lease=5.0), Worker(bus(), lease=5.0):
            for name in NAMES:
                batches: list[list[int]] = []
                while sum(map(len, batches)) < 5:
                    batches = (await producer.read(name)).get("batches", [])
                    await asyncio.sleep(0.01)
                assert [number for batch in batches for number in batch] == list(range(5))
                pressed: list[list[float]] = []
                while len(pressed) < 2:
                    pressed = (await producer.read(name)).get("pressed", [])
                    await asyncio.sleep(0.01)
                assert [number for number, _ in pressed] == [0, 4]
                assert pressed[1][1] - pressed[0][1] >= 0.9
