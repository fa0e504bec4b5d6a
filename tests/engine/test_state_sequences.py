"""Any sequence of operations on a subject equals the same on plain dicts."""

import copy
import string
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from onwhen.engine.state import State
from onwhen.engine.store import SubjectRecord, SubjectWrite
from onwhen.engine.subjects import Subject
from onwhen.errors import PropertyError
from tests.engine.samples import Address, Order

texts = st.text(string.ascii_letters + "é\u2028", max_size=3)
floats = st.floats(allow_nan=False, allow_infinity=False)
atoms = st.none() | st.booleans() | st.integers() | floats | texts
json_values = st.recursive(atoms, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
names = st.sampled_from(["a", "b", "c", "d"])
of_order: dict[str, st.SearchStrategy[Any]] = {
    "count": st.integers(),
    "rate": floats,
    "price": st.decimals(allow_nan=False, allow_infinity=False, places=2),
    "note": st.none() | texts,
    "tags": st.lists(texts, max_size=3),
    "labels": st.sets(texts, max_size=3),
    "by_day": st.dictionaries(texts, st.lists(st.integers(), max_size=2), max_size=2),
    "address": st.none() | st.builds(Address, city=texts, lines=st.lists(texts, max_size=2)),
    "required": st.integers(),
}
settings_of_orders = st.sampled_from(sorted(of_order)).flatmap(lambda name: st.tuples(st.just(name), of_order[name]))


class Store:
    """The naive store: it does what a write says."""

    def __init__(self) -> None:
        self.properties: dict[str, bytes] = {}
        self.ext: dict[str, bytes] = {}
        self.version: int | None = None

    def apply(self, write: SubjectWrite | None, number: int) -> None:
        if write is None:
            return
        if write.remove:
            self.__init__()  # type: ignore[misc]
            return
        self.properties.update(write.set)
        self.ext.update(write.set_ext)
        for name in write.delete:
            del self.properties[name]
        for name in write.delete_ext:
            del self.ext[name]
        self.version = number

    def load(self, cls: type[Subject]) -> State:
        return cls._state_of(
            SubjectRecord(name="order:1", properties=self.properties, ext=self.ext, version=self.version)
        )


class AnySequenceOfOperations(RuleBasedStateMachine):
    """For every sequence of operations, savepoints, failures and commits, a state reads like plain dicts.

    The model keeps two dicts and deep copies of them at each savepoint. At every commit: what was written,
    applied to the stored texts and loaded again, reads like the live state; and the changes that were told, applied
    one by one to what was stored before, give it too.
    """

    cls: type[Subject] = Subject
    defaults: dict[str, Any] = {}

    @initialize()
    def begin(self) -> None:
        self.store = Store()
        self.state = self.store.load(self.cls)
        self.subject = self.cls._of(self.state)
        self.properties: dict[str, Any] = {}
        self.ext: dict[str, Any] = {}
        self.before: dict[str, Any] = {}
        self.saved: list[tuple[Any, dict[str, Any], dict[str, Any]]] = []
        self.commits = 0

    def visible(self) -> dict[str, Any]:
        return {**self.defaults, **self.properties}

    # -- operations

    @rule(item=st.tuples(names, json_values))
    def set(self, item: tuple[str, Any]) -> None:
        name, value = item
        self.subject.set(name, value)
        self.properties[name] = copy.deepcopy(value)

    @rule(data=st.data())
    def set_with_a_function(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.visible() or {"a": None})))
        self.subject.set(name, lambda value: value)
        self.properties[name] = copy.deepcopy(self.visible().get(name))

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(of_order)) if self.defaults else names)
        old, model = self.subject.delete(name), self.properties.pop(name, None)
        assert self.defaults or self.alike(old, model)

    @rule(data=st.data(), item=texts)
    def change_in_place(self, data: st.DataObject, item: str) -> None:
        mutable = [name for name, value in self.visible().items() if isinstance(value, (list, dict, set, Address))]
        if not mutable:
            return
        name = data.draw(st.sampled_from(sorted(mutable)))
        model = self.properties.setdefault(name, copy.deepcopy(self.defaults.get(name)))
        for value in (self.subject.get(name), model):
            if isinstance(value, list):
                value.append(item)
            elif isinstance(value, dict):
                value[item] = []
            elif isinstance(value, set):
                value.symmetric_difference_update({item})
            else:
                value.lines.append(item)

    @rule(name=names, value=json_values)
    def set_ext(self, name: str, value: Any) -> None:
        self.subject.ext[name] = value
        self.ext[name] = copy.deepcopy(value)

    @rule(name=names)
    def change_ext_in_place(self, name: str) -> None:
        if isinstance(self.ext.get(name), list):
            self.subject.ext[name].append(1)
            self.ext[name].append(1)

    @rule(name=names)
    def delete_ext(self, name: str) -> None:
        assert repr(self.subject.delete_ext(name)) == repr(self.ext.pop(name, None))

    @rule()
    def flush(self) -> None:
        self.subject.flush()
        self.properties, self.ext = {}, {}

    @rule(value=st.sampled_from([object(), float("nan"), b"\xff", {1: 2}]))
    def be_refused(self, value: Any) -> None:
        with pytest.raises(PropertyError):
            self.subject.set("count", value)

    # -- savepoints and commits

    @rule()
    def save(self) -> None:
        self.saved.append((self.state.mark(), copy.deepcopy(self.properties), copy.deepcopy(self.ext)))

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.saved) - 1))
        mark, self.properties, self.ext = self.saved[index]
        del self.saved[index:]
        self.state.rollback(mark)

    @precondition(lambda self: self.saved)
    @rule()
    def succeed(self) -> None:
        self.saved.pop()

    @rule(is_hot=st.booleans())
    def commit(self, is_hot: bool) -> None:
        self.state.collect()
        told = dict(self.before)
        for change in self.state.changes:
            if change.kind == "changed":
                old = told.get(change.property, self.defaults.get(change.property))
                assert self.alike(change.old, old)
                told[change.property] = change.new
            elif change.kind == "deleted":
                told.pop(change.property, None)
            else:
                assert not told
        assert self.alike({**self.defaults, **told}, self.visible())
        write = self.state.write()
        self.commits += 1
        self.store.apply(write, self.commits)
        for name in self.properties.keys() ^ self.store.properties.keys():  # changed in place there and back
            assert self.alike(self.properties.pop(name), self.defaults[name])
        self.state.committed(write, self.store.version)
        fresh = self.store.load(self.cls)
        assert self.alike(self.cls._of(fresh).dict(), self.cls._of(self.state).dict())
        if not is_hot:
            self.state, self.subject = fresh, self.cls._of(fresh)
        self.before = copy.deepcopy(self.properties)
        self.saved.clear()

    @invariant()
    def reads_like_the_model(self) -> None:
        assert self.alike(self.subject.dict(), self.visible())
        assert self.alike(dict(self.subject.ext), self.ext)
        assert set(self.subject) == self.visible().keys()
        assert self.alike({name: self.subject.get(name) for name in self.visible()}, self.visible())

    @classmethod
    def alike(cls, one: Any, other: Any) -> bool:
        if isinstance(one, dict) and isinstance(other, dict):
            return one.keys() == other.keys() and all(cls.alike(one[name], other[name]) for name in one)
        return bool(one == other) if isinstance(one, set) else repr(one) == repr(other)


class AnySequenceOfOperationsOnATypedSubject(AnySequenceOfOperations):
    """The same for declared properties, where what was never set or was deleted has its default."""

    cls = Order
    defaults = {
        "count": 0, "rate": 1.0, "price": Decimal("0.00"), "note": None, "tags": [], "labels": set(),
        "by_day": {}, "address": None,
    }  # fmt: skip

    @rule(item=settings_of_orders)
    def set(self, item: tuple[str, Any]) -> None:
        name, value = item
        self.subject.set(name, value)
        self.properties[name] = copy.deepcopy(value)


bounded = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnySequence = AnySequenceOfOperations.TestCase
TestAnySequence.settings = bounded
TestAnySequenceTyped = AnySequenceOfOperationsOnATypedSubject.TestCase
TestAnySequenceTyped.settings = bounded
