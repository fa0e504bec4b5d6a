"""Which properties a rule is seen to change and to look at."""

from __future__ import annotations

import random
from typing import Any

from onwhen import Context
from tests.analysis.looking import Ticket, looked_at, unseen, use, writes, written

FIELDS = ("owner", "status")


def test_assignments_and_verbs_change_properties() -> None:
    """Each as it is written: attribute, set, setattr, del, delete."""

    def rule(ctx: Context) -> None:
        ctx.subject.a = 1
        ctx.subject.b += 1
        ctx.subject.set("c", 1)
        ctx.subject.set(name="d", value=1, muted=True)
        setattr(ctx.subject, "e", 1)  # noqa: B010
        del ctx.subject.f
        ctx.subject.delete("g", muted=True)
        ctx.subject.h, ctx.subject.i = 1, 2
        for ctx.subject.j in range(3):
            pass

    assert written(rule) == ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]
    assert [str(one.property) for one in writes(rule) if one.is_muted] == ["d", "g"]
    assert [str(one.property) for one in writes(rule) if one.verb == "delete"] == ["f", "g"]


def test_other_names_of_the_subject_are_followed() -> None:
    """Plain, in pairs, and through a walrus."""

    def rule(ctx: Context[Ticket]) -> None:
        ticket, data = ctx.subject, ctx.payload
        ticket.owner = data["by"]
        again = ticket
        again.status = "open"

    assert written(rule, Ticket) == ["owner", "status"]


def test_names_that_are_computed_are_patterns_or_unknown() -> None:
    """A loop over known names is all of them."""

    def rule(ctx: Context) -> None:
        for number in range(3):
            ctx.subject.set(f"field{number}", number)
        for name in FIELDS:
            ctx.subject.set(name, 1)
        for key, value in ctx.payload.items():
            ctx.subject.set(key, value)

    assert written(rule) == ["?", "field*", "owner", "status"]


def test_changes_in_place_count() -> None:
    """On lists and dicts, however deep, under another name, and by functions of the standard library."""

    def rule(ctx: Context[Ticket]) -> None:
        ctx.subject.tags.append("x")

    def deep(ctx: Context[Ticket]) -> None:
        ctx.subject.facts["a"]["b"] = 1
        tags = ctx.subject.get("tags")
        tags += ["x"]

    def shuffled(ctx: Context[Ticket]) -> None:
        random.shuffle(ctx.subject.tags)

    assert [(str(one.property), one.change) for one in writes(rule, Ticket)] == [("tags", "always")]
    assert written(deep, Ticket) == ["facts", "tags"]
    assert written(shuffled, Ticket) == ["tags"]


def test_reading_changes_nothing() -> None:
    """Nor do methods of values that cannot be changed, or numbers that are counted up in a variable."""

    def rule(ctx: Context[Ticket]) -> None:
        count = ctx.subject.get("events", 0)
        count += 1
        use(ctx.subject.owner.upper(), len(ctx.subject.tags), ctx.subject.facts.get("x"), count)  # type: ignore[union-attr]

    assert written(rule, Ticket) == []
    assert looked_at(rule, Ticket) == ["events", "facts", "owner", "tags"]


def test_a_copy_is_not_the_property() -> None:
    """What is in it is the same, though."""

    def rule(ctx: Context[Ticket]) -> None:
        for copy in (list(ctx.subject.tags), sorted(ctx.subject.tags), ctx.subject.tags.copy(), ctx.subject.tags[:]):
            copy.append("x")
        facts = ctx.subject.facts.copy()
        facts["a"] = 1

    def deep(ctx: Context[Ticket]) -> None:
        for fact in sorted(ctx.subject.facts["all"]):
            fact["a"] = 1

    assert written(rule, Ticket) == []
    assert written(deep, Ticket) == ["facts"]


def test_extended_properties_are_not_properties() -> None:
    """They set off nothing."""

    def rule(ctx: Context) -> None:
        ctx.subject.ext["a"] = 1
        ctx.subject.set_ext("b", 1)
        ctx.subject.ext.update(c=1)

    assert written(rule) == []


def test_flush_deletes_all_of_them() -> None:
    """It stands for all names."""
    assert [one.verb for one in writes(lambda ctx: ctx.subject.flush())] == ["flush"]


def test_methods_of_the_class_are_followed() -> None:
    """And computed properties looked into."""

    def rule(ctx: Context[Ticket]) -> None:
        ctx.subject.close()
        use(ctx.subject.is_open)

    (write,) = writes(rule, Ticket)
    assert (str(write.property), write.value) == ("status", "closed")
    assert looked_at(rule, Ticket) == ["status"]


def touch(subject: Any, name: str) -> None:
    subject.set(name, lambda n: (n or 0) + 1)


def test_functions_that_are_given_the_subject_are_followed() -> None:
    """With the name that they are given."""
    assert written(lambda ctx: touch(ctx.subject, "seen")) == ["seen"]


def test_how_a_value_changes_is_told() -> None:
    """One more each time, always the same, or who knows."""

    def rule(ctx: Context[Ticket]) -> None:
        ctx.subject.events += 1
        ctx.subject.set("events", lambda n: (n or 0) + 2)
        ctx.subject.events = ctx.subject.events - 3
        ctx.subject.status = "open"
        ctx.subject.owner = ctx.payload["by"]
        ctx.subject.events += ctx.payload["n"]
        ctx.subject.events += 0

    assert [one.change for one in writes(rule, Ticket)] == [
        "always",
        "always",
        "always",
        "constant",
        "unknown",
        "unknown",
        "unknown",
    ]


def test_what_may_change_a_property_unseen_is_said() -> None:
    """A method of a value that nobody knows."""

    def rule(ctx: Context) -> None:
        ctx.subject.address.normalise()
        ctx.subject.title.strip()

    assert unseen(rule) == ["calls ctx.subject.address.normalise(), which may change property address"]


def test_another_subject_is_read_and_not_the_own() -> None:
    """What is looked at is told with its class."""

    async def rule(ctx: Context) -> None:
        other = await ctx.read("ticket:1")
        other.set("x", 1)
        use(other.status)

    assert written(rule) == []


def test_names_that_are_passed_as_text_are_read() -> None:
    """By the functions of Python's own; of a name that is not known, nobody can tell."""

    def rule(ctx: Context) -> None:
        use(getattr(ctx.subject, "a"), hasattr(ctx.subject, "b"), getattr(ctx.subject, ctx.payload["name"], None))  # noqa: B009
        setattr(ctx.subject.c, "x", 1)  # noqa: B010
        setattr(ctx.subject, ctx.payload["name"], 1)
        delattr(ctx.subject, "d")

    assert looked_at(rule) == ["?", "a", "b", "c"]
    assert written(rule) == ["?", "c", "d"]


def test_a_method_of_the_subject_that_is_found_by_name_is_unseen() -> None:
    """It may be any."""

    def rule(ctx: Context[Ticket]) -> None:
        getattr(ctx.subject, ctx.payload["verb"])("owner", 1)

    assert any("which may be any method of the subject" in one for one in unseen(rule, Ticket))


def test_what_keeps_the_subject_is_unseen() -> None:
    """An attribute, a collection, a class."""

    def rule(ctx: Context, outside: Any = None) -> None:
        setattr(outside, "subject", ctx.subject)  # noqa: B010
        outside["subject"] = ctx.subject

        class Later:
            def run(self) -> None:
                ctx.subject.x = 1

    assert unseen(rule) == [
        "keeps the context or the subject in an attribute",
        "keeps the context or the subject in a collection",
        "uses ctx in class Later, which is not read",
    ]


def test_parts_of_a_property_can_be_deleted() -> None:
    """Which changes it."""

    def rule(ctx: Context) -> None:
        del ctx.subject.a["x"], ctx.subject.b.y
        ctx.subject.c.z = 1
        for one in ctx.subject.d:
            one.clear()

    assert written(rule) == ["a", "b", "c", "d"]
