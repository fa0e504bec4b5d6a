"""The bus: what `emit` does inside a turn, its own, another bus's, or in a task of it."""

import asyncio

import pytest

from onwhen import (
    Context,
    Event,
    RuleSet,
)
from onwhen.errors import (
    SubjectStateError,
)
from tests.engine.buses import counter, new_bus, value

# -- emitting inside a turn


async def test_emit_inside_a_turn_is_the_turns_own() -> None:
    """However deep, also in tasks that the rule joins: it is recorded, and sent by the commit."""
    rules = RuleSet("rules")
    receipts = []

    async def helper() -> None:
        receipts.append(await bus.emit("told", "b", {"deep": True}))

    @rules.on("go")
    async def go(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(helper())
        await bus.emit(Event("told", "b"))

    @rules.on("go")
    async def fails(ctx: Context) -> None:
        await helper()
        raise LookupError

    bus = new_bus(rules)
    receipt = await bus.emit("go", "a")
    assert [one.status for one in receipts] == ["recorded"] * 2
    assert [event.subject for event in receipt.sent] == ["b", "b"]
    assert [one.status for one in receipt.cascade] == ["handled"] * 2
    assert {one.event.causation_id for one in receipt.cascade} == {receipt.event.id}


async def test_emit_to_another_bus_is_for_real() -> None:
    """A rule that emits through an unrelated bus waits for what that does, also when its own turn fails."""
    ours, theirs = RuleSet("ours"), counter()
    other = new_bus(theirs)

    @ours.on("go")
    async def go(ctx: Context) -> None:
        receipt = await other.emit("counted", "x", {"steps": 1})
        assert receipt.status == "handled"
        raise LookupError

    assert not (await new_bus(ours).emit("go", "a")).ok
    assert await value(other, "x", "n") == 1


async def test_a_turn_is_still_the_turns_own_through_another_bus() -> None:
    """A rule emits to another bus, whose rule emits back: that is recorded in the first turn, not waited for."""
    here, there = RuleSet("here"), RuleSet("there")

    @here.on("go")
    async def go(ctx: Context) -> None:
        (await second.emit("ask", "x")).raise_for_failure()

    @there.on("ask")
    async def ask(ctx: Context) -> None:
        await asyncio.sleep(0)
        assert (await first.emit("answer", "a")).status == "recorded"

    first, second = new_bus(here), new_bus(there)
    async with asyncio.timeout(5):
        receipt = (await first.emit("go", "a")).raise_for_failure()
    assert [one.event.type for one in receipt.cascade] == ["answer"]


async def test_what_a_rule_leaves_running_emits_for_real() -> None:
    """A task that outlives the turn is not part of it any more."""
    rules, tasks, go_on = counter(), [], asyncio.Event()

    async def later() -> None:
        await go_on.wait()
        await bus.emit("counted", "b")

    @rules.on("go")
    def go(ctx: Context) -> None:
        tasks.append(asyncio.ensure_future(later()))

    async with new_bus(rules) as bus:
        assert (await bus.emit("go", "a")).cascade == []
        go_on.set()
        await tasks[0]
        assert await value(bus, "b", "n") == 1


@pytest.mark.parametrize("verb", ["idle", "close", "store"])
async def test_what_would_wait_for_its_own_turn_is_refused(verb: str) -> None:
    """`idle`, `close` and `store` inside a turn say what to do instead, and the bus goes on."""
    rules = RuleSet("rules")

    @rules.on("go")
    async def go(ctx: Context) -> None:
        if verb == "store":
            async with bus.subject("b") as other:
                other.set("n", 1)
        await getattr(bus, verb)()

    bus = new_bus(rules)
    async with asyncio.timeout(5):
        receipt = await bus.emit("go", "a")
    error = receipt.runs[0].error
    assert isinstance(error, SubjectStateError)
    assert "send the other one a message" in str(error)
    assert (await bus.emit("other", "a")).status == "handled"
