"""Middleware around rules and around whole events: what it may do, and what happens when it or the rule fails."""

import asyncio
import functools
import re
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from onwhen.engine.chain import Next
from onwhen.engine.clock import VirtualClock
from onwhen.engine.context import Context
from onwhen.engine.events import Event
from onwhen.engine.limits import Limits
from onwhen.engine.retries import RetryPolicy
from onwhen.engine.rules import RuleSet, changed, when
from onwhen.engine.store import key_of
from onwhen.errors import CascadeLimit, MiddlewareError, RuleTimeout
from tests.engine import turning
from tests.engine.turning import NOW, Thing, committed, kept, run, runs

TWICE = RetryPolicy(attempts=2)
begin = partial(turning.begin, stored={"tags": b'["a"]'})


@pytest.fixture
def rules() -> RuleSet:
    """One rule that works, and a reaction to what middleware changes."""
    rules = RuleSet("r", subject=Thing)

    @rules.on("go")
    def rule(ctx: Context[Thing]) -> None:
        ctx.subject.n = 1
        ctx.emit("worked")

    return rules


@pytest.fixture
def broken() -> RuleSet:
    """One rule that does something, and fails."""
    rules = RuleSet("r", subject=Thing)

    @rules.on("go", retry=TWICE)
    def rule(ctx: Context[Thing]) -> None:
        ctx.subject.n = 1
        ctx.subject.tags.append("rule")
        ctx.emit("worked")
        raise ValueError("broken")

    return rules


async def noting(ctx: Context[Thing], next: Next) -> None:
    """Does something before the rule, and after it."""
    ctx.subject.m += 1
    ctx.subject.tags.append("before")
    ctx.emit("before")
    await next()
    ctx.subject.m += 1
    ctx.subject.tags.append("after")
    ctx.emit("after")


async def swallowing(ctx: Context[Thing], next: Next) -> None:
    """Deals with every error, in place of the retry policy."""
    ctx.subject.tags.append("before")
    try:
        await next()
    except Exception as error:
        ctx.subject.tags.append("after")
        ctx.emit("error", {"message": str(error)})


async def telling(ctx: Context[Thing], next: Next) -> None:
    """Tells of every error, and leaves the rest to the retry policy."""
    try:
        await next()
    except Exception as error:
        ctx.subject.m += 1
        ctx.emit("error", {"message": str(error)})
        raise


# -- around a rule ---------------------------------------------------------------------------------------------


def test_what_middleware_does_is_part_of_the_run(rules: RuleSet) -> None:
    """Before the rule and after it; it is stored with it."""
    turn = run(begin(rules, noting))
    assert kept(turn) == ({"m": b"2", "n": b"1", "tags": b'["a","before","after"]'}, ["before", "worked", "after"])
    (only,) = turn.outcome().runs
    assert [event.type for event in only.messages] == ["before", "worked", "after"]


def test_conditions_are_tested_before_the_middleware_is_entered(rules: RuleSet) -> None:
    """A rule that is skipped costs nothing."""
    rules.on("other", name="skipped")(when(lambda ctx: False)(lambda ctx: None))

    async def never(ctx: Any, next: Next) -> None:
        raise AssertionError

    assert runs(run(begin(rules, never, event=Event("other", "thing:1")))) == [("r.skipped", "skipped")]


def test_middleware_may_stop_the_rule(rules: RuleSet) -> None:
    """The outcome says which did; what it did itself is kept, and nothing is retried."""

    async def guard(ctx: Context[Thing], next: Next) -> None:
        ctx.emit("refused")

    turn = run(begin(rules, noting, guard))
    (only,) = turn.outcome().runs
    assert (only.status, only.stopped_by, only.error) == ("stopped", "guard", None)
    assert kept(turn)[1] == ["before", "refused", "after"]
    assert list(committed(turn).dead) == []


def test_an_error_may_be_swallowed(broken: RuleSet) -> None:
    """The rule has failed and is not retried; what the function did is undone, what the middleware did is kept."""
    turn = run(begin(broken, swallowing))
    (only,) = turn.outcome().runs
    assert (only.status, only.handled, repr(only.error)) == ("failed", True, "ValueError('broken')")
    assert only.handled_by == "swallowing"
    assert kept(turn) == ({"tags": b'["a","before","after"]'}, ["error"])
    commit = committed(turn)
    assert (list(commit.retries), list(commit.dead)) == ([], [])


def test_an_error_may_be_told_and_raised_again(broken: RuleSet) -> None:
    """The message is sent in each attempt, with an id of its own; the rule is retried, and given up in the end."""
    turn = run(begin(broken, telling))
    (first,) = committed(turn).messages
    (retry,) = committed(turn).retries
    assert (kept(turn)[0], first.data) == ({"m": b"1"}, {"message": "broken"})
    turn = run(begin(broken, telling, event=retry.event, retry=retry))
    (second,) = committed(turn).messages
    (letter,) = committed(turn).dead
    assert (letter.attempts, letter.failure.message) == (2, "broken")
    assert first.id != second.id


def test_an_error_may_be_made_into_another(broken: RuleSet) -> None:
    """The last one counts, for the retry policy too; it is the middleware's own, so all of the run is undone."""

    async def translating(ctx: Context[Thing], next: Next) -> None:
        try:
            await next()
        except ValueError as error:
            ctx.emit("translated")
            raise KeyboardError from error

    class KeyboardError(Exception):
        pass

    turn = run(begin(broken, translating))
    (only,) = turn.outcome().runs
    assert (type(only.error), only.handled) == (KeyboardError, False)
    assert kept(turn) == ({}, [])


def test_reactions_to_what_middleware_did_about_an_error_run(broken: RuleSet) -> None:
    """Its changes are changes like any other."""
    broken.on(changed("m"), name="on_m")(lambda ctx: ctx.emit("counted"))
    turn = run(begin(broken, telling))
    assert runs(turn) == [("r.rule", "failed"), ("r.on_m", "fired")]
    assert kept(turn)[1] == ["error", "counted"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_middleware_that_fails_itself_fails_the_rule(rules: RuleSet, when: str) -> None:
    """All is undone then, its own part and the function's."""

    async def failing(ctx: Context[Thing], next: Next) -> None:
        ctx.subject.tags.append("x")
        ctx.emit("x")
        if when == "after":
            await next()
        raise OSError("mine")

    turn = run(begin(rules, noting, failing))
    assert runs(turn) == [("r.rule", "failed")]
    assert kept(turn) == ({}, [])
    (letter,) = committed(turn).dead
    assert letter.failure.message == "mine"


async def twice(ctx: Any, next: Next) -> None:
    await next()
    await next()


async def forgetful(ctx: Any, next: Next) -> None:
    next()


async def awaits_twice(ctx: Any, next: Next) -> None:
    rest = next()
    await rest
    await rest


async def in_two_tasks(ctx: Any, next: Next) -> None:
    async def go_on() -> None:
        await next()

    await asyncio.gather(go_on(), go_on())


async def leaves_a_task(ctx: Any, next: Next) -> None:
    TASKS.append(asyncio.create_task(next()))
    await asyncio.sleep(0)


async def tries_again(ctx: Any, next: Next) -> None:
    await next.attempt()
    await next.attempt()


TASKS: list[asyncio.Task[None]] = []
BREAKING: list[tuple[Any, type[Exception], str]] = [
    (twice, MiddlewareError, r"twice called next\(\) twice"),
    (forgetful, MiddlewareError, r"forgetful called next\(\) and did not await it"),
    (awaits_twice, RuntimeError, "already awaited"),
    (in_two_tasks, MiddlewareError, r"in_two_tasks called next\(\) twice"),
    (leaves_a_task, MiddlewareError, r"leaves_a_task called next\(\) and did not await it"),
]


@pytest.mark.parametrize(
    ("middleware", "error", "told"),
    [*BREAKING, (tries_again, MiddlewareError, "a rule that has run is not run again")],
)
async def test_middleware_that_breaks_its_contract_fails_the_rule(
    middleware: Any, error: type[Exception], told: str
) -> None:
    """A rule runs once, or it has not run; other rules of the event go on."""
    turn = begin(slow_and_other(), of_rule(middleware, "r.slow"))
    await turn.run()
    failed, other = turn.outcome().runs
    assert (type(failed.error), failed.handled, other.status) == (error, False, "fired")
    assert re.search(told, str(failed.error))
    assert kept(turn) == ({}, ["other"])
    await cleared_away()


@pytest.mark.parametrize(("middleware", "error", "told"), BREAKING)
async def test_middleware_that_breaks_its_contract_around_an_event_fails_the_event(
    middleware: Any, error: type[Exception], told: str
) -> None:
    """All of it: nothing is kept, and there is a dead letter."""
    turn = begin(slow_and_other(), around=middleware)
    await turn.run()
    assert type(turn.outcome().error) is error
    assert re.search(told, str(turn.outcome().error))
    assert kept(turn) == ({}, [])
    assert len(committed(turn).dead) == 1
    await cleared_away()


def slow_and_other() -> RuleSet:
    """A rule that waits in between, and one after it."""
    rules = RuleSet("r", subject=Thing)

    @rules.on("go")
    async def slow(ctx: Context[Thing]) -> None:
        ctx.subject.n = 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        ctx.emit("worked")

    rules.on("go", name="other")(lambda ctx: ctx.emit("other"))
    return rules


def of_rule(middleware: Any, rule: str) -> Any:
    """Return a middleware around one rule only, known by its own name."""

    @functools.wraps(middleware)
    async def only(ctx: Any, next: Next) -> None:
        await (middleware(ctx, next) if ctx.rule.id == rule else next())

    return only


async def cleared_away() -> None:
    """Wait for tasks that a middleware has left behind; what they were to run is gone."""
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
        await asyncio.wait([task])
        task.cancelled() or task.exception()
    TASKS.clear()


def test_around_an_event_nothing_can_be_tried_again(rules: RuleSet) -> None:
    """Some of its rules may have worked."""
    turn = run(begin(rules, around=tries_again))
    assert "which is for rules, not for events" in str(turn.outcome().error)
    assert kept(turn) == ({}, [])


async def test_a_middleware_that_swallows_a_cancellation_of_what_is_inside_has_dealt_with_a_failure() -> None:
    """The rule has not worked, and the outcome says so; around an event it cannot be kept."""

    async def cancelling(ctx: Any, next: Next) -> None:
        task = asyncio.create_task(next())
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    turn = begin(slow_and_other(), of_rule(cancelling, "r.slow"))
    await turn.run()
    failed, _ = turn.outcome().runs
    assert (type(failed.error), failed.handled) == (asyncio.CancelledError, True)
    assert kept(turn) == ({}, ["other"])
    turn = begin(slow_and_other(), around=cancelling)
    await turn.run()
    assert isinstance(turn.outcome().error, MiddlewareError)
    assert kept(turn) == ({}, [])


async def test_no_middleware_keeps_a_turn_from_being_cancelled() -> None:
    """Whoever cancels the engine's own task ends it, whatever is swallowed; around rules and around events."""

    async def swallows_all(ctx: Any, next: Next) -> None:
        with suppress(BaseException):
            await next()

    for turn in (begin(slow_and_other(), swallows_all), begin(slow_and_other(), around=swallows_all)):
        task = asyncio.create_task(turn.run())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert kept(turn) == ({}, [])


# -- trying again


def failing_at_first(times: int) -> RuleSet:
    """A rule that does something, and fails so many times."""
    rules = RuleSet("r", subject=Thing)
    left = times

    @rules.on("go")
    def rule(ctx: Context[Thing]) -> None:
        nonlocal left
        ctx.subject.n += 1
        ctx.subject.tags.append("rule")
        ctx.emit("worked")
        if left:
            left -= 1
            raise ValueError(str(left))

    return rules


async def persistent(ctx: Context[Thing], next: Next) -> None:
    """Tries again until it works, and tells of each failure."""
    while True:
        try:
            return await next.attempt()
        except ValueError:
            ctx.emit("failed")


def test_what_has_failed_may_be_tried_again() -> None:
    """What it did is undone each time; in the end it has worked, with the ids of a rule that works at once."""
    turn = run(begin(failing_at_first(3), persistent))
    assert runs(turn) == [("r.rule", "fired")]
    assert kept(turn) == ({"n": b"1", "tags": b'["a","rule"]'}, ["failed", "failed", "failed", "worked"])
    assert len({event.id for event in committed(turn).messages}) == 4


def test_an_attempt_that_failed_may_be_left_at_that() -> None:
    """It is a failure like any other."""

    async def once(ctx: Any, next: Next) -> None:
        await next.attempt()

    turn = run(begin(failing_at_first(1), noting, once))
    (only,) = turn.outcome().runs
    assert (only.status, repr(only.error)) == ("failed", "ValueError('0')")
    assert kept(turn) == ({"m": b"1", "tags": b'["a","before"]'}, ["before"])


def test_an_attempt_that_ended_the_program_cannot_be_tried_again(rules: RuleSet) -> None:
    """Not even where it was made into another error further in."""

    async def translates(ctx: Any, next: Next) -> None:
        try:
            await next()
        except KeyboardInterrupt:
            raise ValueError from None

    @rules.on("other")
    def ctrl_c(ctx: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(begin(rules, persistent, translates, event=Event("other", "thing:1")))


def test_what_middleware_does_about_an_error_has_to_be_valid(broken: RuleSet) -> None:
    """Otherwise all is undone, and no other rule has to suffer for it."""

    async def clumsy(ctx: Context[Thing], next: Next) -> None:
        try:
            await next()
        except ValueError:
            ctx.emit("error")
            ctx.subject.tags.append(3)  # type: ignore[arg-type]

    broken.on("go", name="after")(lambda ctx: ctx.emit("after"))
    turn = run(begin(broken, clumsy))
    assert runs(turn) == [("r.rule", "failed"), ("r.after", "fired")]
    assert kept(turn) == ({}, ["after"])


def test_it_is_the_innermost_that_has_dealt_with_an_error(broken: RuleSet) -> None:
    """Those further out have not seen it."""

    async def outer(ctx: Any, next: Next) -> None:
        await next()

    (only,) = run(begin(broken, outer, swallowing, outer)).outcome().runs
    assert only.handled_by == "swallowing"


async def test_what_middleware_does_about_a_time_out_is_kept(rules: RuleSet) -> None:
    """It sees a cancellation; that is how a rule ends that takes too long, so it is the rule's own failure."""

    async def noticing(ctx: Context[Thing], next: Next) -> None:
        try:
            await next()
        except BaseException:
            ctx.emit("noticed")
            raise

    @rules.on("slow", timeout=0.001)
    async def slow(ctx: Context[Thing]) -> None:
        ctx.emit("never")
        await asyncio.sleep(60)

    turn = begin(rules, noticing, event=Event("slow", "thing:1"))
    await turn.run()
    (only,) = turn.outcome().runs
    assert isinstance(only.error, RuleTimeout)
    assert kept(turn)[1] == ["noticed"]


@pytest.mark.parametrize("instead", [None, ValueError])
def test_no_middleware_keeps_the_program_from_ending(rules: RuleSet, instead: type[Exception] | None) -> None:
    """Neither one that swallows everything, nor one that makes other errors of it."""

    async def swallows_all(ctx: Any, next: Next) -> None:
        with suppress(BaseException):
            await next()
        if instead is not None:
            raise instead

    @rules.on("go")
    def ctrl_c(ctx: Any) -> None:
        raise KeyboardInterrupt

    turn = begin(rules, swallows_all)
    with pytest.raises(KeyboardInterrupt):
        turn.run().send(None)
    assert kept(turn) == ({}, [])


async def test_middleware_that_swallows_a_time_out_does_not_hide_it() -> None:
    """The rule was too late, with all that is around it: everything is undone."""
    rules = RuleSet("r", subject=Thing)

    @rules.on("go", timeout=0.01)
    async def hangs(ctx: Context[Thing]) -> None:
        ctx.subject.n = 1
        await asyncio.Event().wait()

    async def swallows_all(ctx: Context[Thing], next: Next) -> None:
        try:
            await next()
        except BaseException:
            ctx.emit("late")

    turn = begin(rules, swallows_all)
    await turn.run()
    (only,) = turn.outcome().runs
    assert isinstance(only.error, RuleTimeout)
    assert not only.handled
    assert kept(turn) == ({}, [])


async def test_middleware_may_have_a_time_out_of_its_own() -> None:
    """And deal with it: the function is undone."""
    rules = RuleSet("r", subject=Thing)

    @rules.on("go")
    async def hangs(ctx: Context[Thing]) -> None:
        ctx.subject.n = 1
        await asyncio.Event().wait()

    async def bounded(ctx: Context[Thing], next: Next) -> None:
        try:
            await asyncio.wait_for(next(), 0.01)
        except TimeoutError:
            ctx.emit("late")

    turn = begin(rules, bounded)
    await turn.run()
    (only,) = turn.outcome().runs
    assert (only.status, only.handled) == ("failed", True)
    assert kept(turn) == ({}, ["late"])


# -- around a whole event --------------------------------------------------------------------------------------


def test_middleware_around_the_event_is_entered_once(rules: RuleSet) -> None:
    """Around all rules and reactions; what it leaves as metadata is there for all of them."""
    steps: list[str] = []

    async def around(ctx: Context[Thing], next: Next) -> None:
        assert ctx.rule is None
        ctx.set_metadata("user", "ada")
        steps.append("in")
        await next()
        steps.append("out")

    async def each(ctx: Context[Thing], next: Next) -> None:
        assert ctx.rule is not None
        steps.append(f"{ctx.rule.id} for {ctx.get_metadata('user')}")
        await next()

    rules.on(changed("n"), name="on_n")(lambda ctx: steps.append(ctx.get_metadata("user")))
    run(begin(rules, each, around=around))
    assert steps == ["in", "r.rule for ada", "r.on_n for ada", "ada", "out"]


def test_what_it_does_itself_is_kept_reacted_to_and_told(rules: RuleSet) -> None:
    """Before the rules and after them, changes in place too; it counts as a run without a rule."""
    seen: list[Any] = []
    ids: set[str] = set()

    @rules.on(changed("tags", "m"))
    def on_change(ctx: Context[Thing]) -> None:
        seen.append((ctx.property_name, ctx.new_value))
        ids.add(ctx.event.id)

    turn = run(begin(rules, around=noting))
    assert kept(turn) == ({"m": b"2", "n": b"1", "tags": b'["a","before","after"]'}, ["before", "worked", "after"])
    assert seen == [("m", 1), ("tags", ["a", "before"]), ("m", 2), ("tags", ["a", "before", "after"])]
    assert len(ids) == 4
    (own,) = (run for run in turn.outcome().runs if not run.rule)
    assert [change.property for change in own.changes] == ["m", "tags", "m", "tags"]
    assert [event.type for event in own.messages] == ["before", "after"]
    assert {run.cause for run in turn.outcome().runs if run.rule == "r.on_change"} == {"middleware"}


def test_what_it_did_in_place_survives_a_rule_that_fails(broken: RuleSet) -> None:
    """Only the rule's own part is undone."""
    assert kept(run(begin(broken, around=noting)))[0]["tags"] == b'["a","before","after"]'


def test_middleware_that_does_nothing_itself_is_no_run(rules: RuleSet) -> None:
    """Outcomes are about what was done."""

    async def idle(ctx: Any, next: Next) -> None:
        await next()

    assert runs(run(begin(rules, around=idle))) == [("r.rule", "fired")]


def test_it_may_stop_the_event(rules: RuleSet) -> None:
    """No rule is run, and the event counts as handled."""

    async def guard(ctx: Context[Thing], next: Next) -> None:
        ctx.emit("refused")

    turn = run(begin(rules, around=guard))
    (only,) = turn.outcome().runs
    assert (only.rule, only.status, only.stopped_by) == ("", "stopped", "guard")
    assert (kept(turn), turn.outcome().error) == (({}, ["refused"]), None)


async def raises_before(ctx: Context[Thing], next: Next) -> None:
    ctx.emit("mine")
    raise OSError("mine")


async def raises_after(ctx: Context[Thing], next: Next) -> None:
    ctx.emit("mine")
    await next()
    raise OSError("mine")


@pytest.mark.parametrize("middleware", [raises_before, raises_after])
def test_when_it_raises_the_event_fails_as_a_whole(broken: RuleSet, middleware: Any) -> None:
    """Nothing of it is kept, neither of rules that worked nor retries of rules that failed: all will be run again."""
    broken.on("go", name="works")(lambda ctx: ctx.subject.set("m", 1))
    turn = run(begin(broken, around=middleware, limits=Limits(retry=TWICE)))
    assert kept(turn) == ({}, [])
    outcome = turn.outcome()
    (retry,) = committed(turn).retries
    assert (retry.rule, retry.attempt, outcome.retry_at) == ("", 2, retry.due)
    assert (repr(outcome.error), outcome.dead) == ("OSError('mine')", ())
    assert all((run.changes, run.messages, run.retry_at) == ((), (), None) for run in outcome.runs)
    turn = run(begin(broken, around=middleware, event=retry.event, retry=retry, limits=Limits(retry=TWICE)))
    (letter,) = committed(turn).dead
    assert (letter.rule, letter.attempts, letter.id) == ("", 2, key_of(retry.event, ""))


def test_in_a_retry_of_a_rule_it_knows_the_attempt(broken: RuleSet) -> None:
    """It is around that turn as well; and what it sends has other ids than in the turn before, or for another rule."""
    broken.on("go", name="too", retry=TWICE)(lambda ctx: 1 / 0)
    attempts: list[int] = []

    async def around(ctx: Context[Thing], next: Next) -> None:
        attempts.append(ctx.attempt)
        ctx.emit("mine")
        await next()

    turn = run(begin(broken, around=around))
    ids = [event.id for event in committed(turn).messages]
    for retry in committed(turn).retries:
        again = run(begin(broken, around=around, event=retry.event, retry=retry))
        ids += [event.id for event in committed(again).messages]
    assert attempts == [1, 2, 2]
    assert len(set(ids)) == 3


def test_when_it_raises_in_a_retry_the_rule_is_what_waits(broken: RuleSet) -> None:
    """With the rule's own policy."""
    (retry,) = committed(run(begin(broken))).retries

    async def down(ctx: Any, next: Next) -> None:
        raise OSError

    turn = run(begin(broken, around=down, event=retry.event, retry=retry, limits=Limits(retry=RetryPolicy(attempts=9))))
    (letter,) = committed(turn).dead
    assert (letter.rule, letter.attempts) == ("r.rule", 2)


def test_it_cannot_hide_that_a_cascade_did_not_end(rules: RuleSet) -> None:
    """Half a cascade is not committed, nor tried again under another error."""

    async def swallows(ctx: Context[Thing], next: Next) -> None:
        try:
            await next()
        except CascadeLimit:
            ctx.emit("swallowed")

    async def translates(ctx: Context[Thing], next: Next) -> None:
        try:
            await next()
        except CascadeLimit as error:
            raise OSError from error

    rules.on(changed("n"), name="spin")(lambda ctx: ctx.subject.set("n", lambda n: n + 1))
    for middleware in (swallows, translates):
        turn = run(begin(rules, around=middleware, limits=Limits(retry=TWICE)))
        assert isinstance(turn.outcome().error, CascadeLimit)
        assert kept(turn) == ({}, [])
        assert len(committed(turn).dead) == 1


async def test_it_cannot_commit_half_a_turn() -> None:
    """A time-out around the event that is swallowed fails the event: rules were cut off."""
    rules = RuleSet("r", subject=Thing)
    rules.on("go", name="works", priority=1)(lambda ctx: ctx.subject.set("n", 1))

    @rules.on("go")
    async def hangs(ctx: Context[Thing]) -> None:
        await asyncio.Event().wait()

    async def bounded(ctx: Context[Thing], next: Next) -> None:
        try:
            await asyncio.wait_for(next(), 0.01)
        except TimeoutError:
            ctx.emit("late")

    turn = begin(rules, around=bounded)
    await turn.run()
    assert turn.outcome().error is not None
    assert kept(turn) == ({}, [])
    assert len(committed(turn).dead) == 1


async def test_emit_after_the_rules_is_the_middlewares_own() -> None:
    """Not that of the rule that happened to run last."""
    from onwhen.engine.bus import EventBus
    from onwhen.storage.memory import create_memory_storage

    rules = RuleSet("r", subject=Thing)
    rules.on("go", name="rule")(lambda ctx: ctx.subject.set("n", 1))
    rules.on(changed("n"), name="on_n")(lambda ctx: None)
    bus = EventBus(rules, store=create_memory_storage(), clock=VirtualClock(NOW))

    async def around(ctx: Any, next: Next) -> None:
        await next()
        await bus.emit("mine", "thing:1")

    bus.use(around, scope="event")
    receipt = await bus.emit("go", "thing:1")
    (own,) = (run for run in receipt.runs if not run.rule)
    assert [(event.type, event.causation_id) for event in own.messages] == [("mine", receipt.event.id)]
