"""Debounce: when a rule is run that waits for quiet, on what, and that nothing is lost or run twice on the way."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from onwhen import (
    Context,
    Event,
    EventBus,
    RetryPolicy,
    RuleSet,
    Subject,
    VirtualClock,
    changed,
    create_memory_storage,
    when,
)
from onwhen.engine.chain import Middleware
from onwhen.errors import MiddlewareError, Postponed, RuleDefinitionError
from onwhen.middleware import Debounce, Throttle
from tests.middleware.places import NOON, SECOND, Place, dead, place_of, timers

EXT = "onwhen.debounce/search.look"


class Box(Subject, prefix="box:"):
    n: int = 0
    seen: list[Any] = []


@pytest.fixture(params=["memory", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place_of(request.param, tmp_path)


class Search:
    """A rule that notes what it is run on, when, and with which batch; it fails as often as it is told to."""

    def __init__(self, *middleware: Middleware, **options: Any) -> None:
        self.ran: list[tuple[float, Any]] = []
        self.fails = 0
        self.rules = RuleSet("search", subject=Box)

        @self.rules.on("typed", middleware=middleware, **options)
        def look(ctx: Context[Box]) -> None:
            batch = ctx.get_metadata("debounced")
            what = ctx.payload if batch is None else [event.data for event in batch]
            if self.fails:
                self.fails -= 1
                ctx.subject.seen.append("half done")
                raise OSError("down")
            ctx.subject.seen.append(what)
            self.ran.append(((ctx.now - NOON).total_seconds(), what))


async def seen(bus: EventBus, subject: str = "box:1") -> Any:
    return (await bus.read(subject)).get("seen")


async def typed(bus: EventBus, *texts: Any, pause: float = 1, subject: str = "box:1") -> None:
    """Send events, and let some time pass after each."""
    for text in texts:
        await bus.emit("typed", subject, text)
        await bus.advance(pause * SECOND)


# -- the last one


async def test_a_rule_is_run_on_the_last_event_once_it_is_quiet(place: Place) -> None:
    """So long after it; the outcome of each event says that it was stopped."""
    search = Search(Debounce(5))
    async with place.bus(search.rules) as bus:
        (run,) = (await bus.emit("typed", "box:1", "a")).runs
        assert (run.status, run.stopped_by) == ("stopped", "Debounce")
        await bus.advance(SECOND)
        await typed(bus, "ab", "abc", pause=4)
        assert search.ran == []
        await bus.advance(SECOND)
        assert search.ran == [(10.0, "abc")]
        await bus.advance(60 * SECOND)
        assert len(search.ran) == 1
        assert await timers(bus, "box:1") == []
        assert EXT not in (await bus.read("box:1")).ext


async def test_each_subject_and_each_rule_waits_for_itself(place: Place) -> None:
    """Other rules of the event are run at once."""
    search = Search(Debounce(5))
    search.rules.on("typed", name="other")(lambda ctx: ctx.subject.set("n", lambda n: n + 1))
    search.rules.on("typed", name="slow", middleware=[Debounce(20)])(lambda ctx: ctx.subject.seen.append("slow"))
    async with place.bus(search.rules) as bus:
        await typed(bus, "a", subject="box:1", pause=4)
        await typed(bus, "b", subject="box:2", pause=1)
        assert await seen(bus, "box:1") == ["a"]
        assert await seen(bus, "box:2") == []
        assert (await bus.read("box:1")).get("n") == 1
        await bus.advance(60 * SECOND)
        assert await seen(bus, "box:1") == ["a", "slow"]
        assert (await bus.read("box:1")).get("n") == 1


async def test_nothing_waits_longer_than_it_may(place: Place) -> None:
    """However often it is disturbed; then it begins anew."""
    search = Search(Debounce(5, max_wait=10))
    async with place.bus(search.rules) as bus:
        await typed(bus, *range(12), pause=2)
        await bus.advance(30 * SECOND)
        assert search.ran == [(10.0, 4), (20.0, 9), (27.0, 11)]


async def test_a_restart_changes_nothing(place: Place) -> None:
    """Nor does it where the time has passed meanwhile: what was quiet for long enough is run by itself."""
    search = Search(Debounce(5))
    async with place.bus(search.rules) as bus:
        await typed(bus, "a", pause=0)
    async with place.bus(search.rules) as bus:
        await typed(bus, "b", pause=0)
    place.clock.advance(60 * SECOND)
    async with place.bus(search.rules) as bus:
        await bus.advance(SECOND)
        await typed(bus, "c", pause=10)
    assert [text for _, text in search.ran] == ["b", "c"]


async def test_what_was_quiet_for_long_enough_is_run_even_if_the_next_event_is_handled_before(place: Place) -> None:
    """Its timer was late: the one that comes gets a timer of its own."""
    search = Search(Debounce(5))
    async with place.bus(search.rules) as bus:
        await typed(bus, "a", "b", pause=1)
        place.clock.advance(60 * SECOND)  # nobody looks for timers meanwhile
        await bus.emit("typed", "box:1", "c")
        await bus.advance(10 * SECOND)
        assert [text for _, text in search.ran] == ["b", "c"]
        assert (await bus.read("box:1")).ext == {}


async def test_deleting_the_subject_cancels_it(place: Place) -> None:
    """Before it is run, and when the rule does it itself."""
    search = Search(Debounce(5, deliver="all"))
    search.rules.on("gone", name="delete")(lambda ctx: ctx.subject.flush())
    search.rules.on("end", name="end", middleware=[Debounce(5, deliver="all")])(lambda ctx: ctx.subject.flush())
    async with place.bus(search.rules) as bus:
        await typed(bus, "a", "b")
        await bus.emit("gone", "box:1")
        assert [record.name async for record in bus.store.subjects()] == []
        await typed(bus, "c")
        await bus.emit("end", "box:1")
        await bus.advance(60 * SECOND)
        assert search.ran == [(7.0, ["c"])]
        assert [record.name async for record in bus.store.subjects()] == []
        assert await timers(bus, "box:1") == []


async def test_a_rule_that_is_gone_leaves_a_dead_letter(place: Place) -> None:
    """What waits for it is not dropped."""
    async with place.bus(Search(Debounce(5)).rules) as bus:
        await typed(bus, "a")
    async with place.bus() as bus:
        await bus.advance(10 * SECOND)
        (letter,) = await dead(bus)
        assert "search.look" in letter.failure.message
    search = Search(Debounce(5))
    async with place.bus(search.rules) as bus:
        await bus.replay(letter.id)
        assert [text for _, text in search.ran] == ["a"]


async def test_conditions_are_tested_again(place: Place) -> None:
    """What was true of the event may not be any more."""
    rules = RuleSet("search", subject=Box)

    @rules.on("typed", middleware=[Debounce(5)])
    @when(lambda ctx: ctx.subject.n == 0)
    def look(ctx: Context[Box]) -> None:
        ctx.subject.seen.append(ctx.payload)

    rules.on("busy", name="busy")(lambda ctx: ctx.subject.set("n", 1))
    async with place.bus(rules) as bus:
        await typed(bus, "a")
        await bus.emit("busy", "box:1")
        await bus.advance(10 * SECOND)
        assert await seen(bus) == []


async def test_reactions_can_wait(place: Place) -> None:
    """The rule is run on the last change as it was."""
    rules = RuleSet("search", subject=Box)
    rules.on("typed", name="count")(lambda ctx: ctx.subject.set("n", lambda n: n + 1))

    @rules.on(changed("n"), middleware=[Debounce(5)])
    def tell(ctx: Context[Box]) -> None:
        ctx.subject.seen.append([ctx.old_value, ctx.new_value])

    async with place.bus(rules) as bus:
        await typed(bus, 1, 2, 3)
        await bus.advance(10 * SECOND)
        assert await seen(bus) == [[2, 3]]


async def test_a_rule_that_reacts_to_what_it_did_itself_waits_again(place: Place) -> None:
    """The reaction is no event that a timer has brought."""
    rules = RuleSet("search", subject=Box)

    @rules.on("typed", changed("n"), middleware=[Debounce(5)])
    def look(ctx: Context[Box]) -> None:
        ctx.subject.seen.append([(ctx.now - NOON).total_seconds(), ctx.event_type])
        if ctx.subject.n < 2:
            ctx.subject.n += 1

    async with place.bus(rules) as bus:
        await typed(bus, 1)
        await bus.advance(60 * SECOND)
        changes = [[10.0, "subject-property-changed"], [15.0, "subject-property-changed"]]
        assert await seen(bus) == [[5.0, "typed"], *changes]


@pytest.mark.parametrize("deliver", ["last", "all"])
async def test_what_the_rule_defers_itself_is_run_as_it_is(place: Place, deliver: Any) -> None:
    """It does not wait for quiet, nor is it a batch."""
    rules = RuleSet("search", subject=Box)

    @rules.on("typed", middleware=[Debounce(5, deliver=deliver)])
    def look(ctx: Context[Box]) -> None:
        ctx.subject.seen.append((ctx.now - NOON).total_seconds())
        if len(ctx.subject.seen) < 3:
            ctx.defer(key="mine", delay=SECOND)
        if len(ctx.subject.seen) > 1:
            assert ctx.get_metadata("debounced") is None

    async with place.bus(rules) as bus:
        await typed(bus, 1)
        await bus.advance(60 * SECOND)
        assert await seen(bus) == [5.0, 6.0, 7.0]


# -- all of them


async def test_a_rule_can_be_given_all_events(place: Place) -> None:
    """As they came, with their ids, oldest first; it is run on the last."""
    batches: list[list[Event]] = []
    rules = RuleSet("search", subject=Box)

    @rules.on("typed", middleware=[Debounce(5, deliver="all")])
    def look(ctx: Context[Box]) -> None:
        batches.append(ctx.get_metadata("debounced"))
        assert ctx.payload == batches[-1][-1].data

    async with place.bus(rules) as bus:
        payloads: list[Any] = ["a", {"deep": [[1], {"x": None}]}, None, b"\x00\xff"]
        sent = [(await bus.emit("typed", "box:1", data)).event for data in payloads]
        await bus.advance(5 * SECOND)
        assert batches == [sent]
        assert (await bus.read("box:1")).ext == {}


async def test_a_full_batch_is_run_at_once(place: Place) -> None:
    """With the event that has filled it; its timer is cancelled, and the next one begins."""
    search = Search(Debounce(5, deliver="all", limit=3))
    async with place.bus(search.rules) as bus:
        await typed(bus, 0, 1, 2)
        assert await timers(bus, "box:1") == []
        await typed(bus, 3, 4, 5, 6)
        assert search.ran == [(2.0, [0, 1, 2]), (5.0, [3, 4, 5])]
        await bus.advance(30 * SECOND)
        assert search.ran[2:] == [(11.0, [6])]
        assert await timers(bus, "box:1") == []
        assert (await bus.read("box:1")).ext == {}


async def test_a_batch_of_large_events_is_run_at_once(place: Place) -> None:
    """A subject is stored with each of its events, so it must not grow without bounds."""
    search = Search(Debounce(5, deliver="all"))
    async with place.bus(search.rules) as bus:
        await typed(bus, *("x" * 300_000 for _ in range(4)))
        assert [len(batch) for _, batch in search.ran] == [4]


async def test_what_has_been_handed_over_takes_no_room(place: Place) -> None:
    """Also where a part of what waits was handed over."""
    search = Search(Debounce(5, deliver="all"))
    async with place.bus(search.rules) as bus:
        await typed(bus, "a" * 600_000, pause=0)
        place.clock.advance(60 * SECOND)  # nobody looks for timers meanwhile
        await typed(bus, "b" * 300_000, pause=0)
        await typed(bus, "c" * 600_000, pause=10)
        assert [(time, [text[0] for text in batch]) for time, batch in search.ran] == [
            (60.0, ["a"]),
            (65.0, ["b", "c"]),
        ]


async def test_a_full_batch_that_fails_is_retried_as_a_whole(place: Place) -> None:
    """And its event is in it once."""
    search = Search(Debounce(5, deliver="all", limit=3), retry=RetryPolicy(attempts=2, delay=SECOND, jitter=0))
    search.fails = 1
    async with place.bus(search.rules) as bus:
        await typed(bus, 0, 1, 2, pause=0)
        await bus.advance(30 * SECOND)
        assert search.ran == [(1.0, [0, 1, 2])]
        assert await seen(bus) == [[0, 1, 2]]


# -- failures


@pytest.mark.parametrize("deliver", ["last", "all"])
@pytest.mark.parametrize("in_order", [True, False])
async def test_a_batch_that_fails_is_retried_and_nothing_comes_twice(
    place: Place, deliver: Any, in_order: bool
) -> None:
    """Events that come meanwhile are a batch of their own; where they may go ahead, they take along what has failed."""
    search = Search(
        Debounce(5, deliver=deliver),
        retry=RetryPolicy(attempts=3, delay=7 * SECOND, factor=1, jitter=0, in_order=in_order),
    )
    search.fails = 1
    async with place.bus(search.rules) as bus:
        await typed(bus, "a", "b", pause=0)
        await bus.advance(6 * SECOND)
        await typed(bus, "c", pause=0)
        await bus.advance(60 * SECOND)
        # Quiet at 5, failed; retried at 12. The other comes at 6, is handled at 12 or at once, and is quiet 5 later.
        ahead = {"last": [(11.0, "c"), (12.0, "b")], "all": [(11.0, ["a", "b", "c"])]}
        behind = {"last": [(12.0, "b"), (17.0, "c")], "all": [(12.0, ["a", "b"]), (17.0, ["c"])]}
        assert search.ran == (behind if in_order else ahead)[deliver]
        assert (await bus.read("box:1")).ext == {}
        assert await dead(bus) == []


async def test_what_a_dead_batch_could_not_hand_over_comes_with_the_next(place: Place) -> None:
    """And not again when the dead letter is replayed."""
    search = Search(Debounce(5, deliver="all"))
    search.fails = 1
    async with place.bus(search.rules) as bus:
        await typed(bus, "a", "b")
        await bus.advance(10 * SECOND)
        (letter,) = await dead(bus)
        await typed(bus, "c")
        await bus.advance(10 * SECOND)
        assert [batch for _, batch in search.ran] == [["a", "b", "c"]]
        (run,) = (await bus.replay(letter.id)).runs
        assert run.status == "stopped"
        assert len(search.ran) == 1


async def test_of_a_last_event_that_failed_for_good_nothing_is_left(place: Place) -> None:
    """The dead letter has it."""
    search = Search(Debounce(5))
    search.fails = 1
    async with place.bus(search.rules) as bus:
        await typed(bus, "a", "b", pause=10)
        assert [text for _, text in search.ran] == ["b"]
        assert (await bus.read("box:1")).ext == {}
        (letter,) = await dead(bus)
        await bus.replay(letter.id)
        assert [text for _, text in search.ran] == ["b", "a"]


async def test_what_is_known_of_dead_batches_is_bounded(place: Place) -> None:
    """A subject does not grow with each; the events are all handed over in the end."""
    search = Search(Debounce(5, deliver="all"))
    search.fails = 30
    async with place.bus(search.rules) as bus:
        await typed(bus, *range(30), pause=10)
        assert len((await bus.read("box:1")).ext[EXT]["old"]) == 20
        await typed(bus, 30, pause=10)
        assert [batch for _, batch in search.ran] == [list(range(31))]


async def test_a_dead_batch_can_be_replayed(place: Place) -> None:
    """With all its events."""
    search = Search(Debounce(5, deliver="all"))
    search.fails = 1
    async with place.bus(search.rules) as bus:
        await typed(bus, "a", "b")
        await bus.advance(10 * SECOND)
    async with place.bus(search.rules) as bus:
        (letter,) = await dead(bus)
        await bus.replay(letter.id)
        assert [batch for _, batch in search.ran] == [["a", "b"]]
        await bus.advance(60 * SECOND)
        assert len(search.ran) == 1


async def test_a_batch_that_is_stopped_further_in_comes_with_the_next(place: Place) -> None:
    """The rule has not seen it, so nothing of it is let go."""
    search = Search(Debounce(5, deliver="all"), Throttle(60))
    async with place.bus(search.rules) as bus:
        for moment in (0, 10, 20, 90):
            await bus.advance(NOON + moment * SECOND - place.clock.now())
            await typed(bus, moment, moment + 1, pause=0)
        await bus.advance(600 * SECOND)
        assert search.ran == [(5.0, [0, 1]), (95.0, [10, 11, 20, 21, 90, 91])]
        assert not any(name.startswith(EXT) for name in (await bus.read("box:1")).ext)


async def test_a_batch_that_a_throttle_puts_off_is_run_when_its_time_comes(place: Place) -> None:
    """With those before it, and with nothing that has come since and is not quiet yet."""
    search = Search(Debounce(5, deliver="all"), Throttle(60, trailing=True))
    async with place.bus(search.rules) as bus:
        for moment in (0, 10, 20, 63):
            await bus.advance(NOON + moment * SECOND - place.clock.now())
            await typed(bus, moment, moment + 1, pause=0)
        await bus.advance(600 * SECOND)
        assert search.ran == [(5.0, [0, 1]), (65.0, [10, 11, 20, 21]), (125.0, [63, 64])]
        assert not any(name.startswith(EXT) for name in (await bus.read("box:1")).ext)


async def test_a_full_batch_that_is_stopped_further_in_takes_no_more(place: Place) -> None:
    """But for what has filled it. The outcome of each says that it was stopped; all that waits comes when it may."""
    search = Search(Debounce(5, deliver="all", limit=3), Throttle(60))
    async with place.bus(search.rules) as bus:
        await typed(bus, 0, pause=10)
        await typed(bus, 1, 2, pause=0)
        (run,) = (await bus.emit("typed", "box:1", 3)).runs
        assert (run.status, run.stopped_by) == ("stopped", "Throttle")
        await typed(bus, "too many", pause=60)
        await typed(bus, 4, pause=60)
        assert [batch for _, batch in search.ran] == [[0], [1, 2, 3, 4]]
        assert (await bus.read("box:1")).ext.keys() == {"onwhen.throttle/search.look"}


@pytest.mark.parametrize("limit", [1, 3])
async def test_a_full_batch_that_a_throttle_puts_off_is_run_when_its_time_comes(place: Place, limit: int) -> None:
    """With the event that has filled it; no timer that was set for it before hands it over again."""
    search = Search(Debounce(90, deliver="all", limit=limit), Throttle(60, trailing=True))
    async with place.bus(search.rules) as bus:
        await typed(bus, *range(limit), pause=0)
        await typed(bus, *range(limit, 2 * limit), pause=0)
        await bus.advance(600 * SECOND)
        assert search.ran == [(0.0, list(range(limit))), (60.0, list(range(limit, 2 * limit)))]
        assert await timers(bus, "box:1") == []
        assert not any(name.startswith(f"{EXT}/") for name in (await bus.read("box:1")).ext)


async def test_a_batch_that_is_put_off_further_in_stays_together(place: Place) -> None:
    """By a rate limit, for instance."""
    closed = 2

    async def gate(ctx: Context[Box], next: Any) -> None:
        nonlocal closed
        if closed:
            closed -= 1
            raise Postponed("closed", delay=SECOND)
        await next()

    rules = RuleSet("search", subject=Box, retry=RetryPolicy(jitter=0))

    @rules.on("typed", middleware=[Debounce(5, deliver="all"), gate])
    def look(ctx: Context[Box]) -> None:
        ctx.subject.seen.append([event.data for event in ctx.get_metadata("debounced")])

    async with place.bus(rules) as bus:
        await typed(bus, "a", "b", pause=0)
        await bus.advance(30 * SECOND)
        assert await seen(bus) == [["a", "b"]]


# -- against a model


def quiet(pauses: Sequence[float], wait: float, max_wait: float | None) -> list[tuple[float, list[int]]]:
    """Return when a rule is run and on what, worked out without timers: event k comes after the sum of pauses[:k]."""
    found: list[tuple[float, list[int]]] = []
    now, first, batch = 0.0, 0.0, []
    due = None
    for number, pause in enumerate(pauses):
        if due is not None and due <= now:
            found.append((due, batch))
            batch = []
        first = first if batch else now
        batch = [*batch, number]
        due = now + wait if max_wait is None else min(now + wait, first + max_wait)
        now += pause
    return [*found, (due, batch)] if due is not None else found


@settings(max_examples=60, deadline=None)
@given(
    pauses=st.lists(st.integers(0, 8), max_size=25),
    max_wait=st.none() | st.integers(5, 20),
    deliver=st.sampled_from(["last", "all"]),
    restarts=st.sets(st.integers(0, 24)),
)
async def test_it_does_what_a_simple_model_says(
    pauses: Sequence[int], max_wait: int | None, deliver: Any, restarts: set[int]
) -> None:
    """At the moments and on the events of the model, wherever the bus is closed and opened again; nothing is left."""
    search = Search(Debounce(5, max_wait=max_wait, deliver=deliver))
    place = place_of("memory", Path())
    numbers = list(enumerate(pauses))
    while numbers:
        async with place.bus(search.rules) as bus:
            while numbers:
                number, pause = numbers.pop(0)
                await typed(bus, number, pause=pause)
                if number in restarts:
                    break
    async with place.bus(search.rules) as bus:
        await bus.advance(60 * SECOND)
        expected = quiet(pauses, 5, max_wait)
        assert search.ran == [(time, batch if deliver == "all" else batch[-1]) for time, batch in expected]
        assert [timer async for timer in bus.store.timers()] == []
        assert (await bus.read("box:1")).ext == {}


@settings(max_examples=60, deadline=None)
@given(
    pauses=st.lists(st.integers(0, 8), min_size=1, max_size=20),
    fails=st.lists(st.booleans(), max_size=10),
    limit=st.integers(1, 6),
    in_order=st.booleans(),
    late=st.sets(st.integers(0, 19)),
    throttled=st.booleans(),
)
@example(
    pauses=[5, 5, 0], fails=[True, True, True, True], limit=1, in_order=False, late=set(), throttled=True
)  # the retry of [1] comes when Throttle has put off [1, 2]
async def test_no_event_is_lost_or_comes_twice(
    pauses: Sequence[int], fails: list[bool], limit: int, in_order: bool, late: set[int], throttled: bool
) -> None:
    """However runs fail, batches fill or are put off, and timers are late: in the end each was handed over once."""
    rules = RuleSet("search", subject=Box)
    script = [*fails]

    @rules.on(
        "typed",
        middleware=[Debounce(5, deliver="all"), Throttle(12, trailing=True)]
        if throttled
        else [Debounce(5, deliver="all", limit=limit)],
        retry=RetryPolicy(attempts=20, delay=3 * SECOND, jitter=0, in_order=in_order),
    )
    def look(ctx: Context[Box]) -> None:
        ctx.subject.seen.extend(event.data for event in ctx.get_metadata("debounced"))
        if script and script.pop(0):
            raise OSError

    clock = VirtualClock(NOON)
    async with EventBus(rules, store=create_memory_storage(), clock=clock) as bus:
        for number, pause in enumerate(pauses):
            await bus.emit("typed", "box:1", number)
            if number in late:
                clock.advance(pause * SECOND)  # and nobody looks for timers
            else:
                await bus.advance(pause * SECOND)
        await bus.advance(timedelta(hours=1))
        handed_over = await seen(bus)
        assert sorted(handed_over) == list(range(len(pauses)))
        assert not in_order or handed_over == sorted(handed_over)
        assert [timer async for timer in bus.store.timers()] == []


# -- options


async def test_around_events_it_is_refused() -> None:
    """It is for rules."""
    bus = EventBus(Search(Debounce(1)).rules, store=create_memory_storage())
    bus.use(Debounce(1), scope="event")
    async with bus:
        assert isinstance((await bus.emit("typed", "box:1")).error, MiddlewareError)


@pytest.mark.parametrize(
    "options",
    [
        {"wait": 0},
        {"wait": "1"},
        {"wait": 1, "max_wait": 0.5},
        {"wait": 1, "deliver": "first"},
        {"wait": 1, "limit": 0},
    ],
)
def test_options_are_checked_when_it_is_made(options: dict[str, Any]) -> None:
    """With the name of the one that is wrong."""
    with pytest.raises(RuleDefinitionError, match=f"Debounce: {list(options)[-1]}="):
        Debounce(**options)
