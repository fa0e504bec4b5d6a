"""Retry: what is run again within its turn, how long that waits, and what stays of the attempts before."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onwhen import Context, EventBus, Limits, RetryPolicy, RuleSet, Subject
from onwhen.errors import MiddlewareError, Postponed, RuleDefinitionError, RuleTimeout
from onwhen.middleware import Retry
from tests.engine.buses import new_bus


class Thing(Subject, prefix="thing:"):
    n: int = 0
    tags: list[str] = []


class Desk:
    """A rule that fails as a script says, and a bus on which the waits are noted instead of waited."""

    def __init__(self, waits: list[float]) -> None:
        self.rules = RuleSet("r", subject=Thing)
        self.bus: EventBus = new_bus(self.rules)
        self.waits = waits
        self.script: list[BaseException | None] = []
        self.calls = 0

    async def work(self, ctx: Context[Thing]) -> None:
        self.calls += 1
        ctx.subject.n += 1
        ctx.subject.tags.append(str(self.calls))
        ctx.emit("worked", {"call": self.calls})
        await asyncio.sleep(0)
        error = self.script.pop(0) if self.script else None
        if error is not None:
            raise error

    def rule(self, *middleware: Any, **options: Any) -> None:
        self.rules.on("go", middleware=middleware, **options)(self.work)


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await real(0)

    class Sleeper:
        def __init__(self) -> None:
            self.sleep = sleep

    real = asyncio.sleep
    monkeypatch.setattr("onwhen.middleware.retry.asyncio", Sleeper())
    desk = Desk(waits)
    async with desk.bus:
        yield desk


async def test_a_rule_that_works_the_third_time_has_worked(desk: Desk) -> None:
    """In one turn; of the attempts before nothing is left, neither changes nor messages nor an error."""
    desk.script = [OSError("down"), OSError("down")]
    desk.rule(Retry(attempts=3))
    receipt = await desk.bus.emit("go", "thing:1")
    (run,) = receipt.runs
    assert (run.status, run.error, run.handled, run.attempt, receipt.ok) == ("fired", None, False, 1, True)
    assert [event.data for event in receipt.sent] == [{"call": 3}]
    thing = await desk.bus.read("thing:1")
    assert (thing.get("n"), thing.get("tags")) == (1, ["3"])


async def test_what_is_sent_in_the_end_has_the_id_that_it_would_have_had_at_once(desk: Desk) -> None:
    """So a turn that is run again, and needs another number of attempts, sends the same."""
    desk.rule(Retry())
    ids = []
    for failures in ([], [OSError()], [OSError(), OSError()]):
        desk.script = [*failures]
        bus = new_bus(desk.rules)
        async with bus:
            ids.append((await bus.emit("go", "thing:1", id="one")).sent[0].id)
    assert len(set(ids)) == 1


async def test_when_the_attempts_are_used_up_the_policy_is_asked(desk: Desk) -> None:
    """With the last error, which says how often it was tried; each turn has its attempts anew."""
    desk.script = [OSError(str(number)) for number in range(4)]
    desk.rule(Retry(attempts=2), retry=RetryPolicy(attempts=2, delay=timedelta(0), jitter=0))
    receipt = await desk.bus.emit("go", "thing:1")
    (run,) = receipt.runs
    assert (str(run.error), run.status) == ("1", "failed")
    assert run.retry_at is not None
    assert run.error.__notes__[0].startswith("Retry has run it 2 times in this turn")  # type: ignore[union-attr]
    async with asyncio.timeout(5):
        while not [letter async for letter in desk.bus.dead_letters()]:
            await asyncio.sleep(0)
    assert desk.calls == 4
    assert (await desk.bus.read("thing:1")).get("n") == 0


@pytest.mark.parametrize(
    ("retry_on", "calls"),
    [(ConnectionError, 2), ((KeyError, ConnectionError), 2), (lambda error: "dow" in str(error), 2), (KeyError, 1)],
)
async def test_only_what_is_meant_is_tried_again(desk: Desk, retry_on: Any, calls: int) -> None:
    """By class, or by a predicate."""
    desk.script = [ConnectionError("down")]
    desk.rule(Retry(retry_on=retry_on))
    await desk.bus.emit("go", "thing:1")
    assert desk.calls == calls


async def test_a_predicate_that_is_broken_is_a_no_that_is_told(desk: Desk) -> None:
    """The rule's own error counts."""
    desk.script = [OSError("down")]
    desk.rule(Retry(retry_on=lambda error: error.missing))  # type: ignore[attr-defined]
    (run,) = (await desk.bus.emit("go", "thing:1")).runs
    assert desk.calls == 1
    assert isinstance(run.error, OSError)
    assert "retry_on" in run.error.__notes__[0]


async def test_what_is_to_be_put_off_is_put_off(desk: Desk) -> None:
    """It has said itself when to come back."""
    desk.script = [Postponed("later", delay=timedelta(hours=1))]
    desk.rule(Retry(retry_on=lambda error: True))
    (run,) = (await desk.bus.emit("go", "thing:1")).runs
    assert (run.status, desk.calls, desk.waits) == ("postponed", 1, [])


async def test_a_cancellation_is_never_tried_again(desk: Desk) -> None:
    """Whatever the predicate says."""
    desk.script = [asyncio.CancelledError()]
    desk.rule(Retry(retry_on=BaseException))
    await desk.bus.emit("go", "thing:1")
    assert desk.calls == 1


async def test_the_waits_grow_up_to_the_longest(desk: Desk) -> None:
    """Without jitter as they are written."""
    desk.script = [OSError() for _ in range(5)]
    desk.rule(Retry(attempts=6, delay=0.1, factor=2, max_delay=0.5, jitter="none"))
    await desk.bus.emit("go", "thing:1")
    assert desk.waits == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])


async def test_chance_spreads_the_waits_and_is_the_same_each_time(desk: Desk) -> None:
    """It is made of the event and the rule, so a simulation can repeat it."""
    desk.rule(Retry(delay=1, budget=100))
    for subject, id in (("thing:1", "a"), ("thing:2", "a2"), ("thing:3", "b")):
        desk.script = [OSError(), OSError()]
        await desk.bus.emit("go", subject, id=id)
    assert len(set(desk.waits)) == 6
    assert all(0 <= wait <= 2 for wait in desk.waits)
    again: list[float] = [*desk.waits]
    desk.waits.clear()
    desk.script = [OSError(), OSError()]
    async with new_bus(desk.rules) as bus:
        await bus.emit("go", "thing:1", id="a")
    assert desk.waits == again[:2]


class TooMany(Exception):
    def __init__(self, retry_after: Any) -> None:
        super().__init__("slow down")
        self.retry_after = retry_after


@pytest.mark.parametrize(
    ("retry_after", "waits"),
    [(1.5, [1.5]), (timedelta(seconds=2), [2.0]), (0.001, [0.1]), ("soon", [0.1]), (float("nan"), [0.1]), (-3, [0.1])],
)
async def test_an_error_may_say_how_long_to_wait_at_least(desk: Desk, retry_after: Any, waits: list[float]) -> None:
    """Beyond `max_delay` too; what is no duration says nothing."""
    desk.script = [TooMany(retry_after)]
    desk.rule(Retry(delay=0.1, max_delay=0.1, jitter="none"))
    await desk.bus.emit("go", "thing:1")
    assert desk.waits == waits


async def test_a_function_may_say_it_for_the_error(desk: Desk) -> None:
    """From a header of a response, for instance."""
    desk.script = [OSError("wait 3"), OSError("wait a while")]
    desk.rule(Retry(jitter="none", delay=0.5, wait=lambda error: float(str(error).split()[1])))
    receipt = await desk.bus.emit("go", "thing:1")
    assert desk.waits == [3.0, 1.0]
    assert receipt.ok


@pytest.mark.parametrize(("first", "second"), [(1, 61), (1, float("inf")), (31, 31)])
async def test_a_wait_over_the_budget_is_not_begun(desk: Desk, first: float, second: float) -> None:
    """All waits of a run count. The policy has more time; the error says why it was left to that."""
    desk.script = [TooMany(first), TooMany(second)]
    desk.rule(Retry(attempts=5, budget=timedelta(minutes=1)))
    (run,) = (await desk.bus.emit("go", "thing:1")).runs
    assert (desk.calls, desk.waits) == (2, [first])
    assert isinstance(run.error, TooMany)
    (note,) = run.error.__notes__
    assert note.startswith("Retry has run it 2 times in this turn")
    assert note.endswith("s is over its budget")


@given(
    delay=st.floats(0, 10),
    factor=st.floats(1, 10),
    longest=st.floats(0, 10),
    chances=st.lists(st.floats(0, 1), min_size=1, max_size=50),
    jitter=st.sampled_from(["full", "equal", "decorrelated", "none"]),
)
@example(delay=0.0, factor=10.0, longest=1.0, chances=[1.0] * 400, jitter="none")
@example(delay=1.0, factor=10.0, longest=1.0, chances=[1.0] * 400, jitter="equal")
def test_no_wait_is_longer_than_the_longest(
    delay: float, factor: float, longest: float, chances: list[float], jitter: Any
) -> None:
    """Whatever chance says, and however often; equal jitter waits at least half, none exactly."""
    retry = Retry(delay=delay, factor=factor, max_delay=longest, jitter=jitter)
    before = 0.0
    for attempt, chance in enumerate(chances, 1):
        wait = retry.backoff(attempt, before, chance)
        assert 0 <= wait <= longest
        whole = min(longest, delay * factor ** (attempt - 1)) if attempt < 300 else longest if delay else 0.0
        if jitter == "equal":
            assert whole / 2 <= wait <= whole
        if jitter == "none":
            assert wait == whole
        if jitter == "decorrelated":
            assert wait >= min(longest, delay)
        before = wait


async def test_the_rules_time_out_ends_a_wait() -> None:
    """It is around all attempts together."""
    rules = RuleSet("r", subject=Thing)

    @rules.on("go", middleware=[Retry(delay=4, jitter="none")], timeout=0.01)
    async def fails(ctx: Context[Thing]) -> None:
        ctx.subject.n = 1
        raise OSError

    async with asyncio.timeout(3), new_bus(rules) as bus:
        (run,) = (await bus.emit("go", "thing:1")).runs
        assert isinstance(run.error, RuleTimeout)
        assert (await bus.read("thing:1")).get("n") == 0


async def test_the_turns_deadline_ends_a_wait() -> None:
    """Then the event fails as a whole."""
    rules = RuleSet("r", subject=Thing)

    @rules.on("go", middleware=[Retry(delay=4, jitter="none")])
    async def fails(ctx: Context[Thing]) -> None:
        raise OSError

    async with asyncio.timeout(3), new_bus(rules, limits=Limits(turn_timeout=0.01)) as bus:
        assert isinstance((await bus.emit("go", "thing:1")).error, RuleTimeout)


async def test_around_events_it_is_refused(desk: Desk) -> None:
    """Half of an event's rules have been run by then; the error says where it belongs."""
    desk.bus.use(Retry(), scope="event")
    desk.rule()
    receipt = await desk.bus.emit("go", "thing:1")
    assert isinstance(receipt.error, MiddlewareError)
    assert "Retry is for rules" in str(receipt.error)


async def asked(error: BaseException) -> bool:
    raise AssertionError


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": 2.0},
        {"delay": -1},
        {"delay": "1"},
        {"factor": 0.5},
        {"factor": float("inf")},
        {"max_delay": float("nan")},
        {"jitter": "much"},
        {"retry_on": "OSError"},
        {"retry_on": (OSError, 3)},
        {"retry_on": ()},
        {"retry_on": asked},
        {"wait": 3},
        {"wait": asked},
        {"budget": True},
    ],
)
def test_options_are_checked_when_it_is_made(options: dict[str, Any]) -> None:
    """With the name of the one that is wrong."""
    with pytest.raises(RuleDefinitionError, match=f"Retry: {next(iter(options))}="):
        Retry(**options)


# -- with other middleware


async def test_what_middleware_further_in_says_of_each_failure_is_kept(desk: Desk) -> None:
    """It is about what has happened; its messages have ids of their own."""

    async def telling(ctx: Context[Thing], next: Any) -> None:
        try:
            await next()
        except OSError as error:
            ctx.emit("failed", {"why": str(error)})
            raise

    desk.script = [OSError("a"), OSError("b")]
    desk.rule(Retry(), telling)
    receipt = await desk.bus.emit("go", "thing:1")
    assert [(event.type, event.data) for event in receipt.sent] == [
        ("failed", {"why": "a"}),
        ("failed", {"why": "b"}),
        ("worked", {"call": 3}),
    ]
    assert len({event.id for event in receipt.sent}) == 3


async def test_a_failure_of_middleware_further_in_is_tried_again_too(desk: Desk) -> None:
    """All that it did is undone then, what the rule did as well."""
    tries: list[int] = []

    async def shaky(ctx: Context[Thing], next: Any) -> None:
        tries.append(1)
        ctx.subject.tags.append("shaky")
        ctx.set_metadata("tries", ctx.get_metadata("tries", 0) + 1)
        ctx.stamp(**({"tries": str(ctx.get_metadata("tries"))} if len(tries) > 1 else {"first": "yes"}))
        await next()
        if len(tries) < 3:
            raise OSError("shaky")

    desk.rule(Retry(), shaky)
    receipt = await desk.bus.emit("go", "thing:1")
    assert receipt.ok
    assert (await desk.bus.read("thing:1")).get("tags") == ["shaky", "3"]
    assert [dict(event.extensions) for event in receipt.sent] == [{"tries": "1"}]


async def test_what_middleware_further_in_has_dealt_with_is_not_tried_again(desk: Desk) -> None:
    """It has ended well."""

    async def swallows(ctx: Context[Thing], next: Any) -> None:
        try:
            await next()
        except OSError:
            ctx.emit("swallowed")

    desk.script = [OSError("a")]
    desk.rule(Retry(), swallows)
    (run,) = (await desk.bus.emit("go", "thing:1")).runs
    assert (desk.calls, run.status, run.handled) == (1, "failed", True)


async def test_a_rule_that_was_stopped_further_in_is_stopped(desk: Desk) -> None:
    """Also after an attempt that had failed."""
    tries: list[int] = []

    async def guard(ctx: Context[Thing], next: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            await next()

    desk.script = [OSError("a")]
    desk.rule(Retry(), guard)
    (run,) = (await desk.bus.emit("go", "thing:1")).runs
    assert (run.status, run.stopped_by, run.error) == ("stopped", "guard", None)
