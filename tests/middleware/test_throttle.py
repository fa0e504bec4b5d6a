"""Throttle: how often a rule is run on a subject, what becomes of the rest, and that a restart changes nothing."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onwhen import Context, EventBus, RetryPolicy, RuleSet, Subject, VirtualClock, changed, create_memory_storage
from onwhen.engine.chain import Middleware
from onwhen.errors import MiddlewareError, Postponed, RuleDefinitionError
from onwhen.middleware import Debounce, Throttle
from tests.middleware.places import NOON, SECOND, Place, dead, place_of, timers


class Lamp(Subject, prefix="lamp:"):
    n: int = 0
    seen: list[Any] = []


@pytest.fixture(params=["memory", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place_of(request.param, tmp_path)


def blinking(*middleware: Middleware, **options: Any) -> RuleSet:
    rules = RuleSet("lamps", subject=Lamp)

    @rules.on("pressed", middleware=middleware, **options)
    def blink(ctx: Context[Lamp]) -> None:
        ctx.subject.seen.append(ctx.payload)

    return rules


async def seen(bus: EventBus, subject: str = "lamp:1") -> Any:
    return (await bus.read(subject)).get("seen")


async def test_a_rule_is_run_once_in_an_interval(place: Place) -> None:
    """The first event at once; what comes too early is stopped, and the outcome says so."""
    async with place.bus(blinking(Throttle(10))) as bus:
        statuses = []
        for number in range(5):
            (run,) = (await bus.emit("pressed", "lamp:1", number)).runs
            statuses.append((run.status, run.stopped_by))
            await bus.advance(5 * SECOND)
        assert statuses == [("fired", ""), ("stopped", "Throttle")] * 2 + [("fired", "")]
        assert await seen(bus) == [0, 2, 4]


async def test_the_interval_ends_exactly_when_it_is_over(place: Place) -> None:
    """Not a microsecond before."""
    async with place.bus(blinking(Throttle(timedelta(seconds=10)))) as bus:
        await bus.emit("pressed", "lamp:1", "a")
        await bus.advance(10 * SECOND - timedelta(microseconds=1))
        await bus.emit("pressed", "lamp:1", "b")
        await bus.advance(timedelta(microseconds=1))
        await bus.emit("pressed", "lamp:1", "c")
        assert await seen(bus) == ["a", "c"]


async def test_each_subject_has_its_own_intervals_and_each_key_of_one(place: Place) -> None:
    """A key that is over is forgotten."""
    throttle = Throttle(10, key=lambda ctx: ctx.payload["button"])
    async with place.bus(blinking(throttle)) as bus:
        for subject in ("lamp:1", "lamp:2"):
            for button in ("a", "b", "a"):
                await bus.emit("pressed", subject, {"button": button})
            assert [press["button"] for press in await seen(bus, subject)] == ["a", "b"]
        await bus.advance(60 * SECOND)
        await bus.emit("pressed", "lamp:1", {"button": "c"})
        assert list((await bus.read("lamp:1")).ext["onwhen.throttle/lamps.blink"]) == ["c"]


async def test_a_restart_changes_nothing(place: Place) -> None:
    """The moment is stored with what the rule did."""
    throttle = Throttle(10, trailing=True)
    async with place.bus(blinking(throttle)) as bus:
        await bus.emit("pressed", "lamp:1", 1)
    async with place.bus(blinking(throttle)) as bus:
        await bus.emit("pressed", "lamp:1", 2)
        assert await seen(bus) == [1]
    async with place.bus(blinking(throttle)) as bus:
        await bus.advance(10 * SECOND)
        assert await seen(bus) == [1, 2]
        await bus.emit("pressed", "lamp:1", 3)
        assert await seen(bus) == [1, 2]


async def test_the_last_event_of_an_interval_may_be_run_when_it_ends(place: Place) -> None:
    """Once; then the next interval begins, and nothing is left when it is over."""
    async with place.bus(blinking(Throttle(10, trailing=True))) as bus:
        for number in range(4):
            await bus.emit("pressed", "lamp:1", number)
            await bus.advance(SECOND)
        (timer,) = await timers(bus, "lamp:1")
        assert timer.due == NOON + 10 * SECOND
        await bus.advance(6 * SECOND)
        assert await seen(bus) == [0, 3]
        await bus.emit("pressed", "lamp:1", 4)
        await bus.advance(30 * SECOND)
        assert await seen(bus) == [0, 3, 4]
        assert await timers(bus, "lamp:1") == []


async def test_a_later_event_takes_the_place_of_one_whose_timer_is_late(place: Place) -> None:
    """That one is not run any more: it is not the last."""
    async with place.bus(blinking(Throttle(10, trailing=True))) as bus:
        await bus.emit("pressed", "lamp:1", 0)
        await bus.emit("pressed", "lamp:1", 1)
        place.clock.advance(60 * SECOND)  # nobody looks for timers meanwhile
        await bus.emit("pressed", "lamp:1", 2)
        assert await timers(bus, "lamp:1") == []
        await bus.advance(60 * SECOND)
        assert await seen(bus) == [0, 2]


async def test_what_a_debounce_brings_takes_the_place_of_what_waits(place: Place) -> None:
    """It is later than that, although a timer has brought it as well."""
    async with place.bus(blinking(Debounce(1), Throttle(60, trailing=True))) as bus:
        for number in range(4):
            await bus.emit("pressed", "lamp:1", number)
            await bus.advance(5 * SECOND)
        await bus.advance(60 * SECOND)
        assert await seen(bus) == [0, 3]
        await bus.advance(600 * SECOND)
        assert await seen(bus) == [0, 3]


async def test_what_the_rule_defers_in_a_late_run_is_an_event_like_any_other(place: Place) -> None:
    """It is no event whose place a later one has taken, nor is a reaction of that run."""
    rules, ran = RuleSet("lamps", subject=Lamp), list[tuple[str, bool, float]]()

    @rules.on("pressed", changed("n"), middleware=[Throttle(10, trailing=True)])
    def blink(ctx: Context[Lamp]) -> None:
        ran.append((ctx.event_type, ctx.deferred, (ctx.now - NOON).total_seconds()))
        if len(ran) == 2:
            ctx.defer(key="again", delay=30 * SECOND)
        if len(ran) == 3:
            ctx.subject.n += 1

    async with place.bus(rules) as bus:
        for _ in range(2):
            await bus.emit("pressed", "lamp:1")
        await bus.advance(100 * SECOND)
        assert [(kind, moment) for kind, _, moment in ran] == [
            ("pressed", 0.0),
            ("pressed", 10.0),
            ("pressed", 40.0),
            ("subject-property-changed", 50.0),
        ]


async def test_what_waits_has_the_stamps_of_the_event(place: Place) -> None:
    """A trace goes on with it, whoever around the event has begun it; what the rule sends has no mark of ours."""

    async def trace(ctx: Context, next: Any) -> None:
        ctx.stamp(trace="t1")
        await next()

    async def tell(ctx: Context, next: Any) -> None:
        await next()
        ctx.emit("told", None, "lamp:2")

    rules = blinking(tell, Throttle(60, trailing=True))
    told: list[dict[str, Any]] = []
    rules.on("told", name="log")(lambda ctx: told.append(dict(ctx.event.extensions)))
    async with place.bus(rules) as bus:
        bus.use(trace, scope="event")
        for number in range(2):
            await bus.emit("pressed", "lamp:1", number)
        (timer,) = await timers(bus, "lamp:1")
        assert timer.event.extensions["trace"] == "t1"
        await bus.idle()
    assert [sorted(extensions) for extensions in told] == [["trace"]] * 2


async def test_a_dead_letter_that_a_later_event_has_taken_the_place_of_is_not_run(place: Place) -> None:
    """It would be older than what was run since; before that its replay is run."""
    rules, calls, down = RuleSet("lamps", subject=Lamp), list[Any](), [2, 3]

    @rules.on("pressed", middleware=[Throttle(60, trailing=True)])
    def shaky(ctx: Context[Lamp]) -> None:
        calls.append(ctx.payload)
        if ctx.payload in down:
            raise OSError

    async with place.bus(rules) as bus:
        for number in (1, 2):
            await bus.emit("pressed", "lamp:1", number)
        await bus.advance(60 * SECOND)
        down.remove(2)
        (letter,) = await dead(bus)
        await bus.replay(letter.id)
        await bus.idle()
        assert calls == [1, 2, 2]
        await bus.emit("pressed", "lamp:1", 3)
        await bus.advance(600 * SECOND)
        assert calls == [1, 2, 2, 3]
        (letter,) = await dead(bus)
        down.clear()
        await bus.emit("pressed", "lamp:1", 4)
        await bus.replay(letter.id)
        await bus.idle()
        assert calls == [1, 2, 2, 3, 4]


async def test_a_run_that_fails_does_not_count(place: Place) -> None:
    """So its retry is run, and an event after it as well."""
    calls: list[Any] = []
    rules = RuleSet("lamps", subject=Lamp)

    @rules.on("pressed", middleware=[Throttle(3600)], retry=RetryPolicy(attempts=3, delay=SECOND, jitter=0))
    def shaky(ctx: Context[Lamp]) -> None:
        calls.append(ctx.attempt)
        if ctx.attempt < 3:
            raise OSError

    async with place.bus(rules) as bus:
        await bus.emit("pressed", "lamp:1")
        await bus.advance(60 * SECOND)
        assert calls == [1, 2, 3]
        assert (await bus.emit("pressed", "lamp:1")).runs[0].status == "stopped"


def shaky(throttle: Throttle, calls: list[Any], down: list[Any], **options: Any) -> RuleSet:
    """Return a rule whose retries do not keep order; it notes what it is run on and when, and fails as `down` says."""
    rules = RuleSet("lamps", subject=Lamp)
    retry = RetryPolicy(attempts=20, jitter=0, factor=1, in_order=False, **options)

    @rules.on("pressed", middleware=[throttle], retry=retry)
    def blink(ctx: Context[Lamp]) -> None:
        if ctx.payload in down:
            down.remove(ctx.payload)
            raise OSError
        calls.append((ctx.payload, (ctx.now - NOON).total_seconds()))

    return rules


@pytest.mark.parametrize(("trailing", "ran"), [(False, [(2, 1.0)]), (True, [(2, 1.0), (1, 61.0)])])
async def test_a_retry_that_another_event_went_ahead_of_is_too_early_like_any_other(
    place: Place, trailing: bool, ran: list[Any]
) -> None:
    """It is stopped, as the outcome says; with `trailing` it is run when the interval ends. So is a replay."""
    calls: list[Any] = []
    async with place.bus(shaky(Throttle(60, trailing=trailing), calls, [1], delay=3 * SECOND)) as bus:
        await bus.emit("pressed", "lamp:1", 1)
        await bus.advance(SECOND)
        await bus.emit("pressed", "lamp:1", 2)
        await bus.advance(600 * SECOND)
        assert calls == ran
        assert await dead(bus) == []


@pytest.mark.parametrize("pause", [0, 1])
async def test_a_retry_does_not_take_the_place_of_a_later_event_that_waits(place: Place, pause: int) -> None:
    """That is the last one, so the retry is stopped; also if all have come in the same moment."""
    calls: list[Any] = []
    async with place.bus(shaky(Throttle(60, trailing=True), calls, [1], delay=30 * SECOND)) as bus:
        await bus.emit("pressed", "lamp:1", 1)
        for number in (2, 3):
            await bus.advance(pause * SECOND)
            await bus.emit("pressed", "lamp:1", number)
        await bus.advance(600 * SECOND)
        assert calls == [(2, pause), (3, 60 + pause)]
        assert await timers(bus, "lamp:1") == []


async def test_an_event_that_was_put_off_takes_the_place_of_an_earlier_one_that_waits(place: Place) -> None:
    """By a rate limit further out, for instance: it is the last one all the same."""

    async def gate(ctx: Context[Lamp], next: Any) -> None:
        if ctx.payload == 3 and ctx.attempt == 1:
            raise Postponed("closed", delay=SECOND)
        await next()

    async with place.bus(blinking(gate, Throttle(60, trailing=True))) as bus:
        for number in (1, 2, 3):
            await bus.emit("pressed", "lamp:1", number)
            await bus.advance(SECOND)
        await bus.advance(600 * SECOND)
        assert await seen(bus) == [1, 3]


async def test_a_replay_does_not_take_the_place_of_a_later_event_that_waits(place: Place) -> None:
    """The dead letter is older."""
    rules, down = RuleSet("lamps", subject=Lamp), [1]

    @rules.on("pressed", middleware=[Throttle(60, trailing=True)])
    def blink(ctx: Context[Lamp]) -> None:
        if ctx.payload in down:
            raise OSError
        ctx.subject.seen.append(ctx.payload)

    async with place.bus(rules) as bus:
        for number in (1, 2, 3):
            await bus.emit("pressed", "lamp:1", number)
            await bus.advance(SECOND)
        down.clear()
        (letter,) = await dead(bus)
        (run,) = (await bus.replay(letter.id)).runs
        assert (run.status, run.stopped_by) == ("stopped", "Throttle")
        await bus.advance(600 * SECOND)
        assert await seen(bus) == [2, 3]


async def test_a_rule_that_was_stopped_further_in_has_not_run(place: Place) -> None:
    """The next event is let through."""

    async def guard(ctx: Context[Lamp], next: Any) -> None:
        if ctx.payload != "closed":
            await next()

    rules = RuleSet("lamps", subject=Lamp)
    rules.on("pressed", name="blink", middleware=[Throttle(10), guard])(lambda ctx: None)
    async with place.bus(rules) as bus:
        assert (await bus.emit("pressed", "lamp:1", "closed")).runs[0].stopped_by == "guard"
        assert (await bus.emit("pressed", "lamp:1", "open")).runs[0].status == "fired"


async def test_deleting_the_subject_forgets_it(place: Place) -> None:
    """With its timer; also where the rule itself deletes it."""
    rules = blinking(Throttle(10, trailing=True))
    rules.on("gone", name="delete", middleware=[Throttle(10)])(lambda ctx: ctx.subject.flush())
    async with place.bus(rules) as bus:
        await bus.emit("pressed", "lamp:1", 1)
        await bus.emit("pressed", "lamp:1", 2)
        await bus.emit("gone", "lamp:1")
        assert [record.name async for record in bus.store.subjects()] == []
        assert await timers(bus, "lamp:1") == []
        assert (await bus.emit("pressed", "lamp:1", 3)).runs[0].status == "fired"


async def test_reactions_can_be_throttled(place: Place) -> None:
    """The last one is run on the change as it was."""
    rules = RuleSet("lamps", subject=Lamp)
    rules.on("pressed", name="count")(lambda ctx: ctx.subject.set("n", lambda n: n + 1))

    @rules.on(changed("n"), middleware=[Throttle(10, trailing=True)])
    def tell(ctx: Context[Lamp]) -> None:
        ctx.subject.seen.append((ctx.old_value, ctx.new_value))

    async with place.bus(rules) as bus:
        for _ in range(4):
            await bus.emit("pressed", "lamp:1")
        await bus.advance(20 * SECOND)
        assert await seen(bus) == [[0, 1], [3, 4]]


async def test_a_clock_that_was_put_back_stops_a_rule_for_an_interval_at_most(place: Place) -> None:
    """Not until the time is again what it was."""
    async with place.bus(blinking(Throttle(10))) as bus:
        await bus.advance(timedelta(days=1))
        await bus.emit("pressed", "lamp:1", 1)
    place.clock = VirtualClock(NOON)
    async with place.bus(blinking(Throttle(10))) as bus:
        await bus.emit("pressed", "lamp:1", 2)
        assert await seen(bus) == [1, 2]


@settings(max_examples=60, deadline=None)
@given(pauses=st.lists(st.integers(0, 15), max_size=25), trailing=st.booleans())
async def test_runs_are_an_interval_apart_and_the_last_event_is_not_lost(pauses: Sequence[int], trailing: bool) -> None:
    """Whatever the events: never two runs within the interval; with `trailing` the last event is run in the end."""
    ran: list[tuple[float, int]] = []
    rules = RuleSet("lamps", subject=Lamp)

    @rules.on("pressed", middleware=[Throttle(10, trailing=trailing)])
    def blink(ctx: Context[Lamp]) -> None:
        ran.append(((ctx.now - NOON).total_seconds(), ctx.payload))

    async with EventBus(rules, store=create_memory_storage(), clock=VirtualClock(NOON)) as bus:
        for number, pause in enumerate(pauses):
            await bus.emit("pressed", "lamp:1", number)
            await bus.advance(pause * SECOND)
        await bus.advance(30 * SECOND)
        times, numbers = [time for time, _ in ran], [number for _, number in ran]
        assert all(later - earlier >= 10 for earlier, later in pairwise(times))
        assert numbers == sorted(set(numbers))
        if pauses:
            assert numbers[0] == 0
            assert not trailing or numbers[-1] == len(pauses) - 1
        assert [timer async for timer in bus.store.timers()] == []


@settings(max_examples=60, deadline=None)
@given(
    pauses=st.lists(st.integers(1, 15), min_size=1, max_size=20),
    down=st.lists(st.integers(0, 19), max_size=15),
    delay=st.integers(1, 15),
    late=st.sets(st.integers(0, 19)),
)
async def test_the_last_event_is_not_lost_to_retries(
    pauses: Sequence[int], down: list[int], delay: int, late: set[int]
) -> None:
    """However runs fail, retries go out of order and timers are late: in the end it is run; none is run twice."""
    calls: list[tuple[int, float]] = []
    rules = shaky(Throttle(10, trailing=True), calls, down, delay=delay * SECOND)
    clock = VirtualClock(NOON)
    async with EventBus(rules, store=create_memory_storage(), clock=clock) as bus:
        for number, pause in enumerate(pauses):
            await bus.emit("pressed", "lamp:1", number)
            if number in late:
                clock.advance(pause * SECOND)  # and nobody looks for timers
            else:
                await bus.advance(pause * SECOND)
        await bus.advance(timedelta(hours=1))
        assert [timer async for timer in bus.store.timers()] == []
    numbers = [number for number, _ in calls]
    assert len(numbers) == len(set(numbers))
    assert len(pauses) - 1 in numbers
    assert all(later - earlier >= 10 for (_, earlier), (_, later) in pairwise(calls))


async def test_around_events_it_is_refused() -> None:
    """It is for rules."""
    bus = EventBus(blinking(Throttle(1)), store=create_memory_storage())
    bus.use(Throttle(1), scope="event")
    async with bus:
        assert isinstance((await bus.emit("pressed", "lamp:1")).error, MiddlewareError)


async def test_a_key_has_to_be_a_text(place: Place) -> None:
    """Anything else fails the rule, with what to do."""
    async with place.bus(blinking(Throttle(1, key=lambda ctx: 3))) as bus:  # type: ignore[arg-type, return-value]
        (run,) = (await bus.emit("pressed", "lamp:1")).runs
        assert "Throttle: key has returned 3" in str(run.error)


@pytest.mark.parametrize(("per", "key"), [(0, None), ("1s", None), (None, None), (1, "button")])
def test_options_are_checked_when_it_is_made(per: Any, key: Any) -> None:
    """With the name of the one that is wrong."""
    with pytest.raises(RuleDefinitionError, match=r"Throttle: (per|key)="):
        Throttle(per, key=key)


@pytest.mark.parametrize("kind", [Throttle, Debounce])
async def test_two_around_one_rule_are_refused(kind: type[Throttle | Debounce], place: Place) -> None:
    """They would share what they remember, and neither would do what it says."""
    async with place.bus(blinking(kind(10), kind(20))) as bus:
        receipt = await bus.emit("pressed", "lamp:1", "a")
        await bus.advance(60 * SECOND)
        errors = [error for _, error in receipt.failures] or [letter.failure.message for letter in await dead(bus)]
        assert f"there are two {kind.__name__} around lamps.blink" in str(errors[0])
