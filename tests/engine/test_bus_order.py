"""The bus: order per subject, concurrency across subjects, cancellation, and asyncio inside of rules."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwhen import (
    Context,
    Limits,
    RuleSet,
)
from tests.engine.buses import USER, Stops, counter, new_bus, value

# -- order and concurrency


@given(
    events=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans()), max_size=40),
    limit=st.integers(1, 4),
)
def test_per_subject_order_under_random_concurrency(events: list[tuple[str, int, bool]], limit: int) -> None:
    """Whatever awaits in the rules and between the emits, a subject's events are handled in order, one at a time."""

    async def main() -> None:
        bus = new_bus(counter(), limits=Limits(max_concurrent_turns=limit))
        async with bus, asyncio.TaskGroup() as group:
            for number, (subject, steps, pauses) in enumerate(events):
                group.create_task(bus.emit("counted", subject, {"steps": steps, "number": number}))
                if pauses:
                    await asyncio.sleep(0)
        for name in "abc":
            wanted = [number for number, (subject, _, _) in enumerate(events) if subject == name]
            assert await value(bus, name, "order") == (wanted or None)

    asyncio.run(main())


async def test_thousands_at_once() -> None:
    """5,000 concurrent emits to 50 subjects: none is lost, each subject's are in order, all receipts arrive."""
    bus = new_bus(counter())
    async with bus:
        emits = [bus.emit("counted", f"s{n % 50}", {"steps": n % 3, "number": n}) for n in range(5000)]
        receipts = await asyncio.gather(*emits)
    assert {receipt.status for receipt in receipts} == {"handled"}
    for subject in range(50):
        assert await value(bus, f"s{subject}", "order") == list(range(subject, 5000, 50))


async def test_subjects_run_concurrently_up_to_the_limit() -> None:
    """`max_concurrent_turns` is reached and never passed; one slow subject does not hold up the others."""
    now, most, rules = 0, 0, RuleSet("rules")

    @rules.on("work")
    async def work(ctx: Context) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1

    bus = new_bus(rules, limits=Limits(max_concurrent_turns=10))
    async with bus:
        await asyncio.gather(*(bus.emit("work", f"s{n}") for n in range(100)))
    assert most == 10

    slow = asyncio.Event()

    @rules.on("slow")
    async def wait(ctx: Context) -> None:
        await slow.wait()

    async with bus:
        waiting = asyncio.create_task(bus.emit("slow", "slow"))
        await asyncio.sleep(0)
        assert (await bus.emit("work", "quick")).status == "handled"
        slow.set()
        await waiting


async def test_emits_that_never_suspend_leave_the_loop_its_turn() -> None:
    """A loop of emits whose rules never await does not keep timers and other tasks from running."""
    bus = new_bus(counter())

    async def emit_for_ever() -> None:
        while True:
            await bus.emit("counted", "a")

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(emit_for_ever(), 0.05)


# -- cancelling emit


@pytest.mark.parametrize("steps", range(8))
@pytest.mark.parametrize("opens", [0, 2])
async def test_cancelling_emit_neither_loses_nor_half_applies(steps: int, opens: int) -> None:
    """Whenever the waiting is cancelled, in the rule or in the cascade, everything happens all the same, once."""
    stops = Stops()
    async with stops.bus as bus:
        emitting = asyncio.create_task(bus.emit("first", "a"))
        for step in range(steps):
            if step == opens:
                stops.gate.set()
            await asyncio.sleep(0)
        if steps:
            emitting.cancel()
        stops.gate.set()
        await asyncio.wait([emitting])
        await bus.idle()
    subject, other = await bus.read("a"), await bus.read("other")
    assert (subject.get("a"), subject.get("b"), other.get("n")) == (1, 1, 1)
    assert (await bus.store.stats()).pending == 0


async def test_cancelling_an_emit_that_is_queued() -> None:
    """An event that waits behind another one of its subject is handled, though its emitter has gone."""
    stops = Stops()
    async with stops.bus as bus:
        first = asyncio.create_task(bus.emit("first", "a"))
        await asyncio.sleep(0)
        second = asyncio.create_task(bus.emit("first", "a"))
        await asyncio.sleep(0)
        second.cancel()
        stops.gate.set()
        await first
        with pytest.raises(asyncio.CancelledError):
            await second
    assert await value(bus, "a", "b") == 2


async def with_one_that_fails(coroutine: Coroutine[Any, Any, Any]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(coroutine)
        await asyncio.sleep(0)
        raise LookupError


async def test_wait_for_timeout_and_task_groups_around_emit() -> None:
    """`asyncio.wait_for`, `asyncio.timeout` and a task group that fails give up the waiting, not the event."""
    stops = Stops()
    async with stops.bus as bus:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(bus.emit("first", "a"), 0.001)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await bus.emit("first", "a")
        with pytest.raises(ExceptionGroup):
            await with_one_that_fails(bus.emit("first", "a"))
        stops.gate.set()
    assert (await value(bus, "a", "b"), await value(bus, "other", "n")) == (3, 3)


# -- asyncio inside rules


async def test_asyncio_inside_rules() -> None:
    """Time-outs, task groups, done futures and bare yields work in the first step of a rule as anywhere."""
    rules = RuleSet("rules")

    @rules.on("timeout")
    async def timeout(ctx: Context) -> None:
        try:
            async with asyncio.timeout(ctx.payload["seconds"]):
                await asyncio.sleep(3600)
        except TimeoutError:
            ctx.subject.set("late", True)

    @rules.on("group")
    async def group(ctx: Context) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(3):
                tasks.create_task(asyncio.sleep(0, number))
        ctx.subject.set("joined", True)

    @rules.on("done")
    async def done(ctx: Context) -> None:
        future = asyncio.get_running_loop().create_future()
        future.set_result("there")
        ctx.subject.set("got", await future)
        await asyncio.sleep(0)
        ctx.subject.set("then", await asyncio.wait_for(asyncio.sleep(0, "more"), 1))

    bus = new_bus(rules)
    me = asyncio.current_task()
    for seconds in (0, 0.001):
        (await bus.emit("timeout", f"a{seconds}", {"seconds": seconds})).raise_for_failure()
        assert await value(bus, f"a{seconds}", "late") is True
    (await bus.emit("group", "b")).raise_for_failure()
    (await bus.emit("done", "c")).raise_for_failure()
    assert (await bus.read("c")).dict() == {"got": "there", "then": "more"}
    assert asyncio.current_task() is me


async def test_a_rule_that_raises_cancelled_has_failed() -> None:
    """A CancelledError that nobody asked for is an error like any other, and not the end of the turn."""
    rules = RuleSet("rules")

    @rules.on("go")
    async def cancelled(ctx: Context) -> None:
        task = asyncio.ensure_future(asyncio.sleep(3600))
        task.cancel()
        await task

    @rules.on("go")
    def goes_on(ctx: Context) -> None:
        ctx.subject.set("went", "on")

    receipt = await new_bus(rules).emit("go", "a")
    assert [run.status for run in receipt.runs] == ["failed", "fired"]
    assert isinstance(receipt.runs[0].error, asyncio.CancelledError)


async def test_context_variables() -> None:
    """Rules see their emitter's, also when queued behind another's and in the cascade; theirs do not leak."""
    seen, gate, rules = [], asyncio.Event(), RuleSet("rules")

    @rules.on("look", "follow")
    async def look(ctx: Context) -> None:
        seen.append((ctx.event_type, USER.get()))
        USER.set("rule")
        if ctx.event_type == "look":
            await gate.wait()
            await ctx.emit("follow")

    async def request(user: str) -> None:
        USER.set(user)
        await bus.emit("look", "a")
        assert USER.get() == user

    async with new_bus(rules) as bus, asyncio.TaskGroup() as group:
        group.create_task(request("ann"))
        await asyncio.sleep(0)
        group.create_task(request("bob"))
        await asyncio.sleep(0)
        gate.set()
    assert sorted(seen) == [("follow", "ann"), ("follow", "bob"), ("look", "ann"), ("look", "bob")]
    assert USER.get() == "nobody"
