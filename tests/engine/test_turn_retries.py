"""What is tried again after a failure, and when it becomes a dead letter."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from onwhen.engine.bus import EventBus
from onwhen.engine.clock import VirtualClock
from onwhen.engine.context import Context
from onwhen.engine.events import Event
from onwhen.engine.limits import Limits
from onwhen.engine.retries import RetryPolicy
from onwhen.engine.rules import RuleSet, changed
from onwhen.engine.store import key_of
from onwhen.errors import UnknownRule
from onwhen.storage.memory import create_memory_storage
from tests.engine.turning import NOW, Thing, begin, committed, only_dead, only_retry, run, runs

THRICE = RetryPolicy(attempts=3, delay=timedelta(seconds=10), jitter=0)


@pytest.fixture
def rules() -> RuleSet:
    return RuleSet("r", subject=Thing)


def failing(error: BaseException) -> Callable[[Any], None]:
    """A rule that fails."""

    def rule(ctx: Context[Thing]) -> None:
        raise error

    return rule


def test_a_failed_rule_waits_for_its_next_attempt(rules: RuleSet) -> None:
    """As its policy says; the outcome says when."""
    rules.on("go", name="broken", retry=THRICE)(failing(OSError("down")))
    turn = run(begin(rules))
    retry = only_retry(turn)
    assert (retry.subject, retry.rule, retry.event.id, retry.attempt) == ("thing:1", "r.broken", "e1", 2)
    assert (retry.due, retry.first_failed, retry.in_order) == (NOW + timedelta(seconds=10), NOW, True)
    assert (retry.failure.type, retry.failure.message) == ("OSError", "down")
    assert turn.outcome().runs[0].retry_at == retry.due
    assert list(committed(turn).dead) == []


def test_only_the_failed_rule_is_run_again(rules: RuleSet) -> None:
    """The others have done their work; its attempt is counted, and its key for services outside is the same."""
    seen: list[tuple[int, str]] = []

    @rules.on("go")
    def fine(ctx: Context[Thing]) -> None: ...

    @rules.on("go", retry=THRICE)
    def broken(ctx: Context[Thing]) -> None:
        seen.append((ctx.attempt, ctx.idempotency_key))
        if ctx.attempt < 3:
            raise OSError
        ctx.emit("done")

    turn = run(begin(rules))
    for seconds in (10, 30):
        retry = only_retry(turn)
        assert retry.due == NOW + timedelta(seconds=seconds)
        turn = run(begin(rules, event=retry.event, retry=retry, clock=VirtualClock(retry.due)))
        assert [rule for rule, _ in runs(turn)] == ["r.broken"]
        assert committed(turn).retried == retry.key
    key = key_of(retry.event, "r.broken")
    assert seen == [(1, key), (2, key), (3, key)]
    assert [event.type for event in committed(turn).messages] == ["done"]


def test_when_the_attempts_are_used_up_a_dead_letter_is_left(rules: RuleSet) -> None:
    """It says how often it was tried, and since when."""
    rules.on("go", name="broken", retry=THRICE)(failing(OSError("down")))
    turn = run(begin(rules))
    while committed(turn).retries:
        retry = only_retry(turn)
        turn = run(begin(rules, event=retry.event, retry=retry, clock=VirtualClock(retry.due)))
    letter = only_dead(turn)
    assert (letter.id, letter.rule, letter.event.id) == (key_of(letter.event, "r.broken"), "r.broken", "e1")
    assert (letter.attempts, letter.first_failed, letter.time) == (3, NOW, NOW + timedelta(seconds=30))


def test_an_error_that_is_not_worth_it_is_not_retried(rules: RuleSet) -> None:
    """`retry_on` says which are."""
    policy = RetryPolicy(attempts=3, retry_on=OSError)
    rules.on("go", name="broken", retry=policy)(failing(ValueError()))
    assert only_dead(run(begin(rules))).attempts == 1


def test_rules_without_a_policy_have_the_engines(rules: RuleSet) -> None:
    """`Limits.retry`."""
    rules.on("go", name="broken")(failing(OSError()))
    assert only_retry(run(begin(rules, limits=Limits(retry=THRICE)))).attempt == 2


def test_each_failed_rule_has_a_retry_of_its_own(rules: RuleSet) -> None:
    """With its own policy."""
    for name, attempts in (("a", 2), ("b", 1), ("c", 2)):
        rules.on("go", name=name, retry=RetryPolicy(attempts=attempts))(failing(OSError()))
    commit = committed(run(begin(rules)))
    assert [retry.rule for retry in commit.retries] == ["r.a", "r.c"]
    assert [letter.rule for letter in commit.dead] == ["r.b"]


def test_two_sources_may_use_the_same_event_ids(rules: RuleSet) -> None:
    """Their retries and dead letters are not mixed up."""
    rules.on("go", name="broken", retry=RetryPolicy(attempts=2))(failing(OSError()))
    rules.on("go", name="dead")(failing(OSError()))
    names = [("/a", "e1"), ("/b", "e1"), ("/a/b", "c"), ("/a", "b/c")]
    turns = [run(begin(rules, event=Event("go", "thing:1", id=id, source=source))) for source, id in names]
    assert len({only_retry(turn).key for turn in turns}) == 4
    assert len({only_dead(turn).id for turn in turns}) == 4


def test_a_reaction_that_is_run_again_knows_the_same(rules: RuleSet) -> None:
    """The values with their types, the cause, and the ids of what it sends."""
    seen: list[Any] = []

    @rules.on("go")
    def go(ctx: Context[Thing]) -> None:
        ctx.subject.set("when", NOW, extra={"why": "audit"})

    @rules.on(changed("when", from_=None, to=NOW), retry=THRICE)
    def broken(ctx: Context[Thing]) -> None:
        seen.append((ctx.property_name, ctx.old_value, ctx.new_value, dict(ctx.extra), ctx.idempotency_key))
        assert ctx.event.correlation_id == "e1"
        if ctx.attempt == 1:
            raise OSError

    retry = only_retry(run(begin(rules)))
    stored = Event.from_json(retry.event.to_json())  # as a store brings it back
    turn = run(begin(rules, event=stored, retry=retry))
    assert runs(turn) == [("r.broken", "fired")]
    assert seen[0] == seen[1]
    assert seen[0][:3] == ("when", None, NOW)


def test_what_another_attempt_sends_has_other_ids(rules: RuleSet) -> None:
    """Middleware may have sent something in the first attempt, and that is kept."""

    @rules.on("go", retry=THRICE)
    def rule(ctx: Context[Thing]) -> None:
        ctx.emit("next")
        if ctx.attempt == 1:
            raise OSError

    first = begin(rules)
    retry = only_retry(run(first))
    (second,) = committed(run(begin(rules, event=retry.event, retry=retry))).messages
    derived = Event.caused_by(retry.event, "r.rule", 2, 0, "next", "thing:1")
    assert second.id == derived.id


def test_a_rule_that_is_gone_leaves_its_retry_as_a_dead_letter(rules: RuleSet) -> None:
    """Whatever the policy; a new program may have renamed it, and nothing that was accepted is lost."""
    rules.on("go", name="broken", retry=THRICE)(failing(OSError()))
    retry = only_retry(run(begin(rules)))
    turn = run(begin(RuleSet("other", subject=Thing), event=retry.event, retry=retry, limits=Limits(retry=THRICE)))
    assert isinstance(turn.outcome().error, UnknownRule)
    letter = only_dead(turn)
    assert (letter.rule, letter.attempts) == ("r.broken", 2)
    assert "no rule 'r.broken' is run on go to thing:1 any more" in letter.failure.message


def test_an_event_whose_subject_cannot_be_loaded_fails_as_a_whole(rules: RuleSet) -> None:
    """No rule is run on state that is not what they expect."""
    rules.on("go", name="rule")(failing(AssertionError()))
    turn = run(begin(rules, refused=ValueError("version 9"), limits=Limits(retry=THRICE)))
    outcome = turn.outcome()
    assert (repr(outcome.error), outcome.runs) == ("ValueError('version 9')", ())
    retry = only_retry(turn)
    assert (retry.rule, retry.attempt, outcome.retry_at) == ("", 2, retry.due)


def test_middleware_around_the_event_sees_a_subject_that_cannot_be_loaded(rules: RuleSet) -> None:
    """So that it is logged and traced like any other failure; but it cannot make a success of it."""
    seen: list[str] = []

    async def around(ctx: Any, next: Any) -> None:
        try:
            await next()
        except ValueError as error:
            seen.append(str(error))

    turn = run(begin(rules, refused=ValueError("version 9"), around=around))
    assert seen == ["version 9"]
    assert repr(turn.outcome().error) == "ValueError('version 9')"


def test_no_middleware_changes_a_subject_that_cannot_be_loaded(rules: RuleSet) -> None:
    """It is given what is stored to read; whether it writes, stops the event or raises, the turn ends as refused."""

    async def writes(ctx: Any, next: Any) -> None:
        ctx.subject.set("n", 1)

    async def stops(ctx: Any, next: Any) -> None:
        ctx.emit("stopped")

    async def raises(ctx: Any, next: Any) -> None:
        raise KeyError

    for around in (writes, stops, raises):
        turn = run(begin(rules, refused=ValueError("version 9"), around=around))
        assert repr(turn.outcome().error) == "ValueError('version 9')"
        commit = committed(turn)
        assert (commit.write, list(commit.messages)) == (None, [])
        assert only_dead(turn).failure.message == "version 9"


def test_a_retry_past_the_end_of_time_is_due_at_its_end(rules: RuleSet) -> None:
    """Events may say any time."""
    late = NOW.replace(year=9999, month=12, day=31, hour=23, minute=59, second=59)
    rules.on("go", name="broken", retry=THRICE)(failing(OSError()))
    assert only_retry(run(begin(rules, clock=VirtualClock(late)))).due.year == 9999


def test_an_event_that_is_run_again_as_a_whole_runs_all_rules_from_their_first_attempt(rules: RuleSet) -> None:
    """They have not failed: nothing is taken off their own attempts."""
    seen: list[int] = []

    @rules.on("go", retry=THRICE)
    def rule(ctx: Context[Thing]) -> None:
        seen.append(ctx.attempt)
        raise OSError

    retry = only_retry(run(begin(rules, refused=ValueError(), limits=Limits(retry=THRICE))))
    turn = run(begin(rules, event=retry.event, retry=retry))
    assert seen == [1]
    assert (only_retry(turn).rule, only_retry(turn).attempt) == ("r.rule", 2)


async def test_a_retried_reaction_through_a_bus() -> None:
    """The clock is moved, the retry is due, the rule succeeds on the state as it is by then."""
    rules = RuleSet("r", subject=Thing)
    seen: list[Any] = []

    @rules.on("go")
    def go(ctx: Context[Thing]) -> None:
        ctx.subject.n += 1

    @rules.on(changed("n"), retry=RetryPolicy(attempts=2, in_order=False))
    def broken(ctx: Context[Thing]) -> None:
        seen.append((ctx.attempt, ctx.old_value, ctx.new_value, ctx.subject.n))
        if ctx.attempt == 1 and ctx.new_value == 1:
            raise OSError

    bus = EventBus(rules, store=create_memory_storage(), clock=VirtualClock(NOW))
    async with bus:
        await bus.emit("go", "thing:1")
        await bus.emit("go", "thing:1")
        await bus.advance(timedelta(minutes=1))
    assert seen == [(1, 0, 1, 1), (1, 1, 2, 2), (2, 0, 1, 2)]
