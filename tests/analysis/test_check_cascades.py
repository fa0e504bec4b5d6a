"""Cascades: which are found to be endless, which only might be, and which are none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Lock
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, Field

from onwhen import (
    SUBJECT_DELETED,
    SUBJECT_PROPERTY_CHANGED,
    Context,
    EventBus,
    RuleSet,
    Subject,
    changed,
    create_memory_storage,
    deleted,
    when,
)
from onwhen.middleware import (
    CircuitBreaker,
    Debug,
    Deduplication,
    ErrorEvents,
    Fallback,
    Logging,
    Metrics,
    Retry,
    Timeout,
    Tracing,
)
from tests.analysis.looking import Customer, Ticket, found, use

HOUR = timedelta(hours=1)


@pytest.fixture
def rules() -> RuleSet:
    return RuleSet("rules")


@pytest.fixture
def tickets() -> RuleSet:
    return RuleSet("tickets", subject=Ticket)


def severities(*sets: RuleSet, **options: Any) -> list[str]:
    return [finding.severity for finding in found(*sets, code="cascade", **options)]


# -- reactions ---------------------------------------------------------------------------------------------------


def test_a_rule_that_sets_itself_off_is_an_error(rules: RuleSet) -> None:
    """The finding names the way, the place and what to do."""

    @rules.on(SUBJECT_PROPERTY_CHANGED)
    def count(ctx: Context) -> None:
        ctx.subject.set("count", lambda n: (n or 0) + 1)

    (finding,) = found(rules, code="cascade")
    assert (finding.severity, finding.rule) == ("error", "rules.count")
    assert finding.message.startswith("rules.count -> count -> rules.count: it never ends")
    assert "muted" in finding.message
    assert finding.place is not None
    assert finding.place.line == count.__code__.co_firstlineno + 2


def test_two_rules_that_set_off_each_other_are_one_finding(tickets: RuleSet) -> None:
    """By properties of a class."""

    @tickets.on(changed("events"))
    def one(ctx: Context[Ticket]) -> None:
        ctx.subject.tags.append("x")

    @tickets.on(changed("tags"))
    def two(ctx: Context[Ticket]) -> None:
        ctx.subject.events += 1

    (finding,) = found(tickets, code="cascade")
    assert finding.severity == "error"
    assert "tickets.one -> tags -> tickets.two -> events -> tickets.one" in finding.message


def test_ways_out_of_a_loop_are_no_findings(rules: RuleSet) -> None:
    """Muted, left out by a condition, an extended property, another property."""

    @rules.on(SUBJECT_PROPERTY_CHANGED)
    def muted(ctx: Context) -> None:
        ctx.subject.set("a", lambda n: (n or 0) + 1, muted=True)

    @rules.on(SUBJECT_PROPERTY_CHANGED)
    @when(lambda ctx: ctx.property_name != "b")
    @when(lambda ctx: ctx.property_name not in ("c", "d"))
    def filtered(ctx: Context) -> None:
        ctx.subject.set("b", lambda n: (n or 0) + 1)

    @rules.on(SUBJECT_PROPERTY_CHANGED)
    def extended(ctx: Context) -> None:
        ctx.subject.set_ext("c", lambda n: (n or 0) + 1)

    @rules.on(changed("other"))
    def another(ctx: Context) -> None:
        ctx.subject.set("d", lambda n: (n or 0) + 1)

    # `muted` and the others react to b and d as well, but they change nothing that goes on
    assert severities(rules) == []


def test_how_a_name_begins_leaves_others_out(rules: RuleSet) -> None:
    """Properties and event types; what is known in part, too."""

    @rules.on(SUBJECT_PROPERTY_CHANGED)
    @when(lambda ctx: ctx.property_name.startswith("sensor_"))
    def last(ctx: Context) -> None:
        ctx.subject.set(f"last_{ctx.property_name}", ctx.new_value)

    @rules.on("*")
    @when(lambda ctx: not ctx.event_type.startswith(("audit.", "subject-")))
    def audit(ctx: Context) -> None:
        ctx.emit(f"audit.{ctx.event_type}")

    assert severities(rules) == []

    @rules.on(SUBJECT_PROPERTY_CHANGED)
    @when(lambda ctx: ctx.property_name.startswith("last_"))
    def endless(ctx: Context) -> None:
        ctx.subject.set("last_change", lambda n: (n or 0) + 1)

    assert severities(rules) == ["error"]


def test_a_constant_comes_to_rest(tickets: RuleSet) -> None:
    """The second time it is no change. Two that alternate do not, unless a trigger asks for one of them."""

    @tickets.on(changed("status"))
    def open(ctx: Context[Ticket]) -> None:
        ctx.subject.status = "open"

    assert severities(tickets) == []

    @tickets.on(changed("status", to="open"))
    def close(ctx: Context[Ticket]) -> None:
        ctx.subject.status = "closed"

    assert severities(tickets) == ["warning"]


def test_a_value_that_a_trigger_does_not_ask_for_sets_it_off_no_more(tickets: RuleSet) -> None:
    """From open to closed, and that is it."""

    @tickets.on(changed("status", to="open"))
    def close(ctx: Context[Ticket]) -> None:
        ctx.subject.status = "closed"

    @tickets.on(changed("status"))
    @when(lambda ctx: ctx.new_value == "new")
    def reopen(ctx: Context[Ticket]) -> None:
        ctx.subject.status = "open"

    assert severities(tickets) == []

    @tickets.on(changed("status", to="closed"))
    def forget(ctx: Context[Ticket]) -> None:
        ctx.subject.status = "closed"

    assert severities(tickets) == []

    @tickets.on(changed("status", to="closed"))
    def renew(ctx: Context[Ticket]) -> None:
        ctx.subject.status = "new"

    way = "tickets.close -> status -> tickets.renew -> status -> tickets.reopen -> status -> tickets.close"
    assert any(way in finding.message for finding in found(tickets, code="cascade"))


@pytest.mark.parametrize(
    "guard", [changed("events", to=lambda n: n < 3), changed("events", from_=1), changed("events", to=3)]
)
def test_a_trigger_that_asks_for_values_may_end_it(tickets: RuleSet, guard: Any) -> None:
    """So it is a warning."""

    @tickets.on(guard)
    def count(ctx: Context[Ticket]) -> None:
        ctx.subject.events += 1

    assert severities(tickets) == ["warning"]


def test_a_condition_or_an_if_may_end_it(tickets: RuleSet) -> None:
    """So does a value of which nobody knows whether it changes."""

    @tickets.on(changed("events"))
    @when(lambda ctx: ctx.new_value < 3)
    def count(ctx: Context[Ticket]) -> None:
        ctx.subject.events += 1

    @tickets.on(changed("tags"))
    def tag(ctx: Context[Ticket]) -> None:
        if len(ctx.subject.tags) < 3:
            ctx.subject.tags.append("x")

    @tickets.on(changed("owner"))
    def own(ctx: Context[Ticket]) -> None:
        ctx.subject.owner = ctx.payload["owner"]

    assert severities(tickets) == ["warning"] * 3


class Counter(Subject, prefix="counter:"):
    free: int = 0
    maybe: int | None = 0
    few: Annotated[int, Field(le=5)] = 0
    capped: Annotated[int, AfterValidator(lambda n: min(n, 5))] = 0
    step: Literal[0, 1, 2] = 0
    names: list[str] = []
    unique: Annotated[list[str], AfterValidator(lambda names: sorted(set(names)))] = []


@pytest.mark.parametrize(
    ("name", "severity"),
    [("free", "error"), ("maybe", "error"), *((one, "warning") for one in ("few", "capped", "step"))],
)
def test_a_property_that_does_not_take_every_number_may_end_it(name: str, severity: str) -> None:
    """It comes to one that is refused, or that a validator puts right."""
    counters = RuleSet("counters", subject=Counter)

    @counters.on(changed(name))
    def count(ctx: Context[Counter]) -> None:
        ctx.subject.set(name, lambda n: n + 1)

    assert severities(counters) == [severity]


def test_a_list_that_is_cut_again_may_end_it() -> None:
    """What is changed in place is looked at when the rule is through. What a property makes unique ends, too."""
    counters = RuleSet("counters", subject=Counter)

    @counters.on(changed("names"))
    def last(ctx: Context[Counter]) -> None:
        ctx.subject.names.append("x")
        del ctx.subject.names[:-3]

    @counters.on(changed("unique"))
    def unique(ctx: Context[Counter]) -> None:
        ctx.subject.unique.append("x")

    assert severities(counters) == ["warning", "warning"]


def enough(ctx: Context[Ticket]) -> None:
    if ctx.subject.events > 5:
        raise ValueError("that is enough")


def test_an_error_that_is_raised_on_purpose_may_end_it(tickets: RuleSet) -> None:
    """Here or in a function that is called; not one that was caught and is raised on."""

    @tickets.on(changed("events"))
    def checked(ctx: Context[Ticket]) -> None:
        enough(ctx)
        ctx.subject.events += 1

    @tickets.on("again")
    def sent(ctx: Context[Ticket]) -> None:
        ctx.emit("again")
        if ctx.payload["count"] > 5:
            raise ValueError("that is enough")

    assert severities(tickets) == ["warning", "warning"]

    @tickets.on(changed("tags"))
    def raised_on(ctx: Context[Ticket]) -> None:
        try:
            use(ctx.payload["x"])
        except KeyError:
            raise
        ctx.subject.tags.append("x")

    assert severities(tickets) == ["error", "warning", "warning"]


@contextmanager
def forgiving() -> Iterator[None]:
    with suppress(ValueError):
        yield


@pytest.mark.parametrize(
    ("manager", "severity"), [(lambda: suppress(ValueError), "warning"), (forgiving, "warning"), (Lock, "error")]
)
def test_a_block_whose_errors_are_caught_may_end_it(tickets: RuleSet, manager: Any, severity: str) -> None:
    """By `suppress`, or by who knows what manager; locks catch nothing."""

    @tickets.on(changed("events"))
    def count(ctx: Context[Ticket]) -> None:
        with manager():
            use(int(ctx.payload["text"]))
            ctx.subject.events += 1

    assert severities(tickets) == [severity]


def test_a_middleware_that_may_stop_a_rule_may_end_it(rules: RuleSet) -> None:
    """One that always goes on does not."""

    @rules.on(SUBJECT_PROPERTY_CHANGED)
    def count(ctx: Context) -> None:
        ctx.subject.set("count", lambda n: (n or 0) + 1)

    async def gate(ctx: Context, next: Any) -> None:
        if ctx.payload:
            await next()

    async def refuse(ctx: Context, next: Any) -> None:
        if not ctx.payload:
            raise ValueError("nothing to do")
        await next()

    async def both(ctx: Context, next: Any) -> None:
        if ctx.payload:
            await next()
        else:
            try:
                await next()
            except ValueError:
                raise

    assert severities(rules, middleware=(gate,)) == severities(rules, middleware=(refuse,)) == ["warning"]
    assert severities(rules, middleware=(both, Logging())) == ["error"]


@pytest.mark.parametrize(
    ("middleware", "severity"),
    [
        (Debug(), "error"),
        (ErrorEvents(), "error"),
        (Fallback(lambda ctx: None), "error"),
        (Logging(), "error"),
        (Metrics(), "error"),
        (Retry(), "error"),
        (Timeout(5), "error"),
        (Tracing(), "error"),
        (CircuitBreaker(failures=1), "warning"),
        (Deduplication(), "warning"),
    ],
)
async def test_of_ours_some_always_run_the_rule(rules: RuleSet, middleware: Any, severity: str) -> None:
    """What is said of them is what they do: the loop is ended by the engine, or by them."""

    @rules.on(SUBJECT_PROPERTY_CHANGED, middleware=[middleware])
    def count(ctx: Context) -> None:
        ctx.subject.set("count", lambda n: (n or 0) + 1)

    @rules.on("begin")
    def begin(ctx: Context) -> None:
        ctx.subject.set("count", 1)

    assert severities(rules) == [severity]
    if severity == "error":
        receipt = await EventBus(rules, store=create_memory_storage()).emit("begin", "x:1")
        assert any("rules.count -> count -> rules.count" in str(error) for _, error in receipt.failures)


def test_deletion_goes_round_as_well(rules: RuleSet) -> None:
    """Of a property, and of the subject."""

    @rules.on(deleted("a"))
    def again(ctx: Context) -> None:
        ctx.subject.delete("b")

    @rules.on(deleted("b"))
    def and_again(ctx: Context) -> None:
        ctx.subject.delete("a")

    @rules.on(SUBJECT_DELETED)
    def flush(ctx: Context) -> None:
        ctx.subject.flush()

    assert severities(rules) == ["warning", "warning"]


# -- messages ----------------------------------------------------------------------------------------------------


def test_messages_that_follow_from_themselves_are_an_error(rules: RuleSet) -> None:
    """To the own subject, or to others of the same kind."""

    @rules.on("ping")
    async def ping(ctx: Context) -> None:
        await ctx.emit("pong", subject="x:1")

    @rules.on("pong")
    async def pong(ctx: Context) -> None:
        await ctx.emit("ping", subject=f"x:{ctx.payload['to']}")

    (finding,) = found(rules, code="cascade")
    assert finding.severity == "error"
    assert "rules.ping -> pong -> rules.pong -> ping -> rules.ping" in finding.message
    assert "64 messages" in finding.message


def test_a_message_to_a_class_that_the_rule_is_not_for_ends_there(tickets: RuleSet) -> None:
    """Whatever its type."""
    customers = RuleSet("customers", subject=Customer)

    @tickets.on("moved")
    def move(ctx: Context[Ticket]) -> None:
        ctx.emit("moved", subject=f"customer:{ctx.payload['to']}")

    assert severities(tickets) == []

    @customers.on("mov*")
    def follow(ctx: Context[Customer]) -> None:
        ctx.emit("moved", subject="ticket:1")

    assert severities(tickets, customers) == ["error"]


def test_a_type_that_is_known_in_part_may_be_it(rules: RuleSet) -> None:
    """Or not; one that is unknown is no circle, but unknown."""

    @rules.on("step.one")
    def one(ctx: Context) -> None:
        ctx.emit(f"step.{ctx.payload['next']}")

    @rules.on("other")
    def other(ctx: Context) -> None:
        ctx.emit(ctx.payload["next"])

    assert severities(rules) == ["warning"]
    assert [finding.rule for finding in found(rules, code="unknown")] == ["rules.other"]


def test_a_timer_takes_its_time(rules: RuleSet) -> None:
    """A schedule is worth knowing, and no more."""

    @rules.on("tick")
    def tick(ctx: Context) -> None:
        ctx.emit("tick", delay=HOUR, key="tick")

    (finding,) = found(rules, code="cascade")
    assert finding.severity == "info"
    assert "(timer)" in finding.message


def test_a_middleware_that_sends_does_so_for_each_rule(rules: RuleSet) -> None:
    """The finding names it."""

    async def alarm(ctx: Context, next: Any) -> None:
        try:
            await next()
        except Exception:
            await ctx.emit("failed")

    @rules.on("failed")
    def mend(ctx: Context) -> None: ...

    (finding,) = found(rules, code="cascade", middleware=(alarm,))
    assert finding.severity == "warning"
    assert "(by middleware alarm)" in finding.message


def test_rules_for_classes_that_have_nothing_to_do_with_each_other_do_not_meet(tickets: RuleSet) -> None:
    """Though their properties have one name; a rule for all subjects meets both."""

    class Other(Subject, prefix="other:"):
        events: int = 0
        copied: int = 0

    others = RuleSet("others", subject=Other)

    @tickets.on(changed("events"))
    def count(ctx: Context[Ticket]) -> None:
        ctx.subject.status = "open"

    @others.on(changed("copied"))
    def copy(ctx: Context[Other]) -> None:
        ctx.subject.events += 1

    @others.on(changed("events"))
    def again(ctx: Context[Other]) -> None:
        ctx.subject.status_code = 1

    assert severities(tickets, others) == []

    every = RuleSet("every")

    @every.on(changed("events"))
    def note(ctx: Context) -> None:
        ctx.subject.set("copied", lambda n: (n or 0) + 1)

    assert severities(tickets, others, every) == ["warning"]


# -- reactions that nothing sets off -----------------------------------------------------------------------------


def test_a_reaction_to_what_is_only_changed_muted_is_told(tickets: RuleSet) -> None:
    """If another rule changes it unmuted, it is fine."""

    @tickets.on("ticket.taken")
    def take(ctx: Context[Ticket]) -> None:
        ctx.subject.set("owner", ctx.payload["by"], muted=True)

    @tickets.on(changed("owner"))
    def greet(ctx: Context[Ticket]) -> None: ...

    (finding,) = found(tickets, code="muted-trigger")
    assert (finding.severity, finding.rule) == ("warning", "tickets.greet")
    assert "tickets.take changes it muted" in finding.message

    @tickets.on("ticket.given")
    def give(ctx: Context[Ticket]) -> None:
        ctx.subject.owner = ctx.payload["to"]

    assert found(tickets, code="muted-trigger") == []
