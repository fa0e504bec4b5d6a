"""Texts from outside, made fit to stand in a log or on a terminal: on one line, printable, not too long.

Belongs here: escaping and cutting. It must not know where a text comes from, nor where it goes.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_ERROR", "MAX_NAME", "safe"]

MAX_NAME: Final = 256
"""Characters kept of a type, a subject, a rule or another name."""

MAX_ERROR: Final = 2000
"""Characters kept of an error's text."""


def safe(text: str, limit: int = MAX_NAME) -> str:
    """Return a text with everything escaped that is not printable, and cut.

    What Unicode calls not printable includes line and paragraph separators (U+2028, U+2029), the controls of writing
    direction (U+202A to U+202E, U+2066 to U+2069), and halves of surrogate pairs.

    Args:
        text: what is to be shown.
        limit: how many characters of it are kept, a count; escapes may make them more.
    """
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)
