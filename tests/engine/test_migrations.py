"""Stored state of an older version is brought to what the class declares today."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from onwhen.engine.migrations import migrate
from onwhen.engine.state import Snapshot
from onwhen.engine.subjects import Subject
from onwhen.errors import (
    MigrationError,
    SubjectDefinitionError,
)
from tests.engine.samples import record

if TYPE_CHECKING:
    from collections.abc import Mapping as NotThereAtRunTime  # noqa: F401 (named in a string below)


class Order(Subject, prefix="order:", version=3):
    total: int = 0
    lines: list[str] = []

    @staticmethod
    @migrate(1)
    def rename(properties: dict[str, Any]) -> dict[str, Any]:
        return {"total": properties["sum"], "lines": properties.get("lines", "")}

    @migrate(2)
    @staticmethod
    def split(properties: dict[str, Any]) -> None:
        properties["lines"] = properties["lines"].split(",")


def test_old_state_is_brought_up_step_by_step() -> None:
    """A step returns new properties, or changes those that it is given."""
    state = Order._state_of(record(schema=1, sum=5, lines="a,b"))
    subject = Order._of(state)
    assert subject.dict() == {"total": 5, "lines": ["a", "b"]}
    write = state.write()
    assert write is not None
    assert (write.schema, write.set, write.delete) == (3, {"total": b"5", "lines": b'["a","b"]'}, ["sum"])
    assert state.changes == []


def test_an_upgrade_is_not_undone_by_a_failing_rule() -> None:
    """It is how the subject was loaded."""
    state = Order._state_of(record(schema=2, total=5, lines="a"))
    mark = state.mark()
    state.set("total", 6)
    state.properties.read("lines").append("b")
    state.rollback(mark)
    assert Order._of(state).dict() == {"total": 5, "lines": ["a"]}


def test_a_snapshot_is_upgraded_as_well() -> None:
    """Readers see today's declaration."""
    state = Order._state_of(record(schema=2, total=5, lines="a"), Snapshot)
    assert Order._of(state).lines == ["a"]


def test_a_subject_that_is_not_stored_needs_no_steps() -> None:
    """It starts at today's version."""
    assert Order._of(Order._state_of(record())).total == 0


def failing(properties: dict[str, Any]) -> None:
    raise RuntimeError("boom")


@pytest.mark.parametrize(
    ("step", "schema", "problem"),
    [
        (None, 1, r"no step leads from version 1 to 2; add one with @migrate\(1\)"),
        (None, 3, "its state has version 3, written by newer code; deploy that code"),
        (failing, 1, r"the step from version 1 failed: RuntimeError\('boom'\)"),
        (lambda properties: [1], 1, r"the step from version 1 returned \[1\], not a dict of properties"),
        (lambda properties: {"total": object()}, 1, "the step from version 1 failed: .*total"),
        (lambda properties: {"total": "many"}, 1, "the steps from version 1 made what is not valid: .*Thing.total"),
    ],
)
def test_state_that_cannot_be_brought_up_is_an_error(step: Any, schema: int, problem: str) -> None:
    """It names the subject, both versions, and what to do."""
    body: dict[str, Any] = {"__annotations__": {"total": int}, "__qualname__": "Thing"}
    thing = type("Thing", (Subject,), body | ({"step": migrate(1)(step)} if step else {}), version=2)
    with pytest.raises(MigrationError, match=rf"ticket:1: {problem}.* \(Thing declares version 2\)") as caught:
        thing._state_of(record(schema=schema, total=1))
    assert (caught.value.subject, caught.value.stored, caught.value.declared) == ("ticket:1", schema, 2)


def test_a_step_cannot_be_async_nor_be_there_twice() -> None:
    """Both are found where the class is declared."""

    async def later(properties: dict[str, Any]) -> None: ...

    with pytest.raises(SubjectDefinitionError, match=r"Thing\.later: a step cannot be async"):
        type("Thing", (Subject,), {"later": migrate(1)(later)}, version=2)
    with pytest.raises(SubjectDefinitionError, match=r"Thing\.b: there is another step from version 1"):
        type("Thing", (Subject,), {"a": migrate(1)(lambda p: p), "b": migrate(1)(lambda p: p)}, version=2)


def test_a_dynamic_subject_leaves_the_version_alone() -> None:
    """A process that does not know the class must not make its state look older than it is."""
    state = Subject._state_of(record(schema=3, total=1))
    state.set("total", 2)
    write = state.write()
    assert write is not None
    assert write.schema == 3
