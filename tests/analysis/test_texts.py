"""Texts that are known in part, and which globs they may fit."""

from __future__ import annotations

import fnmatch

from hypothesis import given
from hypothesis import strategies as st

from onwhen.analysis._texts import HOLE, Text, meets, meets_prefix

LETTERS = "ab."
words = st.text(LETTERS, max_size=3)
globs = st.text(LETTERS + "*?", max_size=5)
parts = st.lists(st.one_of(words, st.just(HOLE)), max_size=4)


def filled(text: Text, fillings: list[str]) -> str:
    given = iter(fillings)
    return "".join(next(given) if part is HOLE else part for part in text.parts)


@given(parts, globs, st.lists(words, min_size=4, max_size=4))
def test_what_is_said_of_a_text_holds_for_whatever_is_in_its_holes(
    parts: list[str | None], glob: str, fillings: list[str]
) -> None:
    """Always: it fits with any filling. Never: with none."""
    text = Text.of(*parts)
    fits = fnmatch.fnmatchcase(filled(text, fillings), glob)
    said = meets(text, glob)
    assert not (said == "always" and not fits)
    assert not (said == "never" and fits)


@given(parts, words, st.lists(words, min_size=4, max_size=4))
def test_prefixes_are_told_alike(parts: list[str | None], prefix: str, fillings: list[str]) -> None:
    """With the same three answers."""
    text = Text.of(*parts)
    begins = filled(text, fillings).startswith(prefix)
    said = meets_prefix(text, prefix)
    assert not (said == "always" and not begins)
    assert not (said == "never" and begins)


def test_a_maybe_is_said_only_if_there_is_such_a_text() -> None:
    """Not of what can be excluded."""
    assert meets(Text.of("order.", HOLE), "order.*") == "always"
    assert meets(Text.of("order.", HOLE), "order.paid") == "maybe"
    assert meets(Text.of("order.", HOLE), "*.paid") == "maybe"
    assert meets(Text.of("order.", HOLE), "ticket.*") == "never"
    assert meets(Text.of("order.", HOLE, ".x"), "order.[!x]") == "never"
    assert meets(Text.of(HOLE), "[ab]?") == "maybe"


def test_parts_are_put_together() -> None:
    """So that equal texts are equal."""
    assert Text.of("a", "b", HOLE, HOLE, "", "c") == Text(("ab", HOLE, "c"))
    assert [str(Text.of(*one)) for one in (("a",), ("a", HOLE), (HOLE,), ())] == ["a", "a*", "?", ""]
