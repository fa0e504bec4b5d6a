"""The bus: how it is opened, closed, and moved from one event loop to the next."""

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwhen import (
    Context,
    Event,
    EventBus,
    Limits,
    RuleSet,
    create_memory_storage,
    when,
)
from onwhen.engine.store import Commit, CommitResult
from onwhen.errors import (
    BusClosed,
)
from onwhen.storage.memory import MemoryStore
from tests.engine.buses import Stops, counter, new_bus, until, value


async def test_closing_drains() -> None:
    """Leaving `async with` waits for everything that was accepted, cascades included; then nothing more is taken."""
    stops = Stops()
    async with stops.bus as bus:
        tasks = [asyncio.create_task(bus.emit("first", "a")) for _ in range(3)]
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(stops.gate.set)
    assert (await value(bus, "a", "b"), await value(bus, "other", "n")) == (3, 3)
    for task in tasks:
        assert (await task).status == "handled"
    with pytest.raises(BusClosed, match="async with"):
        await bus.emit("first", "a")
    with pytest.raises(BusClosed):
        async with bus.subject("a") as subject:
            subject.set("a", 0)


async def test_it_may_be_opened_again() -> None:
    """Twice in a row, one inside the other, or with `start` and `close`; the outermost one closes it."""
    bus = new_bus(counter())
    for _ in range(2):
        async with bus:
            async with bus:
                await bus.emit("counted", "a")
            await bus.emit("counted", "a")
    with pytest.raises(BusClosed):
        await bus.emit("counted", "a")
    await bus.start()
    await bus.start()
    await bus.emit("counted", "a")
    await bus.close()
    await bus.close()
    assert await value(bus, "a", "n") == 5


async def test_a_bus_that_was_never_opened_closes_without_a_word() -> None:
    """`close` and `idle` on a new bus do nothing."""
    bus = new_bus()
    await bus.idle()
    await bus.close()
    with pytest.raises(BusClosed):
        await bus.emit("counted", "a")


async def test_a_close_that_is_cancelled_can_be_made_up_for() -> None:
    """Waiting for a rule that takes long may be given up; the next `close` or `start` goes on from there."""
    stops = Stops()
    bus = stops.bus
    emitting = asyncio.create_task(bus.emit("first", "a"))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bus.close(), 0.001)
    with pytest.raises(BusClosed):
        await bus.emit("first", "a")
    stops.gate.set()
    async with bus:
        assert (await emitting).status == "handled"
        assert (await bus.emit("first", "a")).status == "handled"
    assert await value(bus, "a", "b") == 2


async def test_no_task_is_left_when_it_is_closed() -> None:
    """A closed bus has ended the tasks that it kept for turns."""
    before = asyncio.all_tasks()
    async with new_bus(counter()) as bus:
        await asyncio.gather(*(bus.emit("counted", f"s{n}", {"steps": 2}) for n in range(10)))
        await bus.emit("counted", "s1")
        assert asyncio.all_tasks() > before
    await until(lambda: asyncio.all_tasks() <= before)


async def test_starts_with_what_the_store_holds() -> None:
    """A new bus on the store of another takes up what that left pending, before anything new."""
    store = create_memory_storage(partitions=3)
    rules = counter()
    first = new_bus(rules, store=store, limits=Limits(max_concurrent_turns=1))
    tasks = [
        asyncio.create_task(first.emit("counted", f"s{n % 4}", {"number": n, "steps": 10**9 if n == 0 else 0}))
        for n in range(12)
    ]
    await until(lambda: sum(map(len, store._logs)) == 12)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:  # as if the process had died
        task.cancel()
    await asyncio.wait(tasks)
    patient = RuleSet("counter")

    @patient.on("counted")
    def count(ctx: Context) -> None:
        ctx.subject.set("order", [*ctx.subject.get("order", []), ctx.payload["number"]])

    async with new_bus(patient, store=store) as bus:
        await bus.emit("counted", "s1", {"number": 99})
    assert [await value(bus, f"s{n}", "order") for n in range(4)] == [[0, 4, 8], [1, 5, 9, 99], [2, 6, 10], [3, 7, 11]]


async def test_two_buses_over_one_store() -> None:
    """Both change the same subjects at the same time: who comes too late runs again, and nothing is lost or doubled."""
    store, rules = create_memory_storage(), counter()
    async with new_bus(rules, store=store) as one, new_bus(rules, store=store) as two:
        emits = [(one, two)[n % 2].emit("counted", f"s{n % 3}", {"steps": n % 4}) for n in range(60)]
        receipts = await asyncio.gather(*emits)
    assert {receipt.status for receipt in receipts} == {"handled"}
    assert [await value(one, f"s{n}", "n") for n in range(3)] == [20, 20, 20]


async def test_an_event_that_another_bus_has_handled_is_done() -> None:
    """Two buses take up the same event: one of them applies it, the other sees that it is done."""
    store, rules = create_memory_storage(), counter()
    await store.append(0, [Event("counted", "a", {"steps": 3})])
    async with new_bus(rules, store=store), new_bus(rules, store=store) as two:
        pass
    assert await value(two, "a", "n") == 1


@given(seed=st.integers(0, 10**6))
def test_messages_are_handled_in_the_order_of_the_log(seed: int) -> None:
    """However long turns take, a subject handles messages of all senders in the order in which they were sent."""
    chance, rules, handled = random.Random(seed), RuleSet("rules"), []

    class Noting(MemoryStore):
        async def commit(self, commit: Commit) -> CommitResult:
            result = await super().commit(commit)
            positions.update(zip((event.id for event in commit.messages), result.appended, strict=False))
            return result

    positions: dict[str, Any] = {}

    @rules.on("sent")
    async def pass_on(ctx: Context) -> None:
        handled.append((ctx.subject.name, ctx.event.id))
        if chance.random() < 0.4:
            await asyncio.sleep(0)
        for _ in range(chance.choice([0, 1, 2]) if ctx.event.depth < 4 else 0):
            await ctx.emit("sent", subject=f"s{chance.randrange(3)}")

    async def main() -> None:
        async with EventBus(rules, store=Noting()) as bus:
            await asyncio.gather(*(bus.emit("sent", f"s{n}") for n in range(3)))

    asyncio.run(main())
    for name in ("s0", "s1", "s2"):
        order = [positions[id] for subject, id in handled if subject == name and id in positions]
        assert order == sorted(order)


async def test_pending_events_are_in_their_lanes_before_the_first_is_handled() -> None:
    """What an event of the log leads to comes after all that stood in the log."""
    store, rules, seen = create_memory_storage(), RuleSet("rules"), []
    await store.append(0, [Event("first", "a"), Event("second", "b")])

    @rules.on("first")
    async def leads_on(ctx: Context) -> None:
        await ctx.emit("third", subject="b")

    @rules.on("second", "third")
    def note(ctx: Context) -> None:
        seen.append(ctx.event_type)

    async with EventBus(rules, store=store):
        pass
    assert seen == ["second", "third"]


async def test_a_turn_that_changes_nothing_sees_what_others_have_stored() -> None:
    """Its conditions are asked again, on newer state, if another bus has changed the subject since."""
    store, rules = create_memory_storage(), RuleSet("rules")

    @rules.on("buy")
    @when(lambda ctx: ctx.subject.get("stock", 0) > 0)
    def buy(ctx: Context) -> None:
        ctx.subject.set("sold", True)

    @rules.on("fill")
    def fill(ctx: Context) -> None:
        ctx.subject.set("stock", 5)

    async with EventBus(rules, store=store) as shop, EventBus(rules, store=store) as depot:
        assert (await shop.emit("buy", "a")).fired == ()
        await depot.emit("fill", "a")
        assert (await shop.emit("buy", "a")).fired == ("rules.buy",)


async def test_what_a_rule_keeps_of_a_subject_it_only_read_is_not_the_subjects() -> None:
    """Changing a list after the turn changes nothing, though the turn stored nothing."""
    rules, kept = RuleSet("rules"), []

    @rules.on("look")
    def look(ctx: Context) -> None:
        kept.append(ctx.subject.get("tags"))

    async with EventBus(rules, store=create_memory_storage()) as bus:
        async with bus.subject("a") as subject:
            subject.set("tags", ["x"])
        await bus.emit("look", "a")
        kept[0].append("y")
        receipt = await bus.emit("look", "a")
    assert (kept[1], receipt.changes) == (["x"], ())


async def test_an_observer_that_ends_the_program_does_not_repeat_the_event() -> None:
    """The event was committed before observers are told, so it is handled once."""
    bus, fails = new_bus(counter()), [SystemExit(3)]

    def exit_once(outcome: object) -> None:
        if fails:
            raise fails.pop()

    async with bus:
        bus.observe(exit_once)
        with pytest.raises(SystemExit):
            await bus.emit("counted", "a", {"number": 1})
        await bus.emit("counted", "a", {"number": 2})
        assert await value(bus, "a", "order") == [1, 2]


@pytest.mark.parametrize(("times", "runs", "dead"), [(1, 2, 0), (10**6, 4, 1)])
async def test_an_event_whose_turn_is_cancelled_is_handled_again(times: int, runs: int, dead: int) -> None:
    """At once; but one that always cancels itself is a dead letter in the end."""
    rules, ran = RuleSet("rules"), []

    @rules.on("go")
    async def cancels_itself(ctx: Context) -> None:
        ran.append(1)
        task = asyncio.current_task()
        if len(ran) <= times and task is not None:
            task.cancel()
            await asyncio.sleep(0)

    async with asyncio.timeout(5), EventBus(rules, store=create_memory_storage()) as bus:
        receipt = await bus.emit("go", "a")
        stats = await bus.store.stats()
    assert (receipt.status, len(ran), stats.pending, stats.dead) == ("handled", runs, 0, dead)


async def test_cancelling_the_task_of_an_earlier_turn_hurts_nobody() -> None:
    """A task that has waited in one turn is not the task of another one."""
    rules, tasks = RuleSet("rules"), []

    @rules.on("go")
    async def go(ctx: Context) -> None:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)
        if len(tasks) == 2:
            tasks[0].cancel()
        await asyncio.sleep(0)

    async with EventBus(rules, store=create_memory_storage()) as bus:
        await bus.emit("go", "a")
        assert (await bus.emit("go", "b")).status == "handled"
    assert len(tasks) == len(set(tasks)) == 2


async def test_a_generator_exit_of_a_rule_does_not_block_its_subject() -> None:
    """The event is handled, as a failure, and the next one as well."""
    rules = RuleSet("rules")

    @rules.on("go")
    def go(ctx: Context) -> None:
        raise GeneratorExit

    async with asyncio.timeout(5), EventBus(rules, store=create_memory_storage()) as bus:
        assert not (await bus.emit("go", "a")).ok
        assert (await bus.emit("other", "a")).ok


async def test_a_whole_event_is_the_same_when_it_is_emitted_again() -> None:
    """It has its id, given or not; and nothing can be said beside it."""
    async with new_bus(counter()) as bus:
        event = Event("counted", "a", {"number": 1})
        assert [(await bus.emit(event)).status for _ in range(2)] == ["handled", "duplicate"]
        with pytest.raises(TypeError, match="replace"):
            await bus.emit(event, "b")


async def test_several_partitions() -> None:
    """Order and cascades are the same over a store with many partitions."""
    rules = counter()

    @rules.on("spread")
    def spread(ctx: Context) -> None:
        for number in range(20):
            ctx.emit("counted", {"number": number}, f"s{number % 5}")

    async with new_bus(rules, store=create_memory_storage(partitions=16)) as bus:
        receipt = await bus.emit("spread", "a")
        assert len(receipt.cascade) == 20
        await asyncio.gather(*(bus.emit("counted", f"s{n % 5}", {"number": n}) for n in range(20, 40)))
        assert [await value(bus, f"s{n}", "order") for n in range(5)] == [list(range(n, 40, 5)) for n in range(5)]
        assert (await bus.store.stats()).pending == 0
