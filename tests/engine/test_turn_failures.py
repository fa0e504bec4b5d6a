"""What a failure does to a turn: what is undone, what goes on, and what ends it."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from onwhen.engine.context import Context
from onwhen.engine.events import SUBJECT_PROPERTY_CHANGED
from onwhen.engine.limits import Limits
from onwhen.engine.rules import RuleSet, changed, when
from onwhen.errors import PropertyValueError, RuleTimeout
from tests.engine import turning
from tests.engine.turning import NOW, Thing, committed, only_dead, run, runs

begin = partial(turning.begin, stored={"n": b"7", "tags": b'["a"]'})


@pytest.fixture
def rules() -> RuleSet:
    return RuleSet("r", subject=Thing)


def failing(error: BaseException) -> Callable[[Any], None]:
    """A rule that does all that a rule can do, and then fails."""

    def rule(ctx: Context[Thing]) -> None:
        ctx.subject.n = 100
        ctx.subject.tags.append("b")
        ctx.subject.set("m", 5, muted=True)
        ctx.subject.delete("n")
        ctx.subject.set_ext("x", 2)
        ctx.emit("sent")
        ctx.emit("late", delay=timedelta(1), key="sla")
        ctx.cancel("other")
        raise error

    return rule


# -- a rule's failure is its own -------------------------------------------------------------------------------


def test_a_failed_rule_is_undone_whole_and_the_others_go_on(rules: RuleSet) -> None:
    """Changes, in place too, extended properties, messages, timers: nothing of it is left, or reacted to."""

    @rules.on("go")
    def before(ctx: Context[Thing]) -> None:
        ctx.subject.m = 1

    rules.on("go", name="broken")(failing(ValueError("broken")))

    @rules.on("go")
    def after(ctx: Context[Thing]) -> None:
        assert (ctx.subject.n, ctx.subject.m, ctx.subject.tags, ctx.subject.ext["x"]) == (7, 1, ["a"], 1)
        ctx.emit("after")

    @rules.on(changed("n", "tags"))
    def never(ctx: Context[Thing]) -> None:
        raise AssertionError

    turn = run(begin(rules))
    assert runs(turn) == [("r.before", "fired"), ("r.broken", "failed"), ("r.after", "fired")]
    commit = committed(turn)
    assert commit.write is not None
    assert (dict(commit.write.set), list(commit.write.delete), dict(commit.write.set_ext)) == ({"m": b"1"}, [], {})
    assert [event.type for event in commit.messages] == ["after"]
    assert (list(commit.timers), list(commit.cancelled)) == ([], [])
    failed = turn.outcome().runs[1]
    assert (repr(failed.error), failed.changes, failed.messages, failed.timers) == ("ValueError('broken')", (), (), ())


def test_a_failed_deletion_is_undone(rules: RuleSet) -> None:
    """The subject is still there, and so are its timers."""

    @rules.on("go")
    def broken(ctx: Context[Thing]) -> None:
        ctx.subject.flush()
        raise ValueError

    commit = committed(run(begin(rules)))
    assert (commit.write, commit.cancel_all) == (None, False)


def test_a_condition_that_raises_is_a_failure(rules: RuleSet) -> None:
    """Never a silent "no"; what the conditions before it have done is undone."""

    @rules.on("go")
    @when(lambda ctx: ctx.emit("asked") or True)
    @when(lambda ctx: ctx.payload["missing"] > 3)
    def rule(ctx: Any) -> None:
        raise AssertionError

    turn = run(begin(rules))
    assert runs(turn) == [("r.rule", "failed")]
    assert only_dead(turn).failure.type == "KeyError"
    assert list(committed(turn).messages) == []


def test_a_predicate_that_raises_is_a_failure(rules: RuleSet) -> None:
    """On the value of a property."""

    @rules.on("go")
    def go(ctx: Context[Thing]) -> None:
        ctx.subject.when = NOW

    @rules.on(changed("when", from_=lambda old: old > NOW))
    def rule(ctx: Any) -> None:
        raise AssertionError

    turn = run(begin(rules))
    assert runs(turn) == [("r.go", "fired"), ("r.rule", "failed")]
    assert committed(turn).write is not None


def test_a_change_in_place_that_is_not_valid_fails_the_rule_that_made_it(rules: RuleSet) -> None:
    """It is found when the rule returns; the next rule sees the old value."""

    @rules.on("go")
    def broken(ctx: Context[Thing]) -> None:
        ctx.subject.tags.append(3)  # type: ignore[arg-type]

    @rules.on("go")
    def after(ctx: Context[Thing]) -> None:
        assert ctx.subject.tags == ["a"]

    turn = run(begin(rules))
    assert runs(turn) == [("r.broken", "failed"), ("r.after", "fired")]
    assert isinstance(turn.outcome().runs[0].error, PropertyValueError)


def test_a_failed_reaction_does_not_undo_its_cause(rules: RuleSet) -> None:
    """It is a rule like any other; its dead letter holds the property event."""

    @rules.on("go")
    def go(ctx: Context[Thing]) -> None:
        ctx.subject.n = 8

    rules.on(changed("n"), name="broken")(failing(ValueError()))

    turn = run(begin(rules))
    assert runs(turn) == [("r.go", "fired"), ("r.broken", "failed")]
    commit = committed(turn)
    assert commit.write is not None
    assert dict(commit.write.set) == {"n": b"8"}
    letter = only_dead(turn)
    assert (letter.event.type, letter.event.causation_id, letter.rule) == (SUBJECT_PROPERTY_CHANGED, "e1", "r.broken")
    assert letter.event.data == {"property_name": "n", "old_value": 7, "value": 8}


class Abort(BaseException):
    """What some libraries raise so that nobody catches it."""


@pytest.mark.parametrize(
    "error",
    [Abort(), asyncio.CancelledError(), GeneratorExit(), StopAsyncIteration(), BaseExceptionGroup("", [Abort()])],
)
def test_whatever_a_rule_raises_is_its_failure(rules: RuleSet, error: BaseException) -> None:
    """BaseExceptions too, and a CancelledError when nobody has cancelled the engine."""
    rules.on("go", name="broken")(failing(error))
    rules.on("go", name="after")(lambda ctx: None)
    turn = run(begin(rules))
    assert runs(turn) == [("r.broken", "failed"), ("r.after", "fired")]
    assert only_dead(turn).failure.type.endswith(type(error).__name__)


async def test_a_cancelled_error_of_the_rules_own_is_its_failure(rules: RuleSet) -> None:
    """For example from awaiting a task that somebody else has cancelled."""

    @rules.on("go")
    async def broken(ctx: Context[Thing]) -> None:
        task = asyncio.create_task(asyncio.sleep(3600))
        await asyncio.sleep(0)
        task.cancel()
        await task

    rules.on("go", name="after")(lambda ctx: None)
    turn = begin(rules)
    await turn.run()
    assert runs(turn) == [("r.broken", "failed"), ("r.after", "fired")]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_the_end_of_the_program_is_no_failure_of_a_rule(rules: RuleSet, error: BaseException) -> None:
    """It ends the turn; nothing is kept of it, so the event can be handled by the next program."""
    rules.on("go", name="before")(lambda ctx: ctx.subject.set("n", 1))
    rules.on("go", name="ctrl_c")(failing(error))
    turn = begin(rules)
    with pytest.raises(type(error)):
        turn.run().send(None)
    assert turn.is_over
    commit = committed(turn)
    assert (commit.write, list(commit.messages), list(commit.dead)) == (None, [], [])


async def test_a_cancelled_engine_is_no_failure_of_a_rule(rules: RuleSet) -> None:
    """As above: the turn ends, and nothing is kept."""
    reached = asyncio.Event()

    @rules.on("go")
    async def slow(ctx: Context[Thing]) -> None:
        ctx.subject.n = 1
        reached.set()
        await asyncio.sleep(3600)

    turn = begin(rules)
    task = asyncio.create_task(turn.run())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert committed(turn).write is None


async def test_a_turn_that_is_closed_is_no_failure_of_a_rule(rules: RuleSet) -> None:
    """As above: its coroutine unwinds, no other rule is run."""
    rules.on("go", name="slow")(lambda ctx: asyncio.sleep(0))
    rules.on("go", name="never")(lambda ctx: None)
    turn = begin(rules)
    coroutine = turn.run()
    coroutine.send(None)
    coroutine.close()
    assert turn.is_over
    assert [rule for rule, _ in runs(turn)] == ["r.slow"]
    assert list(committed(turn).dead) == []


# -- time-outs -------------------------------------------------------------------------------------------------


async def test_a_rule_that_does_not_return_in_time_fails(rules: RuleSet) -> None:
    """It is cancelled, undone, and the error says where it hung; the rules after it go on."""

    @rules.on("go", timeout=0.01)
    async def hangs(ctx: Context[Thing]) -> None:
        ctx.subject.n = 1
        await asyncio.Event().wait()

    rules.on("go", name="after")(lambda ctx: None)
    turn = begin(rules)
    await turn.run()
    assert runs(turn) == [("r.hangs", "failed"), ("r.after", "fired")]
    error = turn.outcome().runs[0].error
    assert isinstance(error, RuleTimeout)
    assert (error.what, error.seconds) == ("r.hangs", 0.01)
    assert "asyncio.Event().wait()" in only_dead(turn).failure.traceback
    assert committed(turn).write is None


async def test_a_condition_that_does_not_return_counts_too(rules: RuleSet) -> None:
    """The time-out is for the whole run; without one of its own, a rule has that of the engine."""

    async def hangs(ctx: Any) -> bool:
        await asyncio.Event().wait()
        return True

    rules.on("go", name="rule")(when(hangs)(lambda ctx: None))
    turn = begin(rules, limits=Limits(rule_timeout=0.01))
    await turn.run()
    assert isinstance(turn.outcome().runs[0].error, RuleTimeout)


async def test_a_rule_that_swallows_its_cancellation_is_late_all_the_same(rules: RuleSet) -> None:
    """What it did after that is undone as well."""

    @rules.on("go", timeout=0.01)
    async def stubborn(ctx: Context[Thing]) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ctx.subject.n = 1

    turn = begin(rules)
    await turn.run()
    assert isinstance(turn.outcome().runs[0].error, RuleTimeout)
    assert committed(turn).write is None


async def test_a_time_out_of_the_rules_own_is_an_error_like_any_other(rules: RuleSet) -> None:
    """It is not mistaken for the engine's."""

    @rules.on("go", timeout=60)
    async def impatient(ctx: Context[Thing]) -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    turn = begin(rules)
    await turn.run()
    error = turn.outcome().runs[0].error
    assert isinstance(error, TimeoutError)
    assert not isinstance(error, RuleTimeout)


async def test_what_a_rule_has_started_does_not_act_for_another_rule(rules: RuleSet) -> None:
    """Its context is closed when its run ends, in the middle of the turn too."""
    tasks: list[asyncio.Task[Any]] = []

    @rules.on("go")
    async def starts(ctx: Context[Thing]) -> None:
        async def later() -> None:
            await asyncio.sleep(0)
            ctx.emit("late")

        tasks.append(asyncio.create_task(later()))

    @rules.on("go")
    async def waits(ctx: Context[Thing]) -> None:
        await asyncio.wait(tasks)

    turn = begin(rules)
    await turn.run()
    assert "rule r.starts" in str(tasks[0].exception())
    assert list(committed(turn).messages) == []
