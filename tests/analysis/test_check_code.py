"""Properties that are not there, events that go astray, and what cannot be told."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from onwhen import Context, RuleSet, Subject, changed, when
from onwhen.analysis import CODES, check
from onwhen.errors import UnknownProperty
from tests.analysis.looking import Customer, Ticket, found, survey_of, use


@pytest.fixture
def tickets() -> RuleSet:
    return RuleSet("tickets", subject=Ticket)


@pytest.fixture
def customers() -> RuleSet:
    return RuleSet("customers", subject=Customer)


def told(*rules: RuleSet, code: str, **options: Any) -> list[tuple[str, str]]:
    return [(finding.severity, finding.message) for finding in found(*rules, code=code, **options)]


# -- properties --------------------------------------------------------------------------------------------------


def test_properties_that_the_class_does_not_have(tickets: RuleSet) -> None:
    """Read or written, in rules and in conditions; each with its line and with what may have been meant."""

    @tickets.on("x")
    @when(lambda ctx: ctx.subject.evnts == 0)
    def rule(ctx: Context[Ticket]) -> None:
        ctx.subject.ownr = "ann"  # type: ignore[attr-defined]
        ctx.subject.set("stauts", "open")
        use(ctx.subject.get("tag"), ctx.subject.nonsense)  # type: ignore[attr-defined]
        del ctx.subject.fact  # type: ignore[attr-defined]

    findings = found(tickets, code="unknown-property")
    assert {finding.severity for finding in findings} == {"error"}
    assert [finding.message.partition(",")[0] for finding in findings] == [
        "reads 'evnts'",
        "sets 'ownr'",
        "sets 'stauts'",
        "reads 'nonsense'",
        "reads 'tag'",
        "deletes 'fact'",
    ]
    assert "did you mean 'owner'?" in findings[1].message
    lines = [finding.place.line for finding in findings if finding.place is not None]
    assert lines == sorted(lines)


def test_a_question_for_what_is_not_there_is_a_warning(tickets: RuleSet) -> None:
    """It is always answered with no."""

    @tickets.on("x")
    def rule(ctx: Context[Ticket]) -> None:
        if ctx.subject.has("ownr") or "tag" in ctx.subject:
            ctx.subject.owner = "x"

    assert [severity for severity, _ in told(tickets, code="unknown-property")] == ["warning", "warning"]


def test_what_is_no_property_cannot_be_set(tickets: RuleSet) -> None:
    """What is computed, and what every subject has."""

    @tickets.on("x")
    def rule(ctx: Context[Ticket]) -> None:
        ctx.subject.is_open = True  # type: ignore[misc]
        ctx.subject.set("keys", 1)

    messages = [message for _, message in told(tickets, code="unknown-property")]
    assert "Ticket.is_open, which is computed" in messages[0]
    assert "Ticket.keys, which is no property" in messages[1]


def test_what_is_there_is_fine(tickets: RuleSet) -> None:
    """Declared, computed, methods, extended properties, those of a subclass, of another class, of any subject."""

    class Urgent(Ticket, prefix="ticket:urgent:"):
        level: int = 0

    @tickets.on("x")
    def rule(ctx: Context[Ticket]) -> None:
        ctx.subject.owner = "x"
        ctx.subject.close()
        ctx.subject.ext["anything"] = ctx.subject.is_open
        use(ctx.subject.get("is_open"), ctx.subject.name, ctx.subject.get("level"))

    @tickets.on("y")
    def asking(ctx: Context[Any]) -> None:
        if isinstance(ctx.subject, Customer):
            ctx.subject.something = 1

    @tickets.on("z")
    def catching(ctx: Context[Any]) -> None:
        try:
            use(ctx.subject.something)
        except UnknownProperty:
            return

    every = RuleSet("every")

    @every.on("x")
    def dynamic(ctx: Context) -> None:
        ctx.subject.anything = 1

    assert told(tickets, every, code="unknown-property") == []
    assert Urgent is not None


def count(ctx: Context[Any]) -> None:
    if ctx.subject.name.startswith("ticket:"):
        ctx.subject.events += 1
    else:
        ctx.subject.tickets += 1


def add(ctx: Context[Any]) -> None:
    ctx.subject.tickets += 1


def test_code_that_rules_share_is_doubted_less(tickets: RuleSet) -> None:
    """What it does under a condition may be for others; a rule that asks what its subject is knows what it calls."""

    @tickets.on("x")
    def rule(ctx: Context[Ticket]) -> None:
        count(ctx)

    @tickets.on("y")
    def asking(ctx: Context[Any]) -> None:
        if isinstance(ctx.subject, Customer):
            add(ctx)

    assert {severity for severity, _ in told(tickets, code="unknown-property")} == {"warning"}

    @tickets.on("z")
    def wrong(ctx: Context[Ticket]) -> None:
        add(ctx)

    assert {severity for severity, _ in told(tickets, code="unknown-property")} == {"warning", "error"}


def test_a_snapshot_of_another_subject_has_the_properties_of_its_class(tickets: RuleSet, customers: RuleSet) -> None:
    """If the name says which that is."""

    @customers.on("y")
    def known(ctx: Context[Customer]) -> None: ...

    @tickets.on("x")
    async def rule(ctx: Context[Ticket]) -> None:
        customer: Any = await ctx.read(f"customer:{ctx.subject.owner}")
        use(customer.tickets, customer.ticktes)
        other: Any = await ctx.read(ctx.payload["name"])
        use(other.anything)

    ((severity, message),) = told(tickets, customers, code="unknown-property")
    assert severity == "error"
    assert "Customer has no such property; did you mean 'tickets'?" in message


def test_code_that_catches_what_it_may_cause_knows_it(tickets: RuleSet) -> None:
    """Whoever catches all errors may as well not, so it is a warning; whoever catches this one means it."""

    @tickets.on("x")
    def broad(ctx: Context[Ticket]) -> None:
        try:
            ctx.subject.set("a", 1)
        except Exception as error:
            use(error)

    @tickets.on("x")
    def bare(ctx: Context[Ticket]) -> None:
        with suppress(Exception):
            ctx.subject.set("b", 1)

    @tickets.on("x")
    def meant(ctx: Context[Ticket]) -> None:
        with suppress(UnknownProperty):
            ctx.subject.set("c", 1)

    findings = [(severity, message[:8]) for severity, message in told(tickets, code="unknown-property")]
    assert findings == [("warning", "sets 'a'"), ("warning", "sets 'b'")]


def test_code_that_asks_before_it_sets_is_a_warning(tickets: RuleSet) -> None:
    """The answer is always no, so it does nothing; without an `if` it does."""

    @tickets.on("x")
    def asks(ctx: Context[Ticket]) -> None:
        if "asked" in ctx.subject.keys():  # noqa: SIM118
            ctx.subject.set("asked", 1)

    assert [severity for severity, _ in told(tickets, code="unknown-property")] == ["warning", "warning"]

    @tickets.on("x")
    def sets(ctx: Context[Ticket]) -> None:
        use("set" in ctx.subject)
        ctx.subject.set("set", 1)

    assert told(tickets, code="unknown-property")[0][0] == "error"


def test_one_of_several_names_is_a_warning(tickets: RuleSet) -> None:
    """It may be one that never is the one."""

    @tickets.on("x")
    def rule(ctx: Context[Ticket]) -> None:
        name = "nothing"
        for kind in ("owner", "events"):
            if kind in ctx.payload:
                name = kind
        ctx.subject.set(name, 1)

    ((severity, message),) = told(tickets, code="unknown-property")
    assert (severity, message[:14]) == ("warning", "sets 'nothing'")


def test_a_name_that_is_known_in_part_may_be_of_another_class(tickets: RuleSet, customers: RuleSet) -> None:
    """Of any whose prefix is longer, be it no child of the first."""

    class Regular(Subject, prefix="customer:regular:"):
        visits: int = 0

    regulars = RuleSet("regulars", subject=Regular)
    for rules in (customers, regulars):
        rules.on("y")(use)

    @tickets.on("x")
    async def rule(ctx: Context[Ticket]) -> None:
        customer: Any = await ctx.read(f"customer:{ctx.subject.owner}")
        use(customer.visits)

    assert told(tickets, customers, regulars, code="unknown-property") == []


# -- events ------------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(tickets: RuleSet, customers: RuleSet) -> list[RuleSet]:
    @tickets.on("ticket.opened")
    def opened(ctx: Context[Ticket]) -> None:
        ctx.emit("ticket.escalated")
        ctx.emit(f"mail.{ctx.payload['kind']}")
        ctx.emit("customer.called", subject="customer:1")

    @customers.on("customer.called")
    def called(ctx: Context[Customer]) -> None: ...

    return [tickets, customers]


def test_events_from_outside_and_to_outside_are_worth_knowing(shop: list[RuleSet]) -> None:
    """And no more."""
    assert [severity for severity, _ in told(*shop, code="unhandled-event")] == ["info", "info"]
    ((severity, message),) = told(*shop, code="unemitted-event")
    assert (severity, message.partition(",")[0]) == ("info", "is for ticket.opened")


def test_in_a_closed_app_they_are_warnings(shop: list[RuleSet]) -> None:
    """But for those that are external."""
    options: Any = {"is_closed": True, "external": ["mail.*", "ticket.opened"]}
    ((severity, message),) = told(*shop, code="unhandled-event", **options)
    assert (severity, message.partition(",")[0]) == ("warning", "emits ticket.escalated")
    assert told(*shop, code="unemitted-event", **options) == []


def test_a_type_that_is_nearly_one_that_waits_is_a_warning(tickets: RuleSet) -> None:
    """A rule waits for it in vain; if that is emitted as well, it is another one."""

    @tickets.on("ticket.opened")
    def opened(ctx: Context[Ticket]) -> None:
        ctx.emit("order.validate")

    @tickets.on("order.validated")
    def validated(ctx: Context[Ticket]) -> None: ...

    ((severity, message),) = told(tickets, code="unhandled-event")
    assert severity == "warning"
    assert "did you mean 'order.validated'" in message

    @tickets.on("more")
    def more(ctx: Context[Ticket]) -> None:
        ctx.emit("order.validated")

    assert [severity for severity, _ in told(tickets, code="unhandled-event")] == ["info"]


def test_an_event_that_goes_to_the_wrong_subject_is_a_warning(shop: list[RuleSet], tickets: RuleSet) -> None:
    """To the own, where subject= was forgotten, or to a name that is misspelt."""

    @tickets.on("ticket.closed")
    def forgotten(ctx: Context[Ticket]) -> None:
        ctx.emit("customer.called")

    @tickets.on("ticket.gone")
    def misspelt(ctx: Context[Ticket]) -> None:
        ctx.emit("customer.called", subject=f"custmer:{ctx.subject.owner}")

    @tickets.on("ticket.moved")
    def fine(ctx: Context[Ticket]) -> None:
        ctx.emit("customer.called", subject=ctx.payload["to"])
        ctx.emit("customer.called", subject=f"{ctx.payload['kind']}:1")

    findings = found(*shop, code="misaddressed-event")
    assert [(one.severity, one.rule) for one in findings] == [
        ("warning", "tickets.forgotten"),
        ("warning", "tickets.misspelt"),
    ]
    assert "its own subject (Ticket), but customers.called is for Customer" in findings[0].message
    assert "'customer:'" in findings[1].message


def test_property_events_are_emitted_by_changes(tickets: RuleSet) -> None:
    """So nobody misses them."""

    @tickets.on(changed("owner"))
    def react(ctx: Context[Ticket]) -> None: ...

    @tickets.on("*")
    def every(ctx: Context[Ticket]) -> None: ...

    assert told(tickets, code="unemitted-event") == []


# -- what cannot be told -----------------------------------------------------------------------------------------


def test_what_cannot_be_told_is_said_once(tickets: RuleSet) -> None:
    """Where it stands, however many rules use it."""

    def helper(ctx: Any) -> None:
        ctx.emit(ctx.payload["type"])
        ctx.subject.set(ctx.payload["name"], 1)
        ctx.payload["service"].take(ctx)

    @tickets.on("x")
    def one(ctx: Context[Ticket]) -> None:
        helper(ctx)

    @tickets.on("x")
    def two(ctx: Context[Ticket]) -> None:
        helper(ctx)

    findings = found(tickets, code="unknown")
    assert [one.severity for one in findings] == ["info"] * 3
    assert all("1 more use the same code" in one.message for one in findings)


class Holder:
    def __init__(self, subject: Subject) -> None:
        self.subject = subject


def test_a_subject_that_is_given_to_an_object_is_out_of_sight(tickets: RuleSet) -> None:
    """What the object does with it is not followed."""

    @tickets.on("x")
    def rule(ctx: Context[Ticket]) -> None:
        Holder(ctx.subject).subject.owner = "x"  # type: ignore[attr-defined]

    ((severity, message),) = told(tickets, code="unknown")
    assert severity == "info"
    assert "Holder()" in message


def test_findings_are_told_the_worst_first(tickets: RuleSet) -> None:
    """Then in the order of the code, each once."""

    @tickets.on("x", "x")
    def rule(ctx: Context[Ticket]) -> None:
        use(ctx.subject.has("ownr"))
        ctx.subject.ownr = 1  # type: ignore[attr-defined]
        ctx.subject.ownr = 1  # type: ignore[attr-defined]

    findings = check(survey_of(tickets))
    assert [(one.severity, one.code) for one in findings] == [
        ("error", "unknown-property"),
        ("error", "unknown-property"),
        ("warning", "unknown-property"),
        ("info", "duplicate-trigger"),
        ("info", "unemitted-event"),
    ]
    assert {one.code for one in findings} <= set(CODES)
