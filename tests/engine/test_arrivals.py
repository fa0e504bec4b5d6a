"""Follow-ups in the order of the log, when a store's answers come late, out of order, or not at all."""

import asyncio
import random
from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwhen import Context, Event, EventBus, Limits, RuleSet, VirtualClock, create_memory_storage
from onwhen.engine.arrivals import Arrivals
from onwhen.engine.work import Work
from onwhen.errors import StoreError
from tests.engine.buses import NOON, until
from tests.engine.noting import gated, notes, order, settle
from tests.engine.stores import Flaky, Late, kill, process

pytestmark = pytest.mark.usefixtures("no_pauses")


# -- the order of calls


def works(*positions: int) -> list[Work]:
    from contextvars import copy_context

    return [Work(Event("e", "s"), copy_context(), position=position) for position in positions]


@given(data=st.data(), sizes=st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_whatever_order_answers_come_in_works_are_let_in_in_the_order_of_the_log(
    data: st.DataObject, sizes: list[int]
) -> None:
    """Nothing is let in before what an earlier call has appended, and all of it once that is known."""
    let_in: list[int] = []
    arrivals = Arrivals(lambda found: let_in.extend(work.position or 0 for work in found))
    calls, position = [], 0
    for size in sizes:
        calls.append((arrivals.calling(), works(*range(position + 1, position + size + 1))))
        position += size
    for call, found in data.draw(st.permutations(calls)):
        arrivals.arrived(call, found)
        assert let_in == list(range(1, len(let_in) + 1))
    assert let_in == list(range(1, position + 1))


def test_what_came_in_together_is_sorted() -> None:
    """A call that was made again may have appended behind what a later one did."""
    let_in: list[int] = []
    arrivals = Arrivals(lambda found: let_in.extend(work.position or 0 for work in found))
    first, second = arrivals.calling(), arrivals.calling()
    arrivals.arrived(second, works(5, 7))
    arrivals.arrived(first, works(6, 8))
    assert let_in == [5, 6, 7, 8]


def test_a_call_that_has_failed_holds_nothing_up() -> None:
    """It has appended nothing."""
    let_in: list[int] = []
    arrivals = Arrivals(lambda found: let_in.extend(work.position or 0 for work in found))
    first, second, third = (arrivals.calling() for _ in range(3))
    arrivals.arrived(second, works(1))
    arrivals.arrived(third, works(2))
    assert let_in == []
    arrivals.arrived(first, ())
    assert let_in == [1, 2]


# -- answers that overtake each other


async def test_a_message_does_not_overtake_an_event_that_was_accepted_before() -> None:
    """The answer to the append is late, the one to the commit behind it is not."""
    store = Late(create_memory_storage())
    async with asyncio.timeout(5), EventBus(notes(), store=store) as bus:
        passing = asyncio.create_task(bus.emit("pass", "b", {"numbers": [2], "steps": 5}))
        await until(lambda: store.calls.count("load") == 1)
        store.hold("append")
        emitting = asyncio.create_task(bus.emit("noted", "a", 1))
        await until(lambda: bool(store.held))
        await settle()
        assert "commit" in store.calls
        assert not passing.done()
        store.let_go()
        await asyncio.gather(passing, emitting)
        assert await order(bus) == [1, 2]


async def test_messages_of_two_turns_keep_the_order_of_their_commits() -> None:
    """The first answer arrives last."""
    store = Late(create_memory_storage())
    async with asyncio.timeout(5), EventBus(notes(), store=store) as bus:
        store.hold("commit")
        first = asyncio.create_task(bus.emit("pass", "b", {"numbers": [1, 2]}))
        await until(lambda: bool(store.held))
        second = asyncio.create_task(bus.emit("pass", "c", {"numbers": [3]}))
        await settle()
        assert not second.done()
        store.let_go()
        await asyncio.gather(first, second)
        assert await order(bus) == [1, 2, 3]


async def test_a_commit_that_is_sent_again_comes_behind_a_later_one() -> None:
    """The first commit is made after the second, so its message stands behind the second's in the log."""
    store = Late(create_memory_storage())
    async with asyncio.timeout(5), EventBus(notes(), store=store) as bus:
        for name in "bc":
            await bus.emit("pass", name, {"numbers": []})
        store.fails["commit"] = ["", "before"]  # the others are accepted together while "first" is
        names = ("first", "b", "c")
        receipts = await asyncio.gather(*(bus.emit("pass", name, {"numbers": [name]}) for name in names))
        assert all(receipt.cascade[0].status == "handled" for receipt in receipts)
        assert await order(bus) == ["first", "c", "b"]


async def test_what_is_sent_again_waits_for_what_took_effect_meanwhile() -> None:
    """The commit of "b" is made again behind that of "c"; though its answer is here first, "c" stands first."""
    store, gate, waiting = Late(create_memory_storage()), asyncio.Event(), list[str]()
    async with asyncio.timeout(5), EventBus(gated(gate, waiting), store=store) as bus:
        emitting = [asyncio.create_task(bus.emit("gated", name)) for name in "bc"]
        await until(lambda: waiting == ["b", "c"])
        store.fails["commit"] = ["before"]
        store.hold("commit")
        gate.set()
        await until(lambda: bool(store.held))
        await settle()
        assert store.calls.count("commit") == 3
        assert await order(bus) is None
        store.let_go()
        await asyncio.gather(*emitting)
        assert await order(bus) == ["c", "b"]


async def test_an_append_that_is_made_again_waits_for_what_took_effect_meanwhile() -> None:
    """The message of "c" stands ahead of the event; the answer to its commit is late."""
    store, gate, waiting = Late(create_memory_storage()), asyncio.Event(), list[str]()
    async with asyncio.timeout(5), EventBus(gated(gate, waiting), store=store) as bus:
        emitting = [asyncio.create_task(bus.emit("gated", "c"))]
        await until(lambda: waiting == ["c"])
        store.fails["append"] = ["before"]
        store.hold("commit")
        emitting.append(asyncio.create_task(bus.emit("noted", "a", "event")))
        gate.set()
        await until(lambda: bool(store.held))
        await settle()
        assert store.calls.count("append") == 3
        assert await order(bus) is None
        store.let_go()
        await asyncio.gather(*emitting)
        assert await order(bus) == ["c", "event"]


async def test_a_promotion_that_is_made_again_waits_for_what_took_effect_meanwhile() -> None:
    """The message of "c" stands ahead of the timer; the answer to its commit is late."""
    store, gate, waiting = Late(create_memory_storage()), asyncio.Event(), list[str]()
    rules, clock = gated(gate, waiting), VirtualClock(NOON)

    @rules.on("set")
    def set_timer(ctx: Context) -> None:
        ctx.emit("noted", "timer", "a", delay=timedelta(hours=1))

    async with asyncio.timeout(5), EventBus(rules, store=store, clock=clock) as bus:
        await bus.emit("set", "b")
        emitting = asyncio.create_task(bus.emit("gated", "c"))
        await until(lambda: waiting == ["c"])
        clock.advance(timedelta(hours=1))
        store.fails["promote"] = ["before"]
        store.hold("commit")
        assert bus._pipeline is not None
        ringing = asyncio.create_task(bus._pipeline.run_due())
        gate.set()
        await until(lambda: bool(store.held))
        await settle()
        assert await order(bus) is None
        store.let_go()
        await asyncio.gather(emitting, ringing)
        await bus.idle()
        assert await order(bus) == ["c", "timer"]


@pytest.mark.parametrize("fails", [["before"], ["before"] * 4 + ["after"]])
async def test_a_commit_from_outside_that_is_made_again_waits_as_well(fails: list[str]) -> None:
    """What it sends stands behind a message whose commit's answer is late; also if its caller has an error."""
    store, gate, waiting = Late(create_memory_storage()), asyncio.Event(), list[str]()
    rules = gated(gate, waiting)

    @rules.on("subject-property-changed")
    def note_change(ctx: Context) -> None:
        if ctx.property_name == "n":
            ctx.subject.set("order", [*ctx.subject.get("order", []), "outside"], muted=True)

    async with asyncio.timeout(5), EventBus(rules, store=store) as bus:
        emitting = asyncio.create_task(bus.emit("gated", "c"))
        await until(lambda: waiting == ["c"])
        await bus.emit("nothing", "a")

        async def write() -> None:
            with suppress(StoreError):
                async with bus.subject("a") as subject:
                    await asyncio.sleep(0)
                    store.fails["commit"] = [fails[0], "", *fails[1:]]
                    store.hold("commit")
                    subject.set("n", 1)
                    asyncio.get_running_loop().call_soon(gate.set)

        writing = asyncio.create_task(write())
        await until(lambda: bool(store.held))
        await settle()
        assert await order(bus) is None
        store.let_go()
        await asyncio.gather(emitting, writing)
        await bus.idle()
        assert await order(bus) == ["c", "outside"]


async def test_a_timer_does_not_overtake_what_was_accepted_before_it() -> None:
    """Nor does an event that was accepted after it overtake the timer, whichever answer comes first."""
    store, rules = Late(create_memory_storage()), notes()

    @rules.on("set")
    def set_timer(ctx: Context) -> None:
        ctx.emit("noted", "timer", "a", delay=timedelta(hours=1))

    clock = VirtualClock(NOON)
    async with asyncio.timeout(5), EventBus(rules, store=store, clock=clock) as bus:
        await bus.emit("set", "b")
        store.hold("append", "promote")
        emitting = [asyncio.create_task(bus.emit("noted", "a", "first"))]
        await until(lambda: len(store.held) == 1)
        clock.advance(timedelta(hours=1))
        assert bus._pipeline is not None
        ringing = asyncio.create_task(bus._pipeline.run_due())
        await until(lambda: len(store.held) == 2)
        emitting.append(asyncio.create_task(bus.emit("pass", "c", {"numbers": ["last"]})))
        await settle()
        store.let_go(1)
        await settle()
        assert await order(bus) is None
        store.let_go()
        await asyncio.gather(*emitting, ringing)
        await bus.idle()
        assert await order(bus) == ["first", "timer", "last"]


async def test_an_event_from_outside_a_turn_keeps_its_place() -> None:
    """What `async with bus.subject()` sends stands in the log like any other event."""
    store, rules = Late(create_memory_storage()), RuleSet("rules")

    @rules.on("subject-property-changed", "noted")
    def note(ctx: Context) -> None:
        number = ctx.payload if ctx.event_type == "noted" else ctx.new_value
        ctx.subject.set("order", [*ctx.subject.get("order", []), number], muted=True)

    async with asyncio.timeout(5), EventBus(rules, store=store) as bus:
        store.hold("commit")

        async def write() -> None:
            async with bus.subject("a") as subject:
                subject.set("n", 1)

        writing = asyncio.create_task(write())
        await until(lambda: bool(store.held))
        emitting = asyncio.create_task(bus.emit("noted", "a", 2))
        await settle()
        assert not emitting.done()
        store.let_go()
        await asyncio.gather(writing, emitting)
        assert await order(bus) == [1, 2]


outcomes = st.lists(st.sampled_from(["", "", "", "before", "after"]), max_size=16)


@given(
    seed=st.integers(0, 1000),
    append=st.lists(st.sampled_from(["", "before", "after"]), max_size=4),  # one more, and the emitter has an error
    commit=outcomes,
    promote=outcomes,
    partitions=st.sampled_from([1, 3]),
    limit=st.sampled_from([1, 2, 1000]),
)
def test_whatever_comes_late_or_is_lost_all_is_handled_in_the_order_of_the_log(
    seed: int, append: list[str], commit: list[str], promote: list[str], partitions: int, limit: int
) -> None:
    """Each subject handles its events once, and by their position, however answers travel."""
    chance = random.Random(seed)
    memory = create_memory_storage(partitions=partitions)
    store = Late(memory, chance, append=append, commit=commit, promote=promote)
    rules, accepted = RuleSet("rules"), list[tuple[int, str, object]]()

    @rules.on("go")
    async def go(ctx: Context) -> None:
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        ctx.subject.set("order", [*ctx.subject.get("order", []), ctx.event.id])
        for number in range(ctx.payload["depth"]):
            target = f"s{(ctx.payload['n'] + number) % 3}"
            data = {"depth": ctx.payload["depth"] - 1, "n": ctx.payload["n"] + number + 1}
            if not number % 2:
                ctx.emit("go", data, target)
            else:  # across partitions timers are found one round later, perhaps behind what was sent meanwhile
                ctx.emit("go", data, target, delay=timedelta(0))

    posted = memory._post

    def post(event: Event, now: object) -> object:
        entry = posted(event, now)  # type: ignore[arg-type]
        accepted.append((entry.position, event.subject, event.id))
        return entry

    memory._post = post  # type: ignore[assignment,method-assign]

    async def main() -> None:
        async with asyncio.timeout(20):
            async with EventBus(rules, store=store, limits=Limits(max_concurrent_turns=limit)) as bus:
                tasks = []
                for number in range(6):
                    tasks.append(asyncio.create_task(bus.emit("go", f"s{number % 3}", {"depth": 2, "n": number})))
                    await asyncio.sleep(0)
                await asyncio.gather(*tasks)
                stats = await memory.stats()
                while stats.timers or stats.pending:
                    await bus.idle()
                    await asyncio.sleep(0)
                    stats = await memory.stats()
                for receipt in (task.result() for task in tasks):
                    position = next(number for number, event in first.items() if event == receipt.event.id)
                    accepted.append((position, receipt.event.subject, receipt.event.id))
                for name in ("s0", "s1", "s2"):
                    wanted = [id for _, subject, id in sorted(accepted) if subject == name]
                    assert await order(bus, name) == wanted
                assert len(accepted) == 6 * 5

    first: dict[int, str] = {}
    accept = memory._accept

    def note(partition: int, event: Event, now: object) -> object:
        found = accept(partition, event, now)  # type: ignore[arg-type]
        if found.is_new and found.position is not None:
            first[found.position] = event.id
        return found

    memory._accept = note  # type: ignore[assignment,method-assign]
    asyncio.run(main())


# -- one at a time


async def test_with_one_turn_at_a_time_events_are_handled_in_the_order_of_the_log(store: Flaky) -> None:
    """Whatever their subjects are: messages come behind all events that were accepted before them."""
    rules, seen = RuleSet("rules"), []

    @rules.on("go")
    async def go(ctx: Context) -> None:
        await asyncio.sleep(0)
        seen.append(ctx.payload)
        if ctx.payload < 10:
            ctx.emit("go", ctx.payload + 10, "x" if ctx.payload % 2 else "s1")

    async with asyncio.timeout(5), EventBus(rules, store=store, limits=Limits(max_concurrent_turns=1)) as bus:
        await bus.emit("go", "s0", 100)
        seen.clear()
        await asyncio.gather(*(bus.append("go", f"s{number % 3}", number) for number in range(9)))
        await bus.idle()
        assert seen[: len(seen) // 2] == sorted(seen)[: len(seen) // 2]
        assert seen == list(range(9)) + list(range(10, 19))


def test_one_at_a_time_goes_on_in_the_order_of_the_log_after_a_crash() -> None:
    """What is pending is handled by its position, not subject by subject."""
    memory, rules, seen = create_memory_storage(), RuleSet("rules"), []

    @rules.on("go")
    async def go(ctx: Context) -> None:
        await asyncio.sleep(0)
        seen.append(ctx.payload)

    async def first() -> None:
        await memory.append(0, [Event("go", f"s{number % 3}", number) for number in (0, 1, 3, 4, 2, 5)])
        await kill()

    async def second() -> None:
        async with EventBus(rules, store=Flaky(memory), limits=Limits(max_concurrent_turns=1)) as bus:
            await bus.idle()

    assert process(first)
    assert not process(second)
    assert seen == [0, 1, 3, 4, 2, 5]
