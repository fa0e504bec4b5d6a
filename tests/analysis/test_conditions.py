"""What conditions let through, as far as their code says it plainly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwhen.analysis._conditions import Filter, Names, filter_of
from onwhen.analysis._reader import Known
from onwhen.analysis._texts import Text
from onwhen.engine.rules import Condition
from tests.analysis.looking import Ticket

NAMES = ("owner", "status")


def filtered(*tests: Callable[[Any], Any]) -> Filter:
    return filter_of([Condition(test) for test in tests], Known(Ticket))


def only(*names: str) -> Names:
    return Names(only=frozenset(names))


def named(ctx: Any) -> bool:
    """Say so in a function."""
    return bool(ctx.property_name == "owner")


@pytest.mark.parametrize(
    ("test", "properties"),
    [
        (lambda ctx: ctx.property_name == "owner", only("owner")),
        (lambda ctx: "owner" == ctx.property_name, only("owner")),  # noqa: SIM300
        (lambda ctx: ctx.property_name in ("owner", "status"), only("owner", "status")),
        (lambda ctx: ctx.property_name in NAMES, only("owner", "status")),
        (lambda ctx: ctx.property_name != "owner", Names(without=frozenset({"owner"}))),
        (lambda ctx: ctx.property_name not in {"owner"}, Names(without=frozenset({"owner"}))),
        (lambda ctx: not ctx.property_name == "owner", Names(without=frozenset({"owner"}))),  # noqa: SIM201
        (lambda ctx: ctx.property_name.startswith("sensor_"), Names(prefixes=(("sensor_",),))),
        (lambda ctx: ctx.property_name.startswith(("a_", "b_")), Names(prefixes=(("a_", "b_"),))),
        (lambda ctx: not ctx.property_name.startswith("_"), Names(without_prefixes=("_",))),
        (named, only("owner")),
    ],
)
def test_names_of_properties_are_read(test: Any, properties: Names) -> None:
    """And nothing else is asked for."""
    assert filtered(test) == Filter(properties=properties)


def test_several_conditions_are_put_together() -> None:
    """With and, and one below the other."""
    both = filtered(lambda ctx: ctx.property_name in NAMES and ctx.event_type == "x", named)
    assert both == Filter(properties=only("owner"), event_types=only("x"))


@pytest.mark.parametrize(
    "test",
    [
        lambda ctx: ctx.payload["x"],
        lambda ctx: ctx.property_name == ctx.payload["x"],
        lambda ctx: ctx.property_name == "owner" or ctx.payload["x"],
        lambda ctx: ctx.property_name in "owner",
        lambda ctx: "a" < ctx.property_name < "b",
        lambda ctx: ctx.property_name.startswith(ctx.payload["x"]),
        lambda ctx: ctx.property_name.endswith("_at"),
        lambda ctx: ctx.payload["x"].startswith("a"),
        lambda ctx: not ctx.subject.status == "open",  # noqa: SIM201
        lambda ctx: ctx.subject.get("events", 0) == 3,
        len,
    ],
)
def test_all_else_is_something_more(test: Any) -> None:
    """That may or may not hold; nobody claims to know."""
    assert filtered(test) == Filter(asks_more=True)


def test_values_that_are_asked_for_are_claims() -> None:
    """Of a property of the subject, or of the one that has changed."""
    found = filtered(lambda ctx: ctx.subject.status == "open" and ctx.new_value in (1, 2))
    assert [(claim.property, set(claim.values)) for claim in found.claims] == [("status", {"open"}), (None, {1, 2})]
    assert found.is_guard


def test_what_is_always_false_is_known() -> None:
    """What is always true asks for nothing."""
    assert filtered(lambda ctx: False).is_never
    assert filtered(lambda ctx: True) == Filter()


pieces = st.sampled_from(["", "a", "ab", "b"])
names = st.builds(
    Names,
    only=st.none() | st.frozensets(pieces),
    without=st.frozensets(pieces, max_size=1),
    prefixes=st.lists(st.tuples(pieces, pieces), max_size=2).map(tuple),
    without_prefixes=st.lists(pieces.filter(bool), max_size=1).map(tuple),
)


@given(names, names, st.text("ab", max_size=3), st.lists(pieces, min_size=1, max_size=3))
def test_names_are_what_they_say(one: Names, other: Names, name: str, known: list[str]) -> None:
    """Both means in each of them; a text that is known in part may be one if it is when its holes are filled."""
    assert (name in (one & other)) == (name in one and name in other)
    if one.is_all:
        assert name in one
    if name.join(known) in one:
        assert one.may_be(Text.between(known))
