"""Which circles of steps are found, and how bad they are."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from onwhen.analysis import Place
from onwhen.analysis._cycles import cycles_of
from onwhen.analysis._effects import Write
from onwhen.analysis._flow import Step
from onwhen.analysis._texts import Text

HERE = Place("rules.py", 1)


def step(source: str, target: str, kind: Any = "message", is_certain: bool = False, **facts: Any) -> Step:
    via = facts.pop("via", "x")
    return Step(source=source, target=target, via=via, kind=kind, is_certain=is_certain, place=HERE, **facts)


def setting(value: Any) -> Write:
    return Write(property=Text.of("x"), verb="set", change="constant", value=value, place=HERE)


def shown(*steps: Step, **writes: list[Write]) -> list[tuple[str, str]]:
    return [(cycle.grade, "".join(one.source for one in cycle.steps)) for cycle in cycles_of(steps, writes)]


def test_a_circle_of_certain_steps_never_ends() -> None:
    """One step that is not certain may end it, one that takes time makes it a schedule."""
    assert shown(step("a", "b", is_certain=True), step("b", "a", is_certain=True)) == [("endless", "ab")]
    assert shown(step("a", "b", is_certain=True), step("b", "a")) == [("guarded", "ab")]
    assert shown(step("a", "b", is_certain=True), step("b", "a", "timer")) == [("later", "ab")]
    assert shown(step("a", "b"), step("b", "c")) == []


def test_a_circle_is_told_once() -> None:
    """Wherever it starts, and at its worst; another circle through the same rules is another one."""
    around = [step("a", "b", is_certain=True), step("b", "a", is_certain=True), step("b", "a", "timer")]
    assert shown(*around) == [("endless", "ab")]
    assert shown(step("a", "a"), step("a", "b"), step("b", "a")) == [("guarded", "a"), ("guarded", "ba")]


def test_a_property_that_is_always_set_to_the_same_comes_to_rest() -> None:
    """Unless another rule of the circle sets it to something else, be it muted."""
    back = step("a", "a", "reaction", write=setting(1))
    assert shown(back, a=[setting(1)]) == []
    assert shown(back, a=[setting(1), setting(2)]) == [("guarded", "a")]
    assert shown(back, step("a", "b"), step("b", "a"), a=[setting(1)], b=[]) == [("guarded", "ab")]
    around = [step("a", "b", "reaction", write=setting(1)), step("b", "a")]
    assert shown(*around, a=[setting(1)], b=[setting(2)]) == [("guarded", "ab")]


def test_behind_a_circle_that_comes_to_rest_another_one_is_found() -> None:
    """Two rules that set themselves off once, and send each other messages."""
    steps = [
        step("a", "a", "reaction", write=setting(1)),
        step("b", "b", "reaction", write=setting(2)),
        step("a", "b", via="y"),
        step("b", "a", via="y"),
    ]
    assert shown(*steps, a=[setting(1)], b=[setting(2)]) == [("guarded", "ab")]


def test_only_what_comes_to_rest_is_left_out() -> None:
    """Another property that goes the same way back does not."""
    steps = [
        step("a", "b", "reaction", write=setting(1)),
        step("a", "b", "reaction", via="y", write=replace(setting(1), property=Text.of("y"), change="always")),
        step("b", "a"),
    ]
    made = [one.write for one in steps if one.write is not None]
    assert [cycle.steps[0].via for cycle in cycles_of(steps, {"a": made})] == ["y"]


nodes = st.sampled_from("abcdef")


@given(st.lists(st.tuples(nodes, nodes, st.booleans()), max_size=14))
def test_there_is_a_finding_exactly_if_there_is_a_circle(pairs: list[tuple[str, str, bool]]) -> None:
    """And each one that is found is a way along the steps."""
    steps = [step(a, b, is_certain=is_certain) for a, b, is_certain in pairs]
    found = cycles_of(steps, {})
    reach = {(a, b) for a, b, _ in pairs}
    for middle, first, last in itertools.product("abcdef", repeat=3):
        if (first, middle) in reach and (middle, last) in reach:
            reach.add((first, last))
    assert {one.source for cycle in found for one in cycle.steps} == {a for a in "abcdef" if (a, a) in reach}
    for cycle in found:
        for one, following in zip(cycle.steps, [*cycle.steps[1:], cycle.steps[0]], strict=True):
            assert one in steps
            assert one.target == following.source
