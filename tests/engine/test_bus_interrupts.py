"""The bus: interrupts out of rules, and event loops that end before the work does."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from onwhen import (
    SUBJECT_PROPERTY_CHANGED,
    Context,
    RuleSet,
    create_memory_storage,
)
from onwhen.errors import (
    BusInUse,
)
from tests.engine.buses import counter, new_bus, value

# -- interrupts, and loops that end


@pytest.mark.parametrize("events", [1, 3])
def test_an_interrupt_leaves_the_event_pending(events: int) -> None:
    """KeyboardInterrupt out of a rule ends the program; the next start on the store handles the event, in order."""
    store, interrupts = create_memory_storage(), [KeyboardInterrupt()]
    rules = counter()

    @rules.on("counted", priority=-1)
    async def interrupted(ctx: Context) -> None:
        await asyncio.sleep(0)
        if interrupts:
            raise interrupts.pop()

    async def main() -> None:
        async with new_bus(rules, store=store) as bus, asyncio.TaskGroup() as group:
            for number in range(events):
                group.create_task(bus.emit("counted", "a", {"number": number}))

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())

    async def again() -> None:
        assert (await store.stats()).pending == events
        async with new_bus(rules, store=store) as bus:
            await bus.idle()
        assert await value(bus, "a", "order") == list(range(events))

    asyncio.run(again())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("suspends", [False, True])
def test_an_interrupt_of_a_rule_that_nobody_waits_for_ends_the_program(
    kind: type[BaseException], suspends: bool
) -> None:
    """A timer's rule, or one whose emitter was cancelled, is interrupted: that leaves the event loop."""
    rules = RuleSet("rules")

    @rules.on("go")
    async def go(ctx: Context) -> None:
        if suspends:
            await asyncio.sleep(0)
        raise kind

    @rules.on("set")
    def set_timer(ctx: Context) -> None:
        ctx.emit("go", at=ctx.now)

    async def of_a_timer() -> None:
        assert (await new_bus(rules, store=store).emit("set", "a")).status == "handled"
        await asyncio.sleep(3600)

    async def of_nobody() -> None:
        task = asyncio.create_task(new_bus(rules, store=store).emit("go", "b"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(3600)

    for main in (of_a_timer, of_nobody):
        store = create_memory_storage()
        with pytest.raises(kind):
            asyncio.run(main())
        assert asyncio.run(store.stats()).pending == 1


@pytest.mark.parametrize("how", ["event", "message", "timer", "outside"])
def test_what_was_interrupted_is_ahead_of_what_came_later(how: str) -> None:
    """Whichever way the later event has come: the next start handles the one first that was accepted first."""
    rules, interrupts, store = RuleSet("rules"), [KeyboardInterrupt()], create_memory_storage()

    @rules.on("noted", SUBJECT_PROPERTY_CHANGED)
    async def note(ctx: Context) -> None:
        ctx.subject.set("order", [*ctx.subject.get("order", []), ctx.payload.get("number", 1)], muted=True)
        for _ in range(10):
            await asyncio.sleep(0)
        if interrupts:
            raise interrupts.pop()

    @rules.on("pass")
    def pass_on(ctx: Context) -> None:
        ctx.emit("noted", {"number": 1}, "a", at=ctx.now if ctx.payload == "timer" else None)

    async def main() -> None:
        async with new_bus(rules, store=store) as bus, asyncio.TaskGroup() as group:
            await bus.emit("nothing", "x")
            group.create_task(bus.emit("noted", "a", {"number": 0}))
            await asyncio.sleep(0)
            if how == "event":
                await bus.emit("noted", "a", {"number": 1})
            elif how == "outside":
                async with bus.subject("a") as subject:
                    subject.set("n", 1)
            else:
                await bus.emit("pass", "b", how)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())

    async def again() -> list[int]:
        async with new_bus(rules, store=store) as bus:
            await bus.idle()
        order: list[int] = await value(bus, "a", "order")
        return order

    assert asyncio.run(again()) == [0, 1]


def test_a_loop_that_ends_without_a_word_loses_nothing() -> None:
    """It was closed in the middle of a turn, whose task was not even cancelled: the next loop handles the event."""
    bus = new_bus(counter())

    async def leave() -> list[asyncio.Task[Any]]:
        await bus.emit("counted", "b")
        tasks = [asyncio.ensure_future(bus.emit("counted", "a", {"number": 0, "steps": 9}))]
        tasks += [asyncio.ensure_future(bus.emit("counted", "b", {"number": n, "steps": 9})) for n in range(2)]
        await asyncio.sleep(0)
        return tasks

    loop = asyncio.new_event_loop()
    for task in loop.run_until_complete(leave()):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()

    async def go_on() -> None:
        async with bus:
            await bus.emit("counted", "a", {"number": 1})
        assert await value(bus, "a", "order") == [0, 1]
        assert await value(bus, "b", "order") == [0, 0, 1]

    asyncio.run(go_on())


async def test_an_interrupt_that_is_caught_is_made_up_for_by_the_next_event() -> None:
    """At a prompt, the program goes on: nothing is half applied, and the event is handled before the next one."""
    rules, interrupts = counter(), [KeyboardInterrupt()]

    @rules.on("counted", priority=-1)
    def interrupted(ctx: Context) -> None:
        if interrupts:
            raise interrupts.pop()

    bus = new_bus(rules)
    with pytest.raises(KeyboardInterrupt):
        await bus.emit("counted", "a", {"number": 1})
    assert await value(bus, "a", "order") is None
    await bus.emit("counted", "a", {"number": 2})
    assert await value(bus, "a", "order") == [1, 2]


def test_one_bus_in_several_loops() -> None:
    """A bus that is not closed goes on in the next `asyncio.run`, and first takes up what the last one left."""
    bus = new_bus(counter())

    async def emit(number: int) -> None:
        assert (await bus.emit("counted", "a", {"number": number})).status == "handled"

    async def leave(number: int) -> None:
        task = asyncio.create_task(bus.emit("counted", "a", {"number": number, "steps": 10}))
        queued = asyncio.create_task(bus.emit("counted", "a", {"number": number + 1}))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not task.done()
        assert not queued.done()

    asyncio.run(emit(0))
    asyncio.run(emit(1))
    asyncio.run(leave(2))
    asyncio.run(emit(4))
    assert asyncio.run(value(bus, "a", "order")) == [0, 1, 2, 3, 4]


def test_from_a_plain_callback() -> None:
    """A callback that belongs to no task may emit."""
    bus, receipts = new_bus(counter()), []

    async def emit() -> None:
        receipts.append(await bus.emit("counted", "a"))

    loop = asyncio.new_event_loop()
    loop.call_soon(lambda: loop.create_task(emit()))
    loop.call_soon(lambda: step(emit()))
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    loop.close()
    assert [receipt.status for receipt in receipts] == ["handled"] * 2


def step(coroutine: Coroutine[Any, Any, None]) -> None:
    with pytest.raises(StopIteration):
        coroutine.send(None)


async def test_emitting_from_another_thread_says_what_to_do() -> None:
    """Another thread's loop is refused while the bus is open on this one; handing the coroutine over works."""
    bus, errors = new_bus(counter()), []
    await bus.emit("counted", "a")

    def elsewhere(loop: asyncio.AbstractEventLoop) -> None:
        try:
            asyncio.run(bus.emit("counted", "a"))
        except BusInUse as error:
            errors.append(str(error))
        receipt = asyncio.run_coroutine_threadsafe(bus.emit("counted", "a"), loop).result(5)
        assert receipt.status == "handled"

    thread = threading.Thread(target=elsewhere, args=(asyncio.get_running_loop(),))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert len(errors) == 1
    assert "run_coroutine_threadsafe" in errors[0]
    assert await value(bus, "a", "n") == 2
