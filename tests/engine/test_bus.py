"""The bus: receipts, order and concurrency, cancellation, context, errors, and its life."""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onwhen import (
    SUBJECT_PROPERTY_CHANGED,
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
from onwhen.engine.store import Commit, CommitResult
from onwhen.errors import (
    BusClosed,
    BusInUse,
    ContainerError,
    EventTooLarge,
    InvalidEvent,
    RuleFailed,
    SubjectStateError,
)
from onwhen.storage.memory import MemoryStore

NOON = datetime(2026, 11, 5, 12, tzinfo=UTC)
USER: ContextVar[str] = ContextVar("user", default="nobody")


def new_bus(*rule_sets: RuleSet, **options: Any) -> EventBus:
    options.setdefault("store", create_memory_storage())
    return EventBus(*rule_sets, **options)


async def value(bus: EventBus, subject: str, name: str) -> Any:
    return (await bus.read(subject)).get(name)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens within seconds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


def counter() -> RuleSet:
    """Rules that count events, the slow way: a turn that overlaps another one would lose a count."""
    rules = RuleSet("counter")

    @rules.on("counted")
    async def count(ctx: Context) -> None:
        before = ctx.subject.get("n", 0)
        for _ in range(ctx.payload.get("steps", 0)):
            await asyncio.sleep(0)
        ctx.subject.set("n", before + 1)
        ctx.subject.set("order", [*ctx.subject.get("order", []), ctx.payload.get("number", 0)])

    return rules


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


# -- order and concurrency


@given(
    events=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans()), max_size=40),
    limit=st.integers(1, 4),
)
@settings(deadline=None)
def test_per_subject_order_under_random_concurrency(events: list[tuple[str, int, bool]], limit: int) -> None:
    """Whatever awaits in the rules and between the emits, a subject's events are handled in order, one at a time."""

    async def main() -> None:
        bus = new_bus(counter(), limits=Limits(max_concurrent_turns=limit))
        async with bus, asyncio.TaskGroup() as group:
            for number, (subject, steps, pauses) in enumerate(events):
                group.create_task(bus.emit("counted", subject, {"steps": steps, "number": number}))
                if pauses:
                    await asyncio.sleep(0)
        for name in "abc":
            wanted = [number for number, (subject, _, _) in enumerate(events) if subject == name]
            assert await value(bus, name, "order") == (wanted or None)

    asyncio.run(main())


async def test_thousands_at_once() -> None:
    """5,000 concurrent emits to 50 subjects: none is lost, each subject's are in order, all receipts arrive."""
    bus = new_bus(counter())
    async with bus:
        emits = [bus.emit("counted", f"s{n % 50}", {"steps": n % 3, "number": n}) for n in range(5000)]
        receipts = await asyncio.gather(*emits)
    assert {receipt.status for receipt in receipts} == {"handled"}
    for subject in range(50):
        assert await value(bus, f"s{subject}", "order") == list(range(subject, 5000, 50))


async def test_subjects_run_concurrently_up_to_the_limit() -> None:
    """`max_concurrent_turns` is reached and never passed; one slow subject does not hold up the others."""
    now, most, rules = 0, 0, RuleSet("rules")

    @rules.on("work")
    async def work(ctx: Context) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1

    bus = new_bus(rules, limits=Limits(max_concurrent_turns=10))
    async with bus:
        await asyncio.gather(*(bus.emit("work", f"s{n}") for n in range(100)))
    assert most == 10

    slow = asyncio.Event()

    @rules.on("slow")
    async def wait(ctx: Context) -> None:
        await slow.wait()

    async with bus:
        waiting = asyncio.create_task(bus.emit("slow", "slow"))
        await asyncio.sleep(0)
        assert (await bus.emit("work", "quick")).status == "handled"
        slow.set()
        await waiting


async def test_emits_that_never_suspend_leave_the_loop_its_turn() -> None:
    """A loop of emits whose rules never await does not keep timers and other tasks from running."""
    bus = new_bus(counter())

    async def emit_for_ever() -> None:
        while True:
            await bus.emit("counted", "a")

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(emit_for_ever(), 0.05)


# -- cancelling emit


class Stops:
    """A rule that can be stopped at each of its awaits, and a cascade behind it."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.rules = RuleSet("stops")

        @self.rules.on("first")
        async def first(ctx: Context) -> None:
            ctx.subject.set("a", ctx.subject.get("a", 0) + 1)
            await self.gate.wait()
            await asyncio.sleep(0)
            ctx.subject.set("b", ctx.subject.get("b", 0) + 1)
            await ctx.emit("second", None, "other")

        @self.rules.on("second")
        async def second(ctx: Context) -> None:
            await asyncio.sleep(0)
            ctx.subject.set("n", ctx.subject.get("n", 0) + 1)

        self.bus = new_bus(self.rules)


@pytest.mark.parametrize("steps", range(8))
@pytest.mark.parametrize("opens", [0, 2])
async def test_cancelling_emit_neither_loses_nor_half_applies(steps: int, opens: int) -> None:
    """Whenever the waiting is cancelled, in the rule or in the cascade, everything happens all the same, once."""
    stops = Stops()
    async with stops.bus as bus:
        emitting = asyncio.create_task(bus.emit("first", "a"))
        for step in range(steps):
            if step == opens:
                stops.gate.set()
            await asyncio.sleep(0)
        if steps:
            emitting.cancel()
        stops.gate.set()
        await asyncio.wait([emitting])
        await bus.idle()
    subject, other = await bus.read("a"), await bus.read("other")
    assert (subject.get("a"), subject.get("b"), other.get("n")) == (1, 1, 1)
    assert (await bus.store.stats()).pending == 0


async def test_cancelling_an_emit_that_is_queued() -> None:
    """An event that waits behind another one of its subject is handled, though its emitter has gone."""
    stops = Stops()
    async with stops.bus as bus:
        first = asyncio.create_task(bus.emit("first", "a"))
        await asyncio.sleep(0)
        second = asyncio.create_task(bus.emit("first", "a"))
        await asyncio.sleep(0)
        second.cancel()
        stops.gate.set()
        await first
        with pytest.raises(asyncio.CancelledError):
            await second
    assert await value(bus, "a", "b") == 2


async def with_one_that_fails(coroutine: Coroutine[Any, Any, Any]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(coroutine)
        await asyncio.sleep(0)
        raise LookupError


async def test_wait_for_timeout_and_task_groups_around_emit() -> None:
    """`asyncio.wait_for`, `asyncio.timeout` and a task group that fails give up the waiting, not the event."""
    stops = Stops()
    async with stops.bus as bus:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(bus.emit("first", "a"), 0.001)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await bus.emit("first", "a")
        with pytest.raises(ExceptionGroup):
            await with_one_that_fails(bus.emit("first", "a"))
        stops.gate.set()
    assert (await value(bus, "a", "b"), await value(bus, "other", "n")) == (3, 3)


# -- asyncio inside rules


async def test_asyncio_inside_rules() -> None:
    """Time-outs, task groups, done futures and bare yields work in the first step of a rule as anywhere."""
    rules = RuleSet("rules")

    @rules.on("timeout")
    async def timeout(ctx: Context) -> None:
        try:
            async with asyncio.timeout(ctx.payload["seconds"]):
                await asyncio.sleep(3600)
        except TimeoutError:
            ctx.subject.set("late", True)

    @rules.on("group")
    async def group(ctx: Context) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(3):
                tasks.create_task(asyncio.sleep(0, number))
        ctx.subject.set("joined", True)

    @rules.on("done")
    async def done(ctx: Context) -> None:
        future = asyncio.get_running_loop().create_future()
        future.set_result("there")
        ctx.subject.set("got", await future)
        await asyncio.sleep(0)
        ctx.subject.set("then", await asyncio.wait_for(asyncio.sleep(0, "more"), 1))

    bus = new_bus(rules)
    me = asyncio.current_task()
    for seconds in (0, 0.001):
        (await bus.emit("timeout", f"a{seconds}", {"seconds": seconds})).raise_for_failure()
        assert await value(bus, f"a{seconds}", "late") is True
    (await bus.emit("group", "b")).raise_for_failure()
    (await bus.emit("done", "c")).raise_for_failure()
    assert (await bus.read("c")).dict() == {"got": "there", "then": "more"}
    assert asyncio.current_task() is me


async def test_a_rule_that_raises_cancelled_has_failed() -> None:
    """A CancelledError that nobody asked for is an error like any other, and not the end of the turn."""
    rules = RuleSet("rules")

    @rules.on("go")
    async def cancelled(ctx: Context) -> None:
        task = asyncio.ensure_future(asyncio.sleep(3600))
        task.cancel()
        await task

    @rules.on("go")
    def goes_on(ctx: Context) -> None:
        ctx.subject.set("went", "on")

    receipt = await new_bus(rules).emit("go", "a")
    assert [run.status for run in receipt.runs] == ["failed", "fired"]
    assert isinstance(receipt.runs[0].error, asyncio.CancelledError)


async def test_context_variables() -> None:
    """Rules see their emitter's, also when queued behind another's and in the cascade; theirs do not leak."""
    seen, gate, rules = [], asyncio.Event(), RuleSet("rules")

    @rules.on("look", "follow")
    async def look(ctx: Context) -> None:
        seen.append((ctx.event_type, USER.get()))
        USER.set("rule")
        if ctx.event_type == "look":
            await gate.wait()
            await ctx.emit("follow")

    async def request(user: str) -> None:
        USER.set(user)
        await bus.emit("look", "a")
        assert USER.get() == user

    async with new_bus(rules) as bus, asyncio.TaskGroup() as group:
        group.create_task(request("ann"))
        await asyncio.sleep(0)
        group.create_task(request("bob"))
        await asyncio.sleep(0)
        gate.set()
    assert sorted(seen) == [("follow", "ann"), ("follow", "bob"), ("look", "ann"), ("look", "bob")]
    assert USER.get() == "nobody"


# -- emitting inside a turn


async def test_emit_inside_a_turn_is_the_turns_own() -> None:
    """However deep, also in tasks that the rule joins: it is recorded, and sent by the commit."""
    rules = RuleSet("rules")
    receipts = []

    async def helper() -> None:
        receipts.append(await bus.emit("told", "b", {"deep": True}))

    @rules.on("go")
    async def go(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(helper())
        await bus.emit(Event("told", "b"))

    @rules.on("go")
    async def fails(ctx: Context) -> None:
        await helper()
        raise LookupError

    bus = new_bus(rules)
    receipt = await bus.emit("go", "a")
    assert [one.status for one in receipts] == ["recorded"] * 2
    assert [event.subject for event in receipt.sent] == ["b", "b"]
    assert [one.status for one in receipt.cascade] == ["handled"] * 2
    assert {one.event.causation_id for one in receipt.cascade} == {receipt.event.id}


async def test_emit_to_another_bus_is_for_real() -> None:
    """A rule that emits through an unrelated bus waits for what that does, also when its own turn fails."""
    ours, theirs = RuleSet("ours"), counter()
    other = new_bus(theirs)

    @ours.on("go")
    async def go(ctx: Context) -> None:
        receipt = await other.emit("counted", "x", {"steps": 1})
        assert receipt.status == "handled"
        raise LookupError

    assert not (await new_bus(ours).emit("go", "a")).ok
    assert await value(other, "x", "n") == 1


async def test_a_turn_is_still_the_turns_own_through_another_bus() -> None:
    """A rule emits to another bus, whose rule emits back: that is recorded in the first turn, not waited for."""
    here, there = RuleSet("here"), RuleSet("there")

    @here.on("go")
    async def go(ctx: Context) -> None:
        (await second.emit("ask", "x")).raise_for_failure()

    @there.on("ask")
    async def ask(ctx: Context) -> None:
        await asyncio.sleep(0)
        assert (await first.emit("answer", "a")).status == "recorded"

    first, second = new_bus(here), new_bus(there)
    async with asyncio.timeout(5):
        receipt = (await first.emit("go", "a")).raise_for_failure()
    assert [one.event.type for one in receipt.cascade] == ["answer"]


async def test_what_a_rule_leaves_running_emits_for_real() -> None:
    """A task that outlives the turn is not part of it any more."""
    rules, tasks, go_on = counter(), [], asyncio.Event()

    async def later() -> None:
        await go_on.wait()
        await bus.emit("counted", "b")

    @rules.on("go")
    def go(ctx: Context) -> None:
        tasks.append(asyncio.ensure_future(later()))

    async with new_bus(rules) as bus:
        assert (await bus.emit("go", "a")).cascade == []
        go_on.set()
        await tasks[0]
        assert await value(bus, "b", "n") == 1


@pytest.mark.parametrize("verb", ["idle", "close", "store"])
async def test_what_would_wait_for_its_own_turn_is_refused(verb: str) -> None:
    """`idle`, `close` and `store` inside a turn say what to do instead, and the bus goes on."""
    rules = RuleSet("rules")

    @rules.on("go")
    async def go(ctx: Context) -> None:
        if verb == "store":
            async with bus.subject("b") as other:
                other.set("n", 1)
        await getattr(bus, verb)()

    bus = new_bus(rules)
    async with asyncio.timeout(5):
        receipt = await bus.emit("go", "a")
    error = receipt.runs[0].error
    assert isinstance(error, SubjectStateError)
    assert "send the other one a message" in str(error)
    assert (await bus.emit("other", "a")).status == "handled"


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


# -- interrupts, and loops that end


@pytest.mark.parametrize("events", [1, 3])
def test_an_interrupt_leaves_the_event_pending(events: int) -> None:
    """KeyboardInterrupt out of a rule ends the program; the next start on the store handles the event, in order."""
    store, interrupts = create_memory_storage(), [KeyboardInterrupt()]
    rules = counter()

    @rules.on("counted", priority=-1)
    async def interrupted(ctx: Context) -> None:
        await asyncio.sleep(0)
        if interrupts:
            raise interrupts.pop()

    async def main() -> None:
        async with new_bus(rules, store=store) as bus, asyncio.TaskGroup() as group:
            for number in range(events):
                group.create_task(bus.emit("counted", "a", {"number": number}))

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())

    async def again() -> None:
        assert (await store.stats()).pending == events
        async with new_bus(rules, store=store) as bus:
            await bus.idle()
        assert await value(bus, "a", "order") == list(range(events))

    asyncio.run(again())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("suspends", [False, True])
def test_an_interrupt_of_a_rule_that_nobody_waits_for_ends_the_program(
    kind: type[BaseException], suspends: bool
) -> None:
    """A timer's rule, or one whose emitter was cancelled, is interrupted: that leaves the event loop."""
    rules = RuleSet("rules")

    @rules.on("go")
    async def go(ctx: Context) -> None:
        if suspends:
            await asyncio.sleep(0)
        raise kind

    @rules.on("set")
    def set_timer(ctx: Context) -> None:
        ctx.emit("go", at=ctx.now)

    async def of_a_timer() -> None:
        assert (await new_bus(rules, store=store).emit("set", "a")).status == "handled"
        await asyncio.sleep(3600)

    async def of_nobody() -> None:
        task = asyncio.create_task(new_bus(rules, store=store).emit("go", "b"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(3600)

    for main in (of_a_timer, of_nobody):
        store = create_memory_storage()
        with pytest.raises(kind):
            asyncio.run(main())
        assert asyncio.run(store.stats()).pending == 1


@pytest.mark.parametrize("how", ["event", "message", "timer", "outside"])
def test_what_was_interrupted_is_ahead_of_what_came_later(how: str) -> None:
    """Whichever way the later event has come: the next start handles the one first that was accepted first."""
    rules, interrupts, store = RuleSet("rules"), [KeyboardInterrupt()], create_memory_storage()

    @rules.on("noted", SUBJECT_PROPERTY_CHANGED)
    async def note(ctx: Context) -> None:
        ctx.subject.set("order", [*ctx.subject.get("order", []), ctx.payload.get("number", 1)], muted=True)
        for _ in range(10):
            await asyncio.sleep(0)
        if interrupts:
            raise interrupts.pop()

    @rules.on("pass")
    def pass_on(ctx: Context) -> None:
        ctx.emit("noted", {"number": 1}, "a", at=ctx.now if ctx.payload == "timer" else None)

    async def main() -> None:
        async with new_bus(rules, store=store) as bus, asyncio.TaskGroup() as group:
            await bus.emit("nothing", "x")
            group.create_task(bus.emit("noted", "a", {"number": 0}))
            await asyncio.sleep(0)
            if how == "event":
                await bus.emit("noted", "a", {"number": 1})
            elif how == "outside":
                async with bus.subject("a") as subject:
                    subject.set("n", 1)
            else:
                await bus.emit("pass", "b", how)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())

    async def again() -> list[int]:
        async with new_bus(rules, store=store) as bus:
            await bus.idle()
        order: list[int] = await value(bus, "a", "order")
        return order

    assert asyncio.run(again()) == [0, 1]


def test_a_loop_that_ends_without_a_word_loses_nothing() -> None:
    """It was closed in the middle of a turn, whose task was not even cancelled: the next loop handles the event."""
    bus = new_bus(counter())

    async def leave() -> list[asyncio.Task[Any]]:
        await bus.emit("counted", "b")
        tasks = [asyncio.ensure_future(bus.emit("counted", "a", {"number": 0, "steps": 9}))]
        tasks += [asyncio.ensure_future(bus.emit("counted", "b", {"number": n, "steps": 9})) for n in range(2)]
        await asyncio.sleep(0)
        return tasks

    loop = asyncio.new_event_loop()
    for task in loop.run_until_complete(leave()):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()

    async def go_on() -> None:
        async with bus:
            await bus.emit("counted", "a", {"number": 1})
        assert await value(bus, "a", "order") == [0, 1]
        assert await value(bus, "b", "order") == [0, 0, 1]

    asyncio.run(go_on())


async def test_an_interrupt_that_is_caught_is_made_up_for_by_the_next_event() -> None:
    """At a prompt, the program goes on: nothing is half applied, and the event is handled before the next one."""
    rules, interrupts = counter(), [KeyboardInterrupt()]

    @rules.on("counted", priority=-1)
    def interrupted(ctx: Context) -> None:
        if interrupts:
            raise interrupts.pop()

    bus = new_bus(rules)
    with pytest.raises(KeyboardInterrupt):
        await bus.emit("counted", "a", {"number": 1})
    assert await value(bus, "a", "order") is None
    await bus.emit("counted", "a", {"number": 2})
    assert await value(bus, "a", "order") == [1, 2]


def test_one_bus_in_several_loops() -> None:
    """A bus that is not closed goes on in the next `asyncio.run`, and first takes up what the last one left."""
    bus = new_bus(counter())

    async def emit(number: int) -> None:
        assert (await bus.emit("counted", "a", {"number": number})).status == "handled"

    async def leave(number: int) -> None:
        task = asyncio.create_task(bus.emit("counted", "a", {"number": number, "steps": 10}))
        queued = asyncio.create_task(bus.emit("counted", "a", {"number": number + 1}))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not task.done()
        assert not queued.done()

    asyncio.run(emit(0))
    asyncio.run(emit(1))
    asyncio.run(leave(2))
    asyncio.run(emit(4))
    assert asyncio.run(value(bus, "a", "order")) == [0, 1, 2, 3, 4]


def test_from_a_plain_callback() -> None:
    """A callback that belongs to no task may emit."""
    bus, receipts = new_bus(counter()), []

    async def emit() -> None:
        receipts.append(await bus.emit("counted", "a"))

    loop = asyncio.new_event_loop()
    loop.call_soon(lambda: loop.create_task(emit()))
    loop.call_soon(lambda: step(emit()))
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    loop.close()
    assert [receipt.status for receipt in receipts] == ["handled"] * 2


def step(coroutine: Coroutine[Any, Any, None]) -> None:
    with pytest.raises(StopIteration):
        coroutine.send(None)


async def test_emitting_from_another_thread_says_what_to_do() -> None:
    """Another thread's loop is refused while the bus is open on this one; handing the coroutine over works."""
    bus, errors = new_bus(counter()), []
    await bus.emit("counted", "a")

    def elsewhere(loop: asyncio.AbstractEventLoop) -> None:
        try:
            asyncio.run(bus.emit("counted", "a"))
        except BusInUse as error:
            errors.append(str(error))
        receipt = asyncio.run_coroutine_threadsafe(bus.emit("counted", "a"), loop).result(5)
        assert receipt.status == "handled"

    thread = threading.Thread(target=elsewhere, args=(asyncio.get_running_loop(),))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert len(errors) == 1
    assert "run_coroutine_threadsafe" in errors[0]
    assert await value(bus, "a", "n") == 2


# -- life


async def test_closing_drains() -> None:
    """Leaving `async with` waits for everything that was accepted, cascades included; then nothing more is taken."""
    stops = Stops()
    async with stops.bus as bus:
        tasks = [asyncio.create_task(bus.emit("first", "a")) for _ in range(3)]
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(stops.gate.set)
    assert (await value(bus, "a", "b"), await value(bus, "other", "n")) == (3, 3)
    for task in tasks:
        assert (await task).status == "handled"
    with pytest.raises(BusClosed, match="async with"):
        await bus.emit("first", "a")
    with pytest.raises(BusClosed):
        async with bus.subject("a") as subject:
            subject.set("a", 0)


async def test_it_may_be_opened_again() -> None:
    """Twice in a row, one inside the other, or with `start` and `close`; the outermost one closes it."""
    bus = new_bus(counter())
    for _ in range(2):
        async with bus:
            async with bus:
                await bus.emit("counted", "a")
            await bus.emit("counted", "a")
    with pytest.raises(BusClosed):
        await bus.emit("counted", "a")
    await bus.start()
    await bus.start()
    await bus.emit("counted", "a")
    await bus.close()
    await bus.close()
    assert await value(bus, "a", "n") == 5


async def test_a_bus_that_was_never_opened_closes_without_a_word() -> None:
    """`close` and `idle` on a new bus do nothing."""
    bus = new_bus()
    await bus.idle()
    await bus.close()
    with pytest.raises(BusClosed):
        await bus.emit("counted", "a")


async def test_a_close_that_is_cancelled_can_be_made_up_for() -> None:
    """Waiting for a rule that takes long may be given up; the next `close` or `start` goes on from there."""
    stops = Stops()
    bus = stops.bus
    emitting = asyncio.create_task(bus.emit("first", "a"))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bus.close(), 0.001)
    with pytest.raises(BusClosed):
        await bus.emit("first", "a")
    stops.gate.set()
    async with bus:
        assert (await emitting).status == "handled"
        assert (await bus.emit("first", "a")).status == "handled"
    assert await value(bus, "a", "b") == 2


async def test_no_task_is_left_when_it_is_closed() -> None:
    """A closed bus has ended the tasks that it kept for turns."""
    before = asyncio.all_tasks()
    async with new_bus(counter()) as bus:
        await asyncio.gather(*(bus.emit("counted", f"s{n}", {"steps": 2}) for n in range(10)))
        await bus.emit("counted", "s1")
        assert asyncio.all_tasks() > before
    await until(lambda: asyncio.all_tasks() <= before)


async def test_starts_with_what_the_store_holds() -> None:
    """A new bus on the store of another takes up what that left pending, before anything new."""
    store = create_memory_storage(partitions=3)
    rules = counter()
    first = new_bus(rules, store=store, limits=Limits(max_concurrent_turns=1))
    tasks = [
        asyncio.create_task(first.emit("counted", f"s{n % 4}", {"number": n, "steps": 10**9 if n == 0 else 0}))
        for n in range(12)
    ]
    await until(lambda: sum(map(len, store._logs)) == 12)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:  # as if the process had died
        task.cancel()
    await asyncio.wait(tasks)
    patient = RuleSet("counter")

    @patient.on("counted")
    def count(ctx: Context) -> None:
        ctx.subject.set("order", [*ctx.subject.get("order", []), ctx.payload["number"]])

    async with new_bus(patient, store=store) as bus:
        await bus.emit("counted", "s1", {"number": 99})
    assert [await value(bus, f"s{n}", "order") for n in range(4)] == [[0, 4, 8], [1, 5, 9, 99], [2, 6, 10], [3, 7, 11]]


async def test_two_buses_over_one_store() -> None:
    """Both change the same subjects at the same time: who comes too late runs again, and nothing is lost or doubled."""
    store, rules = create_memory_storage(), counter()
    async with new_bus(rules, store=store) as one, new_bus(rules, store=store) as two:
        emits = [(one, two)[n % 2].emit("counted", f"s{n % 3}", {"steps": n % 4}) for n in range(60)]
        receipts = await asyncio.gather(*emits)
    assert {receipt.status for receipt in receipts} == {"handled"}
    assert [await value(one, f"s{n}", "n") for n in range(3)] == [20, 20, 20]


async def test_an_event_that_another_bus_has_handled_is_done() -> None:
    """Two buses take up the same event: one of them applies it, the other sees that it is done."""
    store, rules = create_memory_storage(), counter()
    await store.append(0, [Event("counted", "a", {"steps": 3})])
    async with new_bus(rules, store=store), new_bus(rules, store=store) as two:
        pass
    assert await value(two, "a", "n") == 1


@given(seed=st.integers(0, 10**6))
def test_messages_are_handled_in_the_order_of_the_log(seed: int) -> None:
    """However long turns take, a subject handles messages of all senders in the order in which they were sent."""
    chance, rules, handled = random.Random(seed), RuleSet("rules"), []

    class Noting(MemoryStore):
        async def commit(self, commit: Commit) -> CommitResult:
            result = await super().commit(commit)
            positions.update(zip((event.id for event in commit.messages), result.appended, strict=False))
            return result

    positions: dict[str, Any] = {}

    @rules.on("sent")
    async def pass_on(ctx: Context) -> None:
        handled.append((ctx.subject.name, ctx.event.id))
        if chance.random() < 0.4:
            await asyncio.sleep(0)
        for _ in range(chance.choice([0, 1, 2]) if ctx.event.depth < 4 else 0):
            await ctx.emit("sent", subject=f"s{chance.randrange(3)}")

    async def main() -> None:
        async with EventBus(rules, store=Noting()) as bus:
            await asyncio.gather(*(bus.emit("sent", f"s{n}") for n in range(3)))

    asyncio.run(main())
    for name in ("s0", "s1", "s2"):
        order = [positions[id] for subject, id in handled if subject == name and id in positions]
        assert order == sorted(order)


async def test_pending_events_are_in_their_lanes_before_the_first_is_handled() -> None:
    """What an event of the log leads to comes after all that stood in the log."""
    store, rules, seen = create_memory_storage(), RuleSet("rules"), []
    await store.append(0, [Event("first", "a"), Event("second", "b")])

    @rules.on("first")
    async def leads_on(ctx: Context) -> None:
        await ctx.emit("third", subject="b")

    @rules.on("second", "third")
    def note(ctx: Context) -> None:
        seen.append(ctx.event_type)

    async with EventBus(rules, store=store):
        pass
    assert seen == ["second", "third"]


async def test_a_turn_that_changes_nothing_sees_what_others_have_stored() -> None:
    """Its conditions are asked again, on newer state, if another bus has changed the subject since."""
    store, rules = create_memory_storage(), RuleSet("rules")

    @rules.on("buy")
    @when(lambda ctx: ctx.subject.get("stock", 0) > 0)
    def buy(ctx: Context) -> None:
        ctx.subject.set("sold", True)

    @rules.on("fill")
    def fill(ctx: Context) -> None:
        ctx.subject.set("stock", 5)

    async with EventBus(rules, store=store) as shop, EventBus(rules, store=store) as depot:
        assert (await shop.emit("buy", "a")).fired == ()
        await depot.emit("fill", "a")
        assert (await shop.emit("buy", "a")).fired == ("rules.buy",)


async def test_what_a_rule_keeps_of_a_subject_it_only_read_is_not_the_subjects() -> None:
    """Changing a list after the turn changes nothing, though the turn stored nothing."""
    rules, kept = RuleSet("rules"), []

    @rules.on("look")
    def look(ctx: Context) -> None:
        kept.append(ctx.subject.get("tags"))

    async with EventBus(rules, store=create_memory_storage()) as bus:
        async with bus.subject("a") as subject:
            subject.set("tags", ["x"])
        await bus.emit("look", "a")
        kept[0].append("y")
        receipt = await bus.emit("look", "a")
    assert (kept[1], receipt.changes) == (["x"], ())


async def test_an_observer_that_ends_the_program_does_not_repeat_the_event() -> None:
    """The event was committed before observers are told, so it is handled once."""
    bus, fails = new_bus(counter()), [SystemExit(3)]

    def exit_once(outcome: object) -> None:
        if fails:
            raise fails.pop()

    async with bus:
        bus.observe(exit_once)
        with pytest.raises(SystemExit):
            await bus.emit("counted", "a", {"number": 1})
        await bus.emit("counted", "a", {"number": 2})
        assert await value(bus, "a", "order") == [1, 2]


@pytest.mark.parametrize(("times", "runs", "dead"), [(1, 2, 0), (10**6, 4, 1)])
async def test_an_event_whose_turn_is_cancelled_is_handled_again(times: int, runs: int, dead: int) -> None:
    """At once; but one that always cancels itself is a dead letter in the end."""
    rules, ran = RuleSet("rules"), []

    @rules.on("go")
    async def cancels_itself(ctx: Context) -> None:
        ran.append(1)
        task = asyncio.current_task()
        if len(ran) <= times and task is not None:
            task.cancel()
            await asyncio.sleep(0)

    async with asyncio.timeout(5), EventBus(rules, store=create_memory_storage()) as bus:
        receipt = await bus.emit("go", "a")
        stats = await bus.store.stats()
    assert (receipt.status, len(ran), stats.pending, stats.dead) == ("handled", runs, 0, dead)


async def test_cancelling_the_task_of_an_earlier_turn_hurts_nobody() -> None:
    """A task that has waited in one turn is not the task of another one."""
    rules, tasks = RuleSet("rules"), []

    @rules.on("go")
    async def go(ctx: Context) -> None:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)
        if len(tasks) == 2:
            tasks[0].cancel()
        await asyncio.sleep(0)

    async with EventBus(rules, store=create_memory_storage()) as bus:
        await bus.emit("go", "a")
        assert (await bus.emit("go", "b")).status == "handled"
    assert len(tasks) == len(set(tasks)) == 2


async def test_a_generator_exit_of_a_rule_does_not_block_its_subject() -> None:
    """The event is handled, as a failure, and the next one as well."""
    rules = RuleSet("rules")

    @rules.on("go")
    def go(ctx: Context) -> None:
        raise GeneratorExit

    async with asyncio.timeout(5), EventBus(rules, store=create_memory_storage()) as bus:
        assert not (await bus.emit("go", "a")).ok
        assert (await bus.emit("other", "a")).ok


async def test_a_whole_event_is_the_same_when_it_is_emitted_again() -> None:
    """It has its id, given or not; and nothing can be said beside it."""
    async with new_bus(counter()) as bus:
        event = Event("counted", "a", {"number": 1})
        assert [(await bus.emit(event)).status for _ in range(2)] == ["handled", "duplicate"]
        with pytest.raises(TypeError, match="replace"):
            await bus.emit(event, "b")


async def test_several_partitions() -> None:
    """Order and cascades are the same over a store with many partitions."""
    rules = counter()

    @rules.on("spread")
    def spread(ctx: Context) -> None:
        for number in range(20):
            ctx.emit("counted", {"number": number}, f"s{number % 5}")

    async with new_bus(rules, store=create_memory_storage(partitions=16)) as bus:
        receipt = await bus.emit("spread", "a")
        assert len(receipt.cascade) == 20
        await asyncio.gather(*(bus.emit("counted", f"s{n % 5}", {"number": n}) for n in range(20, 40)))
        assert [await value(bus, f"s{n}", "order") for n in range(5)] == [list(range(n, 40, 5)) for n in range(5)]
        assert (await bus.store.stats()).pending == 0


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
    assert sorted(bus._pipeline._hot) == ["a", "d"]
    await bus.emit("counted", "b")
    assert [await value(bus, subject, "n") for subject in "abcd"] == [3, 2, 1, 1]


async def test_a_subject_that_cannot_be_loaded_fails_each_of_its_events() -> None:
    """State of a newer version: the event is a dead letter, and so is the next one; other subjects go on."""

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
    for _ in range(2):
        receipt = await old.emit("counted", "door:1")
        assert "deploy that code" in str(receipt.error)
    assert (await old.emit("counted", "door:2")).fired == ("doors.count",)
    assert (await store.stats()).dead == 2


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
