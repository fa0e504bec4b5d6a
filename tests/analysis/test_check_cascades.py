"""Cascades: which are found to be endless, which only might be, and which are none."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

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
from tests.analysis.looking import Customer, Ticket, found

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


def test_a_middleware_that_may_stop_a_rule_may_end_it(rules: RuleSet) -> None:
    """One that always goes on does not."""

    @rules.on(SUBJECT_PROPERTY_CHANGED)
    def count(ctx: Context) -> None:
        ctx.subject.set("count", lambda n: (n or 0) + 1)

    async def gate(ctx: Context, next: Any) -> None:
        if ctx.payload:
            await next()

    async def both(ctx: Context, next: Any) -> None:
        if ctx.payload:
            await next()
        else:
            try:
                await next()
            except ValueError:
                raise

    assert severities(rules, middleware=(gate,)) == ["warning"]
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
