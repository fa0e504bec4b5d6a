"""Bulkhead: how many run at the same time, who waits, who comes later, and that no place is ever lost."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from onwhen import Context, RetryPolicy, RuleSet, Subject, VirtualClock
from onwhen.errors import BulkheadFull, RuleDefinitionError
from onwhen.middleware import Bulkhead
from tests.engine.buses import NOON, new_bus, until

AT_ONCE = RetryPolicy(jitter=0)


class Thing(Subject, prefix="thing:"):
    done: list[str] = []


class Service:
    """What rules call: it answers when it is told to, and knows how many calls are under way."""

    def __init__(self) -> None:
        self.under_way: list[str] = []
        self.order: list[str] = []
        self.most = 0
        self.gate = asyncio.Event()

    async def call(self, who: str) -> None:
        self.under_way.append(who)
        self.order.append(who)
        self.most = max(self.most, len(self.under_way))
        try:
            await self.gate.wait()
        finally:
            self.under_way.remove(who)


def calling(service: Service, *middleware: Any, **options: Any) -> RuleSet:
    rules = RuleSet("r", subject=Thing, retry=AT_ONCE)

    @rules.on("go", middleware=middleware, **options)
    async def call(ctx: Context[Thing]) -> None:
        await service.call(ctx.subject.name)
        ctx.subject.done.append(ctx.event.id)

    return rules


def things(number: int) -> list[str]:
    return [f"thing:{one}" for one in range(number)]


async def test_only_so_many_run_and_the_others_wait_in_line() -> None:
    """First come, first served; in the end all have run."""
    service = Service()
    async with asyncio.timeout(5), new_bus(calling(service, Bulkhead(2, queue=10))) as bus:
        emits = [asyncio.create_task(bus.emit("go", name)) for name in things(8)]
        await until(lambda: len(service.under_way) == 2)
        for _ in range(20):
            await asyncio.sleep(0)
        assert service.under_way == ["thing:0", "thing:1"]
        service.gate.set()
        assert all(receipt.ok for receipt in await asyncio.gather(*emits))
        assert (service.most, service.order) == (2, things(8))


async def test_one_that_finds_no_place_is_put_off() -> None:
    """It comes again when it was told to, and nothing is lost."""
    service, clock = Service(), VirtualClock(NOON)
    bulkhead = Bulkhead(1, queue=1, delay=timedelta(seconds=30))
    async with asyncio.timeout(5), new_bus(calling(service, bulkhead), clock=clock) as bus:
        first, second = (asyncio.create_task(bus.emit("go", name)) for name in things(2))
        await until(lambda: len(service.under_way) == 1)
        await asyncio.sleep(0)
        (run,) = (await bus.emit("go", "thing:2")).runs
        assert (run.status, run.retry_at) == ("postponed", NOON + timedelta(seconds=30))
        assert isinstance(run.error, BulkheadFull)
        assert "1 are under way, and 1 wait already" in str(run.error)
        service.gate.set()
        await asyncio.gather(first, second)
        await bus.advance(timedelta(seconds=30))
        assert service.order == things(3)


async def test_one_that_has_waited_too_long_is_put_off() -> None:
    """And is not in the line any more, which has room for the next."""
    service = Service()
    bulkhead = Bulkhead(1, queue=1, max_wait=0.01)
    async with asyncio.timeout(5), new_bus(calling(service, bulkhead), clock=VirtualClock(NOON)) as bus:
        first = asyncio.create_task(bus.emit("go", "thing:0"))
        await until(lambda: len(service.under_way) == 1)
        for name in ("thing:1", "thing:2"):
            (run,) = (await bus.emit("go", name)).runs
            assert run.status == "postponed"
            assert "no place became free within 0.01 s" in str(run.error)
        service.gate.set()
        assert (await first).ok
        assert bulkhead.taken("r.call") == 0


async def test_each_key_has_its_own_places() -> None:
    """Without a key each rule has."""
    service = Service()
    bulkhead = Bulkhead(1, key=lambda ctx: ctx.payload)
    rules = calling(service, bulkhead)
    async with asyncio.timeout(5), new_bus(rules, clock=VirtualClock(NOON)) as bus:
        emits = [asyncio.create_task(bus.emit("go", f"thing:{one}", one)) for one in ("a", "b")]
        await until(lambda: len(service.under_way) == 2)
        assert (await bus.emit("go", "thing:c", "a")).runs[0].status == "postponed"
        service.gate.set()
        await asyncio.gather(*emits)


async def test_two_rules_do_not_share_places_unless_they_share_a_key() -> None:
    """One object around all rules is a limit for each."""
    service = Service()
    rules = calling(service)
    rules.on("go", name="other")(lambda ctx: ctx.subject.done.append("other"))
    bus = new_bus(rules)
    bus.use(Bulkhead(1))
    async with asyncio.timeout(5), bus:
        emits = asyncio.create_task(bus.emit("go", "thing:1"))
        await until(lambda: len(service.under_way) == 1)
        rules.on("stop", name="stop")(lambda ctx: service.gate.set())
        assert (await bus.emit("stop", "thing:2")).ok
        assert (await emits).ok


async def test_around_events_it_limits_turns() -> None:
    """An event that finds no place is put off as a whole."""
    service = Service()
    bus = new_bus(calling(service), clock=VirtualClock(NOON))
    bus.use(Bulkhead(1), scope="event")
    async with asyncio.timeout(5), bus:
        first = asyncio.create_task(bus.emit("go", "thing:0"))
        await until(lambda: len(service.under_way) == 1)
        assert isinstance((await bus.emit("go", "thing:1")).error, BulkheadFull)
        service.gate.set()
        await first
        await bus.advance(timedelta(minutes=1))
        assert service.order == things(2)


async def test_a_rule_that_fails_gives_its_place_back() -> None:
    """Whatever it raises, and if it is late."""
    bulkhead = Bulkhead(1)
    rules = RuleSet("r", subject=Thing)
    rules.on("fails", name="rule", middleware=[bulkhead])(lambda ctx: 1 / 0)

    @rules.on("hangs", middleware=[bulkhead], timeout=0.01)
    async def hangs(ctx: Context[Thing]) -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(5), new_bus(rules) as bus:
        for _ in range(3):
            assert isinstance((await bus.emit("fails", "thing:1")).runs[0].error, ZeroDivisionError)
            assert not isinstance((await bus.emit("hangs", "thing:1")).runs[0].error, BulkheadFull)
        assert (bulkhead.taken("r.rule"), bulkhead.taken("r.hangs")) == (0, 0)


async def test_a_place_can_be_held_for_a_part_of_a_rule() -> None:
    """For the call itself, from several rules."""
    bulkhead = Bulkhead(1)
    async with bulkhead.place("bank"):
        assert bulkhead.taken("bank") == 1
        with pytest.raises(BulkheadFull):
            async with bulkhead.place("bank"):
                raise AssertionError
        async with bulkhead.place("post"):
            pass
    assert bulkhead.taken("bank") == 0


def test_one_object_serves_one_event_loop_after_the_other() -> None:
    """What was under way on one that has ended takes no place on the next."""
    bulkhead = Bulkhead(1)

    async def take_it_and_leave() -> None:
        held = bulkhead.place()
        await held.__aenter__()
        loops.append(held)  # nobody leaves it

    async def take_it() -> int:
        async with bulkhead.place():
            return bulkhead.taken()

    loops: list[Any] = []
    asyncio.run(take_it_and_leave())
    assert asyncio.run(take_it()) == 1


async def test_one_that_gives_up_when_it_is_given_a_place_hands_it_on() -> None:
    """It was its turn, and it was cancelled before it knew."""
    bulkhead = Bulkhead(1, queue=5)
    ran: list[str] = []

    async def hold(who: str) -> None:
        async with bulkhead.place():
            ran.append(who)

    held = bulkhead.place()
    await held.__aenter__()
    first, second = asyncio.create_task(hold("first")), asyncio.create_task(hold("second"))
    await asyncio.sleep(0)
    await held.__aexit__(None, None, None)
    first.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert (ran, bulkhead.taken()) == (["second"], 0)


async def test_one_that_has_given_up_is_not_given_a_place() -> None:
    """It was cancelled, and does not know yet."""
    bulkhead = Bulkhead(1, queue=5)
    ran: list[str] = []

    async def hold(who: str) -> None:
        async with bulkhead.place():
            ran.append(who)

    held = bulkhead.place()
    await held.__aenter__()
    first, second = asyncio.create_task(hold("first")), asyncio.create_task(hold("second"))
    await asyncio.sleep(0)
    first.cancel()
    await held.__aexit__(None, None, None)
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert (ran, bulkhead.taken()) == (["second"], 0)


STEP = st.tuples(st.sampled_from(["start", "cancel", "finish", "fail", "settle"]), st.integers(0, 50))

OVERTAKEN = [("start", 0), ("start", 0), ("settle", 2), ("finish", 0), ("start", 0), ("cancel", 1), ("start", 0)]
"""One that waits gives up, but before it knows, its place is free and another one has it."""


@settings(max_examples=300, deadline=None)
@example(limit=1, queue=1, steps=OVERTAKEN)
@given(limit=st.integers(1, 3), queue=st.integers(0, 4), steps=st.lists(STEP, max_size=60))
def test_no_place_is_lost_however_runs_end(limit: int, queue: int, steps: list[tuple[str, int]]) -> None:
    """Never more than the limit run; whoever waits does so because all places are taken; in the end all are free.

    Runs are cancelled while they wait, in the moment in which they are given a place, and while they run.
    """
    asyncio.run(_attack(limit, queue, steps))


async def _attack(limit: int, queue: int, steps: list[tuple[str, int]]) -> None:
    bulkhead = Bulkhead(limit, queue=queue)
    running: dict[asyncio.Task[None], asyncio.Future[None]] = {}
    tasks: list[asyncio.Task[None]] = []
    full = 0

    async def one() -> None:
        nonlocal full
        me = asyncio.current_task()
        assert me is not None
        try:
            async with bulkhead.place("k"):
                running[me] = asyncio.get_running_loop().create_future()
                assert len(running) <= limit
                try:
                    await running[me]
                finally:
                    del running[me]
        except BulkheadFull:
            full += 1
        except ZeroDivisionError:
            pass

    for step, number in steps:
        alive = [task for task in tasks if not task.done()]
        under_way = [task for task in running if not running[task].done()]
        if step == "start":
            tasks.append(asyncio.create_task(one()))
        elif step == "cancel" and alive:
            alive[number % len(alive)].cancel()
        elif step == "finish" and under_way:
            running[under_way[number % len(under_way)]].set_result(None)
        elif step == "fail" and under_way:
            running[under_way[number % len(under_way)]].set_exception(ZeroDivisionError())
        elif step == "settle":
            for _ in range(number % 4):
                await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    alive = [task for task in tasks if not task.done()]
    assert bulkhead.taken("k") == len(running) == min(limit, len(alive))
    assert len(alive) <= limit + queue
    while running:
        for future in running.values():
            future.set_result(None)
        for _ in range(5):
            await asyncio.sleep(0)
    assert all(task.done() for task in tasks)
    assert bulkhead.taken("k") == 0
    assert not bulkhead._rooms.get(asyncio.get_running_loop())


@pytest.mark.parametrize(
    "options",
    [
        {"limit": 0},
        {"limit": 1.0},
        {"limit": 1, "queue": -1},
        {"limit": 1, "queue": 1, "max_wait": 0},
        {"limit": 1, "max_wait": 5},
        {"limit": 1, "delay": -1},
    ],
)
def test_options_are_checked_when_it_is_made(options: dict[str, Any]) -> None:
    """With the name of the one that is wrong."""
    with pytest.raises(RuleDefinitionError, match=f"Bulkhead: {list(options)[-1]}="):
        Bulkhead(**options)
