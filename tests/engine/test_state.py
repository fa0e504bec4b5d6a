"""The state of a subject: what is read, what has changed, savepoints, and what a commit has to write."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from onwhen.engine import values
from onwhen.engine.state import ABSENT, Change, Snapshot, State
from onwhen.engine.store import SubjectRecord, SubjectWrite, Version
from onwhen.engine.subjects import Subject
from onwhen.errors import PropertyError, SubjectStateError
from tests.engine.samples import Address, Order


def record(properties: dict[str, Any] | None = None, version: Version | None = 1, **ext: Any) -> SubjectRecord:
    """A subject as a store would return it."""
    return SubjectRecord(
        name="order:1",
        properties={name: values.encode(value) for name, value in (properties or {}).items()},
        ext={name: values.encode(value) for name, value in ext.items()},
        version=version if properties or ext else None,
    )


def dynamic(**properties: Any) -> State:
    """The state of a dynamic subject that is stored with these properties."""
    return Subject._state_of(record(properties))


def typed(**properties: Any) -> State:
    """The state of an order that is stored with these properties."""
    return Order._state_of(record(properties))


def stored_by(write: SubjectWrite) -> dict[str, Any]:
    """What a write sets, decoded."""
    return {name: values.decode(text) for name, text in write.set.items()}


# -- what changed ------------------------------------------------------------------------------------------------


def test_a_set_that_changes_the_value_is_a_change() -> None:
    """The change has both values, and what the writer passed along."""
    state = dynamic(level=1)
    assert state.set("level", 2, True, {"by": "ops"}) == (2, 1)
    assert state.changes == [Change("level", 1, 2, "changed", True, {"by": "ops"})]


def test_a_set_to_the_same_value_is_none() -> None:
    """Nothing happened, so there is nothing to tell and nothing to store."""
    state = dynamic(level=1, tags=["a"])
    assert state.set("level", 1) == (1, 1)
    assert state.set("tags", ["a"]) == (["a"], ["a"])
    assert state.changes == []
    assert state.write() is None


@pytest.mark.parametrize(
    ("old", "new"),
    [(1, True), (1, 1.0), (0.0, -0.0), ([1], [True]), ([1], [1.0]), ({"a": 0}, {"a": False}), ("1", 1), (None, False)],
)
def test_values_that_read_differently_are_different(old: Any, new: Any) -> None:
    """Python calls most of these equal; who reads them can tell them apart."""
    state = dynamic(x=old)
    state.set("x", new)
    assert len(state.changes) == 1
    assert stored_by(state.write() or SubjectWrite()) == {"x": new}
    assert repr(state.properties.read("x")) == repr(new)


def test_decimals_of_different_precision_are_different() -> None:
    """1.0 and 1.00 are equal, and not the same price tag."""
    state = typed(price="1.0")
    state.set("price", Decimal("1.00"))
    assert str(state.properties.read("price")) == "1.00"
    assert len(state.changes) == 1
    state.set("price", Decimal("1.00"))
    assert len(state.changes) == 1


def test_a_default_that_was_set_is_stored_but_no_change() -> None:
    """It must still be there when the class has another default one day."""
    state = typed()
    assert state.set("count", 0) == (0, 0)
    assert state.changes == []
    assert stored_by(state.write() or SubjectWrite()) == {"count": 0}


def test_a_change_there_and_back_stores_nothing() -> None:
    """Both changes are told; the store already has what is true now."""
    state = dynamic(level=1)
    state.set("level", 2)
    state.set("level", 1)
    assert [change.new for change in state.changes] == [2, 1]
    assert state.write() is None


def test_deleting_tells_the_old_value_once() -> None:
    """A second delete finds nothing."""
    state = dynamic(level=1)
    assert state.delete("level") == 1
    assert state.delete("level") is ABSENT
    assert state.changes == [Change("level", 1, None, "deleted")]
    assert state.write() == SubjectWrite(delete=["level"], delete_ext=[])


def test_the_values_of_a_change_stay_as_they_were() -> None:
    """Later changes in place do not reach what was told before."""
    state = dynamic(tags=["a"])
    state.set("tags", ["b"])
    state.properties.read("tags").append("c")
    state.collect()
    assert [(change.old, change.new) for change in state.changes] == [(["a"], ["b"]), (["b"], ["b", "c"])]


def test_a_refused_value_leaves_everything_as_it_was() -> None:
    """Neither value nor change nor write."""
    state = typed(count=1)
    with pytest.raises(PropertyError):
        state.set("count", "many")
    assert state.properties.read("count") == 1
    assert state.changes == []
    assert state.write() is None


# -- changes in place --------------------------------------------------------------------------------------------


def test_a_change_in_place_is_found_when_collected() -> None:
    """As if the property had been set; and only once."""
    state = dynamic(tags=["a"])
    tags = state.properties.read("tags")
    tags.append("b")
    state.collect()
    state.collect()
    assert state.changes == [Change("tags", ["a"], ["a", "b"])]
    tags.append("c")  # whoever held the list may go on with it
    state.collect()
    assert state.changes[1:] == [Change("tags", ["a", "b"], ["a", "b", "c"])]


def test_changes_deep_inside_are_found() -> None:
    """In a list in a dict, or in a field of a model."""
    state = typed(by_day={"mon": [1]}, address={"city": "Rome"})
    state.properties.read("by_day")["mon"].append(2)
    state.properties.read("address").lines.append("Via Appia")
    state.collect()
    assert [change.property for change in state.changes] == ["by_day", "address"]
    assert state.changes[1].old == Address(city="Rome")
    assert state.changes[1].new == Address(city="Rome", lines=["Via Appia"])


def test_a_default_that_is_changed_in_place_is_stored() -> None:
    """And the default of other subjects stays as declared."""
    state = typed()
    state.properties.read("tags").append("a")
    state.collect()
    assert state.changes == [Change("tags", [], ["a"])]
    assert stored_by(state.write() or SubjectWrite()) == {"tags": ["a"]}
    assert typed().properties.read("tags") == []


def test_a_default_that_is_only_read_is_not_stored() -> None:
    """Reading changes nothing."""
    state = typed()
    for name in Order._codec.declared:
        state.properties.read(name)
    state.collect()
    assert state.changes == []
    assert state.write() is None


def test_a_bad_change_in_place_is_refused_when_collected() -> None:
    """With the error that setting it would have raised."""
    state = typed()
    state.properties.read("tags").append(1)
    with pytest.raises(PropertyError, match=r"order:1: Order\.tags = \[1\] is refused: \[0\] Input should be a valid"):
        state.collect()


def test_a_set_makes_up_for_a_change_in_place() -> None:
    """The last word counts; what was before is what others were told last."""
    state = dynamic(tags=["a"])
    state.properties.read("tags").append("b")
    assert state.set("tags", ["c"]) == (["c"], ["a"])
    state.properties.read("tags").append("d")
    assert state.set("tags", ["c"]) == (["c"], ["c"])
    state.collect()
    assert state.changes == [Change("tags", ["a"], ["c"])]


def test_the_order_of_a_set_is_no_change() -> None:
    """Another process may iterate it differently."""
    names = [f"label{number}" for number in range(50)]
    state = typed(labels=names)
    labels = state.properties.read("labels")
    assert labels == set(names)
    for name in reversed(names):
        labels.discard(name)
    labels.update(names)
    state.set("labels", list(reversed(names)))
    state.collect()
    assert state.changes == []


def test_text_of_an_older_declaration_is_no_change() -> None:
    """A model that has gained a field with a default reads as before."""
    state = typed(address={"city": "Rome"})
    assert state.properties.read("address") == Address(city="Rome")
    state.collect()
    assert state.changes == []
    assert state.write() is None


# -- savepoints --------------------------------------------------------------------------------------------------


def test_a_rollback_undoes_everything_since() -> None:
    """Sets, deletes, changes in place, extended properties, and the changes to be told."""
    state = Subject._state_of(record({"a": 1, "tags": ["x"]}, seen=[1]))
    mark = state.mark()
    state.set("a", 2)
    state.set("b", 3)
    state.delete("tags")
    state.set_ext("seen", [])
    state.set_ext("more", 1)
    state.rollback(mark)
    assert state.properties.names() == ["a", "tags"]
    assert [state.properties.read(name) for name in ("a", "tags", "b")] == [1, ["x"], ABSENT]
    assert state.ext.read("seen") == [1]
    assert state.ext.read("more") is ABSENT
    assert state.changes == []
    assert state.write() is None


def test_a_rollback_undoes_changes_in_place() -> None:
    """Collected or not."""
    state = dynamic(tags=["a"])
    mark = state.mark()
    state.properties.read("tags").append("b")
    state.collect()
    state.properties.read("tags").append("c")
    state.rollback(mark)
    assert state.properties.read("tags") == ["a"]
    assert state.changes == []


def test_a_change_in_place_before_a_savepoint_is_kept() -> None:
    """It was made outside of what failed."""
    state = dynamic(tags=["a"])
    state.properties.read("tags").append("b")
    mark = state.mark()
    state.properties.read("tags").append("c")
    state.rollback(mark)
    assert state.properties.read("tags") == ["a", "b"]
    assert state.changes == [Change("tags", ["a"], ["a", "b"])]


def test_a_failed_rule_leaves_nothing_to_store() -> None:
    """Not even a default that it had replaced: a subject that nobody wrote to must not come into being."""
    state = typed()
    mark = state.mark()
    state.set("count", 5)
    state.set("tags", ["a"])
    state.rollback(mark)
    assert state.properties.read("count") == 0
    assert state.properties.written() == []
    assert state.write() is None


def test_a_flush_can_be_undone() -> None:
    """The subject is there as before."""
    state = dynamic(a=1)
    mark = state.mark()
    state.flush()
    assert state.flushed
    state.rollback(mark)
    assert not state.flushed
    assert state.properties.read("a") == 1
    assert state.write() is None


# -- flush -------------------------------------------------------------------------------------------------------


def test_a_flush_tells_of_each_property_and_then_of_the_subject() -> None:
    """Extended properties go silently."""
    state = Subject._state_of(record({"a": 1, "b": [2]}, seen=True))
    state.flush()
    assert [(change.kind, change.property, change.old) for change in state.changes] == [
        ("deleted", "a", 1),
        ("deleted", "b", [2]),
        ("flushed", "", None),
    ]
    assert state.write() == SubjectWrite(remove=True)


def test_a_subject_that_was_never_stored_needs_no_removal() -> None:
    """There is nothing to remove."""
    state = dynamic()
    state.set("a", 1)
    state.flush()
    assert state.write() is None


def test_what_is_written_after_a_flush_is_stored() -> None:
    """The old properties are gone, the new ones are there."""
    state = dynamic(a=1, b=2)
    state.flush()
    state.set("b", 3)
    assert state.write() == SubjectWrite(set={"b": b"3"}, delete=["a"], delete_ext=[])


def test_a_change_in_place_does_not_outlive_a_flush() -> None:
    """Not that of a default either."""
    state = typed(by_day={"mon": []})
    state.properties.read("by_day")["tue"] = []
    state.properties.read("tags").append("a")
    state.flush()
    state.collect()
    assert [(change.kind, change.old) for change in state.changes] == [("deleted", {"mon": []}), ("flushed", None)]
    assert state.write() == SubjectWrite(remove=True)


def test_a_flush_removes_what_can_no_longer_be_read() -> None:
    """A property that is not declared any more, or has another type now."""
    state = typed(gone=[1], count="many", note="x")
    state.flush()
    assert [change.property for change in state.changes] == ["note", ""]
    assert state.write() == SubjectWrite(remove=True)


# -- commits -----------------------------------------------------------------------------------------------------


def test_a_state_goes_on_after_a_commit() -> None:
    """Hot subjects serve turn after turn; a list handed out before is watched no longer."""
    state = dynamic(tags=["a"])
    old = state.properties.read("tags")
    old.append("b")
    state.collect()
    state.committed(state.write(), 2)
    old.append("c")
    state.collect()
    assert state.changes == []
    assert state.properties.read("tags") == ["a", "b"]
    assert state.write() is None
    state.set("tags", [])
    assert state.changes == [Change("tags", ["a", "b"], [])]


def test_a_snapshot_refuses_every_write() -> None:
    """With an error that says how to change the subject."""
    state = Order._state_of(record({"count": 1}), Snapshot)
    writes: list[Callable[[], Any]] = [
        lambda: state.set("count", 2),
        lambda: state.delete("count"),
        lambda: state.set_ext("a", 1),
        lambda: state.delete_ext("a"),
        state.flush,
    ]
    for write in writes:
        with pytest.raises(SubjectStateError, match="order:1 is a read-only snapshot; change it by sending it a mess"):
            write()
    assert state.properties.read("count") == 1


def test_operations_are_noted_as_they_succeed() -> None:
    """Functions as such, to be applied again; values as they were set, whatever becomes of them later."""
    state = dynamic()
    state.operations = []

    def double(n: int) -> int:
        return n * 2

    tags = ["a"]
    state.set("tags", tags)
    tags.append("b")
    state.set("n", 1)
    state.set("n", double)
    with pytest.raises(PropertyError):
        state.set("n", object())
    state.properties.read("tags").append("c")
    state.collect()
    assert state.operations == [
        ("set", "tags", ["a"], False, None),
        ("set", "n", 1, False, None),
        ("set", "n", double, False, None),
        ("replace", "tags", (["a", "c"], ["a"]), False, None),
    ]
