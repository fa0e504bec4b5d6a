"""What one rule, attempt or task must not do to another: ids, values and contexts are its own."""

import asyncio
import enum
from datetime import timedelta
from typing import Any

import pytest

from onwhen import Context, EventBus, RetryPolicy, RuleSet, VirtualClock, changed, create_memory_storage
from onwhen.errors import SubjectStateError


class Key(enum.StrEnum):
    SLA = "sla"


def bus_of(rules: RuleSet) -> EventBus:
    return EventBus(rules, store=create_memory_storage(), clock=VirtualClock())


async def test_a_replay_goes_on_counting_attempts() -> None:
    """What it sends has ids of its own, though what middleware sent for the failed attempt was delivered long ago."""
    rules, fails, ids = RuleSet("r"), [True], []

    async def tell(ctx: Context, next: Any) -> None:
        await ctx.emit("tried", subject="desk:1")
        await next()

    @rules.on("go", middleware=[tell])
    def broken(ctx: Context) -> None:
        if fails:
            raise OSError

    @rules.on("tried")
    def hear(ctx: Context) -> None:
        ids.append(ctx.event.id)

    async def tell_of_failure(ctx: Context, next: Any) -> None:
        try:
            await next()
        except OSError:
            await ctx.emit("tried", subject="desk:1")
            raise

    rules.on("go", name="watched", middleware=[tell_of_failure])(lambda ctx: broken(ctx))
    bus = bus_of(rules)
    receipt = await bus.emit("go", "thing:1")
    assert [letter.rule for letter in receipt.dead] == ["r.broken", "r.watched"]
    await bus.replay(receipt.dead[1].id)
    fails.clear()
    await bus.replay(receipt.dead[0].id)
    letters = [letter async for letter in bus.dead_letters()]
    assert [(letter.rule, letter.attempts) for letter in letters] == [("r.watched", 2)]
    assert len(ids) == len(set(ids)) == 4


async def test_what_a_rule_does_to_values_it_was_shown_stays_with_it() -> None:
    """The next rule, the receipt and the event of the change have them as they were."""
    rules, seen = RuleSet("r"), []

    @rules.on("go")
    def change(ctx: Context) -> None:
        ctx.subject.set("tags", ["a"], extra={"by": ["me"]})

    @rules.on(changed("tags"), priority=1)
    def spoil(ctx: Context) -> None:
        ctx.new_value.append("junk")

    @rules.on(changed("tags"))
    def look(ctx: Context) -> None:
        seen.append((ctx.new_value, ctx.payload["value"], ctx.extra))

    receipt = await bus_of(rules).emit("go", "thing:1")
    assert [rule for rule, _ in receipt.failures] == ["r.spoil"]
    assert seen == [(["a"], ["a"], {"by": ["me"]})]
    assert receipt.changes[0].new == ["a"]


async def test_a_task_that_a_rule_leaves_behind_acts_for_no_other_rule() -> None:
    """It would be undone, or kept, with work that is not its own; so it is an error, that says what to do."""
    rules, left, errors = RuleSet("r"), [], []
    gate = asyncio.Event()

    async def later(ctx: Context) -> None:
        await gate.wait()
        for emit in (lambda: ctx.emit("late"), lambda: bus.emit("late", "thing:1")):
            with pytest.raises(SubjectStateError) as caught:
                await emit()
            errors.append(str(caught.value))

    @rules.on("go", priority=1)
    async def leaves(ctx: Context) -> None:
        left.append(asyncio.create_task(later(ctx)))

    @rules.on("go")
    async def waits(ctx: Context) -> None:
        gate.set()
        await left[0]

    bus = bus_of(rules)
    receipt = await bus.emit("go", "thing:1")
    assert receipt.ok
    assert receipt.sent == ()
    assert len(errors) == 2
    assert all("await what" in error for error in errors)


async def test_a_timer_key_may_be_a_member_of_a_string_enum() -> None:
    """It is the string that it stands for, to set and to cancel; what is no string is refused."""
    rules, fired = RuleSet("r"), []

    @rules.on("go")
    def go(ctx: Context) -> None:
        ctx.emit("rang", delay=timedelta(hours=1), key=Key.SLA)

    @rules.on("stop")
    def stop(ctx: Context) -> None:
        ctx.cancel(Key.SLA)

    rules.on("rang", name="rings")(lambda ctx: fired.append(ctx.event_type))
    rules.on("bad", name="cancels_nothing")(lambda ctx: ctx.cancel(None))
    rules.on("bad", name="names_nothing")(lambda ctx: ctx.emit("rang", delay=timedelta(hours=1), key=5))
    bus = bus_of(rules)
    (timer,) = (await bus.emit("go", "thing:1")).timers
    assert type(timer.key) is str
    await bus.emit("stop", "thing:1")
    await bus.advance(timedelta(hours=2))
    assert fired == []
    assert [type(error) for _, error in (await bus.emit("bad", "thing:1")).failures] == [TypeError, TypeError]


async def test_a_rule_fails_alone_whatever_it_reacts_to() -> None:
    """Also where the event of a change would be nested too deep to be an event, and with the longest of waits."""
    rules = RuleSet("r")
    deep: Any = 1
    for _ in range(127):
        deep = [deep]

    @rules.on("go")
    def change(ctx: Context) -> None:
        ctx.subject.set("deep", deep)

    @rules.on("go")
    def others(ctx: Context) -> None:
        ctx.subject.set("kept", True)

    @rules.on(changed("deep"), retry=RetryPolicy(attempts=2, delay=timedelta(days=36500)))
    def broken(ctx: Context) -> None:
        raise OSError

    bus = bus_of(rules)
    receipt = await bus.emit("go", "thing:1")
    assert receipt.error is None
    assert [rule for rule, _ in receipt.failures] == ["r.broken"]
    assert (await bus.read("thing:1")).get("kept") is True
