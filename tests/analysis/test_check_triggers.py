"""Rules that can never fire, and triggers that do nothing; and those that look like it and are fine."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, Field

from onwhen import SUBJECT_PROPERTY_CHANGED, Context, RuleSet, Subject, changed, deleted, when
from tests.analysis.looking import Ticket, found


class Size(Enum):
    SMALL = "small"


class Box(Subject, prefix="box:"):
    size: Size = Size.SMALL
    weight: Annotated[int, Field(ge=0)] = 0
    label: Annotated[str, AfterValidator(str.upper)] = ""
    note: str | None = None


class Crate(Box, prefix="box:crate:"):
    weight: Annotated[int, Field(ge=-5)] = 0


@pytest.fixture
def tickets() -> RuleSet:
    return RuleSet("tickets", subject=Ticket)


@pytest.fixture
def boxes() -> RuleSet:
    return RuleSet("boxes", subject=Box)


def told(rules: RuleSet, code: str = "never-fires") -> list[tuple[str, str]]:
    return [(finding.severity, finding.message) for finding in found(rules, code=code)]


def rule(ctx: Context[Any]) -> None:
    """Does nothing."""


# -- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trigger",
    [
        changed("size", to="small"),  # a plain enum is not its value
        changed("size", from_="large"),
        changed("weight", to="3"),  # a str is made into an int, which equals no str
        changed("weight", to=-6),  # not even a crate
        changed("label", to="red"),  # is kept in capitals
        changed("note", from_="a", to="a"),
        changed("weight", "label", to=None),
    ],
)
def test_a_value_that_a_property_never_has(boxes: RuleSet, trigger: Any) -> None:
    """The finding says why."""
    boxes.on(trigger)(rule)
    ((severity, message),) = told(boxes)
    assert severity == "error"
    assert "never" in message


@pytest.mark.parametrize(
    "trigger",
    [
        changed("size", to=Size.SMALL),
        changed("weight", to=3),
        changed("weight", to=3.0),  # equals 3
        changed("weight", to=-5),  # a crate may
        changed("label", to="RED"),
        changed("note", to=None),
        changed("weight", from_=None),  # there was none before
        changed("weight", to=lambda n: n == "x"),  # a function may know better
        changed("weight", "note", to="x"),  # one of them can
        changed(to="x"),
        deleted("weight", from_=3),
    ],
)
def test_a_value_that_a_property_may_have(boxes: RuleSet, trigger: Any) -> None:
    """Is fine."""
    boxes.on(trigger)(rule)
    assert told(boxes) == []


def test_subjects_without_declared_properties_may_have_anything() -> None:
    """So nothing is said of them."""
    rules = RuleSet("rules")
    rules.on(changed("x", to=object()))(rule)
    rules.on(changed("y", to="nonsense"), name="other")(rule)
    assert told(rules) == []


def test_conditions_that_ask_for_such_a_value(tickets: RuleSet) -> None:
    """Of the subject, or of the change."""

    @tickets.on("x")
    @when(lambda ctx: ctx.subject.status == "opened")
    def never(ctx: Context[Ticket]) -> None: ...

    @tickets.on(changed("status"))
    @when(lambda ctx: ctx.new_value in ("opened", "shut"))
    def nor(ctx: Context[Ticket]) -> None: ...

    @tickets.on(changed("status", to="open"))
    @when(lambda ctx: ctx.new_value == "closed")
    def neither(ctx: Context[Ticket]) -> None: ...

    @tickets.on("x")
    @when(lambda ctx: False)
    def off(ctx: Context[Ticket]) -> None: ...

    @tickets.on("x")
    @when(lambda ctx: ctx.subject.status in ("open", "shut") and ctx.subject.owner == "ann")
    def fine(ctx: Context[Ticket]) -> None: ...

    findings = found(tickets, code="never-fires")
    assert [finding.rule for finding in findings] == [f"tickets.{name}" for name in ("never", "nor", "neither", "off")]
    assert "Ticket.status is never 'opened'" in findings[0].message


# -- properties and types ----------------------------------------------------------------------------------------


def test_a_property_name_is_asked_for_where_there_is_none() -> None:
    """As in a quick start that can never have fired."""
    rules = RuleSet("rules")

    @rules.on("device.reading")
    @when(lambda ctx: ctx.property_name == "temperature")
    def never(ctx: Context) -> None: ...

    @rules.on("device.reading", SUBJECT_PROPERTY_CHANGED)
    @when(lambda ctx: ctx.property_name == "temperature")
    def partly(ctx: Context) -> None: ...

    @rules.on("*")
    @when(lambda ctx: ctx.property_name == "temperature")
    def fine(ctx: Context) -> None: ...

    @rules.on("device.*")
    @when(lambda ctx: ctx.property_name != "temperature")
    def fine_too(ctx: Context) -> None: ...

    first, second = found(rules, code="never-fires")
    assert (first.severity, first.rule, second.severity, second.rule) == (
        "error",
        "rules.never",
        "warning",
        "rules.partly",
    )
    assert "ctx.property_name, which is None on 'device.reading'" in first.message
    assert second.message.startswith("trigger device.reading never fires")


def test_a_property_that_the_class_does_not_have(tickets: RuleSet) -> None:
    """With what may have been meant."""

    @tickets.on(SUBJECT_PROPERTY_CHANGED)
    @when(lambda ctx: ctx.property_name == "ownr")
    def never(ctx: Context[Ticket]) -> None: ...

    @tickets.on(changed("owner"))
    @when(lambda ctx: ctx.property_name == "status")
    def nor(ctx: Context[Ticket]) -> None: ...

    @tickets.on(SUBJECT_PROPERTY_CHANGED)
    @when(lambda ctx: ctx.property_name in ("ownr", "owner"))
    def fine(ctx: Context[Ticket]) -> None: ...

    first, second = told(tickets)
    assert "did you mean 'owner'?" in first[1]
    assert "ask for another ctx.property_name" in second[1]


def test_types_that_do_not_fit_the_trigger(tickets: RuleSet) -> None:
    """Asked for by a condition; or that no event can have."""

    @tickets.on("a.one", "b.*")
    @when(lambda ctx: ctx.event_type == "c.one")
    def never(ctx: Context[Ticket]) -> None: ...

    @tickets.on("a.one", "b.*")
    @when(lambda ctx: ctx.event_type in ("a.one", "b.two"))
    def fine(ctx: Context[Ticket]) -> None: ...

    @tickets.on("a\nb")
    def nor(ctx: Context[Ticket]) -> None: ...

    findings = found(tickets, code="never-fires")
    assert [finding.rule for finding in findings] == ["tickets.never", "tickets.never", "tickets.nor"]


@pytest.mark.parametrize("wrong", ["subject_property_changed", "subject-property-change", "subject.deleted"])
def test_a_reserved_type_that_is_misspelt(wrong: str) -> None:
    """Unless a rule emits it."""
    rules = RuleSet("rules")
    rules.on(wrong)(rule)
    ((severity, message),) = told(rules)
    assert severity == "warning"
    assert "write onwhen.SUBJECT_" in message

    @rules.on("x")
    def emit(ctx: Context) -> None:
        ctx.emit(wrong)

    assert told(rules) == []


# -- duplicates --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("triggers", "severities"),
    [
        (("a.b", "a.*"), ["info"]),
        (("a.b", "a.b"), ["info"]),
        (("a.*", "*"), ["info"]),
        ((changed("owner"), changed()), ["info"]),
        ((changed("owner", to="x"), changed("owner")), ["warning"]),
        (("a.b", "b.*"), []),
        (("a.*", "*.b"), []),
        ((changed("owner"), changed("status")), []),
        ((changed("owner", to="x"), changed("owner", to="y")), []),
        ((changed("owner"), deleted("owner")), []),
        ((changed("owner", "status"), changed("owner")), ["info"]),
    ],
)
def test_a_trigger_that_another_one_covers(tickets: RuleSet, triggers: Any, severities: list[str]) -> None:
    """It is harmless, but for one that asks for values beside one that does not."""
    tickets.on(*triggers)(rule)
    assert [severity for severity, _ in told(tickets, "duplicate-trigger")] == severities
