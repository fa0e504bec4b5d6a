"""Rules that are put off: run again later, as often as it takes, without using up attempts."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from onwhen import Context, Event, EventBus, RetryPolicy, RuleSet, Subject, VirtualClock, changed, create_memory_storage
from onwhen.errors import Postponed, RuleDefinitionError, SubjectStateError, UnknownRule

START = datetime(2024, 2, 29, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ONCE = RetryPolicy(jitter=0)


class Thing(Subject, prefix="thing:"):
    n: int = 0
    seen: list[str] = []


class Desk:
    """A bus on a virtual clock, and a rule set that is closed for as long as somebody says."""

    def __init__(self) -> None:
        self.rules = RuleSet("r", subject=Thing, retry=ONCE)
        self.clock = VirtualClock(START)
        self.bus = EventBus(self.rules, store=create_memory_storage(), clock=self.clock)
        self.closed = 0
        self.calls = 0

    async def gate(self, ctx: Any, next: Any) -> None:
        if self.closed:
            self.closed -= 1
            raise Postponed("closed for now", delay=MINUTE)
        await next()

    def work(self, ctx: Context[Thing]) -> None:
        self.calls += 1
        ctx.subject.seen.append(ctx.event.id)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    async with desk.bus:
        yield desk


async def test_what_is_put_off_is_run_again_and_uses_up_no_attempt(desk: Desk) -> None:
    """Ten times, with a policy that allows one attempt; it comes no earlier than it was told to."""
    desk.closed = 10
    desk.rules.on("go", middleware=[desk.gate])(desk.work)
    receipt = await desk.bus.emit("go", "thing:1")
    (run,) = receipt.runs
    assert (run.status, run.retry_at, run.attempt) == ("postponed", START + MINUTE, 1)
    assert isinstance(run.error, Postponed)
    assert not receipt.ok
    for minute in range(1, 11):
        await desk.bus.advance(MINUTE - timedelta(microseconds=1))
        assert desk.calls == 0
        await desk.bus.advance(timedelta(microseconds=1))
        assert desk.calls == (minute == 10)
    assert [letter async for letter in desk.bus.dead_letters()] == []


async def test_a_failure_after_that_counts_as_the_first_one(desk: Desk) -> None:
    """Two attempts are two failures, wherever it was put off between them."""
    outcomes: list[str] = []
    script = ["later", "fail", "later", "fail"]

    @desk.rules.on("go", retry=RetryPolicy(attempts=2, delay=MINUTE, jitter=0))
    def moody(ctx: Context[Thing]) -> None:
        outcomes.append(step := script[len(outcomes)])
        if step == "later":
            raise Postponed("not now", delay=MINUTE)
        raise ValueError(step)

    await desk.bus.emit("go", "thing:1")
    await desk.bus.advance(10 * MINUTE)
    assert outcomes == script
    (letter,) = [letter async for letter in desk.bus.dead_letters()]
    assert (letter.failure.type, letter.attempts) == ("ValueError", 4)


async def test_what_a_rule_did_before_it_put_itself_off_is_undone(desk: Desk) -> None:
    """Other rules of the event go on."""

    @desk.rules.on("go")
    def half_way(ctx: Context[Thing]) -> None:
        ctx.subject.n = 7
        ctx.emit("half.way")
        raise Postponed("not now", delay=MINUTE)

    desk.rules.on("go")(desk.work)
    receipt = await desk.bus.emit("go", "thing:1")
    assert [run.status for run in receipt.runs] == ["postponed", "fired"]
    assert receipt.sent == ()
    assert (await desk.bus.read("thing:1")).get("n") == 0


async def test_later_events_wait_for_it_if_the_policy_keeps_order(desk: Desk) -> None:
    """Then they are handled in the order in which they came."""
    desk.closed = 1
    desk.rules.on("go", middleware=[desk.gate])(desk.work)
    await desk.bus.emit("go", "thing:1", id="a")
    assert (await desk.bus.emit("go", "thing:1", id="b")).status == "waiting"
    await desk.bus.advance(MINUTE)
    assert (await desk.bus.read("thing:1")).get("seen") == ["a", "b"]


async def test_they_go_on_if_it_does_not(desk: Desk) -> None:
    """The one that was put off comes when it is due."""
    desk.closed = 1
    desk.rules.on("go", middleware=[desk.gate], retry=RetryPolicy(in_order=False, jitter=0))(desk.work)
    await desk.bus.emit("go", "thing:1", id="a")
    await desk.bus.emit("go", "thing:1", id="b")
    assert (await desk.bus.read("thing:1")).get("seen") == ["b"]
    await desk.bus.advance(MINUTE)
    assert (await desk.bus.read("thing:1")).get("seen") == ["b", "a"]


async def test_a_whole_event_can_be_put_off(desk: Desk) -> None:
    """By a middleware around the event: no rule is run until then."""
    desk.closed = 2
    desk.bus.use(desk.gate, scope="event")
    desk.rules.on("go")(desk.work)
    receipt = await desk.bus.emit("go", "thing:1")
    assert isinstance(receipt.error, Postponed)
    await desk.bus.advance(1.1 * MINUTE)  # the jitter of the bus's policy included
    assert desk.calls == 0
    await desk.bus.advance(1.1 * MINUTE)
    assert desk.calls == 1


async def test_the_jitter_of_the_policy_is_added(desk: Desk) -> None:
    """So that what was put off by the same cause does not come back all at once."""
    rules = RuleSet("jittered", subject=Thing, retry=RetryPolicy(jitter=0.5))
    desk.bus.include(rules)
    desk.closed = 100
    rules.on("go", middleware=[desk.gate])(desk.work)
    due = [(await desk.bus.emit("go", f"thing:{n}")).runs[0].retry_at for n in range(50)]
    moments = [moment for moment in due if moment is not None]
    assert min(moments) >= START + MINUTE
    assert max(moments) <= START + 1.5 * MINUTE
    assert len(set(moments)) > 40


@pytest.mark.parametrize("delay", [5, timedelta(seconds=-1), None])
def test_a_delay_that_cannot_be_is_refused(delay: Any) -> None:
    """Where it is raised, not where it would be planned."""
    with pytest.raises(RuleDefinitionError, match="delay="):
        Postponed("no", delay=delay)


# -- deferred: this rule, on this event, later


async def test_a_deferred_rule_is_run_on_the_same_data_and_no_other_rule_is(desk: Desk) -> None:
    """It sees that it was deferred; its timer has its own id and the event's correlation."""
    seen: list[tuple[bool, Any, datetime]] = []

    @desk.rules.on("go")
    def patient(ctx: Context[Thing]) -> None:
        seen.append((ctx.deferred, ctx.payload, ctx.now))
        if not ctx.deferred:
            ctx.defer(key="patience", delay=MINUTE)

    desk.rules.on("go")(desk.work)
    receipt = await desk.bus.emit("go", "thing:1", {"a": 1})
    assert desk.calls == 1
    (timer,) = receipt.timers
    assert (timer.key, timer.due, timer.event.data) == ("patience", START + MINUTE, {"a": 1})
    assert timer.event.correlation_id == receipt.event.id
    assert timer.event.id != receipt.event.id
    await desk.bus.advance(2 * MINUTE)
    assert seen == [(False, {"a": 1}, START), (True, {"a": 1}, START + MINUTE)]
    assert desk.calls == 1


async def test_deferring_once_more_takes_the_place_of_the_timer(desk: Desk) -> None:
    """As with any other timer of one key; and `cancel` takes it back."""
    ran: list[str] = []

    @desk.rules.on("go")
    def last(ctx: Context[Thing]) -> None:
        if ctx.deferred:
            ran.append(ctx.payload)
        elif ctx.payload == "stop":
            ctx.cancel("last")
        else:
            ctx.defer(key="last", delay=MINUTE)

    for word in ("a", "b"):
        await desk.bus.emit("go", "thing:1", word)
    await desk.bus.advance(2 * MINUTE)
    assert ran == ["b"]
    for word in ("c", "stop"):
        await desk.bus.emit("go", "thing:1", word)
    await desk.bus.advance(2 * MINUTE)
    assert ran == ["b"]


async def test_a_rule_on_a_property_can_be_deferred(desk: Desk) -> None:
    """It is given the change as it was; what it changes has reactions of any rule."""
    values: list[Any] = []
    reacted: list[bool] = []

    @desk.rules.on("go")
    def count(ctx: Context[Thing]) -> None:
        ctx.subject.n += 1

    @desk.rules.on(changed("n"))
    def later(ctx: Context[Thing]) -> None:
        if ctx.deferred:
            values.append((ctx.old_value, ctx.new_value))
            ctx.subject.seen.append("x")
        else:
            ctx.defer(key="later", at=START + MINUTE)

    @desk.rules.on(changed("seen"))
    def react(ctx: Context[Thing]) -> None:
        reacted.append(ctx.deferred)

    await desk.bus.emit("go", "thing:1")
    await desk.bus.advance(MINUTE)
    assert values == [(0, 1)]
    assert reacted == [False]


async def test_a_rule_that_is_gone_when_its_time_comes_leaves_a_dead_letter(desk: Desk) -> None:
    """Nothing that was to be done is silently dropped."""
    rules = RuleSet("gone", subject=Thing)

    @rules.on("go")
    def absent(ctx: Context[Thing]) -> None:
        ctx.defer(key="k", delay=MINUTE)

    desk.bus.include(rules)
    await desk.bus.emit("go", "thing:1")
    desk.bus.exclude(rules)
    await desk.bus.advance(MINUTE)
    (letter,) = [letter async for letter in desk.bus.dead_letters()]
    assert letter.failure.type == f"{UnknownRule.__module__}.{UnknownRule.__qualname__}"


async def test_a_failed_deferred_run_is_retried_as_that(desk: Desk) -> None:
    """Its policy holds, and it is still the only rule."""
    ran: list[tuple[bool, int]] = []

    @desk.rules.on("go", retry=RetryPolicy(attempts=2, delay=MINUTE, jitter=0))
    def shaky(ctx: Context[Thing]) -> None:
        if not ctx.deferred:
            ctx.defer(key="k", delay=MINUTE)
            return
        ran.append((ctx.deferred, ctx.attempt))
        if ctx.attempt == 1:
            raise ValueError

    desk.rules.on("go")(desk.work)
    await desk.bus.emit("go", "thing:1")
    await desk.bus.advance(5 * MINUTE)
    assert ran == [(True, 1), (True, 2)]
    assert desk.calls == 1


async def test_what_defer_cannot_do_is_said(desk: Desk) -> None:
    """No moment, and no rule."""
    errors: list[Exception] = []

    async def around(ctx: Any, next: Any) -> None:
        try:
            ctx.defer(key="k", delay=MINUTE)
        except SubjectStateError as error:
            errors.append(error)
        await next()

    @desk.rules.on("go")
    def hasty(ctx: Context[Thing]) -> None:
        ctx.defer(key="k")

    desk.bus.use(around, scope="event")
    receipt = await desk.bus.emit("go", "thing:1")
    assert len(errors) == 1
    assert isinstance(receipt.runs[0].error, ValueError)


# -- stamps, and what else middleware is given


async def test_stamps_are_given_to_all_that_a_run_emits(desk: Desk) -> None:
    """Those of the event to rules without their own; given extensions win."""

    async def around(ctx: Any, next: Any) -> None:
        ctx.stamp(trace="event")
        await next()

    async def of_rule(ctx: Any, next: Any) -> None:
        ctx.stamp(trace="rule")
        await next()

    @desk.rules.on("go")
    def plain(ctx: Context[Thing]) -> None:
        ctx.emit("a")
        ctx.emit("b", extensions={"trace": "own"})

    @desk.rules.on("go", middleware=[of_rule])
    def stamped(ctx: Context[Thing]) -> None:
        ctx.emit("c", delay=MINUTE)
        ctx.defer(key="later", delay=MINUTE)

    desk.bus.use(around, scope="event")
    receipt = await desk.bus.emit("go", "thing:1")
    events = [*receipt.sent, *(timer.event for timer in receipt.timers)]
    assert {event.type: event.extensions["trace"] for event in events} == {
        "a": "event", "b": "own", "c": "rule", "go": "rule",
    }  # fmt: skip


async def test_a_middleware_stamps_what_is_emitted_from_outside(desk: Desk) -> None:
    """By type, and by changes outside of a turn; whole events are left as they are."""

    class Stamper:
        scopes = ("event",)

        def stamp(self, given: Any) -> dict[str, str]:
            return {} if "trace" in given else {"trace": "outside"}

        async def __call__(self, ctx: Any, next: Any, /) -> None:
            await next()

    seen: list[tuple[str, Any]] = []

    @desk.rules.on("*")
    def look(ctx: Context[Thing]) -> None:
        seen.append((ctx.event_type, ctx.event.extensions.get("trace")))

    desk.bus.use(Stamper())
    await desk.bus.emit("go", "thing:1")
    await desk.bus.emit("own", "thing:1", extensions={"trace": "mine"})
    await desk.bus.emit(Event("whole", "thing:1"))
    async with desk.bus.subject("thing:1") as thing:
        thing.set("n", 5)
    await desk.bus.idle()
    assert seen == [("go", "outside"), ("own", "mine"), ("whole", None), ("subject-property-changed", "outside")]


async def test_a_middleware_may_say_itself_where_it_belongs(desk: Desk) -> None:
    """`use` without a scope asks for its `scopes`; with one, that counts."""
    places: list[str] = []

    class Both:
        scopes = ("event", "rule")

        async def __call__(self, ctx: Any, next: Any, /) -> None:
            places.append("event" if ctx.rule is None else "rule")
            await next()

    desk.rules.on("go")(desk.work)
    desk.bus.use(Both())
    await desk.bus.emit("go", "thing:1")
    assert places == ["event", "rule"]
    places.clear()
    desk.bus.use(Both(), scope="event")
    await desk.bus.emit("go", "thing:1")
    assert places == ["event", "event", "rule"]

    class Nowhere(Both):
        scopes = ("nowhere",)  # type: ignore[assignment]

    with pytest.raises(RuleDefinitionError, match="nowhere"):
        desk.bus.use(Nowhere())


async def test_a_context_knows_its_bus_and_its_partition(desk: Desk) -> None:
    """So a middleware has a clock and a store without being given them."""
    facts: list[Any] = []

    @desk.rules.on("go")
    def look(ctx: Context[Thing]) -> None:
        facts.extend((ctx.bus, ctx.partition))

    await desk.bus.emit("go", "thing:1")
    assert facts == [desk.bus, 0]
