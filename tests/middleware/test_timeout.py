"""Timeout: a bound that is a part of the chain, told apart from those further in and further out."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from onwhen import Context, RetryPolicy, RuleSet
from onwhen.errors import RuleDefinitionError, RuleTimeout
from onwhen.middleware import Retry, Timeout
from tests.engine import turning
from tests.engine.buses import new_bus

Thing = turning.Thing


async def forever() -> None:
    await asyncio.Event().wait()


def hanging(*middleware: Any, **options: Any) -> RuleSet:
    """A rule that does something and then hangs."""
    rules = RuleSet("r", subject=Thing)

    @rules.on("go", middleware=middleware, **options)
    async def hangs(ctx: Context[Thing]) -> None:
        ctx.subject.n = 1
        ctx.emit("worked")
        await forever()

    return rules


async def test_what_is_late_has_failed_and_is_undone() -> None:
    """With the same error as a rule's own time-out."""
    async with asyncio.timeout(5), new_bus(hanging(Timeout(0.01))) as bus:
        receipt = await bus.emit("go", "thing:1")
        (run,) = receipt.runs
        assert isinstance(run.error, RuleTimeout)
        assert (run.error.what, run.error.seconds, run.handled) == ("r.hangs", 0.01, False)
        assert (receipt.sent, (await bus.read("thing:1")).get("n")) == ((), 0)


async def test_what_is_in_time_is_let_be() -> None:
    """Whether it suspends or not."""
    rules = RuleSet("r", subject=Thing)

    @rules.on("go")
    async def quick(ctx: Context[Thing]) -> None:
        await asyncio.sleep(0)
        ctx.subject.n += 1

    rules.on("go", name="at_once")(lambda ctx: ctx.subject.set("n", lambda n: n + 1))
    bus = new_bus(rules)
    bus.use(Timeout(timedelta(seconds=5)))
    async with bus:
        assert (await bus.emit("go", "thing:1")).ok
        assert (await bus.read("thing:1")).get("n") == 2


@pytest.mark.parametrize(
    ("outer", "inner", "own", "first"),
    [(5, 0.01, 6, 0.01), (0.01, 5, 6, 0.01), (5, 6, 0.01, 0.01), (0.02, 0.01, 1, 0.01)],
)
async def test_the_shortest_of_several_is_named(outer: float, inner: float, own: float, first: float) -> None:
    """Two of its kind, and the rule's own around both."""
    async with asyncio.timeout(3), new_bus(hanging(Timeout(outer), Timeout(inner), timeout=own)) as bus:
        (run,) = (await bus.emit("go", "thing:1")).runs
        assert isinstance(run.error, RuleTimeout)
        assert run.error.seconds == first


async def test_a_time_out_that_the_rule_raises_is_the_rules() -> None:
    """It is no `RuleTimeout` then."""
    rules = RuleSet("r", subject=Thing)

    @rules.on("go", middleware=[Timeout(5)])
    async def late(ctx: Context[Thing]) -> None:
        async with asyncio.timeout(0.001):
            await forever()

    async with asyncio.timeout(3), new_bus(rules) as bus:
        (run,) = (await bus.emit("go", "thing:1")).runs
        assert type(run.error) is TimeoutError


async def test_a_rule_that_swallows_its_cancellation_is_late_all_the_same() -> None:
    """What it did is undone."""
    rules = RuleSet("r", subject=Thing)

    @rules.on("go", middleware=[Timeout(0.01)])
    async def stubborn(ctx: Context[Thing]) -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            ctx.subject.n = 1

    async with asyncio.timeout(3), new_bus(rules) as bus:
        (run,) = (await bus.emit("go", "thing:1")).runs
        assert isinstance(run.error, RuleTimeout)
        assert (await bus.read("thing:1")).get("n") == 0


async def test_further_out_it_is_a_failure_like_any_other() -> None:
    """It can be tried again, and what is told of it is kept."""
    calls: list[int] = []
    rules = RuleSet("r", subject=Thing)

    async def telling(ctx: Context[Thing], next: Any) -> None:
        try:
            await next()
        except RuleTimeout:
            ctx.emit("late")
            raise

    @rules.on("go", middleware=[telling, Retry(attempts=3, delay=0), telling, Timeout(0.01)])
    async def slow(ctx: Context[Thing]) -> None:
        calls.append(1)
        ctx.subject.n += 1
        await forever()

    async with asyncio.timeout(3), new_bus(rules) as bus:
        receipt = await bus.emit("go", "thing:1")
        assert isinstance(receipt.runs[0].error, RuleTimeout)
        assert len(calls) == 3
        assert [event.type for event in receipt.sent] == ["late"] * 4
        assert (await bus.read("thing:1")).get("n") == 0


async def test_it_is_told_also_if_the_rule_was_not_begun() -> None:
    """A middleware further in was waiting, and one further out swallows the error."""

    async def waits(ctx: Context[Thing], next: Any) -> None:
        await forever()

    async def swallows(ctx: Context[Thing], next: Any) -> None:
        with suppress(RuleTimeout):
            await next()

    rules = RuleSet("r")
    rules.on("go", name="rule", middleware=[swallows, Timeout(0.01), waits])(lambda ctx: None)
    async with new_bus(rules) as bus:
        (run,) = (await bus.emit("go", "thing:1")).runs
    assert (run.status, run.handled, type(run.error)) == ("failed", True, RuleTimeout)


async def test_the_policy_decides_what_then_happens() -> None:
    """As after any failure."""
    rules = hanging(Timeout(0.01), retry=RetryPolicy(attempts=2, retry_on=RuleTimeout, delay=timedelta(hours=1)))
    async with asyncio.timeout(3), new_bus(rules) as bus:
        (run,) = (await bus.emit("go", "thing:1")).runs
        assert run.retry_at is not None


async def test_around_an_event_the_event_fails_as_a_whole() -> None:
    """Half of its rules cannot be kept."""
    rules = hanging()
    rules.on("go", name="works", priority=1)(lambda ctx: ctx.subject.set("n", 5))
    bus = new_bus(rules)
    bus.use(Timeout(0.01), scope="event")
    async with asyncio.timeout(3), bus:
        receipt = await bus.emit("go", "thing:1")
        assert isinstance(receipt.error, RuleTimeout)
        assert "go to thing:1" in str(receipt.error)
        assert (await bus.read("thing:1")).get("n") == 0


async def test_the_end_of_the_program_passes_through() -> None:
    """It is not made into a time-out."""
    rules = RuleSet("r", subject=Thing)

    @rules.on("go", middleware=[Timeout(5)])
    async def interrupted(ctx: Context[Thing]) -> None:
        await asyncio.sleep(0)
        raise SystemExit(3)

    turn = turning.begin(rules)
    with pytest.raises(SystemExit):
        await turn.run()
    assert turning.kept(turn) == ({}, [])


async def test_a_cancelled_turn_is_cancelled() -> None:
    """It is not late: somebody ends the engine."""
    turn = turning.begin(hanging(Timeout(5)))
    task = asyncio.create_task(turn.run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("seconds", [0, -1, "1", None, True, float("nan"), timedelta(0)])
def test_a_time_out_is_a_duration(seconds: Any) -> None:
    """More than nothing."""
    with pytest.raises(RuleDefinitionError, match="Timeout: seconds="):
        Timeout(seconds)
