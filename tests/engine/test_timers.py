"""Timers and retries: when they fire, on a clock that is moved and on the machine's."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from onwhen import Context, Event, EventBus, Limits, Receipt, RetryPolicy, RuleSet, VirtualClock, create_memory_storage
from onwhen.engine.store import StoreStats
from onwhen.errors import SubjectStateError

NOON = datetime(2026, 11, 5, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Desk:
    """A bus on a virtual clock, with rules that note what they were run on and when."""

    def __init__(self, store: Any = None, **options: Any) -> None:
        self.clock = VirtualClock(NOON)
        self.rules = RuleSet("desk")
        self.seen: list[tuple[str, timedelta]] = []
        self.bus = EventBus(self.rules, store=store or create_memory_storage(), clock=self.clock, **options)

        @self.rules.on("set")
        def set_timer(ctx: Context) -> None:
            hours, key = ctx.payload["hours"], ctx.payload.get("key")
            ctx.emit(ctx.payload.get("type", "rung"), delay=hours * HOUR, key=key)

        @self.rules.on("cancel")
        def cancel(ctx: Context) -> None:
            ctx.cancel(ctx.payload["key"])

        @self.rules.on("rung", "rung.*")
        def rung(ctx: Context) -> None:
            self.seen.append((ctx.event_type, ctx.now - NOON))

    async def set(self, hours: float, key: str | None = None, type: str = "rung", subject: str = "a") -> Receipt:
        return await self.bus.emit("set", subject, {"hours": hours, "key": key, "type": type})

    async def stats(self) -> StoreStats:
        return await self.bus.store.stats()


# -- timers on a virtual clock


async def test_a_timer_fires_exactly_when_it_is_due() -> None:
    """Not before; and when the clock is moved past it, at its own moment all the same."""
    desk = Desk()
    receipt = await desk.set(2)
    assert [timer.due for timer in receipt.timers] == [NOON + 2 * HOUR]
    assert desk.bus.next_due == NOON + 2 * HOUR
    await desk.bus.advance(2 * HOUR - timedelta(microseconds=1))
    assert desk.seen == []
    await desk.bus.advance(timedelta(microseconds=1))
    assert desk.seen == [("rung", 2 * HOUR)]
    await desk.set(1)
    await desk.bus.advance(24 * HOUR)
    assert desk.seen[1:] == [("rung", 3 * HOUR)]
    assert desk.clock.now() == NOON + 26 * HOUR
    assert desk.bus.next_due is None


async def test_timers_fire_in_the_order_in_which_they_are_due() -> None:
    """Equal ones in the order in which they were set."""
    desk = Desk()
    for name, hours in (("c", 3), ("a", 1), ("b1", 2), ("b2", 2)):
        await desk.set(hours, type=f"rung.{name}")
    await desk.bus.advance(NOON + 3 * HOUR)
    assert [type for type, _ in desk.seen] == ["rung.a", "rung.b1", "rung.b2", "rung.c"]


async def test_a_timer_is_replaced_by_its_key() -> None:
    """A subject has one timer per key: the later one counts, be it earlier or later; other subjects have their own."""
    desk = Desk()
    await desk.set(1, "sla")
    await desk.set(3, "sla")
    await desk.set(5, "other")
    await desk.set(4, "other")
    await desk.set(2, "sla", subject="b")
    assert (await desk.stats()).timers == 3
    await desk.bus.advance(24 * HOUR)
    assert [at for _, at in desk.seen] == [2 * HOUR, 3 * HOUR, 4 * HOUR]


async def test_a_timer_is_cancelled_by_its_key() -> None:
    """A cancelled timer never fires; cancelling what is not set is no error."""
    desk = Desk()
    await desk.set(1, "sla")
    (await desk.bus.emit("cancel", "a", {"key": "sla"})).raise_for_failure()
    (await desk.bus.emit("cancel", "a", {"key": "sla"})).raise_for_failure()
    await desk.bus.advance(24 * HOUR)
    assert desk.seen == []
    assert desk.bus.next_due is None


async def test_timers_of_a_deleted_subject_are_cancelled() -> None:
    """`flush` takes them along."""
    desk = Desk()

    @desk.rules.on("flush")
    def flush(ctx: Context) -> None:
        ctx.subject.flush()

    await desk.set(1)
    await desk.set(1, subject="b")
    await desk.bus.emit("flush", "a")
    await desk.bus.advance(24 * HOUR)
    assert len(desk.seen) == 1


async def test_timers_set_by_timers() -> None:
    """Each is run at its own moment, though the clock is moved once."""
    desk = Desk()

    @desk.rules.on("tick")
    def tick(ctx: Context) -> None:
        desk.seen.append(("tick", ctx.now - NOON))
        if len(desk.seen) < 5:
            ctx.emit("tick", delay=HOUR)

    await desk.set(1, type="tick")
    await desk.bus.advance(3 * HOUR)
    assert [at for _, at in desk.seen] == [HOUR, 2 * HOUR, 3 * HOUR]
    await desk.bus.advance(24 * HOUR)
    assert len(desk.seen) == 5


async def test_a_timer_without_delay_fires_after_its_turn() -> None:
    """One that is due already needs nobody to move the clock."""
    desk = Desk()
    await desk.set(0)
    await desk.bus.idle()
    assert desk.seen == [("rung", timedelta(0))]


async def test_a_timer_to_another_subject() -> None:
    """The key is the setter's, the event goes to whom it is addressed."""
    desk = Desk(create_memory_storage(partitions=8))

    @desk.rules.on("remind")
    def remind(ctx: Context) -> None:
        ctx.emit("noted", {"by": ctx.subject.name}, "boss", delay=HOUR, key="k")

    @desk.rules.on("noted")
    def noted(ctx: Context) -> None:
        ctx.subject.set("by", [*ctx.subject.get("by", []), ctx.payload["by"]])

    for name in ("a", "b"):
        await desk.bus.emit("remind", name)
    await desk.bus.emit("cancel", "boss", {"key": "k"})
    await desk.bus.advance(HOUR)
    assert (await desk.bus.read("boss")).get("by") in (["a", "b"], ["b", "a"])


async def test_a_timer_of_a_failed_rule_is_not_set() -> None:
    """It is undone with everything else."""
    desk = Desk()

    @desk.rules.on("go")
    def go(ctx: Context) -> None:
        ctx.emit("rung", delay=HOUR)
        raise LookupError

    await desk.bus.emit("go", "a")
    assert (await desk.stats()).timers == 0


async def test_timers_survive_the_bus() -> None:
    """Another bus on the same store fires those that are due, and knows when the next one is."""
    first = Desk()
    await first.set(1)
    await first.set(3)
    await first.bus.close()
    second = Desk(first.bus.store)
    second.clock.move_to(NOON + 2 * HOUR)
    async with second.bus as bus:
        await bus.idle()
        assert second.seen == [("rung", 2 * HOUR)]
        assert bus.next_due == NOON + 3 * HOUR


async def test_advance_says_what_it_cannot_do() -> None:
    """The way back, a moment without a zone, a clock that cannot be moved, and from inside a turn."""
    desk = Desk()
    with pytest.raises(ValueError, match="backwards"):
        await desk.bus.advance(-HOUR)
    with pytest.raises(ValueError, match="no time zone"):
        await desk.bus.advance(datetime(2030, 1, 1))  # noqa: DTZ001
    await desk.bus.advance(NOON - HOUR)  # a moment that has passed moves nothing
    assert desk.clock.now() == NOON
    with pytest.raises(TypeError, match="VirtualClock"):
        await EventBus(store=create_memory_storage()).advance(HOUR)

    @desk.rules.on("go")
    async def go(ctx: Context) -> None:
        await desk.bus.advance(HOUR)

    assert isinstance((await desk.bus.emit("go", "a")).runs[0].error, SubjectStateError)


# -- on the machine's clock


async def test_timers_on_the_system_clock() -> None:
    """They fire by themselves, each when it is due, also the one that was set last and is due first."""
    seen: list[str] = []
    late = asyncio.Event()
    rules = RuleSet("rules")

    @rules.on("go")
    def go(ctx: Context) -> None:
        ctx.emit("late", at=ctx.now + timedelta(milliseconds=60))
        ctx.emit("never", at=ctx.now + timedelta(milliseconds=30), key="never")
        ctx.emit("soon", delay=timedelta(milliseconds=20))

    @rules.on("soon")
    def soon(ctx: Context) -> None:
        seen.append("soon")
        ctx.cancel("never")

    @rules.on("never", "late")
    def rung(ctx: Context) -> None:
        assert ctx.event.time is not None
        assert ctx.now >= ctx.event.time
        seen.append(ctx.event_type)
        late.set()

    async with EventBus(rules, store=create_memory_storage()) as bus:
        await bus.emit("go", "a")
        assert seen == []
        async with asyncio.timeout(5):
            await late.wait()
        await bus.idle()
    assert seen == ["soon", "late"]


async def test_retries_on_the_system_clock() -> None:
    """They are run by themselves as well."""
    done, rules = asyncio.Event(), RuleSet("rules")

    @rules.on("go", retry=RetryPolicy(attempts=3, delay=timedelta(milliseconds=5)))
    async def go(ctx: Context) -> None:
        await asyncio.sleep(0)
        if ctx.attempt < 3:
            raise LookupError
        done.set()

    async with EventBus(rules, store=create_memory_storage()) as bus:
        await bus.emit("go", "a")
        async with asyncio.timeout(5):
            await done.wait()
        await bus.idle()
        assert (await bus.store.stats()).retries == 0


async def test_a_closed_bus_rings_no_more() -> None:
    """A timer that is due after `close` waits for the next start."""
    rung, rules, store = asyncio.Event(), RuleSet("rules"), create_memory_storage()

    @rules.on("go")
    def go(ctx: Context) -> None:
        ctx.emit("rung", delay=timedelta(milliseconds=10))

    @rules.on("rung")
    def ring(ctx: Context) -> None:
        rung.set()

    async with EventBus(rules, store=store) as bus:
        await bus.emit("go", "a")
    await asyncio.sleep(0.02)
    assert not rung.is_set()
    assert (await store.stats()).timers == 1
    async with bus, asyncio.timeout(5):
        await rung.wait()


# -- retries


def failing(desk: Desk, until: int, **policy: Any) -> None:
    """Let a rule fail until an attempt, and others note what is handled."""
    policy = {"attempts": 5, "delay": HOUR, "factor": 1, "jitter": 0, "max_delay": 9 * HOUR, **policy}

    @desk.rules.on("work", retry=RetryPolicy(**policy))
    async def fails(ctx: Context) -> None:
        desk.seen.append((f"{ctx.payload}/{ctx.attempt}", ctx.now - NOON))
        ctx.subject.set("touched", [*ctx.subject.get("touched", []), ctx.payload])
        if ctx.payload == "bad" and ctx.attempt < until:
            raise LookupError

    @desk.rules.on("work")
    def counts(ctx: Context) -> None:
        ctx.subject.set("events", ctx.subject.get("events", 0) + 1)


async def test_a_rule_that_fails_is_run_again() -> None:
    """After its delay, it alone, until it succeeds; what it did before is undone each time."""
    desk = Desk()
    failing(desk, until=3)
    receipt = await desk.bus.emit("work", "a", "bad")
    assert receipt.runs[0].retry_at == NOON + HOUR
    assert receipt.dead == ()
    await desk.bus.advance(24 * HOUR)
    assert desk.seen == [("bad/1", timedelta(0)), ("bad/2", HOUR), ("bad/3", 2 * HOUR)]
    subject = await desk.bus.read("a")
    assert (subject.get("touched"), subject.get("events")) == (["bad"], 1)
    assert (await desk.stats()).retries == 0


async def test_later_events_wait_for_a_retry() -> None:
    """Their order is kept, their emitters are told at once, and other subjects do not wait."""
    desk = Desk()
    failing(desk, until=3)
    await desk.bus.emit("work", "a", "bad")
    later = [await desk.bus.emit("work", "a", "good") for _ in range(2)]
    assert [receipt.status for receipt in later] == ["waiting"] * 2
    assert (await desk.bus.emit("work", "b", "good")).status == "handled"
    await desk.bus.advance(HOUR)
    assert [receipt.status for receipt in later] == ["waiting"] * 2
    await desk.bus.advance(HOUR)
    assert [receipt.status for receipt in later] == ["handled"] * 2
    assert (await desk.bus.read("a")).get("touched") == ["bad", "good", "good"]


async def test_those_that_are_queued_already_are_told_as_well() -> None:
    """An emitter whose event waits behind one that fails does not wait for the retry."""
    desk = Desk()
    failing(desk, until=2)
    async with desk.bus as bus:
        gate = asyncio.Event()

        @desk.rules.on("work", priority=1)
        async def wait(ctx: Context) -> None:
            await gate.wait()

        tasks = [asyncio.create_task(bus.emit("work", "a", payload)) for payload in ("bad", "good")]
        await asyncio.sleep(0)
        gate.set()
        async with asyncio.timeout(5):
            receipts = await asyncio.gather(*tasks)
        assert [receipt.status for receipt in receipts] == ["handled", "waiting"]


async def test_a_message_to_a_subject_that_waits() -> None:
    """The cascade's receipt says that the message waits, and the emitter goes on."""
    desk = Desk()
    failing(desk, until=2)

    @desk.rules.on("pass")
    def pass_on(ctx: Context) -> None:
        ctx.emit("work", "good", "a")

    await desk.bus.emit("work", "a", "bad")
    receipt = await desk.bus.emit("pass", "b")
    assert [one.status for one in receipt.walk()] == ["handled", "waiting"]
    await desk.bus.advance(HOUR)
    assert [one.status for one in receipt.walk()] == ["handled", "handled"]


async def test_retries_out_of_order() -> None:
    """With `in_order=False` later events go on, and the retry is run when it is due."""
    desk = Desk()
    failing(desk, until=2, in_order=False)
    await desk.bus.emit("work", "a", "bad")
    assert (await desk.bus.emit("work", "a", "good")).status == "handled"
    await desk.bus.advance(HOUR)
    assert (await desk.bus.read("a")).get("touched") == ["good", "bad"]


async def test_two_rules_of_one_event_wait_for_both() -> None:
    """Later events wait until the last of the retries is through."""
    desk = Desk()

    for number in (1, 2):
        policy = RetryPolicy(attempts=9, delay=number * HOUR, max_delay=9 * HOUR, jitter=0)

        @desk.rules.on("work", name=f"fails{number}", retry=policy)
        def fails(ctx: Context, number: int = number) -> None:
            if ctx.payload == "bad" and ctx.attempt == 1:
                raise LookupError

    await desk.bus.emit("work", "a", "bad")
    later = await desk.bus.emit("work", "a", "good")
    await desk.bus.advance(HOUR)
    assert later.status == "waiting"
    await desk.bus.advance(HOUR)
    assert later.status == "handled"


async def test_when_the_attempts_are_used_up_the_subject_goes_on() -> None:
    """The last failure is a dead letter, and what waited is handled."""
    desk = Desk()
    failing(desk, until=99, attempts=3)
    await desk.bus.emit("work", "a", "bad")
    later = await desk.bus.emit("work", "a", "good")
    await desk.bus.advance(24 * HOUR)
    assert later.status == "handled"
    (letter,) = [letter async for letter in desk.bus.dead_letters()]
    assert (letter.rule, letter.attempts) == ("desk.fails", 3)
    assert (letter.first_failed, letter.time) == (NOON, NOON + 2 * HOUR)


async def test_retries_survive_the_bus() -> None:
    """Another bus on the same store runs those that are due, and keeps later events waiting for the others."""
    first = Desk()
    failing(first, until=99)
    await first.bus.emit("work", "a", "bad")
    await first.bus.emit("work", "a", "good")
    await first.bus.close()
    assert ((await first.stats()).retries, (await first.stats()).pending) == (1, 1)

    second = Desk(first.bus.store)
    failing(second, until=3)
    async with second.bus as bus:
        assert (await bus.emit("work", "a", "new")).status == "waiting"
        await bus.advance(HOUR)
        await bus.advance(HOUR)
        assert (await bus.read("a")).get("touched") == ["bad", "good", "new"]
    assert ((await second.stats()).retries, (await second.stats()).pending) == (0, 0)


async def test_a_retry_that_is_overdue_at_the_start_is_run_at_once() -> None:
    """Nobody has to move the clock for what was due while no bus ran."""
    first = Desk()
    failing(first, until=99)
    await first.bus.emit("work", "a", "bad")
    await first.bus.close()
    second = Desk(first.bus.store)
    second.clock.move_to(NOON + 5 * HOUR)
    failing(second, until=2)
    async with second.bus as bus:
        await bus.idle()
    assert second.seen == [("bad/2", 5 * HOUR)]


async def test_retries_without_delay() -> None:
    """A policy may ask for attempts at once; the clock need not move."""
    desk = Desk()
    failing(desk, until=4, delay=timedelta(0))
    await desk.bus.emit("work", "a", "bad")
    await desk.bus.idle()
    assert [what for what, _ in desk.seen] == ["bad/1", "bad/2", "bad/3", "bad/4"]
    assert (await desk.bus.emit("work", "a", "good")).status == "handled"


async def test_events_of_two_sources_with_one_id_are_retried_each() -> None:
    """Only source and id together name an event."""
    desk = Desk()
    failing(desk, until=2, in_order=False)
    for source in ("/one", "/two"):
        await desk.bus.emit(Event("work", "a", "bad", id="1", source=source))
    assert (await desk.stats()).retries == 2
    await desk.bus.advance(HOUR)
    assert (await desk.bus.read("a")).get("touched") == ["bad", "bad"]


async def test_a_retry_that_another_bus_has_run() -> None:
    """The turn finds out that it is done, changes nothing, and what waits for it goes on."""
    first = Desk()
    failing(first, until=2)
    await first.bus.emit("work", "a", "bad")
    later = await first.bus.emit("work", "a", "good")
    second = Desk(first.bus.store)
    failing(second, until=2)
    await second.bus.start()
    await second.bus.advance(HOUR)
    await first.bus.advance(HOUR)
    assert later.status == "handled"
    touched = (await first.bus.read("a")).get("touched")
    assert (touched.count("bad"), touched.count("good")) == (1, 1)


async def test_an_event_that_fails_as_a_whole_is_retried_as_a_whole() -> None:
    """A middleware around the whole event raises: nothing is kept, and the limits' policy says what then."""
    fails = [True, True]
    policy = RetryPolicy(attempts=3, delay=HOUR, factor=1, max_delay=HOUR, jitter=0)
    desk = Desk(limits=Limits(retry=policy))
    failing(desk, until=0)

    async def broken(ctx: Context, next: Any) -> None:
        await next()
        if fails:
            fails.pop()
            raise LookupError

    desk.bus.use(broken, scope="event")
    assert isinstance((await desk.bus.emit("work", "a", "good")).error, LookupError)
    assert (await desk.bus.read("a")).get("events") is None
    await desk.bus.advance(24 * HOUR)
    assert (await desk.bus.read("a")).get("events") == 1
