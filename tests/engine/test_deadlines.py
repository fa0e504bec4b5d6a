"""The deadline of a turn: what is late is cancelled, and the event fails as a whole."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest

from onwhen import Context, EventBus, Limits, RetryPolicy, RuleSet, VirtualClock, create_memory_storage
from onwhen.engine.store import Store, SubjectRecord
from onwhen.errors import RuleTimeout, SettingError
from tests.engine.buses import value
from tests.engine.stores import Flaky

pytestmark = pytest.mark.usefixtures("no_pauses")

SHORT = Limits(turn_timeout=0.02)


def block() -> None:
    """Take longer than a short turn may, without an await."""
    end = time.monotonic() + 0.03
    while time.monotonic() < end:
        pass


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def two(first: Any) -> RuleSet:
    """Rules of which the first is done, and the second is late."""
    rules = RuleSet("rules")

    @rules.on("go")
    def early(ctx: Context) -> None:
        ctx.subject.set("early", True)
        ctx.emit("sent", subject="b")

    rules.on("go", name="late")(first)

    @rules.on("fine", "sent")
    def fine(ctx: Context) -> None:
        ctx.subject.set("fine", True)

    return rules


async def test_a_turn_that_is_late_fails_as_a_whole(store: Store) -> None:
    """Nothing of it is kept, also not of the rules that were in time; it is a dead letter, and the subject goes on."""

    async def late(ctx: Context) -> None:
        ctx.subject.set("late", True)
        await forever()

    async with asyncio.timeout(5), EventBus(two(late), store=store, limits=SHORT) as bus:
        receipt = await bus.emit("go", "a")
        assert isinstance(receipt.error, RuleTimeout)
        assert "the turn of go to a did not return within 0.02 s" in str(receipt.error)
        assert [(letter.rule, letter.failure.type) for letter in receipt.dead] == [("", "onwhen.errors.RuleTimeout")]
        assert receipt.cascade == []
        assert (await bus.emit("fine", "a")).ok
        assert (await bus.read("a")).dict() == {"fine": True}
        assert (await bus.read("b")).dict() == {}


async def test_many_rules_that_are_late_together_only(store: Store) -> None:
    """It is the sum that counts: each rule alone would be in time."""
    rules, runs = RuleSet("rules"), []

    for number in range(50):

        @rules.on("go", name=f"rule{number}")
        async def rule(ctx: Context) -> None:
            runs.append(ctx.rule)
            await asyncio.sleep(0.005)

    async with asyncio.timeout(5), EventBus(rules, store=store, limits=SHORT) as bus:
        assert isinstance((await bus.emit("go", "a")).error, RuleTimeout)
        assert len(runs) < 50


async def test_a_turn_in_time_is_kept(store: Store) -> None:
    """The deadline is taken back: a later await of the same task is not cut short."""

    async def late(ctx: Context) -> None:
        await asyncio.sleep(0.001)
        ctx.subject.set("late", True)

    limits = Limits(turn_timeout=5)
    async with asyncio.timeout(5), EventBus(two(late), store=store, limits=limits) as bus:
        assert (await bus.emit("go", "a")).ok
        assert (await bus.read("a")).dict() == {"early": True, "late": True}


async def test_a_late_event_is_retried_by_the_policy_of_the_limits(store: Store) -> None:
    """As a whole, and later events of the subject wait for it."""
    attempts = []

    async def late(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        if len(attempts) == 1:
            await forever()

    limits = Limits(turn_timeout=0.02, retry=RetryPolicy(attempts=2, delay=timedelta(minutes=1), jitter=0))
    async with asyncio.timeout(5), EventBus(two(late), store=store, limits=limits, clock=VirtualClock()) as bus:
        assert isinstance((await bus.emit("go", "a")).error, RuleTimeout)
        assert (await bus.emit("fine", "a")).status == "waiting"
        await bus.advance(timedelta(minutes=1))
        assert (await bus.read("a")).dict() == {"early": True, "fine": True}
        assert await value(bus, "b", "fine") is True


async def test_a_retry_that_is_late_goes_by_its_rules_policy(store: Store) -> None:
    """Its attempts are counted, and the dead letter names the rule."""
    rules = RuleSet("rules")

    @rules.on("go", retry=RetryPolicy(attempts=3, delay=timedelta(minutes=1), jitter=0))
    async def go(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise LookupError
        await forever()

    async with asyncio.timeout(5), EventBus(rules, store=store, limits=SHORT, clock=VirtualClock()) as bus:
        await bus.emit("go", "a")
        await bus.advance(timedelta(hours=1))
        (letter,) = [letter async for letter in bus.dead_letters()]
        assert (letter.rule, letter.attempts, letter.failure.type) == ("rules.go", 3, "onwhen.errors.RuleTimeout")


async def test_a_middleware_that_is_late(store: Store) -> None:
    """What is around the event counts, before its rules and after them."""
    for when in ("before", "after"):

        async def around(ctx: Context, next: Any, when: str = when) -> None:
            if when == "before":
                await forever()
            await next()
            await forever()

        bus = EventBus(two(lambda ctx: None), store=store, limits=SHORT)
        bus.use(around, scope="event")
        async with asyncio.timeout(5), bus:
            assert isinstance((await bus.emit("go", when)).error, RuleTimeout)
            assert (await bus.read(when)).dict() == {}


async def test_a_rule_that_swallows_its_cancellation_is_late_all_the_same(store: Store) -> None:
    """What it did is not kept."""

    async def late(ctx: Context) -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            ctx.subject.set("swallowed", True)

    async with asyncio.timeout(5), EventBus(two(late), store=store, limits=SHORT) as bus:
        assert isinstance((await bus.emit("go", "a")).error, RuleTimeout)
        assert (await bus.read("a")).dict() == {}
        assert (await bus.emit("fine", "a")).ok


async def test_a_rule_that_turns_its_cancellation_into_another_error(store: Store) -> None:
    """The event has failed because it was late, whatever the rule says."""

    async def late(ctx: Context) -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            raise LookupError from None

    async with asyncio.timeout(5), EventBus(two(late), store=store, limits=SHORT) as bus:
        receipt = await bus.emit("go", "a")
        assert isinstance(receipt.error, RuleTimeout)
        assert (await bus.read("a")).dict() == {}


async def test_a_turn_that_only_blocks_is_done(store: Store) -> None:
    """Nothing can interrupt it, and it has done what it was to do."""

    def late(ctx: Context) -> None:
        block()
        ctx.subject.set("late", True)

    async with asyncio.timeout(5), EventBus(two(late), store=store, limits=SHORT) as bus:
        assert (await bus.emit("go", "a")).ok
        assert await value(bus, "a", "late") is True


async def test_a_turn_that_blocks_and_then_waits_is_late(store: Store) -> None:
    """The time that it has blocked counts."""

    async def late(ctx: Context) -> None:
        block()
        await asyncio.sleep(0.005)

    async with asyncio.timeout(5), EventBus(two(late), store=store, limits=SHORT) as bus:
        assert isinstance((await bus.emit("go", "a")).error, RuleTimeout)


async def test_the_deadline_of_a_rule_comes_first_if_it_is_shorter(store: Store) -> None:
    """Then only that rule has failed, and the others are kept."""
    rules = RuleSet("rules")

    @rules.on("go", timeout=0.01)
    async def late(ctx: Context) -> None:
        await forever()

    @rules.on("go")
    async def fine(ctx: Context) -> None:
        await asyncio.sleep(0)
        ctx.subject.set("fine", True)

    async with asyncio.timeout(5), EventBus(rules, store=store, limits=Limits(turn_timeout=5)) as bus:
        receipt = await bus.emit("go", "a")
        assert receipt.error is None
        assert [run.status for run in receipt.runs] == ["failed", "fired"]
        assert await value(bus, "a", "fine") is True


async def test_a_rules_own_time_out_is_its_own(store: Store) -> None:
    """A TimeoutError that a rule raises fails the rule, not the event."""

    async def late(ctx: Context) -> None:
        async with asyncio.timeout(0.001):
            await forever()

    async with asyncio.timeout(5), EventBus(two(late), store=store, limits=Limits(turn_timeout=5)) as bus:
        receipt = await bus.emit("go", "a")
        assert receipt.error is None
        assert type(receipt.runs[1].error) is TimeoutError
        assert await value(bus, "a", "early") is True


async def test_a_middleware_that_is_late_with_an_event_that_is_refused() -> None:
    """A bug in the store keeps the event from its rules, and the middleware hangs on it: it is a dead letter."""

    class Broken(Flaky):
        async def load(self, subject: str) -> SubjectRecord:
            self.calls.append("load")
            if self.calls.count("load") == 1:
                raise ZeroDivisionError("a bug")
            return await super().load(subject)

    async def around(ctx: Context, next: Any) -> None:
        await forever()

    bus = EventBus(two(lambda ctx: None), store=Broken(create_memory_storage()), limits=SHORT)
    bus.use(around, scope="event")
    async with asyncio.timeout(5), bus:
        receipt = await bus.emit("go", "a")
        assert isinstance(receipt.error, RuleTimeout)
        assert len(receipt.dead) == 1


async def test_others_go_on_while_one_is_late(store: Store) -> None:
    """Their turns have deadlines of their own."""

    async def late(ctx: Context) -> None:
        await forever()

    async with asyncio.timeout(5), EventBus(two(late), store=store, limits=SHORT) as bus:
        emitting = asyncio.create_task(bus.emit("go", "a"))
        await asyncio.sleep(0)
        assert (await bus.emit("fine", "b")).ok
        assert not emitting.done()
        assert isinstance((await emitting).error, RuleTimeout)


async def test_without_a_deadline_a_turn_takes_as_long_as_it_takes(store: Store) -> None:
    """None is no limit."""
    gate = asyncio.Event()

    async def late(ctx: Context) -> None:
        await gate.wait()

    async with asyncio.timeout(5), EventBus(two(late), store=store, limits=Limits(turn_timeout=None)) as bus:
        emitting = asyncio.create_task(bus.emit("go", "a"))
        await asyncio.sleep(0.05)
        assert not emitting.done()
        gate.set()
        assert (await emitting).ok


@pytest.mark.parametrize("seconds", [0, -1, "1", True])
def test_a_deadline_is_a_number_of_seconds(seconds: Any) -> None:
    """Or none at all."""
    with pytest.raises(SettingError, match="turn_timeout="):
        Limits(turn_timeout=seconds)
    assert Limits(turn_timeout=None).turn_timeout is None
