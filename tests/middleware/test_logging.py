"""Logging: what is recorded of events and of rules that fail, and what a record cannot be made to say."""

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from onwhen import (
    Context,
    EventBus,
    Limits,
    RetryPolicy,
    RuleSet,
    VirtualClock,
    changed,
    create_memory_storage,
    partition_of,
    when,
)
from onwhen.errors import Postponed, RateLimited, RuleDefinitionError
from onwhen.middleware import Logging

LOGGER = logging.getLogger("onwhen")


class Records(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.all.append(record)

    @property
    def levels(self) -> list[str]:
        return [record.levelname for record in self.all]

    @property
    def only(self) -> Any:
        (record,) = self.all
        return record


@pytest.fixture
def records() -> Iterator[Records]:
    """All records of the library's logger, DEBUG included."""
    handler = Records()
    before = LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    yield handler
    LOGGER.removeHandler(handler)
    LOGGER.setLevel(before)


class Stopwatch:
    """The clock by which durations are measured, moved by hand."""

    seconds = 0.0


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr("onwhen.middleware.logging.perf_counter", lambda: watch.seconds)
    return watch


def bus_with(rules: RuleSet, **options: Any) -> EventBus:
    return EventBus(rules, store=create_memory_storage(), clock=VirtualClock(), **options)


def around_events(rules: RuleSet, **options: Any) -> EventBus:
    bus = bus_with(rules)
    bus.use(Logging(**options), scope="event")
    return bus


def around_both(rules: RuleSet, **options: Any) -> EventBus:
    bus = bus_with(rules)
    bus.use(Logging(**options))
    return bus


def around_rules(rules: RuleSet, **options: Any) -> EventBus:
    bus = bus_with(rules)
    bus.use(Logging(**options), scope="rule")
    return bus


def orders() -> RuleSet:
    """Two rules that succeed, one that a condition skips, one that fails."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    def take(ctx: Context) -> None:
        ctx.subject.set("status", "open")

    @rules.on("order.taken")
    @when(lambda ctx: ctx.payload.get("gift"))
    def wrap(ctx: Context) -> None:
        raise AssertionError("never run")

    @rules.on("order.taken")
    def charge(ctx: Context) -> None:
        raise ValueError("card refused")

    @rules.on(changed("status"))
    def note(ctx: Context) -> None:
        ctx.subject.set("noted", True, muted=True)

    return rules


# -- events ------------------------------------------------------------------------------------------------------


async def test_an_event_is_one_record(records: Records) -> None:
    """It says which event, to whom, what came of it, how long that took, and how many rules did what."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    def take(ctx: Context) -> None: ...

    bus = around_events(rules)
    receipt = await bus.emit("order.taken", "order:1")

    record = records.only
    assert record.name == "onwhen"
    assert record.levelname == "INFO"
    assert (record.event_type, record.subject, record.outcome) == ("order.taken", "order:1", "handled")
    assert record.event_id == receipt.event.id
    assert record.correlation_id == receipt.event.correlation_id
    assert (record.rule, record.attempt) == (None, 1)
    assert (record.fired, record.skipped, record.failed, record.stopped) == (1, 0, 0, 0)
    assert 0 < record.duration < 10
    assert record.getMessage() == f"order.taken to order:1: handled (1 fired) in {record.duration:.6f} s"


async def test_the_duration_is_that_of_all_rules_together(records: Records, stopwatch: Stopwatch) -> None:
    """In seconds, from the first rule to the last, what they await included."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    async def slow(ctx: Context) -> None:
        stopwatch.seconds += 2.5
        await asyncio.sleep(0)
        stopwatch.seconds += 0.25

    @rules.on("order.taken")
    def slower(ctx: Context) -> None:
        stopwatch.seconds += 10

    await around_events(rules).emit("order.taken", "order:1")
    assert records.only.duration == 12.75
    assert records.only.getMessage().endswith(" in 12.750000 s")


async def test_an_event_without_rules_is_a_record_too(records: Records) -> None:
    """What nobody handles can be seen."""
    await around_events(RuleSet("none")).emit("order.lost", "order:1")
    assert "no rule matched" in records.only.getMessage()


async def test_messages_share_the_correlation_id(records: Records) -> None:
    """All records of a cascade can be found by one value."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    async def send(ctx: Context) -> None:
        await ctx.emit("parcel.sent", subject="parcel:1")

    await around_events(rules).emit("order.taken", "order:1")
    taken, sent = records.all
    assert (taken.subject, sent.subject) == ("order:1", "parcel:1")
    assert taken.correlation_id == sent.correlation_id
    assert taken.event_id != sent.event_id


async def test_a_record_names_the_partition(records: Records) -> None:
    """Which worker it was is found by it."""
    bus = EventBus(store=create_memory_storage(partitions=16))
    bus.use(Logging())
    await bus.emit("order.taken", "order:7")
    assert records.only.partition == partition_of("order:7", 16)


async def test_an_event_that_a_middleware_stops_is_logged_as_stopped(records: Records) -> None:
    """The record names the middleware."""
    bus = around_events(orders())

    async def doorman(ctx: Any, next: Any) -> None:
        """Let nobody in."""

    bus.use(doorman, scope="event")
    await bus.emit("order.taken", "order:1")
    assert records.only.outcome == "stopped"
    assert "stopped (by doorman)" in records.only.getMessage()


async def test_an_event_that_fails_as_a_whole_is_one_error(records: Records) -> None:
    """The failures of single rules do not matter any more: nothing of the turn was kept."""
    rules = orders()

    @rules.on(changed("turns"))
    def spin(ctx: Context) -> None:
        ctx.subject.set("turns", lambda turns: turns + 1)

    @rules.on("order.taken")
    def begin(ctx: Context) -> None:
        ctx.subject.set("turns", 0)

    receipt = await around_events(rules).emit("order.taken", "order:1")
    assert receipt.error is not None
    record = records.only
    assert (record.levelname, record.outcome, record.rule) == ("ERROR", "failed", None)
    assert "failed as a whole, set aside as a dead letter: onwhen.errors.CascadeLimit: " in record.getMessage()
    assert record.duration > 0
    assert "orders.spin -> turns -> orders.spin" in record.error


async def test_an_event_that_fails_as_a_whole_and_is_run_again_is_a_warning_until_it_is_final(records: Records) -> None:
    """As with rules: each attempt has its record, with its number and when the next one is due."""
    bus = bus_with(orders(), limits=Limits(retry=RetryPolicy(attempts=2, delay=timedelta(seconds=30), jitter=0)))
    bus.use(Logging())

    async def closed(ctx: Any, next: Any) -> None:
        raise ValueError("no key")

    bus.use(closed, scope="event")
    await bus.emit("order.taken", "order:1")
    await bus.advance(timedelta(minutes=1))
    first, second = records.all
    assert (first.levelname, first.attempt, first.retry_at) == ("WARNING", 1, "1970-01-01T00:00:30+00:00")
    assert "failed as a whole, to be run again at 1970-01-01T00:00:30+00:00: ValueError: no key" in first.getMessage()
    assert (second.levelname, second.attempt, second.retry_at) == ("ERROR", 2, None)
    assert first.duration > 0
    assert second.duration > 0


async def test_a_turn_that_takes_too_long_is_logged_with_what_comes_of_it(records: Records) -> None:
    """It is cancelled, and no middleware is entered any more when the event is set aside."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    async def wait(ctx: Context) -> None:
        await asyncio.Event().wait()

    bus = bus_with(rules, limits=Limits(turn_timeout=0.01))
    bus.use(Logging())
    await bus.emit("order.taken", "order:1")
    cancelled, failed = records.all
    assert (cancelled.levelname, cancelled.outcome) == ("WARNING", "cancelled")
    assert (failed.levelname, failed.outcome, failed.duration, failed.attempt) == ("ERROR", "failed", None, 1)
    assert "set aside as a dead letter: onwhen.errors.RuleTimeout: " in failed.getMessage()


async def test_a_bus_can_be_watched_before_the_first_event(records: Records) -> None:
    """For events that no middleware is given to see; what is handled is not told by that."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    async def wait(ctx: Context) -> None:
        if ctx.payload.get("for ever"):
            await asyncio.Event().wait()

    bus = bus_with(rules, limits=Limits(turn_timeout=0.01))
    log = Logging().watch(bus)
    assert log.watch(bus) is log
    await bus.emit("order.taken", "order:1")
    await bus.emit("order.taken", "order:1", {"for ever": True})
    assert (records.only.levelname, records.only.rule) == ("ERROR", None)
    assert "failed as a whole, set aside as a dead letter: onwhen.errors.RuleTimeout: " in records.only.getMessage()


async def test_a_failure_of_the_event_that_a_middleware_swallows_is_logged_all_the_same(records: Records) -> None:
    """Half a turn is not committed, whatever a middleware makes of the error; so the event failed."""
    rules = RuleSet("orders")

    @rules.on("order.taken", changed("turns"))
    def spin(ctx: Context) -> None:
        ctx.subject.set("turns", lambda turns: (turns or 0) + 1)

    bus = around_events(rules)

    async def swallow(ctx: Any, next: Any) -> None:
        with suppress(Exception):
            await next()

    bus.use(swallow, scope="event")
    receipt = await bus.emit("order.taken", "order:1")
    assert receipt.error is not None
    assert (records.only.levelname, records.only.outcome) == ("ERROR", "failed")


async def test_a_message_that_is_refused_is_an_error(records: Records) -> None:
    """A chain that grew too long ends in a dead letter, and in a record that says so."""
    rules = RuleSet("orders")

    @rules.on("order.again")
    async def again(ctx: Context) -> None:
        await ctx.emit("order.again")

    bus = bus_with(rules, limits=Limits(max_depth=3))
    bus.use(Logging(level=logging.DEBUG, payloads=True), scope="event")
    await bus.emit("order.again", "order:1")
    (refused,) = [record for record in records.all if record.levelname == "ERROR"]
    assert (refused.event_type, refused.subject, refused.outcome) == ("order.again", "order:1", "refused")
    assert "orders.again -> order.again" in refused.error
    assert refused.payload is None


# -- rules that fail ---------------------------------------------------------------------------------------------


async def test_a_rule_that_fails_is_one_record_with_its_error(records: Records) -> None:
    """The event itself is handled all the same, so it has its own record."""
    await around_events(orders()).emit("order.taken", "order:1")
    failure, event = records.all
    assert (failure.levelname, failure.rule, failure.outcome) == ("ERROR", "orders.charge", "failed")
    assert (failure.event_type, failure.subject, failure.attempt) == ("order.taken", "order:1", 1)
    assert failure.error == "ValueError: card refused"
    assert failure.getMessage() == (
        "orders.charge failed on order.taken to order:1, set aside as a dead letter: ValueError: card refused"
    )
    assert (failure.handled, failure.retry_at) == (False, None)
    assert failure.correlation_id == event.correlation_id
    assert (event.outcome, event.fired, event.skipped, event.failed) == ("handled", 2, 1, 1)


async def test_a_condition_that_raises_is_a_failed_rule(records: Records) -> None:
    """A condition is tested before any middleware around the rule; around the event it is seen."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    @when(lambda ctx: ctx.payload["total"] > 0)
    def take(ctx: Context) -> None: ...

    await around_events(rules).emit("order.taken", "order:1")
    assert records.all[0].rule == "orders.take"
    assert records.all[0].error == "KeyError: 'total'"


async def test_a_reaction_that_fails_names_the_property_event(records: Records) -> None:
    """Its ids are those of the event that came in."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    def take(ctx: Context) -> None:
        ctx.subject.set("status", "open")

    @rules.on(changed("status"))
    def react(ctx: Context) -> None:
        raise ValueError

    receipt = await around_events(rules).emit("order.taken", "order:1")
    failure = records.all[0]
    assert (failure.rule, failure.event_type) == ("orders.react", "subject-property-changed")
    assert failure.event_id == receipt.event.id
    assert failure.error == "ValueError"


async def test_a_failure_that_is_retried_is_a_warning_until_it_is_final(records: Records) -> None:
    """Each attempt has its record, with its number and when the next one is due."""
    rules = RuleSet("orders")

    @rules.on("order.taken", retry=RetryPolicy(attempts=2, delay=timedelta(seconds=30), jitter=0))
    def charge(ctx: Context) -> None:
        raise ValueError("card refused")

    bus = around_events(rules)
    await bus.emit("order.taken", "order:1")
    await bus.advance(timedelta(minutes=1))
    failures = [record for record in records.all if record.rule]
    assert [(record.levelname, record.attempt) for record in failures] == [("WARNING", 1), ("ERROR", 2)]
    assert [record.retry_at for record in failures] == ["1970-01-01T00:00:30+00:00", None]
    assert [record.attempt for record in records.all if not record.rule] == [1, 2]


async def test_a_failure_that_parks_its_subject_says_so(records: Records) -> None:
    """Somebody has to resume it, so it is an error."""
    rules = RuleSet("orders")

    @rules.on("order.taken", retry=RetryPolicy(on_exhausted="park"))
    def charge(ctx: Context) -> None:
        raise ValueError("card refused")

    await around_both(rules).emit("order.taken", "order:1")
    assert records.all[0].levelname == "ERROR"
    assert "its subject is parked: ValueError" in records.all[0].getMessage()


async def test_a_rule_that_was_put_off_did_not_fail(records: Records) -> None:
    """Its record has the level of an event's, says when it is run again, and has no traceback."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    def charge(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise RateLimited("not so fast", delay=timedelta(seconds=30))

    bus = bus_with(rules, limits=Limits(retry=RetryPolicy(jitter=0)))
    bus.use(Logging())
    await bus.emit("order.taken", "order:1")
    put_off, event = [record for record in records.all if record.levelname != "DEBUG"]
    assert (put_off.levelname, put_off.outcome, put_off.rule) == ("INFO", "postponed", "orders.charge")
    assert put_off.retry_at == "1970-01-01T00:00:30+00:00"
    assert put_off.getMessage() == (
        "orders.charge postponed on order.taken to order:1, to be run again at 1970-01-01T00:00:30+00:00: "
        "onwhen.errors.RateLimited: not so fast"
    )
    assert put_off.exc_info is None
    assert put_off.duration > 0
    assert (event.outcome, event.fired, event.failed, event.postponed) == ("handled", 0, 0, 1)


async def test_an_event_that_was_put_off_as_a_whole_did_not_fail(records: Records) -> None:
    """A middleware further in may do that."""
    bus = around_both(orders())

    async def closed(ctx: Any, next: Any) -> None:
        raise Postponed("the shop is closed", delay=timedelta(hours=8))

    bus.use(closed, scope="event")
    receipt = await bus.emit("order.taken", "order:1")
    assert isinstance(receipt.error, Postponed)
    assert (records.only.levelname, records.only.outcome) == ("INFO", "postponed")


async def test_a_failure_that_a_middleware_handles_is_a_warning(records: Records) -> None:
    """It went no further, but it happened."""
    bus = around_events(orders())

    async def forgive(ctx: Any, next: Any) -> None:
        with suppress(ValueError):
            await next()

    bus.use(forgive)
    await bus.emit("order.taken", "order:1")
    failure = records.all[0]
    assert (failure.levelname, failure.handled) == ("WARNING", True)
    assert "handled by a middleware" in failure.getMessage()


# -- around rules --------------------------------------------------------------------------------------------------


async def test_around_both_a_failure_is_still_one_record_now_with_its_duration(records: Records) -> None:
    """The rule's own time is known only around the rule, the engine's decision only around the event."""
    LOGGER.setLevel(logging.INFO)
    rules = RuleSet("orders")

    @rules.on("order.taken", timeout=0.01, retry=RetryPolicy(attempts=2))
    async def charge(ctx: Context) -> None:
        await asyncio.Event().wait()

    await around_both(rules).emit("order.taken", "order:1")
    failure, event = records.all
    assert failure.error.startswith("onwhen.errors.RuleTimeout: orders.charge did not return within 0.01 s")
    assert failure.levelname == "WARNING"
    assert 0 < failure.duration <= event.duration
    assert event.rule is None


async def test_without_being_used_around_rules_a_rules_duration_is_not_known(records: Records) -> None:
    """It says so, rather than to guess."""
    await around_events(orders()).emit("order.taken", "order:1")
    assert records.all[0].duration is None


async def test_durations_of_two_failures_of_one_rule_are_kept_apart(records: Records, stopwatch: Stopwatch) -> None:
    """A rule that reacts twice in one turn fails twice, even with one and the same error object."""
    LOGGER.setLevel(logging.INFO)
    rules = RuleSet("orders")
    error = ValueError("always this one")

    @rules.on("order.taken")
    def take(ctx: Context) -> None:
        ctx.subject.set("a", 7)
        ctx.subject.set("b", 3)

    @rules.on(changed("a", "b"))
    def react(ctx: Context) -> None:
        stopwatch.seconds += ctx.new_value
        raise error

    await around_both(rules).emit("order.taken", "order:1")
    assert [record.duration for record in records.all] == [7, 3, 10]


async def test_around_rules_each_run_is_a_debug_record(records: Records) -> None:
    """What was skipped did not run, what failed is an error, and there is no record of the event."""
    await around_rules(orders()).emit("order.taken", "order:1")
    assert [(record.levelname, record.rule, record.outcome) for record in records.all] == [
        ("DEBUG", "orders.take", "fired"),
        ("ERROR", "orders.charge", "failed"),
        ("DEBUG", "orders.note", "fired"),
    ]
    assert all(record.duration > 0 for record in records.all)
    assert records.all[2].event_type == "subject-property-changed"
    assert records.all[0].getMessage().startswith("orders.take fired on order.taken to order:1 in 0.")
    assert records.all[1].getMessage() == "orders.charge failed on order.taken to order:1: ValueError: card refused"


async def test_around_rules_a_rule_that_is_stopped_or_handled_is_logged_as_that(records: Records) -> None:
    """What the middleware further in has done is seen from outside."""
    bus = around_rules(orders())

    async def inner(ctx: Any, next: Any) -> None:
        if ctx.rule.id != "orders.take":
            with suppress(ValueError):
                await next()

    bus.use(inner)
    await bus.emit("order.taken", "order:1")
    take, charge = records.all
    assert (take.outcome, take.levelname) == ("stopped", "DEBUG")
    assert "orders.take stopped by inner on" in take.getMessage()
    assert (charge.outcome, charge.levelname, charge.handled) == ("failed", "WARNING", True)


async def test_around_rules_a_time_out_is_seen_as_a_cancellation(records: Records) -> None:
    """The limit is kept from outside of all middleware, which is cancelled with the rule."""
    rules = RuleSet("orders")

    @rules.on("order.taken", timeout=0.01)
    async def charge(ctx: Context) -> None:
        await asyncio.Event().wait()

    receipt = await around_rules(rules).emit("order.taken", "order:1")
    assert [type(error).__name__ for _, error in receipt.failures] == ["RuleTimeout"]
    assert (records.only.outcome, records.only.levelname) == ("cancelled", "WARNING")


async def test_it_can_be_put_around_one_rule(records: Records) -> None:
    """As every middleware can."""
    rules = RuleSet("orders")

    @rules.on("order.taken", middleware=[Logging()])
    def take(ctx: Context) -> None: ...

    @rules.on("order.taken")
    def other(ctx: Context) -> None: ...

    await bus_with(rules).emit("order.taken", "order:1")
    assert records.only.rule == "orders.take"


# -- what an operator chooses --------------------------------------------------------------------------------------


async def test_nothing_is_configured_by_the_library() -> None:
    """No handler, no level, and records reach the application's own handlers."""
    before = (tuple(LOGGER.handlers), LOGGER.level, LOGGER.propagate)
    await around_both(orders()).emit("order.taken", "order:1")
    assert (tuple(LOGGER.handlers), LOGGER.level, LOGGER.propagate) == before


async def test_level_and_logger_are_chosen_by_the_application(caplog: pytest.LogCaptureFixture) -> None:
    """A logger may be given by name, or itself; a level by name, or as the number."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    def take(ctx: Context) -> None: ...

    for logger, level in (("shop.events", logging.DEBUG), (logging.getLogger("shop.events"), "debug")):
        caplog.clear()
        with caplog.at_level(logging.DEBUG):
            await around_events(rules, logger=logger, level=level).emit("order.taken", "order:1")
        assert [(record.name, record.levelname) for record in caplog.records] == [("shop.events", "DEBUG")]


@pytest.mark.parametrize("around", [around_events, around_both])
async def test_a_level_that_is_off_leaves_the_failures(around: Any, records: Records) -> None:
    """At WARNING there is no record per event, but a rule that fails is seen."""
    LOGGER.setLevel(logging.WARNING)
    await around(orders()).emit("order.taken", "order:1")
    assert records.levels == ["ERROR"]


@pytest.mark.parametrize("around", [around_events, around_rules, around_both])
async def test_a_logger_that_is_off_costs_no_record(around: Any, records: Records) -> None:
    """Nothing is worked out that nobody wants."""
    LOGGER.setLevel(logging.CRITICAL + 1)
    receipt = await around(orders()).emit("order.taken", "order:1")
    assert records.all == []
    assert receipt.fired == ("orders.take", "orders.note")


async def test_payloads_are_left_out(records: Records) -> None:
    """They may be large, or secret."""
    bus = around_both(orders())
    await bus.emit("order.taken", "order:1", {"card": "card-of-ann"})
    for record in records.all:
        assert not hasattr(record, "payload")
        assert "card-of-ann" not in repr(vars(record))


async def test_payloads_can_be_asked_for(records: Records) -> None:
    """As an attribute, for formatters that know what to do with it; it is valid JSON."""
    await around_events(orders(), payloads=True).emit("order.taken", "order:1", {"items": [1, 2]})
    assert [json.dumps(record.payload) for record in records.all] == ['{"items": [1, 2]}'] * 2


async def test_payloads_can_be_shown_without_what_is_secret(records: Records) -> None:
    """Names are found at any depth, paths by their end; see the tests of redaction."""
    bus = around_events(orders(), payloads=True, redact=("password", "card.number"))
    await bus.emit("order.taken", "order:1", {"card": {"number": 4242, "of": "ann"}, "user": {"Password": "hush"}})
    shown = {"card": {"number": "***", "of": "ann"}, "user": {"Password": "***"}}
    assert [record.payload for record in records.all] == [shown] * 2


async def test_a_property_that_is_secret_is_secret_when_it_is_changed_from_outside_too(records: Records) -> None:
    """The event that tells of it has values under other names."""
    bus = bus_with(RuleSet("users"))
    bus.use(Logging(payloads=True, redact=["password"]))
    async with bus.subject("user:1") as user:
        user.set("password", "hush")
    assert records.only.payload == {"property_name": "password", "old_value": "***", "value": "***"}


async def test_bytes_are_never_shown(records: Records) -> None:
    """Only how many they are."""
    await around_events(orders(), payloads=True).emit("scan.done", "scan:1", b"\x1b[2J" * 100)
    assert records.only.payload == "(400 bytes)"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"level": "LOUD"}, "level='LOUD' must be a level of logging"),
        ({"level": True}, "level=True"),
        ({"level": 1.5}, "level=1.5"),
        ({"logger": None}, "logger=None must be a logger"),
        ({"redact": ("password",)}, "add payloads=True"),
        ({"payloads": True, "redact": "password"}, "redact='password' must be a list"),
        ({"payloads": True, "redact": [""]}, "redact='' must be the name of a field"),
        ({"payloads": True, "redact": [7]}, "redact=7"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(options: dict[str, Any], told: str) -> None:
    """Not when the first event comes."""
    with pytest.raises(RuleDefinitionError, match=re.escape(told)):
        Logging(**options)


# -- what a record cannot be made to say ---------------------------------------------------------------------------


async def test_nothing_from_outside_can_begin_a_line(records: Records) -> None:
    """Types, subjects and errors: what cannot be printed is escaped, in messages and in attributes."""
    evil = "a\u2028b\u202egnp.exe"  # a line separator, and an order to print backwards: legal in CloudEvents
    rules = RuleSet("orders")

    @rules.on("*")
    def fail(ctx: Context) -> None:
        raise ValueError("bad\r\nERROR root all accounts deleted\x1b[2J")

    await around_both(rules).emit(evil, evil)
    failure, event = records.all
    for record in records.all:
        assert record.getMessage().isprintable()
        assert record.event_type == record.subject == "a\\u2028b\\u202egnp.exe"
    assert failure.error == "ValueError: bad\\r\\nERROR root all accounts deleted\\x1b[2J"
    assert event.outcome == "handled"


@pytest.mark.parametrize(
    "sign", [*"\u2028\u2029\u0085\x0b\x0c\x1b\x7f", *map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)])]
)
async def test_what_could_mislead_a_reader_is_escaped(records: Records, sign: str) -> None:
    """Line ends of all kinds, controls of terminals, and those of the direction of writing."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    def fail(ctx: Context) -> None:
        raise ValueError(f"a{sign}b")

    await around_both(rules, payloads=True).emit("order.taken", "order:1", f"a{sign}b")
    line = logging.Formatter("%(message)s %(error)s %(payload)s").format(records.all[0])
    assert sign not in line
    assert all(part.isprintable() for part in line.split("\n"))


async def test_a_traceback_cannot_pretend_to_be_another_record(records: Records) -> None:
    """Each line of it is marked, also those that an error's text would add."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    def fail(ctx: Context) -> None:
        raise ValueError("bad\nERROR root all accounts deleted\x1b[2J")

    await around_events(rules).emit("order.taken", "order:1")
    failure = records.all[0]
    first, *trace = logging.Formatter("%(levelname)s %(message)s").format(failure).split("\n")
    assert first.startswith("ERROR orders.fail failed on order.taken")
    assert all(line.startswith("  | ") and line.isprintable() for line in trace)
    assert any("in fail" in line for line in trace)
    assert trace[-1] == "  | ERROR root all accounts deleted\\x1b[2J"


async def test_a_failure_points_to_where_it_was_raised(records: Records) -> None:
    """File, line and function of the record are those of the rule; error trackers get the exception itself."""
    receipt = await around_events(orders()).emit("order.taken", "order:1")
    failure = records.all[0]
    assert (failure.filename, failure.funcName) == ("test_logging.py", "charge")
    assert failure.exc_info[1] is receipt.failures[0][1]


async def test_tracebacks_can_be_left_out(records: Records) -> None:
    """Then a failure is one line; the dead letter keeps the traceback."""
    bus = around_events(orders(), tracebacks=False)
    await bus.emit("order.taken", "order:1")
    assert records.all[0].exc_info is None
    assert "\n" not in logging.Formatter().format(records.all[0])
    assert [letter.failure.traceback != "" async for letter in bus.dead_letters()] == [True]


async def test_long_names_and_errors_are_cut(records: Records) -> None:
    """A record has a bounded size."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    def fail(ctx: Context) -> None:
        raise ValueError("x" * 100_000)

    await around_events(rules, tracebacks=False).emit("order.taken", "order:" + "9" * 10_000)
    failure = records.all[0]
    assert len(failure.subject) == 256
    assert failure.subject.endswith("9…")
    assert len(failure.getMessage()) < 5000


# -- what it must not change ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", [around_events, around_rules, around_both])
async def test_it_changes_nothing_of_what_rules_do(around: Any, records: Records) -> None:
    """Receipts with and without it are the same."""

    def told(receipt: Any) -> list[tuple[Any, ...]]:
        return [(run.rule, run.status, run.stopped_by, repr(run.error), run.changes) for run in receipt.runs]

    bare = await bus_with(orders()).emit("order.taken", "order:1")
    logged = await around(orders()).emit("order.taken", "order:1")
    assert told(logged) == told(bare)


async def test_an_event_that_is_cancelled_from_inside_stays_cancelled(records: Records) -> None:
    """A middleware is not the place where a cancellation ends; what comes of it is known, as of any failure."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    async def give_up(ctx: Context) -> None: ...

    bus = around_events(rules)

    async def cancelled(ctx: Any, next: Any) -> None:
        raise asyncio.CancelledError

    bus.use(cancelled, scope="event")
    receipt = await bus.emit("order.taken", "order:1")
    assert isinstance(receipt.error, asyncio.CancelledError)
    assert (records.only.outcome, records.only.levelname) == ("failed", "ERROR")


@pytest.mark.parametrize("around", [around_events, around_rules, around_both])
async def test_what_ends_the_program_is_nobodys_failure(around: Any, records: Records) -> None:
    """A keyboard interrupt goes through, and leaves no record."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    def interrupted(ctx: Context) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await around(rules).emit("order.taken", "order:1")
    assert records.all == []
