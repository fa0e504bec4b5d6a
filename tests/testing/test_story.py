"""The story: what a test that fails is told about the rules."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from onwhen import Context, RetryPolicy, RuleSet, Subject, changed, when
from onwhen.engine.sources import place_of_code
from onwhen.testing import Harness

rules = RuleSet("rules")


def is_urgent(ctx: Context[Subject]) -> bool:
    return bool(ctx.payload["urgent"])


PLACE = place_of_code(is_urgent.__code__)


@rules.on("job.asked")
@when(is_urgent)
async def hurry(ctx: Context[Subject]) -> None:
    ctx.subject.set("speed", 2, muted=True)


@rules.on("job.asked")
async def plan(ctx: Context[Subject]) -> None:
    ctx.subject.state = "planned"
    await ctx.emit("job.planned", {"by": "plan"})
    await ctx.emit("job.late", delay=timedelta(hours=1), key="deadline")


@rules.on(changed("state", to="done"))
def celebrate(ctx: Context[Subject]) -> None:
    raise AssertionError("never reached")


@rules.on("job.broken", retry=RetryPolicy(attempts=2, delay=timedelta(minutes=1), jitter=0))
def fail(ctx: Context[Subject]) -> None:
    raise ValueError("no such job")


@rules.on("job.done")
async def finish(ctx: Context[Subject]) -> None:
    await ctx.cancel("deadline")
    ctx.subject.delete("state")
    ctx.subject.flush()


@pytest.fixture
def harness() -> Harness:
    return Harness(rules, start=datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC))


async def told(harness: Harness, event_type: str, data: Any = None) -> str:
    """The story after one event, its lines without the tree that they stand in."""
    await harness.when(event_type, "job:1", data)
    return "\n".join(line.lstrip("│├└─ ") for line in harness.story().splitlines())


async def test_each_turn_is_told_with_its_time_and_data(harness: Harness) -> None:
    """When, what, to whom, with which data."""
    assert "2024-05-06 07:08:09+00:00  job.asked to job:1 {'urgent': False}" in await told(
        harness, "job.asked", {"urgent": False}
    )


async def test_a_rule_that_was_skipped_is_told_with_the_condition(harness: Harness) -> None:
    """The condition that did not hold and what it looked at, or the values that its trigger did not fit."""
    story = await told(harness, "job.asked", {"urgent": False})
    assert (
        "skipped rules.hurry\n"
        'did not hold: is_urgent, which is bool(ctx.payload["urgent"])  '
        f"[ctx.payload['urgent'] = False]  ({PLACE})" in story
    )
    assert (
        "state: None -> 'planned'\nskipped rules.celebrate\n"
        "did not hold: changed('state', to='done')  [old value = None, new value = 'planned']" in story
    )


async def test_a_rule_that_fired_is_told_with_what_it_did(harness: Harness) -> None:
    """Changes, messages, timers."""
    story = await told(harness, "job.asked", {"urgent": True})
    assert f"({PLACE})\nspeed: None -> 2 (muted)" in story
    assert "fired rules.plan\nstate: None -> 'planned'" in story
    assert (
        "sent job.planned to job:1 {'by': 'plan'}\n"
        "set timer 'deadline': job.late to job:1, due 2024-05-06T08:08:09Z" in story
    )


async def test_cancelled_timers_and_deletions_are_told(harness: Harness) -> None:
    """What is gone is as important as what is there."""
    harness.given("job:1", state="planned")
    assert "fired rules.finish\ndeleted state (was 'planned')\ndeleted the subject\ncancelled timer 'deadline'" in (
        await told(harness, "job.done")
    )


async def test_a_failure_is_told_with_what_becomes_of_it(harness: Harness) -> None:
    """The error, and whether it is tried again or left as a dead letter."""
    assert "failed rules.fail: ValueError: no such job; attempt 2 at 2024-05-06T07:09:09Z" in (
        await told(harness, "job.broken")
    )
    await harness.advance(timedelta(minutes=1))
    story = harness.story()
    assert "job.broken to job:1 again, only rules.fail" in story
    assert "failed rules.fail, attempt 2: ValueError: no such job; dead letter" in story


async def test_what_middleware_did_is_told(harness: Harness) -> None:
    """That it stopped a rule, or caught its error."""

    async def guard(ctx: Any, next: Any) -> None:
        if ctx.event_type != "job.done":
            with suppress(ValueError):
                await next()

    harness.bus.use(guard)
    assert "stopped rules.finish: middleware" in await told(harness, "job.done")
    assert "guard did not go on" in harness.story()
    assert "ValueError: no such job; middleware guard dealt with it" in await told(harness, "job.broken")


async def test_an_event_that_failed_as_a_whole_is_told(harness: Harness) -> None:
    """With the reason, because none of its rules is to blame."""

    async def refuse(ctx: Any, next: Any) -> None:
        raise PermissionError("not today")

    harness.bus.use(refuse, scope="event")
    assert "the event failed as a whole, nothing of it was kept: PermissionError: not today" in (
        await told(harness, "job.done")
    )


async def test_an_event_that_no_rule_is_for_is_told_with_the_rule_sets(harness: Harness) -> None:
    """A mistyped event type is found at a glance."""
    assert "no rule is for this event and subject (rule sets: rules)" in await told(harness, "jop.done")


async def test_forgotten_rule_sets_are_pointed_out() -> None:
    """The most frequent mistake has a message of its own."""
    harness = Harness()
    await harness.when("job.done", "job:1")
    assert "no rules are included" in harness.story()


def test_without_an_event_there_is_nothing_to_tell(harness: Harness) -> None:
    """A forgotten `await harness.when(...)` looks like this."""
    assert harness.story() == "nothing happened: no event was handled"


async def test_long_stories_and_values_are_cut(harness: Harness) -> None:
    """The latest turns, and the start of large data."""
    for number in range(40):
        await harness.when("job.none", "job:1", {"number": number, "text": "x" * 1000})
    story = harness.story()
    assert "(15 earlier turns are not shown)" in story
    assert "'number': 14," not in story
    assert "'number': 15," in story
    assert max(map(len, story.splitlines())) < 270


async def test_a_check_that_does_not_hold_tells_the_story(harness: Harness) -> None:
    """So the reason is there where the failure is read."""
    await harness.when("job.asked", "job:1", {"urgent": False})
    with pytest.raises(AssertionError, match="did not hold: is_urgent"):
        harness.then.state("job:1", speed=2)
