"""The forms in which moments, durations and JSON are shown."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwhen.cli._forms import clean, cut, json_line, json_of, rfc3339, seconds_text, shortly


@given(st.text())
def test_clean_text_is_printable(text: str) -> None:
    """Whatever it was; and what was printable is as it was."""
    assert clean(text).isprintable()
    if text.isprintable():
        assert clean(text) == text


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner)))
def test_json_is_printable_and_says_the_same(value: object) -> None:
    """On one line, for a reader that knows JSON; not only what JSON itself wants escaped."""
    try:
        line = json_line(value)
    except UnicodeEncodeError:  # half a surrogate pair: never in a store
        return
    assert line.isprintable()
    assert json.loads(line) == value


def test_signs_beyond_the_first_plane_are_escaped_as_pairs() -> None:
    """A language tag is not printable, and JSON knows 16 bits only; letters of every script stay."""
    assert json_line("\U000e0001\u202e\x9bé\u05d0") == '"\\udb40\\udc01\\u202e\\u009bé\u05d0"'


def test_stored_values_are_shown_as_they_are() -> None:
    """No float is written another way, no integer rounded."""
    assert json_line(json_of({"a": b"1.50e3", "b": b"123456789012345678901234567890"})) == (
        '{"a":1.50e3,"b":123456789012345678901234567890}'
    )


@pytest.mark.parametrize(
    ("moment", "long", "short"),
    [
        (
            datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=2))),
            "2024-01-02T01:04:05.000006Z",
            "2024-01-02T01:04:05Z",
        ),
        (datetime.min.replace(tzinfo=UTC), "0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        (datetime.max.replace(tzinfo=UTC), "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59Z"),
    ],
)
def test_moments(moment: datetime, long: str, short: str) -> None:
    """RFC 3339 in UTC; for people to the second."""
    assert (rfc3339(moment), shortly(moment)) == (long, short)
    assert datetime.fromisoformat(long) == moment


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3_601, "1 h"),
        (7_500, "2 h 5 min"),
        (86_400 * 400 + 3_600, "400 d 1 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """In the two largest units; one that is zero is left out."""
    assert seconds_text(seconds) == text


def test_text_is_cut() -> None:
    """To a number of characters, the sign that says so included."""
    assert (cut("abc", 3), cut("abcd", 3)) == ("abc", "ab…")
