"""The bus: receipts, observers, and rules that come and go."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from onwhen import (
    Context,
    Event,
    EventBus,
    Limits,
    Outcome,
    RetryPolicy,
    RuleSet,
    Subject,
    VirtualClock,
    create_memory_storage,
    when,
)
from onwhen.errors import (
    ContainerError,
    EventTooLarge,
    InvalidEvent,
    RuleFailed,
)
from tests.engine.buses import NOON, counter, new_bus, value

# -- receipts


async def test_the_receipt_says_what_every_rule_did() -> None:
    """Fired, skipped by a condition, failed with an error, stopped by a middleware; changes, messages, timers."""
    desk = RuleSet("desk")

    async def nobody_passes(ctx: Context, next: Callable[[], Awaitable[None]]) -> None: ...

    @desk.on("opened")
    async def fires(ctx: Context) -> None:
        ctx.subject.set("status", "open")
        await ctx.emit("told", {"who": "all"}, "crowd")

    @desk.on("opened")
    @when(lambda ctx: False)
    def skips(ctx: Context) -> None: ...

    @desk.on("opened")
    def fails(ctx: Context) -> None:
        raise LookupError("not there")

    @desk.on("opened", middleware=[nobody_passes])
    def stops(ctx: Context) -> None: ...

    receipt = await new_bus(desk).emit("opened", "door")
    assert {run.rule: run.status for run in receipt.runs} == {
        "desk.fires": "fired",
        "desk.skips": "skipped",
        "desk.fails": "failed",
        "desk.stops": "stopped",
    }
    assert receipt.status == "handled"
    assert receipt.fired == ("desk.fires",)
    assert receipt.runs[1].condition is not None
    assert receipt.runs[3].stopped_by == "nobody_passes"
    assert [(change.property, change.new) for change in receipt.changes] == [("status", "open")]
    assert [(event.type, event.subject) for event in receipt.sent] == [("told", "crowd")]
    assert [(rule, str(error)) for rule, error in receipt.failures] == [("desk.fails", "not there")]
    assert not receipt.ok
    with pytest.raises(RuleFailed, match=r"desk\.fails: LookupError"):
        receipt.raise_for_failure()


async def test_the_receipt_has_the_whole_cascade() -> None:
    """Each message that follows has a receipt of its own, as deep as it goes, failures included."""
    chain = RuleSet("chain")

    @chain.on("step")
    async def step(ctx: Context) -> None:
        await asyncio.sleep(0)
        left = ctx.payload["left"]
        ctx.subject.set("left", left)
        if not left:
            raise LookupError("the end")
        ctx.emit("step", {"left": left - 1}, f"s{left - 1}")
        ctx.emit("noted", None, "log")

    receipt = await new_bus(chain).emit("step", "s3", {"left": 3})
    told = [(one.event.type, one.event.subject, one.event.depth) for one in receipt.walk()]
    assert told == [
        ("step", "s3", 0),
        ("step", "s2", 1),
        ("step", "s1", 2),
        ("step", "s0", 3),
        ("noted", "log", 3),
        ("noted", "log", 2),
        ("noted", "log", 1),
    ]
    assert all(one.status == "handled" for one in receipt.walk())
    assert {one.event.correlation_id for one in receipt.walk()} == {receipt.event.id}
    assert [str(error) for _, error in receipt.failures] == ["the end"]


async def test_a_message_to_its_own_subject() -> None:
    """It is handled after its cause, in a turn of its own; then nothing is pending."""
    rules = RuleSet("rules")

    @rules.on("first")
    def first(ctx: Context) -> None:
        ctx.subject.set("order", ["first"])
        ctx.emit("second")

    @rules.on("second")
    def second(ctx: Context) -> None:
        ctx.subject.set("order", [*ctx.subject.get("order"), "second"])

    bus = new_bus(rules)
    for _ in range(2):
        await bus.emit("first", "a")
        assert await value(bus, "a", "order") == ["first", "second"]
    assert (await bus.store.stats()).pending == 0


async def test_emit_takes_a_type_or_a_whole_event() -> None:
    """Type, subject and data, or an envelope from elsewhere that keeps its own attributes."""
    bus = new_bus(source="/desk", clock=VirtualClock(NOON))
    receipt = await bus.emit("opened", bus.subject("door"), {"by": "me"}, id="1", extensions={"tenant": "a"})
    event = receipt.event
    assert (event.type, event.subject, event.id, event.source) == ("opened", "door", "1", "/desk")
    assert dict(event.data) == {"by": "me"}
    assert event.extensions == {"tenant": "a"}
    assert event.time == NOON
    foreign = Event("closed", "door", source="/elsewhere", id="7")
    assert (await bus.emit(foreign)).event is foreign


async def test_what_cannot_be_an_event_is_refused_before_anything_is_accepted() -> None:
    """A missing subject, data that is no JSON, data over the limit, a source that is none: errors, and no event."""
    bus = new_bus(limits=Limits(max_event_bytes=100))
    with pytest.raises(InvalidEvent, match="subject"):
        await bus.emit("opened")
    with pytest.raises(InvalidEvent, match="data"):
        await bus.emit("opened", "door", object())
    with pytest.raises(EventTooLarge, match="max_event_bytes"):
        await bus.emit("opened", "door", "x" * 200)
    with pytest.raises(InvalidEvent, match="source"):
        new_bus(source="a\nb")
    assert (await bus.store.stats()).pending == 0


async def test_an_event_is_accepted_once() -> None:
    """A second one of the same source and id is a duplicate: nothing is done, and the receipt says so."""
    bus = new_bus(counter())
    assert (await bus.emit("counted", "a", {}, id="1")).status == "handled"
    again = await bus.emit("counted", "a", {}, id="1")
    assert (again.status, again.runs) == ("duplicate", ())
    assert (await bus.emit("counted", "a", {}, id="2")).status == "handled"
    assert await value(bus, "a", "n") == 2


async def test_a_duplicate_of_an_event_that_is_being_handled() -> None:
    """It does not wait for the first one, and does not run anything twice."""
    bus = new_bus(counter())
    first = asyncio.create_task(bus.emit("counted", "a", {"steps": 5}, id="1"))
    await asyncio.sleep(0)
    assert (await bus.emit("counted", "a", {"steps": 5}, id="1")).status == "duplicate"
    assert (await first).status == "handled"
    assert await value(bus, "a", "n") == 1


# -- observers


async def test_observers_are_told_of_every_turn() -> None:
    """In the order of the commits, until they are taken away; doing that twice is no error."""
    rules = RuleSet("rules")

    @rules.on("first")
    async def first(ctx: Context) -> None:
        await asyncio.sleep(0)
        ctx.emit("second", None, "b")

    outcomes: list[Outcome] = []
    bus = new_bus(rules)
    end = bus.observe(outcomes.append)
    await bus.emit("first", "a")
    assert [outcome.event.type for outcome in outcomes] == ["first", "second"]
    end()
    end()
    await bus.emit("first", "a")
    assert len(outcomes) == 2


async def test_an_observer_that_fails_breaks_nothing() -> None:
    """Its error goes to the loop's exception handler; messages go on, others are told, the emitter gets its receipt."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, details: told.append(details))
    rules, outcomes = counter(), []

    @rules.on("first")
    def first(ctx: Context) -> None:
        ctx.emit("counted", {}, "b")

    def broken(outcome: Outcome) -> None:
        raise LookupError("observer")

    bus = new_bus(rules)
    bus.observe(broken)
    bus.observe(outcomes.append)
    receipt = await bus.emit("first", "a")
    assert [one.status for one in receipt.walk()] == ["handled"] * 2
    assert await value(bus, "b", "n") == 1
    assert len(outcomes) == 2
    assert [str(details["exception"]) for details in told] == ["observer"] * 2


# -- rules that come and go


async def test_rules_may_come_and_go_while_it_is_open() -> None:
    """Included and excluded rule sets count from the next event on; a subject may get a class that way."""

    class Door(Subject, prefix="door:"):
        status: str = "shut"

    doors, bus = RuleSet("doors", subject=Door), new_bus()

    @doors.on("opened")
    def opened(ctx: Context[Door]) -> None:
        ctx.subject.status = "open"

    async with bus:
        assert (await bus.emit("opened", "door:1")).fired == ()
        bus.include(doors)
        assert (await bus.emit("opened", "door:1")).fired == ("doors.opened",)
        assert isinstance(await bus.read("door:1"), Door)
        bus.exclude(doors)
        assert (await bus.emit("opened", "door:1")).fired == ()


async def test_a_twin_runs_the_same_rules_on_another_store() -> None:
    """Rules, middleware and limits are the same, subjects are not."""
    bus = new_bus(counter(), source="/desk")
    await bus.emit("counted", "a")
    twin = bus.twin(store=create_memory_storage())
    receipt = await twin.emit("counted", "a")
    assert receipt.fired == ("counter.count",)
    assert receipt.event.source == "/desk"
    assert (await value(bus, "a", "n"), await value(twin, "a", "n")) == (1, 1)


async def test_the_least_used_subjects_leave_memory_first() -> None:
    """Only `hot_subjects` states are kept between turns; what is dropped is loaded again, and nothing is lost."""
    bus = new_bus(counter(), limits=Limits(hot_subjects=2))
    for subject in "abacad":
        await bus.emit("counted", subject)
    assert bus._pipeline is not None
    assert sorted(bus._pipeline._handling._hot) == ["a", "d"]
    await bus.emit("counted", "b")
    assert [await value(bus, subject, "n") for subject in "abcd"] == [3, 2, 1, 1]


async def test_a_subject_that_cannot_be_loaded_is_parked() -> None:
    """State of a newer version: its events wait until somebody resumes it with the right code; others go on."""

    def rules(version: int) -> RuleSet:
        class Door(Subject, prefix="door:", version=version):
            n: int = 0

        rules = RuleSet("doors", subject=Door)

        @rules.on("counted")
        def count(ctx: Context[Any]) -> None:
            ctx.subject.n += 1

        return rules

    store = create_memory_storage()
    await new_bus(rules(2), store=store).emit("counted", "door:1")
    old = new_bus(rules(1), store=store, limits=Limits(retry=RetryPolicy(attempts=1)))
    first = await old.emit("counted", "door:1")
    assert "deploy that code" in str(first.error)
    assert (await old.emit("counted", "door:1")).status == "waiting"
    assert (await old.emit("counted", "door:2")).fired == ("doors.count",)
    stats = await store.stats()
    assert (stats.parked, stats.pending, stats.dead) == (1, 1, 0)
    await old.close()
    async with new_bus(rules(2), store=store) as new:
        assert [retry.failure.type async for retry in new.parked()] == ["onwhen.errors.MigrationError"]
        (receipt,) = await new.resume("door:1")
        assert receipt.fired == ("doors.count",)
        await new.idle()
        assert await value(new, "door:1", "n") == 3


async def test_an_event_that_is_emitted_in_a_turn_keeps_what_it_says_of_its_data() -> None:
    """Its media type and its schema, as outside of a turn."""
    rules = RuleSet("r")
    bus = new_bus(rules)

    @rules.on("go")
    async def go(ctx: Context) -> None:
        whole = Event("told", "a", b"<x/>", datacontenttype="text/xml", dataschema="urn:x", extensions={"n": 1})
        await bus.emit(whole)

    (sent,) = (await bus.emit("go", "a")).sent
    assert (sent.data, sent.datacontenttype, sent.dataschema, sent.extensions["n"]) == (b"<x/>", "text/xml", "urn:x", 1)


def test_what_is_no_store_is_refused_at_once() -> None:
    """Not at the first event: a function that was not called, say."""
    wrong: Any = create_memory_storage
    with pytest.raises(ContainerError, match=r"is no store; give it one that is made: create_\.\.\._storage\(\)"):
        EventBus(store=wrong)
