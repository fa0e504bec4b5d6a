"""Redaction: which values of a payload are replaced, and that what is left is small and plain."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwhen import SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED, Event
from onwhen.middleware._redaction import REDACTED, Redaction

ORDER = {
    "user": {"name": "ann", "password": "hush"},
    "card": {"number": 4242, "token": None},
    "lines": [{"sku": 1, "card": {"number": 1881}}, {"sku": 2}],
    "token": ["a", {"b": 1}],
}


@pytest.mark.parametrize(
    ("pattern", "hidden"),
    [
        ("password", ["user.password"]),
        ("PASSWORD", ["user.password"]),
        ("card.number", ["card.number", "lines.card.number"]),
        ("number", ["card.number", "lines.card.number"]),
        ("lines.card.number", ["lines.card.number"]),
        ("*.token", ["card.token", "token"]),
        ("t*n", ["card.token", "token"]),
        ("card.*", ["card.number", "card.token", "lines.card.number"]),
        ("card", ["card", "lines.card"]),
        ("l*.number", ["lines.card.number"]),
        ("[pq]assword", ["user.password"]),
        ("?oken", ["card.token", "token"]),
        ("word", []),
        ("user.card.number", []),
    ],
)
def test_what_a_pattern_finds(pattern: str, hidden: list[str]) -> None:
    """The end of a path, whole names only; a value that is found is replaced whatever it is."""
    found: list[str] = []

    def look(value: Any, path: str = "") -> None:
        if value == "***":
            found.append(path)
        elif isinstance(value, dict):
            for name, item in value.items():
                look(item, f"{path}.{name}".strip("."))
        elif isinstance(value, list):
            for item in value:
                look(item, path)

    look(Redaction([pattern])(ORDER))
    assert sorted(found) == hidden


def test_nothing_else_is_changed() -> None:
    """What is not secret, and not large, is shown as it is; the data itself stays."""
    before = json.dumps(ORDER)
    assert Redaction(["nothing"])(ORDER) == ORDER
    Redaction(["card"])(ORDER)
    assert json.dumps(ORDER) == before


def test_a_name_may_have_dots_in_it() -> None:
    """Flat names that look like paths are found as if they were."""
    shown = Redaction(["card.number"])({"card.number": 4242, "my.card": {"number": 1881}})
    assert shown == {"card.number": "***", "my.card": {"number": "***"}}


@pytest.mark.parametrize(
    ("pattern", "old", "new"),
    [
        ("login", REDACTED, REDACTED),
        ("pin", {"pin": REDACTED}, "hush"),
        ("login.pin", {"pin": REDACTED}, "hush"),
        ("value", {"pin": 1}, REDACTED),
        ("old_value", REDACTED, "hush"),
        ("other", {"pin": 1}, "hush"),
    ],
)
@pytest.mark.parametrize("event_type", [SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED])
def test_the_values_of_a_property_event_have_the_name_of_the_property(
    pattern: str, old: Any, new: Any, event_type: str
) -> None:
    """What hides a property in a payload hides it where it is told that it has changed, inner names included."""
    data = {"property_name": "login", "old_value": {"pin": 1}, "value": "hush"}
    shown = Redaction([pattern]).of_event(Event(event_type, "user:1", data))
    assert shown == {"property_name": "login", "old_value": old, "value": new}


@pytest.mark.parametrize("data", [None, "password", {"property_name": 7, "value": 1}, {"value": 1}, b"password"])
def test_a_property_event_may_hold_anything(data: Any) -> None:
    """Whoever sends one from outside says what is in it."""
    redaction = Redaction(["password"])
    assert redaction.of_event(Event(SUBJECT_PROPERTY_CHANGED, "user:1", data)) == redaction(data)


def test_a_long_path_is_compared_by_its_end() -> None:
    """However long the names before it are."""
    data = {"x" * 5000: {"y" * 5000: {"password": "hush"}}}
    assert "hush" not in json.dumps(Redaction(["password"])(data))


def test_bytes_are_shown_by_their_number() -> None:
    """Nobody can read them, and they may be many."""
    assert Redaction()(b"abc") == "(3 bytes)"


@pytest.mark.parametrize(
    "data",
    [
        "x" * 1_000_000,
        ["x" * 900] * 1000,
        [0] * 1_000_000,
        [[]] * 1_000_000,
        [[[], {}]] * 100_000,
        {str(i): {} for i in range(100_000)},
        {f"name{i}": i for i in range(100_000)},
        {"n" * 500_000: 1},
        [[[[["x" * 5000] * 9] * 9] * 9] * 9],
        10**4000,
    ],
)
def test_what_is_large_is_cut(data: Any) -> None:
    """There is a bound for all of it together, about ten thousand characters."""
    assert len(json.dumps(Redaction()(data))) < 15_000


def test_what_was_cut_is_counted() -> None:
    """A reader sees that there is more, and how much."""
    *shown, last = Redaction()(list(range(10_000)))
    assert last == f"… {10_000 - len(shown)} more"
    shown = Redaction()({f"a{i}": None for i in range(10_000)})
    assert shown.popitem() == ("…", f"{10_000 - len(shown)} more")


SECRET = "hush-hush"
names = st.text("abcpwt.*[]", max_size=4)
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=30,
)


@given(
    trees,
    st.lists(st.tuples(st.integers(0, 20), names), max_size=6),
    st.sampled_from(["secret", "*.secret", "s?cret", "SECRET"]),
)
def test_a_secret_never_gets_through(tree: Any, way: list[tuple[int, str]], pattern: str) -> None:
    """Wherever it is put, however deep and under whichever names, the name that was given hides it."""
    data: Any = {"secret": {"inner": [SECRET]}}
    for kind, name in way:
        data = [data, tree] if kind % 2 else {name: data, "beside": tree}
    shown = Redaction([pattern])(data)
    assert SECRET not in json.dumps(shown)


@given(trees)
def test_what_is_shown_is_json_and_the_same_each_time(tree: Any) -> None:
    """For whatever is in it."""
    shown = Redaction(["a*", "b.c"])(tree)
    assert json.dumps(shown) == json.dumps(Redaction(["a*", "b.c"])(tree))
