"""The graph of an app: what is in it, and what stands for what."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from onwhen import SUBJECT_DELETED, SUBJECT_PROPERTY_CHANGED, Context, RuleSet, changed, deleted, when
from onwhen.analysis import graph_of, survey
from onwhen.engine.rulebook import Rulebook
from onwhen.middleware import CircuitBreaker, Default, ErrorEvents, Fallback, LastGood, Logging
from onwhen.middleware.circuit_breaker import CIRCUIT_CLOSED, CIRCUIT_HALF_OPENED, CIRCUIT_OPENED
from tests.analysis.looking import Customer, Ticket, arrows, graph


def test_rules_events_and_properties_are_nodes() -> None:
    """And what one does to the other is an edge."""
    tickets = RuleSet("tickets", subject=Ticket)

    @tickets.on("ticket.taken", priority=5)
    @when(lambda ctx: ctx.payload["by"])
    def take(ctx: Context[Ticket]) -> None:
        ctx.subject.owner = ctx.payload["by"]
        ctx.emit("ticket.overdue", delay=timedelta(hours=1), key="sla")

    @tickets.on(changed("owner", from_="ann"))
    def greet(ctx: Context[Ticket]) -> None:
        ctx.subject.set("events", 1, muted=True)
        ctx.emit("mail.sent", subject="mail:1")

    found = graph(tickets)
    assert arrows(found) == {
        ("event:ticket.taken", "triggers", "rule:tickets.take"),
        ("rule:tickets.take", "sets", "property:Ticket.owner"),
        ("rule:tickets.take", "emits", "event:ticket.overdue"),
        ("property:Ticket.owner", "triggers", "rule:tickets.greet"),
        ("rule:tickets.greet", "sets", "property:Ticket.events"),
        ("rule:tickets.greet", "emits", "event:mail.sent"),
    }
    (timer,) = [edge for edge in found.edges if edge.is_timer]
    (muted,) = [edge for edge in found.edges if edge.is_muted]
    assert (timer.label, timer.target, muted.target) == ("timer sla", "event:ticket.overdue", "property:Ticket.events")
    assert {edge.label for edge in found.edges} == {"timer sla", "to mail:1", "changed('owner', from_='ann')", ""}
    rule = next(node for node in found.nodes if node.id == "rule:tickets.take")
    assert (rule.label, rule.group) == ("take", "tickets")
    assert rule.notes == ("for Ticket, ticket:*", 'when ctx.payload["by"]', "priority 5")
    assert rule.place is not None
    assert rule.place.line == take.__code__.co_firstlineno + 2


def test_what_fits_a_glob_leads_to_it() -> None:
    """What is emitted, and what other rules are for."""
    rules = RuleSet("rules")

    @rules.on("order.*")
    def every(ctx: Context) -> None: ...

    @rules.on("order.paid")
    def paid(ctx: Context) -> None:
        ctx.emit("order.sent")
        ctx.emit(f"order.{ctx.payload['step']}.x")

    assert {edge for edge in arrows(graph(rules)) if edge[1] == "matches"} == {
        ("event:order.paid", "matches", "event:order.*"),
        ("event:order.sent", "matches", "event:order.*"),
        ("event:order.*.x", "matches", "event:order.*"),
    }


def test_any_property_stands_for_those_that_are_set() -> None:
    """But for those that a condition leaves out; a name that it asks for stands for itself."""
    rules = RuleSet("rules")

    @rules.on(SUBJECT_PROPERTY_CHANGED)
    @when(lambda ctx: ctx.property_name != "count")
    def count(ctx: Context) -> None:
        ctx.subject.set("count", 1)

    @rules.on(SUBJECT_PROPERTY_CHANGED)
    @when(lambda ctx: ctx.property_name == "count")
    def note(ctx: Context) -> None:
        ctx.subject.set("note", 1)

    assert arrows(graph(rules)) == {
        ("property:* but count", "triggers", "rule:rules.count"),
        ("rule:rules.count", "sets", "property:count"),
        ("property:count", "triggers", "rule:rules.note"),
        ("rule:rules.note", "sets", "property:note"),
        ("property:note", "matches", "property:* but count"),
    }


def test_properties_belong_to_the_class_that_declares_them() -> None:
    """A rule for all subjects that sets one of that name leads there."""
    tickets, every = RuleSet("tickets", subject=Ticket), RuleSet("every")
    customers = RuleSet("customers", subject=Customer)

    class Urgent(Ticket, prefix="ticket:urgent:"): ...

    urgent = RuleSet("urgent", subject=Urgent)

    @urgent.on("x")
    def hurry(ctx: Context[Urgent]) -> None:
        ctx.subject.events += 1

    @tickets.on(changed("events"))
    def react(ctx: Context[Ticket]) -> None: ...

    @tickets.on(SUBJECT_PROPERTY_CHANGED)
    def any(ctx: Context[Ticket]) -> None: ...

    @every.on("x")
    def touch(ctx: Context) -> None:
        ctx.subject.events = 1

    @customers.on("x")
    def other(ctx: Context[Customer]) -> None:
        ctx.subject.tickets = 1

    found = arrows(graph(tickets, urgent, every, customers))
    assert ("rule:urgent.hurry", "sets", "property:Ticket.events") in found
    assert ("property:events", "matches", "property:Ticket.events") in found
    assert ("property:Ticket.events", "matches", "property:Ticket.*") in found
    assert [edge for edge in found if edge[0] == "property:Customer.tickets"] == []


def test_a_property_that_only_one_class_below_has_is_its_own() -> None:
    """A rule for the class above asks which it is, and sets it."""
    tickets = RuleSet("tickets", subject=Ticket)

    class Urgent(Ticket, prefix="ticket:urgent:"):
        hours: int = 1

    @tickets.on("x")
    def hurry(ctx: Context[Ticket]) -> None:
        if isinstance(ctx.subject, Urgent):
            ctx.subject.hours = 0

    ((_, _, target),) = [edge for edge in arrows(graph(tickets)) if edge[1] == "sets"]
    assert target.endswith("Urgent.hours")


def test_a_condition_on_how_a_name_begins_is_a_pattern() -> None:
    """Of properties; those that are set lead there."""
    rules = RuleSet("rules")

    @rules.on(SUBJECT_PROPERTY_CHANGED)
    @when(lambda ctx: ctx.property_name.startswith("sensor_"))
    def read(ctx: Context) -> None:
        ctx.subject.set("sensor_a", 1)
        ctx.subject.set("b", 1)

    found = arrows(graph(rules))
    assert ("property:sensor_*", "triggers", "rule:rules.read") in found
    assert [edge for edge in found if edge[1] == "matches"] == [("property:sensor_a", "matches", "property:sensor_*")]


def test_what_is_only_set_muted_stands_for_nothing() -> None:
    """Nobody reacts."""
    rules = RuleSet("rules")

    @rules.on(SUBJECT_PROPERTY_CHANGED)
    def loud(ctx: Context) -> None:
        ctx.subject.set("a", 1, muted=True)
        ctx.subject.set("b", 1)

    assert [edge for edge in arrows(graph(rules)) if edge[1] == "matches"] == [("property:b", "matches", "property:*")]


def test_deletion_has_its_own_ways() -> None:
    """Of a property, and of the whole subject."""
    rules = RuleSet("rules")

    @rules.on(deleted("note"))
    def gone(ctx: Context) -> None:
        ctx.subject.flush()

    @rules.on(SUBJECT_DELETED)
    def mourn(ctx: Context) -> None:
        ctx.subject.delete("note")

    found = graph(rules)
    assert ("rule:rules.gone", "emits", f"event:{SUBJECT_DELETED}") in arrows(found)
    labels = {(edge.source, edge.target): edge.label for edge in found.edges}
    assert labels["property:note", "rule:rules.gone"] == "deleted"
    assert labels["rule:rules.mourn", "property:note"] == "deletes"


def test_what_cannot_be_told_is_a_node_of_its_own() -> None:
    """One for each rule, with all reasons."""
    rules = RuleSet("rules")

    @rules.on("x")
    def blind(ctx: Context) -> None:
        ctx.emit(ctx.payload["type"])
        ctx.subject.set(ctx.payload["name"], 1)
        ctx.payload["x"](ctx)

    found = graph(rules)
    (node,) = [node for node in found.nodes if node.kind == "unknown"]
    assert (node.id, node.label, len(node.notes)) == ("unknown:rules.blind", "?", 3)
    assert ("rule:rules.blind", "emits", node.id) in arrows(found)
    assert ("rule:rules.blind", "sets", node.id) in arrows(found)


def test_a_middleware_is_in_it_if_it_does_something_itself() -> None:
    """One that only looks on is named at the rules."""
    rules = RuleSet("rules")

    @rules.on("x")
    def rule(ctx: Context) -> None: ...

    async def alarm(ctx: Context, next: Any) -> None:
        await next()
        await ctx.emit("alarm")

    async def watch(ctx: Context, next: Any) -> None:
        await next()

    found = graph(rules, middleware=(alarm, watch))
    assert [node.id for node in found.nodes if node.kind == "middleware"] == ["middleware:alarm"]
    assert ("middleware:alarm", "emits", "event:alarm") in arrows(found)
    assert next(node for node in found.nodes if node.kind == "rule").notes[1:] == ("inside alarm", "inside watch")


def test_a_middleware_of_ours_is_there_with_what_it_emits() -> None:
    """How it does that is not shown; one that emits nothing is not in it."""
    rules = RuleSet("rules")
    breaker = CircuitBreaker(failures=3)

    @rules.on("circuit.*", middleware=[breaker, ErrorEvents(), Logging()])
    def rule(ctx: Context) -> None: ...

    found = graph(rules)
    emitted = {target for source, kind, target in arrows(found) if source == "middleware:CircuitBreaker"}
    assert emitted == {f"event:{type}" for type in (CIRCUIT_OPENED, CIRCUIT_HALF_OPENED, CIRCUIT_CLOSED)}
    assert ("middleware:ErrorEvents", "emits", "event:error.handler_failed") in arrows(found)
    assert [node.label for node in found.nodes if node.kind == "middleware"] == ["CircuitBreaker", "ErrorEvents"]
    assert not [node for node in found.nodes if node.kind == "unknown"]


def test_a_middleware_around_some_rules_is_named_at_those() -> None:
    """As in the engine."""
    rules = RuleSet("rules")

    @rules.on("a")
    def one(ctx: Context) -> None: ...

    @rules.on("b.*", "[ab]", priority=1)
    def two(ctx: Context) -> None: ...

    async def watch(ctx: Context, next: Any) -> None:
        await next()

    book = Rulebook()
    book.include(rules)
    book.use(watch, only=["*.two"])
    notes = {node.label: node.notes for node in graph_of(survey(book)).nodes if node.kind == "rule"}
    assert notes == {"one": ("for all subjects",), "two": ("for all subjects", "inside watch", "priority 1")}


def test_a_rule_that_puts_itself_off_leads_to_itself() -> None:
    """And a property that is set leads to the rule for every event."""
    rules = RuleSet("rules")

    @rules.on("*")
    def every(ctx: Any) -> None:
        ctx.defer(delay=timedelta(hours=1), key="later")

    @rules.on("x")
    def set(ctx: Context) -> None:
        ctx.subject.a = 1

    found = arrows(graph(rules))
    assert ("rule:rules.every", "defers", "rule:rules.every") in found
    assert ("property:a", "matches", "event:*") in found


def test_what_stands_in_for_a_rule_is_its_own() -> None:
    """Functions, defaults and values that are remembered; a middleware around it knows the class of its subjects."""
    tickets = RuleSet("tickets", subject=Ticket)

    def guess(ctx: Context[Ticket]) -> None:
        ctx.subject.status = "open"
        ctx.emit("guessed")

    async def note(ctx: Context[Ticket], next: Any) -> None:
        await next()
        ctx.subject.events += 1

    @tickets.on("x", middleware=[note, Fallback(guess, LastGood("tags"), Default(owner="nobody"))])
    def ask(ctx: Context[Ticket]) -> None: ...

    assert {edge for edge in arrows(graph(tickets)) if edge[1] != "triggers"} == {
        ("rule:tickets.ask", "sets", "property:Ticket.status"),
        ("rule:tickets.ask", "sets", "property:Ticket.tags"),
        ("rule:tickets.ask", "sets", "property:Ticket.owner"),
        ("rule:tickets.ask", "emits", "event:guessed"),
        ("middleware:note", "sets", "property:Ticket.events"),
    }
