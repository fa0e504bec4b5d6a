"""JSON values: what is accepted, how it is frozen and thawed, written and read."""

import copy
import enum
import json
import pickle
from collections import OrderedDict, namedtuple
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwhen.engine import values
from onwhen.engine.values import MAX_DEPTH, FrozenDict, FrozenList, check, freeze, loads_strict, thaw

atoms = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
json_values = st.recursive(atoms, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


def nested(depth: int) -> list[Any]:
    """A list in a list in a list, `depth` of them."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


# -- freezing --------------------------------------------------------------------------------------------------


@given(json_values)
def test_a_frozen_value_equals_the_value(value: Any) -> None:
    """For every JSON value v: freeze(v) == v, and thawing it gives v again."""
    frozen = freeze(value, "data")
    assert frozen == value
    assert thaw(frozen) == value


@given(json_values)
def test_json_brings_every_value_back(value: Any) -> None:
    """For every JSON value v: reading what was written gives v again, types included."""
    written = values.encode(freeze(value, "data"))
    assert repr(values.decode(written)) == repr(value)
    assert repr(loads_strict(written, "data")) == repr(value)


def test_later_changes_by_the_caller_do_not_reach_it() -> None:
    """The frozen value is a copy, all the way down."""
    value = {"items": [{"price": 3}]}
    frozen = freeze(value, "data")
    value["items"][0]["price"] = 4
    value["items"].append({})
    assert frozen == {"items": [{"price": 3}]}


def test_a_frozen_value_is_not_copied_again() -> None:
    """Freezing is idempotent, and parts of a frozen value can be passed on as they are."""
    frozen = freeze({"items": [1]}, "data")
    assert freeze(frozen, "data") is frozen
    assert freeze({"copy": frozen["items"]}, "data")["copy"] is frozen["items"]


def test_a_tuple_is_a_list() -> None:
    """JSON has one kind of sequence."""
    assert freeze((1, (2,)), "data") == [1, [2]]


def test_subclasses_of_dict_and_list_are_what_they_extend() -> None:
    """Their items are copied, so nothing is lost."""
    frozen = freeze(OrderedDict(a=OrderedDict(b=1)), "data")
    assert frozen == {"a": {"b": 1}}
    assert type(frozen["a"]) is FrozenDict


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.__setitem__("a", 2),
        lambda d: d.__delitem__("a"),
        lambda d: d.__ior__({"a": 2}),
        lambda d: d.clear(),
        lambda d: d.pop("a"),
        lambda d: d.popitem(),
        lambda d: d.setdefault("b", 2),
        lambda d: d.update(a=2),
    ],
)
def test_a_frozen_dict_refuses_every_change(change: Any) -> None:
    """Whatever would change it raises, and says how to get a copy."""
    frozen = freeze({"a": 1}, "data")
    with pytest.raises(TypeError, match=r"this is an event's data, immutable; copy it first: dict\(\.\.\.\)"):
        change(frozen)
    assert frozen == {"a": 1}


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.__setitem__(0, 2),
        lambda v: v.__setitem__(slice(None), []),
        lambda v: v.__delitem__(0),
        lambda v: v.__iadd__([2]),
        lambda v: v.__imul__(2),
        lambda v: v.append(2),
        lambda v: v.clear(),
        lambda v: v.extend([2]),
        lambda v: v.insert(0, 2),
        lambda v: v.pop(),
        lambda v: v.remove(1),
        lambda v: v.reverse(),
        lambda v: v.sort(),
    ],
)
def test_a_frozen_list_refuses_every_change(change: Any) -> None:
    """Whatever would change it raises, and says how to get a copy."""
    frozen = freeze([1], "data")
    with pytest.raises(TypeError, match=r"this is an event's data, immutable; copy it first: list\(\.\.\.\)"):
        change(frozen)
    assert frozen == [1]


@pytest.mark.parametrize("name", ["dict", "list"])
def test_no_mutator_was_forgotten(name: str) -> None:
    """Each method of dict and list either leaves the value alone or is overridden."""
    plain, frozen = {"dict": (dict, FrozenDict), "list": (list, FrozenList)}[name]
    harmless = {"copy", "count", "fromkeys", "get", "index", "items", "keys", "values"}
    methods = {method for method in vars(plain) if not method.startswith("_")} - harmless
    assert methods <= vars(frozen).keys()


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda v: v.copy(), thaw, lambda v: pickle.loads(pickle.dumps(v))],
    ids=["copy.copy", "copy.deepcopy", ".copy()", "thaw", "pickle"],
)
def test_copies_are_plain_and_can_be_changed(copied: Any) -> None:
    """A copy is the caller's own: a plain dict or list."""
    d = copied(freeze({"a": 1}, "data"))
    d["b"] = 2
    v = copied(freeze([1], "data"))
    v.append(2)
    assert (type(d), d, type(v), v) == (dict, {"a": 1, "b": 2}, list, [1, 2])


@pytest.mark.parametrize("copied", [copy.deepcopy, thaw, lambda v: pickle.loads(pickle.dumps(v))])
def test_deep_copies_are_plain_all_the_way_down(copied: Any) -> None:
    """Nothing frozen is left in a deep copy."""
    value = copied(freeze({"a": [{"b": [1]}]}, "data"))
    value["a"][0]["b"].append(2)
    assert value == {"a": [{"b": [1, 2]}]}


def test_bytes_are_thawed_as_they_are() -> None:
    """So that the data of any event can be thawed."""
    assert thaw(b"x") == b"x"


def test_other_libraries_take_frozen_values_for_dicts_and_lists() -> None:
    """json, msgspec and pydantic read them as what they are."""

    class Item(pydantic.BaseModel, strict=True):
        prices: list[int]
        labels: dict[str, str]

    class Struct(msgspec.Struct):
        prices: list[int]

    value = {"prices": [1, 2], "labels": {"a": "b"}}
    frozen = freeze(value, "data")
    assert json.loads(json.dumps(frozen)) == value
    assert msgspec.json.decode(msgspec.json.encode(frozen)) == value
    assert msgspec.convert(frozen, Struct).prices == [1, 2]
    assert Item.model_validate(frozen).model_dump() == value
    assert isinstance(frozen, dict)
    assert isinstance(frozen["prices"], list)


# -- what JSON cannot hold -------------------------------------------------------------------------------------


class Level(enum.IntEnum):
    HIGH = 3


class Colour(enum.StrEnum):
    RED = "red"


class Model(pydantic.BaseModel):
    pass


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Decimal("1.5"), r"Decimal is not a JSON value; pass str\(\.\.\.\) to keep it exact"),
        (datetime.now(UTC), r"datetime is not a JSON value; pass its \.isoformat\(\)"),
        (b"x", "bytes is not a JSON value; pass text"),
        ({1, 2}, r"set is not a JSON value; pass sorted\(\.\.\.\)"),
        (Level.HIGH, r"Level is not a JSON value; pass its \.value"),
        (Colour.RED, r"Colour is not a JSON value; pass its \.value"),
        (type("Metres", (float,), {})(1.5), "Metres is not a JSON value; pass a plain float"),
        (Model(), "Model is not a JSON value; pass its .model_dump"),
        (Point(1, 2), "Point is not a JSON value; pass None, bool, int"),
        (object(), "object is not a JSON value; pass None, bool, int"),
    ],
)
def test_what_is_not_json_is_refused_with_advice(value: Any, message: str) -> None:
    """The error is a TypeError that names the type and what to pass instead."""
    with pytest.raises(TypeError, match=f"^data: {message}"):
        freeze(value, "data")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "JSON has no nan"),
        (float("inf"), "JSON has no inf"),
        (-float("inf"), "JSON has no -inf"),
        ("\ud83d", "half a surrogate pair"),
        (10**4299, "an integer of more than 4,299 digits"),
    ],
)
def test_values_that_json_lacks_are_refused(value: Any, message: str) -> None:
    """The error is a ValueError, whether the value stands alone or in something."""
    for whole in (value, {"a": value}, [value], {"a": [value]}):
        with pytest.raises(ValueError, match=f"^data.*: {message}"):
            freeze(whole, "data")


def test_the_error_names_the_path() -> None:
    """Keys that are no identifiers are quoted."""
    with pytest.raises(TypeError, match=r"^data\.items\[3\]\.price: Decimal"):
        freeze({"items": [0, 1, 2, {"price": Decimal(1)}]}, "data")
    with pytest.raises(TypeError, match=r"^data\['unit price'\]: Decimal"):
        freeze({"unit price": Decimal(1)}, "data")


@pytest.mark.parametrize("key", [1, None, True, Colour.RED, ("a",)])
def test_a_key_that_is_not_a_str_is_refused(key: Any) -> None:
    """Keys would come back as strings, so they have to be strings before."""
    with pytest.raises(
        TypeError, match=r"^data\[.*\]: this key is .*, but JSON keys are str; pass (str\(key\)|its \.value)"
    ):
        freeze({key: 1}, "data")


def test_a_key_with_half_a_surrogate_pair_is_refused() -> None:
    """What cannot be written as UTF-8 is refused in keys too."""
    with pytest.raises(ValueError, match=r"^data\['\\ud83d'\]: half a surrogate pair"):
        freeze({"\ud83d": 1}, "data")


def test_nesting_is_bounded() -> None:
    """As deep as MAX_DEPTH is let through, one more is not, however the value came to be."""
    deepest = freeze(nested(MAX_DEPTH), "data")
    assert deepest == nested(MAX_DEPTH)
    for value in (nested(MAX_DEPTH + 1), nested(1000), [deepest], {"a": deepest}):
        with pytest.raises(ValueError, match=r"^data.*\.\.\.: nested more than 128 deep"):
            freeze(value, "data")


def test_a_value_inside_itself_is_refused() -> None:
    """A cycle ends at the depth limit."""
    value: list[Any] = []
    value += [value, value]
    with pytest.raises(ValueError, match="nested more than 128 deep, or inside itself"):
        freeze(value, "data")


@given(json_values)
def test_check_lets_the_same_values_through(value: Any) -> None:
    """For every JSON value: check does not raise."""
    check(value, "data")


def test_check_refuses_what_freeze_refuses() -> None:
    """The errors are the same, only nothing is copied."""
    with pytest.raises(TypeError, match=r"^price: Decimal is not a JSON value"):
        check(Decimal(1), "price")


# -- JSON text -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 10**400, 10**4299 - 1, -(10**4299) + 1])
def test_integers_of_any_size_stay_exact(number: int) -> None:
    """They are never read as floats."""
    assert values.decode(values.encode({"n": [number]})) == {"n": [number]}
    assert loads_strict(values.encode([number]), "data") == [number]


def test_json_is_written_compact() -> None:
    """No white space, no escapes that UTF-8 does not need."""
    assert values.encode({"a": [1, "é"]}) == '{"a":[1,"é"]}'.encode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": 2, "a": 3}', '^event: duplicate key "a"; keep one'),
        ('[{"a": {"b": 1, "b": 1}}]', '^event: duplicate key "b"'),
        ("[NaN]", "^event: JSON has no NaN"),
        ("[-Infinity]", "^event: JSON has no -Infinity"),
        ("[1e400]", "^event: 1e400 is too large for a float"),
        ("[1" + "0" * 5000 + "]", "^event: an integer of more than 4,299 digits"),
        ("[1" + "0" * 4299 + "]", r"^event\[0\]: an integer of more than 4,299 digits"),
        (r'{"a": "\ud83d"}', r"^event\.a: half a surrogate pair"),
        ("[" * 1000 + "]" * 1000, "^event.*: nested more than 128 deep"),
        ("[" * 100_000, "^event: nested more than 128 deep"),
        ('{"a":\n  tru}', "^event: not JSON: Expecting value at line 2, column 3"),
        ("{} {}", "^event: not JSON: Extra data at line 1, column 4"),
        ('"a\tb"', "^event: not JSON: Invalid control character"),
        ("", "^event: not JSON: Expecting value at line 1, column 1"),
        (b'{"a": "\xff"}', "^event: not UTF-8 at byte 7: invalid start byte"),
        ('{"a": 1}'.encode("utf-16"), "^event: not UTF-8 at byte 0"),
    ],
    ids=lambda text: repr(text)[:30],
)
def test_foreign_json_is_read_strictly(text: str | bytes, message: str) -> None:
    """What two readers could understand differently is refused, with the place where it is known."""
    with pytest.raises(ValueError, match=message):
        loads_strict(text, "event")


def test_a_duplicate_key_among_many_is_found_fast() -> None:
    """Looking for its name takes linear time."""
    text = "{" + ",".join(f'"{n}":0' for n in [*range(200_000), 199_999]) + "}"
    with pytest.raises(ValueError, match='duplicate key "199999"'):
        loads_strict(text, "event")


@pytest.mark.parametrize("text", ['\ufeff{"a": 1}', b'\xef\xbb\xbf{"a": 1}', ' \r\n{"a": 1}\n'])
def test_a_byte_order_mark_and_white_space_are_skipped(text: str | bytes) -> None:
    """RFC 8259 allows a reader to do so, and some editors write one."""
    assert loads_strict(text, "event") == {"a": 1}
