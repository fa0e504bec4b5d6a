"""Cascades end: how many reactions and how long a chain of messages there may be, and what happens past that."""

from datetime import timedelta

import pytest

from onwhen.engine.bus import EventBus
from onwhen.engine.clock import VirtualClock
from onwhen.engine.context import Context
from onwhen.engine.events import Event
from onwhen.engine.limits import Limits
from onwhen.engine.retries import RetryPolicy
from onwhen.engine.rules import RuleSet, changed, when
from onwhen.errors import CascadeLimit
from onwhen.storage.memory import create_memory_storage
from tests.engine.turning import NOW, Thing, begin, committed, only_dead, run


@pytest.fixture
def rules() -> RuleSet:
    return RuleSet("r", subject=Thing)


def test_a_turn_may_run_so_many_reactions_and_no_more(rules: RuleSet) -> None:
    """Past that the event fails as a whole, once and for all, with an error that names the cycle."""

    @rules.on("go", changed("n"))
    def spin(ctx: Context[Thing]) -> None:
        ctx.subject.n += 1
        ctx.emit("spun")

    turn = run(begin(rules, limits=Limits(retry=RetryPolicy(attempts=3))))
    error = turn.outcome().error
    assert isinstance(error, CascadeLimit)
    assert (error.limit, error.cycle) == (256, "r.spin -> n -> r.spin")
    commit = committed(turn)
    assert (commit.write, list(commit.messages), list(commit.retries)) == (None, [], [])
    assert (only_dead(turn).rule, only_dead(turn).attempts) == ("", 1)
    assert all(run.changes == () == run.messages for run in turn.outcome().runs)


def test_exactly_as_many_reactions_as_allowed_are_fine(rules: RuleSet) -> None:
    """The limit itself is not past the limit."""

    @rules.on("go", changed("n"))
    @when(lambda ctx: ctx.subject.n < 10)
    def count(ctx: Context[Thing]) -> None:
        ctx.subject.n += 1

    assert run(begin(rules, limits=Limits(max_reactions=10))).outcome().error is None
    assert run(begin(rules, limits=Limits(max_reactions=9))).outcome().error is not None


def test_a_cycle_over_several_rules_and_properties_is_named(rules: RuleSet) -> None:
    """What led into it is not part of it."""
    rules.on("go", name="begin")(lambda ctx: ctx.subject.set("m", 1))
    rules.on(changed("m"), name="a")(lambda ctx: ctx.subject.set("n", lambda n: n + 1))
    rules.on(changed("n"), name="b")(lambda ctx: ctx.subject.set("m", lambda m: m + 1))
    error = run(begin(rules)).outcome().error
    assert isinstance(error, CascadeLimit)
    assert error.cycle in ("r.a -> n -> r.b -> m -> r.a", "r.b -> m -> r.a -> n -> r.b")


def test_a_message_too_deep_in_a_chain_is_not_sent(rules: RuleSet) -> None:
    """It is a dead letter of its own, to be replayed; the rule that sent it has done the rest of its work."""

    @rules.on("again")
    def again(ctx: Context[Thing]) -> None:
        ctx.subject.n = 8
        ctx.emit("again")

    turn = run(begin(rules, event=Event("again", "thing:1", depth=64)))
    (only,) = turn.outcome().runs
    assert (only.status, only.messages) == ("fired", ())
    (error,) = only.refused
    assert error.limit == 64
    letter = only_dead(turn)
    assert (letter.rule, letter.event.type, letter.event.depth) == ("", "again", 65)
    assert letter.failure.message == str(error)
    commit = committed(turn)
    assert commit.write is not None
    assert list(commit.messages) == []


def test_a_message_that_is_refused_is_undone_with_its_rule(rules: RuleSet) -> None:
    """A failed rule has sent nothing, so nothing was refused."""

    @rules.on("again")
    def again(ctx: Context[Thing]) -> None:
        ctx.emit("again")
        raise ValueError

    turn = run(begin(rules, event=Event("again", "thing:1", depth=64)))
    assert only_dead(turn).rule == "r.again"


async def test_a_cycle_over_several_subjects_ends() -> None:
    """64 messages after the event; every receipt is in the cascade, and the failure is seen from the top."""
    rules = RuleSet("r", subject=Thing)

    @rules.on("ping")
    def ping(ctx: Context[Thing]) -> None:
        ctx.emit("pong", subject="thing:2")

    @rules.on("pong")
    def pong(ctx: Context[Thing]) -> None:
        ctx.emit("ping", subject=f"thing:{ctx.event.depth}")

    bus = EventBus(rules, store=create_memory_storage())
    receipt = await bus.emit("ping", "thing:1")
    assert len(list(receipt.walk())) == 65
    ((rule, error),) = receipt.failures
    assert isinstance(error, CascadeLimit)
    assert rule == "r.ping"
    assert error.cycle == "r.pong -> ping -> r.ping -> pong -> r.pong"
    assert (await bus.store.stats()).dead == 1


async def test_a_timer_may_set_itself_for_ever() -> None:
    """Every day, for longer than a chain of messages may be."""
    rules = RuleSet("r", subject=Thing)

    @rules.on("tick")
    def tick(ctx: Context[Thing]) -> None:
        ctx.subject.n += 1
        ctx.emit("tick", delay=timedelta(days=1), key="daily")

    bus = EventBus(rules, store=create_memory_storage(), clock=VirtualClock(NOW))
    async with bus:
        await bus.emit("tick", "thing:1")
        await bus.advance(timedelta(days=100))
        assert (await bus.read("thing:1")).n == 101
        assert (await bus.store.stats()).dead == 0
