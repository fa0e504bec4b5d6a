"""What a turn sends: messages, timers, from wherever in it; and what it can no more when it is over."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from onwhen.engine.bus import EventBus
from onwhen.engine.clock import VirtualClock
from onwhen.engine.context import Context
from onwhen.engine.rules import RuleSet, changed
from onwhen.storage.memory import create_memory_storage
from tests.engine.turning import NOW, Thing, begin, committed, run


@pytest.fixture
def rules() -> RuleSet:
    return RuleSet("r", subject=Thing)


def test_messages_leave_with_the_commit_in_order(rules: RuleSet) -> None:
    """From sync and async rules, to the own subject and to others; the outcome says which rule sent what."""

    @rules.on("go")
    def first(ctx: Context[Thing]) -> None:
        ctx.emit("a", {"n": 1})

    @rules.on("go")
    async def second(ctx: Context[Thing]) -> None:
        await ctx.emit("b", subject="thing:2")
        await ctx.emit("c", subject=ctx.subject)

    turn = run(begin(rules, source="/shop"))
    assert [(event.type, event.subject, event.source) for event in committed(turn).messages] == [
        ("a", "thing:1", "/shop"), ("b", "thing:2", "/shop"), ("c", "thing:1", "/shop"),
    ]  # fmt: skip
    assert [[event.type for event in run.messages] for run in turn.outcome().runs] == [["a"], ["b", "c"]]


def test_a_turn_that_is_run_again_emits_the_same_ids(rules: RuleSet) -> None:
    """On newer state after a conflict, or on another machine after a crash; reactions included."""

    @rules.on("go")
    def go(ctx: Context[Thing]) -> None:
        ctx.emit("a")
        ctx.emit("a")
        ctx.subject.n += 1

    @rules.on(changed("n"))
    def on_n(ctx: Context[Thing]) -> None:
        ctx.emit("a")
        ctx.emit("late", delay=timedelta(1))

    def ids(stored: dict[str, bytes]) -> list[str]:
        commit = committed(run(begin(rules, stored=stored)))
        return [event.id for event in (*commit.messages, *(timer.event for timer in commit.timers))]

    assert ids({}) == ids({"n": b"41"})
    assert len(set(ids({}))) == 4


def test_the_last_word_on_a_timer_counts(rules: RuleSet) -> None:
    """Set, cancelled and set again in one turn, in one rule or in several."""

    @rules.on("go")
    def first(ctx: Context[Thing]) -> None:
        ctx.cancel("a")
        ctx.emit("late", delay=timedelta(days=1), key="a")
        ctx.emit("late", delay=timedelta(days=1), key="b")
        ctx.emit("late", delay=timedelta(days=1), key="c")

    @rules.on("go")
    def second(ctx: Context[Thing]) -> None:
        ctx.cancel("b")
        ctx.emit("late", at=NOW + timedelta(days=2), key="c")

    turn = run(begin(rules))
    commit = committed(turn)
    assert [(timer.key, timer.due - NOW) for timer in commit.timers] == [
        ("a", timedelta(days=1)),
        ("c", timedelta(days=2)),
    ]
    assert commit.cancelled == ["b"]
    first_run, second_run = turn.outcome().runs
    assert ([timer.key for timer in first_run.timers], first_run.cancelled) == (["a", "b", "c"], ("a",))
    assert ([timer.key for timer in second_run.timers], second_run.cancelled) == (["c"], ("b",))


def test_now_is_when_the_turn_began(rules: RuleSet) -> None:
    """For all rules, however long the turn takes."""
    seen: list[datetime] = []
    clock = VirtualClock(NOW)

    def rule(ctx: Context[Thing]) -> None:
        seen.append(ctx.now)
        clock.advance(timedelta(hours=1))

    for name in ("a", "b"):
        rules.on("go", name=name)(rule)
    turn = begin(rules, clock=clock)
    clock.advance(timedelta(hours=1))
    run(turn)
    assert seen == [NOW, NOW]


def test_another_subject_can_be_read(rules: RuleSet) -> None:
    """As a snapshot; writing it is for its own turns."""
    seen: list[Any] = []

    @rules.on("go")
    async def go(ctx: Context[Thing]) -> None:
        other = await ctx.read("customer:9")
        seen.append((other.name, other.get("known")))

    run(begin(rules))
    assert seen == [("customer:9", True)]


async def test_emit_anywhere_inside_a_turn_is_the_turns_own() -> None:
    """However deep, and attributed to the rule that runs."""
    rules = RuleSet("r", subject=Thing)
    bus = EventBus(rules, store=create_memory_storage())
    statuses: list[str] = []

    async def helper() -> None:
        await asyncio.sleep(0)
        receipt = await bus.emit("helped", "thing:2")
        statuses.append(receipt.status)

    @rules.on("go")
    async def go(ctx: Context[Thing]) -> None:
        await asyncio.gather(helper(), asyncio.create_task(helper()))

    receipt = await bus.emit("go", "thing:1")
    assert statuses == ["recorded", "recorded"]
    (run,) = receipt.runs
    assert [event.type for event in run.messages] == ["helped", "helped"]
    assert [child.event.causation_id for child in receipt.cascade] == [receipt.event.id] * 2


def test_after_its_turn_a_context_can_do_nothing(rules: RuleSet) -> None:
    """What is left behind, a task for example, gets an error and is not lost in silence."""
    kept: list[Context[Thing]] = []
    rules.on("go", name="keep")(lambda ctx: kept.append(ctx))
    run(begin(rules))
    with pytest.raises(RuntimeError, match="turn has ended"):
        kept[0].subject.n = 1
    with pytest.raises(RuntimeError, match=r"ctx.emit after the turn"):
        kept[0].emit("late")


async def test_rule_sets_come_and_go_at_run_time() -> None:
    """Even while an event is handled: the rest of the turn goes on with what is included by then."""
    rules, more = RuleSet("r", subject=Thing), RuleSet("more", subject=Thing)
    bus = EventBus(rules, store=create_memory_storage())

    @rules.on("go")
    def go(ctx: Context[Thing]) -> None:
        bus.include(more)
        ctx.subject.n += 1

    @more.on(changed("n"))
    def on_n(ctx: Context[Thing]) -> None:
        bus.exclude(more)

    assert (await bus.emit("go", "thing:1")).fired == ("r.go", "more.on_n")
    assert (await bus.emit("other", "thing:1")).fired == ()
    bus.exclude(rules)
    assert (await bus.emit("go", "thing:1")).runs == ()
